"""What turns a task's tokens into its prediction: poolings and heads.

Shapes: B clips, T frames, N tokens in raster order (t, h, w), D channels.
"""

import torch
from torch import nn

from .configuration_mtcae import MTCAEConfig, TaskDescription


class MTCAEPooling(nn.Module):
    """Pools tokens to one vector a clip, or to one a tubelet for the poolings that keep time.

    mean (paper): over all tokens, which throws time and place away.
    time: over the h x w tokens of each tubelet.
    time_and_place: `pooling_maps` learned weighted sums over the h x w tokens of each tubelet, so that a head can tell
        where in the frame a token stood.
    """

    def __init__(self, config: MTCAEConfig, pooling: str, size: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.token_grid = config.token_grid
        self.keeps_time = pooling != "mean"
        self.output_size = size
        if pooling == "time_and_place":
            _, rows, columns = self.token_grid
            self.place_weight = nn.Parameter(torch.empty(config.pooling_maps, rows * columns))
            self.output_size = config.pooling_maps * size

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, output_size), or (B, t, output_size) where time is kept."""
        if self.pooling == "mean":
            return tokens.mean(dim=1)
        tubelets, rows, columns = self.token_grid
        # (B, t * h * w, D) -> (B, t, h * w, D)
        grid = tokens.unflatten(1, (tubelets, rows * columns))
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
        self.num_frames = config.num_frames
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
            return self.output(pooled).reshape(-1, self.num_frames, *self.output_shape)
        if self.pool.keeps_time:
            pooled = pooled.mean(dim=1)
        return self.output(pooled).reshape(-1, *self.output_shape)
