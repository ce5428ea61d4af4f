"""Pictures of results, each as PNG and SVG: confusion matrix, curves, recalls, subjects, and the ablation's chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.experiments.results import Ablation, CrossValidation, Variant
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.training.evaluation.report import (
    CHANCE_COLOUR,
    CONSTANT_COLOUR,
    MODEL_COLOUR,
    SELECTED_COLOUR,
    plain_text,
    short_name,
)

FORMATS = ("png", "svg")
PLOTS_FOLDER = "plots"
DOTS_PER_INCH = 130


def draw_results(results: CrossValidation | Ablation, output_dir: Path) -> list[Path]:
    """Draws every picture of the results into output_dir/plots; returns the files."""
    if results["kind"] == "ablation":
        return [file for name, draw in ablation_pictures(results).items() for file in _save(name, draw, output_dir)]
    pictures: dict[str, Callable[[Any], None]] = {
        "confusion_matrix": lambda figure: draw_confusion(figure, results),
        "curves": lambda figure: draw_curves(figure, results),
        "recall": lambda figure: draw_recalls(figure, results),
    }
    if results["per_subject"]:
        pictures["subjects"] = lambda figure: draw_subjects(figure, results)
    return [file for name, draw in pictures.items() for file in _save(name, draw, output_dir)]


def _save(name: str, draw: Callable[[Any], None], output_dir: Path) -> list[Path]:
    """Draws one picture and writes it in every format."""
    # Figures of their own, not pyplot's: no display, no state shared with the caller.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    draw(figure)
    folder = output_dir / PLOTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{extension}" for extension in FORMATS]
    # Letters stay letters in SVG, and the same results give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mtcae"}):
        for file in files:
            told = {"metadata": {"Date": None}} if file.suffix == ".svg" else {"dpi": DOTS_PER_INCH}
            with replacing(file) as temporary:
                figure.savefig(temporary, format=file.suffix[1:], **told)
    return files


def _title(results: CrossValidation) -> str:
    return plain_text(f"{results['name']} · {results['protocol']}\n{results['data']}")


# Cross-validation


def draw_confusion(figure: Any, results: CrossValidation) -> None:
    """Draws the pooled confusion matrix: clips, coloured by their share of the row, with the recalls at the right."""
    counts, classes = np.array(results["confusion_matrix"]), results["classes"]
    side = 3.5 + 0.62 * len(classes)
    figure.set_size_inches(side + 1.2, side)
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black" if counts[row, column] else "#a0a0a0"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    names = [short_name(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{_title(results)}\n{counts.sum()} test clips of all folds", fontsize=10)
    recalls = [results["per_class"][name]["recall"] for name in classes]
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(classes)), ["no clip" if recall is None else share_text(recall) for recall in recalls])
    right.tick_params(length=0)
    right.set_ylabel("recall")


def draw_curves(figure: Any, results: CrossValidation) -> None:
    """Draws each run's training loss and validation UAR over the epochs, with the epoch that was kept."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure.set_size_inches(12, 4.6)
    figure.suptitle(_title(results), fontsize=11)
    loss, recall = figure.subplots(1, 2)
    colours = colormaps["tab10" if len(results["folds"]) <= 10 else "viridis"]
    for number, fold in enumerate(results["folds"]):
        colour = colours(number if len(results["folds"]) <= 10 else number / len(results["folds"]))
        _draw_fold(loss, recall, fold, colour, several_seeds=len(results["seeds"]) > 1)
    loss.set(title="training loss", xlabel="epoch")
    loss.set_ylim(bottom=0)
    recall.set(title="UAR on validation subjects (● the model that is tested)", xlabel="epoch", ylim=(0, 1))
    _finish_shares(recall, results, axis="y")
    for axes in (loss, recall):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)


def _draw_fold(loss: Any, recall: Any, fold: dict[str, Any], colour: Any, several_seeds: bool) -> None:
    epochs = [record["epoch"] for record in fold["history"]]
    name = f"{fold['fold']}, seed {fold['seed']}" if several_seeds else fold["fold"]
    loss.plot(epochs, [record["train_loss"] for record in fold["history"]], color=colour, label=short_name(name))
    recalls = [_number(record.get("validation_uar")) for record in fold["history"]]
    recall.plot(epochs, recalls, color=colour)
    kept = fold["selected_epoch"] - 1
    if 0 <= kept < len(recalls):
        recall.plot(epochs[kept], recalls[kept], "o", color=colour)


def draw_recalls(figure: Any, results: CrossValidation) -> None:
    """Draws each expression's recall with its interval, beside chance."""
    names = results["classes"]
    figure.set_size_inches(8, 1.6 + 0.42 * len(names))
    axes = figure.subplots()
    figures = [results["per_class"][name] for name in names]
    _draw_bars(axes, [short_name(name) for name in names], figures, "recall", [MODEL_COLOUR] * len(names))
    axes.set_title(f"{_title(results)}\nrecall on unseen subjects, 95 % intervals over subjects", fontsize=10)
    _finish_shares(axes, results, axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)


