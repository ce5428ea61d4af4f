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
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils import logging

from mtcae_dfer.experiments.runner import THREADS_VARIABLE
from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from mtcae_dfer.hub_dataset.loading.protocols import fold_title, load_fold
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.release.push import add_modules
from mtcae_dfer.training.arguments import (
    DataArguments,
    OptimisationArguments,
    RunArguments,
    StepArguments,
    parse_run_arguments,
)
from mtcae_dfer.training.checkpoints import (
    CheckpointError,
    find_checkpoint,
    load_progress,
    refuse_other_architecture,
    save_checkpoint,
)
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import ClipDataset, class_names, frames_in_memory, labelled_frame_count
from mtcae_dfer.training.data.feature_cache import EncodedClips, FeatureCacheConfig, cache_features
from mtcae_dfer.training.data.sampling import FrameWindow
from mtcae_dfer.training.evaluation.predictions import (
    ClipViews,
    compute_metrics,
    constant_predictions,
    normalise,
    predict_split,
    write_clip_predictions,
)
from mtcae_dfer.training.evaluation.report import FIGURES, format_table, write_report
from mtcae_dfer.training.initialisation import build_model, whiten_patch_embedding
from mtcae_dfer.training.loop import (
    Progress,
    Training,
    TrainingState,
    prepare_training,
    save_after_epoch,
    save_progress,
    train_epoch,
)
from mtcae_dfer.training.trackers import chosen_trackers, log_epoch, start_trackers

SYNTHETIC_NAME = "mtcae-synthetic"
SYNTHETIC_DATA = "synthetic faces (drawn, no real people)"
SEEN_CLIPS_PROTOCOL = "training clips themselves (says nothing about unseen people)"
WHITENING_CLIPS = 128
OPTIONS_FILE = "options.yaml"
MEMORY_ADVICE = (
    "out of memory: lower --per_device_train_batch_size (and raise --gradient_accumulation_steps as much, for the same "
    "step), or add --gradient_checkpointing true, --bf16 true, --decoder_head_dim 64, --freeze_encoder true"
)


@dataclass
class Splits:
    """The clips of a run with the name of the protocol that divided them."""

    train: ClipDataset
    validation: ClipDataset
    test: ClipDataset
    protocol: str
    data: str  # what the clips are, for the report
    dataset: dict[str, str]  # its name, licence, corpus and number of clips, for the report


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
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"run.py: error: {MEMORY_ADVICE} ({' '.join(str(error).split())[:200]})", file=sys.stderr)
        return 2
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"run.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator or the machine had no memory left for a tensor."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def run(arguments: RunArguments) -> dict[str, Any]:
    """Trains, selects, tests and reports; returns the report's content."""
    accelerator = make_accelerator(arguments.optimisation, arguments.optimisation.gradient_accumulation_steps)
    output_dir = Path(arguments.optimisation.output_dir)
    stopwatch = Stopwatch()
    claim_output_dir(output_dir, arguments.optimisation, accelerator)
    write_options(arguments, output_dir, accelerator)
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


def make_accelerator(options: StepArguments, accumulation: int = 1) -> Accelerator:
    """The accelerator, for steps of `accumulation` batches; all processors work where there is no other device.

    Raises:
        ValueError: what is asked for needs an accelerator, and there is none.
    """
    precision = "bf16" if options.bf16 else "fp16" if options.fp16 else "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        # What follows from pinned memory: a batch is copied while the accelerator works on the one before.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, non_blocking=True),
        log_with=chosen_trackers(options),
        project_dir=options.output_dir,
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and accelerator.distributed_type != "FSDP":
        # Accelerate itself would go on without a word, and every process would hold the whole model.
        raise ValueError("FSDP: Accelerate shards over several accelerators only; take it out of the config file here")
    if accelerator.device.type == "cpu" and options.fp16:  # here, too, Accelerate would go on, in float32
        raise ValueError("--fp16 true: needs an accelerator; a processor has --bf16 true, or neither")
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


