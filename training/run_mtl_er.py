"""The job of MTL-ER: features, models, ensemble, test, report.

    accelerate launch training/run_mtl_er.py
    accelerate launch training/run_mtl_er.py --features A.parquet,B.parquet --train_labels TRAIN.txt \
        --validation_labels VALIDATION.txt --test_labels TEST.txt --model released --output_dir RUN

Without arguments it draws the synthetic corpus, trains a small frame encoder on the training subjects, extracts its
features, trains MTL-ER and one model for each task alone, and tests them on unseen subjects.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils import logging

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS, TASKS, MTLERConfig
from mtcae_dfer.hub_dataset.files import plain_values, write_json
from mtcae_dfer.modeling_mtl_er import (
    MTLERForAffectiveBehavior,
    MTLERPrediction,
    average_predictions,
    smooth_over_time,
)
from mtcae_dfer.training.affect.sequences import (
    AffectDataset,
    AffectSequence,
    AffectSplits,
    draw_splits,
    pad_videos,
    padding_of,
    read_splits,
)
from mtcae_dfer.training.arguments import (
    PRESETS_FOLDER,
    StepArguments,
    check_step_arguments,
    flatten_options,
    parse_groups,
)
from mtcae_dfer.training.checkpoints import save_checkpoint
from mtcae_dfer.training.evaluation.metrics import concordance_correlation, multi_task_score
from mtcae_dfer.training.optimisation import make_optimiser, make_schedule
from mtcae_dfer.training.run import (
    Progress,
    Stopwatch,
    make_accelerator,
    refuse_changed_options,
    start_or_resume,
)

MTL_ER_PRESETS = PRESETS_FOLDER / "mtl_er"
REPORT_FILE, RESULT_FILE, MEMBERS_FOLDER = "report.json", "result.json", "members"
SMOOTHED = ("valence", "arousal")
FIGURES = {
    "p_mtl": "P_MTL",
    "ccc_valence": "CCC valence",
    "ccc_arousal": "CCC arousal",
    "expression_f1": "F1 expressions",
    "action_unit_f1": "F1 action units",
}


@dataclass
class AffectDataArguments:
    """Which features and labels a run trains and tests on."""

    features: str | None = field(
        default=None,
        metadata={"help": "Feature files, separated by commas, concatenated per frame; empty = the synthetic corpus."},
    )
    train_labels: str | None = field(default=None, metadata={"help": "Label file of s-Aff-Wild2 for training."})
    validation_labels: str | None = field(default=None, metadata={"help": "Label file for validation."})
    test_labels: str | None = field(default=None, metadata={"help": "Label file for the test."})
    normalise_per_video: bool = field(
        default=False, metadata={"help": "Every feature gets mean 0 and deviation 1 over a video's labelled frames."}
    )
    synthetic_dir: str = field(default="runs/synthetic", metadata={"help": "Where the synthetic corpus is kept."})
    synthetic_subjects: int = field(default=72, metadata={"help": "Drawn subjects of the synthetic corpus."})
    synthetic_takes: int = field(default=2, metadata={"help": "Clips per drawn subject and expression."})
    synthetic_seed: int = field(default=0, metadata={"help": "Seed of the drawing and of the frame encoder."})
    frame_encoder_steps: int = field(
        default=600, metadata={"help": "Training steps of the synthetic corpus's frame encoder."}
    )


@dataclass
class AffectModelArguments:
    """Which models a run trains."""

    model: str = field(
        default="tiny", metadata={"help": "Preset (training/configs/mtl_er): tiny, or released for the paper's size."}
    )
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of MTLERConfig that a preset or YAML file sets."}
    )
    encoder_type: str | None = field(default=None, metadata={"help": "transformer, lstm or gru."})
    framework: str | None = field(
        default=None, metadata={"help": "share_encoder, share_bottom or share_bottom_feedback."}
    )
    feedback_kind: str | None = field(default=None, metadata={"help": "hidden_state or label_embedding."})
    dependencies: str | None = field(
        default=None, metadata={"help": "What is fed back: arousal=valence+action_units,expression=action_units."}
    )
    valence_arousal_loss: str | None = field(default=None, metadata={"help": "mse or ccc."})
    chunk_merge: str | None = field(default=None, metadata={"help": "overlap or consecutive, for inference."})
    seeds: str = field(default="0,1", metadata={"help": "Seeds of the ensemble's models."})
    ensemble: str | None = field(
        default=None, metadata={"help": "Folders of trained models, separated by commas, that join the ensemble."}
    )
    single_tasks: bool = field(
        default=True, metadata={"help": "Train a model for each task alone too, with the first seed, for comparison."}
    )
    smoothing_half_widths: str = field(
        default="0,1,2,5,10,15",
        metadata={"help": "Half widths in frames among which validation chooses the smoothing of valence and arousal."},
    )


@dataclass
class AffectStepArguments(StepArguments):
    """How each model is trained."""

    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW's decay of the mean gradient."})
    adam_beta2: float = field(default=0.999, metadata={"help": "AdamW's decay of the squared gradient."})
    true_label_decay: bool = field(
        default=False, metadata={"help": "feedback_kind label_embedding: the share of true labels falls to 0 linearly."}
    )


@dataclass
class AffectArguments:
    """All options of one run."""

    data: AffectDataArguments
    model: AffectModelArguments
    optimisation: AffectStepArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        return flatten_options(self.data, self.model, self.optimisation)


@dataclass(frozen=True)
class Member:
    """One model to train."""

    name: str
    tasks: tuple[str, ...]
    seed: int


@dataclass
class MemberState(Progress):
    """What the training of one model knows between epochs."""

    selected_epoch: int = 0
    selected_score: float = -float("inf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    options: AffectArguments | None = None
    logging.disable_progress_bar()
    try:
        options = parse_arguments(arguments)
        run(options)
        return 0
    except KeyboardInterrupt:
        where = options.optimisation.output_dir if options else "the run"
        print(f"\nStopped. Go on with the same command and --resume_from_checkpoint latest ({where}).", file=sys.stderr)
        return 130
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"run_mtl_er.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse_arguments(arguments: Sequence[str] | None = None) -> AffectArguments:
    """Resolves the options of a run from its command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    groups = (AffectDataArguments, AffectModelArguments, AffectStepArguments)
    description = "Trains and tests MTL-ER on per-frame features."
    resolved = AffectArguments(*parse_groups(groups, arguments, description, MTL_ER_PRESETS))
    options = resolved.to_dict()
    check_step_arguments(options)
    presets = sorted(path.stem for path in MTL_ER_PRESETS.glob("*.yaml"))
    if resolved.model.model not in presets:
        raise ValueError(f"--model {resolved.model.model}: no preset; there are {', '.join(presets)}")
    if options["frame_encoder_steps"] < 1:
        raise ValueError(f"--frame_encoder_steps {options['frame_encoder_steps']}: must be greater than 0")
    whole_numbers("seeds", resolved.model.seeds)
    whole_numbers("smoothing_half_widths", resolved.model.smoothing_half_widths)
    return resolved


