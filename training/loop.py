"""The training loop of a run: batches, steps, and what is known between them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, set_seed
from torch.utils.data import DataLoader
from transformers.dynamic_module_utils import custom_object_save

from mtcae_dfer.hub_dataset.votes import VOTES
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import OptimisationArguments, RunArguments
from mtcae_dfer.training.checkpoints import CHECKPOINTS_FOLDER, Progress, save_checkpoint
from mtcae_dfer.training.data.blending import blend_clips
from mtcae_dfer.training.data.clip_dataset import ClipDataset, change_batch
from mtcae_dfer.training.data.feature_cache import EncodedClips
from mtcae_dfer.training.data.mixture import MixedClips, MixtureSampler
from mtcae_dfer.training.data.sampling import EpochSampler, draw_seed
from mtcae_dfer.training.evaluation.predictions import clip_arguments, label_arguments
from mtcae_dfer.training.losses import TrainingLoss, balanced_class_weights
from mtcae_dfer.training.optimisation import (
    WeightAverage,
    make_optimiser,
    make_schedule,
    peak_learning_rate,
    step_optimiser,
)

TrainingClips: TypeAlias = ClipDataset | EncodedClips | MixedClips
TrainingSampler: TypeAlias = EpochSampler | MixtureSampler
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass
class TrainingState(Progress):
    """What a run knows besides: the epoch whose model it keeps, and how far it is in the present epoch."""

    selected_epoch: int = 0
    selected_uar: float = 0.0  # of that epoch; nothing before one is selected
    selected_loss: float = 0.0  # likewise
    step: int = 0  # batches of the present epoch that every process has done
    clips: int | None = None  # training clips in these, of all processes; None: a checkpoint of old does not tell
    sums: dict[str, float] = field(default_factory=dict)  # over these batches: losses, means over processes
    seconds: float = 0.0  # that these batches took

    def patience_is_over(self, patience: int) -> bool:
        """Whether so many epochs brought no better validation UAR; never for 0."""
        return bool(patience) and self.epoch - self.selected_epoch >= patience


@dataclass
class Training:
    """All that takes part in the training of a run, prepared by Accelerate."""

    accelerator: Accelerator
    model: torch.nn.Module  # wrapped for several processes or half precision
    stepped: Any  # the same, compiled where that is asked for
    loss: TrainingLoss
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage | None
    sampler: TrainingSampler
    loader: Any  # Accelerate's, which knows epochs
    clips: TrainingClips
    processor: MTCAEVideoProcessor
    options: OptimisationArguments
    output_dir: Path
    last_save: float = field(default_factory=time.monotonic)

    def averaged(self) -> Any:
        """A block in which the model works with the averaged weights, where the run keeps them."""
        return self.average.in_place() if self.average is not None else nullcontext()


def prepare_training(
    accelerator: Accelerator,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    clips: TrainingClips,
    arguments: RunArguments,
) -> Training:
    """Builds loss, optimiser, schedule and loader for the training clips, and hands them to Accelerate.

    Raises:
        ValueError: an option cannot be combined with sharded training.
    """
    options = arguments.optimisation
    if accelerator.distributed_type in SHARDED and options.task_weighting == "uncertainty":
        raise ValueError("--task_weighting uncertainty: not with FSDP or DeepSpeed, which shard the model's weights")
    if accelerator.distributed_type == DistributedType.DEEPSPEED and options.ema_decay:
        raise ValueError(f"--ema_decay {options.ema_decay}: not with DeepSpeed, which keeps the weights to itself")
    loss = make_loss(model, clips, options).to(accelerator.device)
    optimiser = make_optimiser(
        model,
        options,
        peak_learning_rate(options, accelerator.num_processes),
        options.layer_decay,
        loss.parameters(),
    )
    sampler, loader = make_loader(accelerator, clips, arguments)
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    steps_per_epoch = -(-len(loader) // options.gradient_accumulation_steps)
    schedule = make_schedule(optimiser, options, steps_per_epoch)
    average = WeightAverage(model.parameters(), options.ema_decay) if options.ema_decay else None
    accelerator.register_for_checkpointing(*[part for part in (schedule, average) if part is not None])
    if options.task_weighting == "uncertainty":
        accelerator.register_for_checkpointing(loss)
    stepped = torch.compile(model) if options.torch_compile else model
    return Training(
        accelerator=accelerator,
        model=model,
        stepped=stepped,
        loss=loss,
        optimiser=optimiser,
        schedule=schedule,
        average=average,
        sampler=sampler,
        loader=loader,
        clips=clips,
        processor=processor,
        options=options,
        output_dir=Path(options.output_dir),
    )


def make_loss(model: MTCAEForMultiTaskVideo, clips: TrainingClips, options: OptimisationArguments) -> TrainingLoss:
    """The loss by the options; class weights come from the training clips.

    Raises:
        ValueError: run and model are both to learn the weights of the tasks, or no training clip has votes that are to
            be learned from.
    """
    weights = None
    if options.class_weights == "balanced":
        weights = balanced_class_weights(clips.labels["labels"], len(model.config.id2label or {}))
    if options.vote_share and not (clips.labels[VOTES] > 0).any():
        raise ValueError(
            f"--vote_share {options.vote_share}: no training clip has votes; build the data set with them (an "
            "attribute such as 'anger 3, neutral 4'), or leave the option out"
        )
    uncertainty = options.task_weighting == "uncertainty"
    if uncertainty and model.uncertainty is not None:
        raise ValueError("--task_weighting uncertainty: the model learns its weights already; leave one of both")
    return TrainingLoss(
        model.tasks, weights, options.label_smoothing_factor, options.vote_share, uncertainty, model.uncertainty
    )


def make_loader(
    accelerator: Accelerator, clips: TrainingClips, arguments: RunArguments
) -> tuple[TrainingSampler, DataLoader]:
    """The training clips in batches, in the order of the sampler."""
    options, processes = arguments.optimisation, accelerator.num_processes
    batch_size = options.per_device_train_batch_size
    if isinstance(clips, MixedClips):
        sampler: TrainingSampler = MixtureSampler(clips.part_of, clips.shares, batch_size, options.seed, processes)
    else:
        round_to = batch_size * processes if processes > 1 else 1
        sampler = EpochSampler(clips.labels["labels"], options.seed, arguments.data.balanced_sampling, round_to)
    workers = options.dataloader_num_workers
    loader = DataLoader(
        clips,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=options.dataloader_pin_memory and accelerator.device.type != "cpu",
        persistent_workers=options.dataloader_persistent_workers and workers > 0,
        prefetch_factor=options.dataloader_prefetch_factor if workers > 0 else None,
    )
    return sampler, loader


def train_epoch(training: Training, state: TrainingState) -> dict[str, Any]:
    """What is left of a pass over the training clips; returns mean losses, learning rate and seconds of all of it."""
    options, start = training.options, time.perf_counter()
    before, sums = state.seconds, dict(state.sums)
    training.clips.set_epoch(state.epoch)
    training.loader.set_epoch(state.epoch)
    clips_a_step = options.per_device_train_batch_size * training.accelerator.num_processes
    # Counted in clips: a run that is resumed on purpose with other batches goes on behind the last clip.
    state.clips = state.step * clips_a_step if state.clips is None else state.clips
    training.sampler.begin(state.epoch, done=state.clips)
    training.model.train()
    every = options.save_steps * options.gradient_accumulation_steps
    for batch in training.loader:
        # A step of a process has its own seed, so that a resumed run draws what an undisturbed one does.
        set_seed(draw_seed(options.seed, state.epoch, state.step, training.accelerator.process_index))
        for name, value in take_step(training, batch).items():
            sums[name] = sums.get(name, 0.0) + value
        state.step, state.clips = state.step + 1, state.clips + clips_a_step
        # Within the epoch: between two optimiser steps, and not where the epoch ends.
        if every and state.step % every == 0 and state.clips < len(training.sampler):
            state.sums, state.seconds = means_over_processes(training, sums), before + time.perf_counter() - start
            sums = dict(state.sums)
            save_progress(training, state)
    steps, means = state.step, means_over_processes(training, sums)
    losses = {name: value / steps for name, value in means.items()}
    seconds = before + time.perf_counter() - start
    state.step, state.clips, state.sums, state.seconds = 0, 0, {}, 0.0
    return {
        "train_loss": losses.pop("train_loss"),
        "task_losses": losses,
        "learning_rate": max(training.schedule.get_last_lr()),
        "seconds": seconds,
    }


def take_step(training: Training, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Gradients of one batch, and an optimiser step where enough are gathered; returns the losses of this process."""
    accelerator, options, blend = training.accelerator, training.options, None
    if not isinstance(training.clips, EncodedClips):
        # Here and not in the loader: on the device of the model, all clips at once.
        batch = change_batch(batch, training.clips.changes(batch["index"].tolist()))
    with accelerator.accumulate(training.model):
        clips = clip_arguments(training.processor, batch)
        if "pixel_values" in clips:
            pixel_values, blend = blend_clips(clips["pixel_values"], options.mixup_alpha, options.cutmix_alpha)
            clips = {"pixel_values": pixel_values}
        outputs = training.stepped(**clips, **label_arguments(batch))
        loss, task_losses = training.loss(outputs, batch["labels"], blend, batch.get(VOTES))
        value = refuse_nan_loss(loss, batch, training.clips)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            # Learned task weights stand outside the wrapped model, which averages its own weights' gradients only.
            for parameter in training.loss.parameters():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")
        if step_optimiser(accelerator, training.model, training.optimiser, options.max_grad_norm):
            training.schedule.step()
            if training.average is not None:
                training.average.update()
    reported = task_losses | {f"{name}_heat_map": loss for name, loss in (outputs.heat_map_losses or {}).items()}
    names, values = list(reported), torch.stack([loss.detach() for loss in reported.values()]).tolist()
    return {"train_loss": value, **dict(zip(names, values, strict=True))}


