"""The models of a run of MTL-ER: which there are, and how each is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS, TASKS, MTLERConfig
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.modeling_mtl_er import MTLERForAffectiveBehavior
from mtcae_dfer.training.affect.arguments import (
    AffectArguments,
    AffectModelArguments,
    AffectStepArguments,
    parse_dependencies,
    whole_numbers,
)
from mtcae_dfer.training.affect.sequences import AffectDataset, AffectSplits, lengthen, pad_videos
from mtcae_dfer.training.affect.testing import validate
from mtcae_dfer.training.checkpoints import CHECKPOINTS_FOLDER, Progress, save_checkpoint
from mtcae_dfer.training.data.sampling import draw_seed
from mtcae_dfer.training.optimisation import make_optimiser, make_schedule, step_optimiser
from mtcae_dfer.training.running import make_accelerator, refuse_changed_options, start_or_resume

RESULT_FILE, MEMBERS_FOLDER = "result.json", "members"


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
    selected_score: float = 0.0  # of that epoch; nothing before one is selected


@dataclass
class MemberTraining:
    """All that takes part in the training of one model, prepared by Accelerate."""

    accelerator: Accelerator
    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loader: Any  # Accelerate's, which knows epochs
    options: AffectStepArguments


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


def train_member(member: Member, splits: AffectSplits, arguments: AffectArguments, output_dir: Path) -> dict[str, Any]:
    """Trains one model; its folder holds the best epoch on the validation videos. A finished one is not repeated.

    Raises:
        CheckpointError: one was trained to its end, or begun, with other options.
    """
    folder = output_dir / MEMBERS_FOLDER / member.name
    options = arguments.optimisation
    # An accelerator of its own: whatever one model registers for its checkpoints would stand in the next one's.
    accelerator = make_accelerator(options)
    if (folder / RESULT_FILE).exists():
        finished: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        refuse_changed_options(finished["options"], arguments, folder)
        accelerator.print(f"{member.name}: finished before")
        return finished
    set_seed(options.seed + member.seed)
    model = MTLERForAffectiveBehavior(make_config(arguments.model, splits, member.tasks))
    optimiser = make_optimiser(model, options)
    loader = DataLoader(
        AffectDataset(splits.train), options.per_device_train_batch_size, shuffle=True, collate_fn=pad_videos
    )
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    schedule = make_schedule(optimiser, options, len(loader))
    accelerator.register_for_checkpointing(schedule)
    training = MemberTraining(accelerator, model, optimiser, schedule, loader, options)

    def save(state: MemberState) -> None:
        save_checkpoint(accelerator, folder / CHECKPOINTS_FOLDER, vars(state), options.save_total_limit)

    state = start_or_resume(accelerator, arguments, folder, MemberState, save)
    for epoch in tqdm(
        range(state.epoch, options.num_train_epochs),
        desc=member.name,
        unit="epoch",
        disable=not accelerator.is_main_process,
    ):
        set_seed(draw_seed(options.seed, member.seed, epoch))
        loader.set_epoch(1000 * member.seed + epoch)
        plain_model = accelerator.unwrap_model(model)
        if options.true_label_decay:
            rest = 1.0 - epoch / options.num_train_epochs
            plain_model.true_label_share = float(plain_model.config.true_label_share) * rest
        losses = train_epoch(training)
        validation = validate(plain_model, splits.validation)
        state.epoch = epoch + 1
        state.history.append({"epoch": state.epoch, **losses, "validation": validation})
        keep_best(accelerator, model, state, folder)
        save(state)
    result = {"selected_epoch": state.selected_epoch, "history": state.history, "options": state.options}
    if accelerator.is_main_process:
        write_json(folder / RESULT_FILE, result)
    accelerator.wait_for_everyone()
    return result


def train_epoch(training: MemberTraining) -> dict[str, Any]:
    """One pass over the training videos: a step for every chunk, one of the schedule for a batch; gives mean losses."""
    accelerator, model, options = training.accelerator, training.model.train(), training.options
    sums: dict[str, float] = {}
    steps = 0
    for batch in training.loader:
        state, moved = None, False
        for chunk in cut_into_chunks(batch, accelerator.unwrap_model(model).config.chunk_length, accelerator):
            outputs = model(**chunk, state=state)
            if not torch.isfinite(outputs.loss):
                raise ValueError(f"the loss is {outputs.loss.item()}: lower --learning_rate, or look at the features")
            accelerator.backward(outputs.loss)
            moved |= step_optimiser(accelerator, model, training.optimiser, options.max_grad_norm)
            state = outputs.state
            steps += 1
            for name, loss in {"train_loss": outputs.loss, **outputs.task_losses}.items():
                sums[name] = sums.get(name, 0.0) + loss.item()
        if moved:
            training.schedule.step()
    means = {name: total / steps for name, total in sums.items()}
    return {
        "train_loss": means.pop("train_loss"),
        "task_losses": means,
        "learning_rate": training.schedule.get_last_lr()[0],
    }


def cut_into_chunks(
    batch: dict[str, torch.Tensor], chunk_length: int, accelerator: Accelerator
) -> Iterator[dict[str, torch.Tensor]]:
    """Consecutive chunks of a batch of whole videos, as many in every process."""
    length = torch.tensor([batch["features"].shape[1]], device=accelerator.device)
    # Processes exchange gradients at every step, so that one with shorter videos goes on over padding.
    longest = int(accelerator.gather(length).max())
    rest = longest - int(length)
    if rest:
        batch = {name: lengthen(values, rest, name, axis=1) for name, values in batch.items()}
    for start in range(0, longest, chunk_length):
        yield {name: values[:, start : start + chunk_length] for name, values in batch.items()}


def keep_best(accelerator: Accelerator, model: torch.nn.Module, state: MemberState, folder: Path) -> None:
    """Keeps the epoch with the highest sum of validation figures, the first of equals."""
    score = selection_score(state.history[-1]["validation"])
    if state.selected_epoch == 0 or score > state.selected_score:
        state.selected_score, state.selected_epoch = score, state.epoch
        if accelerator.is_main_process:
            accelerator.unwrap_model(model).save_pretrained(folder)
    accelerator.wait_for_everyone()


def selection_score(figures: dict[str, float]) -> float:
    """P_MTL, or its parts that a model of fewer tasks has and that are labelled."""
    halves = {"ccc_valence": 0.5, "ccc_arousal": 0.5, "expression_f1": 1.0, "action_unit_f1": 1.0}
    known = [weight * figures[name] for name, weight in halves.items() if np.isfinite(figures.get(name, np.nan))]
    return float(sum(known)) if known else -1.0