def whole_numbers(name: str, text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"--{name} {text}: must be different whole numbers, separated by commas")
    return [int(part) for part in parts]


def parse_dependencies(text: str) -> dict[str, list[str]]:
    """ "arousal=valence+action_units" -> {"arousal": ["valence", "action_units"]}; "none" -> {}."""
    if text.strip() == "none":
        return {}
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"--dependencies {text}: write target=source+source, several separated by commas, or none")
    return {target.strip(): [source.strip() for source in sources.split("+")] for target, sources in pairs}


def run(arguments: AffectArguments) -> dict[str, Any]:
    """Trains, selects, tests and reports; returns the report's content."""
    output_dir = Path(arguments.optimisation.output_dir)
    accelerator = make_accelerator(arguments.optimisation)
    stopwatch = Stopwatch()
    claim_output_dir(output_dir, arguments.optimisation, accelerator)
    with stopwatch.stage("features"):
        splits = open_splits(arguments.data, output_dir, accelerator)
    make_config(arguments.model, splits, TASKS)  # a wrong option is told before anything is trained
    members = plan_members(arguments.model)
    with stopwatch.stage("training"):
        results = {member.name: train_member(member, splits, arguments, output_dir) for member in members}
    with stopwatch.stage("testing"):
        systems = test_systems(accelerator, members, splits, arguments, output_dir)
    report = {
        "protocol": splits.protocol,
        "data": splits.data,
        "features": splits.feature_names,
        "input_size": splits.input_size,
        "videos": {name: [video.name for video in getattr(splits, name)] for name in ("train", "validation", "test")},
        "test_frames": sum(len(video.labels) for video in splits.test),
        "action_units": labelled_units(splits.test),
        "systems": systems,
        "members": results,
        "options": arguments.to_dict(),
        "versions": {name: version(name) for name in ("transformers", "torch", "accelerate")},
        "seconds": stopwatch.seconds,
    }
    if accelerator.is_main_process:
        write_json(output_dir / REPORT_FILE, report)
        print(format_table(report))
        print(f"Models and report.json: {output_dir}")
    accelerator.end_training()
    return report


