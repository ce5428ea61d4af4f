"""The report of a run: report.json, report.png, and the tables for the end of a run, the README and a model card.

Everything comes from one plain dictionary, `Report`; nothing is typed by hand. What was written can be drawn and
printed again: `draw_report(load_report(file), picture)`, `format_markdown_table(load_report(file))`.
"""

import json
import math
import textwrap
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from mtcae_dfer.hub_dataset.files import replacing, write_json
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

REPORT_FILE, PICTURE_FILE = "report.json", "report.png"

# key in the report -> (what a person reads, is more better, does guessing a class at random reach 1 / K)
FIGURES = {
    "uar": ("UAR", True, True),
    "war": ("WAR", True, True),
    "face_box_iou": ("face box IoU", True, False),
    "landmark_nme": ("landmark error / inter-ocular distance", False, False),
    "ccc_valence": ("CCC of valence (frames)", True, False),
    "ccc_arousal": ("CCC of arousal (frames)", True, False),
    "action_unit_f1": ("F1 of action units (frames)", True, False),
    "clip_ccc_valence": ("CCC of valence (clips)", True, False),
    "clip_ccc_arousal": ("CCC of arousal (clips)", True, False),
    "clip_action_unit_f1": ("F1 of action units (clips)", True, False),
}
LONGEST_LINE = 120


class Figures(TypedDict, total=False):
    """What a test found. Fractions; NaN (null in the file) where no frame has a face."""

    uar: float  # mean of the recalls of the classes that occur
    war: float  # share of clips that are right
    face_box_iou: float | None  # mean over frames with a face; None: the model does not predict boxes
    landmark_nme: float | None  # likewise; mean distance / inter-ocular distance in the model's square frame
    ccc_valence: float  # concordance over all labelled frames; absent: the model does not predict valence per frame
    ccc_arousal: float  # likewise
    action_unit_f1: float  # mean binary F1 over the labelled action units of all frames
    clip_ccc_valence: float  # the same three of tasks per clip
    clip_ccc_arousal: float
    clip_action_unit_f1: float
    clips: int  # how many clips were tested
    frames_with_face: int  # how many of their frames count for boxes and points
    confusion_matrix: list[list[int]]  # (K, K) clips: rows are true classes, columns predicted ones
    per_class_recall: dict[str, float]  # by class name; NaN (null) for a class without a clip


class EpochRecord(TypedDict, total=False):
    """One epoch of training. Further `validation_*` figures may stand beside these."""

    epoch: int  # from 1
    train_loss: float  # weighted sum over tasks, mean over steps
    task_losses: dict[str, float]  # by task, before its weight
    validation_loss: float
    validation_uar: float
    learning_rate: float  # at the epoch's end
    seconds: float


class Report(TypedDict, total=False):
    """Everything that is known of a run. `REQUIRED_KEYS` must be there; the others are written where known."""

    protocol: str  # how the clips were divided into training, validation and test
    seed: int
    data: str  # what the clips are
    dataset: dict[str, str]  # name, license, corpus, label_source, clips and path of the data set
    further_datasets: list[dict[str, str]]  # the same of those trained on besides, each with its share of every batch
    classes: list[str]  # names of the expressions in the order of their ids
    test: Figures
    constant_predictor: Figures  # of majority class and mean box and points of the training clips, on the same test
    validation: EpochRecord  # the selected epoch's record
    history: list[EpochRecord]
    selected_epoch: int  # the epoch whose model was kept, chosen on the validation clips
    options: dict[str, Any]  # resolved options of the run
    subjects: dict[str, list[str]]  # of "train", "validation" and "test"
    versions: dict[str, str]  # of packages
    seconds: dict[str, float]  # of "drawing", "labelling", "training" and "testing"


REQUIRED_KEYS = ("protocol", "seed", "data", "classes", "test", "constant_predictor", "history", "selected_epoch")
REQUIRED_FIGURES = ("uar", "war", "clips", "frames_with_face", "confusion_matrix", "per_class_recall")


def write_report(results: Report, output_dir: Path) -> Path:
    """Writes report.json, then report.png, each under a temporary name first.

    Numbers and arrays of numpy become plain ones, numbers that are none become null.

    Returns:
        The path of report.json.

    Raises:
        ValueError: the results are no complete report; nothing is written then.
    """
    check_report(results, "the results")
    output_dir.mkdir(parents=True, exist_ok=True)
    # The figures first: they cannot be made again, the picture can.
    write_json(output_dir / REPORT_FILE, results)
    draw_report(results, output_dir / PICTURE_FILE)
    return output_dir / REPORT_FILE


