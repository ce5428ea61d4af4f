"""Options of a training run, and where their values come from.

Later sources win: the dataclass defaults, the preset named by `--model` (training/configs/NAME.yaml), the YAML file
given by `--config`, the command line. A run writes the options that it resolved beside its results.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

PRESETS_FOLDER = Path(__file__).parent / "configs"


@dataclass
class DataArguments:
    """Which clips a run trains and tests on."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "Folder of a built data set (`mtcae dataset build`); empty = draw the synthetic corpus."},
    )
    synthetic_dir: str = field(
        default="runs/synthetic", metadata={"help": "Where the synthetic corpus and its labels are kept and reused."}
    )
    synthetic_subjects: int = field(default=72, metadata={"help": "Drawn subjects of the synthetic corpus."})
    synthetic_takes: int = field(default=2, metadata={"help": "Clips per drawn subject and expression."})
    synthetic_seed: int = field(default=0, metadata={"help": "Seed of the drawing; other seeds draw other people."})
    train_on_all: bool = field(
        default=False,
        metadata={
            "help": "Train, select and test on the same clips. It shows that a model can learn the clips, and nothing "
            "about unseen people; the report's protocol says so."
        },
    )
    cache_frames_gb: float = field(
        default=4.0,
        metadata={"help": "Decoded frames up to this many GB stay in memory; beyond, clips are decoded anew."},
    )
    augment: bool = field(default=True, metadata={"help": "Change training clips at random, by the options below."})
    smallest_crop: float = field(default=0.8, metadata={"help": "Side of the smallest crop / side of the frame."})
    largest_stretch: float = field(default=1.1, metadata={"help": "Largest ratio of a crop's sides to each other."})
    flip_probability: float = field(default=0.5, metadata={"help": "Share of clips mirrored left to right."})
    brightness: float = field(default=0.2, metadata={"help": "Largest relative change of brightness."})
    contrast: float = field(default=0.2, metadata={"help": "Largest relative change of contrast."})


@dataclass
class ModelArguments:
    """Which model a run trains."""

    model: str = field(
        default="tiny",
        metadata={"help": "Preset (training/configs), or a folder or Hub id of an MTCAE or VideoMAE checkpoint."},
    )
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of MTCAEConfig that a preset or YAML file sets."}
    )
    structure: str | None = field(
        default=None, metadata={"help": "single_task, non_fully_shared, fully_shared, cascaded."}
    )
    decoder_type: str | None = field(default=None, metadata={"help": "vit or mlp."})
    pooling: str | None = field(default=None, metadata={"help": "mean (paper), time, or time_and_place."})
    freeze_encoder: bool = field(default=False, metadata={"help": "Train decoders and heads alone."})
    whiten_patch_embedding: bool = field(
        default=False,
        metadata={"help": "Start a fresh patch embedding from the training tubelets' principal components."},
    )


