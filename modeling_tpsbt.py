"""TPSBT, the encoder of SVFAP: joint attention at full resolution, then shorter stages around a few bottleneck tokens.

Source: "SVFAP: Self-supervised Video Facial Affect Perceiver" (IEEE Transactions on Affective Computing). Shapes: B
clips, T frames, N tokens in raster order (t, h, w), t tubelets of s = h x w places, K bottleneck tokens, D channels.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_tpsbt import TPSBTConfig
from .modeling_layers import (
    MLP,
    EncoderAttention,
    PlainLayer,
    PositionTable,
    Residual,
    SmallStartClassifier,
    TubeletEmbedding,
    all_alike_without_a_person,
    sinusoid_positions,
)
from .saved_folders import SavesWithProcessor
from .weight_files import CheckedPreTrainedModel


class TPSBTCrossLayer(GradientCheckpointingLayer):
    """A cross-self block: tokens read a context, then each other, then an MLP transforms them."""

    def __init__(self, config: TPSBTConfig, drop_path_rate: float) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.norm_cross_query = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm_cross_context = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.cross_attention = EncoderAttention(config, size, heads)
        self.norm_attention = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = EncoderAttention(config, size, heads)
        self.norm_mlp = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = MLP(size, config.intermediate_size, config.hidden_act)
        self.residual = Residual(config.hidden_dropout_prob, drop_path_rate)

    def forward(self, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D), context (B, M, D) -> (B, N, D)."""
        attended, _ = self.cross_attention(self.norm_cross_query(tokens), self.norm_cross_context(context))
        tokens = tokens + self.residual(attended)
        normed = self.norm_attention(tokens)
        attended, _ = self.attention(normed, normed)
        tokens = tokens + self.residual(attended)
        return tokens + self.residual(self.mlp(self.norm_mlp(tokens)))


class TPSBTTemporalReduction(nn.Module):
    """A convolution over time at every place: each group of tubelets becomes one."""

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__()
        kernel = config.temporal_kernel
        self.convolution = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=kernel, stride=kernel)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, t, s, D) -> (B, t / kernel, s, D)."""
        batch_size, _, places, size = tokens.shape
        # (B, t, s, D) -> (B, s, D, t) -> (B * s, D, t) -> (B * s, D, t / kernel) -> (B, t / kernel, s, D)
        reduced = self.convolution(tokens.permute(0, 2, 3, 1).flatten(0, 1))
        return reduced.reshape(batch_size, places, size, -1).permute(0, 3, 1, 2)


class TPSBTSpatialBottleneck(nn.Module):
    """Summarises every tubelet in a few tokens: weighted means over its places, with learned weights."""

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense_in = nn.Linear(config.hidden_size, config.bottleneck_hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense_out = nn.Linear(config.bottleneck_hidden_size, config.num_bottleneck_tokens)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, t, s, D) -> (B, t * K, D)."""
        scores = self.dense_out(self.activation(self.dense_in(self.norm(tokens))))
        # scores (B, t, s, K) -> weights (B, t, K, s), against tokens (B, t, s, D) -> (B, t, K, D) -> (B, t * K, D)
        weights = scores.softmax(dim=2).transpose(2, 3)
        return torch.matmul(weights, tokens).flatten(1, 2)


class TPSBTStage(nn.Module):
    """A stage after the first: the bottleneck gathers from the tokens, and the tokens read it back at the end.

    tokens ─── shorter time ─┬───────────── context ─────────────┐
                             │                                   │ (query)
                             └─ bottleneck ─ block ─ ... ─ block ─── block ─── tokens
                                (queries of all blocks but the last)
    """

    def __init__(self, config: TPSBTConfig, drop_path_rates: list[float]) -> None:
        super().__init__()
        self.reduction = TPSBTTemporalReduction(config)
        self.bottleneck = TPSBTSpatialBottleneck(config)
        self.layers = nn.ModuleList([TPSBTCrossLayer(config, rate) for rate in drop_path_rates])

    def forward(self, tokens: torch.Tensor, num_tubelets: int) -> torch.Tensor:
        """(B, t * s, D) of t tubelets -> (B, t / kernel * s, D)."""
        # (B, t * s, D) -> (B, t, s, D) -> (B, t / kernel, s, D)
        grid = self.reduction(tokens.unflatten(1, (num_tubelets, -1)))
        bottleneck, tokens = self.bottleneck(grid), grid.flatten(1, 2)
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            if depth < last:
                bottleneck = layer(bottleneck, tokens)
            else:
                tokens = layer(tokens, bottleneck)
        return tokens


class TPSBTPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = TPSBTConfig
    base_model_prefix = "tpsbt"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TubeletEmbedding", "PlainLayer", "TPSBTCrossLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": [OutputRecorder(PlainLayer), OutputRecorder(TPSBTCrossLayer)],
        "attentions": OutputRecorder(EncoderAttention, index=1, layer_name="attention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PositionTable):
            init.copy_(module.table, sinusoid_positions(*module.table.shape[1:]).unsqueeze(0))
        elif isinstance(module, SmallStartClassifier):
            init.normal_(module.weight, std=self.config.classifier_initializer_range)


class TPSBTModel(TPSBTPreTrainedModel):
    """The encoder. Its tokens come in raster order of `config.token_grid`, with fewer tubelets than were embedded."""

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__(config)
        self.embedding = TubeletEmbedding(config)
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * depth / last for depth in range(config.num_hidden_layers)]
        first_depth, *later_depths = config.stage_depths
        size, heads, intermediate_size = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.layers = nn.ModuleList(
            [PlainLayer(config, size, heads, intermediate_size, rate) for rate in rates[:first_depth]]
        )
        ends = [first_depth + sum(later_depths[:number]) for number in range(len(later_depths) + 1)]
        self.stages = nn.ModuleList(
            [TPSBTStage(config, rates[begin:end]) for begin, end in zip(ends[:-1], ends[1:], strict=True)]
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.embedding.projection

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encodes clips.

        Args:
            pixel_values: (B, T, C, H, W).
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`). Hidden states and
                attentions come from every block in turn: tokens of the first stage, then in each stage the bottleneck
                tokens, then the tokens that read them.

        Raises:
            ValueError: the clip has another size than the model.
        """
        tokens = self.embedding(pixel_values)
        for layer in self.layers:
            tokens = layer(tokens)
        num_tubelets = self.config.embedded_grid[0]
        for stage in self.stages:
            tokens = stage(tokens, num_tubelets)
            num_tubelets //= self.config.temporal_kernel
        return BaseModelOutput(last_hidden_state=tokens)


class TPSBTForVideoClassification(SavesWithProcessor, TPSBTPreTrainedModel):  # type: ignore[misc]
    """SVFAP's classifier: the mean of the tokens, a norm, a dense layer."""

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__(config)
        self.tpsbt = TPSBTModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = SmallStartClassifier(config.hidden_size, len(config.id2label or {}))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        person_found: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Scores of the classes and, given labels, their cross-entropy.

        Args:
            pixel_values: (B, T, C, H, W).
            labels: (B,) class ids, or (B, K) class probabilities.
            person_found: (B,) boolean, of a processor that crops to the face: where it is False, all classes have the
                same score.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).
        """
        encoded = self.tpsbt(pixel_values, **kwargs)
        # (B, N, D) -> (B, D) -> (B, classes)
        logits = self.classifier(self.fc_norm(encoded.last_hidden_state.mean(dim=1)))
        return ImageClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits.float(), labels),
            logits=all_alike_without_a_person(logits, person_found),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = ["TPSBTForVideoClassification", "TPSBTModel", "TPSBTPreTrainedModel"]
