"""Released checkpoints of VideoMAE, MAE-DFER, SVFAP, MARLIN and S4D -> folders for the Auto* classes: `mtcae convert`.

The keys that a checkpoint must hold follow from its architecture and sizes, which are read off its tensors. Every key
of the file is then placed, or the conversion stops and names it.
"""

import argparse
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEModel,
)

from mtcae_dfer.configuration_lgi_former import LGIFormerConfig
from mtcae_dfer.configuration_tpsbt import TPSBTConfig
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.modeling_encoders import describe_clips
from mtcae_dfer.modeling_layers import sinusoid_positions
from mtcae_dfer.modeling_lgi_former import LGIFormerForPreTraining, LGIFormerForVideoClassification
from mtcae_dfer.modeling_tpsbt import TPSBTForVideoClassification, TPSBTModel

REPORT_FILE = "conversion_report.json"
CONTAINER_KEYS = ("model", "module", "state_dict")
HEAD_WIDTH = 64  # of all released models
UNREADABLE = "is no readable checkpoint: torn, or a file of another kind"

StateDict = dict[str, torch.Tensor]
Shape = tuple[int, ...]


class CheckpointConversionError(ValueError):
    """A checkpoint cannot be converted. The message says which file, what is wrong with it and what to do."""


@dataclass(frozen=True)
class Placement:
    """Where one released tensor goes: to one parameter, or in equal row blocks to several (fused projections).

    Without targets the tensor is known, and set aside.
    """

    source: str
    targets: tuple[str, ...]


@dataclass
class ConversionPlan:
    """A released architecture with the sizes of one checkpoint: the model to build and every key's place."""

    architecture: str  # VideoMAE | MAE-DFER | SVFAP | MARLIN | S4D
    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    placements: list[Placement]
    normalises_pixels: bool = True  # False: it was trained on colours in [0, 1], not on those of ImageNet's statistics


@dataclass
class ConversionOptions:
    """What the tensors do not tell; None leaves the released models' value."""

    heads: int | None = None  # attention heads of the encoder; None = width / 64
    image_size: int | None = None  # height and width of a frame in pixels; None = 224 (VideoMAE, MARLIN), 160 (others)
    num_frames: int = 16  # frames of a clip
    region_size: Sequence[int] | None = None  # LGI-Former's regions in tokens; None = 2 x 5 x 10
    stage_depths: Sequence[int] | None = None  # TPSBT's blocks of each stage; None = 12, 6, 3
    labels: list[str] | None = None  # names of the classes in the checkpoint's order; None = LABEL_0, LABEL_1, ...


# ------------------------------------------------------------------------------------------------ reading a file


