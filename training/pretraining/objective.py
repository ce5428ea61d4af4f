"""What is pre-trained: the model of the options, and what it has to predict of the clips' hidden places."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import PreTrainedConfig, PreTrainedModel, VideoMAEConfig, VideoMAEForPreTraining

from mtcae_dfer.configuration_common import as_height_and_width, compute_token_grid, require
from mtcae_dfer.configuration_lgi_former import LGIFormerConfig
from mtcae_dfer.masked_tubelets import reconstruction_losses, reconstruction_targets, take_tokens
from mtcae_dfer.modeling_lgi_former import LGIFormerForPreTraining
from mtcae_dfer.training.arguments import PRETRAINING_PRESETS, available_presets, read_preset
from mtcae_dfer.training.initialisation import read_checkpoint_config
from mtcae_dfer.training.pretraining.arguments import ObjectiveArguments

PRETRAINING_MODELS: dict[str, tuple[Any, Any]] = {
    "videomae": (VideoMAEConfig, VideoMAEForPreTraining),
    "lgi_former": (LGIFormerConfig, LGIFormerForPreTraining),
}


def build_pretraining_model(options: ObjectiveArguments, seed: int = 0) -> PreTrainedModel:
    """The model of `--model`: fresh from a preset, or from a checkpoint, with the objective of the options.

    Raises:
        ValueError: the name is neither a preset nor a checkpoint that can be pre-trained, or the objective does not
            suit the model; the message names the option or the config's field.
    """
    set_seed(seed)
    if options.model in available_presets(PRETRAINING_PRESETS):
        described = dict(options.model_config)
        if options.encoder_preset is not None:
            # Fields of the run's encoder, then the pre-training preset's own.
            known_presets = available_presets()
            rule = f"must be one of {', '.join(known_presets)}"
            require(options.encoder_preset in known_presets, "--encoder_preset", options.encoder_preset, rule)
            encoder = read_preset(options.encoder_preset).get("model_config", {}).get("encoder_config", {})
            described = encoder | described
        model_type = described.pop("model_type", "videomae")
        rule = f"must be one of {', '.join(PRETRAINING_MODELS)}"
        require(model_type in PRETRAINING_MODELS, "--model_config: model_type", model_type, rule)
        config_class, model_class = PRETRAINING_MODELS[model_type]
        model = model_class(_with_objective(config_class(**described), options))
    else:
        config = read_checkpoint_config(options.model, PRETRAINING_PRESETS)
        known = ", ".join(PRETRAINING_MODELS)
        rule = f"is no model that can be pre-trained: {known}"
        require(config.model_type in PRETRAINING_MODELS, "--model", options.model, rule)
        _, model_class = PRETRAINING_MODELS[config.model_type]
        model = model_class.from_pretrained(options.model, config=_with_objective(config, options))
    mask_region(model.config, options)
    return model


def _with_objective(config: PreTrainedConfig, options: ObjectiveArguments) -> PreTrainedConfig:
    """The config with the objective where it has fields for it. VideoMAE's knows only `norm_pix_loss`."""
    config.norm_pix_loss = options.norm_pix_loss
    if isinstance(config, LGIFormerConfig):
        config.reconstruction_target, config.mask_ratio = options.reconstruction_target, options.mask_ratio
        config.motion_loss_weight = options.motion_loss_weight
    elif options.reconstruction_target == "appearance_and_motion":
        rule = "the target 'appearance_and_motion' needs 2 frames in a tubelet at least"
        require(config.tubelet_size > 1, "tubelet_size", config.tubelet_size, rule)
    return config


def mask_region(config: PreTrainedConfig, options: ObjectiveArguments) -> list[int]:
    """Time, height and width of the mask's regions in tokens: every region keeps the same number of visible tokens.

    Raises:
        ValueError: the regions do not divide the token grid, or do not divide LGI-Former's own regions.
    """
    grid = compute_token_grid(config)
    region = options.mask_region or list(getattr(config, "region_size", grid))
    fits = len(region) == 3 and all(side >= 1 and whole % side == 0 for side, whole in zip(region, grid, strict=True))
    require(fits, "--mask_region", region, f"must be three numbers that divide the token grid {grid}")
    own = getattr(config, "region_size", region)
    whole = all(outer % inner == 0 for outer, inner in zip(own[1:], region[1:], strict=True))
    rule = f"must divide the model's own regions {own}, which need equal numbers of visible tokens"
    require(whole, "--mask_region", region, rule)
    return region


def predict_masked(
    model: torch.nn.Module,
    config: PreTrainedConfig,
    options: ObjectiveArguments,
    pixel_values: torch.Tensor,
    bool_masked_pos: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Predictions (B, K, values) of the masked tokens, their losses, and the targets (B, N, values) of all tokens."""
    predictions = model(pixel_values=pixel_values, bool_masked_pos=bool_masked_pos).logits
    patch_size = as_height_and_width(config.patch_size)
    described = (config.tubelet_size, patch_size, options.reconstruction_target, options.norm_pix_loss)
    targets = reconstruction_targets(pixel_values, *described)
    # Stable: visible tokens come first, masked ones after them in raster order.
    masked = bool_masked_pos.long().argsort(dim=1, stable=True)[:, -predictions.shape[1] :]
    losses = reconstruction_losses(
        predictions,
        take_tokens(targets, masked),
        config.tubelet_size,
        options.reconstruction_target,
        options.motion_loss_weight,
    )
    return predictions, losses, targets
