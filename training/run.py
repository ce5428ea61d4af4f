"""The main job: data, model, training, test, report.

    accelerate launch training/run.py
    accelerate launch training/run.py --dataset FOLDER --model PRESET_OR_CHECKPOINT --output_dir RUN

Without arguments it draws the synthetic corpus, labels it by MTCNN, and trains and tests the tiny preset on it.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import OptimisationArguments, RunArguments
from mtcae_dfer.training.checkpoints import CHECKPOINTS_FOLDER
from mtcae_dfer.training.data.clip_dataset import ClipDataset, class_names
from mtcae_dfer.training.data.feature_cache import EncodedClips, FeatureCacheConfig, cache_features
from mtcae_dfer.training.data.splits import Splits, load_rows, open_splits
from mtcae_dfer.training.evaluation.predictions import (
    PREDICTIONS_FILE,
    ClipViews,
    compute_metrics,
    constant_predictions,
    normalise,
    predict_split,
    write_clip_predictions,
)
from mtcae_dfer.training.evaluation.report import FIGURES, PICTURE_FILE, Report, format_table, write_report
from mtcae_dfer.training.initialisation import (
    build_model,
    pretrained_source,
    whiten_patch_embedding,
    whitening_positions,
)
from mtcae_dfer.training.loop import (
    TrainingClips,
    TrainingState,
    prepare_training,
    save_after_epoch,
    save_progress,
    train_epoch,
)
from mtcae_dfer.training.model_folder import save_model_folder
from mtcae_dfer.training.running import (
    OPTIONS_FILE,
    Stopwatch,
    checkpoint_activations,
    claim_output_dir,
    make_accelerator,
    make_processor,
    make_synthetic_dataset,
    package_versions,
    parse_checked,
    run_script,
    start_or_resume,
    write_options,
)
from mtcae_dfer.training.trackers import chosen_trackers, log_epoch, start_trackers

# What a run writes besides its checkpoints and report, and what it may therefore replace.
WRITTEN = ("features", PICTURE_FILE, PREDICTIONS_FILE, "model.safetensors", "config.json", OPTIONS_FILE)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    return run_script("run.py", parse_checked, run, words)


def run(arguments: RunArguments) -> Report:
    """Trains, selects, tests and reports; returns the report's content."""
    options = arguments.optimisation
    accelerator = make_accelerator(options, options.gradient_accumulation_steps, chosen_trackers(options))
    output_dir = Path(options.output_dir)
    stopwatch = Stopwatch()
    claim_output_dir(output_dir, options, accelerator, (CHECKPOINTS_FOLDER,), WRITTEN)
    write_options(arguments, output_dir, accelerator)
    start_trackers(accelerator, arguments)
    dataset_dir = arguments.data.dataset or make_synthetic_dataset(arguments.data, accelerator, stopwatch)
    set_seed(options.seed)
    rows = load_rows(arguments, dataset_dir)
    model = build_model(arguments.model, class_names(rows["train"]))
    splits = open_splits(rows, arguments, model, dataset_dir)
    if options.gradient_checkpointing:
        checkpoint_activations(model)
    processor = make_processor(model.config, splits.train.crop, pretrained_source(arguments.model))
    with stopwatch.stage("training"):
        state = train(accelerator, model, processor, splits, arguments, output_dir)
    with stopwatch.stage("testing"):
        figures = test(accelerator, output_dir, processor, splits, arguments)
    results = cast(Report, figures | describe_run(arguments, splits, state, stopwatch))
    if accelerator.is_main_process:
        write_report(results, output_dir)
        print(format_table(results))
        print(f"Model folder, report.json and report.png: {output_dir}")
        push(output_dir, options)
    accelerator.end_training()
    return results


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
    if arguments.model.whiten_patch_embedding and pretrained_source(arguments.model) is None:
        first_epoch = splits.train.views([(position, 1) for position in whitening_positions(len(splits.train))])
        whiten_patch_embedding(model, normalise(processor, first_epoch["frames"]))
    train_clips, validation_clips = encode_once(accelerator, model, processor, splits, arguments)
    training = prepare_training(accelerator, model, processor, train_clips, arguments)
    validation = {"": validation_clips}
    validation |= {entry.source.name: entry.validation for entry in splits.further if entry.validation is not None}
    loaders = {
        name: accelerator.prepare(DataLoader(clips, options.per_device_eval_batch_size))
        for name, clips in validation.items()
    }
    save = partial(save_progress, training)
    state = start_or_resume(accelerator, arguments, output_dir, TrainingState, save, training.model)
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
                for name, loader in loaders.items():
                    epoch_record |= validate(accelerator, training.model, processor, loader, splits, name)
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
) -> tuple[TrainingClips, ClipDataset | EncodedClips]:
    """Training and validation clips; as a frozen encoder's output where `--cache_features` asks for it."""
    options = arguments.data
    if not options.cache_features:
        return splits.training_clips(), splits.validation
    folder = Path(options.cache_features_dir or Path(arguments.optimisation.output_dir) / "features")
    batch_size = arguments.optimisation.per_device_eval_batch_size
    config = FeatureCacheConfig(folder, options.cache_features_views, options.cache_features_dtype, batch_size)
    train_clips, validation_clips = (
        cache_features(model, processor, clips, config, accelerator) for clips in (splits.train, splits.validation)
    )
    return train_clips, validation_clips


