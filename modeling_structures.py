"""The decoder of Algorithm 1, and the structures of Table I that join encoder and heads by such decoders.

Shapes: B clips, N tokens in raster order (t, h, w), D channels.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mtcae import MTCAEConfig
from .modeling_layers import MLP, Attention


class MTCAECrossAttention(Attention):
    """Multi-head attention of a query sequence on the memory. Head width is free: heads x head_dim may exceed D."""

    def __init__(self, config: MTCAEConfig) -> None:
        super().__init__(
            config,
            size=config.decoder_hidden_size,
            num_heads=config.decoder_num_attention_heads,
            head_dim=config.decoder_head_dim,
            dropout=config.decoder_attention_dropout,
            zero_start=config.decoder_zero_start,
        )


def build_mlp(config: MTCAEConfig) -> MLP:
    """The MLP of a decoder's layer."""
    size = config.decoder_hidden_size
    hidden_size = int(config.decoder_mlp_ratio * size)
    return MLP(size, hidden_size, config.decoder_hidden_act, zero_start=config.decoder_zero_start)


class MTCAEDecoderLayer(GradientCheckpointingLayer):
    """One step of the recursion in Algorithm 1: cross-attention on the memory, then an MLP; no self-attention.

    A decoder of type "mlp" (Table I) has the MLP alone.
    """

    def __init__(self, config: MTCAEConfig) -> None:
        super().__init__()
        self.has_attention = config.decoder_type == "vit"
        if self.has_attention:
            self.norm_query = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
            self.cross_attention = MTCAECrossAttention(config)
        self.norm_mlp = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        self.mlp = build_mlp(config)
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        """Y (B, N, D), memory (B, N, D) -> Y' = MLP(Norm(Z')) + Z' with Z' = MHA(Norm(Y), memory) + Y."""
        if self.has_attention:
            attended, _ = self.cross_attention(self.norm_query(tokens), memory)
            tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.mlp(self.norm_mlp(tokens)))


class MTCAEDecoder(nn.Module):
    """Algorithm 1: refines a query in L steps, each of which reads the same memory Norm(Dense(F)).

    Args:
        config: the model's configuration.
        starts_from_encoder: True if the first query is Dense(F) itself; False if it is another decoder's output.
    """

    def __init__(self, config: MTCAEConfig, starts_from_encoder: bool) -> None:
        super().__init__()
        self.starts_from_encoder = starts_from_encoder
        self.reads_memory = config.decoder_type == "vit"
        self.depth = config.decoder_num_layers
        # A decoder that neither starts from the encoder's tokens nor reads them has no use for the projection.
        if starts_from_encoder or self.reads_memory:
            self.dense = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        if self.reads_memory:
            self.norm_memory = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        distinct_layers = 1 if config.share_decoder_layers else self.depth
        self.layers = nn.ModuleList([MTCAEDecoderLayer(config) for _ in range(distinct_layers)])

    def forward(self, query: torch.Tensor | None, encoded: torch.Tensor) -> torch.Tensor:
        """Query (B, N, D) or None, encoder's output F (B, N, D_encoder) -> Y (B, N, D)."""
        projected = self.dense(encoded) if self.starts_from_encoder or self.reads_memory else None
        memory = self.norm_memory(projected) if self.reads_memory else None
        tokens: Any = projected if self.starts_from_encoder else query
        for step in range(self.depth):
            tokens = self.layers[step % len(self.layers)](tokens, memory)
        return tokens


class MTCAEStructure(nn.Module):
    """What joins the encoder and the tasks' heads. A subclass says in `forward` which tokens each task's head reads.

    Attributes:
        output_size: channels of these tokens.
    """

    output_size: int

    def predict(
        self, encoded: torch.Tensor, heads: nn.ModuleDict, wanted: Collection[str] | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """F (B, N, D_encoder) and the heads by task name -> every task's tokens (B, N, D), and its prediction.

        Where only some tasks are `wanted`, these and what they need are computed, and nothing else.
        """
        tokens = self(encoded, wanted)
        return tokens, {name: head(tokens[name]) for name, head in heads.items() if wanted is None or name in wanted}

    def map_windows(self, predictions: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Boxes (B, T, 4) by task name: what part of a frame the task's tokens cover, where it is not the whole."""
        return {}


class MTCAESingleTask(MTCAEStructure):
    """Structure 1 of Table I: no decoder; the task's head reads the encoder's output.

    F ─── head ─── expression
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.task_names = task_names
        self.output_size = config.hidden_size

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> the same tokens for the task."""
        return dict.fromkeys(self.task_names, encoded)


class MTCAENonFullyShared(MTCAEStructure):
    """Structures 2 and 3 of Table I: every task has its own decoder on the encoder's output.

    F ─┬─ decoder ─── head ─── face box
       ├─ decoder ─── head ─── landmarks
       └─ decoder ─── head ─── expression
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.output_size = config.decoder_hidden_size
        self.decoders = nn.ModuleDict({name: MTCAEDecoder(config, starts_from_encoder=True) for name in task_names})

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> every task's tokens (B, N, D) by name; of the wanted tasks, where some are named."""
        asked = self.decoders if wanted is None else wanted
        return {name: decoder(None, encoded) for name, decoder in self.decoders.items() if name in asked}


class MTCAEFullyShared(MTCAEStructure):
    """Structures 4 and 5 of Table I: one decoder for all tasks, then one decoder per task on its output.

    F ─── shared decoder ─┬─ decoder ─── head ─── face box
                          ├─ decoder ─── head ─── landmarks
                          └─ decoder ─── head ─── expression
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.output_size = config.decoder_hidden_size
        self.shared_decoder = MTCAEDecoder(config, starts_from_encoder=True)
        self.decoders = nn.ModuleDict({name: MTCAEDecoder(config, starts_from_encoder=False) for name in task_names})

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> every task's tokens (B, N, D) by name; of the wanted tasks, where some are named."""
        shared = self.shared_decoder(None, encoded)
        asked = self.decoders if wanted is None else wanted
        return {name: decoder(shared, encoded) for name, decoder in self.decoders.items() if name in asked}


class MTCAECascade(MTCAEStructure):
    """Structure 6 of Table I, the paper's model: each task's query is the previous task's output.

    F ──┬──────────────────┬──────────────────┐            (memory: keys and values)
        ├─ decoder ── Y1 ── decoder ── Y2 ── decoder ── Y3  (queries)
                       │                │                │
                      head             head             head
                    face box        landmarks       expression
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.output_size = config.decoder_hidden_size
        self.decoders = nn.ModuleDict(
            {name: MTCAEDecoder(config, starts_from_encoder=position == 0) for position, name in enumerate(task_names)}
        )

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> every task's tokens (B, N, D) by name, in the order of the cascade.

        Where only some tasks are wanted, it ends with the last of them: each decoder's query is the one before.
        """
        tokens: torch.Tensor | None = None
        missing = set(self.decoders if wanted is None else wanted)
        outputs = {}
        for name, decoder in self.decoders.items():
            if not missing:
                break
            tokens = decoder(tokens, encoded)
            outputs[name] = tokens
            missing.discard(name)
        return outputs
