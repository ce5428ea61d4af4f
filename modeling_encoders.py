"""The encoders under the cascade: how each is described, built and loaded.

An encoder takes pixels (B, T, C, H, W) and gives tokens (B, N, D), which stand in raster order on a (t, h, w) grid. One
entry in `ENCODERS` makes an encoder usable under every structure, in every preset and on the command line.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import Filter, LogRecord
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput, logging

from .configuration_common import as_height_and_width, require
from .configuration_frame_backbone import FrameBackboneConfig
from .modeling_frame_backbone import FrameBackboneModel
from .modeling_lgi_former import LGIFormerModel
from .modeling_resnext3d import ResNeXt3DModel
from .modeling_tpsbt import TPSBTModel
from .modeling_vo_lstm import VOLSTMModel
from .weight_files import damaged_weights

logger = logging.get_logger(__name__)

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Encoder:
    """How one model type takes clips and gives tokens. What is left out is as in VideoMAE."""

    # The class of an encoder of this repository: transformers does not know it where it is loaded as remote code, and
    # a checkpoint of it loads without trusting the code in its folder. None: the Auto* classes find it.
    model_class: type[PreTrainedModel] | None = None
    num_frames: str = "num_frames"  # where its config keeps the frames of a clip
    image_size: str = "image_size"  # where its config keeps height and width of a frame
    square: bool = False  # its config holds one number for both
    pixels: str = "pixel_values"  # argument of its forward pass that takes (B, T, C, H, W)
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of every forward pass
    num_leading_tokens: int = 0  # tokens before those of the grid, such as a class token
    token_order: str = "thw"  # from the slowest axis to the fastest; hwt: all frames of a place, then the next place
    unused_modules: tuple[str, ...] = ()  # what its tokens do not depend on: left out, so that nothing is untrained
    position_tables: dict[str, str] = field(default_factory=dict)  # learned tables and their axes
    takes_fewer_frames: bool = False  # clips of fewer frames than its config's are encoded too

    @property
    def config_class(self) -> Any:
        """The config class of an encoder of this repository; None: the Auto* classes find it."""
        return None if self.model_class is None else self.model_class.config_class


ENCODERS: dict[str, Encoder] = {
    "frame_backbone": Encoder(FrameBackboneModel, takes_fewer_frames=True),
    "lgi_former": Encoder(LGIFormerModel),
    "resnext3d": Encoder(ResNeXt3DModel),
    "timesformer": Encoder(
        square=True,
        num_leading_tokens=1,
        token_order="hwt",
        position_tables={"embeddings.position_embeddings": "hw", "embeddings.time_embeddings": "t"},
    ),
    "tpsbt": Encoder(TPSBTModel),
    "videomae": Encoder(),
    "videoprism_vision_model": Encoder(
        pixels="pixel_values_videos",
        position_tables={
            "spatial_embeddings.position_embeddings": "hw",
            "temporal_embeddings.position_embeddings": "t",
        },
    ),
    "vivit": Encoder(
        num_leading_tokens=1,
        unused_modules=("pooler",),
        position_tables={"embeddings.position_embeddings": "thw"},
    ),
    "vjepa2": Encoder(
        num_frames="frames_per_clip",
        image_size="crop_size",
        square=True,
        pixels="pixel_values_videos",
        arguments={"skip_predictor": True},
        unused_modules=("predictor",),
        takes_fewer_frames=True,
    ),
    "vo_lstm": Encoder(VOLSTMModel),
}
VIDEOMAE_LIKE = Encoder()

ENCODER_ADVICE = (
    "give a folder with config.json and model.safetensors, or a Hub id, of a video encoder (videomae, vjepa2, vivit, "
    "timesformer, videoprism_vision_model, lgi_former, tpsbt), of a model of this repository, or of an image model of "
    "transformers"
)

# The paper's encoder: VideoMAE ViT-L on 16 x 224 x 224. Pre-trained VideoMAE checkpoints end in a norm over tokens,
# which is what `use_mean_pooling=False` means there.
PAPER_ENCODER = {
    "model_type": "videomae",
    "image_size": 224,
    "patch_size": 16,
    "num_frames": 16,
    "tubelet_size": 2,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-6,
    "use_mean_pooling": False,
}


@dataclass(frozen=True)
class ClipShape:
    """What an encoder takes and on which grid its tokens stand, read from its config."""

    num_frames: int  # T
    image_size: tuple[int, int]  # height and width of a frame in pixels
    patch_size: tuple[int, int]  # height and width of a token in pixels
    token_grid: Grid  # (t, h, w)
    takes_fewer_frames: bool  # also clips of 1 to T frames, in whole tubelets


def describe_encoder(config: PreTrainedConfig) -> Encoder:
    """The entry of a config's model type; a type without one is taken for a relative of VideoMAE."""
    return ENCODERS.get(config.model_type, VIDEOMAE_LIKE)