def load_report(file: Path) -> Report:
    """Reads a report.

    Raises:
        ValueError: the file is missing or is no report.
    """
    try:
        results = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{file}: no readable report: it is not there; give the folder of a run that has ended"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: no readable report ({error})") from error
    check_report(results, str(file))
    return results


def check_report(results: Any, where: str) -> None:
    """Raises a ValueError that begins with `where` unless the results hold what tables and pictures need."""
    if not isinstance(results, dict):
        raise ValueError(f"{where}: no report of a run: a {type(results).__name__} instead of named results")
    missing = [key for key in REQUIRED_KEYS if key not in results]
    for part in ("test", "constant_predictor"):
        missing += [f"{part}.{key}" for key in REQUIRED_FIGURES if key not in results.get(part, REQUIRED_FIGURES)]
    if missing:
        raise ValueError(f"{where}: no report of a run: {', '.join(missing)} missing")
    classes, shape = len(results["classes"]), np.shape(results["test"]["confusion_matrix"])
    if shape != (classes, classes):
        raise ValueError(f"{where}: the confusion matrix has shape {shape}, but there are {classes} classes")


# Tables


def format_table(results: Report) -> str:
    """The table that a run prints at its end: each figure beside the constant predictor's."""
    rows = [("", "model", "constant predictor", ""), *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}   {model:>{widths[1]}}   {constant:>{widths[2]}}   {target}".rstrip()
        for name, model, constant, target in rows
    ]
    return "\n".join([f"{_headline(results)}.", *lines, _selection(results)])


