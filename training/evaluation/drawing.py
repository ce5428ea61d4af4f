"""What the pictures of one run and of many runs share: colours, names, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtcae_dfer.training.evaluation.percents import number, percent

MODEL_COLOUR, CONSTANT_COLOUR, CHANCE_COLOUR, SELECTED_COLOUR = "#1f6fb4", "#b9bec4", "#c0392b", "#2a9d4b"
LONGEST_NAME = 24


def plain_text(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def short_name(name: str) -> str:
    """A name that leaves room for the picture, cut where it is long."""
    return plain_text(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")


def draw_confusion_matrix(
    axes: Any,
    counts: Sequence[Sequence[int]],
    classes: Sequence[str],
    recalls: Sequence[float | None],
    font_size: float = 10,
) -> None:
    """Draws clips, coloured by their share of the row, with the recall of each class at the right end of its row.

    Args:
        axes: of matplotlib.
        counts: clips (K, K): rows are true classes, columns predicted ones.
        classes: K names.
        recalls: of the classes; None or NaN where a class has no clip.
        font_size: of names and numbers, in points.
    """
    clips = np.asarray(counts)
    shares = clips / clips.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    count_size = font_size * min(1.0, 3 / len(str(clips.max())))  # four digits are as wide as three
    for row, column in np.ndindex(*clips.shape):
        colour = "white" if shares[row, column] > 0.5 else "black" if clips[row, column] else "#a0a0a0"
        axes.text(column, row, clips[row, column], ha="center", va="center", color=colour, fontsize=count_size)
    names = [short_name(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=font_size)
    axes.set_yticks(range(len(names)), names, fontsize=font_size)
    axes.set(xlabel="predicted", ylabel="true")
    right = axes.secondary_yaxis("right")
    texts = ["no clip" if math.isnan(number(recall)) else f"{percent(recall, digits=0)} %" for recall in recalls]
    right.set_yticks(range(len(names)), texts, fontsize=font_size)
    right.tick_params(length=0)
    right.set_ylabel("recall")
