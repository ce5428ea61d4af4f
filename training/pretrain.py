"""Masked pre-training of an encoder on videos without labels.

    accelerate launch training/pretrain.py
    accelerate launch training/pretrain.py --videos FOLDER_OR_DATASET --model PRESET_OR_CHECKPOINT --output_dir FOLDER

Without arguments it draws synthetic clips and pre-trains the encoder of the tiny preset on them. The output folder is
what `training/run.py --encoder` and `from_encoder_pretrained` take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from mtcae_dfer.configuration_common import as_height_and_width, compute_token_grid
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import PRETRAINING_PRESETS, available_presets
from mtcae_dfer.training.checkpoints import CHECKPOINTS_FOLDER, Progress, save_checkpoint
from mtcae_dfer.training.data.clip_dataset import FaceCropConfig
from mtcae_dfer.training.data.sampling import draw_seed
from mtcae_dfer.training.evaluation.predictions import normalise
from mtcae_dfer.training.evaluation.report import REPORT_FILE
from mtcae_dfer.training.initialisation import whiten_patch_embedding, whitening_positions
from mtcae_dfer.training.loop import refuse_nan_loss
from mtcae_dfer.training.model_folder import save_model_folder
from mtcae_dfer.training.optimisation import make_optimiser, make_schedule, step_optimiser
from mtcae_dfer.training.pretraining.arguments import PretrainingArguments, parse_pretraining_arguments
from mtcae_dfer.training.pretraining.clips import (
    DatasetVideos,
    UnlabelledClips,
    ViewConfig,
    count_short_videos,
    index_videos,
    open_videos,
    warn_of_other_folds,
)
from mtcae_dfer.training.pretraining.objective import build_pretraining_model, mask_region, predict_masked
from mtcae_dfer.training.pretraining.pictures import draw_reconstructions, reconstruct_frames
from mtcae_dfer.training.running import (
    OPTIONS_FILE,
    SYNTHETIC_DATA,
    Stopwatch,
    checkpoint_activations,
    claim_output_dir,
    draw_synthetic_videos,
    make_accelerator,
    make_processor,
    package_versions,
    run_script,
    start_or_resume,
    write_options,
)
from mtcae_dfer.training.trackers import chosen_trackers, log_epoch, start_trackers

logger = logging.get_logger(__name__)

INDEX_FILE = "videos.jsonl"
WRITTEN = ("model.safetensors", "config.json", OPTIONS_FILE)
DRAWN_CLIPS = 4


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    return run_script("pretrain.py", parse_pretraining_arguments, pretrain, words)


def pretrain(arguments: PretrainingArguments) -> dict[str, Any]:
    """Pre-trains, draws reconstructions and reports; returns the report's content."""
    accelerator = make_accelerator(arguments.optimisation, trackers=chosen_trackers(arguments.optimisation))
    output_dir = Path(arguments.optimisation.output_dir)
    stopwatch = Stopwatch()
    model = build_pretraining_model(arguments.objective, arguments.optimisation.seed)
    claim_output_dir(output_dir, arguments.optimisation, accelerator, (CHECKPOINTS_FOLDER,), WRITTEN)
    if accelerator.is_main_process and not arguments.optimisation.resume_from_checkpoint:
        # Of a forerunner in this folder: its list of videos and its pictures.
        for file in (output_dir / INDEX_FILE, *output_dir.glob("reconstructions-*.png")):
            file.unlink(missing_ok=True)
    write_options(arguments, output_dir, accelerator)
    start_trackers(accelerator, arguments)
    source = arguments.data.videos or draw_synthetic_videos(arguments.data, accelerator, stopwatch)
    with stopwatch.stage("counting frames"):
        training, held_out = open_clips(source, arguments, model.config, accelerator)
    with stopwatch.stage("pre-training"):
        state = train(accelerator, model, training, held_out, arguments)
    results = {
        "data": arguments.data.videos or SYNTHETIC_DATA,
        "seed": arguments.optimisation.seed,
        "videos": {"trained_on": len(training), "held_out": held_out.names},
        "history": state.history,
        "options": arguments.to_dict(),
        "versions": package_versions(),
        "seconds": stopwatch.seconds,
    }
    if accelerator.is_main_process:
        write_json(output_dir / REPORT_FILE, results)
        print(f"Pre-trained model, {REPORT_FILE} and reconstructions: {output_dir}")
    accelerator.end_training()
    return results