def format_markdown_table(results: Report) -> str:
    """The same as Markdown, for a README or a model card."""
    lines = [f"{_headline(results)}.", "", "| | model | constant predictor | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(results)]
    return "\n".join([*lines, "", _selection(results)])


def _headline(results: Report) -> str:
    return f"{results['protocol']}, seed {results['seed']}; {results['data']}; {results['test']['clips']} test clips"


def _selection(results: Report) -> str:
    return f"Model of epoch {results['selected_epoch']} of {len(results['history'])}, chosen on the validation clips."


def _rows(results: Report) -> list[tuple[str, str, str, str]]:
    """(figure, model, constant predictor, target) of everything that the model predicts."""
    model, constant = results["test"], results["constant_predictor"]
    return [
        (FIGURES[key][0], _figure_text(model, key), _figure_text(constant, key), target)
        for key, target in _targets(results).items()
    ]


def _targets(results: Report) -> dict[str, str]:
    """Which direction is better, and what chance is, for every figure of what the model predicts."""
    targets: dict[str, str] = {}
    test = results["test"]
    for key, (_, more_is_better, has_chance) in FIGURES.items():
        # Without any face there is null in the file for tasks that the model has.
        no_face = key in test and test["frames_with_face"] == 0
        if test.get(key) is not None or no_face:
            chance = f"; chance {percent(1 / len(results['classes']))} %" if has_chance else ""
            targets[key] = f"{'higher' if more_is_better else 'lower'} is better{chance}"
    return targets


def _figure_text(figures: Figures, key: str) -> str:
    value: Any = figures.get(key)
    if math.isfinite(number(value)):
        return f"{percent(value)} %"
    return "no frame with a face" if figures["frames_with_face"] == 0 else "not a number"


# The picture


def draw_report(results: Report, png_path: Path) -> None:
    """Draws losses, validation UAR, confusion matrix and the test's figures on one page, as PNG.

    Raises:
        ValueError: the results are no complete report.
    """
    check_report(results, "the results")
    with replacing(Path(png_path)) as temporary:
        make_report_figure(results).savefig(temporary, format="png", dpi=110)


def make_report_figure(results: Report) -> Any:
    """The page of `draw_report` as a matplotlib figure."""
    # Figures of their own, not pyplot's: no display, no state shared with the caller.
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(13, 10), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    titles = (f"{results['protocol']}, seed {results['seed']}", str(results["data"]))
    lines = [plain_text(line) for title in titles for line in textwrap.wrap(title, LONGEST_LINE)]
    figure.suptitle("\n".join(lines), fontsize=13)
    # Two rows with layouts of their own: long class names below do not squeeze the curves above.
    upper, lower = figure.subfigures(2, 1, height_ratios=[0.9, 1.1])
    losses, recall = upper.subplots(1, 2)
    confusion, bars = lower.subplots(1, 2)
    _draw_losses(losses, results["history"])
    _draw_validation(recall, results)
    test, classes = results["test"], results["classes"]
    recalls = [test["per_class_recall"].get(name) for name in classes]
    font_size = 10 if len(classes) <= 8 else max(4.0, 80 / len(classes))
    draw_confusion_matrix(confusion, test["confusion_matrix"], classes, recalls, font_size)
    confusion.set_title(f"{test['clips']} test clips")
    _draw_figures(bars, results)
    return figure


def _draw_losses(axes: Any, history: list[EpochRecord]) -> None:
    # Not every epoch knows every task: without a face there is no loss of boxes.
    tasks = list(dict.fromkeys(task for record in history for task in record["task_losses"]))
    for task in tasks:
        _draw_curve(axes, history, [record["task_losses"].get(task) for record in history], label=short_name(task))
    axes.set_title("Training loss of each task, before its weight")
    losses = [loss for line in axes.lines for loss in line.get_ydata() if loss > 0]
    # Within one power of ten a logarithmic axis might show no number at all.
    if losses and max(losses) >= 10 * min(losses):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_formatter(lambda loss, _: "")
    _finish_curves(axes, history)


def _draw_validation(axes: Any, results: Report) -> None:
    history, selected = results["history"], results["selected_epoch"]
    recalls = [record.get("validation_uar") for record in history]
    _draw_curve(axes, history, recalls, label="validation UAR", color=MODEL_COLOUR)
    for record, recall in zip(history, recalls, strict=True):
        if record["epoch"] == selected:
            reached = f", {percent(recall)} %" if math.isfinite(number(recall)) else ""
            axes.axvline(selected, color=SELECTED_COLOUR, label=f"selected: epoch {selected}{reached}")
            axes.plot(selected, number(recall), "*", color=SELECTED_COLOUR, markersize=15, clip_on=False)
    chance = 1 / len(results["classes"])
    axes.axhline(chance, color=CHANCE_COLOUR, linestyle=":", label=f"chance, {percent(chance)} %")
    axes.set(title="UAR on the validation clips", ylim=(0, 1))
    axes.yaxis.set_major_formatter(lambda share, _: f"{percent(share, digits=0)} %")
    _finish_curves(axes, history)


def _draw_curve(axes: Any, history: list[EpochRecord], values: list[float | None], **style: Any) -> None:
    epochs = [record["epoch"] for record in history]
    # A curve of one epoch is a point; hundreds of points would hide the curve.
    marker = "o" if len(epochs) <= 30 else None
    axes.plot(epochs, [number(value) for value in values], marker=marker, markersize=4, **style)


def _finish_curves(axes: Any, history: list[EpochRecord]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if history:
        # A range of its own, so that one epoch alone does not stand between fractions of epochs.
        margin = max(0.5, 0.02 * len(history))
        axes.set_xlim(history[0]["epoch"] - margin, history[-1]["epoch"] + margin)
    else:
        axes.text(0.5, 0.5, "no epochs", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
    if axes.lines:
        # Below the axes, where no curve can run.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def _draw_figures(axes: Any, results: Report) -> None:
    keys = list(_targets(results))
    positions = np.arange(len(keys))
    for shift, figures, name, colour in (
        (-0.19, results["test"], "model", MODEL_COLOUR),
        (0.19, results["constant_predictor"], "constant predictor", CONSTANT_COLOUR),
    ):
        values = [number(cast(Any, figures.get(key))) for key in keys]
        bars = axes.barh(positions + shift, 100 * np.nan_to_num(values), 0.36, label=name, color=colour)
        axes.bar_label(bars, [_figure_text(figures, key) for key in keys], padding=4, fontsize=10)
    with_chance = [position for position, key in enumerate(keys) if FIGURES[key][2]]
    chance, ends = 100 / len(results["classes"]), np.array(with_chance)
    axes.vlines([chance] * len(ends), ends - 0.42, ends + 0.42, color=CHANCE_COLOUR, linestyle=":", label="chance")
    names = [f"{FIGURES[key][0]} {'↑' if FIGURES[key][1] else '↓'}".replace(" / ", "\n/ ") for key in keys]
    axes.set_yticks(positions, names, fontsize=10)
    axes.invert_yaxis()
    longest = max([100.0, *(bar.get_width() for bar in axes.patches)])
    axes.set(title="Test figures in percent (↑ higher, ↓ lower is better)", xlim=(0, 1.15 * longest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
