"""Options of a training run, and where their values come from.

Later sources win: the dataclass defaults, the preset named by `--model` (training/configs/NAME.yaml), the YAML file
given by `--config`, the command line. A run writes the options that it resolved beside its results.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from mtcae_dfer.face_crop import FACE_CROP_MARGIN

CLASS_WEIGHTS = ("none", "balanced")
TASK_WEIGHTINGS = ("fixed", "uncertainty")
FEATURE_TYPES = ("float32", "float16")
BLENDS = ("mixup_alpha", "cutmix_alpha")
SHARES = ("flip_probability", "brightness", "contrast", "saturation", "erasing_probability")

PRESETS_FOLDER = Path(__file__).parent / "configs"
PRETRAINING_PRESETS, MTL_ER_PRESETS = PRESETS_FOLDER / "pretraining", PRESETS_FOLDER / "mtl_er"


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what `--help` says of it."""
    return field(default=default, metadata={"help": help})


@dataclass
class SyntheticArguments:
    """The synthetic corpus that a run draws where it is given no data."""

    synthetic_dir: str = option("runs/synthetic", "Where the synthetic corpus and its labels are kept and reused.")
    synthetic_subjects: int = option(72, "Drawn subjects of the synthetic corpus.")
    synthetic_takes: int = option(2, "Clips per drawn subject and expression.")
    synthetic_seed: int = option(0, "Seed of the drawing; other seeds draw other people.")


@dataclass
class FaceCropArguments:
    """Whether frames are cropped to the face, by the rule of `face_crop.py`."""

    face_crop: bool = option(
        False, "Crop all clips to the square around the face's labels; the model's processor then does so."
    )
    face_crop_margin: float = option(FACE_CROP_MARGIN, "Added on every side of the face, as a share of its size.")
    face_crop_rise: float = option(0.0, "How far the crop's centre stands above the face's, in sides of the crop.")


@dataclass
class ProtocolArguments:
    """Which division of a built data set's subjects, and which fold of it."""

    protocol: str | None = option(
        None,
        "How subjects are divided: as-built (default), folds:NUMBER, leave-one-subject-out, a published "
        "division of the corpus such as mae-dfer, or a JSON file.",
    )
    fold: str | None = option(None, "Name of a fold of the protocol, such as fold_1; empty = the first.")


@dataclass
class DataArguments(FaceCropArguments, ProtocolArguments, SyntheticArguments):
    """Which clips a run trains and tests on."""

    dataset: str | None = option(
        None, "Folder of a built data set (`mtcae dataset build`); empty = draw the synthetic corpus."
    )
    videos: str | None = option(None, "Folder of the corpus's videos, for a data set of labels without videos.")
    train_on_all: bool = option(
        False,
        "Train, select and test on the same clips. It shows that a model can learn the clips, and nothing "
        "about unseen people; the report's protocol says so.",
    )
    cache_frames_gb: float = option(
        4.0, "Decoded frames up to this many GB stay in memory; beyond, clips are decoded anew."
    )
    frame_cache: str | None = option(
        None,
        "Folder of decoded frames, which all runs share (`mtcae dataset cache-frames`); what is missing is decoded "
        "into it. Empty = in memory, or anew.",
    )
    frame_cache_gb: float = option(
        20.0, "Decoded frames beyond this many GB do not go into --frame_cache; their clips are decoded anew."
    )
    frame_stride: int | None = option(
        None,
        "The model sees every so-manieth labelled frame: a window at a random place of a training clip, "
        "the middle of another. For data sets with more labelled frames than the model takes.",
    )
    also: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further data sets to train on, each FOLDER:SHARE of every batch; --dataset has the rest. It alone "
            "chooses the epoch and is tested."
        },
    )
    rename: list[str] = field(
        default_factory=list,
        metadata={"help": "Classes of --also data sets by their names in --dataset, old=new; old= leaves a class out."},
    )
    augment: bool = option(True, "Change training clips at random, by the options below.")
    smallest_crop: float = option(0.8, "Side of the smallest crop / side of the frame.")
    largest_stretch: float = option(1.1, "Largest ratio of a crop's sides to each other.")
    flip_probability: float = option(0.5, "Share of clips mirrored left to right.")
    brightness: float = option(0.2, "Largest relative change of brightness.")
    contrast: float = option(0.2, "Largest relative change of contrast.")
    saturation: float = option(0.0, "Largest relative change of colourfulness.")
    hue: float = option(0.0, "Largest turn of the hues / colour circle, at most 0.5.")
    largest_rotation: float = option(0.0, "Clips are turned by up to so many degrees.")
    erasing_probability: float = option(0.0, "Share of clips with a rectangle of noise.")
    largest_erasing: float = option(0.2, "Area of the largest such rectangle / frame.")
    balanced_sampling: bool = option(False, "Every epoch draws equally many training clips of every expression.")
    cache_features: bool = option(
        False, "Encode every clip once and train the decoders from the files; needs --freeze_encoder."
    )
    cache_features_dir: str | None = option(
        None, "Where features are kept and shared by runs; empty = output_dir/features."
    )
    cache_features_views: int = option(
        1, "Fixed views of a training clip: itself, then augmented ones; epochs take turns."
    )
    cache_features_dtype: str = option("float32", "float32, or float16 at half the size.")


