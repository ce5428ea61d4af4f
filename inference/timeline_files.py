"""A timeline as text, as a table (CSV or a pandas data frame) and as a chart.

A timeline is what the pipeline gives for one video (see `FacialExpressionTimelinePipeline`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtcae_dfer.face_geometry import LANDMARK_NAMES
from mtcae_dfer.hub_dataset.files import replacing

if TYPE_CHECKING:
    import pandas
    from PIL import Image

MOST_CHARTS = 12  # people in one picture
NARROW = 6.0  # inches; below it a chart is laid out for a telephone
EVIDENCE_COLUMNS = ("face_coverage", "face_frames", "face_seconds", "short")
WINDOW_COLUMNS = ("file", "track", "start", "end", *EVIDENCE_COLUMNS, "warning", "expression", "probability")
FRAME_COLUMNS = (
    "file",
    "track",
    "time",
    "x1",
    "y1",
    "x2",
    "y2",
    *(f"{landmark}_{axis}" for landmark in LANDMARK_NAMES for axis in "xy"),
    "warning",
    "expression",
    "probability",
)

Timeline = dict[str, Any]


def format_timeline(video: str, result: Timeline) -> str:
    """A readable block of lines: the strongest expression of each person's windows."""
    count = len(result["people"])
    lines = [f"{video}: {result['duration']:.1f} s, {count} {'person' if count == 1 else 'people'}"]
    windows = [window for person in result["people"] for window in person["windows"]]
    if not any(window["scores"] for window in windows):
        lines.append(f"  {_nobody(result)}: there is no expression to report")
    for person in result["people"]:
        lines.append(f"  person {person['track']}, {person['start']:.1f}–{person['end']:.1f} s")
        for window in person["windows"]:
            lines.append(f"    {window['start']:7.2f}–{window['end']:.2f} s  {strongest(window)}")
    if result.get("warning"):
        lines.append(f"  note: {result['warning']}")
    return "\n".join(lines)


def _nobody(result: Mapping[str, Any]) -> str:
    """Why a timeline, or a camera's window, tells of nobody."""
    count = result.get("left_out", 0)
    if not count:
        return "no face was found"
    return f"{count} {'person was' if count == 1 else 'people were'} seen, too shortly for --min-seconds"


def format_live_window(window: dict[str, Any]) -> str:
    """One line: the time, everybody's strongest expression, and how long the answer took."""
    people = [f"person {person['track']} {strongest(person['window'])}" for person in window["people"]]
    found = ", ".join(people) or _nobody(window)
    return f"{window['start']:7.2f}–{window['end']:.2f} s  {found}  (answered after {window['latency']:.2f} s)"


def strongest(window: Mapping[str, Any]) -> str:
    """A window's most probable expression with its probability, and whether it rests on a short time; or no face."""
    if not window["scores"]:
        return "no face"
    name, probability = max(window["scores"].items(), key=lambda entry: entry[1])
    doubt = f" (short: {window['face_seconds']:.1f} s of face)" if window.get("short") else ""
    return f"{name} {probability:.0%}{doubt}"


def timeline_rows(
    timelines: Mapping[str, Timeline], per_frame: bool = False, expressions: Sequence[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The tables of several videos as one.

    Args:
        timelines: name of the file -> its timeline.
        per_frame: a row for every sampled frame with a face, instead of one for every window.
        expressions: columns of scores, for tables that are to have the same ones; None: what the timelines hold.

    Returns:
        The columns, those of the expressions in the order of their names at the end; and the rows, column -> value. A
        row of a window holds its times in seconds, one of a frame its time, its box and its five points in pixels;
        both the video's warning, the strongest expression of the window, its probability and all scores. What is not
        known is None. A video without such a window or frame has one row, which says nothing but its name and warning.
    """
    windows = {
        file: [(person["track"], window) for person in timeline["people"] for window in person["windows"]]
        for file, timeline in timelines.items()
    }
    names = sorted(
        expressions or {name for each in windows.values() for _, window in each for name in window["scores"] or ()}
    )
    columns = [*(FRAME_COLUMNS if per_frame else WINDOW_COLUMNS), *names]
    rows = []
    for file, timeline in timelines.items():
        of_video = dict.fromkeys(columns) | {"file": file, "warning": timeline.get("warning")}
        found = []
        for track, window in windows[file]:
            scores = window["scores"] or {}
            best = max(scores, key=scores.__getitem__, default=None)
            row = of_video | {"track": track, "expression": best, "probability": scores.get(best)}
            row |= {name: scores.get(name) for name in names}
            if not per_frame:
                found.append(row | {name: window.get(name) for name in ("start", "end", *EVIDENCE_COLUMNS)})
                continue
            for frame in window["frames"]:
                edges = frame["box"] or [None] * 4
                points = frame["landmarks"] or [(None, None)] * len(LANDMARK_NAMES)
                values = [frame["time"], *edges, *(value for point in points for value in point)]
                found.append(row | dict(zip(FRAME_COLUMNS[2:-3], values, strict=True)))
        # Whoever counts the videos of a table must find those without a face as well.
        rows += found or [of_video]
    return columns, rows


def write_csv(
    timelines: Mapping[str, Timeline], file: Path, per_frame: bool = False, expressions: Sequence[str] | None = None
) -> Path:
    """Writes the table of `timeline_rows`.

    Raises:
        OSError: the file cannot be written; what stood there stays.
    """
    return write_table(file, *timeline_rows(timelines, per_frame, expressions))


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes a table; probabilities (the columns from `probability` on) have four digits, None is an empty cell.

    Raises:
        OSError: the file cannot be written; what stood there stays.
    """
    scores = columns[columns.index("probability") :] if "probability" in columns else ()
    with replacing(Path(file)) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, **{name: f"{row[name]:.4f}" for name in scores if row[name] is not None}})
    return file


