"""MTL-ER as a structure over any encoder: share bottom with hidden-state feedback, for the tasks of a clip.

Source: the winning system of the ABAW4 multi-task challenge (arXiv 2207.09373) and its released code, whose tasks are
valence, arousal, expression and action units; here they are whatever tasks the config lists. Shapes: B clips, N tokens
in raster order (t, h, w), D channels.
"""

import math
from collections.abc import Collection

import torch
from torch import nn

from .configuration_mtcae import MTCAEConfig
from .configuration_mtl_er import MTLERConfig
from .modeling_mtl_er import build_temporal_encoder, make_hidden_layers
from .modeling_structures import MTCAEStructure

NUM_SHARED_LAYERS = 1  # as released
# Of the released heads: hidden widths / width of the temporal encoder.
FIRST_HEAD_SHARE, FEEDBACK_SHARE = 2, 4


def feedback_size(config: MTCAEConfig) -> int:
    """Width of what one source feeds back: a whole number of attention heads, so that the target's width is one too."""
    heads = config.decoder_hidden_size // FEEDBACK_SHARE // config.decoder_head_dim
    return max(1, heads) * config.decoder_head_dim


def temporal_config(config: MTCAEConfig) -> MTLERConfig:
    """The config of MTL-ER's parts that says the same as the structure's."""
    return MTLERConfig(
        input_size=config.hidden_size,
        tasks=["expression"],
        hidden_size=config.decoder_hidden_size,
        num_layers=NUM_SHARED_LAYERS + config.decoder_num_layers,
        num_private_layers=config.decoder_num_layers,
        num_attention_heads=config.decoder_num_attention_heads,
        intermediate_size=int(config.decoder_mlp_ratio * config.decoder_hidden_size),
        encoder_dropout=config.decoder_dropout,
        head_sizes=[config.decoder_hidden_size // FIRST_HEAD_SHARE, feedback_size(config)],
        head_dropout=config.decoder_dropout,
    )


class MTLERTaskBranch(nn.Module):
    """What one task has for itself: private layers over time, and a head's hidden layers."""

    def __init__(self, config: MTLERConfig, num_sources: int) -> None:
        super().__init__()
        size = config.hidden_size + num_sources * config.feedback_size
        self.private = build_temporal_encoder(config, size, config.num_private_layers, projects=False)
        self.hidden = make_hidden_layers(config, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (B, t, size) -> the head's hidden states (B, t, feedback size)."""
        states, _ = self.private(states, None, None)
        return self.hidden(states)


class MTLER(MTCAEStructure):
    """One transformer over time for all tasks, then one per task; the last task also reads what the others know.

    F ─ mean over places ─ norm ─ transformer ─┬─ transformer ─ hidden layers ─┬─ head ─── face box
                                               ├─ transformer ─ hidden layers ─┼─ head ─── landmarks
                                               │       ┌───────────────────────┘ (no gradient)
                                               └─ transformer ─ hidden layers ─── head ─── expression
    """

    def __init__(self, config: MTCAEConfig, task_names: list[str]) -> None:
        super().__init__()
        self.num_places = math.prod(config.token_grid[1:])
        self.output_size = feedback_size(config)
        parts = temporal_config(config)
        # The positions that are added have deviation 0.7; an encoder's features may be far smaller.
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.shared = build_temporal_encoder(parts, config.hidden_size, NUM_SHARED_LAYERS, projects=True)
        *sources, self.target = task_names
        self.branches = nn.ModuleDict({name: MTLERTaskBranch(parts, num_sources=0) for name in sources})
        self.branches[self.target] = MTLERTaskBranch(parts, len(sources))

    def forward(self, encoded: torch.Tensor, wanted: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """F (B, N, D_encoder) -> every task's tokens (B, N, feedback size) by name, the same at all places.

        Where only some tasks are wanted it leaves out the others, unless the last task is wanted, which reads them all.
        """
        # (B, t * h * w, D) -> (B, t, h * w, D) -> (B, t, D): what MTL-ER calls the features of a frame
        features = encoded.unflatten(1, (-1, self.num_places)).mean(dim=2)
        shared, _ = self.shared(self.norm(features), None, None)
        asked = self.branches if wanted is None or self.target in wanted else wanted
        hidden = {
            name: branch(shared) for name, branch in self.branches.items() if name != self.target and name in asked
        }
        if self.target in asked:
            fed_back = [states.detach() for states in hidden.values()]
            hidden[self.target] = self.branches[self.target](torch.cat([shared, *fed_back], dim=-1))
        # (B, t, D) -> (B, t * h * w, D)
        return {name: states.repeat_interleave(self.num_places, dim=1) for name, states in hidden.items()}


__all__ = ["MTLER", "feedback_size"]
