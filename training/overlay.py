"""A picture of one clip: its frames with predicted and labelled faces, beside the expression scores."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtcae_dfer.face_geometry import boxes_to_pixels, points_to_pixels

PREDICTED, LABELLED = "#ff9f1c", "#2ec4f1"
FRAMES_PER_ROW = 4


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
) -> Path:
    """Draws frames spread evenly over the clip, with boxes and points, and the scores as bars.

    Args:
        frames: uint8 (T, 3, H, W).
        predicted_boxes: (T, 4), divided by frame width and height, or None.
        predicted_landmarks: (T, 5, 2), likewise.
        output_png: the picture; written under a temporary name first.
        labelled_boxes: (T, 4) to compare with, or None.
        labelled_landmarks: (T, 5, 2), likewise.
        face_found: boolean (T,); labels of other frames are not drawn.
        expression_scores: {name: probability}, drawn in this order.
        true_expression: its bar is marked.
        max_frames: how many frames to show.

    Returns:
        The picture's path.
    """
    from matplotlib.figure import Figure

    shown = torch.linspace(0, len(frames) - 1, min(len(frames), max_frames)).round().long().unique().tolist()
    rows = -(-len(shown) // FRAMES_PER_ROW)
    figure = Figure(figsize=(2.1 * FRAMES_PER_ROW + 3.4, 2.3 * rows + 0.5), layout="constrained")
    grid = figure.add_gridspec(rows, FRAMES_PER_ROW + 1, width_ratios=[1] * FRAMES_PER_ROW + [1.25])
    for position, index in enumerate(shown):
        axes = figure.add_subplot(grid[position // FRAMES_PER_ROW, position % FRAMES_PER_ROW])
        _draw_frame(axes, frames[index], f"frame {index + 1} of {len(frames)}")
        has_face = face_found is None or bool(face_found[index])
        if has_face:
            _draw_face(axes, frames, labelled_boxes, labelled_landmarks, index, LABELLED, "--")
        _draw_face(axes, frames, predicted_boxes, predicted_landmarks, index, PREDICTED, "-")
    if expression_scores:
        _draw_scores(figure.add_subplot(grid[:, FRAMES_PER_ROW]), expression_scores, true_expression)
    _draw_legend(figure, labelled_boxes is not None or labelled_landmarks is not None)
    temporary = output_png.with_name(f".{output_png.name}.partial.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, output_png)
    return output_png


def _draw_frame(axes: Any, frame: torch.Tensor, title: str) -> None:
    axes.imshow(frame.permute(1, 2, 0).numpy())
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def _draw_face(
    axes: Any,
    frames: torch.Tensor,
    boxes: torch.Tensor | None,
    landmarks: torch.Tensor | None,
    index: int,
    colour: str,
    line: str,
) -> None:
    from matplotlib.patches import Rectangle

    height, width = frames.shape[-2:]
    if boxes is not None:
        left, top, right, bottom = boxes_to_pixels(boxes[index], width, height).tolist()
        corner, sides = (left, top), (right - left, bottom - top)
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linestyle=line, linewidth=1.6))
    if landmarks is not None:
        points = points_to_pixels(landmarks[index], width, height)
        axes.scatter(points[:, 0], points[:, 1], s=14, color=colour, edgecolors="black", linewidths=0.4)


def _draw_scores(axes: Any, scores: Mapping[str, float], true_expression: str | None) -> None:
    names = list(scores)
    colours = [PREDICTED if position == 0 else "#c9c9c9" for position in range(len(names))]
    bars = axes.barh(range(len(names)), [100 * scores[name] for name in names], color=colours)
    axes.bar_label(bars, [f"{100 * scores[name]:.0f} %" for name in names], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} (true)" if name == true_expression else name for name in names])
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks([])
    axes.set_title("expression", fontsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_legend(figure: Any, has_labels: bool) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=PREDICTED, marker="o", label="predicted by the model")]
    if has_labels:
        entries.append(Line2D([], [], color=LABELLED, linestyle="--", marker="o", label="found by MTCNN"))
    figure.legend(handles=entries, loc="outside lower left", ncols=len(entries), fontsize=8, frameon=False)
