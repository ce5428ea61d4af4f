"""Pictures of results, each as PNG and SVG: confusion matrix, curves, recalls, subjects, and the ablation's chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.experiments.results import Ablation, CrossValidation
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.training.evaluation.drawing import (
    CHANCE_COLOUR,
    CONSTANT_COLOUR,
    MODEL_COLOUR,
    SELECTED_COLOUR,
    draw_confusion_matrix,
    plain_text,
    short_name,
)
from mtcae_dfer.training.evaluation.percents import number, percent

PLOTS_FOLDER = "plots"
DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: a fraction with its interval."""

    name: str
    value: float | None  # None: nothing was counted
    low: float | None  # of the interval; None: there is none
    high: float | None
    colour: str = MODEL_COLOUR
    dots: Sequence[float] = ()  # of the folds


def draw_results(results: CrossValidation | Ablation, output_dir: Path) -> list[Path]:
    """Draws every picture of the results into output_dir/plots, as PNG and SVG; returns the files."""
    # Figures of their own, not pyplot's: no display, no state shared with the caller.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    pictures: dict[str, Callable[[Any], None]] = {}
    if results["kind"] == "ablation":
        for axis in dict.fromkeys(variant["axis"] for variant in results["variants"]):
            pictures[axis] = partial(draw_axis, results=results, axis=axis)
    else:
        pictures["confusion_matrix"] = partial(draw_confusion, results=results)
        pictures["curves"] = partial(draw_curves, results=results)
        pictures["recall"] = partial(draw_recalls, results=results)
        if results["per_subject"]:
            pictures["subjects"] = partial(draw_subjects, results=results)
    folder = output_dir / PLOTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, dict[str, Any]] = {"png": {"dpi": DOTS_PER_INCH}, "svg": {"metadata": {"Date": None}}}
    files = []
    # Letters stay letters in SVG, and the same results give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mtcae"}):
        for name, draw in pictures.items():
            figure = Figure(layout="constrained")
            draw(figure)
            for extension, told in settings.items():
                files.append(folder / f"{name}.{extension}")
                with replacing(files[-1]) as temporary:
                    figure.savefig(temporary, format=extension, **told)
    return files


def _title(results: CrossValidation) -> str:
    return plain_text(f"{results['name']} · {results['protocol']}\n{results['data']}")


# Cross-validation


def draw_confusion(figure: Any, results: CrossValidation) -> None:
    """Draws the pooled confusion matrix: clips, coloured by their share of the row, with the recalls at the right."""
    counts, classes = results["confusion_matrix"], results["classes"]
    side = 3.5 + 0.62 * len(classes)
    figure.set_size_inches(side + 1.2, side)
    axes = figure.subplots()
    draw_confusion_matrix(axes, counts, classes, [results["per_class"][name]["recall"] for name in classes])
    axes.set_title(f"{_title(results)}\n{sum(map(sum, counts))} test clips of all folds", fontsize=10)


def draw_curves(figure: Any, results: CrossValidation) -> None:
    """Draws each run's training loss and validation UAR over the epochs, with the epoch that was kept."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure.set_size_inches(12, 4.6)
    figure.suptitle(_title(results), fontsize=11)
    loss, recall = figure.subplots(1, 2)
    colours = colormaps["tab10" if len(results["folds"]) <= 10 else "viridis"]
    for place, fold in enumerate(results["folds"]):
        colour = colours(place if len(results["folds"]) <= 10 else place / len(results["folds"]))
        history = fold["history"]
        epochs = [record["epoch"] for record in history]
        name = f"{fold['fold']}, seed {fold['seed']}" if len(results["seeds"]) > 1 else fold["fold"]
        loss.plot(epochs, [record["train_loss"] for record in history], color=colour, label=short_name(name))
        recalls = [number(record.get("validation_uar")) for record in history]
        recall.plot(epochs, recalls, color=colour)
        kept = fold["selected_epoch"] - 1
        if 0 <= kept < len(recalls):
            recall.plot(epochs[kept], recalls[kept], "o", color=colour)
    loss.set(title="training loss", xlabel="epoch")
    loss.set_ylim(bottom=0)
    recall.set(title="UAR on validation subjects (● the model that is tested)", xlabel="epoch", ylim=(0, 1))
    _finish_shares(recall, results, axis="y")
    for axes in (loss, recall):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)


def draw_recalls(figure: Any, results: CrossValidation) -> None:
    """Draws each expression's recall with its interval, beside chance."""
    names = results["classes"]
    figure.set_size_inches(8, 1.6 + 0.42 * len(names))
    axes = figure.subplots()
    per_class = [(short_name(name), results["per_class"][name]) for name in names]
    _draw_bars(axes, [Bar(name, entry["recall"], entry["low"], entry["high"]) for name, entry in per_class])
    axes.set_title(f"{_title(results)}\nrecall on unseen subjects, 95 % intervals over subjects", fontsize=10)
    _finish_shares(axes, results, axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)