def claim_output_dir(output_dir: Path, options: StepArguments, accelerator: Accelerator) -> None:
    """Refuses to mix two runs in one folder."""
    if accelerator.is_main_process:
        written = [MEMBERS_FOLDER, "frame_encoder", "features.parquet", REPORT_FILE]
        if options.overwrite_output_dir and not options.resume_from_checkpoint:
            for name in written:
                path = output_dir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif (output_dir / REPORT_FILE).exists():
            raise ValueError(f"{output_dir} holds a finished run: choose another --output_dir, --overwrite_output_dir")
        elif any((output_dir / name).exists() for name in written) and not options.resume_from_checkpoint:
            raise ValueError(
                f"{output_dir} holds an unfinished run: add --resume_from_checkpoint latest, or --overwrite_output_dir"
            )
        output_dir.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()


def open_splits(options: AffectDataArguments, output_dir: Path, accelerator: Accelerator) -> AffectSplits:
    """The run's videos. The main process draws and extracts; the others then find its files."""
    if options.features:
        return read_splits(options)
    if any((options.train_labels, options.validation_labels, options.test_labels)):
        raise ValueError("label files need --features FILE of the same videos; see training/affect/extract_features.py")
    with accelerator.main_process_first():
        return draw_splits(options, output_dir)


def plan_members(options: AffectModelArguments) -> list[Member]:
    """The models of the run: one of all tasks for each seed, then one for each task alone."""
    seeds = whole_numbers("seeds", options.seeds)
    members = [Member(f"multi_task-seed-{seed}", TASKS, seed) for seed in seeds]
    alone = TASKS if options.single_tasks else ()
    return members + [Member(f"{task}-seed-{seeds[0]}", (task,), seeds[0]) for task in alone]


def make_config(options: AffectModelArguments, splits: AffectSplits, tasks: Sequence[str]) -> MTLERConfig:
    """The config of a model of some tasks: the preset's fields, then the command line's."""
    names = ("encoder_type", "framework", "feedback_kind", "valence_arousal_loss", "chunk_merge")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.dependencies is not None:
        chosen["dependencies"] = parse_dependencies(options.dependencies)
    fields = {**options.model_config, **chosen, "tasks": list(tasks)}
    if len(tasks) == 1:
        fields["dependencies"] = {}  # nothing can be fed back from a task that is not there
    config = MTLERConfig(input_size=splits.input_size, feature_names=splits.feature_names, **fields)
    for name, labelled in (("expressions", AFFECT_EXPRESSIONS), ("action_units", AFFECT_ACTION_UNITS)):
        if getattr(config, name) != list(labelled):
            raise ValueError(f"model_config.{name}={getattr(config, name)}: the label files hold {list(labelled)}")
    return config


# Training