def read_checkpoint(path: str | Path, allow_pickle: bool = False) -> StateDict:
    """The tensors of a checkpoint file by name, out of its container.

    Args:
        path: a PyTorch file (bare state dict, or wrapped as `model`, `module` or `state_dict`) or a safetensors file.
        allow_pickle: True lets the file run code while it is read. Only for files from a source that you trust.

    Raises:
        CheckpointConversionError: no such file, no checkpoint, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointConversionError(f"{path}: there is no such file")
    content: Any
    if path.suffix != ".safetensors":
        content = _load_pickle(path, allow_pickle)
    else:
        try:
            content = load_file(path)
        except SafetensorError as error:
            raise CheckpointConversionError(f"{path}: {UNREADABLE}") from error
    for key in CONTAINER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointConversionError(f"{path}: holds no weights, neither bare nor in {', '.join(CONTAINER_KEYS)}")
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointConversionError(f"{path}: these entries are no tensors: {', '.join(others)}")
    # Data-parallel training puts one prefix before all keys.
    is_parallel = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if is_parallel else key: value for key, value in content.items()}


def _load_pickle(path: Path, allow_pickle: bool) -> Any:
    try:
        # The released files keep their command line beside the weights; a Namespace holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except (ImportError, AttributeError) as error:
        raise CheckpointConversionError(
            f"{path}: reading it needs code that is not installed here ({error})"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))  # in PyTorch's explanation of why it does not read a file
        if wanted is None:
            raise CheckpointConversionError(f"{path}: {UNREADABLE}") from error
        raise CheckpointConversionError(
            f"{path}: reading it would call {wanted[1]}, and such a file can run any code. If you trust where it comes "
            "from, pass --allow-pickle"
        ) from error


# ----------------------------------------------------------------------------------- sizes, read off the tensors


def _shape_of(state: StateDict, key: str, dimensions: int) -> Shape:
    if key not in state:
        raise CheckpointConversionError(f"the checkpoint lacks {key}, from which sizes are read")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise CheckpointConversionError(f"{key} has shape {shape}, where {dimensions} dimensions are expected")
    return shape


def _count_blocks(state: StateDict, prefix: str) -> int:
    numbers = [match[1] for key in state if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))]
    return max(map(int, numbers)) + 1 if numbers else 0


def _read_encoder_sizes(state: StateDict, prefix: str, options: ConversionOptions) -> dict[str, Any]:
    width, channels, tubelet, height, columns = _shape_of(state, f"{prefix}patch_embed.proj.weight", 5)
    return {
        "hidden_size": width,
        "num_channels": channels,
        "tubelet_size": tubelet,
        "patch_size": height if height == columns else [height, columns],
        "num_hidden_layers": _count_blocks(state, f"{prefix}blocks."),
        "intermediate_size": _shape_of(state, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        "num_attention_heads": options.heads or _count_heads("encoder", width),
        "num_frames": options.num_frames,
        "layer_norm_eps": 1e-6,
    }


def _read_decoder_sizes(state: StateDict) -> dict[str, Any]:
    width = _shape_of(state, "encoder_to_decoder.weight", 2)[0]
    return {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": _count_blocks(state, "decoder.blocks."),
        "decoder_num_attention_heads": _count_heads("decoder", width),
        "decoder_intermediate_size": _shape_of(state, "decoder.blocks.0.mlp.fc1.weight", 2)[0],
    }


def _count_heads(part: str, width: int) -> int:
    if width % HEAD_WIDTH:
        remedy = "; give --heads" if part == "encoder" else ""
        raise CheckpointConversionError(
            f"the {part}'s width {width} is no multiple of {HEAD_WIDTH}, so its number of heads cannot be told{remedy}"
        )
    return width // HEAD_WIDTH


def _class_fields(state: StateDict, labels: list[str] | None) -> dict[str, Any]:
    num_classes = _shape_of(state, "head.weight", 2)[0]
    if labels is None:
        return {"num_labels": num_classes}
    if len(labels) != num_classes:
        raise CheckpointConversionError(f"{len(labels)} labels are given for the {num_classes} classes of head.weight")
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


# ----------------------------------------------------------------------------------------- every key and its place


def _with_bias(source: str, target: str) -> list[Placement]:
    return [Placement(f"{source}.{kind}", (f"{target}.{kind}",)) for kind in ("weight", "bias")]


def _place_pairs(source: str, target: str, pairs: Mapping[str, str]) -> list[Placement]:
    return [place for old, new in pairs.items() for place in _with_bias(f"{source}.{old}", f"{target}.{new}")]


def _place_self_attention(source: str, target: str) -> list[Placement]:
    """One matrix for queries, keys and values together; keys have no bias."""
    return [
        Placement(f"{source}.qkv.weight", tuple(f"{target}.{name}.weight" for name in ("query", "key", "value"))),
        Placement(f"{source}.q_bias", (f"{target}.query.bias",)),
        Placement(f"{source}.v_bias", (f"{target}.value.bias",)),
    ]


def _place_videomae_block(source: str, target: str) -> list[Placement]:
    """A plain transformer block of transformers' VideoMAE."""
    return [
        *_place_pairs(source, target, {"norm1": "layernorm_before", "norm2": "layernorm_after"}),
        *_place_self_attention(f"{source}.attn", f"{target}.attention.attention"),
        *_with_bias(f"{source}.attn.proj", f"{target}.attention.output.dense"),
        *_place_pairs(source, target, {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}),
    ]


MLP_PAIRS = {"mlp.fc1": "mlp.dense_in", "mlp.fc2": "mlp.dense_out"}


def _place_own_block(source: str, target: str) -> list[Placement]:
    """A plain transformer block of this repository."""
    return [
        *_place_pairs(source, target, {"norm1": "norm_attention", "norm2": "norm_mlp"} | MLP_PAIRS),
        *_place_self_attention(f"{source}.attn", f"{target}.attention"),
        *_with_bias(f"{source}.attn.proj", f"{target}.attention.output"),
    ]


