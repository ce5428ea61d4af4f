"""The encoders under the cascade: how each is described, built and loaded.

An encoder takes pixels (B, T, C, H, W) and gives tokens (B, N, D), which stand in raster order on the (t, h, w) grid
that its config tells. One entry in `LOCAL_ENCODERS` makes an encoder of this repository usable under every structure.
Where its config class says `takes_fewer_frames = True`, it encodes clips of 1 to `num_frames` frames too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_lgi_former import require
from .modeling_frame_backbone import FrameBackboneModel
from .modeling_lgi_former import LGIFormerModel
from .modeling_resnext3d import ResNeXt3DModel
from .modeling_tpsbt import TPSBTModel
from .modeling_vo_lstm import VOLSTMModel
from .weight_files import damaged_weights

# Encoders of this repository: transformers does not know them where they are loaded as remote code, and a checkpoint of
# theirs loads without trusting the code in its folder. All others are found by the Auto* classes.
LOCAL_ENCODERS: dict[str, type[PreTrainedModel]] = {
    "frame_backbone": FrameBackboneModel,
    "lgi_former": LGIFormerModel,
    "resnext3d": ResNeXt3DModel,
    "tpsbt": TPSBTModel,
    "vo_lstm": VOLSTMModel,
}

ENCODER_ADVICE = (
    "give a folder with config.json and model.safetensors, or a Hub id, of a VideoMAE, LGI-Former or TPSBT model"
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

# What the cascade asks of an encoder's config.
ENCODER_FIELDS = ("hidden_size", "num_frames", "tubelet_size", "image_size", "patch_size")


def build_encoder_config(encoder_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """Returns the encoder's config object from a config object, a dict with `model_type`, or None (the paper's).

    Raises:
        ValueError: the dict names no `model_type`, or one that transformers does not know; or the model is no video
            encoder whose tokens stand on a (t, h, w) grid.
    """
    built = _instantiate_encoder_config(encoder_config)
    rule = "is a whole model of this repository, not an encoder; load it with from_pretrained"
    require(built.model_type != "mtcae", "encoder_config.model_type", built.model_type, rule)
    missing = [name for name in ENCODER_FIELDS if not hasattr(built, name)]
    rule = f"is no video encoder that a cascade can read: its config has no {', '.join(missing)}"
    require(not missing, "encoder_config.model_type", built.model_type, rule)
    return built


def _instantiate_encoder_config(encoder_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(encoder_config, PreTrainedConfig):
        return encoder_config
    values = dict(PAPER_ENCODER if encoder_config is None else encoder_config)
    model_type = values.pop("model_type", None)
    require(
        model_type is not None, "encoder_config", encoder_config, "must name its model_type, for example 'videomae'"
    )
    if model_type in LOCAL_ENCODERS:
        return LOCAL_ENCODERS[model_type].config_class(**values)
    require(model_type in CONFIG_MAPPING, "encoder_config.model_type", model_type, "is unknown to transformers")
    return AutoConfig.for_model(model_type, **values)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh encoder from its config, one of this repository or of transformers."""
    local_class = LOCAL_ENCODERS.get(config.model_type)
    # dtype=None: encoder and decoders are built in one type, whatever type the encoder was once saved in.
    if local_class is not None:
        return local_class._from_config(config, dtype=None)
    return AutoModel.from_config(config, dtype=None)


def read_encoder_config(source: str, overrides: dict[str, Any]) -> tuple[PreTrainedConfig, list[str]]:
    """The config of a pre-trained encoder with some fields changed, and those of the fields that it does not have."""
    model_type = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    # A checkpoint of this repository's own encoders loads without trusting the code in its folder.
    config_class = LOCAL_ENCODERS[model_type].config_class if model_type in LOCAL_ENCODERS else AutoConfig
    config, unknown = config_class.from_pretrained(source, return_unused_kwargs=True, **overrides)
    return build_encoder_config(config), sorted(unknown)


@contextmanager
def explain_unreadable(source: str) -> Iterator[None]:
    """Turns the many ways in which a checkpoint cannot be read into one `ValueError` of one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        reason = damaged_weights(source) or " ".join(str(error).split())
        raise ValueError(f"{source} holds no encoder that can be read ({reason}); {ENCODER_ADVICE}.") from error


def load_encoder(source: str, overrides: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A pre-trained encoder from a folder or Hub id, and the report of what was loaded.

    Raises:
        ValueError: there is no readable checkpoint of a video encoder, it lacks weights, or an override is no field of
            its config.
    """
    if Path(source).is_file():
        raise ValueError(f"{source} is a file; {ENCODER_ADVICE}.")
    with explain_unreadable(source):
        config, unknown = read_encoder_config(source, overrides)
    if unknown:
        raise ValueError(f"encoder_overrides: a {config.model_type} encoder has no field {', '.join(unknown)}.")
    with explain_unreadable(source):
        loaded, report = LOCAL_ENCODERS.get(config.model_type, AutoModel).from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    lacking = sorted([*report["missing_keys"], *mismatched])
    if lacking:
        raise ValueError(
            f"{source} lacks {len(lacking)} weights of this {config.model_type} encoder, or has them in another size, "
            f"first {lacking[0]}; {ENCODER_ADVICE}."
        )
    return loaded, report
