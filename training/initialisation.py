"""Models for a run: from a preset, from a pre-trained encoder, or from a checkpoint; and a data-dependent start."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from mtcae_dfer.configuration_common import as_height_and_width
from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.masked_tubelets import cut_tubelets
from mtcae_dfer.modeling_encoders import explain_unreadable, read_encoder_config
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.arguments import PRESETS_FOLDER, ModelArguments, available_presets
from mtcae_dfer.training.drop_path import set_drop_path

logger = logging.get_logger(__name__)

# Options of a run that are fields of the model's config by the same name.
NAMED_CONFIG_FIELDS = (
    "structure",
    "decoder_type",
    "pooling",
    "decoder_num_layers",
    "decoder_head_dim",
    "share_decoder_layers",
    "uncertainty_weighting",
    "contrastive_weight",
)
WHITENING_CLIPS = 128


def build_model(arguments: ModelArguments, classes: list[str]) -> MTCAEForMultiTaskVideo:
    """The model that `--model` names, with one class per expression of the data set.

    A preset gives a fresh model, whose encoder `--encoder` replaces by a pre-trained one; a checkpoint of MTCAE is
    trained on, with a fresh expression head if its classes differ; a checkpoint of VideoMAE becomes the encoder under
    fresh decoders.

    Raises:
        ValueError: as `checked_config_fields`, or the weights do not suit.
    """
    overrides = checked_config_fields(arguments) | {"id2label": dict(enumerate(classes))}
    if arguments.encoder is not None:
        fields = read_encoder_overrides(arguments.encoder_overrides or "")
        model = MTCAEForMultiTaskVideo.from_encoder_pretrained(arguments.encoder, fields, **overrides)
    elif arguments.model in available_presets():
        model = MTCAEForMultiTaskVideo(MTCAEConfig(**overrides))
    else:
        model = _load_checkpoint(arguments.model, overrides)
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    if arguments.drop_path:
        set_drop_path(model.encoder, arguments.drop_path)
    freeze_unread_weights(model.encoder)
    if arguments.freeze_encoder:
        model.freeze_encoder()
    return model


def checked_config_fields(arguments: ModelArguments) -> dict[str, Any]:
    """Fields of the model's config, of a model that is there: all that can be known before weights or clips are read.

    Raises:
        ValueError: the name is neither a preset nor a readable checkpoint, or it is a checkpoint and `--encoder` names
            another one; `--encoder` is no readable checkpoint, `--encoder_overrides` cannot be used, or a field has a
            value that it cannot have.
    """
    fields, encoder = config_fields(arguments), arguments.encoder
    if arguments.encoder_overrides and encoder is None:
        raise ValueError(f"--encoder_overrides {arguments.encoder_overrides}: needs --encoder, whose fields they are")
    if arguments.model not in available_presets():
        if encoder is not None:
            raise ValueError(f"--encoder {encoder}: goes under a preset's decoders, not into {arguments.model}")
        config = read_checkpoint_config(arguments.model)
        if config.model_type == "mtcae" and fields:
            told = f"a trained model's {', '.join(sorted(fields))} cannot be changed; leave them out"
            raise ValueError(f"--model {arguments.model}: {told}")
    elif encoder is None:
        MTCAEConfig(**fields)
    else:
        fields.pop("encoder_config", None)
        with explain_unreadable(encoder):
            read_encoder_config(encoder, read_encoder_overrides(arguments.encoder_overrides or ""))
    return fields


def config_fields(arguments: ModelArguments) -> dict[str, Any]:
    """Fields of the model's config: the preset's, and over them those that the options name.

    Raises:
        ValueError: `--tasks` or `--task_weights` cannot be used.
    """
    named = {name: getattr(arguments, name) for name in NAMED_CONFIG_FIELDS} | {"tasks": choose_tasks(arguments)}
    return arguments.model_config | {name: value for name, value in named.items() if value is not None}


def pretrained_source(arguments: ModelArguments) -> str | None:
    """The folder or Hub id that the training starts from; None for a fresh model."""
    return arguments.encoder or (None if arguments.model in available_presets() else arguments.model)


def freeze_unread_weights(encoder: nn.Module) -> None:
    """Freezes what of an image model over frames its feature map does not depend on: a pooler, a head, a mask token.

    Such weights never get a gradient, and several processes would wait for it.
    """
    image_model = getattr(encoder, "frame_encoder", None)
    if image_model is None:
        return
    config: Any = encoder.config
    training = encoder.training
    weights = [parameter for parameter in image_model.parameters() if parameter.requires_grad]
    # (1, C, H, W)
    picture = torch.zeros(1, config.num_channels, *as_height_and_width(config.image_size)).to(weights[0])
    with torch.random.fork_rng():  # what the model may draw must not move the draws of the run
        features = image_model.eval()(picture).last_hidden_state
    gradients = torch.autograd.grad(features.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)
    image_model.train(training)


def choose_tasks(arguments: ModelArguments) -> list[dict[str, Any]] | None:
    """The preset's tasks, or the paper's, as `--tasks` and `--task_weights` change them; None where they do not.

    Raises:
        ValueError: an option names a task that is not there, names one twice, or gives no number.
    """
    if arguments.tasks is None and arguments.task_weights is None:
        return None
    described = MTCAEConfig(**arguments.model_config).tasks or []
    by_name = {task["name"]: task for task in described}
    wanted = _split_words(arguments.tasks) if arguments.tasks is not None else list(by_name)
    weights = {}
    for word in _split_words(arguments.task_weights or ""):
        name, _, weight = word.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            rule = "must be TASK=NUMBER, several of them with commas between"
            raise ValueError(f"--task_weights {word}: {rule}") from None
    _refuse_unknown_tasks("tasks", wanted, by_name)
    _refuse_unknown_tasks("task_weights", list(weights), wanted)
    return [by_name[name] | ({"weight": weights[name]} if name in weights else {}) for name in wanted]


def read_encoder_overrides(text: str) -> dict[str, Any]:
    """Fields of an encoder's config from the text of `--encoder_overrides`: FIELD=VALUE with commas between.

    Raises:
        ValueError: the text is of another form.
    """
    try:
        # A mapping of YAML in braces, whose values are numbers, words or lists.
        fields = yaml.safe_load("{" + text.replace("=", ": ") + "}")
    except yaml.YAMLError:
        fields = {"": None}
    if not all(isinstance(name, str) and name.isidentifier() and value is not None for name, value in fields.items()):
        rule = "must be FIELD=VALUE, several of them with commas between, such as num_frames=8,image_size=[96,128]"
        raise ValueError(f"--encoder_overrides {text}: {rule}")
    return fields


def _split_words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _refuse_unknown_tasks(option: str, names: list[str], known: Iterable[str]) -> None:
    wrong = [name for name in names if name not in known or names.count(name) > 1]
    if wrong or (option == "tasks" and not names):
        there = ", ".join(known)
        raise ValueError(f"--{option} {','.join(names)}: must name each task at most once, out of {there}")


def read_checkpoint_config(name: str, presets_folder: Path = PRESETS_FOLDER) -> PreTrainedConfig:
    """The config of the checkpoint that `--model` names.

    Raises:
        ValueError: there is none, and no preset of that name either.
    """
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        presets = ", ".join(available_presets(presets_folder))
        raise ValueError(
            f"--model {name}: neither a preset ({presets}) nor a readable checkpoint folder or Hub id"
        ) from error


def _load_checkpoint(name: str, overrides: dict[str, Any]) -> MTCAEForMultiTaskVideo:
    config = read_checkpoint_config(name)
    if config.model_type != "mtcae":
        return MTCAEForMultiTaskVideo.from_encoder_pretrained(name, **overrides)
    if list((config.id2label or {}).values()) != list(overrides["id2label"].values()):
        logger.warning(f"{name} knows other expressions than the data set: its expression head starts afresh.")
    return MTCAEForMultiTaskVideo.from_pretrained(name, id2label=overrides["id2label"], ignore_mismatched_sizes=True)


def whitening_positions(count: int) -> list[int]:
    """Positions of the training clips that `whiten_patch_embedding` looks at, spread evenly over `count`."""
    return torch.linspace(0, count - 1, min(count, WHITENING_CLIPS)).round().long().unique().tolist()


@torch.no_grad()
def whiten_patch_embedding(
    model: nn.Module, pixel_values: torch.Tensor, temporal_orders: int = 3, floor: float = 0.01
) -> None:
    """Starts the patch embedding of a fresh encoder from the principal components of training tubelets.

    A random embedding is dominated by a tubelet's mean colour, and a small model needs many steps to look past it. Here
    every channel starts with the same variance: the first share of the channels sees the tubelet's mean over time, the
    others its cosine components over time, which are blind to everything that does not move.

    Args:
        model: its encoder, or it, embeds by a convolution over tubelets, as VideoMAE does.
        pixel_values: (B, T, 3, H, W) normalised training clips, no labels needed.
        temporal_orders: number of cosine components over the frames of a tubelet, less than its frames.
        floor: components weaker than this share of the strongest are not blown up to full variance.

    Raises:
        ValueError: the encoder has no such embedding.
    """
    projections = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    if len(projections) != 1:
        name = type(getattr(model, "encoder", model)).__name__
        raise ValueError(f"whiten_patch_embedding: {name} has no single convolution over tubelets")
    projection = projections[0]
    tubelet_size, *patch = projection.kernel_size
    # (B, N, time, patch pixels, 3) -> (B * N, 3, time, patch pixels)
    pixels = cut_tubelets(pixel_values, tubelet_size, (patch[0], patch[1])).flatten(0, 1).movedim(-1, 1).double()
    orders = min(temporal_orders, pixels.shape[2] - 1)
    # Two shares of the channels for the mean over time, one for each cosine component.
    share = projection.out_channels // (orders + 2)
    channels = [projection.out_channels - share * orders] + [share] * orders
    filters = [_whitening_filters(pixels, order, count, floor) for order, count in enumerate(channels)]
    # A random rotation spreads every component over all channels, as the attention heads expect.
    rotation = torch.linalg.qr(torch.randn(projection.out_channels, projection.out_channels).double()).Q
    weight = rotation @ torch.cat(filters).flatten(1)
    projection.weight.copy_(weight.view_as(projection.weight))
    assert projection.bias is not None  # of nn.Conv3d's default
    projection.bias.copy_(-(weight @ pixels.flatten(1).mean(dim=0)))


def _whitening_filters(pixels: torch.Tensor, order: int, channels: int, floor: float) -> torch.Tensor:
    """Filters (channels, 3, time, patch pixels) of unit output variance for one cosine component of float64 pixels.

    The same clips give the same filters however many threads add them up: directions of nearly equal variance need
    float64 for that, and their signs a rule.
    """
    frames = pixels.shape[2]
    phases = math.pi * order * (torch.arange(frames, dtype=torch.float64) + 0.5) / frames
    wave = torch.cos(phases) * (math.sqrt(2 / frames) if order else 1 / frames)
    component = torch.einsum("nctp,t->ncp", pixels, wave).flatten(1)
    centred = component - component.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    # An eigenvector is known up to its sign: that which a fixed vector, in general position, has a positive part along.
    fixed = torch.randn(len(directions), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = directions * (fixed @ directions).sign()
    # eigh sorts upwards: the strongest directions stand last
    deviations = variances[-channels:].flip(0).clamp(min=1e-8).sqrt()
    scaled = directions[:, -channels:].flip(1) / (deviations + floor * deviations[0])
    # (3 * patch pixels, channels) -> (channels, 3, 1, patch pixels) x (time, 1)
    return scaled.T.reshape(channels, 3, 1, -1) * wave[:, None]
