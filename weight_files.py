"""What all models of this repository share: how weights are saved and loaded, and what is wrong with a damaged file."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from .git_lfs import GIT_LFS_HEAD

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")

Model = TypeVar("Model", bound="CheckedPreTrainedModel")


def damage_of(file: Path) -> str | None:
    """What is wrong with a safetensors file, with the remedy; None where its header and its size fit together.

    A safetensors file is 8 bytes with the header's length, the header (JSON: every tensor's place), and the tensors.

    Raises:
        OSError: the file cannot be opened.
    """
    size = file.stat().st_size
    if size == 0:
        return "is empty; copy or download it again"
    with open(file, "rb") as stream:
        head = stream.read(max(8, len(GIT_LFS_HEAD)))
        if head.startswith(GIT_LFS_HEAD):
            return "is a Git LFS pointer and not the weights; run `git lfs pull` where it was cloned"
        header_length = int.from_bytes(head[:8], "little")
        if 8 + header_length > size:
            return "is cut off, or no safetensors file; copy or download it again"
        stream.seek(8)
        try:
            header = json.loads(stream.read(header_length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "is damaged: its header cannot be read; copy or download it again"
    wanted = 8 + header_length + max(ends, default=0)
    if size != wanted:
        return f"is cut off or damaged: it has {size} bytes and should have {wanted}; copy or download it again"
    return None


def damaged_weights(source: str | os.PathLike) -> str | None:
    """The first damaged file of weights in a folder, as one line; None where there is none, or no folder."""
    for file in sorted(Path(source).glob("*.safetensors")):
        damage = damage_of(file)
        if damage is not None:
            return f"{file} {damage}"
    return None


def lacks_weights(folder: str | os.PathLike) -> bool:
    """Whether a folder is there and holds no weights in any form that transformers reads, such as a config alone."""
    place = Path(folder)
    forms = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf")
    return place.is_dir() and not any(file.name.endswith(forms) for file in place.iterdir())


def digest_weights(module: nn.Module) -> "hashlib._Hash":
    """SHA-256 of a module's weights and buffers with their names, wherever they lie; more can be added to it."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest


class CheckedPreTrainedModel(PreTrainedModel):
    """A model that names a damaged file of weights, where safetensors has words for its header alone.

    Its files hold the names that its modules have, whatever transformers once called these weights: Trainer, accelerate
    and `load_state_dict` know no others.
    """

    # `forward` takes what transformers adds to its arguments, but divides its loss by no number of items: Trainer is to
    # average the losses of accumulated steps itself.
    accepts_loss_kwargs = False

    def save_pretrained(self, save_directory: str | os.PathLike, *arguments: Any, **options: Any) -> None:
        """As transformers does it, under the names of the modules."""
        super().save_pretrained(save_directory, *arguments, **({"save_original_format": False} | options))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # its many options are handed on as they come
        cls: type[Model], pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **options: Any
    ) -> Model:
        """As transformers does it.

        Raises:
            OSError: there is no such model.
            safetensors.SafetensorError: its folder holds no weights, or a file of them is a Git LFS pointer, cut off,
                empty or damaged. It is the type that safetensors raises; transformers' pipelines wrap others into
                their tracebacks.
        """
        source = pretrained_model_name_or_path
        if source is not None:
            folder = Path(source, options.get("subfolder") or "")
            if options.get("state_dict") is None and lacks_weights(folder):
                remedy = f"give a trained model's folder, or build a fresh model by {cls.__name__}(config)"
                raise SafetensorError(f"{folder} holds no weights ({WEIGHT_FILES[0]}); {remedy}")
            damage = damaged_weights(folder)
            if damage is not None:
                raise SafetensorError(damage)
        return super().from_pretrained(source, *model_args, **options)


__all__ = ["WEIGHT_FILES", "CheckedPreTrainedModel", "damage_of", "damaged_weights", "digest_weights", "lacks_weights"]
