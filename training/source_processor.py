"""What the processor beside a pre-trained model says: how it wants its colours, and whether faces are cropped."""

import json
from pathlib import Path
from typing import Any

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils import cached_file

PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
IMAGENET = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}


def read_source_processor(source: str) -> dict[str, Any]:
    """The fields of the processor beside a model.

    Args:
        source: folder or Hub id of the model.

    Returns:
        With `image_mean` and `image_std`, of three colours in [0, 1]: ImageNet's where there is no processor.
    """
    for name in PROCESSOR_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        values = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        if "image_mean" in values and "image_std" in values:
            return values
    return dict(IMAGENET)