def draw_subjects(figure: Any, results: CrossValidation) -> None:
    """Draws the UAR of every subject, sorted, and of each sex where the corpus tells it."""
    people = sorted(results["per_subject"].items(), key=lambda entry: number(entry[1]["uar"]))
    figure.set_size_inches(min(16, max(8, 3.5 + 0.16 * len(people))), 4.2)
    axes = figure.subplots()
    recalls = [number(person["uar"]) for _, person in people]
    axes.bar(range(len(people)), np.nan_to_num(recalls), color=MODEL_COLOUR, width=0.8)
    if len(people) <= 40:
        axes.set_xticks(range(len(people)), [short_name(name) for name, _ in people], rotation=90, fontsize=8)
    else:
        axes.set_xticks([])
    axes.set_xlabel(f"{len(people)} subjects, sorted")
    axes.margins(x=0.01)
    axes.set_title(f"{_title(results)}\nUAR of every subject, tested by a model that never saw them", fontsize=10)
    _finish_shares(axes, results, axis="y")
    for name, sex in results["per_sex"].items():
        colour = SELECTED_COLOUR if name == "female" else CONSTANT_COLOUR
        axes.axhline(number(sex["uar"]), color=colour, label=f"{name}: {percent(sex['uar'], digits=0)} %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _draw_bars(axes: Any, bars: Sequence[Bar]) -> None:
    """Horizontal bars from top to bottom, each with its interval, dots, and value."""
    values = np.array([number(bar.value) for bar in bars])
    axes.barh(range(len(bars)), np.nan_to_num(values), color=[bar.colour for bar in bars], height=0.62)
    for place, (bar, value) in enumerate(zip(bars, values, strict=True)):
        low, high = number(bar.low), number(bar.high)
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color="#222222", linewidth=1.2, solid_capstyle="butt")
        style = {"markersize": 4, "markerfacecolor": "none", "markeredgecolor": "#444444"}
        axes.plot(bar.dots, [place] * len(bar.dots), "o", **style)
        text = "no clip" if math.isnan(value) else f"{percent(value)} %"
        axes.text(np.nanmax([value, high, 0.0, *bar.dots]) + 0.012, place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.spines[["top", "right"]].set_visible(False)


def _finish_shares(axes: Any, results: CrossValidation, axis: str) -> None:
    """Percent on an axis, and chance as a dotted line across it."""
    chance = 1 / len(results["classes"])
    line = axes.axvline if axis == "x" else axes.axhline
    line(chance, color=CHANCE_COLOUR, linestyle=":", label=f"chance, {percent(chance)} %")
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_major_formatter(lambda share, _: f"{percent(share, digits=0)} %")
    which.set_ticks(np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)


# Ablation


def draw_axis(figure: Any, results: Ablation, axis: str) -> None:
    """Draws UAR and paired difference from the reference for the variants of one axis."""
    reference = next(variant for variant in results["variants"] if variant["name"] == results["reference"])
    variants = [variant for variant in results["variants"] if variant["axis"] == axis]
    variants = variants if reference in variants else [reference, *variants]
    figure.set_size_inches(13, 2.0 + 0.5 * len(variants))
    figure.suptitle(plain_text(f"{axis.replace('_', ' ')} · {results['protocol']}\n{results['data']}"), fontsize=11)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1], sharey=True)
    bars = []
    for variant in variants:
        summary = variant["result"]["summary"]["uar"]
        folds = [fold["uar"] for fold in variant["result"]["folds"]]
        colour = MODEL_COLOUR if variant is reference else CONSTANT_COLOUR
        title = plain_text(variant["title"])
        bars.append(Bar(title, summary["pooled"], summary["low"], summary["high"], colour, folds))
    _draw_bars(left, bars)
    left.set_title("UAR of all folds' clips (○ folds, line: 95 % interval)", fontsize=10)
    _finish_shares(left, reference["result"], axis="x")
    right.axvline(0, color=MODEL_COLOUR)
    for place, variant in enumerate(variants):
        if variant["differences"]:
            uar = variant["differences"]["uar"]
            low, middle, high = (100 * number(value) for value in (uar["low"], uar["difference"], uar["high"]))
            right.plot([low, high], [place, place], color="#222222", linewidth=1.4)
            right.plot(middle, place, "s", color="#222222")
    right.set_title(plain_text(f"UAR minus that of {reference['title']}, in points, 95 % interval"), fontsize=10)
    right.grid(axis="x", alpha=0.3)
    right.spines[["top", "right", "left"]].set_visible(False)
    right.tick_params(left=False)
