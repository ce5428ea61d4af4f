"""The main job: data, model, training, test, report.

    accelerate launch training/run.py
    accelerate launch training/run.py --dataset FOLDER --model PRESET_OR_CHECKPOINT --output_dir RUN

Without arguments it draws the synthetic corpus, labels it by MTCNN, and trains and tests the tiny preset on it.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler
from transformers.utils import logging

from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
from mtcae_dfer.hub_dataset.building import BuildOptions, build_dataset, read_build_report
from mtcae_dfer.hub_dataset.folder import read_folder
from mtcae_dfer.hub_dataset.labelling import LabellingOptions
from mtcae_dfer.hub_dataset.protocols import fold_title, load_fold
from mtcae_dfer.hub_dataset.synthetic import SyntheticCorpusConfig, make_synthetic_corpus
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import DataArguments, OptimisationArguments, RunArguments, parse_run_arguments
from mtcae_dfer.training.augmentation import AugmentationConfig
from mtcae_dfer.training.checkpoints import CheckpointError, find_checkpoint, load_progress, save_checkpoint
from mtcae_dfer.training.data import ClipDataset, class_names, frames_in_memory, labelled_frame_count
from mtcae_dfer.training.evaluation import (
    compute_metrics,
    constant_predictions,
    label_arguments,
    normalise,
    predict_split,
    write_clip_predictions,
)
from mtcae_dfer.training.experiments import THREADS_VARIABLE
from mtcae_dfer.training.initialisation import build_model, whiten_patch_embedding
from mtcae_dfer.training.report import format_table, write_report
from mtcae_dfer.training.trackers import chosen_trackers, log_epoch, start_trackers

SYNTHETIC_NAME = "mtcae-synthetic"
SYNTHETIC_DATA = "synthetic faces (drawn, no real people)"
SEEN_CLIPS_PROTOCOL = "training clips themselves (says nothing about unseen people)"
WHITENING_CLIPS = 128


@dataclass
class Splits:
    """The clips of a run with the name of the protocol that divided them."""

    train: ClipDataset
    validation: ClipDataset
    test: ClipDataset
    protocol: str
    data: str  # what the clips are, for the report
    dataset: dict[str, str]  # its name, licence, corpus and number of clips, for the report


@dataclass
class Progress:
    """What any training knows between epochs; stored in every checkpoint."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainingState(Progress):
    """What a run knows besides: the epoch whose model it keeps."""

    selected_epoch: int = 0
    selected_uar: float = -1.0
    selected_loss: float = float("inf")


class Stopwatch:
    """Seconds of the named stages of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    options: RunArguments | None = None
    logging.disable_progress_bar()  # of every saved model; the run's own bars stay
    try:
        options = parse_run_arguments(arguments)
        run(options)
        return 0
    except KeyboardInterrupt:
        where = options.optimisation.output_dir if options else "the run"
        print(f"\nStopped. Go on with the same command and --resume_from_checkpoint latest ({where}).", file=sys.stderr)
        return 130
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"run.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def run(arguments: RunArguments) -> dict[str, Any]:
    """Trains, selects, tests and reports; returns the report's content."""
    accelerator = make_accelerator(arguments.optimisation)
    output_dir = Path(arguments.optimisation.output_dir)
    stopwatch = Stopwatch()
    claim_output_dir(output_dir, arguments.optimisation, accelerator)
    start_trackers(accelerator, arguments)
    dataset_dir = arguments.data.dataset or make_synthetic_dataset(arguments.data, accelerator, stopwatch)
    set_seed(arguments.optimisation.seed)
    model, splits = prepare_model_and_data(arguments, dataset_dir)
    processor = make_processor(model)
    with stopwatch.stage("training"):
        state = train(accelerator, model, processor, splits, arguments, output_dir)
    with stopwatch.stage("testing"):
        results = test(accelerator, output_dir, processor, splits, arguments)
    results |= describe_run(arguments, splits, state, stopwatch)
    if accelerator.is_main_process:
        write_report(results, output_dir)
        print(format_table(results))
        print(f"Model folder, report.json and report.png: {output_dir}")
        push(output_dir, arguments.optimisation)
    accelerator.end_training()
    return results


