"""`mtcae explain`: where the decoders looked and what they answered, drawn on the frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.inference.clips import shows_face
from mtcae_dfer.inference.models import ModelError
from mtcae_dfer.inference.pictures import PREDICTED
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo, MTCAEMultiTaskOutput
from mtcae_dfer.pipeline_mtcae import NO_NUMBERS, reading_errors_of
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.video_reading import read_clip

# Structures that hold one decoder per task, in the order of the tasks, behind any shared ones.
EXPLAINED_STRUCTURES = ("cascaded", "non_fully_shared", "fully_shared")
FRAME_WIDTH = 2.0  # inches
LONGEST_SIDE = 640  # pixels of the frames in the picture
MOST_HEADS, HEAD_SIZE = 8, 0.6  # heads drawn beside a strip, and their width as a share of a frame's
PALE = 0.25  # share of a picture in what the model does not see; the rest is white
ROOM = 1.4  # side of what is drawn / side of what the model sees, where there is so much


@dataclass(frozen=True)
class Explanation:
    """What the model looked at in a clip of T frames, and what it answered.

    Token grids (h, w) cover `seen`, the part of the frame that the model sees.
    """

    attention: dict[str, torch.Tensor]  # task -> (heads, T, h, w) of its last layer; each head's sums to 1
    heat_maps: dict[str, torch.Tensor]  # task -> (T, h, w), the mean over its points, of tasks that have such maps
    scores: dict[str, float]  # name of the expression -> probability
    boxes: torch.Tensor | None = None  # (T, 4) in pixels of the source video
    landmarks: torch.Tensor | None = None  # (T, 5, 2) likewise
    # (x1, y1, x2, y2) divided by frame width and height: one for all frames, or one for each
    seen: Sequence[float] | Sequence[Sequence[float]] = (0.0, 0.0, 1.0, 1.0)
    face_found: bool = True  # in any of the frames

    def seen_in(self, frame: int) -> list[float]:
        """The part of one frame that the model sees."""
        boxes = np.asarray(self.seen, dtype=np.float64).reshape(-1, 4)  # (1, 4) or (T, 4)
        return boxes[min(frame, len(boxes) - 1)].tolist()

    def view(self) -> tuple[float, float, float]:
        """(left, top, side) of what is drawn, in the frame's proportions and divided by its width and height."""
        boxes = np.asarray(self.seen, dtype=np.float64).reshape(-1, 4)
        least, most = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        side = min(1.0, ROOM * float((most - least).max()))
        left, top = np.clip((least + most) / 2 - side / 2, 0, 1 - side).tolist()
        return left, top, side


