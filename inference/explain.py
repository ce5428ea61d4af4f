"""`mtcae explain`: where the decoders looked, as pictures of their attention on the frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.inference.models import ModelError
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.video_reading import read_clip

# Structures that hold one decoder per task, in the order of the tasks, behind any shared ones.
EXPLAINED_STRUCTURES = ("cascaded", "non_fully_shared", "fully_shared")
FRAME_WIDTH = 2.0  # inches
LONGEST_SIDE = 640  # pixels of the frames in the picture


def explain_video(
    video: str, model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor, output_png: Path, shown_frames: int = 6
) -> dict[str, float]:
    """Draws the attention of every stage on a video's frames.

    Returns:
        The expression scores {name: probability}.

    Raises:
        VideoReadingError: the video cannot be read.
        ModelError: a model of this structure cannot be explained.
    """
    inputs = processor(video, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    maps, scores = attention_maps(model, inputs["pixel_values"])
    scale = min(1.0, LONGEST_SIDE / max(metadata.height, metadata.width))
    size = (max(1, round(metadata.height * scale)), max(1, round(metadata.width * scale)))
    frames = read_clip(video, size=size, frame_indices=metadata.frame_indices).frames
    draw_explanation(frames, maps, scores, metadata.timestamps, output_png, shown_frames)
    return scores


@torch.inference_mode()
def attention_maps(
    model: MTCAEForMultiTaskVideo, pixel_values: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Cross-attention of the last layer of every task's decoder, averaged over heads and queries.

    Args:
        model: in evaluation mode; its attention is computed in the plain way for this call.
        pixel_values: (1, T, 3, H, W).

    Returns:
        Task name -> (T, h, w), how much of the attention falls on each part of each frame: all of them sum to 1. And
        the expression scores {name: probability}.

    Raises:
        ModelError: the model has no decoder for every task, or predicts no expression.
    """
    config, names = model.config, [task.name for task in model.config.task_descriptions]
    if config.structure not in EXPLAINED_STRUCTURES or "expression" not in names:
        raise ModelError(
            f"a model of structure '{config.structure}' with tasks {', '.join(names)} cannot be explained: "
            "it takes a decoder for every task, one of them the expression"
        )
    attention = config._attn_implementation
    model.set_attn_implementation("eager")  # others keep no weights
    try:
        outputs = model(pixel_values.to(model.device), output_attentions=True)
    finally:
        model.set_attn_implementation(attention)
    # A shared decoder comes first; every decoder has the same number of layers.
    layers = outputs.cross_attentions[-len(names) * config.decoder_num_layers :]
    last_layers = layers[config.decoder_num_layers - 1 :: config.decoder_num_layers]
    maps = {name: _onto_frames(weights, config) for name, weights in zip(names, last_layers, strict=True)}
    probabilities = outputs.logits[0].float().softmax(dim=-1).tolist()
    names_of = {int(index): name for index, name in (config.id2label or {}).items()}
    return maps, {names_of[index]: probability for index, probability in enumerate(probabilities)}


def _onto_frames(weights: torch.Tensor, config: Any) -> torch.Tensor:
    """(1, heads, N, N) query x memory -> (T, h, w): a tubelet's share is divided among its frames."""
    tubelets, rows, columns = config.token_grid
    # (1, heads, N, N) -> (N,), over memory -> (t, h, w)
    received = weights[0].float().mean(dim=(0, 1)).view(tubelets, rows, columns).cpu()
    frames_per_tubelet = config.num_frames // tubelets
    return received.repeat_interleave(frames_per_tubelet, dim=0) / frames_per_tubelet


def draw_explanation(
    frames: torch.Tensor,
    maps: dict[str, torch.Tensor],
    scores: dict[str, float],
    timestamps: Sequence[float],
    output_png: Path,
    shown_frames: int = 6,
) -> Path:
    """Draws a strip of frames, and below it one strip per task with its attention upsampled onto the frames.

    Args:
        frames: uint8 (T, 3, H, W).
        maps: task name -> (T, h, w), as `attention_maps` gives them; the brightest place of each row is its maximum.
        scores: {name: probability} for the title.
        timestamps: T seconds.
        output_png: the picture; written under a temporary name first.
        shown_frames: how many of the T frames to show, evenly spread.
    """
    from matplotlib.figure import Figure

    shown = torch.linspace(0, len(frames) - 1, min(len(frames), shown_frames)).round().long().unique().tolist()
    height = FRAME_WIDTH * frames.shape[-2] / frames.shape[-1] + 0.25
    figure = Figure(figsize=(FRAME_WIDTH * len(shown) + 0.6, height * (1 + len(maps)) + 0.5), layout="constrained")
    axes = figure.subplots(1 + len(maps), len(shown), squeeze=False)
    for column, index in enumerate(shown):
        _draw_picture(axes[0, column], frames[index], f"{timestamps[index]:.2f} s")
        for row, attention in enumerate(maps.values(), start=1):
            _draw_picture(axes[row, column], frames[index], "")
            _draw_attention(axes[row, column], attention[index], frames.shape[-2:], attention[shown])
    for row, name in enumerate(["frame", *maps]):
        axes[row, 0].text(-0.05, 0.5, name, rotation=90, va="center", ha="right", transform=axes[row, 0].transAxes)
    best = max(scores, key=scores.__getitem__)
    figure.suptitle(f"{best} {scores[best]:.0%}: where each stage's last layer looked", fontsize=10)
    with replacing(Path(output_png)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return output_png


def _draw_picture(axes: Any, frame: torch.Tensor, title: str) -> None:
    axes.imshow(frame.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def _draw_attention(axes: Any, attention: torch.Tensor, size: Sequence[int], scale_by: torch.Tensor) -> None:
    """One frame's attention (h, w), coloured by the range of its row (…, h, w)."""
    upsampled = functional.interpolate(attention[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
    low, high = float(scale_by.min()), float(scale_by.max())
    axes.imshow(upsampled.numpy(), cmap="inferno", alpha=0.6, vmin=low, vmax=max(high, low + 1e-12))