def refuse_nan_loss(loss: torch.Tensor, batch: dict[str, torch.Tensor], clips: Any) -> float:
    """The loss as a number; stops a run whose loss is none, and names the clips. The last checkpoint remains.

    Raises:
        ValueError: the loss is NaN or infinite.
    """
    value = float(loss.detach())
    if value != value or value in (float("inf"), float("-inf")):
        names = ", ".join(clips.names[index] for index in batch["index"].tolist())
        raise ValueError(
            f"the loss is {value} on the clips {names}: lower --learning_rate, or look at these clips; "
            "the last good checkpoint is kept"
        )
    return value


def means_over_processes(training: Training, sums: dict[str, float]) -> dict[str, float]:
    """The mean of every sum over the processes."""
    if training.accelerator.num_processes == 1:
        return dict(sums)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=training.accelerator.device)
    return dict(zip(sums, training.accelerator.reduce(values, "mean").tolist(), strict=True))


def save_after_epoch(training: Training, state: TrainingState, done: bool) -> None:
    """Saves a checkpoint at the end of the run, and where the last one is old enough."""
    due = [done or time.monotonic() - training.last_save >= training.options.save_seconds]
    # Clocks differ: one process decides for all.
    if broadcast_object_list(due)[0]:
        save_progress(training, state)


def save_progress(training: Training, state: TrainingState) -> None:
    """Saves a checkpoint, which the Auto* classes load as well."""
    folder, keep = training.output_dir / CHECKPOINTS_FOLDER, training.options.save_total_limit
    save_checkpoint(training.accelerator, folder, vars(state), keep, lambda place: describe_model(training, place))
    training.last_save = time.monotonic()


def describe_model(training: Training, folder: Path) -> None:
    """Writes what the Auto* classes need beside the weights: config, processor, and modelling files."""
    model = training.accelerator.unwrap_model(training.model)
    model.config.architectures = [type(model).__name__]
    custom_object_save(model, str(folder), config=model.config)
    model.config.save_pretrained(folder)
    training.processor.save_pretrained(folder)