def describe_clips(config: PreTrainedConfig) -> ClipShape:
    """Reads the shape of clips and the token grid from an encoder's config.

    Raises:
        ValueError: frames, height or width are no multiple of the tubelet or patch; the message names the field.
    """
    encoder = describe_encoder(config)
    num_frames = getattr(config, encoder.num_frames)
    image_size = as_height_and_width(getattr(config, encoder.image_size))
    if hasattr(config, "token_grid"):  # an encoder with a grid of its own, which it has checked
        grid, patch_size = config.token_grid, as_height_and_width(config.patch_size)
    else:
        tubelet = getattr(config, "tubelet_size", 1)
        # Either (time, height, width) in one, or time alone beside the patch.
        steps = (
            tuple(tubelet) if isinstance(tubelet, list | tuple) else (tubelet, *as_height_and_width(config.patch_size))
        )
        patch_size = (steps[1], steps[2])
        names = (encoder.num_frames, f"{encoder.image_size} (height)", f"{encoder.image_size} (width)")
        for name, size, step in zip(names, (num_frames, *image_size), steps, strict=True):
            name = f"encoder_config.{name}"
            require(size > 0 and step > 0, name, size, f"must be greater than 0, as its step {step}")
            require(size % step == 0, name, size, f"must be a multiple of {step}")
        grid = (num_frames // steps[0], image_size[0] // steps[1], image_size[1] // steps[2])
    return ClipShape(num_frames, image_size, patch_size, grid, encoder.takes_fewer_frames)


def encode_clips(encoder: PreTrainedModel, pixel_values: torch.Tensor, **kwargs: Any) -> ModelOutput:
    """Clips (B, T, C, H, W) -> the encoder's output, its `last_hidden_state` (B, N, D) in raster order (t, h, w).

    Hidden states and attentions are the encoder's own, with its leading tokens and in its order.
    """
    described = describe_encoder(encoder.config)
    output = encoder(**{described.pixels: pixel_values}, **described.arguments, **kwargs)
    if described.num_leading_tokens == 0 and described.token_order == "thw":
        return output
    tokens = output.last_hidden_state[:, described.num_leading_tokens :]
    if described.token_order == "hwt":
        tubelets = describe_clips(encoder.config).token_grid[0]
        # (B, h * w * t, D) -> (B, h * w, t, D) -> (B, t, h * w, D) -> (B, t * h * w, D)
        tokens = tokens.unflatten(1, (-1, tubelets)).transpose(1, 2).flatten(1, 2)
    return BaseModelOutput(tokens, output.hidden_states, output.attentions)


def build_encoder_config(encoder_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """Returns the encoder's config object from a config object, a dict with `model_type`, or None (the paper's).

    In a dict, `num_frames` and `image_size` may stand for what the encoder's config calls otherwise.

    Raises:
        ValueError: the dict names no `model_type`, or one that transformers does not know; or the model is no video
            encoder whose tokens stand on a (t, h, w) grid.
    """
    built = _instantiate_encoder_config(encoder_config)
    name, model_type = "encoder_config.model_type", built.model_type
    rule = "is a whole model of this repository, not an encoder; load it with from_pretrained"
    require(model_type != "mtcae", name, model_type, rule)
    rule = "gives one vector a frame, by way of the package timm, and no grid; no cascade can read it"
    require(not model_type.startswith("pe_video"), name, model_type, rule)
    rule = "is an image model; it goes into {'model_type': 'frame_backbone', 'backbone_config': ...}"
    require(model_type in ENCODERS or not is_image_model(built), name, model_type, rule)
    described = describe_encoder(built)
    needed = ["hidden_size", described.num_frames, described.image_size]
    needed += [] if isinstance(getattr(built, "tubelet_size", None), list | tuple) else ["patch_size"]
    needed += [] if model_type in ENCODERS else ["tubelet_size"]
    missing = [field_name for field_name in needed if not hasattr(built, field_name)]
    rule = f"is no video encoder that a cascade can read: its config has no {', '.join(missing)}"
    require(not missing, name, model_type, rule)
    if described.square:
        height, width = as_height_and_width(getattr(built, described.image_size))
        rule = f"a {model_type} encoder takes square frames alone"
        require(height == width, f"encoder_config.{described.image_size}", [height, width], rule)
        setattr(built, described.image_size, height)
    return built


def is_image_model(config: PreTrainedConfig) -> bool:
    """Whether the Auto* classes give a model of pictures for this config, and no config of video fits it."""
    if type(config) not in MODEL_MAPPING or hasattr(config, "num_frames"):
        return False
    return getattr(MODEL_MAPPING[type(config)], "main_input_name", None) == "pixel_values"


def _rename_sizes(model_type: str, values: dict[str, Any]) -> dict[str, Any]:
    """`num_frames` and `image_size` as the encoder's config calls them."""
    described = ENCODERS.get(model_type, VIDEOMAE_LIKE)
    own_names = {"num_frames": described.num_frames, "image_size": described.image_size}
    renamed = {own_names.get(name, name): value for name, value in values.items()}
    size = renamed.get(described.image_size)
    if described.square and isinstance(size, list | tuple):
        rule = f"a {model_type} encoder takes square frames alone"
        require(len(set(size)) == 1, "encoder_config.image_size", list(size), rule)
        renamed[described.image_size] = size[0]
    return renamed


def _instantiate_encoder_config(encoder_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(encoder_config, PreTrainedConfig):
        return encoder_config
    values = dict(PAPER_ENCODER if encoder_config is None else encoder_config)
    model_type = values.pop("model_type", None)
    require(
        model_type is not None, "encoder_config", encoder_config, "must name its model_type, for example 'videomae'"
    )
    values = _rename_sizes(model_type, values)
    config_class = ENCODERS.get(model_type, VIDEOMAE_LIKE).config_class
    if config_class is not None:
        return config_class(**values)
    require(model_type in CONFIG_MAPPING, "encoder_config.model_type", model_type, "is unknown to transformers")
    return AutoConfig.for_model(model_type, **values)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh encoder from its config, of this repository or of transformers, without what its tokens do not use."""
    described = describe_encoder(config)
    # dtype=None: encoder and decoders are built in one type, whatever type the encoder was once saved in.
    if described.model_class is not None:
        encoder = described.model_class._from_config(config, dtype=None)
    else:
        encoder = AutoModel.from_config(config, dtype=None)
    for name in described.unused_modules:
        setattr(encoder, name, None)
    encoder.register_load_state_dict_pre_hook(rename_older_biases)
    return encoder


def rename_older_biases(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *arguments: Any) -> None:
    """Lets `load_state_dict` find the biases of VideoMAE's queries and values under their older names.

    Only `from_pretrained` knows that a file's q_bias is the module's query.bias.
    """
    names = {".q_bias": ".query.bias", ".v_bias": ".value.bias"}
    for name in [name for name in state_dict if name.startswith(prefix) and name.endswith(tuple(names))]:
        state_dict[name[: -len(".q_bias")] + names[name[-len(".q_bias") :]]] = state_dict.pop(name)


def read_encoder_config(source: str, overrides: dict[str, Any]) -> tuple[PreTrainedConfig, list[str]]:
    """The config of a pre-trained encoder with some fields changed, and those of the fields that it does not have.

    Of a whole model of this repository it is that of its encoder. An image model's config comes in that of a frame
    backbone, whose fields the overrides then are.
    """
    stored: Any = PreTrainedConfig.get_config_dict(source)[0]
    model_type = stored.get("model_type")
    if model_type == "mtcae":
        own = build_encoder_config(stored.get("encoder_config"))
    else:
        # A checkpoint of this repository's own encoders loads without trusting the code in its folder.
        own = (ENCODERS.get(model_type, VIDEOMAE_LIKE).config_class or AutoConfig).from_pretrained(source)
        alone = getattr(own, "vision_config", own)  # of an image model with a text model beside it
        if model_type not in ENCODERS and is_image_model(alone):
            return _wrap_image_model(alone, overrides)
    renamed = _rename_sizes(own.model_type, overrides)
    unknown = sorted(name for name in renamed if not hasattr(own, name) or _is_computed(own, name))
    known = {name: value for name, value in renamed.items() if name not in unknown}
    return build_encoder_config(type(own).from_dict(own.to_dict() | known) if known else own), unknown


def _is_computed(config: PreTrainedConfig, name: str) -> bool:
    """Whether a field follows from others, as the width of a frame backbone from its image model."""
    attribute = getattr(type(config), name, None)
    return isinstance(attribute, property) and attribute.fset is None


def _wrap_image_model(config: PreTrainedConfig, overrides: dict[str, Any]) -> tuple[FrameBackboneConfig, list[str]]:
    fields = FrameBackboneConfig.__dataclass_fields__
    unknown = sorted(set(overrides) - set(fields))
    own_size = getattr(config, "image_size", None)
    sizes = {"image_size": own_size} if own_size is not None else {}
    sizes |= {"num_channels": config.num_channels} if hasattr(config, "num_channels") else {}
    known = {name: value for name, value in overrides.items() if name in fields}
    return FrameBackboneConfig(backbone_config=config, **sizes | known), unknown


@contextmanager
def explain_unreadable(source: str) -> Iterator[None]:
    """Turns the many ways in which a checkpoint cannot be read into one `ValueError` of one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        reason = damaged_weights(source) or " ".join(str(error).split())
        raise ValueError(f"{source} holds no encoder that can be read ({reason}); {ENCODER_ADVICE}.") from error


class NoLoadReport(Filter):
    """Keeps back transformers' table of every weight that was new or not used, where one line of ours tells them.

    Another level of the logger would do so too, but make transformers check its plans of sharding aloud.
    """

    def filter(self, record: LogRecord) -> bool:
        """Whether a message is told."""
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def without_load_report() -> Iterator[None]:
    """No table of weights from transformers as long as the block runs."""
    told, no_report = logging.get_logger("transformers.modeling_utils"), NoLoadReport()
    told.addFilter(no_report)
    try:
        yield
    finally:
        told.removeFilter(no_report)


def load_encoder(source: str, overrides: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A pre-trained encoder from a folder or Hub id, and transformers' report of what was loaded.

    A whole model of this repository gives its encoder. Learned position tables are interpolated to the grid of the
    overrides. An image model comes in a frame backbone; the report names what is new in it as `fresh_keys`.

    Raises:
        ValueError: there is no readable checkpoint of an encoder, it lacks weights, or an override is no field of its
            config.
    """
    if Path(source).is_file():
        raise ValueError(f"{source} is a file; {ENCODER_ADVICE}.")
    with explain_unreadable(source):
        config, unknown = read_encoder_config(source, overrides)
        own_config, _ = read_encoder_config(source, {}) if overrides else (config, [])
    if unknown:
        raise ValueError(f"encoder_overrides: a {config.model_type} encoder has no field {', '.join(unknown)}.")
    described = describe_encoder(config)
    stored_type = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    is_wrapped = config.model_type == "frame_backbone" and stored_type not in ("frame_backbone", "mtcae")
    model_class: Any = AutoModel if is_wrapped or described.model_class is None else described.model_class
    stored_config = config.backbone_config if is_wrapped else config
    if described.position_tables:
        # Its tables keep the checkpoint's size until they are interpolated.
        sizes = {name: getattr(own_config, name) for name in (described.num_frames, described.image_size)}
        stored_config = type(config).from_dict(config.to_dict() | sizes)
    with explain_unreadable(source), without_load_report():
        loaded, report = model_class.from_pretrained(
            source,
            config=stored_config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            key_mapping={r"^encoder\.": ""} if stored_type == "mtcae" else None,  # of a whole model its encoder alone
        )
    unused = config.feature_map.unused_weights if is_wrapped else described.unused_modules
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    absent = [*report["missing_keys"], *mismatched]
    lacking = sorted(key for key in absent if not any(key == name or key.startswith(f"{name}.") for name in unused))
    if lacking:
        raise ValueError(
            f"{source} lacks {len(lacking)} weights of this {config.model_type} encoder, or has them in another size, "
            f"first {lacking[0]}; {ENCODER_ADVICE}."
        )
    encoder: Any = build_encoder(config)
    if is_wrapped:
        encoder.backbone.load_state_dict(loaded.state_dict())
        fresh = [name for name, _ in encoder.named_parameters() if not name.startswith("backbone.")]
        return encoder, report | {"fresh_keys": fresh}
    weights = loaded.state_dict()
    resize_position_tables(weights, own_config, config)
    kept = {name: weight for name, weight in weights.items() if name.split(".")[0] not in described.unused_modules}
    encoder.load_state_dict(kept)
    return encoder, report


def resize_position_tables(weights: dict[str, torch.Tensor], old: PreTrainedConfig, new: PreTrainedConfig) -> None:
    """Interpolates learned position tables (1, leading + places, D) among `weights` from one grid to another."""
    described = describe_encoder(new)
    old_grid, new_grid = describe_clips(old).token_grid, describe_clips(new).token_grid
    for name, axes in described.position_tables.items():
        before, after = ([grid["thw".index(axis)] for axis in axes] for grid in (old_grid, new_grid))
        if name not in weights or before == after:
            continue
        num_leading = weights[name].shape[1] - math.prod(before)
        leading, table = weights[name].float().split([num_leading, math.prod(before)], dim=1)
        # (1, places, D) -> (1, D, places) -> (1, D, *before) -> (1, D, *after) -> (1, places, D)
        grid = table.transpose(1, 2).unflatten(2, before)
        mode = {"t": "linear", "hw": "bilinear", "thw": "trilinear"}[axes]
        resized = functional.interpolate(grid, size=after, mode=mode, align_corners=False).flatten(2).transpose(1, 2)
        weights[name] = torch.cat([leading, resized], dim=1)
        logger.warning(
            f"{name} is interpolated from {' x '.join(map(str, before))} to {' x '.join(map(str, after))} positions: "
            "train it on."
        )
