"""Image models of transformers as makers of feature maps: how each takes pictures, and what comes out, measured.

Shapes: P pictures, a feature map of D channels, h rows and w columns.
"""

import copy
import inspect
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_common import as_height_and_width, require

# Class and register tokens stand before those of the map; more than these are something else, such as detections.
MOST_LEADING_TOKENS = 16
# What an image model raises where its config or the size of the pictures does not fit.
MISFITS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True)
class FeatureMap:
    """What an image model makes of a picture."""

    channels: int  # D
    rows: int  # h
    columns: int  # w
    num_leading_tokens: int  # class and register tokens before those of the map
    resizes_positions: bool  # the model's table of positions is interpolated to this size of picture
    unused_weights: tuple[str, ...]  # weights that the map does not depend on: poolers, mask tokens


def build_image_backbone_config(config: dict | PreTrainedConfig, field_name: str) -> PreTrainedConfig:
    """The image model's config as an object, set up so that the model looks at the whole picture.

    Raises:
        ValueError: the dict names no model type that transformers knows; the message begins with `field_name`.
    """
    if isinstance(config, PreTrainedConfig):
        built = copy.deepcopy(config)
    else:
        values = dict(config)
        model_type = values.pop("model_type", None)
        rule = "must be an image model of transformers, for example 'resnet' or 'dinov2'"
        require(model_type in CONFIG_MAPPING, f"{field_name}.model_type", model_type, rule)
        built = AutoConfig.for_model(model_type, **values)
    if built.model_type == "vit_mae":
        built.mask_ratio = 0.0  # it masks in evaluation too
    return built


def build_image_backbone(config: PreTrainedConfig, feature_map: FeatureMap) -> PreTrainedModel:
    """A fresh image model. Weights that its feature map does not depend on are buffers, so that nothing trains them."""
    # dtype=None: all parts of a model are built in one type, whatever type the image model was once saved in.
    asked = config._attn_implementation
    if asked in (None, "eager") or getattr(MODEL_MAPPING[type(config)], "_supports_sdpa", False):
        backbone = AutoModel.from_config(config, dtype=None)
    else:
        # Perhaps it has no attention to which the words of the whole model could apply.
        backbone = AutoModel.from_config(copy.deepcopy(config), dtype=None, attn_implementation="eager")
        if _has_attention(backbone):
            AutoModel.from_config(config, dtype=None)  # says what it supports
    for name in feature_map.unused_weights:
        owner, _, weight_name = name.rpartition(".")
        module = backbone.get_submodule(owner)
        weight = getattr(module, weight_name).detach()
        delattr(module, weight_name)
        module.register_buffer(weight_name, weight)
    if not _has_attention(backbone):
        # Nothing in it could be served wrongly, so that what is asked of the whole model does not stop here.
        backbone._supports_sdpa = backbone._supports_flash_attn = backbone._supports_attention_backend = True
    return backbone


def _has_attention(backbone: PreTrainedModel) -> bool:
    return any("attention" in type(module).__name__.lower() for module in backbone.modules())


def encode_pictures(backbone: PreTrainedModel, pictures: torch.Tensor, resizes_positions: bool, **kwargs: Any) -> Any:
    """The image model's own output for pictures (P, C, H, W)."""
    config = backbone.config
    if config.model_type == "siglip2_vision_model":
        return backbone(**_cut_into_patches(pictures, config.patch_size), **kwargs)
    arguments: dict[str, Any] = {}
    if config.model_type == "vit_mae":
        # It shuffles the patches by this noise; ascending noise leaves them in raster order.
        embeddings: Any = backbone.embeddings
        num_patches = embeddings.patch_embeddings.num_patches
        rank = torch.arange(num_patches, dtype=pictures.dtype, device=pictures.device)
        arguments["noise"] = rank.expand(pictures.shape[0], -1)
    if resizes_positions:
        arguments["interpolate_pos_encoding"] = True
    return backbone(pictures, **arguments, **kwargs)