@dataclass
class ModelArguments:
    """Which model a run trains."""

    model: str = option("tiny", "Preset (training/configs), or a folder or Hub id of an MTCAE or VideoMAE checkpoint.")
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of MTCAEConfig that a preset or YAML file sets."}
    )
    structure: str | None = option(
        None, "single_task, non_fully_shared, fully_shared, cascaded, mtformer, mnc, mtl_er."
    )
    decoder_type: str | None = option(None, "vit or mlp.")
    pooling: str | None = option(
        None, "mean (paper), time, time_and_place, attention; of tasks without one of their own."
    )
    tasks: str | None = option(
        None, "Names of the preset's tasks to keep, in the cascade's order: face_box,expression."
    )
    task_weights: str | None = option(None, "Loss weights that differ from the preset's: face_box=0.5,expression=1.5.")
    decoder_num_layers: int | None = option(None, "L, depth of each decoder's recursion.")
    decoder_head_dim: int | None = option(None, "Channels of one cross-attention head.")
    share_decoder_layers: bool | None = option(None, "One layer's weights serve the whole recursion of a decoder.")
    uncertainty_weighting: bool | None = option(None, "A learned variance scales each task's loss.")
    contrastive_weight: float | None = option(
        None, "Weight of the contrastive loss between the tasks' features; 0 = none."
    )
    encoder: str | None = option(
        None, "Folder or Hub id of a pre-trained encoder that takes the place of the preset's fresh one."
    )
    encoder_overrides: str | None = option(
        None, "Fields of --encoder's config that shall differ: num_frames=8,image_size=160."
    )
    attn_implementation: str | None = option(
        None, "eager, sdpa, flash_attention_2, ...; empty = sdpa, which is always there."
    )
    drop_path: float = option(
        0.0, "Share of residual updates left out in the encoder's last block; from 0 in the first."
    )
    freeze_encoder: bool = option(False, "Train decoders and heads alone.")
    whiten_patch_embedding: bool = option(
        False,
        "Start a fresh patch embedding from the training tubelets' principal components; a pre-trained "
        "encoder keeps its own.",
    )


@dataclass
class StepArguments:
    """How any model is trained, with labels or without. Names are those of transformers' TrainingArguments."""

    output_dir: str = option("runs/run", "Model folder, checkpoints and report are written here.")
    overwrite_output_dir: bool = option(False, "Replace the run in output_dir.")
    num_train_epochs: int = option(100, "Passes over the training clips.")
    per_device_train_batch_size: int = option(16, "Training clips per step and process.")
    learning_rate: float = option(1e-3, "Peak learning rate of AdamW.")
    min_learning_rate: float = option(0.0, "Learning rate at the end of a cosine.")
    adam_beta1: float = option(0.9, "Memory of AdamW's mean gradients.")
    adam_beta2: float = option(0.999, "Memory of AdamW's mean squares of gradients.")
    weight_decay: float = option(1e-3, "Weight decay, on matrices only.")
    warmup_epochs: float = option(0.0, "Epochs of linear warm-up from zero.")
    lr_scheduler_type: str = option("constant", "constant or cosine, after the warm-up.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0 = never.")
    seed: int = option(0, "Seed of weights, order of clips, and augmentation.")
    bf16: bool = option(False, "Mixed precision in bfloat16.")
    fp16: bool = option(False, "Mixed precision in float16.")
    optim: str = option("adamw_torch", "adamw_torch, or adamw_torch_fused: one kernel for all weights.")
    save_total_limit: int = option(2, "Training checkpoints that are kept.")
    resume_from_checkpoint: str | None = option(None, "'latest', or a folder under output_dir/checkpoints.")


