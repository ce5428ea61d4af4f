"""How a pre-trained model wants its colours: the mean and standard deviation of its own processor."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils import cached_file

PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")


def read_pixel_statistics(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the three colours in [0, 1] that the processor beside a model takes.

    Args:
        source: folder or Hub id of the model.

    Returns:
        ImageNet's where there is no processor.
    """
    for name in PROCESSOR_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        values = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        if "image_mean" in values and "image_std" in values:
            return values["image_mean"], values["image_std"]
    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