def explain_video(
    video: str, model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor, output_png: Path, shown_frames: int = 6
) -> Explanation:
    """Draws on a video's frames where every stage looked and what it answered.

    Returns:
        What is drawn; the most probable of the expression scores comes first.

    Raises:
        VideoReadingError: the video cannot be read.
        ModelError: a model of this structure cannot be explained.
    """
    with reading_errors_of(video):
        inputs = processor(video, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    outputs, attention = read_attention(model, inputs["pixel_values"])
    labels: dict[int | str, str] = {}
    labels.update(model.config.id2label or {})  # type: ignore[arg-type]  # its keys are of either type
    (answer,) = processor.post_process_multi_task(outputs, metadata=[metadata], id2label=labels)
    if answer["expression"] is None:
        raise ModelError(f"{video}: no face was found that this model could be asked about")
    if not all(math.isfinite(probability) for probability in answer["expression"].values()):
        raise FloatingPointError(NO_NUMBERS)
    explanation = Explanation(
        attention,
        read_heat_maps(model, outputs),
        answer["expression"],
        answer["face_boxes"],
        answer["face_landmarks"],
        metadata.crop_box,
        shows_face(video, metadata.frame_indices) if metadata.face_found is None else metadata.face_found,
    )
    _, _, side = explanation.view()
    scale = min(1.0, LONGEST_SIDE / (side * max(metadata.height, metadata.width)))
    size = (max(1, round(metadata.height * scale)), max(1, round(metadata.width * scale)))
    frames = read_clip(video, size=size, frame_indices=metadata.frame_indices).frames
    draw_explanation(frames, explanation, metadata.timestamps, output_png, shown_frames, scale)
    return explanation


@torch.inference_mode()
def read_attention(
    model: MTCAEForMultiTaskVideo, pixel_values: torch.Tensor
) -> tuple[MTCAEMultiTaskOutput, dict[str, torch.Tensor]]:
    """The model's answer, and the cross-attention of the last layer of every task's decoder, averaged over queries.

    Args:
        model: in evaluation mode; its attention is computed in the plain way for this call.
        pixel_values: (1, T, 3, H, W).

    Returns:
        The output; and task name -> (heads, T, h, w), how much of each head's attention falls on each part of each
        frame: all of them sum to 1 for every head.

    Raises:
        ModelError: the model has no decoder for every task, or predicts no expression.
    """
    config, names = model.config, [task.name for task in model.config.task_descriptions]
    if config.structure not in EXPLAINED_STRUCTURES or "expression" not in names:
        raise ModelError(
            f"a model of structure '{config.structure}' with tasks {', '.join(names)} cannot be explained: "
            "it takes a decoder for every task, one of them the expression"
        )
    asked = {"output_heat_maps": True} if any(task.pooling == "heat_map" for task in model.tasks) else {}
    attention = config._attn_implementation
    model.set_attn_implementation("eager")  # others keep no weights
    try:
        outputs = model(pixel_values.to(model.device), output_attentions=True, **asked)
    finally:
        model.set_attn_implementation(attention)
    # A shared decoder comes first; every decoder has the same number of layers.
    layers = outputs.cross_attentions[-len(names) * config.decoder_num_layers :]
    last_layers = layers[config.decoder_num_layers - 1 :: config.decoder_num_layers]
    frames_per_tubelet = config.num_frames // config.token_grid[0]
    maps: dict[str, torch.Tensor] = {}
    for name, weights in zip(names, last_layers, strict=True):
        # (1, heads, N, N) query x memory -> (heads, N), over memory -> (heads, t, h, w)
        received = weights[0].float().mean(dim=1).unflatten(-1, tuple(config.token_grid)).cpu()
        # (heads, t, h, w) -> (heads, T, h, w): a tubelet's share is divided among its frames.
        maps[name] = received.repeat_interleave(frames_per_tubelet, dim=1) / frames_per_tubelet
    return outputs, maps


def read_heat_maps(model: MTCAEForMultiTaskVideo, outputs: MTCAEMultiTaskOutput) -> dict[str, torch.Tensor]:
    """Task name -> (T, h, w), the mean over its points; none where the model reads nothing off heat maps."""
    names = [task.name for task in model.tasks if task.pooling == "heat_map"]
    # (1, T, points, h, w) -> (T, h, w)
    return {name: maps[0].mean(dim=1).cpu() for name, maps in zip(names, outputs.heat_maps or (), strict=True)}


def draw_explanation(
    frames: torch.Tensor,
    explanation: Explanation,
    timestamps: Sequence[float],
    output_png: Path,
    shown_frames: int = 6,
    scale: float = 1.0,
) -> Path:
    """Draws a strip of frames with predicted boxes and points, and below it where each task looked.

    One strip a task shows the attention of its last layer on the frames, with the task's own boxes or points, and at
    its right the single heads of one frame; one more strip shows the task's heat maps, where it has some. Of the frames
    that part is drawn which the model sees, with some room around it that is pale.

    Args:
        frames: uint8 (T, 3, H, W), in the proportions of the video.
        explanation: what is drawn.
        timestamps: T seconds.
        output_png: the picture; written under a temporary name first.
        shown_frames: how many of the T frames to show, evenly spread.
        scale: of the frames, in pixels of the source video.
    """
    from matplotlib.figure import Figure

    shown = torch.linspace(0, len(frames) - 1, min(len(frames), shown_frames)).round().long().unique().tolist()
    middle = shown[len(shown) // 2]
    heads = min(MOST_HEADS, max(len(maps) for maps in explanation.attention.values()))
    view = explanation.view()
    strips: dict[str, torch.Tensor | None] = {"frame": None}
    for task, maps in explanation.attention.items():
        strips[task] = maps.mean(dim=0)
        if task in explanation.heat_maps:
            strips[f"{task}: heat maps"] = explanation.heat_maps[task]
    widths = [FRAME_WIDTH] * len(shown) + [FRAME_WIDTH * HEAD_SIZE] * heads
    height = FRAME_WIDTH * frames.shape[-2] / frames.shape[-1] + 0.25
    figure = Figure(figsize=(sum(widths) + 0.6, height * len(strips) + 0.5), layout="constrained")
    axes = figure.subplots(len(strips), len(widths), squeeze=False, width_ratios=widths)
    for row, (name, strip) in enumerate(strips.items()):
        for column, index in enumerate(shown):
            _draw_frame(axes[row, column], frames[index], explanation.seen_in(index), view)
            axes[row, column].set_title(f"{timestamps[index]:.2f} s" if row == 0 else "", fontsize=8)
            if strip is not None:
                _draw_map(axes[row, column], strip[index], strip[shown], explanation.seen_in(index))
            _draw_answers(axes[row, column], explanation, name, index, scale)
        for head, place in enumerate(axes[row, len(shown) :]):
            place.set_axis_off()
            if name in explanation.attention and head < len(explanation.attention[name]):
                maps = explanation.attention[name][head]
                _draw_frame(place, frames[middle], explanation.seen_in(middle), view)
                _draw_map(place, maps[middle], maps[shown], explanation.seen_in(middle))
                place.set_title(f"head {head + 1}, {timestamps[middle]:.2f} s", fontsize=6)
        axes[row, 0].text(-0.05, 0.5, name, rotation=90, va="center", ha="right", transform=axes[row, 0].transAxes)
    best = max(explanation.scores, key=explanation.scores.__getitem__)
    doubt = "" if explanation.face_found else " (no face was found)"
    title = f"{best} {explanation.scores[best]:.0%}{doubt}: where each stage's last layer looked"
    figure.suptitle(title, fontsize=10)
    with replacing(Path(output_png)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return output_png


def _draw_frame(axes: Any, frame: torch.Tensor, seen: Sequence[float], view: tuple[float, float, float]) -> None:
    """The part `view` of a frame uint8 (3, H, W), pale where the model does not see it."""
    height, width = frame.shape[-2:]
    left, right = (round(edge * width) for edge in seen[::2])
    top, bottom = (round(edge * height) for edge in seen[1::2])
    picture = (255 - PALE * (255 - frame.float())).to(torch.uint8)
    picture[:, top:bottom, left:right] = frame[:, top:bottom, left:right]
    picture = picture.permute(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    axes.imshow(picture.numpy())
    # A point outside of the frame must not shrink it.
    axes.set_autoscale_on(False)
    x, y, side = view
    axes.set_xlim(x * width - 0.5, (x + side) * width - 0.5)
    axes.set_ylim((y + side) * height - 0.5, y * height - 0.5)
    axes.set_axis_off()


def _draw_map(axes: Any, grid: torch.Tensor, scale_by: torch.Tensor, seen: Sequence[float]) -> None:
    """One frame's map (h, w) on the part that the model sees, coloured by the range of its strip (…, h, w)."""
    height, width = axes.images[0].get_array().shape[:2]  # of the frame
    left, right = (edge * width - 0.5 for edge in seen[::2])
    top, bottom = (edge * height - 0.5 for edge in seen[1::2])
    # Smooth, and never darker or brighter than the tokens themselves.
    size = [max(grid.shape[0], round(bottom - top)), max(grid.shape[1], round(right - left))]
    fine = functional.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    low, high = float(scale_by.min()), float(scale_by.max())
    colours = {"cmap": "inferno", "alpha": 0.6, "vmin": low, "vmax": max(high, low + 1e-12)}
    axes.imshow(fine.numpy(), extent=(left, right, bottom, top), aspect="equal", **colours)


def _draw_answers(axes: Any, explanation: Explanation, name: str, index: int, scale: float) -> None:
    """The boxes and points that a task predicts, on its own strips; both on that of the frames."""
    from matplotlib.patches import Rectangle

    task = name.split(":")[0]
    # Half a pixel: a picture's coordinates count from the middle of its first pixel, a frame's from the edge.
    if explanation.boxes is not None and task in ("frame", "face_box"):
        left, top, right, bottom = (explanation.boxes[index] * scale - 0.5).tolist()
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=PREDICTED, linewidth=1.5)
        )
    if explanation.landmarks is not None and task in ("frame", "face_landmarks"):
        points = (explanation.landmarks[index] * scale - 0.5).numpy()
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.3}
        axes.plot(points[:, 0], points[:, 1], linestyle="", marker="o", markersize=3, color=PREDICTED, **edge)
