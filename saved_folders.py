"""What a saved model brings along beside its weights and config: the processor that makes its input."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedConfig

PROCESSOR_FILE = "video_preprocessor_config.json"


class SavesWithProcessor:
    """A model whose `save_pretrained` writes a processor where the folder holds none: pipelines load both."""

    config: Any

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **options: Any) -> None:
        """As transformers does it, with a processor: the one that the model was loaded with, else one of its sizes."""
        folder = Path(save_directory)
        if is_main_process and not folder.is_file() and not (folder / PROCESSOR_FILE).exists():
            processor_for(self.config).save_pretrained(folder)
        super().save_pretrained(save_directory, is_main_process, **options)  # type: ignore[misc]  # of the model


def processor_for(config: PreTrainedConfig) -> Any:
    """The processor beside which a model's config lay when it was loaded; without one, the whole frame in its size.

    Args:
        config: with `num_frames` and `image_size`, of a model of this repository.
    """
    from .processing_mtcae import MTCAEVideoProcessor

    file = _processor_file(config)
    if file is not None:
        processor = MTCAEVideoProcessor.from_pretrained(file.parent)
        if processor.num_frames == config.num_frames:
            return processor
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return MTCAEVideoProcessor(size={"height": height, "width": width}, num_frames=config.num_frames)


def _processor_file(config: PreTrainedConfig) -> Path | None:
    """Where the folder, or the Hub's repository, that a config was loaded from has its processor on this machine."""
    source = config.name_or_path
    if not source or (Path(source) / PROCESSOR_FILE).is_file():
        return Path(source) / PROCESSOR_FILE if source else None
    try:
        cached = try_to_load_from_cache(source, PROCESSOR_FILE, revision=getattr(config, "_commit_hash", None))
    except HFValidationError:  # the path of a folder, and no repository's name
        return None
    return Path(cached) if isinstance(cached, str) else None


__all__ = ["SavesWithProcessor", "processor_for"]