@dataclass
class ClipStepArguments(StepArguments):
    """The same for a model that learns from clips, whose epochs are long and whose activations are many."""

    gradient_checkpointing: bool = option(False, "Less memory for about a third more time.")
    dataloader_num_workers: int = option(0, "Loading processes per training process.")
    save_seconds: float = option(60.0, "At least so much time lies between two training checkpoints.")
    report_to: str | None = option(
        None, "Trackers of losses and validation figures: tensorboard, trackio, wandb, or several."
    )


@dataclass
class OptimisationArguments(ClipStepArguments):
    """How a run trains and what becomes of its result."""

    per_device_eval_batch_size: int = option(32, "Evaluated clips per step and process.")
    gradient_accumulation_steps: int = option(1, "Batches that make one optimiser step.")
    scale_learning_rate: bool = option(
        False, "learning_rate is meant for 256 clips a step, and scaled to what a step has."
    )
    layer_decay: float = option(1.0, "Each block of the encoder learns so much slower than the next; 1 = alike.")
    label_smoothing_factor: float = option(0.0, "Label smoothing of the expression.")
    vote_share: float = option(
        0.0, "Share of the raters' votes in the expression's target, for clips that have them; the rest is the label."
    )
    mixup_alpha: float = option(
        0.0,
        "Batches are blended with themselves in another order, by Beta(alpha, alpha); faces keep the "
        "labels of the stronger clip; 0 = never.",
    )
    cutmix_alpha: float = option(
        0.0, "The same with a rectangle of the other clip pasted in; of both, each batch takes one."
    )
    class_weights: str = option("none", "balanced: rare expressions weigh more in the loss; none: every clip alike.")
    task_weighting: str = option("fixed", "fixed: the tasks' weights; uncertainty: weights learned with the model.")
    ema_decay: float = option(0.0, "Validate and keep a moving average of the weights, such as 0.999; 0 = none.")
    early_stopping_patience: int = option(0, "Stop after so many epochs without a better validation UAR; 0 = never.")
    test_segments: int = option(1, "Windows of a test clip whose scores are averaged; needs --frame_stride.")
    test_flip: bool = option(False, "Average the predictions of a test clip and of its mirror image.")
    torch_compile: bool = option(False, "Compile the training step's model.")
    dataloader_pin_memory: bool = option(True, "Load into pinned memory and copy while the accelerator computes.")
    dataloader_persistent_workers: bool = option(False, "Loading processes live for the whole run, not for an epoch.")
    dataloader_prefetch_factor: int = option(2, "Batches that each loading process prepares.")
    save_steps: int = option(0, "Training checkpoints within an epoch, every so many optimiser steps; 0 = none.")
    resume_with_changed_options: bool = option(False, "Resume although options differ from those of the checkpoint.")
    push_to_hub: bool = option(False, "Upload output_dir's model folder after the run.")
    hub_model_id: str | None = option(None, "Repository of push_to_hub, org/name.")


@dataclass
class RunArguments:
    """All options of one run."""

    data: DataArguments
    model: ModelArguments
    optimisation: OptimisationArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        return flatten_options(self.data, self.model, self.optimisation)


class ScriptArguments(Protocol):
    """The options of any of the three scripts."""

    @property
    def optimisation(self) -> StepArguments:
        """How it trains, and where its results go."""

    def to_dict(self) -> dict[str, Any]:
        """All options as one flat dictionary, as `--config` reads it back."""


ARGUMENT_GROUPS = (DataArguments, ModelArguments, OptimisationArguments)


def flatten_options(*groups: Any) -> dict[str, Any]:
    """The fields of several dataclasses as one dictionary, as `--config` reads it back."""
    return {option.name: getattr(group, option.name) for group in groups for option in fields(group)}