def _place_attention_on_context(source: str, target: str) -> list[Placement]:
    """MAE-DFER's attention: one matrix for queries, one for keys and values together."""
    return [
        Placement(f"{source}.q.weight", (f"{target}.query.weight",)),
        Placement(f"{source}.kv.weight", (f"{target}.key.weight", f"{target}.value.weight")),
        Placement(f"{source}.q_bias", (f"{target}.query.bias",)),
        Placement(f"{source}.v_bias", (f"{target}.value.bias",)),
        *_with_bias(f"{source}.proj", f"{target}.output"),
    ]


LGI_NORMS = {
    "first_attn_norm0": "norm_region",
    "second_attn_norm0": "norm_representatives",
    "third_attn_norm0": "norm_interaction_query",
    "third_attn_norm1": "norm_interaction_context",
    "norm2": "norm_mlp",
}
LGI_ATTENTIONS = {
    "first_attn": "region_attention",
    "second_attn": "representative_attention",
    "third_attn": "interaction_attention",
}


def _place_lgi_block(source: str, target: str) -> list[Placement]:
    placements = _place_pairs(source, target, LGI_NORMS | MLP_PAIRS)
    for old, new in LGI_ATTENTIONS.items():
        placements += _place_attention_on_context(f"{source}.{old}", f"{target}.{new}")
    return placements


def _place_blocks(
    place_block: Callable[[str, str], list[Placement]], count: int, source: str, target: str
) -> list[Placement]:
    return [place for number in range(count) for place in place_block(f"{source}.{number}", f"{target}.{number}")]


def _place_decoder(
    place_block: Callable[[str, str], list[Placement]], count: int, layers: str, norm: str, head: str
) -> list[Placement]:
    """The pre-training decoder, which all released models share."""
    return [
        *_place_blocks(place_block, count, "decoder.blocks", layers),
        *_with_bias("decoder.norm", norm),
        *_with_bias("decoder.head", head),
        *(Placement(name, (name,)) for name in ("encoder_to_decoder.weight", "mask_token")),
    ]


def _is_pre_training(state: StateDict) -> bool:
    return any(key.startswith("encoder.") for key in state)