def open_clips(
    source: str, arguments: PretrainingArguments, config: PreTrainedConfig, accelerator: Accelerator
) -> tuple[UnlabelledClips, UnlabelledClips]:
    """Clips to train on, and the held-out ones, spread evenly over the videos.

    Raises:
        DatasetError: there are no readable videos, or too few.
    """
    options = arguments.data
    videos = open_videos(source, options.face_crop, options.protocol, options.fold)
    if options.fold is None and isinstance(videos, DatasetVideos) and accelerator.is_main_process:
        warn_of_other_folds(source, options.protocol)
    index_file = Path(arguments.optimisation.output_dir) / INDEX_FILE
    with accelerator.main_process_first():
        entries = index_videos(videos, index_file, source)
    wanted = options.held_out_clips
    if len(entries) <= wanted:
        raise DatasetError(
            f"--videos {source}: {len(entries)} readable videos leave none to train on beside {wanted} held-out ones; "
            f"lower --held_out_clips or bring more videos"
        )
    places = {round(place) for place in torch.linspace(0, len(entries) - 1, wanted).tolist()}
    view = make_view(arguments, config)
    short = count_short_videos(entries, view)
    if short and accelerator.is_main_process:
        window = 1 + (view.num_frames - 1) * (view.frame_stride or 1)
        logger.warning(
            f"{short} of {len(entries)} videos are shorter than the {window} frames of a clip: they repeat frames."
        )
    needed = len(entries) * view.num_frames * 3 * view.size[0] * view.size[1]  # bytes of the decoded frames
    keep = needed <= options.cache_frames_gb * 1e9
    seed = arguments.optimisation.seed
    trained = [entry for place, entry in enumerate(entries) if place not in places]
    held_out = [entries[place] for place in sorted(places)]
    return (
        UnlabelledClips(videos, trained, view, seed, keep),
        UnlabelledClips(videos, held_out, view, seed, keep, fixed=True),
    )


def make_view(arguments: PretrainingArguments, config: PreTrainedConfig) -> ViewConfig:
    """What of a video this model sees."""
    options = arguments.data
    crop_box: Any = None if options.crop_box is None else tuple(options.crop_box)
    return ViewConfig(
        size=as_height_and_width(config.image_size),
        num_frames=config.num_frames,
        token_grid=compute_token_grid(config),
        mask_region=mask_region(config, arguments.objective),
        mask_ratio=arguments.objective.mask_ratio,
        frame_stride=options.frame_stride,
        crop_box=crop_box,
        crop_scales=tuple(options.crop_scales),
        flip_probability=options.flip_probability,
        face_crop=FaceCropConfig.chosen(options),
    )


@dataclass
class Pretraining:
    """All that takes part in a pre-training, prepared by Accelerate."""

    accelerator: Accelerator
    model: torch.nn.Module  # wrapped for several processes or half precision
    config: PreTrainedConfig
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loader: Any  # of the training clips; Accelerate's, which knows epochs
    clips: UnlabelledClips
    held_out: UnlabelledClips
    processor: MTCAEVideoProcessor
    arguments: PretrainingArguments

    @property
    def output_dir(self) -> Path:
        """Where model, checkpoints and pictures go."""
        return Path(self.arguments.optimisation.output_dir)

    def save(self, state: Progress) -> None:
        """Saves a checkpoint."""
        keep = self.arguments.optimisation.save_total_limit
        save_checkpoint(self.accelerator, self.output_dir / CHECKPOINTS_FOLDER, vars(state), keep)


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    clips: UnlabelledClips,
    held_out: UnlabelledClips,
    arguments: PretrainingArguments,
) -> Progress:
    """Trains epoch by epoch; with every checkpoint the output folder gets the model as it is then."""
    options = arguments.optimisation
    training = prepare_pretraining(accelerator, model, clips, held_out, arguments)
    state = start_or_resume(accelerator, arguments, training.output_dir, Progress, training.save)
    last_save = time.monotonic()
    hidden = not accelerator.is_main_process
    with tqdm(
        total=options.num_train_epochs, initial=state.epoch, desc="Pre-training", unit="epoch", disable=hidden
    ) as bar:
        while state.epoch < options.num_train_epochs:
            record = train_epoch(training, state.epoch) | evaluate(training, state.epoch + 1)
            state.epoch += 1
            state.history.append({"epoch": state.epoch, **record})
            log_epoch(accelerator, state.history[-1])
            done = state.epoch == options.num_train_epochs
            if done or time.monotonic() - last_save >= options.save_seconds:
                if accelerator.is_main_process:
                    save_model_folder(accelerator.unwrap_model(training.model), training.processor, training.output_dir)
                training.save(state)
                last_save = time.monotonic()
            bar.set_postfix({name: f"{loss:.4f}" for name, loss in record["task_losses"].items()})
            bar.update()
    return state