def draw_subjects(figure: Any, results: CrossValidation) -> None:
    """Draws the UAR of every subject, sorted, and of each sex where the corpus tells it."""
    people = sorted(results["per_subject"].items(), key=lambda entry: _number(entry[1]["uar"]))
    figure.set_size_inches(min(16, max(8, 3.5 + 0.16 * len(people))), 4.2)
    axes = figure.subplots()
    recalls = [_number(person["uar"]) for _, person in people]
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
        axes.axhline(_number(sex["uar"]), color=colour, label=f"{name}: {share_text(sex['uar'])}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _draw_bars(
    axes: Any,
    names: Sequence[str],
    figures: Sequence[dict[str, Any]],
    key: str,
    colours: Sequence[str],
    dots: Sequence[Sequence[float]] = (),
) -> None:
    """Horizontal bars of `key` from top to bottom, each with its interval "low" to "high", dots, and value."""
    dots = dots or [()] * len(names)
    values = np.array([_number(entry[key]) for entry in figures])
    ends = np.array([[_number(entry["low"]), _number(entry["high"])] for entry in figures])
    places = np.arange(len(names))
    axes.barh(places, np.nan_to_num(values), color=colours, height=0.62)
    for place, value, (low, high), others in zip(places, values, ends, dots, strict=True):
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color="#222222", linewidth=1.2, solid_capstyle="butt")
        text = "no clip" if math.isnan(value) else share_text(value, digits=1)
        axes.plot(others, [place] * len(others), "o", markersize=4, markerfacecolor="none", markeredgecolor="#444444")
        axes.text(np.nanmax([value, high, 0.0, *others]) + 0.012, place, text, va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.spines[["top", "right"]].set_visible(False)


def _finish_shares(axes: Any, results: CrossValidation, axis: str) -> None:
    """Percent on an axis, and chance as a dotted line across it."""
    chance = 1 / len(results["classes"])
    line = axes.axvline if axis == "x" else axes.axhline
    line(chance, color=CHANCE_COLOUR, linestyle=":", label=f"chance, {share_text(chance, digits=1)}")
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_major_formatter(lambda share, _: share_text(share))
    which.set_ticks(np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)


def share_text(share: float | None, digits: int = 0) -> str:
    """A fraction in percent, as reports write it: "82.1 %"."""
    return f"{100 * _number(share):.{digits}f} %"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


# Ablation


def ablation_pictures(results: Ablation) -> dict[str, Callable[[Any], None]]:
    """A chart for every axis."""
    axes = dict.fromkeys(variant["axis"] for variant in results["variants"])
    return {axis: lambda figure, axis=axis: draw_axis(figure, results, axis) for axis in axes}


def draw_axis(figure: Any, results: Ablation, axis: str) -> None:
    """Draws UAR and paired difference from the reference for the variants of one axis."""
    reference = next(variant for variant in results["variants"] if variant["name"] == results["reference"])
    variants = [variant for variant in results["variants"] if variant["axis"] == axis]
    variants = variants if reference in variants else [reference, *variants]
    figure.set_size_inches(13, 2.0 + 0.5 * len(variants))
    figure.suptitle(plain_text(f"{axis.replace('_', ' ')} · {results['protocol']}\n{results['data']}"), fontsize=11)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1], sharey=True)
    _draw_recall_of(left, variants, reference)
    _draw_differences(right, variants, reference)


def _draw_recall_of(axes: Any, variants: Sequence[Variant], reference: Variant) -> None:
    colours = [MODEL_COLOUR if variant is reference else CONSTANT_COLOUR for variant in variants]
    figures = [variant["result"]["summary"]["uar"] for variant in variants]
    folds = [[_number(fold["uar"]) for fold in variant["result"]["folds"]] for variant in variants]
    _draw_bars(axes, [plain_text(variant["title"]) for variant in variants], figures, "pooled", colours, folds)
    axes.set_title("UAR of all folds' clips (○ folds, line: 95 % interval)", fontsize=10)
    _finish_shares(axes, reference["result"], axis="x")


def _draw_differences(axes: Any, variants: Sequence[Variant], reference: Variant) -> None:
    axes.axvline(0, color=MODEL_COLOUR)
    for place, variant in enumerate(variants):
        if variant["differences"]:
            entry = {key: 100 * _number(value) for key, value in variant["differences"]["uar"].items()}
            axes.plot([entry["low"], entry["high"]], [place, place], color="#222222", linewidth=1.4)
            axes.plot(entry["difference"], place, "s", color="#222222")
    axes.set_title(plain_text(f"UAR minus that of {reference['title']}, in points, 95 % interval"), fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