def plan_videomae(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """VideoMAE: a fine-tuned classifier (mean pooling, or the first token), a pre-training model, or an encoder."""
    pre_training = _is_pre_training(state)
    prefix = "encoder." if pre_training else ""
    # Without mean pooling the tokens end in a norm, and the classifier reads the first.
    mean_pooling = not pre_training and "norm.weight" not in state
    has_head = any(key.startswith(("head.", "decoder.")) for key in state)
    base = "videomae." if has_head else ""
    sizes = _read_encoder_sizes(state, prefix, options) | {"image_size": options.image_size or 224}
    placements = [
        *_with_bias(f"{prefix}patch_embed.proj", f"{base}embeddings.patch_embeddings.projection"),
        *_place_blocks(_place_videomae_block, sizes["num_hidden_layers"], f"{prefix}blocks", f"{base}encoder.layer"),
    ]
    if not mean_pooling:
        placements += _with_bias(f"{prefix}norm", f"{base}layernorm")
    sizes["use_mean_pooling"] = mean_pooling
    if not has_head:
        return ConversionPlan("VideoMAE", VideoMAEModel, VideoMAEConfig(**sizes), placements)
    if not pre_training:
        placements += _with_bias("head", "classifier")
        placements += _with_bias("fc_norm", "fc_norm") if mean_pooling else []
        config = VideoMAEConfig(**sizes, **_class_fields(state, options.labels))
        return ConversionPlan("VideoMAE", VideoMAEForVideoClassification, config, placements)
    sizes |= _read_decoder_sizes(state)
    depth = sizes["decoder_num_hidden_layers"]
    placements += _place_decoder(_place_videomae_block, depth, "decoder.decoder_layers", "decoder.norm", "decoder.head")
    return ConversionPlan("VideoMAE", VideoMAEForPreTraining, VideoMAEConfig(**sizes), placements)


def plan_mae_dfer(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """MAE-DFER: a fine-tuned classifier, or a pre-training model, whose decoder keeps its released token order."""
    pre_training = _is_pre_training(state)
    prefix = "encoder." if pre_training else ""
    sizes = _read_encoder_sizes(state, prefix, options) | {"image_size": options.image_size or 160}
    sizes |= {} if options.region_size is None else {"region_size": list(options.region_size)}
    placements = [
        Placement(f"{prefix}lg_region_tokens", ("lgi_former.representative_tokens",)),
        *_with_bias(f"{prefix}patch_embed.proj", "lgi_former.embedding.projection"),
        *_place_blocks(_place_lgi_block, sizes["num_hidden_layers"], f"{prefix}blocks", "lgi_former.layers"),
    ]
    if not pre_training:
        placements += _with_bias("fc_norm", "fc_norm") + _with_bias("head", "classifier")
        config = LGIFormerConfig(**sizes, **_class_fields(state, options.labels))
        return ConversionPlan("MAE-DFER", LGIFormerForVideoClassification, config, placements)
    sizes |= _read_decoder_sizes(state) | {"released_decoder_order": True}
    placements += _with_bias("encoder.norm", "lgi_former.norm")
    depth = sizes["decoder_num_hidden_layers"]
    placements += _place_decoder(_place_own_block, depth, "decoder_layers", "decoder_norm", "decoder_head")
    return ConversionPlan("MAE-DFER", LGIFormerForPreTraining, LGIFormerConfig(**sizes), placements)


def plan_svfap(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """SVFAP: a fine-tuned classifier, or the encoder of a pre-training model, whose decoder is set aside."""
    pre_training = _is_pre_training(state)
    prefix, base = ("encoder.", "") if pre_training else ("", "tpsbt.")
    sizes = _read_encoder_sizes(state, prefix, options) | {"image_size": options.image_size or 160}
    blocks = sizes.pop("num_hidden_layers")
    sizes["stage_depths"] = list(options.stage_depths or TPSBTConfig().stage_depths)
    if sum(sizes["stage_depths"]) != blocks:
        raise CheckpointConversionError(
            f"the checkpoint holds {blocks} blocks and the stages {sizes['stage_depths']}; give --stage-depths"
        )
    sizes["temporal_kernel"] = _shape_of(state, f"{prefix}temporal_downsamples.0.weight", 3)[2]
    weights = _shape_of(state, f"{prefix}spatial_downsamples.0.mlp.fc2.weight", 2)
    sizes["num_bottleneck_tokens"], sizes["bottleneck_hidden_size"] = weights
    placements = _with_bias(f"{prefix}patch_embed.proj", f"{base}embedding.projection")
    placements += _place_pyramid(sizes["stage_depths"], prefix, base)
    if not pre_training:
        placements += _with_bias("fc_norm", "fc_norm") + _with_bias("head", "classifier")
        config = TPSBTConfig(**sizes, **_class_fields(state, options.labels))
        return ConversionPlan("SVFAP", TPSBTForVideoClassification, config, placements)
    # The encoder's norm stands behind the sum of all stages, which only the pre-training decoder reads.
    depth = _count_blocks(state, "decoder.blocks.")
    unused = _place_decoder(_place_own_block, depth, "decoder", "norm", "head") + _with_bias("encoder.norm", "norm")
    placements += [Placement(placement.source, ()) for placement in unused]
    return ConversionPlan("SVFAP", TPSBTModel, TPSBTConfig(**sizes), placements)


def _place_pyramid(stage_depths: list[int], prefix: str, base: str) -> list[Placement]:
    first_depth, *later_depths = stage_depths
    placements = _place_blocks(_place_own_block, first_depth, f"{prefix}blocks", f"{base}layers")
    number = first_depth
    norms = {"cross_norm1": "norm_cross_query", "cross_norm2": "norm_cross_context"}
    for stage, depth in enumerate(later_depths):
        target = f"{base}stages.{stage}"
        placements += _with_bias(f"{prefix}temporal_downsamples.{stage}", f"{target}.reduction.convolution")
        pairs = {"norm": "norm", "mlp.fc1": "dense_in", "mlp.fc2": "dense_out"}
        placements += _place_pairs(f"{prefix}spatial_downsamples.{stage}", f"{target}.bottleneck", pairs)
        for layer in range(depth):
            block, own = f"{prefix}blocks.{number}", f"{target}.layers.{layer}"
            placements += _place_pairs(block, own, norms)
            placements += _place_attention_on_context(f"{block}.cross_attn", f"{own}.cross_attention")
            placements += _place_own_block(block, own)
            number += 1
    return placements


def _place_marlin_block(source: str, target: str) -> list[Placement]:
    """VideoMAE's block with MARLIN's names of the MLP."""
    own_names = {"mlp.fc1": "mlp.layers.0.linear", "mlp.fc2": "mlp.layers.1.linear"}
    placements = []
    for placement in _place_videomae_block(source, target):
        name = placement.source
        for old, new in own_names.items():
            name = name.replace(f".{old}.", f".{new}.")
        placements.append(Placement(name, placement.targets))
    return placements


def plan_marlin(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """MARLIN's encoder, alone or out of the full model, whose decoder is set aside.

    It is VideoMAE's with another epsilon and pixels that are not normalised.
    """
    prefix = "encoder." if _is_pre_training(state) else ""
    width, channels, tubelet, patch, _ = _shape_of(state, f"{prefix}patch_embedding.projection.weight", 5)
    image_size = options.image_size or 224
    config = VideoMAEConfig(
        hidden_size=width,
        num_channels=channels,
        tubelet_size=tubelet,
        patch_size=patch,
        num_hidden_layers=_count_blocks(state, f"{prefix}blocks."),
        intermediate_size=_shape_of(state, f"{prefix}blocks.0.mlp.layers.0.linear.weight", 2)[0],
        num_attention_heads=options.heads or _count_heads("encoder", width),
        num_frames=options.num_frames,
        image_size=image_size,
        layer_norm_eps=1e-5,
        use_mean_pooling=False,
    )
    _check_marlin_positions(state[f"{prefix}pos_embedding.emb"], config)
    placements = [
        *_with_bias(f"{prefix}patch_embedding.projection", "embeddings.patch_embeddings.projection"),
        *_place_blocks(_place_marlin_block, config.num_hidden_layers, f"{prefix}blocks", "encoder.layer"),
        *_with_bias(f"{prefix}norm", "layernorm"),
        # Computed here, and checked to be the same.
        Placement(f"{prefix}pos_embedding.emb", ()),
    ]
    placements += [Placement(key, ()) for key in state if key.startswith(("decoder.", "enc_dec_proj."))]
    return ConversionPlan("MARLIN", VideoMAEModel, config, placements, normalises_pixels=False)


def _check_marlin_positions(stored: torch.Tensor, config: VideoMAEConfig) -> None:
    """Refuses stored positions that are not the sinusoids that VideoMAE computes for these clips."""
    num_positions = math.prod(describe_clips(config).token_grid)
    expected = sinusoid_positions(num_positions, config.hidden_size).unsqueeze(0)
    if stored.shape != expected.shape:
        raise CheckpointConversionError(
            f"pos_embedding.emb holds {stored.shape[1]} positions, and {config.num_frames} frames of "
            f"{config.image_size} x {config.image_size} pixels have {num_positions}; give --image-size or "
            "--num-frames"
        )
    difference = (stored.float() - expected).abs().max()
    if difference > 1e-3:
        raise CheckpointConversionError(
            f"pos_embedding.emb is not the table of sinusoids that VideoMAE computes (largest difference {difference})"
        )


def plan_s4d(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """S4D: VideoMAE at 160 x 160 with a prefix, and a head for videos beside one for stills, which is set aside."""
    released: dict[str, str] = {}
    stills = []
    for key in state:
        name = key.removeprefix("backbone.")
        if name.startswith("head.image."):
            stills.append(key)
        else:
            released[name.replace("head.video.", "head.", 1)] = key
    renamed = {name: state[key] for name, key in released.items()}
    plan = plan_videomae(renamed, replace(options, image_size=options.image_size or 160))
    placements = [Placement(released.get(place.source, place.source), place.targets) for place in plan.placements]
    placements += [Placement(key, ()) for key in stills]
    return ConversionPlan("S4D", plan.model_class, plan.config, placements)


def plan_conversion(state: StateDict, options: ConversionOptions) -> ConversionPlan:
    """Recognises the architecture by keys that no other has.

    Raises:
        CheckpointConversionError: an unknown architecture.
    """
    names = {key.removeprefix("encoder.") for key in state}
    if "lg_region_tokens" in names:
        return plan_mae_dfer(state, options)
    if any(name.startswith(("temporal_downsamples.", "spatial_downsamples.")) for name in names):
        return plan_svfap(state, options)
    if "patch_embedding.projection.weight" in names:
        return plan_marlin(state, options)
    if any(key.startswith(("backbone.", "head.video.")) for key in state):
        return plan_s4d(state, options)
    if "blocks.0.attn.qkv.weight" in names:
        return plan_videomae(state, options)
    first = ", ".join(sorted(state)[:5])
    raise CheckpointConversionError(
        f"the keys are none of VideoMAE's, MAE-DFER's, SVFAP's, MARLIN's or S4D's; among {len(state)} the first are "
        f"{first}"
    )


# --------------------------------------------------------------------------------------------- moving the tensors


def check_keys(state: StateDict, plan: ConversionPlan, parameters: Mapping[str, torch.Tensor]) -> None:
    """Stops unless checkpoint and plan hold the same keys with the same shapes.

    Args:
        state: the checkpoint's tensors.
        plan: the places of its keys.
        parameters: the built model's tensors by name.

    Raises:
        CheckpointConversionError: names every missing, unknown and misshapen key.
    """
    expected = [placement.source for placement in plan.placements]
    misshapen = []
    for placement in plan.placements:
        if placement.source in state and placement.targets:
            rows, *columns = parameters[placement.targets[0]].shape
            shape, wanted = tuple(state[placement.source].shape), (rows * len(placement.targets), *columns)
            if shape != wanted:
                misshapen.append(f"{placement.source} {shape} instead of {wanted}")
    findings = {
        "missing": [key for key in expected if key not in state],
        "unknown": sorted(state.keys() - set(expected)),
        "misshapen": misshapen,
    }
    problems = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in findings.items() if keys]
    if problems:
        raise CheckpointConversionError(
            f"the keys are not those of a {plan.architecture} {plan.model_class.__name__}; {'; '.join(problems)}"
        )


def build_model(state: StateDict, options: ConversionOptions) -> tuple[PreTrainedModel, ConversionPlan]:
    """The model of a released state dict, with its weights, in evaluation mode; and the plan that placed them.

    Raises:
        CheckpointConversionError: unknown architecture, or keys that are missing, unknown or misshapen.
        ValueError: the sizes contradict each other, for example regions that do not divide the token grid.
    """
    plan = plan_conversion(state, options)
    model = plan.model_class(plan.config).eval()
    check_keys(state, plan, model.state_dict())
    moved: StateDict = {}
    for placement in plan.placements:
        if placement.targets:
            # Fused projections are cut into equal row blocks.
            parts = state[placement.source].chunk(len(placement.targets), dim=0)
            moved.update(zip(placement.targets, (part.clone() for part in parts), strict=True))
    model.load_state_dict(moved, strict=True)
    return model, plan


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    options: ConversionOptions | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Converts a released checkpoint into a model folder with a report of every key.

    The folder loads by `AutoModelForVideoClassification` or `AutoModelForPreTraining`, and feeds
    `MTCAEForMultiTaskVideo.from_encoder_pretrained`. Nothing is written unless every key has its place.

    Args:
        path: the checkpoint file.
        output_dir: the folder to write; it must be empty or not exist.
        options: what the tensors do not tell; None = the released models' values.
        allow_pickle: True lets the file run code while it is read.

    Returns:
        The report: architecture, model class, number of keys, and the parameters that each key went to; none for what
        is set aside: the pre-training decoders of SVFAP and MARLIN, MARLIN's computed positions, S4D's head for stills.

    Raises:
        CheckpointConversionError: the file cannot be read safely, or its keys are not those of a known architecture.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise CheckpointConversionError(f"{output_dir}: exists and is not an empty folder; name another one")
    state = read_checkpoint(path, allow_pickle)
    try:
        model, plan = build_model(state, options or ConversionOptions())
    except ValueError as error:
        raise CheckpointConversionError(f"{path}: {error}") from error
    # Stays in the config of whatever is trained on top: its card names the weights and their licence.
    model.config.weights_origin = plan.architecture
    model.save_pretrained(output_dir)
    if not plan.normalises_pixels:
        # `training/run.py --encoder` follows it.
        VideoMAEImageProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3).save_pretrained(output_dir)
    report = {
        "checkpoint": Path(path).name,
        "architecture": plan.architecture,
        "model_class": plan.model_class.__name__,
        "num_keys": len(plan.placements),
        "placed": {placement.source: list(placement.targets) for placement in plan.placements},
    }
    write_json(output_dir / REPORT_FILE, report)
    return report
