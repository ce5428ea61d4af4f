"""The report of a run: report.json, report.png, and the table at the end. Nothing in it is typed by hand.

The content of a report (every key is written by `training/run.py`):
    protocol, data, seed        how the clips were divided, what they are, the run's seed
    classes                     names of the expressions in the order of their ids
    test, constant_predictor    uar, war, face_box_iou, landmark_nme (fractions), clips, frames_with_face,
                                confusion_matrix (rows are true classes), per_class_recall
    validation, history         one record per epoch: train_loss, task_losses, validation_uar, …
    selected_epoch              the epoch whose model was kept, chosen on the validation clips
    options, subjects, versions, seconds
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

REPORT_FILE, PICTURE_FILE = "report.json", "report.png"

# key in the report -> (what a person reads, which direction is better)
FIGURES = {
    "uar": ("UAR", "higher is better"),
    "war": ("WAR", "higher is better"),
    "face_box_iou": ("face box IoU", "higher is better"),
    "landmark_nme": ("landmark error / inter-ocular distance", "lower is better"),
}


def write_report(results: dict[str, Any], output_dir: Path) -> Path:
    """Writes report.json and report.png, each under a temporary name first. Values that are no number become null."""
    draw_report(results, output_dir / PICTURE_FILE)
    file = output_dir / REPORT_FILE
    temporary = file.with_name(f".{file.name}.partial")
    text = json.dumps(_without_nan(results), indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, file)
    return file


def load_report(file: Path) -> dict[str, Any]:
    """Reads a report.

    Raises:
        ValueError: the file is missing or is no report.
    """
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: no readable report ({error})") from error
    missing = [key for key in ("protocol", "test", "constant_predictor", "classes") if key not in results]
    if missing:
        raise ValueError(f"{file}: no report of a run: {', '.join(missing)} missing")
    return results


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, model, constant predictor, direction) of everything that the model predicts."""
    rows = []
    for key, (name, direction) in FIGURES.items():
        if results["test"].get(key) is not None:
            columns = (_percent(results[part].get(key)) for part in ("test", "constant_predictor"))
            rows.append((name, *columns, direction))
    return rows


def _percent(value: float | None) -> str:
    return "no face" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _headline(results: dict[str, Any]) -> str:
    return f"{results['protocol']}, seed {results['seed']}; {results['data']}; {results['test']['clips']} test clips"


def format_table(results: dict[str, Any]) -> str:
    """The table that a run prints at its end."""
    lines = [_headline(results), f"{'':<40}{'model':>10}{'constant':>10}"]
    lines += [
        f"{name:<40}{model:>10}{constant:>10}   {direction}" for name, model, constant, direction in _rows(results)
    ]
    chance = 1 / len(results["classes"])
    lines.append(
        f"Chance UAR {100 * chance:.1f} %; model of epoch {results['selected_epoch']}, chosen on validation clips."
    )
    return "\n".join(lines)


def format_markdown_table(results: dict[str, Any]) -> str:
    """The same as Markdown, for a README or a model card."""
    lines = [f"{_headline(results)}.", "", "| | model | constant predictor | |", "|---|---|---|---|"]
    lines += [f"| {name} | {model} | {constant} | {direction} |" for name, model, constant, direction in _rows(results)]
    return "\n".join(lines)


def draw_report(results: dict[str, Any], file: Path) -> None:
    """Draws losses, validation UAR, confusion matrix and figures on one page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    losses, recall, confusion, bars = figure.subplots(2, 2).flatten()
    _draw_losses(losses, results["history"])
    _draw_validation(recall, results)
    _draw_confusion(confusion, results)
    _draw_bars(bars, results)
    figure.suptitle(f"{results['protocol']}, seed {results['seed']}\n{results['data']}", fontsize=12)
    temporary = file.with_name(f".{file.name}.partial.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, file)


def _draw_losses(axes: Any, history: list[dict[str, Any]]) -> None:
    epochs = [record["epoch"] for record in history]
    for task in history[0]["task_losses"]:
        axes.plot(epochs, [record["task_losses"][task] for record in history], ".-", markersize=3, label=task)
    axes.set(title="Training loss of each task (before its weight)", xlabel="epoch", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_validation(axes: Any, results: dict[str, Any]) -> None:
    history, chance = results["history"], 1 / len(results["classes"])
    epochs = [record["epoch"] for record in history]
    axes.plot(epochs, [record["validation_uar"] for record in history], ".-", markersize=3, label="validation UAR")
    axes.axvline(results["selected_epoch"], color="tab:green", linestyle="--", label="selected epoch")
    axes.axhline(chance, color="gray", linestyle=":", label="chance")
    axes.set(title="Validation UAR", xlabel="epoch", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _draw_confusion(axes: Any, results: dict[str, Any]) -> None:
    counts, classes = np.array(results["test"]["confusion_matrix"]), results["classes"]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(title="Test clips: true class (rows), predicted class (columns)")


def _draw_bars(axes: Any, results: dict[str, Any]) -> None:
    keys = [key for key in FIGURES if results["test"].get(key) is not None]
    positions = np.arange(len(keys))
    for shift, part, name in ((-0.2, "test", "model"), (0.2, "constant_predictor", "constant predictor")):
        values = [results[part].get(key) for key in keys]
        heights = [100 * value if value is not None and math.isfinite(value) else 0.0 for value in values]
        bars = axes.barh(positions + shift, heights, 0.38, label=name)
        axes.bar_label(bars, [_percent(value) for value in values], padding=3, fontsize=9)
    labels = [f"{FIGURES[key][0]}\n({FIGURES[key][1]})".replace(" / ", "\n/ ") for key in keys]
    axes.set_yticks(positions, labels)
    axes.invert_yaxis()
    axes.set(title=f"Test figures in percent ({results['test']['clips']} clips)", xlim=(0, 115))
    axes.legend(loc="lower right")