def available_presets(folder: Path = PRESETS_FOLDER) -> list[str]:
    """Names that `--model` takes besides folders and Hub ids."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(name: str, folder: Path = PRESETS_FOLDER, groups: Sequence[type] = ARGUMENT_GROUPS) -> dict[str, Any]:
    """The options of a preset, with those of the preset that it extends. Errors as `read_options_file`."""
    return read_options_file(folder / f"{name}.yaml", groups, folder)


def read_options_file(
    path: Path, groups: Sequence[type] = ARGUMENT_GROUPS, presets_folder: Path = PRESETS_FOLDER
) -> dict[str, Any]:
    """Reads a YAML file of options, which are the fields of the groups, on top of the preset that it `extends`.

    Raises:
        ValueError: the file is missing, is no mapping, names an unknown option, or extends what is no preset.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such options file")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: must map option names to values")
    extended = options.pop("extends", None)
    known = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    unknown = sorted(str(name) for name in options if name not in known)
    if unknown:
        raise ValueError(f"{path}: unknown options {', '.join(unknown)}; the options are {', '.join(sorted(known))}")
    for name, value in options.items():
        kind = known[name]
        # A file knows types that a command line does not; and YAML takes 1e-3 for text.
        if isinstance(value, str) and not is_of_kind(value, kind) and is_of_kind(0.0, kind):
            with suppress(ValueError):
                value = options[name] = float(value)
        holds = is_of_kind(value, kind) or (extended is not None and value is None)
        _require(holds, name, value, f"must be {in_words(kind)}")
    if extended is None:
        return options
    presets = available_presets(presets_folder)
    if extended not in presets:
        raise ValueError(f"{path}: extends: {extended}: no preset; there are {', '.join(presets)}")
    return merge_options(read_preset(extended, presets_folder, groups), options)


def merge_options(inherited: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Own options over inherited ones; mappings field by field.

    An own null takes the inherited option away, so that its default holds. A mapping that names another `model_type`
    takes the place of the inherited one: fields of one encoder mean nothing to another.
    """
    merged = dict(inherited)
    for name, value in own.items():
        before = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif not isinstance(value, dict) or not isinstance(before, dict):
            merged[name] = value
        else:
            of_one_type = value.get("model_type") in (None, before.get("model_type"))
            merged[name] = merge_options(before, value) if of_one_type else value
    return merged


def parse_run_arguments(arguments: Sequence[str] | None = None) -> RunArguments:
    """Resolves the options of a run from its command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    description = "Trains and tests a multi-task cascaded autoencoder."
    resolved = RunArguments(*parse_groups(ARGUMENT_GROUPS, arguments, description, PRESETS_FOLDER))
    check_arguments(resolved)
    return resolved


def parse_groups(
    groups: Sequence[type], arguments: Sequence[str] | None, description: str, presets_folder: Path
) -> list[Any]:
    """One object for each dataclass, with values from their defaults, the preset, `--config` and the command line.

    Args:
        groups: dataclasses of options; one of them has the option `model`, which may name a preset.
        arguments: words of the command line; None: this process's.
        description: what `--help` says.
        presets_folder: where the presets are.

    Raises:
        ValueError: an options file is wrong, or there is no such option.
    """
    described: Any = groups
    parser = HfArgumentParser(described, description=description)
    parser.add_argument("--config", type=Path, default=None, help="YAML file of options.")
    words = gather_lists(list(sys.argv[1:] if arguments is None else arguments), groups)
    named, unknown = parser.parse_known_args(words)
    if unknown:
        meant = get_close_matches(unknown[0].partition("=")[0], parser._option_string_actions, 1)
        raise ValueError(f"{unknown[0]}: there is no such option{f'; did you mean {meant[0]}?' if meant else ''}")
    file_options = read_options_file(named.config, groups, presets_folder) if named.config else {}
    told = any(word.split("=")[0] == "--model" for word in words)
    preset = named.model if told else file_options.get("model", named.model)
    preset_options = read_preset(preset, presets_folder, groups) if preset in available_presets(presets_folder) else {}
    parser.set_defaults(**(preset_options | file_options | {"model": preset}))
    return list(parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)[: len(groups)])


