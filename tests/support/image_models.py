"""Image models of transformers at toy size, by model type, for 64 x 64 pixels."""

SIDE = 64

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": 16,
}
CONVOLUTIONS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWS = {
    "embed_dim": 8,
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "image_size": SIDE,
    "patch_size": 4,
}
DINOV2 = {name: value for name, value in VIT.items() if name != "intermediate_size"}
SIGLIP2 = {name: value for name, value in VIT.items() if name != "image_size"}

IMAGE_MODELS = {
    "beit": VIT,
    "clip_vision_model": VIT,
    "convnextv2": CONVOLUTIONS,
    "deit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_convnext": CONVOLUTIONS,
    "dinov3_vit": VIT | {"num_register_tokens": 4},
    "mobilenet_v2": {"depth_multiplier": 0.25, "finegrained_output": False, "image_size": SIDE},
    "regnet": CONVOLUTIONS | {"embedding_size": 8, "groups_width": 4},
    "resnet": CONVOLUTIONS | {"embedding_size": 8, "layer_type": "basic"},
    "siglip2_vision_model": SIGLIP2 | {"num_patches": 16},
    "siglip_vision_model": VIT,
    "swinv2": WINDOWS,
    "vit": VIT,
    "vit_mae": VIT,
}
# Rows and columns of the feature map: the picture's side over the last stage's stride, or over the patch.
FEATURE_MAPS = dict.fromkeys(IMAGE_MODELS, 4) | dict.fromkeys(
    ("convnextv2", "dinov3_convnext", "mobilenet_v2", "regnet", "resnet"), 2
)


def describe_image_model(model_type: str, **changes: object) -> dict[str, object]:
    """A `backbone_config`."""
    return {"model_type": model_type, **IMAGE_MODELS[model_type], **changes}
