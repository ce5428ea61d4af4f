"""LGI-Former, the encoder of MAE-DFER: local and global attention by way of representative tokens; its classifier and
its masked pre-training.

Source: "MAE-DFER: Efficient Masked Autoencoder for Self-supervised Dynamic Facial Expression Recognition" (ACM MM
2023). Shapes: B clips, T frames, N tokens of a clip, M regions, n tokens of a region, D channels. Tokens are in raster
order (t, h, w) outside the blocks; inside they stand region after region, each behind its representative token.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_common import as_height_and_width, require
from .configuration_lgi_former import LGIFormerConfig
from .masked_tubelets import (
    count_visible_tokens,
    merge_regions,
    order_visible_tokens,
    partition_regions,
    reconstruction_losses,
    reconstruction_targets,
    take_tokens,
)
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


@dataclass
class LGIFormerModelOutput(ModelOutput):
    """Output of `LGIFormerModel`.

    Attributes:
        last_hidden_state: (B, N, D) local tokens in raster order (t, h, w); the visible ones where a mask is given;
            None where only the representative tokens were asked for.
        representative_tokens: (B, M, D), one per region, in raster order of the regions.
        hidden_states: (layers + 1) x (B, N, D) local tokens in raster order, before the final norm.
        attentions: within the regions, layers x (B * M, heads, 1 + n, 1 + n); the representative token comes first.
        representative_attentions: among representative tokens, layers x (B, heads, M, M); recorded with
            `output_representative_attentions=True`.
        interaction_attentions: of local tokens, region after region, on representative tokens, layers x
            (B, heads, N, M); recorded with `output_interaction_attentions=True`.
    """

    last_hidden_state: torch.Tensor | None = None
    representative_tokens: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    representative_attentions: tuple[torch.Tensor, ...] | None = None
    interaction_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LGIFormerForPreTrainingOutput(ModelOutput):
    """Output of `LGIFormerForPreTraining`.

    Attributes:
        loss: mean squared error over masked tokens, scalar.
        appearance_loss: the same over the first frame of every tubelet; over all frames for the target "pixels".
        motion_loss: the same over the frame differences; None for the target "pixels".
        logits: (B, masked tokens, values of a token) predictions in raster order of the masked tokens; the values of
            a token run over (frame of the tubelet, row, column, channel).
        hidden_states: the encoder's, (layers + 1) x (B, visible tokens, D).
        attentions: the encoder's within the regions.
    """

    loss: torch.Tensor | None = None
    appearance_loss: torch.Tensor | None = None
    motion_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LGIFormerLayer(GradientCheckpointingLayer):
    """One LGI block: attention inside each region, among the regions, and from local tokens to all regions.

    Every update is residual and starts with a norm. S: representative tokens, L: local tokens.

    S, L ─── within a region ───┬── S ─── among representatives ─── S ─┬─────┐
                                │                                      │     ├─── MLP ─── S, L
                                └── L ─── on all representatives ──────┴─ L ─┘
    """

    def __init__(self, config: LGIFormerConfig, drop_path_rate: float) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.norm_region = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.region_attention = EncoderAttention(config, size, heads)
        self.norm_representatives = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.representative_attention = EncoderAttention(config, size, heads)
        self.norm_interaction_query = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm_interaction_context = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.interaction_attention = EncoderAttention(config, size, heads)
        self.norm_mlp = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = MLP(size, config.intermediate_size, config.hidden_act)
        self.residual = Residual(config.hidden_dropout_prob, drop_path_rate)

    def forward(self, tokens: torch.Tensor, representatives_only: bool = False) -> torch.Tensor:
        """Regions behind their representatives, (B, M, 1 + n, D) -> (B, M, 1 + n, D).

        With `representatives_only` the result is (B, M, 1, D), the same numbers at a fraction of the work: nothing of
        the local tokens but their keys and values reaches the representatives of this block.
        """
        grid = tokens.shape[:2]
        # (B, M, 1 + n, D) -> (B * M, 1 + n, D): regions are independent here, and a drop path falls on a region
        regions = tokens.flatten(0, 1)
        normed = self.norm_region(regions)
        num_queries = 1 if representatives_only else regions.shape[1]
        attended, _ = self.region_attention(normed[:, :num_queries], normed)
        tokens = (regions[:, :num_queries] + self.residual(attended)).unflatten(0, grid)
        # (B, M, D): here and in the next step a drop path falls on a clip
        representatives = tokens[:, :, 0]
        normed = self.norm_representatives(representatives)
        attended, _ = self.representative_attention(normed, normed)
        representatives = representatives + self.residual(attended)
        updated = [representatives.unsqueeze(2)]
        if not representatives_only:
            # (B, M, n, D) -> (B, M * n, D): every local token reads the representatives of all regions
            local = tokens[:, :, 1:]
            query = self.norm_interaction_query(local).flatten(1, 2)
            attended, _ = self.interaction_attention(query, self.norm_interaction_context(representatives))
            updated.append(local + self.residual(attended).unflatten(1, local.shape[1:3]))
        # (B, M, 1 + n, D) -> (B * M, 1 + n, D), and back
        regions = torch.cat(updated, dim=2).flatten(0, 1)
        return (regions + self.residual(self.mlp(self.norm_mlp(regions)))).unflatten(0, grid)


class LGIFormerPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config: LGIFormerConfig
    config_class = LGIFormerConfig
    base_model_prefix = "lgi_former"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TubeletEmbedding", "LGIFormerLayer", "PlainLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "attentions": OutputRecorder(EncoderAttention, index=1, layer_name="region_attention"),
        "representative_attentions": OutputRecorder(EncoderAttention, index=1, layer_name="representative_attention"),
        "interaction_attentions": OutputRecorder(EncoderAttention, index=1, layer_name="interaction_attention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        bound = std if self.config.xavier_init else 2 * std
        if isinstance(module, PositionTable):
            init.copy_(module.table, sinusoid_positions(*module.table.shape[1:]).unsqueeze(0))
        elif isinstance(module, SmallStartClassifier):
            init.normal_(module.weight, std=self.config.classifier_initializer_range)
        elif isinstance(module, nn.Linear) and self.config.xavier_init:
            init.xavier_uniform_(module.weight)
        elif isinstance(module, LGIFormerModel):
            init.trunc_normal_(module.representative_tokens, std=std, a=-bound, b=bound)
        elif isinstance(module, LGIFormerForPreTraining):
            init.trunc_normal_(module.mask_token, std=std, a=-bound, b=bound)


class LGIFormerModel(LGIFormerPreTrainedModel):
    """The encoder: local tokens in raster order, and one representative token per region.

    Each region's representative token is a vector of its own, which serves as its position too.
    """

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config)
        self.embedding = TubeletEmbedding(config)
        self.representative_tokens = nn.Parameter(torch.empty(config.num_regions, config.hidden_size))
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * depth / last for depth in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList([LGIFormerLayer(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.embedding.projection

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        representatives_only: bool = False,
        **kwargs: Any,
    ) -> LGIFormerModelOutput:
        """Encodes clips, or the visible tokens of masked clips.

        Args:
            pixel_values: (B, T, C, H, W).
            bool_masked_pos: boolean (B, N) in raster order, True where masked; every region keeps the same number of
                visible tokens.
            representatives_only: skips the work of the last block that only its local tokens need; their output is
                then None. Without effect where hidden states are asked for.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).

        Raises:
            ValueError: the clip has another size than the model, or the mask's regions keep unequal counts.
        """
        records_hidden_states = kwargs.pop("output_hidden_states", self.config.output_hidden_states)
        representatives_only = representatives_only and not records_hidden_states
        order = None if bool_masked_pos is None else self.order_visible_tokens(bool_masked_pos)
        tokens = self.embedding(pixel_values)
        if order is not None:
            # The visible tokens (B, V, D) in raster order
            tokens = take_tokens(tokens, order.sort(dim=1).values)
        representatives = self.representative_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        regions = self._enter_regions(tokens, representatives, order)
        states: list[torch.Tensor] | None = [] if records_hidden_states else None
        outputs = self._run_layers(regions, order, states, representatives_only, **(kwargs | {"return_dict": True}))
        regions = outputs.last_hidden_state
        outputs.representative_tokens = regions[:, :, 0]
        if not representatives_only:
            # With hidden states, the last of them is what the norm reads.
            tokens = states[-1] if states else self._leave_regions(regions, order)
        outputs.last_hidden_state = None if representatives_only else self.norm(tokens)
        outputs.hidden_states = tuple(states) if states else None
        return outputs

    def order_visible_tokens(self, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """Raster indices (B, visible tokens) of the visible tokens, region after region.

        Raises:
            ValueError: regions keep unequal counts of visible tokens.
        """
        grid, region = self.config.token_grid, self.config.region_size
        # A compiled graph cannot wait for the count of a mask; there it is the configuration's.
        compiling = torch.compiler.is_compiling()
        visible = self.config.num_visible_tokens if compiling else count_visible_tokens(bool_masked_pos, grid, region)
        return order_visible_tokens(bool_masked_pos, visible, grid, region)

    def _enter_regions(
        self, tokens: torch.Tensor, representatives: torch.Tensor, order: torch.Tensor | None
    ) -> torch.Tensor:
        # raster (B, N, D) -> (B, M, n, D) -> behind the representatives (B, M, 1 + n, D)
        config = self.config
        if order is None:
            local = partition_regions(tokens, config.token_grid, config.region_size)
        else:
            # Raster indices, region after region -> their ranks among the visible tokens
            ranks = order.argsort(dim=1).argsort(dim=1)
            local = take_tokens(tokens, ranks).unflatten(1, (config.num_regions, -1))
        return torch.cat([representatives.unsqueeze(2), local], dim=2)

    def _leave_regions(self, regions: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        # (B, M, 1 + n, D) -> local tokens (B, M, n, D) -> raster (B, N, D)
        local = regions[:, :, 1:]
        if order is None:
            return merge_regions(local, self.config.token_grid, self.config.region_size)
        return take_tokens(local.flatten(1, 2), order.argsort(dim=1))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def _run_layers(
        self,
        regions: torch.Tensor,
        order: torch.Tensor | None,
        states: list[torch.Tensor] | None,
        representatives_only: bool,
        **kwargs: Any,
    ) -> LGIFormerModelOutput:
        """(B, M, 1 + n, D) -> the same; what goes into each layer and out of the last is added to `states`."""
        regions = self._record_state(regions, order, states)
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            regions = self._record_state(layer(regions, representatives_only and depth == last), order, states)
        return LGIFormerModelOutput(last_hidden_state=regions)

    def _record_state(
        self, regions: torch.Tensor, order: torch.Tensor | None, states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        if states is None:
            return regions
        # The regions are made of the recorded tokens again, so that a gradient passes through them.
        states.append(self._leave_regions(regions, order))
        return self._enter_regions(states[-1], regions[:, :, 0], order)


class LGIFormerForVideoClassification(SavesWithProcessor, LGIFormerPreTrainedModel):  # type: ignore[misc]
    """MAE-DFER's classifier: the mean of the representative tokens, a norm, a dense layer."""

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config.adapted(final_norm=False, xavier_init=False))
        self.lgi_former = LGIFormerModel(self.config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = SmallStartClassifier(config.hidden_size, len(config.id2label or {}))
        self.post_init()
        self._freeze_unused_weights()

    def _freeze_unused_weights(self) -> None:
        """The last block's local tokens reach no representative token: what updates them never gets a gradient.

        Their weights are kept for the checkpoint's sake; data-parallel training needs to know that they stay as they
        are.
        """
        last = self.lgi_former.layers[-1]
        for module in (last.norm_interaction_query, last.norm_interaction_context, last.interaction_attention):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "LGIFormerForVideoClassification":
        """As in torch, except that weights without any use stay frozen."""
        super().train(mode)
        # Loading a checkpoint replaces the parameters by ones that ask for a gradient, and ends in evaluation mode.
        self._freeze_unused_weights()
        return self

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
        encoded = self.lgi_former(pixel_values, representatives_only=True, **kwargs)
        # (B, M, D) -> (B, D) -> (B, K)
        logits = self.classifier(self.fc_norm(encoded.representative_tokens.mean(dim=1)))
        return ImageClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits.float(), labels),
            logits=all_alike_without_a_person(logits, person_found),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class LGIFormerForPreTraining(LGIFormerPreTrainedModel):
    """Masked autoencoder: the encoder sees the visible tokens, a small decoder predicts the masked ones."""

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config.adapted(final_norm=True, xavier_init=True))
        has_motion = config.reconstruction_target == "appearance_and_motion"
        rule = "the target 'appearance_and_motion' needs 2 frames in a tubelet at least"
        require(config.tubelet_size > 1 or not has_motion, "tubelet_size", config.tubelet_size, rule)
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.lgi_former = LGIFormerModel(self.config)
        self.encoder_to_decoder = nn.Linear(config.hidden_size, size, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size))
        self.decoder_positions = PositionTable(config.num_tokens, size)
        self.decoder_layers = nn.ModuleList(
            PlainLayer(self.config, size, heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        patch_area = math.prod(as_height_and_width(config.patch_size))
        self.decoder_head = nn.Linear(size, config.num_channels * config.tubelet_size * patch_area)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor, **kwargs: Any
    ) -> LGIFormerForPreTrainingOutput:
        """Predicts the masked tokens' targets and measures the mean squared error.

        Args:
            pixel_values: (B, T, C, H, W), normalised with the ImageNet mean and standard deviation.
            bool_masked_pos: boolean (B, N) in raster order, True where masked, from `stratified_tube_mask`.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).

        Raises:
            ValueError: the clip has another size than the model, or the mask's regions keep unequal counts.
        """
        config = self.config
        encoded = self.lgi_former(pixel_values, bool_masked_pos, **kwargs)
        num_visible = encoded.last_hidden_state.shape[1]
        # Stable: visible tokens come first, both groups in raster order.
        raster_order = bool_masked_pos.long().argsort(dim=1, stable=True)
        visible, masked = raster_order[:, :num_visible], raster_order[:, num_visible:]
        require(masked.shape[1] > 0, "bool_masked_pos", tuple(bool_masked_pos.shape), "must mask some tokens")
        tokens = encoded.last_hidden_state
        if config.released_decoder_order:
            # The released decoder was trained with tokens region after region and positions in raster order, so that
            # some tokens carry another one's position: raster indices, region after region -> ranks in raster order.
            order = self.lgi_former.order_visible_tokens(bool_masked_pos)
            tokens = take_tokens(tokens, order.argsort(dim=1).argsort(dim=1))
        logits = self._decode(tokens, visible, masked)
        tubelet_size, target = config.tubelet_size, config.reconstruction_target
        patch_size = as_height_and_width(config.patch_size)
        targets = reconstruction_targets(pixel_values, tubelet_size, patch_size, target, config.norm_pix_loss)
        targets = take_tokens(targets, masked)
        losses = reconstruction_losses(logits, targets, tubelet_size, target, config.motion_loss_weight)
        return LGIFormerForPreTrainingOutput(
            **losses, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def _decode(self, tokens: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        # visible (B, V, D_encoder) and masked places (B, K) -> (B, V + K, D) -> (B, K, values)
        positions = self.decoder_positions()
        tokens = self.encoder_to_decoder(tokens) + take_tokens(positions, visible)
        tokens = torch.cat([tokens, self.mask_token + take_tokens(positions, masked)], dim=1)
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        return self.decoder_head(self.decoder_norm(tokens[:, visible.shape[1] :]))


__all__ = [
    "LGIFormerForPreTraining",
    "LGIFormerForPreTrainingOutput",
    "LGIFormerForVideoClassification",
    "LGIFormerModel",
    "LGIFormerModelOutput",
    "LGIFormerPreTrainedModel",
]