def gather_lists(words: Sequence[str], groups: Sequence[type]) -> list[str]:
    """`--also A --also B` -> `--also A B`, of which argparse would keep the last one alone."""
    kinds = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    lists = {f"--{name}" for name, kind in kinds.items() if is_of_kind([], kind)}
    rest: list[str] = []
    gathered: dict[str, list[str]] = {}
    current = rest
    for word in words:
        flag, equals, value = word.partition("=")
        flag = flag.replace("-", "_").replace("__", "--", 1)
        if word.startswith("--") and flag in lists:
            current = gathered.setdefault(flag, [])
            current += [value] if equals else []
        else:
            current = rest if word.startswith("--") else current
            current.append(word)
    return [*rest, *(word for flag, values in gathered.items() for word in (flag, *values))]


# The types of options in words.
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value suits an option's type; a whole number is a number, and true is neither."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(is_of_kind(value, part) for part in inner)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_of_kind(entry, inner[0]) for entry in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else get_origin(kind) or kind)


def in_words(kind: Any) -> str:
    """The type of an option as a message names it."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("empty" if part is type(None) else in_words(part) for part in inner)
    return f"a list, each {in_words(inner[0])}" if get_origin(kind) is list else KINDS[get_origin(kind) or kind]


@dataclass(frozen=True)
class FurtherData:
    """A data set that is trained on beside the first one, `--also FOLDER:SHARE`."""

    folder: str
    share: float  # of every batch

    @property
    def name(self) -> str:
        """What reports call it."""
        return Path(self.folder).name


def parse_also(words: Sequence[str]) -> list[FurtherData]:
    """["B:0.5", "C:0.25"] -> the data sets with their shares; the first data set gets what is left.

    Raises:
        ValueError: a share is missing or no number between 0 and 1, all of them leave nothing, or a folder comes twice.
    """
    further = []
    for word in words:
        folder, _, share = word.rpartition(":")
        try:
            further.append(FurtherData(folder, float(share)))
        except ValueError:
            raise ValueError(f"--also {word}: must be FOLDER:SHARE, such as faces:0.5") from None
        if not folder or not 0 < further[-1].share < 1:
            raise ValueError(f"--also {word}: must be FOLDER:SHARE with a share between 0 and 1")
    if sum(entry.share for entry in further) >= 1:
        raise ValueError(f"--also {' '.join(words)}: the shares leave nothing of a batch for --dataset")
    if len({entry.name for entry in further}) < len(further):
        raise ValueError(f"--also {' '.join(words)}: data sets need different names")
    return further


def parse_renames(words: Sequence[str]) -> dict[str, str]:
    """["happy=happiness", "contempt="] -> new names by old ones; without a new name a class is left out.

    Raises:
        ValueError: a word is no pair, or a class is renamed twice.
    """
    pairs = [word.split("=") for word in words]
    if any(len(pair) != 2 or not pair[0] for pair in pairs):
        raise ValueError(f"--rename {' '.join(words)}: must be old=new, or old= to leave a class out")
    if len({old for old, _ in pairs}) < len(pairs):
        raise ValueError(f"--rename {' '.join(words)}: renames a class twice")
    return {old: new for old, new in pairs}


def check_arguments(arguments: RunArguments) -> None:
    """Refuses values that no run can use, each with its option, value and rule."""
    options = arguments.to_dict()
    check_step_arguments(options)
    check_face_crop(options)
    parse_also(options["also"])
    parse_renames(options["rename"])
    run = SimpleNamespace(**options)
    for name, holds, rule in (
        ("rename", not run.rename or run.also, "needs --also"),
        ("also", not run.also or not run.cache_features, "not with --cache_features"),
        ("also", not run.also or not run.balanced_sampling, "not with --balanced_sampling"),
        ("also", not run.also or not run.train_on_all, "not with --train_on_all"),
        ("per_device_eval_batch_size", run.per_device_eval_batch_size > 0, "must be greater than 0"),
        ("cache_frames_gb", run.cache_frames_gb >= 0, "must be at least 0"),
        ("gradient_accumulation_steps", run.gradient_accumulation_steps >= 1, "must be at least 1"),
        ("layer_decay", 0 < run.layer_decay <= 1, "must be in (0, 1]"),
        ("drop_path", 0 <= run.drop_path < 1, "must be in [0, 1)"),
        ("ema_decay", 0 <= run.ema_decay < 1, "must be in [0, 1)"),
        ("early_stopping_patience", run.early_stopping_patience >= 0, "must be at least 0"),
        ("save_steps", run.save_steps >= 0, "must be at least 0"),
        ("frame_stride", run.frame_stride is None or run.frame_stride >= 1, "must be at least 1"),
        ("test_segments", run.test_segments >= 1, "must be at least 1"),
        ("test_segments", run.test_segments == 1 or run.frame_stride, "needs --frame_stride"),
        *((name, options[name] >= 0, "must be at least 0") for name in BLENDS),
        *((name, not options[name] or not run.cache_features, "needs frames") for name in BLENDS),
        *((name, not options[name] or run.per_device_train_batch_size > 1, "needs batches") for name in BLENDS),
        ("dataloader_num_workers", run.dataloader_num_workers >= 0, "must be at least 0"),
        ("dataloader_prefetch_factor", run.dataloader_prefetch_factor >= 1, "must be at least 1"),
        ("class_weights", run.class_weights in CLASS_WEIGHTS, f"must be {' or '.join(CLASS_WEIGHTS)}"),
        ("task_weighting", run.task_weighting in TASK_WEIGHTINGS, f"must be {' or '.join(TASK_WEIGHTINGS)}"),
        ("largest_rotation", 0 <= run.largest_rotation <= 45, "must be in [0, 45]"),
        ("hue", 0 <= run.hue <= 0.5, "must be in [0, 0.5]"),
        ("largest_erasing", 0 < run.largest_erasing <= 0.5, "must be in (0, 0.5]"),
        ("cache_features", not run.cache_features or run.freeze_encoder, "needs --freeze_encoder"),
        ("cache_features_views", run.cache_features_views >= 1, "must be at least 1"),
        ("cache_features_dtype", run.cache_features_dtype in FEATURE_TYPES, f"must be {' or '.join(FEATURE_TYPES)}"),
        ("vote_share", 0 <= run.vote_share <= 1, "must be in [0, 1]"),
        ("label_smoothing_factor", 0 <= run.label_smoothing_factor < 1, "must be in [0, 1)"),
        *((name, 0 <= options[name] <= 1, "must be in [0, 1]") for name in SHARES),
        ("smallest_crop", 0 < run.smallest_crop <= 1, "must be in (0, 1]"),
        ("largest_stretch", run.largest_stretch >= 1, "must be at least 1"),
        ("hub_model_id", not run.push_to_hub or run.hub_model_id, "push_to_hub needs it"),
    ):
        _require(holds, name, options[name], rule)


def check_face_crop(options: dict[str, Any]) -> None:
    """The same for the crop of frames to the face."""
    _require(options["face_crop_margin"] >= 0, "face_crop_margin", options["face_crop_margin"], "must be at least 0")
    rise = options["face_crop_rise"]
    _require(-0.5 <= rise <= 0.5, "face_crop_rise", rise, "must be in [-0.5, 0.5]")


def check_step_arguments(options: dict[str, Any]) -> None:
    """The same for the options that every training has, with labels or without."""
    for name in ("num_train_epochs", "per_device_train_batch_size", "learning_rate"):
        _require(options[name] > 0, name, options[name], "must be greater than 0")
    for name in ("min_learning_rate", "weight_decay", "warmup_epochs", "max_grad_norm"):
        _require(options[name] >= 0, name, options[name], "must be at least 0")
    _require(options["save_total_limit"] >= 1, "save_total_limit", options["save_total_limit"], "must be at least 1")
    optimisers = ("adamw_torch", "adamw_torch_fused")
    _require(options["optim"] in optimisers, "optim", options["optim"], f"must be {' or '.join(optimisers)}")
    for name in ("adam_beta1", "adam_beta2"):
        _require(0 <= options[name] < 1, name, options[name], "must be in [0, 1)")
    schedules = ("constant", "cosine")
    schedule = options["lr_scheduler_type"]
    _require(schedule in schedules, "lr_scheduler_type", schedule, "must be constant or cosine")
    _require(not (options["bf16"] and options["fp16"]), "bf16", True, "cannot be combined with fp16")


def _require(condition: Any, name: str, value: Any, rule: str) -> None:
    if not condition:
        raise ValueError(f"--{name} {value}: {rule}")
