"""A picture of one clip: its frames with predicted and labelled faces, beside the expression scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtcae_dfer.face_geometry import boxes_to_pixels, points_to_pixels
from mtcae_dfer.hub_dataset.files import replacing

# Told apart by people who do not see red and green as two colours, and light enough for dark frames.
PREDICTED, LABELLED, OTHER_SCORE = "#ff9f1c", "#2ec4f1", "#c9ced3"
FRAMES_PER_ROW = 4
FRAME_WIDTH, SCORES_WIDTH, TITLE_HEIGHT, LEGEND_HEIGHT = 2.2, 3.2, 0.3, 0.4  # inches
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Faces:
    """Boxes (T, 4) and points (T, 5, 2) of one kind, either of them None, and how they are drawn."""

    boxes: torch.Tensor | None
    landmarks: torch.Tensor | None
    name: str  # in the legend
    colour: str
    predicted: bool  # full lines and dots; labels have dashed lines and rings, so that a dot inside a ring is a hit


def draw_clip_picture(
    frames: torch.Tensor,
    predicted_boxes: torch.Tensor | None,
    predicted_landmarks: torch.Tensor | None,
    output_png: Path,
    labelled_boxes: torch.Tensor | None = None,
    labelled_landmarks: torch.Tensor | None = None,
    face_found: torch.Tensor | None = None,
    expression_scores: Mapping[str, float] | None = None,
    true_expression: str | None = None,
    max_frames: int = 8,
    labelled_name: str = "found by MTCNN",
) -> Path:
    """Draws frames spread evenly over the clip, with boxes and points, and the scores as bars.

    Args:
        frames: uint8 (T, 3, H, W) of any size; they are shown in their own proportions.
        predicted_boxes: (T, 4), divided by frame width and height, or None.
        predicted_landmarks: (T, 5, 2), likewise.
        output_png: the picture; written under a temporary name first.
        labelled_boxes: (T, 4) to compare with, or None.
        labelled_landmarks: (T, 5, 2), likewise.
        face_found: boolean (T,); frames without a face are marked so, and their labels are not drawn.
        expression_scores: {name: probability}, drawn in this order; the highest has the colour of predictions.
        true_expression: its bar is marked.
        max_frames: how many frames to show, at least 1.
        labelled_name: what the labels are called in the legend.

    Returns:
        The picture's path.

    Raises:
        ValueError: shapes that do not fit, no frames, or a `max_frames` below 1.
    """
    predicted = Faces(predicted_boxes, predicted_landmarks, "predicted by the model", PREDICTED, predicted=True)
    labelled = Faces(labelled_boxes, labelled_landmarks, labelled_name, LABELLED, predicted=False)
    _check_shapes(frames, predicted, labelled, face_found, max_frames)
    figure = _make_figure(frames, (labelled, predicted), face_found, expression_scores, true_expression, max_frames)
    with replacing(Path(output_png)) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return output_png


def _check_shapes(
    frames: torch.Tensor, predicted: Faces, labelled: Faces, face_found: torch.Tensor | None, max_frames: int
) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, but must be uint8 (T, 3, height, width)")
    if max_frames < 1:
        raise ValueError(f"max_frames {max_frames}: must be at least 1")
    count = len(frames)
    wanted: dict[str, tuple[torch.Tensor | None, tuple[int, ...]]] = {"face_found": (face_found, (count,))}
    for name, faces in (("predicted", predicted), ("labelled", labelled)):
        wanted[f"{name}_boxes"] = (faces.boxes, (count, 4))
        wanted[f"{name}_landmarks"] = (faces.landmarks, (count, 5, 2))
    for name, (values, shape) in wanted.items():
        if values is not None and tuple(values.shape) != shape:
            raise ValueError(f"{name} have shape {tuple(values.shape)}, but {count} frames need {shape}")


def _make_figure(
    frames: torch.Tensor,
    faces: tuple[Faces, ...],
    face_found: torch.Tensor | None,
    scores: Mapping[str, float] | None,
    true_expression: str | None,
    max_frames: int,
) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = torch.linspace(0, len(frames) - 1, min(len(frames), max_frames)).round().long().unique().tolist()
    columns = min(FRAMES_PER_ROW, len(shown))
    rows = -(-len(shown) // columns)
    widths = [FRAME_WIDTH] * columns + ([SCORES_WIDTH] if scores else [])
    row_height = FRAME_WIDTH * frames.shape[-2] / frames.shape[-1] + TITLE_HEIGHT
    # Bars of seven names need some height, however flat the frames are.
    height = max(rows * row_height, 0.25 * len(scores or ()) + TITLE_HEIGHT) + LEGEND_HEIGHT
    figure = Figure(figsize=(sum(widths), height), layout="constrained")
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    for position, index in enumerate(shown):
        axes = figure.add_subplot(grid[position // columns, position % columns])
        has_face = face_found is None or bool(face_found[index])
        axes.imshow(frames[index].permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
        # A point outside the frame must not shrink the frame.
        axes.set_autoscale_on(False)
        title = f"frame {index + 1} of {len(frames)}{'' if has_face else ': no face found'}"
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
        for kind in faces:
            if has_face or kind.predicted:
                _draw_face(axes, kind, index)
    if scores:
        _draw_scores(figure.add_subplot(grid[:, columns]), scores, true_expression)
    entries = []
    for kind in reversed(faces):
        if kind.boxes is not None or kind.landmarks is not None:
            point = {name: value for name, value in _point_style(kind, 4.0).items() if name != "color"}
            entry = Line2D([], [], color=kind.colour, label=kind.name, **point)
            entry.set_linestyle("-" if kind.predicted else "--")
            entries.append(entry)
    if entries:
        figure.legend(handles=entries, loc="outside lower left", ncols=len(entries), fontsize=8, frameon=False)
    return figure


def _draw_face(axes: Any, faces: Faces, index: int) -> None:
    from matplotlib.patches import Rectangle

    width, height = axes.get_xlim()[1] + 0.5, axes.get_ylim()[0] + 0.5
    # Half a pixel: a picture's coordinates count from the middle of its first pixel, a frame's from the edge.
    if faces.boxes is not None:
        left, top, right, bottom = (boxes_to_pixels(faces.boxes[index], width, height) - 0.5).tolist()
        line = "-" if faces.predicted else "--"
        sides = {"width": right - left, "height": bottom - top}
        box = Rectangle((left, top), **sides, fill=False, edgecolor=faces.colour, linestyle=line, linewidth=1.5)
        axes.add_patch(box)
    if faces.landmarks is not None:
        # Points are small on a small face, which they would hide: in typographic points.
        boxes = faces.boxes
        share = 0.4 if boxes is None else float((boxes[index, 2] - boxes[index, 0]).nan_to_num(0.4))
        size = min(4.5, max(2.2, 0.08 * share * FRAME_WIDTH * POINTS_PER_INCH))
        points = (points_to_pixels(faces.landmarks[index], width, height) - 0.5).numpy()
        axes.plot(points[:, 0], points[:, 1], linestyle="", **_point_style(faces, size))


def _point_style(faces: Faces, size: float) -> dict[str, Any]:
    if faces.predicted:
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.3}
        return {"marker": "o", "markersize": size, "color": faces.colour, **edge}
    edge = {"markeredgecolor": faces.colour, "markeredgewidth": 1.2}
    return {"marker": "o", "markersize": 1.7 * size, "markerfacecolor": "none", **edge}


def _draw_scores(axes: Any, scores: Mapping[str, float], true_expression: str | None) -> None:
    names, percents = list(scores), [100 * score for score in scores.values()]
    highest = max(scores, key=scores.__getitem__)
    colours = [PREDICTED if name == highest else OTHER_SCORE for name in names]
    bars = axes.barh(range(len(names)), percents, color=colours)
    axes.bar_label(bars, [f"{percent:.0f} %" for percent in percents], padding=3, fontsize=8)
    texts = [f"{name} (true)" if name == true_expression else name for name in names]
    axes.set_yticks(range(len(names)), [text.replace("$", r"\$") for text in texts])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == true_expression else "normal")
    axes.tick_params(labelsize=8, length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 120)
    axes.set_xticks([])
    axes.set_title("expression", fontsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