def timeline_to_pandas(timelines: Timeline | Mapping[str, Timeline], per_frame: bool = False) -> pandas.DataFrame:
    """A timeline, or those of several videos by their names, as a data frame: the table of `timeline_rows`.

        timeline_to_pandas(pipe("film.mp4"))
        timeline_to_pandas({file: pipe(file) for file in files}, per_frame=True)

    The column `file` is there where the videos have names; without it there is no row of a video without people.
    """
    import pandas

    alone = "people" in timelines and "duration" in timelines
    named: Mapping[str, Timeline] = {"": dict(timelines)} if alone else timelines
    columns, rows = timeline_rows(named, per_frame)
    if not alone:
        return pandas.DataFrame(rows, columns=columns)
    return pandas.DataFrame([row for row in rows if row["track"] is not None], columns=columns).drop(columns="file")


def draw_timeline(
    result: Timeline, output_png: Path, faces: Mapping[int, Image.Image] | None = None, width: float = 10.0
) -> Path:
    """Draws the scores of every person over time, as rows of squares; hatched where no face was seen, crossed where
    the scores rest on less than half a second of a face.

    Args:
        result: of the pipeline. Of more than `MOST_CHARTS` people those longest in view are drawn.
        output_png: the picture; written under a temporary name first.
        faces: number of a track -> picture of the face, shown beside the person's row.
        width: of the picture in inches, in which letters keep their size: 10 for a page, 4 for a telephone.
    """
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    people = sorted(result["people"], key=lambda person: person["start"] - person["end"])[:MOST_CHARTS]
    people.sort(key=lambda person: person["track"])
    below = 0.9 if width < NARROW else 0.0  # inches for the colour bar
    figure = Figure(figsize=(width, 0.9 + 1.7 * max(1, len(people)) + below), layout="constrained")
    axes = np.atleast_1d(figure.subplots(max(1, len(people)), 1, sharex=True))
    for person, row in zip(people, axes, strict=False):
        picture = _draw_person(row, person)
        row.set_xlim(0, result["duration"])
        if faces and person["track"] in faces:
            face = OffsetImage(np.asarray(faces[person["track"]].resize((40, 40))), zoom=0.7)
            row.add_artist(AnnotationBbox(face, (1, 1.03), xycoords="axes fraction", box_alignment=(1, 0), pad=0))
    if people:
        where = {"location": "bottom"} if width < NARROW else {"shrink": min(1.0, 3 / len(people))}
        figure.colorbar(picture, ax=list(axes), label="probability", **where)
        axes[-1].set_xlabel("seconds")
    else:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, _nobody(result), ha="center", va="center", fontsize=14)
    left_out = len(result["people"]) - len(people)
    remark = f"{' ' if width >= NARROW else chr(10)}({left_out} more, seen more shortly, left out)"
    figure.suptitle(f"Expressions over time{remark if left_out else ''}")
    with replacing(Path(output_png)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return output_png


def _draw_person(axes: Any, person: Mapping[str, Any]) -> Any:
    """One person's squares; returns what the colour bar explains."""
    windows: Sequence[Mapping[str, Any]] = person["windows"]
    names = sorted({name for window in windows for name in window["scores"] or ()}) or [""]
    picture = None
    for window in windows:
        edges = [window["start"], max(window["end"], window["start"] + 1e-3)]
        values = [[(window["scores"] or {}).get(name, math.nan)] for name in names]
        picture = axes.pcolormesh(edges, range(len(names) + 1), values, vmin=0, vmax=1, cmap="viridis")
        if window["scores"] is None:
            axes.axvspan(*edges, facecolor="#eeeeee", edgecolor="#aaaaaa", hatch="//")
        elif window.get("short"):
            axes.axvspan(*edges, facecolor="none", edgecolor="#ffffff", hatch="xx", linewidth=0)
    if picture is None:
        picture = axes.pcolormesh([0, 1], [0, 1], [[math.nan]], vmin=0, vmax=1)
    axes.set_yticks([row + 0.5 for row in range(len(names))], [name.replace("$", r"\$") for name in names], fontsize=8)
    axes.invert_yaxis()
    remark = " (crossed: seen too shortly)" if any(window.get("short") for window in windows) else ""
    title = f"person {person['track']}: {person['start']:.1f}–{person['end']:.1f} s{remark}"
    axes.set_title(title, fontsize=9, loc="left")
    return picture
