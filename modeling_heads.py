"""What turns a task's tokens into its prediction: poolings with a dense layer, and heat maps.

Shapes: B clips, T frames, N tokens in raster order (t, h, w), D channels. A head reads t from the number of tokens, so
that it serves shorter clips wherever its pooling keeps time.
"""

import math

import torch
from torch import nn

from .configuration_mtcae import MTCAEConfig, TaskDescription
from .modeling_layers import ZeroStartLinear, cell_centres


class MTCAEPooling(nn.Module):
    """Pools tokens to one vector a clip, or to one a tubelet for the poolings that keep time.

    mean (paper): over all tokens, which throws time and place away.
    time: over the h x w tokens of each tubelet.
    time_and_place: `pooling_maps` learned weighted sums over the h x w tokens of each tubelet, so that a head can tell
        where in the frame a token stood.
    attention: `pooling_maps` sums over all tokens, each weighted by the softmax of a learned query's scores.
    """

    def __init__(self, config: MTCAEConfig, pooling: str, size: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.num_places = math.prod(config.token_grid[1:])
        self.keeps_time = pooling in ("time", "time_and_place")
        self.output_size = size
        if pooling == "time_and_place":
            self.place_weight = nn.Parameter(torch.empty(config.pooling_maps, self.num_places))
            self.output_size = config.pooling_maps * size
        if pooling == "attention":
            self.queries = nn.Parameter(torch.empty(config.pooling_maps, size))
            self.output_size = config.pooling_maps * size

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, output_size), or (B, t, output_size) where time is kept."""
        if self.pooling == "mean":
            return tokens.mean(dim=1)
        if self.pooling == "attention":
            # queries (M, D) x tokens (B, D, N) -> (B, M, N); the softmax stays in float32, as every attention's
            scores = torch.matmul(self.queries, tokens.transpose(1, 2))
            weights = scores.softmax(dim=-1, dtype=torch.float32).to(tokens.dtype)
            # (B, M, N) x (B, N, D) -> (B, M, D) -> (B, M * D)
            return torch.matmul(weights, tokens).flatten(1)
        # (B, t * h * w, D) -> (B, t, h * w, D)
        grid = tokens.unflatten(1, (-1, self.num_places))
        if self.pooling == "time":
            return grid.mean(dim=2)
        # maps (M, h * w) x tokens (B, t, h * w, D) -> (B, t, M, D) -> (B, t, M * D)
        return torch.matmul(self.place_weight, grid).flatten(2)


class MTCAETaskHead(nn.Module):
    """FC(Pool(Norm(Y))): one task's prediction from its tokens (section III)."""

    def __init__(self, config: MTCAEConfig, task: TaskDescription, size: int) -> None:
        super().__init__()
        self.per_frame = task.per == "frame"
        self.output_shape = tuple(task.output_shape)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.pool = MTCAEPooling(config, task.pooling or config.pooling, size)
        frames_per_vector = config.tubelet_size if self.pool.keeps_time else config.num_frames
        num_outputs = task.num_outputs * (frames_per_vector if self.per_frame else 1)
        self.output = nn.Linear(self.pool.output_size, num_outputs)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, *output_shape), or (B, T, *output_shape) for a task per frame."""
        pooled = self.pool(self.norm(tokens))
        if self.per_frame:
            # (B, T * outputs) or (B, t, tubelet_size * outputs) -> (B, T, *output_shape)
            return self.output(pooled).flatten(1).unflatten(1, (-1, *self.output_shape))
        if self.pool.keeps_time:
            pooled = pooled.mean(dim=1)
        return self.output(pooled).reshape(-1, *self.output_shape)


class MTCAEHeatMapHead(nn.Module):
    """Points of every frame, each the expectation of where it is under a map of probabilities over the h x w tokens.

    Source: "Integral Human Pose Regression" (ECCV 2018). A point is the expected centre of a token plus the expected
    offset that the tokens predict, in cells, which starts at zero. A box is two such points, its upper left and lower
    right corner. Coordinates are divided by frame width and height and stay in float32: half precision would move them
    by pixels.

    Y ─ norm ─┬─ score ─── softmax over h x w ─┬─ expectation ─── point
              └─ offset (+ centre) ────────────┘
    """

    def __init__(self, config: MTCAEConfig, task: TaskDescription, size: int) -> None:
        super().__init__()
        self.output_shape = tuple(task.output_shape)
        _, self.rows, self.columns = config.token_grid
        self.num_points = task.num_outputs // 2
        num_maps = config.tubelet_size * self.num_points
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.score = nn.Linear(size, num_maps)
        self.offset = ZeroStartLinear(size, 2 * num_maps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> float32 (B, T, *output_shape)."""
        normed = self.norm(tokens)
        maps = self._of_frames(self.score(normed)).log_softmax(dim=-1).exp()
        # (B, N, 2 * maps) -> (B, T, points, h * w, 2)
        offsets = torch.stack([self._of_frames(values) for values in self.offset(normed).chunk(2, dim=-1)], dim=-1)
        cells = cell_centres(self.rows, self.columns, tokens.device) + offsets
        # (B, T, points, h * w, 1) x (B, T, points, h * w, 2) -> (B, T, points, 2); no matrix product, which autocast
        # would lead through half precision
        points = (maps.unsqueeze(-1) * cells).sum(dim=-2)
        points = points / torch.tensor([self.columns, self.rows], dtype=points.dtype, device=points.device)
        return points.flatten(2).unflatten(2, self.output_shape)

    def log_maps(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> logarithms of the maps' probabilities, float32 (B, T, points, h * w)."""
        return self._of_frames(self.score(self.norm(tokens))).log_softmax(dim=-1)

    def _of_frames(self, values: torch.Tensor) -> torch.Tensor:
        # (B, t * h * w, tubelet_size * points) -> (B, t, h * w, tubelet_size, points)
        grid = values.float().unflatten(2, (-1, self.num_points)).unflatten(1, (-1, self.rows * self.columns))
        # (B, t, h * w, tubelet_size, points) -> (B, t, tubelet_size, points, h * w) -> (B, T, points, h * w)
        return grid.permute(0, 1, 3, 4, 2).flatten(1, 2)


def build_head(config: MTCAEConfig, task: TaskDescription, size: int) -> MTCAETaskHead | MTCAEHeatMapHead:
    """The head of a task on tokens of `size` channels, as the task's pooling asks."""
    head_class = MTCAEHeatMapHead if task.pooling == "heat_map" else MTCAETaskHead
    return head_class(config, task, size)


__all__ = ["MTCAEHeatMapHead", "MTCAEPooling", "MTCAETaskHead", "build_head"]
