"""The ground floor of all configurations: how a wrong field is refused, sizes of frames and patches, token grids."""

import math
from typing import Any

from transformers import PreTrainedConfig


def require(condition: bool, field_name: str, value: Any, rule: str) -> None:
    """Raises a `ValueError` that names the field, the value and the rule unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field_name}={value!r}: {rule}")


def require_positive(config: PreTrainedConfig, *field_names: str) -> None:
    """Raises a `ValueError` unless these fields are greater than 0."""
    for field_name in field_names:
        value = getattr(config, field_name)
        require(value > 0, field_name, value, "must be greater than 0")


def require_share(config: PreTrainedConfig, *field_names: str) -> None:
    """Raises a `ValueError` unless these fields are shares of a whole, less than all of it."""
    for field_name in field_names:
        value = getattr(config, field_name)
        require(0 <= value < 1, field_name, value, "must be at least 0 and less than 1")


def require_choice(value: Any, field_name: str, allowed: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless the value is one of the allowed ones."""
    require(value in allowed, field_name, value, f"must be one of {', '.join(allowed)}")


def is_weight(value: Any) -> bool:
    """Whether the value can be the factor of a loss: a finite number, at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def as_height_and_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """One number stands for both height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def compute_token_grid(config: PreTrainedConfig) -> tuple[int, int, int]:
    """(t, h, w): tubelets, rows and columns of a video encoder's tokens.

    Raises:
        ValueError: frames, height or width are no multiple of the tubelet or patch; the message names the field.
    """
    sizes = {"num_frames": (config.num_frames, config.tubelet_size)}
    image, patch = as_height_and_width(config.image_size), as_height_and_width(config.patch_size)
    sizes |= {"image_size (height)": (image[0], patch[0]), "image_size (width)": (image[1], patch[1])}
    for name, (size, step) in sizes.items():
        require(size > 0 and step > 0, name, size, f"must be greater than 0, as its step {step}")
        require(size % step == 0, name, size, f"must be a multiple of {step}")
    tubelets, rows, columns = (size // step for size, step in sizes.values())
    return tubelets, rows, columns


__all__ = [
    "as_height_and_width",
    "compute_token_grid",
    "is_weight",
    "require",
    "require_choice",
    "require_positive",
    "require_share",
]