def make_accelerator(options: OptimisationArguments) -> Accelerator:
    """The accelerator, with all processors at work where there is no accelerator device."""
    precision = "bf16" if options.bf16 else "fp16" if options.fp16 else "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        log_with=chosen_trackers(options),
        project_dir=options.output_dir,
    )
    if accelerator.device.type == "cpu":
        # `accelerate launch` leaves one thread to each process. Of several runs at a time each has its share.
        threads = int(os.environ.get(THREADS_VARIABLE) or os.cpu_count() or 1)
        torch.set_num_threads(max(1, threads // accelerator.num_processes))
    return accelerator


def claim_output_dir(output_dir: Path, options: OptimisationArguments, accelerator: Accelerator) -> None:
    """Refuses to mix two runs in one folder."""
    if accelerator.is_main_process:
        if options.overwrite_output_dir and not options.resume_from_checkpoint:
            _remove_run(output_dir)
        elif (output_dir / "report.json").exists():
            raise ValueError(
                f"{output_dir} holds a finished run: choose another --output_dir or --overwrite_output_dir"
            )
        elif (output_dir / "checkpoints").exists() and not options.resume_from_checkpoint:
            raise ValueError(
                f"{output_dir} holds an unfinished run: add --resume_from_checkpoint latest, or --overwrite_output_dir"
            )
        output_dir.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()


def _remove_run(output_dir: Path) -> None:
    # Only what a run writes: a mistyped folder must not cost somebody's files.
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
    for name in ("report.json", "report.png", "predictions.parquet", "model.safetensors", "config.json"):
        (output_dir / name).unlink(missing_ok=True)


def make_synthetic_dataset(options: DataArguments, accelerator: Accelerator, stopwatch: Stopwatch) -> str:
    """Draws the synthetic corpus, labels it and builds its data set, each unless it is there; returns its folder."""
    folder = Path(options.synthetic_dir)
    dataset_dir = folder / "dataset"
    if accelerator.is_main_process:
        config = SyntheticCorpusConfig(
            subjects=options.synthetic_subjects, takes=options.synthetic_takes, seed=options.synthetic_seed
        )
        with stopwatch.stage("drawing"):
            corpus = make_synthetic_corpus(folder / "corpus", config)
        with stopwatch.stage("labelling"):
            clips = read_folder(corpus / "videos" / "clips.csv", class_names=config.expressions)
            clips = attach_drawn_labels(clips, corpus)
            build = BuildOptions(SYNTHETIC_NAME, "apache-2.0", config.expressions, labelling=LabellingOptions())
            build_dataset(clips, dataset_dir, build)
    accelerator.wait_for_everyone()
    return str(dataset_dir)


def prepare_model_and_data(arguments: RunArguments, dataset_dir: str) -> tuple[MTCAEForMultiTaskVideo, Splits]:
    """Opens the data set and builds a model for its classes."""
    rows = load_fold(dataset_dir, arguments.data.protocol, arguments.data.fold, arguments.data.videos)
    refuse_missing_classes(rows, dataset_dir)
    model = build_model(arguments.model, class_names(rows["train"]))
    check_frames(labelled_frame_count(rows["train"]), model, dataset_dir)
    splits = open_splits(rows, arguments, model, dataset_dir)
    if arguments.optimisation.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    for task in model.tasks:
        if task.kind == "classification":
            task.label_smoothing = arguments.optimisation.label_smoothing_factor
    return model, splits


def refuse_missing_classes(rows: Any, dataset_dir: str) -> None:
    """Refuses to train on clips that lack an expression; warns of one that nobody can be chosen or tested by."""
    for split, clips in rows.items():
        there = set(clips["expression"])
        missing = [name for label, name in enumerate(class_names(clips)) if label not in there]
        if missing and split == "train":
            raise ValueError(
                f"{dataset_dir} has no training clip of {', '.join(missing)}: leave out the class or choose other folds"
            )
        if missing:
            print(f"Warning: no {split} clip of {', '.join(missing)}; the UAR leaves such classes out", file=sys.stderr)


def check_frames(labelled: int, model: MTCAEForMultiTaskVideo, dataset_dir: str) -> None:
    """Labels belong to frames: the model must take as many as were labelled."""
    if labelled != model.config.num_frames:
        raise ValueError(
            f"{dataset_dir} labels {labelled} frames a clip, but the model takes {model.config.num_frames}: "
            f"build the data set with --num-frames {model.config.num_frames}"
        )


def open_splits(rows: Any, arguments: RunArguments, model: MTCAEForMultiTaskVideo, dataset_dir: str) -> Splits:
    """The three splits; with `--train_on_all` the training clips stand for all three."""
    options, size, tasks = arguments.data, model.config.image_size, model.tasks
    missing = [split for split in ("train", "validation", "test") if split not in rows]
    if missing and not options.train_on_all:
        raise ValueError(
            f"{dataset_dir} has no {' and no '.join(missing)} clips: build it with subjects, or pass --train_on_all"
        )
    names = ("train",) * 3 if options.train_on_all else ("train", "validation", "test")
    needed = sum(frames_in_memory(rows[name], size) for name in set(names))
    keep = needed <= options.cache_frames_gb * 1e9
    changes = {change.name: getattr(options, change.name) for change in fields(AugmentationConfig)}
    augmentation = AugmentationConfig(**changes) if options.augment else None
    train = ClipDataset(rows["train"], size, augmentation, arguments.optimisation.seed, keep, tasks)
    others = [ClipDataset(rows[name], size, keep_frames=keep, tasks=tasks) for name in names[1:]]
    protocol = SEEN_CLIPS_PROTOCOL if options.train_on_all else fold_title(dataset_dir, options.protocol, options.fold)
    dataset = describe_dataset(dataset_dir)
    data = SYNTHETIC_DATA if dataset["name"] == SYNTHETIC_NAME else dataset["name"]
    return Splits(train, *others, protocol, data, dataset)


def describe_dataset(dataset_dir: str) -> dict[str, str]:
    """Name, licence, corpus, source and size of a data set, for the report and a model card."""
    built = read_build_report(dataset_dir)
    told = {name: built.options.get(name) or "unknown" for name in ("license", "corpus", "label_source")}
    return {"name": built.dataset_name, **told, "clips": str(built.clip_count), "path": dataset_dir}


def make_processor(model: MTCAEForMultiTaskVideo) -> MTCAEVideoProcessor:
    """The processor that makes this model's input."""
    height, width = model.config.image_size
    return MTCAEVideoProcessor(size={"height": height, "width": width}, num_frames=model.config.num_frames)


def train(
    accelerator: Accelerator,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    splits: Splits,
    arguments: RunArguments,
    output_dir: Path,
) -> TrainingState:
    """Trains epoch by epoch; `output_dir` always holds the model of the best epoch on the validation clips."""
    options = arguments.optimisation
    if arguments.model.whiten_patch_embedding and arguments.model.encoder is None:
        whiten_patch_embedding(model, normalise(processor, whitening_frames(splits.train)))
    model, optimiser, train_loader, validation_loader = accelerator.prepare(
        model,
        make_optimiser(model, options),
        DataLoader(
            splits.train,
            options.per_device_train_batch_size,
            shuffle=True,
            num_workers=options.dataloader_num_workers,
            pin_memory=accelerator.device.type != "cpu",
        ),
        DataLoader(splits.validation, options.per_device_eval_batch_size),
    )
    schedule = make_schedule(optimiser, options, len(train_loader))
    accelerator.register_for_checkpointing(schedule)
    state = start_or_resume(accelerator, arguments, output_dir)
    last_save = time.monotonic()
    with tqdm(
        total=options.num_train_epochs,
        initial=state.epoch,
        desc="Training",
        unit="epoch",
        disable=not accelerator.is_main_process,
    ) as bar:
        while state.epoch < options.num_train_epochs:
            epoch_record = train_epoch(
                accelerator, model, optimiser, schedule, train_loader, splits, processor, state, options
            )
            epoch_record |= validate(accelerator, model, processor, validation_loader, splits)
            state.epoch += 1
            state.history.append({"epoch": state.epoch, **epoch_record})
            log_epoch(accelerator, state.history[-1])
            select(accelerator, model, processor, state, output_dir)
            done = state.epoch == options.num_train_epochs
            if done or time.monotonic() - last_save >= options.save_seconds:
                save_checkpoint(accelerator, output_dir / "checkpoints", vars(state), options.save_total_limit)
                last_save = time.monotonic()
            bar.set_postfix(
                loss=f"{epoch_record['train_loss']:.3f}", validation_uar=f"{epoch_record['validation_uar']:.3f}"
            )
            bar.update()
    return state


def whitening_frames(train: ClipDataset) -> torch.Tensor:
    """Frames (B, T, 3, H, W) of clips spread evenly over the training split."""
    positions = torch.linspace(0, len(train) - 1, min(len(train), WHITENING_CLIPS)).round().long().unique()
    return torch.stack([train[int(position)]["frames"] for position in positions])


def make_optimiser(model: MTCAEForMultiTaskVideo, options: OptimisationArguments) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def make_schedule(
    optimiser: torch.optim.Optimizer, options: OptimisationArguments, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then constant or cosine, stepped once a batch."""
    names = {"constant": "constant_with_warmup", "cosine": "cosine"}
    return get_scheduler(
        names[options.lr_scheduler_type],
        optimiser,
        num_warmup_steps=round(options.warmup_epochs * steps_per_epoch),
        num_training_steps=options.num_train_epochs * steps_per_epoch,
    )


def start_or_resume(
    accelerator: Accelerator, arguments: Any, output_dir: Path, state_class: type[Progress] = TrainingState
) -> Any:
    """A fresh state, saved at once so that a run can be taken up from its first second; or a checkpoint's."""
    wanted = arguments.optimisation.resume_from_checkpoint
    checkpoint = find_checkpoint(output_dir / "checkpoints", wanted) if wanted else None
    if checkpoint is None:
        state = state_class(options=arguments.to_dict())
        save_checkpoint(accelerator, output_dir / "checkpoints", vars(state), arguments.optimisation.save_total_limit)
        return state
    state = state_class(**load_progress(checkpoint))
    refuse_changed_options(state.options, arguments.to_dict(), checkpoint)
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"Resumed after epoch {state.epoch} from {checkpoint}")
    return state


def refuse_changed_options(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    """A resumed run must be the run that was interrupted."""
    free = {"resume_from_checkpoint", "overwrite_output_dir", "output_dir", "save_total_limit", "save_seconds"}
    changed = [
        f"{name} {before.get(name)} -> {now[name]}"
        for name in now
        if name not in free and before.get(name) != now[name]
    ]
    if changed:
        raise CheckpointError(f"{checkpoint} was made with other options: {'; '.join(changed)}")


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loader: DataLoader,
    splits: Splits,
    processor: MTCAEVideoProcessor,
    state: TrainingState,
    options: OptimisationArguments,
) -> dict[str, Any]:
    """One pass over the training clips; returns mean losses, the learning rate and the seconds."""
    start = time.perf_counter()
    # Every epoch starts from its own seed, so that a resumed run draws what an undisturbed one does.
    set_seed(options.seed + 1 + state.epoch)
    splits.train.set_epoch(state.epoch)
    loader.set_epoch(state.epoch)
    model.train()
    sums: dict[str, float] = {}
    for batch in loader:
        outputs = model(pixel_values=normalise(processor, batch["frames"]), **label_arguments(batch))
        refuse_nan_loss(outputs.loss, batch, splits.train)
        accelerator.backward(outputs.loss)
        if options.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses = {"train_loss": outputs.loss, **outputs.task_losses}
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
    means = {name: total / len(loader) for name, total in sums.items()}
    return {
        "train_loss": means.pop("train_loss"),
        "task_losses": means,
        "learning_rate": schedule.get_last_lr()[0],
        "seconds": time.perf_counter() - start,
    }


def refuse_nan_loss(loss: torch.Tensor, batch: dict[str, torch.Tensor], train: ClipDataset) -> None:
    """Stops a run whose loss is no number, and names the clips; the last checkpoint remains."""
    if not torch.isfinite(loss):
        clips = ", ".join(train.names[index] for index in batch["index"].tolist())
        raise ValueError(
            f"the loss is {loss.item()} on the clips {clips}: lower --learning_rate, or look at these clips"
        )


def validate(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, loader: DataLoader, splits: Splits
) -> dict[str, float]:
    """Metrics of the validation clips for the history."""
    predictions, loss = predict_split(model, processor, loader, accelerator)
    metrics = compute_metrics(predictions, class_names(splits.train.rows))
    scalars = ("uar", "war", "face_box_iou", "landmark_nme")
    return {"validation_loss": loss, **{f"validation_{name}": metrics[name] for name in scalars}}


def select(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, state: TrainingState, output_dir: Path
) -> None:
    """Keeps the epoch with the highest validation UAR, of equals the one with the lowest validation loss."""
    record = state.history[-1]
    uar, loss = record["validation_uar"], record["validation_loss"]
    if (uar, -loss) > (state.selected_uar, -state.selected_loss):
        state.selected_uar, state.selected_loss, state.selected_epoch = uar, loss, state.epoch
        if accelerator.is_main_process:
            save_model_folder(accelerator.unwrap_model(model), processor, output_dir)
    accelerator.wait_for_everyone()


def save_model_folder(model: MTCAEForMultiTaskVideo, processor: Any, output_dir: Path) -> None:
    """Writes the folder that the Auto* classes load, each file complete before it replaces its forerunner."""
    partial = output_dir / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    for file in partial.iterdir():
        os.replace(file, output_dir / file.name)
    partial.rmdir()


def test(
    accelerator: Accelerator, output_dir: Path, processor: Any, splits: Splits, arguments: RunArguments
) -> dict[str, Any]:
    """Tests the selected model, read back from its folder, beside the constant predictor."""
    model = MTCAEForMultiTaskVideo.from_pretrained(output_dir)
    loader = DataLoader(splits.test, arguments.optimisation.per_device_eval_batch_size)
    model, loader = accelerator.prepare(model, loader)
    predictions, _ = predict_split(model, processor, loader, accelerator)
    classes = class_names(splits.train.rows)
    if accelerator.is_main_process:
        write_clip_predictions(predictions, splits.test.rows, classes, output_dir)
    constant = constant_predictions(splits.train, predictions, len(classes))
    return {
        "classes": classes,
        "test": compute_metrics(predictions, classes),
        "constant_predictor": compute_metrics(constant, classes),
    }


def describe_run(arguments: RunArguments, splits: Splits, state: TrainingState, stopwatch: Stopwatch) -> dict[str, Any]:
    """Everything in the report besides the test's figures."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    packages = ("transformers", "torch", "accelerate", "datasets", "facenet-pytorch")
    return {
        "protocol": splits.protocol,
        "data": splits.data,
        "dataset": splits.dataset,
        "seed": arguments.optimisation.seed,
        "validation": state.history[state.selected_epoch - 1],
        "history": state.history,
        "selected_epoch": state.selected_epoch,
        "options": arguments.to_dict(),
        "subjects": {name: sorted(set(part.subjects)) for name, part in parts.items()},
        "versions": {name: version(name) for name in packages},
        "seconds": stopwatch.seconds,
    }


def push(output_dir: Path, options: OptimisationArguments) -> None:
    """Writes and uploads the model folder with its card, as `mtcae push` does, where `--push_to_hub` asks for it."""
    if options.push_to_hub:
        from mtcae_dfer.training.push import upload, write_model_folder

        write_model_folder(output_dir, options.hub_model_id, output_dir / "hub")
        print(f"Uploaded: {upload(output_dir / 'hub', options.hub_model_id)}")


if __name__ == "__main__":
    sys.exit(main())