def train_member(member: Member, splits: AffectSplits, arguments: AffectArguments, output_dir: Path) -> dict[str, Any]:
    """Trains one model; its folder holds the best epoch on the validation videos. A finished one is not repeated."""
    folder = output_dir / MEMBERS_FOLDER / member.name
    options = arguments.optimisation
    # An accelerator of its own: whatever one model registers for its checkpoints would stand in the next one's.
    accelerator = make_accelerator(options)
    finished = read_finished(folder, arguments)
    if finished is not None:
        accelerator.print(f"{member.name}: finished before")
        return finished
    set_seed(options.seed + member.seed)
    model = MTLERForAffectiveBehavior(make_config(arguments.model, splits, member.tasks))
    optimiser = make_optimiser(model, options)
    for group in optimiser.param_groups:
        group["betas"] = (options.adam_beta1, options.adam_beta2)
    loader = DataLoader(
        AffectDataset(splits.train), options.per_device_train_batch_size, shuffle=True, collate_fn=pad_videos
    )
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    schedule = make_schedule(optimiser, options, len(loader))
    accelerator.register_for_checkpointing(schedule)
    state = start_or_resume(accelerator, arguments, folder, MemberState)
    for epoch in tqdm(
        range(state.epoch, options.num_train_epochs),
        desc=member.name,
        unit="epoch",
        disable=not accelerator.is_main_process,
    ):
        set_seed(options.seed + 1000 * member.seed + 1 + epoch)
        loader.set_epoch(1000 * member.seed + epoch)
        let_true_labels_fall(accelerator.unwrap_model(model), options, epoch)
        losses = train_epoch(accelerator, model, optimiser, schedule, loader, options)
        validation = validate(accelerator.unwrap_model(model), splits.validation)
        state.epoch = epoch + 1
        state.history.append({"epoch": state.epoch, **losses, "validation": validation})
        keep_best(accelerator, model, state, folder)
        save_checkpoint(accelerator, folder / "checkpoints", plain_values(vars(state)), options.save_total_limit)
    result = {"selected_epoch": state.selected_epoch, "history": state.history, "options": state.options}
    if accelerator.is_main_process:
        write_json(folder / RESULT_FILE, result)
    accelerator.wait_for_everyone()
    return result


def read_finished(folder: Path, arguments: AffectArguments) -> dict[str, Any] | None:
    """The result of a model that was trained to its end earlier; None where there is none.

    Raises:
        CheckpointError: it was trained with other options.
    """
    file = folder / RESULT_FILE
    if not file.exists():
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    refuse_changed_options(result["options"], arguments.to_dict(), folder)
    return result


def let_true_labels_fall(model: MTLERForAffectiveBehavior, options: AffectStepArguments, epoch: int) -> None:
    """Linear decay of the share of training frames that feed back true labels."""
    if options.true_label_decay:
        rest = 1.0 - epoch / options.num_train_epochs
        model.true_label_share = float(model.config.true_label_share) * rest


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loader: DataLoader,
    options: AffectStepArguments,
) -> dict[str, Any]:
    """One pass over the training videos with a step for every chunk; returns mean losses."""
    model.train()
    sums: dict[str, float] = {}
    steps = 0
    for batch in loader:
        state = None
        for chunk in cut_into_chunks(batch, accelerator.unwrap_model(model).config.chunk_length, accelerator):
            outputs = model(**chunk, state=state)
            if not torch.isfinite(outputs.loss):
                raise ValueError(f"the loss is {outputs.loss.item()}: lower --learning_rate, or look at the features")
            accelerator.backward(outputs.loss)
            if options.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            state = outputs.state
            steps += 1
            for name, loss in {"train_loss": outputs.loss, **outputs.task_losses}.items():
                sums[name] = sums.get(name, 0.0) + loss.item()
        schedule.step()
    means = {name: total / steps for name, total in sums.items()}
    return {"train_loss": means.pop("train_loss"), "task_losses": means, "learning_rate": schedule.get_last_lr()[0]}


def cut_into_chunks(
    batch: dict[str, torch.Tensor], chunk_length: int, accelerator: Accelerator
) -> Iterator[dict[str, torch.Tensor]]:
    """Consecutive chunks of a batch of whole videos, as many in every process."""
    length = torch.tensor([batch["features"].shape[1]], device=accelerator.device)
    # Processes exchange gradients at every step, so that one with shorter videos goes on over padding.
    longest = int(accelerator.gather(length).max())
    rest = longest - int(length)
    if rest:
        batch = {name: _lengthen(values, rest, padding_of(name)) for name, values in batch.items()}
    for start in range(0, longest, chunk_length):
        yield {name: values[:, start : start + chunk_length] for name, values in batch.items()}


def _lengthen(values: torch.Tensor, rest: int, padding: float) -> torch.Tensor:
    # (B, L, ...) -> (B, L + rest, ...)
    more = values.new_full((values.shape[0], rest, *values.shape[2:]), padding)
    return torch.cat([values, more], dim=1)


def keep_best(accelerator: Accelerator, model: torch.nn.Module, state: MemberState, folder: Path) -> None:
    """Keeps the epoch with the highest sum of validation figures, the first of equals."""
    score = selection_score(state.history[-1]["validation"])
    if score > state.selected_score:
        state.selected_score, state.selected_epoch = score, state.epoch
        if accelerator.is_main_process:
            accelerator.unwrap_model(model).save_pretrained(folder)
    accelerator.wait_for_everyone()