def write_options(arguments: RunArguments, output_dir: Path, accelerator: Accelerator) -> None:
    """Writes the resolved options beside the results, as `--config` reads them."""
    if accelerator.is_main_process:
        once = {"resume_from_checkpoint", "resume_with_changed_options", "overwrite_output_dir"}
        options = {name: value for name, value in arguments.to_dict().items() if name not in once}
        with replacing(output_dir / OPTIONS_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")


def _remove_run(output_dir: Path) -> None:
    # Only what a run writes: a mistyped folder must not cost somebody's files.
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
    shutil.rmtree(output_dir / "features", ignore_errors=True)
    written = ("report.json", "report.png", "predictions.parquet", "model.safetensors", "config.json", OPTIONS_FILE)
    for name in written:
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
    refuse_missing_videos(rows, dataset_dir)
    refuse_missing_classes(rows, dataset_dir)
    model = build_model(arguments.model, class_names(rows["train"]))
    check_frames(labelled_frame_count(rows["train"]), model, dataset_dir, arguments.data.frame_stride)
    splits = open_splits(rows, arguments, model, dataset_dir)
    if arguments.optimisation.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    refuse_unlabelled_tasks(model, splits.train, dataset_dir)
    return model, splits


def refuse_unlabelled_tasks(model: MTCAEForMultiTaskVideo, train: ClipDataset, dataset_dir: str) -> None:
    """Refuses to train a task for which no training clip has a label."""
    labelled = {name for name, values in train.labels.items() if not values.float().isnan().all()}
    missing = [task.name for task in model.tasks if task.label_key not in labelled]
    if missing:
        others = ",".join(task.name for task in model.tasks if task.name not in missing)
        raise ValueError(
            f"{dataset_dir} has no label of the task {', '.join(missing)} in any training clip: "
            f"leave it out, as by --tasks {others or 'NAME'}"
        )


def refuse_missing_videos(rows: Any, dataset_dir: str) -> None:
    """Refuses to train on labels alone."""
    if any("video" not in clips.column_names for clips in rows.values()):
        raise ValueError(
            f"{dataset_dir} holds labels without videos: give --videos FOLDER with your copy of the corpus"
        )


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


def check_frames(labelled: int, model: MTCAEForMultiTaskVideo, dataset_dir: str, stride: int | None = None) -> None:
    """Labels belong to frames: the model must take as many as were labelled, or a window of them."""
    taken = model.config.num_frames
    needed = FrameWindow(taken, stride).length if stride else taken
    if labelled < needed or (stride is None and labelled != needed):
        wanted = f"every {stride} frames, a window of {needed}" if stride else str(taken)
        raise ValueError(
            f"{dataset_dir} labels {labelled} frames a clip, but the model takes {wanted}: "
            f"build the data set with --num-frames {needed}{' or more, or lower --frame_stride' if stride else ''}"
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
    window = FrameWindow(model.config.num_frames, options.frame_stride) if options.frame_stride else None
    train = ClipDataset(rows["train"], size, augmentation, arguments.optimisation.seed, keep, tasks, window)
    segments = {"validation": 1, "test": arguments.optimisation.test_segments}
    others = [
        ClipDataset(rows[name], size, keep_frames=keep, tasks=tasks, window=window, segments=count)
        for name, count in zip(names[1:], segments.values(), strict=True)
    ]
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
    train_clips, validation_clips = encode_once(accelerator, model, processor, splits, arguments)
    training = prepare_training(accelerator, model, processor, train_clips, arguments)
    validation_loader = accelerator.prepare(DataLoader(validation_clips, options.per_device_eval_batch_size))
    state = start_or_resume(accelerator, arguments, output_dir, training=training)
    with tqdm(
        total=options.num_train_epochs,
        initial=state.epoch,
        desc="Training",
        unit="epoch",
        disable=not accelerator.is_main_process,
    ) as bar:
        while state.epoch < options.num_train_epochs and not state.patience_is_over(options.early_stopping_patience):
            epoch_record = train_epoch(training, state)
            state.epoch += 1
            with training.averaged():
                epoch_record |= validate(accelerator, training.model, processor, validation_loader, splits)
                state.history.append({"epoch": state.epoch, **epoch_record})
                select(accelerator, training.model, processor, state, output_dir)
            log_epoch(accelerator, state.history[-1])
            over = state.patience_is_over(options.early_stopping_patience)
            save_after_epoch(training, state, done=over or state.epoch == options.num_train_epochs)
            bar.set_postfix(
                loss=f"{epoch_record['train_loss']:.3f}", validation_uar=f"{epoch_record['validation_uar']:.3f}"
            )
            bar.update()
    return state


def encode_once(
    accelerator: Accelerator,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    splits: Splits,
    arguments: RunArguments,
) -> tuple[ClipDataset | EncodedClips, ClipDataset | EncodedClips]:
    """Training and validation clips; as a frozen encoder's output where `--cache_features` asks for it."""
    options = arguments.data
    if not options.cache_features:
        return splits.train, splits.validation
    folder = Path(options.cache_features_dir or Path(arguments.optimisation.output_dir) / "features")
    batch_size = arguments.optimisation.per_device_eval_batch_size
    config = FeatureCacheConfig(folder, options.cache_features_views, options.cache_features_dtype, batch_size)
    train_clips, validation_clips = (
        cache_features(model, processor, clips, config, accelerator) for clips in (splits.train, splits.validation)
    )
    return train_clips, validation_clips


def whitening_frames(train: ClipDataset) -> torch.Tensor:
    """Frames (B, T, 3, H, W) of clips spread evenly over the training split."""
    positions = torch.linspace(0, len(train) - 1, min(len(train), WHITENING_CLIPS)).round().long().unique()
    return torch.stack([train[int(position)]["frames"] for position in positions])


def start_or_resume(
    accelerator: Accelerator,
    arguments: Any,
    output_dir: Path,
    state_class: type[Progress] = TrainingState,
    training: Training | None = None,
) -> Any:
    """A fresh state, saved at once so that a run can be taken up from its first second; or a checkpoint's."""
    wanted = arguments.optimisation.resume_from_checkpoint
    checkpoint = find_checkpoint(output_dir / "checkpoints", wanted) if wanted else None
    if checkpoint is None:
        state = state_class(options=arguments.to_dict())
        if training is not None:
            save_progress(training, state)
        else:
            keep = arguments.optimisation.save_total_limit
            save_checkpoint(accelerator, output_dir / "checkpoints", vars(state), keep)
        return state
    state = state_class(**load_progress(checkpoint))
    if not arguments.to_dict().get("resume_with_changed_options"):
        refuse_changed_options(state.options, arguments.to_dict(), checkpoint)
    if training is not None:
        refuse_other_architecture(checkpoint, accelerator.unwrap_model(training.model))
    state.options = arguments.to_dict()
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"Resumed from {checkpoint}")
    return state


def refuse_changed_options(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    """A resumed run must be the run that was interrupted."""
    free = {
        *("resume_from_checkpoint", "resume_with_changed_options", "overwrite_output_dir", "output_dir"),
        *("save_total_limit", "save_seconds", "save_steps", "report_to", "push_to_hub", "hub_model_id"),
        *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
        *("cache_features_dir", "cache_frames_gb"),
    }
    changed = [
        f"{name} {before.get(name)} -> {now[name]}"
        for name in now
        if name not in free and before.get(name) != now[name]
    ]
    if changed:
        way_out = ", or add --resume_with_changed_options true" if "resume_with_changed_options" in now else ""
        raise CheckpointError(f"{checkpoint} was made with other options: {'; '.join(changed)}; repeat those{way_out}")


def validate(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, loader: DataLoader, splits: Splits
) -> dict[str, float]:
    """Metrics of the validation clips for the history."""
    predictions, loss = predict_split(model, processor, loader, accelerator)
    metrics = compute_metrics(predictions, class_names(splits.train.rows))
    scalars = [name for name in FIGURES if name in metrics]
    return {"validation_loss": loss, **{f"validation_{name}": metrics[name] for name in scalars}}


def select(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, state: TrainingState, output_dir: Path
) -> None:
    """Keeps the epoch with the highest validation UAR, of equals the one with the lowest validation loss."""
    record = state.history[-1]
    uar, loss = record["validation_uar"], record["validation_loss"]
    if (uar, -loss) > (state.selected_uar, -state.selected_loss):
        state.selected_uar, state.selected_loss, state.selected_epoch = uar, loss, state.epoch
        weights = accelerator.get_state_dict(model)  # of all processes where they share the weights out
        if accelerator.is_main_process:
            save_model_folder(accelerator.unwrap_model(model), processor, output_dir, weights)
    accelerator.wait_for_everyone()


def save_model_folder(
    model: MTCAEForMultiTaskVideo, processor: Any, output_dir: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Writes the folder that the Auto* classes load, each file complete before it replaces its forerunner.

    Args:
        model: and its config.
        processor: that makes its input.
        output_dir: where the files go.
        weights: the model's, gathered from several processes; None: its own.
    """
    partial = output_dir / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    processor.save_pretrained(partial)
    if model.config.model_type == "mtcae":
        add_modules(partial)
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
    views = ClipViews(arguments.optimisation.test_segments, arguments.optimisation.test_flip)
    predictions, _ = predict_split(model, processor, loader, accelerator, views)
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
        from mtcae_dfer.release.push import upload, write_model_folder

        write_model_folder(output_dir, options.hub_model_id, output_dir / "hub")
        print(f"Uploaded: {upload(output_dir / 'hub', options.hub_model_id)}")


if __name__ == "__main__":
    sys.exit(main())
