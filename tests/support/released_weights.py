"""State dicts as released checkpoints hold them, with random weights."""

import torch


def draw_marlin(width: int = 64, depth: int = 2, hidden: int = 256, positions: int = 8) -> dict[str, torch.Tensor]:
    """The state dict of a `MarlinEncoder` of marlin-pytorch, drawn in the order of its parameters."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.projection.weight": (width, 3, 2, 16, 16),
        "patch_embedding.projection.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for number in range(depth):
        shapes |= {
            f"blocks.{number}.norm1.weight": (width,),
            f"blocks.{number}.norm1.bias": (width,),
            f"blocks.{number}.attn.q_bias": (width,),
            f"blocks.{number}.attn.v_bias": (width,),
            f"blocks.{number}.attn.qkv.weight": (3 * width, width),
            f"blocks.{number}.attn.proj.weight": (width, width),
            f"blocks.{number}.attn.proj.bias": (width,),
            f"blocks.{number}.norm2.weight": (width,),
            f"blocks.{number}.norm2.bias": (width,),
            f"blocks.{number}.mlp.layers.0.linear.weight": (hidden, width),
            f"blocks.{number}.mlp.layers.0.linear.bias": (hidden,),
            f"blocks.{number}.mlp.layers.1.linear.weight": (width, hidden),
            f"blocks.{number}.mlp.layers.1.linear.bias": (width,),
        }
    weights, generator = {}, torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        is_norm_weight = "norm" in name and name.endswith("weight")
        scale = torch.Size(shape[1:]).numel() ** 0.5 if len(shape) > 1 else 10
        weights[name] = 1 + 0.1 * values if is_norm_weight else values / scale
    channels = torch.arange(width)
    angles = torch.arange(positions)[:, None] / 10000 ** (2 * (channels // 2) / width)
    weights["pos_embedding.emb"] = torch.where(channels % 2 == 0, angles.sin(), angles.cos())[None]
    return weights