def selection_score(figures: dict[str, float]) -> float:
    """P_MTL, or its parts that a model of fewer tasks has and that are labelled."""
    halves = {"ccc_valence": 0.5, "ccc_arousal": 0.5, "expression_f1": 1.0, "action_unit_f1": 1.0}
    known = [weight * figures[name] for name, weight in halves.items() if np.isfinite(figures.get(name, np.nan))]
    return float(sum(known)) if known else -1.0


# Prediction and test


def predict_videos(models: Sequence[MTLERForAffectiveBehavior], videos: Sequence[AffectSequence]) -> list[Any]:
    """Each video's prediction, without the axis of videos; several models are averaged."""
    for model in models:
        model.eval()
    device = models[0].device
    predictions = []
    for video in videos:
        features = torch.from_numpy(video.features)[None].to(device)
        mean = average_predictions([model.predict(features) for model in models])
        predictions.append(MTLERPrediction(**{name: value[0].cpu() for name, value in mean.items()}))
    return predictions


def join_tasks(parts: Sequence[Sequence[MTLERPrediction]]) -> list[MTLERPrediction]:
    """Predictions of models of one task each, put together video by video."""
    return [
        MTLERPrediction(**{name: value for part in video for name, value in part.items()})
        for video in zip(*parts, strict=True)
    ]


def as_table(prediction: MTLERPrediction, half_widths: dict[str, int] | None = None) -> np.ndarray:
    """A video's prediction in the columns of s-Aff-Wild2, (L, 3 + U); tasks that are not there become zeros.

    Args:
        prediction: of one video.
        half_widths: of the smoothing of valence and arousal; None: none.
    """
    length = len(next(iter(prediction.values())))
    columns = []
    for name in SMOOTHED:
        values = prediction.get(name)
        values = torch.zeros(length) if values is None else smooth_over_time(values, (half_widths or {}).get(name, 0))
        columns.append(values.clamp(-1.0, 1.0).numpy())
    scores, units = prediction.get("expression_probabilities"), prediction.get("action_unit_probabilities")
    columns.append(np.zeros(length) if scores is None else scores.argmax(dim=-1).numpy())
    columns.append(np.zeros((length, len(AFFECT_ACTION_UNITS))) if units is None else (units >= 0.5).numpy())
    return np.column_stack(columns).astype(np.float64)


def score(
    predictions: Sequence[MTLERPrediction],
    videos: Sequence[AffectSequence],
    half_widths: dict[str, int] | None = None,
) -> dict[str, float]:
    """P_MTL and its parts over all frames of all videos."""
    predicted = np.concatenate([as_table(prediction, half_widths) for prediction in predictions])
    return multi_task_score(predicted, reference_table(videos), len(AFFECT_EXPRESSIONS))


def reference_table(videos: Sequence[AffectSequence]) -> np.ndarray:
    """Labels of all frames of all videos (N, 3 + U)."""
    return np.concatenate([video.labels.as_table() for video in videos])


def validate(model: MTLERForAffectiveBehavior, videos: Sequence[AffectSequence]) -> dict[str, float]:
    """The figures of the model's tasks on the validation videos, without smoothing."""
    figures = score(predict_videos([model], videos), videos)
    of_task = dict(zip(TASKS, ("ccc_valence", "ccc_arousal", "expression_f1", "action_unit_f1"), strict=True))
    return {of_task[task]: figures[of_task[task]] for task in model.config.tasks}


def search_smoothing(
    predictions: Sequence[MTLERPrediction], videos: Sequence[AffectSequence], half_widths: Sequence[int]
) -> dict[str, int]:
    """The half width with the highest CCC on these videos, for valence and for arousal; the smallest of equals."""
    chosen = {}
    for name in SMOOTHED:
        true = np.concatenate([getattr(video.labels, name) for video in videos])

        def agreement(half_width: int, name: str = name, true: np.ndarray = true) -> float:
            smoothed = [smooth_over_time(prediction[name], half_width) for prediction in predictions]
            return concordance_correlation(torch.cat(smoothed).numpy(), true)

        chosen[name] = max(sorted(half_widths), key=agreement)
    return chosen