@dataclass
class OptimisationArguments:
    """How a run trains. Names are those of transformers' TrainingArguments where it has a twin."""

    output_dir: str = field(
        default="runs/run", metadata={"help": "Model folder, checkpoints and report are written here."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run in output_dir."})
    num_train_epochs: int = field(default=100, metadata={"help": "Passes over the training clips."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Training clips per step and process."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Evaluated clips per step and process."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=1e-3, metadata={"help": "Weight decay, on matrices only."})
    warmup_epochs: float = field(default=0.0, metadata={"help": "Epochs of linear warm-up from zero."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "constant or cosine, after the warm-up."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0 = never."})
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "Label smoothing of classification tasks."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, order of clips, and augmentation."})
    bf16: bool = field(default=False, metadata={"help": "Mixed precision in bfloat16."})
    fp16: bool = field(default=False, metadata={"help": "Mixed precision in float16."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Less memory for about a third more time."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Loading processes per training process."})
    save_total_limit: int = field(default=2, metadata={"help": "Training checkpoints that are kept."})
    save_seconds: float = field(
        default=60.0, metadata={"help": "At least so much time lies between two training checkpoints."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "'latest', or a folder under output_dir/checkpoints."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload output_dir's model folder after the run."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository of push_to_hub, org/name."})


@dataclass
class RunArguments:
    """All options of one run."""

    data: DataArguments
    model: ModelArguments
    optimisation: OptimisationArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        groups = (self.data, self.model, self.optimisation)
        return {option.name: getattr(group, option.name) for group in groups for option in fields(group)}


ARGUMENT_GROUPS = (DataArguments, ModelArguments, OptimisationArguments)
OPTION_NAMES = {option.name for group in ARGUMENT_GROUPS for option in fields(group)}


def available_presets() -> list[str]:
    """Names that `--model` takes besides folders and Hub ids."""
    return sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml"))


def read_options_file(path: Path) -> dict[str, Any]:
    """Reads a YAML file of options.

    Raises:
        ValueError: the file is missing, is no mapping, or names an unknown option.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such options file")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: must map option names to values")
    unknown = sorted(set(options) - OPTION_NAMES)
    if unknown:
        raise ValueError(
            f"{path}: unknown options {', '.join(unknown)}; the options are {', '.join(sorted(OPTION_NAMES))}"
        )
    return options


def parse_run_arguments(arguments: Sequence[str] | None = None) -> RunArguments:
    """Resolves the options of a run from its command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    parser = HfArgumentParser(ARGUMENT_GROUPS, description="Trains and tests a multi-task cascaded autoencoder.")
    parser.add_argument("--config", type=Path, default=None, help="YAML file of options.")
    words = list(sys.argv[1:] if arguments is None else arguments)
    named = parser.parse_known_args(words)[0]
    file_options = read_options_file(named.config) if named.config else {}
    preset = file_options.get("model", named.model) if "--model" not in words else named.model
    preset_file = PRESETS_FOLDER / f"{preset}.yaml"
    preset_options = read_options_file(preset_file) if preset in available_presets() else {}
    parser.set_defaults(**(preset_options | file_options | {"model": preset}))
    data, model, optimisation, _ = parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)
    resolved = RunArguments(data, model, optimisation)
    check_arguments(resolved)
    return resolved


def check_arguments(arguments: RunArguments) -> None:
    """Refuses values that no run can use, each with its option, value and rule."""
    options = arguments.to_dict()
    for name in ("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate"):
        _require(options[name] > 0, name, options[name], "must be greater than 0")
    for name in ("weight_decay", "warmup_epochs", "max_grad_norm", "cache_frames_gb", "dataloader_num_workers"):
        _require(options[name] >= 0, name, options[name], "must be at least 0")
    _require(
        0 <= options["label_smoothing_factor"] < 1,
        "label_smoothing_factor",
        options["label_smoothing_factor"],
        "must be in [0, 1)",
    )
    for name in ("flip_probability", "brightness", "contrast"):
        _require(0 <= options[name] <= 1, name, options[name], "must be in [0, 1]")
    _require(0 < options["smallest_crop"] <= 1, "smallest_crop", options["smallest_crop"], "must be in (0, 1]")
    _require(options["largest_stretch"] >= 1, "largest_stretch", options["largest_stretch"], "must be at least 1")
    _require(options["save_total_limit"] >= 1, "save_total_limit", options["save_total_limit"], "must be at least 1")
    schedules = ("constant", "cosine")
    _require(
        options["lr_scheduler_type"] in schedules,
        "lr_scheduler_type",
        options["lr_scheduler_type"],
        "must be constant or cosine",
    )
    _require(not (options["bf16"] and options["fp16"]), "bf16", True, "cannot be combined with fp16")
    _require(not options["push_to_hub"] or options["hub_model_id"], "hub_model_id", None, "push_to_hub needs it")


def _require(condition: Any, name: str, value: Any, rule: str) -> None:
    if not condition:
        raise ValueError(f"--{name} {value}: {rule}")
