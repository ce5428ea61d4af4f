"""Valence, arousal and action units as tasks of MTCAE: their labels out of a data set's rows, and their figures.

A task of any name takes these labels if its `label_key` is valence, arousal, valence_arousal or action_units, or one of
these after "clip_". A task per frame gets the labels of the frames; one per clip the mean valence and arousal over the
labelled frames, and the units that are there in at least one of them. A task of action units names its units in
`output_names`: AU1, AU12, …
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import datasets
import numpy as np
import torch

from mtcae_dfer.configuration_mtcae import TaskDescription
from mtcae_dfer.hub_dataset.schema import ACTION_UNIT_PREFIX
from mtcae_dfer.modeling_mtl_er import MISSING_LABEL
from mtcae_dfer.training.evaluation.metrics import action_unit_f1, concordance_correlation

CLIP_PREFIX = "clip_"
VALENCE_AROUSAL = {"valence": ("valence",), "arousal": ("arousal",), "valence_arousal": ("valence", "arousal")}
ACTION_UNITS = "action_units"


def affect_tasks(tasks: Sequence[TaskDescription]) -> list[TaskDescription]:
    """Those of the tasks that take affect labels."""
    return [task for task in tasks if _kind_of_labels(task) in (*VALENCE_AROUSAL, ACTION_UNITS)]


def label_key(task: TaskDescription) -> str:
    """Under which name a batch holds the task's labels."""
    return task.label_key or task.name


def _kind_of_labels(task: TaskDescription) -> str:
    return label_key(task).removeprefix(CLIP_PREFIX)


def read_affect_labels(
    rows: datasets.Dataset, tasks: Sequence[TaskDescription], optional: bool = False
) -> dict[str, torch.Tensor]:
    """Labels of N clips by `label_key`: float32 (N, T, outputs) or, per clip, (N, outputs); NaN where unknown.

    Args:
        rows: of a data set.
        tasks: of the model; those of affect have labels here.
        optional: labels that the rows do not have are unknown, instead of an error.

    Raises:
        ValueError: the rows have no such labels, a task has other outputs than its labels, an action unit is unknown,
            or two tasks want different labels under one key.
    """
    labels: dict[str, torch.Tensor] = {}
    owners: dict[str, TaskDescription] = {}
    for task in affect_tasks(tasks):
        columns, kind = _columns_of(task), _kind_of_labels(task)
        owner = owners.setdefault(label_key(task), task)
        if owner.per != task.per:
            raise ValueError(
                f"tasks.{task.name}.label_key={task.label_key!r}: another task takes other labels by this name; "
                f"call those of clips {CLIP_PREFIX}{kind}"
            )
        if _columns_of(owner) != columns:
            raise ValueError(
                f"tasks.{task.name}.output_names={task.output_names}: {owner.name} takes other labels under "
                f"label_key={task.label_key!r}; list all units in one task"
            )
        # T numbers a column -> (N, T, columns)
        values = np.stack([_read_column(rows, task, name, optional) for name in columns], axis=-1)
        if task.per == "clip":
            values = _over_frames(values, any_frame=kind == ACTION_UNITS)
        labels[label_key(task)] = torch.from_numpy(values)
    return labels


def _columns_of(task: TaskDescription) -> list[str]:
    kind = _kind_of_labels(task)
    if kind in VALENCE_AROUSAL:
        columns = list(VALENCE_AROUSAL[kind])
    else:
        names = task.output_names or []
        unknown = [name for name in names if re.fullmatch(r"AU\d+", name) is None]
        if unknown or not names:
            listed = ", ".join(unknown) or "nothing"
            raise ValueError(f"tasks.{task.name}.output_names: {listed}; name each action unit, as AU1, AU12")
        columns = [f"{ACTION_UNIT_PREFIX}{int(name[2:])}" for name in names]
    if task.output_shape != [len(columns)]:
        raise ValueError(f"tasks.{task.name}.output_shape={task.output_shape}: its labels need [{len(columns)}]")
    return columns


def _read_column(rows: datasets.Dataset, task: TaskDescription, column: str, optional: bool) -> np.ndarray:
    """One column of labels, float32 (N, T)."""
    if column not in rows.column_names and optional:
        return np.full((len(rows), rows.features["frame_indices"].length), np.nan, dtype=np.float32)
    if column not in rows.column_names:
        units = [name for name in rows.column_names if name.startswith(ACTION_UNIT_PREFIX)]
        there = [f"AU{name.removeprefix(ACTION_UNIT_PREFIX)}" for name in units]
        there += [name for name in ("valence", "arousal") if name in rows.column_names]
        wanted = column.replace(ACTION_UNIT_PREFIX, "AU")
        raise ValueError(
            f"task {task.name} needs labels of {wanted}; of affect the data set has {', '.join(there) or 'no labels'}"
        )
    return np.array(list(rows[column]), dtype=np.float32)


def _over_frames(values: np.ndarray, any_frame: bool) -> np.ndarray:
    """(N, T, C) -> (N, C): mean or maximum over labelled frames; NaN where none is."""
    known = ~np.isnan(values)
    if any_frame:
        summary = np.where(known, values, -np.inf).max(axis=1)
    else:
        summary = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1).clip(min=1)
    return np.where(known.any(axis=1), summary, np.nan).astype(np.float32)


def affect_figures(task: TaskDescription, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """CCC of valence and arousal, or F1 of action units, over all labelled frames or clips.

    Args:
        task: which.
        predicted: (N, [T,] outputs) values, or logits of action units.
        true: of the same shape, NaN where unknown.
    """
    prefix = CLIP_PREFIX if task.per == "clip" else ""
    kind = _kind_of_labels(task)
    if kind == ACTION_UNITS:
        present = np.where(np.isnan(true), MISSING_LABEL, true)
        return {f"{prefix}action_unit_f1": action_unit_f1((predicted >= 0).astype(np.int64), present)}
    return {
        f"{prefix}ccc_{name}": concordance_correlation(predicted[..., column], true[..., column])
        for column, name in enumerate(VALENCE_AROUSAL[kind])
    }


def constant_affect(task: TaskDescription, labels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """What a model predicts that never looks: the training labels' mean, repeated to the shape of `like`."""
    # (N, [T,] outputs) -> (all, outputs)
    flat = labels.reshape(-1, labels.shape[-1])
    known = ~np.isnan(flat)
    mean = np.where(known, flat, 0.0).sum(axis=0) / known.sum(axis=0).clip(min=1)
    # As a logit: a unit is predicted where it is there in most frames.
    mean = mean - 0.5 if _kind_of_labels(task) == ACTION_UNITS else mean
    return np.broadcast_to(mean, like.shape).astype(like.dtype)