def validate(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, loader: DataLoader, splits: Splits, name: str = ""
) -> dict[str, float]:
    """Metrics of validation clips for the history; those of a further data set have its name behind theirs."""
    predictions, loss = predict_split(model, processor, loader, accelerator)
    metrics = compute_metrics(predictions, class_names(splits.train.rows))
    scalars = [figure for figure in FIGURES if figure in metrics]
    figures = {"loss": loss, **{figure: metrics[figure] for figure in scalars}}
    return {f"validation_{figure}{f'/{name}' if name else ''}": value for figure, value in figures.items()}


def select(
    accelerator: Accelerator, model: torch.nn.Module, processor: Any, state: TrainingState, output_dir: Path
) -> None:
    """Keeps the epoch with the highest validation UAR, of equals the one with the lowest validation loss."""
    record = state.history[-1]
    uar, loss = record["validation_uar"], record["validation_loss"]
    if state.selected_epoch == 0 or (uar, -loss) > (state.selected_uar, -state.selected_loss):
        state.selected_uar, state.selected_loss, state.selected_epoch = uar, loss, state.epoch
        weights = accelerator.get_state_dict(model)  # of all processes where they share the weights out
        if accelerator.is_main_process:
            save_model_folder(accelerator.unwrap_model(model), processor, output_dir, weights)
    accelerator.wait_for_everyone()


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
    return {
        "protocol": splits.protocol,
        "data": splits.data,
        "dataset": splits.dataset,
        "further_datasets": [entry.dataset | {"share": str(entry.source.share)} for entry in splits.further],
        "seed": arguments.optimisation.seed,
        "validation": state.history[state.selected_epoch - 1],
        "history": state.history,
        "selected_epoch": state.selected_epoch,
        "options": arguments.to_dict(),
        "subjects": {name: sorted(set(part.subjects)) for name, part in parts.items()},
        "versions": package_versions("datasets", "facenet-pytorch"),
        "seconds": stopwatch.seconds,
    }


def push(output_dir: Path, options: OptimisationArguments) -> None:
    """Writes and uploads the model folder with its card, as `mtcae push` does, where `--push_to_hub` asks for it."""
    if options.push_to_hub and options.hub_model_id:
        from mtcae_dfer.release.push import upload, write_model_folder

        write_model_folder(output_dir, options.hub_model_id, output_dir / "hub")
        print(f"Uploaded: {upload(output_dir / 'hub', options.hub_model_id)}")


if __name__ == "__main__":
    sys.exit(main())