def _cut_into_patches(pictures: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor | None]:
    """What a model that takes patches of any aspect ratio wants: values (P, h * w, patch * patch * C) and shapes."""
    # (P, C, H, W) -> (P, C, h, patch, w, patch) -> (P, h, w, patch, patch, C) -> (P, h * w, patch * patch * C)
    grid = pictures.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size)).permute(0, 2, 4, 3, 5, 1)
    # The model looks at the values of the shapes, which the meta device does not hold.
    shape = torch.tensor(grid.shape[1:3], device="cpu" if pictures.is_meta else pictures.device)
    return {
        "pixel_values": grid.flatten(3).flatten(1, 2),
        "pixel_attention_mask": None,  # every patch is seen
        "spatial_shapes": shape.expand(pictures.shape[0], -1),
    }


def measure_feature_map(
    config: PreTrainedConfig, num_channels: int, picture_size: tuple[int, int], field_name: str
) -> FeatureMap:
    """What the image model makes of a picture of this many channels, height and width. A config is measured once.

    Raises:
        ValueError: the model is no image model, cannot take such a picture, or its output holds no feature map; the
            message begins with `field_name`.
    """
    try:
        return _measure(config.model_type, config.to_json_string(use_diff=False), num_channels, picture_size)
    except MISFITS as error:
        height, width = picture_size
        reason = " ".join(str(error).split())
        rule = f"gives no feature map of {num_channels} x {height} x {width} pixels ({reason})"
        raise ValueError(f"{field_name}.model_type={config.model_type!r}: {rule}") from error


@cache
def _measure(model_type: str, described: str, num_channels: int, picture_size: tuple[int, int]) -> FeatureMap:
    """Runs the model on the meta device, where nothing is computed but shapes and what depends on what."""
    maps: list[torch.Size] = []

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            maps.append(output.shape)

    with torch.device("meta"), torch.enable_grad():
        model = AutoModel.from_config(CONFIG_MAPPING[model_type].from_dict(json.loads(described)), dtype=None).eval()
        if model.main_input_name != "pixel_values":
            raise ValueError(f"it takes {model.main_input_name}, not pixel_values: it is no image model")
        for module in model.modules():
            module.register_forward_hook(note)
        own_size = getattr(model.config, "image_size", None)
        resizes = own_size is not None and as_height_and_width(own_size) != picture_size
        resizes = resizes and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        output = encode_pictures(model, torch.empty(1, num_channels, *picture_size), resizes, output_hidden_states=True)
    features = output.last_hidden_state
    used = _find_leaves(features)
    unused = tuple(name for name, weight in model.named_parameters() if weight not in used)
    if features.ndim == 4:
        _, channels, rows, columns = features.shape
        return FeatureMap(channels, rows, columns, 0, resizes, unused)
    _, num_tokens, channels = features.shape
    if model_type == "siglip2_vision_model":
        maps.append(torch.Size((1, channels, *(side // model.config.patch_size for side in picture_size))))
    maps += [hidden.shape for hidden in getattr(output, "reshaped_hidden_states", None) or ()]
    # The finest map with the tokens' width that was seen on the way and that the tokens can hold.
    seen = [(rows * columns, rows, columns) for _, depth, rows, columns in maps if depth == channels]
    num_places, rows, columns = max((entry for entry in seen if entry[0] <= num_tokens), default=(0, 0, 0))
    num_leading_tokens = num_tokens - num_places
    if num_places == 0 or num_leading_tokens > MOST_LEADING_TOKENS:
        raise ValueError(f"its {num_tokens} tokens stand on no grid of rows and columns")
    return FeatureMap(channels, rows, columns, num_leading_tokens, resizes, unused)


def _find_leaves(output: torch.Tensor) -> set[torch.Tensor]:
    """The weights that an output depends on."""
    steps, pending = set(), [output.grad_fn]
    while pending:
        step = pending.pop()
        if step is not None and step not in steps:
            steps.add(step)
            pending += [earlier for earlier, _ in step.next_functions]
    return {step.variable for step in steps if hasattr(step, "variable")}
