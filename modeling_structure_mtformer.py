"""MTFormer as a structure over any encoder: tasks look through each other's attention maps.

Source: "MTFormer: Multi-Task Learning via Transformer and Cross-Task Reasoning" (ECCV 2022), with full attention over
the tokens of a clip in place of windows in an image. Shapes: B clips, N tokens, D channels, n tasks.
"""

from collections.abc import Collection
from itertools import permutations

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mtcae import MTCAEConfig, TaskDescription
from .modeling_structures import MTCAECrossAttention, MTCAEStructure, build_mlp

# Of the published code: hidden channels of the transforms / channels, the projections' width, the temperature.
TRANSFORM_RATIO = 3
PROJECTION_SIZE = 128
TEMPERATURE = 0.07


class MTFormerSelfLayer(GradientCheckpointingLayer):
    """Self-attention, then an MLP, each on normed tokens and with a residual."""

    def __init__(self, config: MTCAEConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        self.attention = MTCAECrossAttention(config)
        self.norm_mlp = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        self.mlp = build_mlp(config)
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        normed = self.norm_attention(tokens)
        attended, _ = self.attention(normed, normed)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.mlp(self.norm_mlp(tokens)))


class MTFormerTransform(nn.Sequential):
    """Two dense layers with a GELU between."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(input_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, output_size))


class MTFormerCrossLayer(GradientCheckpointingLayer):
    """Cross-task attention of one task: every task's attention map moves this task's values.

    One attention serves all maps. What this task's own map gives keeps all D channels; the other maps share D channels
    among them, so that the fusion reads 2 D.

    Args:
        config: the model's configuration.
        num_others: n - 1, how many other tasks there are.
    """

    def __init__(self, config: MTCAEConfig, num_others: int) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        share, hidden_size = size // num_others, TRANSFORM_RATIO * size
        self.norm_attention = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = MTCAECrossAttention(config)
        self.own_transform = MTFormerTransform(size, size, hidden_size)
        self.other_transforms = nn.ModuleList([MTFormerTransform(size, share, hidden_size) for _ in range(num_others)])
        self.fusion = MTFormerTransform(size + num_others * share, size, hidden_size)
        self.norm_mlp = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = build_mlp(config)
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(self, tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """This task's tokens (B, N, D), the n - 1 other tasks' tokens (B, N, D) each -> (B, N, D)."""
        own = self.norm_attention(tokens)
        attended, _ = self.attention(own, own)
        messages = [self.own_transform(attended)]
        for other, transform in zip(others, self.other_transforms, strict=True):
            mapped = self.norm_attention(other)
            attended, _ = self.attention(mapped, mapped, values=own)
            messages.append(transform(attended))
        # 1 x (B, N, D) and (n - 1) x (B, N, share) -> (B, N, D + (n - 1) * share) -> (B, N, D)
        tokens = tokens + self.dropout(self.fusion(torch.cat(messages, dim=-1)))
        return tokens + self.dropout(self.mlp(self.norm_mlp(tokens)))


class MTFormerStage(nn.ModuleList):
    """Blocks one after the other."""

    def forward(self, tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """This task's tokens (B, N, D), and the other tasks' where the blocks look at them -> (B, N, D)."""
        for layer in self:
            tokens = layer(tokens, *others)
        return tokens


class MTFormer(MTCAEStructure):
    """Shared blocks, then per task blocks of its own and blocks that look through all tasks' attention maps.

    F ─ dense ─ blocks ─┬─ blocks ─┬─ cross-task blocks ─── head ─── face box
                        ├─ blocks ─┼─ cross-task blocks ─── head ─── landmarks
                        └─ blocks ─┴─ cross-task blocks ─── head ─── expression

    Each of the three stages has `decoder_num_layers` blocks. The other tasks enter every cross-task block of a task as
    their own blocks left them.
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.output_size = config.decoder_hidden_size
        depth = range(config.decoder_num_layers)
        self.dense = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        self.shared_layers = MTFormerStage(MTFormerSelfLayer(config) for _ in depth)
        self.self_layers = nn.ModuleDict(
            {name: MTFormerStage(MTFormerSelfLayer(config) for _ in depth) for name in task_names}
        )
        num_others = len(task_names) - 1
        self.cross_layers = nn.ModuleDict(
            {name: MTFormerStage(MTFormerCrossLayer(config, num_others) for _ in depth) for name in task_names}
        )

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> every task's tokens (B, N, D) by name; of the wanted tasks, where some are named."""
        shared = self.shared_layers(self.dense(encoded))
        own = {name: layers(shared) for name, layers in self.self_layers.items()}
        outputs = {}
        for name, layers in self.cross_layers.items():
            if wanted is not None and name not in wanted:
                continue  # its own blocks are there: every other task looks through them
            others = [tokens for other, tokens in own.items() if other != name]
            outputs[name] = layers(own[name], *others)
        return outputs


class CrossTaskContrast(nn.Module):
    """MTFormer's contrastive loss: the tasks' features of one clip are alike, those of different clips are not.

    The other clips of the batch are the negatives, in place of the published code's memory bank.
    """

    def __init__(self, task_names: list[str], size: int) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(size, PROJECTION_SIZE), nn.ReLU(), nn.Linear(PROJECTION_SIZE, PROJECTION_SIZE)
                )
                for name in task_names
            }
        )

    def forward(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Every task's tokens (B, N, D) by name -> the sum over pairs of tasks and both directions, a scalar."""
        features = [
            functional.normalize(projection(tokens[name].mean(dim=1)).float(), dim=-1)
            for name, projection in self.projections.items()
        ]
        losses = []
        for anchors, candidates in permutations(features, 2):
            # Unit vectors (B, P) x (P, B) -> (B, B): each clip's vector of the other task is to be found among all B
            scores = anchors @ candidates.T / TEMPERATURE
            losses.append(functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device)))
        return torch.stack(losses).sum()


class UncertaintyWeights(nn.Module):
    """Learned weights of the task losses: the sum of w L / (r sigma^2) + log sigma over the tasks.

    w is the task's own weight; r is 2 for regression and 1 for the other kinds. log sigma^2 is learned, from 0.
    """

    def __init__(self, tasks: list[TaskDescription]) -> None:
        super().__init__()
        self.divisors = {task.name: 2.0 if task.kind == "regression" else 1.0 for task in tasks}
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, weighted_losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """w L by task name, scalars; tasks without labels are not there -> scalar."""
        log_variances = dict(zip(self.divisors, self.log_variances.float(), strict=True))
        terms = [
            loss * torch.exp(-log_variances[name]) / self.divisors[name] + log_variances[name] / 2
            for name, loss in weighted_losses.items()
        ]
        return torch.stack(terms).sum()


__all__ = ["CrossTaskContrast", "MTFormer", "UncertaintyWeights"]