def test_systems(
    accelerator: Accelerator,
    members: Sequence[Member],
    splits: AffectSplits,
    arguments: AffectArguments,
    output_dir: Path,
) -> dict[str, Any]:
    """Figures of each system on the test videos, with the smoothing that its validation videos chose."""
    options = arguments.model
    models = {
        member.name: MTLERForAffectiveBehavior.from_pretrained(output_dir / MEMBERS_FOLDER / member.name)
        for member in members
    }
    joint = [models[member.name] for member in members if len(member.tasks) > 1]
    extra = [load_ensemble_member(folder, splits) for folder in split_names(options.ensemble)]
    systems: dict[str, Any] = {"predict the mean": {"test": score_constant(splits)}}
    if options.single_tasks:
        alone = [[models[member.name]] for member in members if len(member.tasks) == 1]
        systems["one model per task"] = test_system(alone, splits, options)
    systems["multi-task, first seed"] = test_system([joint[:1]], splits, options)
    if len(joint) + len(extra) > 1:
        systems[f"multi-task, ensemble of {len(joint) + len(extra)}"] = test_system([joint + extra], splits, options)
    return systems


def split_names(text: str | None) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [name.strip() for name in text.split(",")] if text else []


def load_ensemble_member(folder: str, splits: AffectSplits) -> MTLERForAffectiveBehavior:
    """A model trained elsewhere on the same features.

    Raises:
        ValueError: it takes other features or predicts other tasks.
    """
    model = MTLERForAffectiveBehavior.from_pretrained(folder)
    if model.config.input_size != splits.input_size or sorted(model.config.tasks) != sorted(TASKS):
        raise ValueError(
            f"--ensemble {folder}: a model of {', '.join(model.config.tasks)} on {model.config.input_size} features "
            f"cannot join one of all tasks on {splits.input_size}"
        )
    return model


def test_system(
    groups: Sequence[Sequence[MTLERForAffectiveBehavior]], splits: AffectSplits, options: AffectModelArguments
) -> dict[str, Any]:
    """Each group of models is averaged; groups of different tasks are put together."""
    validation, test = (
        join_tasks([predict_videos(group, videos) for group in groups]) for videos in (splits.validation, splits.test)
    )
    widths = whole_numbers("smoothing_half_widths", options.smoothing_half_widths)
    smoothing = search_smoothing(validation, splits.validation, widths)
    return {
        "test": score(test, splits.test, smoothing),
        "test_without_smoothing": score(test, splits.test),
        "validation": score(validation, splits.validation, smoothing),
        "smoothing_half_widths": smoothing,
    }


def score_constant(splits: AffectSplits) -> dict[str, float]:
    """Figures of what never looks: mean valence and arousal, most frequent expression, units seen in most frames."""
    train, test = reference_table(splits.train), reference_table(splits.test)
    row = np.zeros(train.shape[1])
    for column, missing in enumerate([-5, -5, *[-1] * (train.shape[1] - 2)]):
        known = train[:, column][train[:, column] != missing]
        if not len(known):
            continue
        row[column] = np.bincount(known.astype(np.int64)).argmax() if column == 2 else known.mean()
    row[3:] = row[3:] >= 0.5
    return multi_task_score(np.tile(row, (len(test), 1)), test, len(AFFECT_EXPRESSIONS))


def labelled_units(videos: Sequence[AffectSequence]) -> list[int]:
    """The action units that are labelled somewhere in these videos: those of which the F1 is a mean."""
    known = (reference_table(videos)[:, 3:] >= 0).any(axis=0)
    return [unit for unit, there in zip(AFFECT_ACTION_UNITS, known, strict=True) if there]


# The report


def format_table(report: dict[str, Any]) -> str:
    """The table that a run prints at its end, as Markdown."""
    units = report["action_units"]
    lines = [
        f"{report['protocol']}; {report['data']}.",
        f"{len(report['videos']['test'])} test videos, {report['test_frames']} frames; F1 of {len(units)} action units "
        f"({', '.join(map(str, units))}). Features: {'; '.join(report['features'])}.",
        "",
        f"| | {' | '.join(FIGURES.values())} |",
        f"|---|{'---|' * len(FIGURES)}",
    ]
    for name, system in report["systems"].items():
        cells = [_figure(system["test"][figure]) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Higher is better; P_MTL = mean CCC + both F1, at most 3."])


def _figure(value: float | None) -> str:
    return "no labels" if value is None or not np.isfinite(value) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
