"""MNC as a structure over any encoder: each stage reads the features inside the box that the stage before found.

Source: "Instance-aware Semantic Segmentation via Multi-task Network Cascades" (CVPR 2016), three stages. A frame shows
one face, so there are no proposals and no background class; the landmarks take the place of the mask. Shapes: B clips,
T frames, N tokens in raster order (t, h, w), C channels. Boxes (x1, y1, x2, y2) and points (x, y) are divided by frame
width and height.
"""

from collections.abc import Collection

import torch
from torch import nn
from torch.nn import functional

from .configuration_mtcae import MTCAEConfig
from .modeling_layers import cell_centres
from .modeling_structures import MTCAEStructure

# The one anchor of the region proposals: the head predicts how the face box differs from the whole frame.
WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)
# A warp needs an area, whatever a box that is not learned yet may be.
SMALLEST_SIDE = 0.05
LANDMARK_RADIUS = 1.5  # standard deviation of a landmark's spot in the mask, in cells of the warped grid


def box_origin_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (..., 4) -> left upper corner (..., 2) and size (..., 2); sides below `SMALLEST_SIDE` grow to it."""
    first, second = boxes[..., :2], boxes[..., 2:]
    size = (second - first).clamp(min=SMALLEST_SIDE)
    return (first + second - size) / 2, size


def points_in_box(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Points (..., K, 2) of the frame -> points (..., K, 2) in the coordinates of boxes (..., 4)."""
    origin, size = box_origin_and_size(boxes)
    return (points - origin.unsqueeze(-2)) / size.unsqueeze(-2)


def points_from_box(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Points (..., K, 2) in the coordinates of boxes (..., 4) -> points (..., K, 2) of the frame."""
    origin, size = box_origin_and_size(boxes)
    return origin.unsqueeze(-2) + points * size.unsqueeze(-2)


def warp_regions(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Features inside boxes, sampled bilinearly on a grid of the same size; zero outside the frame.

    Gradients flow into the features and into the box coordinates.

    Args:
        maps: (M, C, h, w).
        boxes: (M, 4).

    Returns:
        (M, C, h, w).
    """
    origin, size = box_origin_and_size(boxes.float())
    # affine_grid counts from -1 to 1 across the frame: x' = width * x + (2 * centre - 1)
    shift = 2 * origin + size - 1
    zero = torch.zeros_like(shift[:, 0])
    rows = (torch.stack([size[:, 0], zero, shift[:, 0]], -1), torch.stack([zero, size[:, 1], shift[:, 1]], -1))
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(maps.shape), align_corners=False)
    # Coordinates stay in float32: half precision would move them by cells.
    return functional.grid_sample(maps.float(), grid, align_corners=False).to(maps.dtype)