def prepare_pretraining(
    accelerator: Accelerator,
    model: PreTrainedModel,
    clips: UnlabelledClips,
    held_out: UnlabelledClips,
    arguments: PretrainingArguments,
) -> Pretraining:
    """Starts the model from the training clips where the options say so; builds the other parts."""
    options, objective, config = arguments.optimisation, arguments.objective, model.config
    processor = make_processor(config, FaceCropConfig.chosen(arguments.data))
    if objective.whiten_patch_embedding and objective.model in available_presets(PRETRAINING_PRESETS):
        frames = torch.stack([clips[position]["frames"] for position in whitening_positions(len(clips))])
        whiten_patch_embedding(model, normalise(processor, frames))
    if options.gradient_checkpointing:
        checkpoint_activations(model)
    loader = DataLoader(
        clips,
        options.per_device_train_batch_size,
        shuffle=True,
        num_workers=options.dataloader_num_workers,
        pin_memory=accelerator.device.type != "cpu",
    )
    wrapped, optimiser, loader = accelerator.prepare(model, make_optimiser(model, options), loader)
    schedule = make_schedule(optimiser, options, len(loader))
    accelerator.register_for_checkpointing(schedule)
    return Pretraining(
        accelerator=accelerator,
        model=wrapped,
        config=config,
        optimiser=optimiser,
        schedule=schedule,
        loader=loader,
        clips=clips,
        held_out=held_out,
        processor=processor,
        arguments=arguments,
    )


def train_epoch(training: Pretraining, epoch: int) -> dict[str, Any]:
    """One pass over the training clips; returns mean losses over all processes, the learning rate and the seconds."""
    start, options, accelerator = time.perf_counter(), training.arguments.optimisation, training.accelerator
    # Every epoch starts from its own seed, so that a resumed run draws what an undisturbed one does.
    set_seed(draw_seed(options.seed, epoch))
    training.clips.set_epoch(epoch)
    training.loader.set_epoch(epoch)
    model = training.model.train()
    sums: dict[str, torch.Tensor] = {}
    for batch in training.loader:
        pixel_values = normalise(training.processor, batch["frames"])
        _, losses, _ = predict_masked(
            model, training.config, training.arguments.objective, pixel_values, batch["bool_masked_pos"]
        )
        refuse_nan_loss(losses["loss"], batch, training.clips)
        accelerator.backward(losses["loss"])
        if step_optimiser(accelerator, model, training.optimiser, options.max_grad_norm):
            training.schedule.step()
        for name, loss in losses.items():
            sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
    means = {name: accelerator.reduce(total / len(training.loader), "mean").item() for name, total in sums.items()}
    return {
        "train_loss": means["loss"],
        "task_losses": loss_parts(means),
        "learning_rate": training.schedule.get_last_lr()[0],
        "seconds": time.perf_counter() - start,
    }


def loss_parts(losses: dict[str, float]) -> dict[str, float]:
    """Appearance and motion apart, without the ending of their names; of the target "pixels" there is one part."""
    return {name.removesuffix("_loss"): loss for name, loss in losses.items() if name != "loss"}


@torch.no_grad()
def evaluate(training: Pretraining, epoch: int) -> dict[str, float]:
    """Losses of the held-out clips, and a picture of some of them where the options ask for one after this epoch."""
    options, every = training.arguments.optimisation, training.arguments.optimisation.picture_epochs
    drawn = epoch == options.num_train_epochs or (every > 0 and epoch % every == 0)
    accelerator, held_out, objective = training.accelerator, training.held_out, training.arguments.objective
    # All processes do the same here: with so few clips dividing them is not worth it.
    plain_model = accelerator.unwrap_model(training.model).eval()
    sums: dict[str, float] = {}
    for batch in DataLoader(held_out, options.per_device_train_batch_size):
        batch = {name: value.to(accelerator.device) for name, value in batch.items()}
        pixel_values, mask = normalise(training.processor, batch["frames"]), batch["bool_masked_pos"]
        with accelerator.autocast():
            predictions, losses, targets = predict_masked(plain_model, training.config, objective, pixel_values, mask)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item() * len(mask) / len(held_out)
        if drawn and accelerator.is_main_process:
            count = min(DRAWN_CLIPS, len(mask))
            reconstruction = reconstruct_frames(
                pixel_values[:count],
                targets[:count],
                predictions[:count],
                mask[:count],
                training.config.tubelet_size,
                as_height_and_width(training.config.patch_size),
                objective.reconstruction_target,
                objective.norm_pix_loss,
            )
            title = f"Videos that were not trained on, epoch {epoch}, {100 * objective.mask_ratio:g} % masked"
            picture = training.output_dir / f"reconstructions-{epoch:05d}.png"
            draw_reconstructions(reconstruction, held_out.names[:count], title, picture)
            drawn = False
    parts = {f"held_out_{name}": loss for name, loss in loss_parts(sums).items()}
    return {"held_out_loss": sums["loss"], **parts}


if __name__ == "__main__":
    sys.exit(main())