def draw_landmark_mask(points: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Points (M, K, 2) in box coordinates -> mask (M, 1, rows, columns), 1 at a landmark, fading like a Gaussian."""
    cells = cell_centres(rows, columns, points.device).unflatten(0, (rows, columns))
    # (rows, columns, 2) cells against points (M, K, 1, 1, 2) in cells -> squared distances (M, K, rows, columns)
    places = points.float() * torch.tensor([columns, rows], device=points.device)
    distances = (cells - places[:, :, None, None]).square().sum(dim=-1)
    return torch.exp(-distances / (2 * LANDMARK_RADIUS**2)).amax(dim=1, keepdim=True).to(points.dtype)


class MNCRecognition(nn.Module):
    """The third stage: the features of the whole box beside those at the landmarks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.box_path, self.mask_path = (
            nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()) for _ in range(2)
        )
        self.fusion = nn.Linear(2 * size, size)

    def forward(self, region: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Tokens of the box (B, N, C), the same times the mask (B, N, C) -> (B, N, C)."""
        return self.fusion(torch.cat([self.box_path(region), self.mask_path(masked)], dim=-1))


class MNC(MTCAEStructure):
    """Box, then landmarks inside the box, then all other tasks inside the box and at the landmarks.

    F ─ dense ─┬─ convolution ─── head ─── face box
               └─ warp to the box ─┬─ convolution ─── head ─── landmarks (in the box)
                                   └─ (whole box, box x landmark mask) ─── head ─── expression

    No prediction is detached: the losses of later stages reach the boxes and landmarks that these stages were given.
    Heat maps of the box cover the frame, those of all later tasks the box.
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.output_size = size
        self.places = config.token_grid[1:]
        self.tubelet_size = config.tubelet_size
        self.box_task, self.landmark_task, *later_tasks = task_names
        self.heat_map_tasks = {task.name for task in config.task_descriptions if task.pooling == "heat_map"}
        self.dense = nn.Linear(config.hidden_size, size)
        self.box_convolution = nn.Conv2d(size, size, kernel_size=3, padding=1)
        self.landmark_convolution = nn.Conv2d(size, size, kernel_size=3, padding=1)
        self.recognition = nn.ModuleDict({name: MNCRecognition(size) for name in later_tasks})

    def predict(
        self, encoded: torch.Tensor, heads: nn.ModuleDict, wanted: Collection[str] | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """F (B, N, D_encoder) and the heads by task name -> every task's tokens (B, N, C), and its prediction.

        Where only some tasks are `wanted` it ends with the stage of the last of them; a stage reads those before it.
        """
        asked = heads if wanted is None else wanted
        # (B, t * h * w, C) -> (B, t, h, w, C) -> (B * t, C, h, w)
        maps = self.dense(encoded).unflatten(1, (-1, *self.places)).flatten(0, 1).movedim(-1, 1)
        batch_size = encoded.shape[0]
        tokens = {self.box_task: self._as_tokens(functional.relu(self.box_convolution(maps)), batch_size)}
        boxes = heads[self.box_task](tokens[self.box_task])
        if self.box_task not in self.heat_map_tasks:
            boxes = boxes + torch.tensor(WHOLE_FRAME, dtype=boxes.dtype, device=boxes.device)
        if set(asked) <= {self.box_task}:
            return tokens, {self.box_task: boxes}
        regions = warp_regions(maps, self._mean_of_tubelets(boxes))
        tokens[self.landmark_task] = self._as_tokens(functional.relu(self.landmark_convolution(regions)), batch_size)
        points = heads[self.landmark_task](tokens[self.landmark_task])
        predictions = {self.box_task: boxes, self.landmark_task: points_from_box(points, boxes)}
        mask = draw_landmark_mask(self._mean_of_tubelets(points), *self.places).to(regions.dtype)
        for name, recognition in self.recognition.items():
            if name not in asked:
                continue
            whole, at_landmarks = self._as_tokens(regions, batch_size), self._as_tokens(regions * mask, batch_size)
            tokens[name] = recognition(whole, at_landmarks)
            predictions[name] = heads[name](tokens[name])
            if name in self.heat_map_tasks:
                # (B, T, *output_shape) -> (B, T, points, 2), and back
                points = points_from_box(predictions[name].flatten(2).unflatten(2, (-1, 2)), boxes)
                predictions[name] = points.reshape(predictions[name].shape)
        return tokens, predictions

    def map_windows(self, predictions: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The predicted boxes (B, T, 4), for every task but the box."""
        return dict.fromkeys([self.landmark_task, *self.recognition], predictions[self.box_task])

    def _as_tokens(self, maps: torch.Tensor, batch_size: int) -> torch.Tensor:
        # (B * t, C, h, w) -> (B * t, h, w, C) -> (B, t * h * w, C)
        return maps.movedim(1, -1).reshape(batch_size, -1, maps.shape[1])

    def _mean_of_tubelets(self, of_frames: torch.Tensor) -> torch.Tensor:
        # (B, T, ...) -> (B, t, T / t, ...) -> (B * t, ...)
        return of_frames.unflatten(1, (-1, self.tubelet_size)).mean(dim=2).flatten(0, 1)


__all__ = ["MNC", "box_origin_and_size", "draw_landmark_mask", "points_from_box", "points_in_box", "warp_regions"]
