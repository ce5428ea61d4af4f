"""Conversion of released checkpoints: outputs against a literal statement in the released names, and every refusal."""

import argparse
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.masked_tubelets import stratified_tube_mask
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.release.convert import (
    CheckpointConversionError,
    ConversionOptions,
    convert_checkpoint,
)
from tests.support.released_weights import draw_marlin

# The released depths (so that the numbers of keys are the released ones) at small widths, on 16 x 32 x 32 clips.
WIDTH, HIDDEN, DECODER_WIDTH, DECODER_HIDDEN, CLASSES = 128, 96, 64, 80, 7
GRID, REGION = (8, 2, 2), (2, 1, 2)
MASK = stratified_tube_mask(GRID, REGION, 0.5, 2, torch.Generator().manual_seed(3))

Weights = dict[str, torch.Tensor]


class Drawn(dict):
    """A released state dict under construction: `add` draws a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def add(self, name: str, *shape: int) -> None:
        values = torch.randn(*shape, generator=self.generator)
        is_norm_weight = "norm" in name and name.endswith("weight")
        self[name] = 1 + 0.1 * values if is_norm_weight else values / (shape[-1] ** 0.5 if len(shape) > 1 else 10)

    def add_linear(self, name: str, outputs: int, inputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs)

    def add_norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width)
        self.add(f"{name}.bias", width)


def draw_embedding(weights: Drawn, prefix: str) -> None:
    weights.add(f"{prefix}patch_embed.proj.weight", WIDTH, 3, 2, 16, 16)
    weights[f"{prefix}patch_embed.proj.weight"] /= 10
    weights.add(f"{prefix}patch_embed.proj.bias", WIDTH)


def draw_vit_block(weights: Drawn, name: str, width: int, hidden: int) -> None:
    weights.add_norm(f"{name}.norm1", width)
    weights.add(f"{name}.attn.q_bias", width)
    weights.add(f"{name}.attn.v_bias", width)
    weights.add(f"{name}.attn.qkv.weight", 3 * width, width)
    weights.add_linear(f"{name}.attn.proj", width, width)
    weights.add_norm(f"{name}.norm2", width)
    weights.add_linear(f"{name}.mlp.fc1", hidden, width)
    weights.add_linear(f"{name}.mlp.fc2", width, hidden)


def draw_context_attention(weights: Drawn, name: str) -> None:
    weights.add(f"{name}.q_bias", WIDTH)
    weights.add(f"{name}.v_bias", WIDTH)
    weights.add(f"{name}.q.weight", WIDTH, WIDTH)
    weights.add(f"{name}.kv.weight", 2 * WIDTH, WIDTH)
    weights.add_linear(f"{name}.proj", WIDTH, WIDTH)


def draw_lgi_block(weights: Drawn, name: str) -> None:
    for norm in ("first_attn_norm0", "second_attn_norm0", "third_attn_norm0", "third_attn_norm1", "norm2"):
        weights.add_norm(f"{name}.{norm}", WIDTH)
    for attention in ("first_attn", "second_attn", "third_attn"):
        draw_context_attention(weights, f"{name}.{attention}")
    weights.add_linear(f"{name}.mlp.fc1", HIDDEN, WIDTH)
    weights.add_linear(f"{name}.mlp.fc2", WIDTH, HIDDEN)


def draw_head(weights: Drawn, norm: str = "fc_norm") -> None:
    weights.add_norm(norm, WIDTH)
    weights.add_linear("head", CLASSES, WIDTH)


def draw_decoder(weights: Drawn) -> None:
    weights.add_norm("encoder.norm", WIDTH)
    for depth in range(4):
        draw_vit_block(weights, f"decoder.blocks.{depth}", DECODER_WIDTH, DECODER_HIDDEN)
    weights.add_norm("decoder.norm", DECODER_WIDTH)
    weights.add_linear("decoder.head", 1536, DECODER_WIDTH)
    weights.add("encoder_to_decoder.weight", DECODER_WIDTH, WIDTH)
    weights.add("mask_token", 1, 1, DECODER_WIDTH)


def draw_videomae(pre_training: bool, norm: str = "fc_norm") -> Weights:
    weights, prefix = Drawn(), "encoder." if pre_training else ""
    draw_embedding(weights, prefix)
    for depth in range(12):
        draw_vit_block(weights, f"{prefix}blocks.{depth}", WIDTH, HIDDEN)
    draw_decoder(weights) if pre_training else draw_head(weights, norm)
    return dict(weights)


def draw_mae_dfer(pre_training: bool) -> Weights:
    weights, prefix = Drawn(), "encoder." if pre_training else ""
    weights.add(f"{prefix}lg_region_tokens", 8, WIDTH)
    draw_embedding(weights, prefix)
    for depth in range(16):
        draw_lgi_block(weights, f"{prefix}blocks.{depth}")
    draw_decoder(weights) if pre_training else draw_head(weights)
    return dict(weights)


def draw_svfap(pre_training: bool) -> Weights:
    weights, prefix = Drawn(), "encoder." if pre_training else ""
    draw_embedding(weights, prefix)
    for depth in range(21):
        name = f"{prefix}blocks.{depth}"
        draw_vit_block(weights, name, WIDTH, HIDDEN)
        if depth >= 12:
            draw_context_attention(weights, f"{name}.cross_attn")
            weights.add_norm(f"{name}.cross_norm1", WIDTH)
            weights.add_norm(f"{name}.cross_norm2", WIDTH)
    for stage in range(2):
        weights.add(f"{prefix}temporal_downsamples.{stage}.weight", WIDTH, WIDTH, 2)
        weights[f"{prefix}temporal_downsamples.{stage}.weight"] /= WIDTH**0.5
        weights.add(f"{prefix}temporal_downsamples.{stage}.bias", WIDTH)
        weights.add_norm(f"{prefix}spatial_downsamples.{stage}.norm", WIDTH)
        weights.add_linear(f"{prefix}spatial_downsamples.{stage}.mlp.fc1", 24, WIDTH)
        weights.add_linear(f"{prefix}spatial_downsamples.{stage}.mlp.fc2", 3, 24)
    draw_decoder(weights) if pre_training else draw_head(weights)
    return dict(weights)


# ------------------------------------------------------- the released models, stated in their own names


def norm(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]


def mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention with heads of 64 channels on one sequence after another."""
    q, k, v = (x.unflatten(-1, (-1, 64)) for x in (q, k, v))
    scores = torch.einsum("...qhc,...khc->...hqk", q, k) / 8
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("...hqk,...khc->...qhc", weights, v).flatten(-2)


def mlp(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    hidden = linear(x, weights, f"{name}.mlp.fc1")
    return linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, weights, f"{name}.mlp.fc2")


def vit_block(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    zero = torch.zeros_like(weights[f"{name}.attn.q_bias"])
    bias = torch.cat([weights[f"{name}.attn.q_bias"], zero, weights[f"{name}.attn.v_bias"]])
    qkv = torch.einsum("...i,oi->...o", norm(x, weights, f"{name}.norm1"), weights[f"{name}.attn.qkv.weight"]) + bias
    x = x + linear(mix(*qkv.chunk(3, dim=-1)), weights, f"{name}.attn.proj")
    return x + mlp(norm(x, weights, f"{name}.norm2"), weights, name)


def attend(x: torch.Tensor, context: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    q = torch.einsum("...i,oi->...o", x, weights[f"{name}.q.weight"]) + weights[f"{name}.q_bias"]
    k, v = torch.einsum("...i,oi->...o", context, weights[f"{name}.kv.weight"]).chunk(2, dim=-1)
    return linear(mix(q, k, v + weights[f"{name}.v_bias"]), weights, f"{name}.proj")


def lgi_block(regions: list[torch.Tensor], weights: Weights, name: str) -> list[torch.Tensor]:
    """Regions of one clip, each (1 + n, D) with its representative token first."""
    for number, x in enumerate(regions):
        normed = norm(x, weights, f"{name}.first_attn_norm0")
        regions[number] = x + attend(normed, normed, weights, f"{name}.first_attn")
    among = torch.stack([x[0] for x in regions])
    normed = norm(among, weights, f"{name}.second_attn_norm0")
    among = among + attend(normed, normed, weights, f"{name}.second_attn")
    context = norm(among, weights, f"{name}.third_attn_norm1")
    updated = []
    for number, x in enumerate(regions):
        query = norm(x[1:], weights, f"{name}.third_attn_norm0")
        local = x[1:] + attend(query, context, weights, f"{name}.third_attn")
        x = torch.cat([among[number : number + 1], local])
        updated.append(x + mlp(norm(x, weights, f"{name}.norm2"), weights, name))
    return updated


def positions(width: int) -> torch.Tensor:
    index = torch.arange(32, dtype=torch.float64)[:, None]
    angle = index / 10000.0 ** (2 * torch.div(torch.arange(width), 2, rounding_mode="floor") / width)
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()


def embed(clip: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    """One clip (T, C, H, W) -> (32, D)."""
    kernel, bias = weights[f"{prefix}patch_embed.proj.weight"], weights[f"{prefix}patch_embed.proj.bias"]
    tokens = []
    for t, h, w in itertools.product(range(8), range(2), range(2)):
        cube = clip[2 * t : 2 * t + 2, :, 16 * h : 16 * h + 16, 16 * w : 16 * w + 16]
        tokens.append(torch.einsum("tcyx,dctyx->d", cube, kernel) + bias)
    return torch.stack(tokens) + positions(WIDTH)


def released_videomae(clip: torch.Tensor, weights: Weights) -> torch.Tensor:
    x = embed(clip, weights, "")
    for depth in range(12):
        x = vit_block(x, weights, f"blocks.{depth}")
    pooled = norm(x, weights, "norm")[0] if "norm.weight" in weights else norm(x.mean(0), weights, "fc_norm")
    return linear(pooled, weights, "head")


def run_lgi_blocks(tokens: torch.Tensor, places: list[int], weights: Weights, prefix: str) -> list[torch.Tensor]:
    """Tokens at raster places -> regions of (1 + n, D)."""
    grid = list(itertools.product(*(range(size) for size in GRID)))
    regions = []
    for number, (t, h) in enumerate(itertools.product(range(4), range(2))):
        inside = [i for i, place in enumerate(places) if grid[place][0] // 2 == t and grid[place][1] == h]
        regions.append(torch.cat([weights[f"{prefix}lg_region_tokens"][number : number + 1], tokens[inside]]))
    for depth in range(16):
        regions = lgi_block(regions, weights, f"{prefix}blocks.{depth}")
    return regions


def released_mae_dfer(clip: torch.Tensor, weights: Weights) -> torch.Tensor:
    regions = run_lgi_blocks(embed(clip, weights, ""), list(range(32)), weights, "")
    pooled = torch.stack([x[0] for x in regions]).mean(0)
    return linear(norm(pooled, weights, "fc_norm"), weights, "head")


def cross_block(x: torch.Tensor, context: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    query, context = norm(x, weights, f"{name}.cross_norm1"), norm(context, weights, f"{name}.cross_norm2")
    return vit_block(x + attend(query, context, weights, f"{name}.cross_attn"), weights, name)


def released_pyramid(clip: torch.Tensor, weights: Weights, prefix: str = "") -> torch.Tensor:
    """One clip (T, C, H, W) -> (2 tubelets * 4 places, D)."""
    x = embed(clip, weights, prefix)
    for depth in range(12):
        x = vit_block(x, weights, f"{prefix}blocks.{depth}")
    for stage, blocks in enumerate((range(12, 18), range(18, 21))):
        kernel = weights[f"{prefix}temporal_downsamples.{stage}.weight"]
        pairs = [(x[8 * t : 8 * t + 4], x[8 * t + 4 : 8 * t + 8]) for t in range(len(x) // 8)]
        slots = [first @ kernel[:, :, 0].T + second @ kernel[:, :, 1].T for first, second in pairs]
        slots = [slot + weights[f"{prefix}temporal_downsamples.{stage}.bias"] for slot in slots]
        summaries = []
        for slot in slots:
            name = f"{prefix}spatial_downsamples.{stage}"
            scores = mlp(norm(slot, weights, f"{name}.norm"), weights, name)
            shares = scores.exp() / scores.exp().sum(0)
            summaries += [(shares[:, token : token + 1] * slot).sum(0) for token in range(3)]
        x, bottleneck = torch.cat(slots), torch.stack(summaries)
        for depth in blocks[:-1]:
            bottleneck = cross_block(bottleneck, x, weights, f"{prefix}blocks.{depth}")
        x = cross_block(x, bottleneck, weights, f"{prefix}blocks.{blocks[-1]}")
    return x


def released_svfap(clip: torch.Tensor, weights: Weights) -> torch.Tensor:
    return linear(norm(released_pyramid(clip, weights).mean(0), weights, "fc_norm"), weights, "head")


def released_decoder(encoded: torch.Tensor, mask: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Encoded visible tokens as they come, with decoder positions of the visible places in raster order."""
    table = positions(DECODER_WIDTH)
    x = torch.einsum("ni,oi->no", norm(encoded, weights, "encoder.norm"), weights["encoder_to_decoder.weight"])
    x = torch.cat([x + table[~mask], weights["mask_token"][0] + table[mask]])
    for depth in range(4):
        x = vit_block(x, weights, f"decoder.blocks.{depth}")
    return linear(norm(x[(~mask).sum() :], weights, "decoder.norm"), weights, "decoder.head")


def released_pre_training(clip: torch.Tensor, mask: torch.Tensor, weights: Weights) -> torch.Tensor:
    visible = embed(clip, weights, "encoder.")[~mask]
    if "encoder.lg_region_tokens" in weights:
        regions = run_lgi_blocks(visible, (~mask).nonzero()[:, 0].tolist(), weights, "encoder.")
        # As released: region after region, whereas the positions are in raster order.
        visible = torch.cat([x[1:] for x in regions])
    else:
        for depth in range(12):
            visible = vit_block(visible, weights, f"encoder.blocks.{depth}")
    return released_decoder(visible, mask, weights)


# ------------------------------------------------------------------------------------------------------ the tests


def draw_clips() -> torch.Tensor:
    return torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def convert(weights: Weights, tmp_path: Path, **options: object) -> dict:
    torch.save({"model": weights, "epoch": 99, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "released.pth")
    regions = {"region_size": REGION} if any("lg_region" in key for key in weights) else {}
    untold = ConversionOptions(**({"image_size": 32} | regions | options))
    return convert_checkpoint(tmp_path / "released.pth", tmp_path / "out", untold)


@pytest.mark.parametrize(
    ("draw", "state", "keys"),
    [
        (draw_videomae, released_videomae, 162),
        (lambda pre_training: draw_videomae(pre_training, norm="norm"), released_videomae, 162),
        (draw_mae_dfer, released_mae_dfer, 519),
        (draw_svfap, released_svfap, 385),
    ],
    ids=["videomae", "videomae_first_token", "mae_dfer", "svfap"],
)
def test_converted_classifier_equals_the_literal_statement(draw, state, keys: int, tmp_path: Path) -> None:
    weights = draw(False)
    assert len(weights) == keys
    report = convert(weights, tmp_path)
    assert report["num_keys"] == keys and report["placed"].keys() == weights.keys()
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(draw_clips()).logits
    expected = torch.stack([state(clip, weights) for clip in draw_clips()])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("draw", "keys"), [(draw_videomae, 218), (draw_mae_dfer, 575)], ids=["videomae", "mae_dfer"])
def test_converted_pre_training_model_equals_the_literal_statement(draw, keys: int, tmp_path: Path) -> None:
    weights = draw(True)
    assert len(weights) == keys
    report = convert(weights, tmp_path)
    assert report["num_keys"] == keys and report["placed"].keys() == weights.keys()
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(draw_clips(), MASK).logits
    expected = [released_pre_training(clip, mask, weights) for clip, mask in zip(draw_clips(), MASK, strict=True)]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_encoder_of_svfaps_pre_training_is_converted_and_its_decoder_named(tmp_path: Path) -> None:
    weights = draw_svfap(True)
    assert len(weights) == 441
    report = convert(weights, tmp_path)
    assert report["model_class"] == "TPSBTModel" and report["placed"].keys() == weights.keys()
    set_aside = {key for key, targets in report["placed"].items() if not targets}
    rest = ("decoder.", "encoder_to_decoder.", "mask_token", "encoder.norm.")
    assert set_aside == {key for key in weights if key.startswith(rest)}
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        tokens = model(draw_clips()).last_hidden_state
    expected = torch.stack([released_pyramid(clip, weights, "encoder.") for clip in draw_clips()])
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("draw", [draw_videomae, draw_mae_dfer, draw_svfap])
@pytest.mark.parametrize("pre_training", [False, True])
def test_converted_encoder_goes_under_the_cascade_with_its_biases(draw, pre_training: bool, tmp_path: Path) -> None:
    weights = draw(pre_training)
    convert(weights, tmp_path)
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "out", decoder_num_layers=1)
    model.save_pretrained(tmp_path / "cascade")
    model = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "cascade")
    prefix = "encoder." if pre_training else ""
    name = f"{prefix}blocks.11.first_attn.v_bias" if draw is draw_mae_dfer else f"{prefix}blocks.11.attn.v_bias"
    biases = [value for key, value in model.encoder.state_dict().items() if key.endswith("value.bias")]
    assert any(torch.equal(weights[name], bias) for bias in biases)


def test_report_names_every_key_with_its_place(tmp_path: Path) -> None:
    report = convert(draw_mae_dfer(False), tmp_path, labels=list("abcdefg"))
    assert json.loads((tmp_path / "out" / "conversion_report.json").read_text()) == report
    assert report["placed"]["blocks.3.second_attn.kv.weight"] == [
        "lgi_former.layers.3.representative_attention.key.weight",
        "lgi_former.layers.3.representative_attention.value.weight",
    ]
    config = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == dict(enumerate("abcdefg"))


def test_sizes_of_released_width_are_read_off_the_tensors(tmp_path: Path) -> None:
    weights = {key: value for key, value in draw_mae_dfer(True).items() if ".blocks." not in key}
    for number in range(2):
        block = Drawn()
        draw_lgi_block(block, f"encoder.blocks.{number}")
        weights |= block
    draw_vit_block(block := Drawn(), "decoder.blocks.0", DECODER_WIDTH, DECODER_HIDDEN)
    convert(weights | block, tmp_path, image_size=None, region_size=None, heads=4)
    config = AutoModelForPreTraining.from_pretrained(tmp_path / "out").config
    assert (config.image_size, config.region_size, config.num_regions) == (160, [2, 5, 10], 8)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 2, 4)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (64, 1)
    assert config.decoder_num_attention_heads == 1
    assert (config.intermediate_size, config.decoder_intermediate_size) == (96, 80)
    assert config.released_decoder_order is True


def wrap_bare(weights: Weights) -> dict:
    return weights


def wrap_module(weights: Weights) -> dict:
    return {"module": weights}


def wrap_parallel(weights: Weights) -> dict:
    return {"model": {f"module.{key}": value for key, value in weights.items()}}


@pytest.mark.parametrize("wrap", [wrap_bare, wrap_module, wrap_parallel])
def test_every_container_gives_the_same_model(wrap, tmp_path: Path) -> None:
    weights = draw_videomae(False)
    torch.save(wrap(weights), tmp_path / "wrapped.pt")
    save_file(weights, tmp_path / "wrapped.safetensors")
    for name in ("wrapped.pt", "wrapped.safetensors"):
        report = convert_checkpoint(tmp_path / name, tmp_path / f"{name}.out", ConversionOptions(image_size=32))
        assert report["num_keys"] == 162


# ------------------------------------------------------------------------------------------------------ bad input


def test_missing_unknown_and_misshapen_keys_are_all_named(tmp_path: Path) -> None:
    weights = draw_mae_dfer(False)
    del weights["blocks.2.third_attn.kv.weight"], weights["fc_norm.bias"]
    weights["blocks.0.gamma_1"] = torch.ones(WIDTH)
    weights["blocks.5.mlp.fc2.weight"] = torch.ones(WIDTH, HIDDEN + 1)
    with pytest.raises(CheckpointConversionError) as caught:
        convert(weights, tmp_path)
    message = str(caught.value)
    assert "released.pth" in message and "MAE-DFER" in message
    assert "2 missing: blocks.2.third_attn.kv.weight, fc_norm.bias" in message
    assert "1 unknown: blocks.0.gamma_1" in message
    assert "1 misshapen: blocks.5.mlp.fc2.weight (128, 97) instead of (128, 96)" in message
    assert not (tmp_path / "out").exists()


def test_a_lost_block_is_named_key_by_key(tmp_path: Path) -> None:
    weights = {key: value for key, value in draw_videomae(False).items() if not key.startswith("blocks.4.")}
    with pytest.raises(CheckpointConversionError, match="13 missing: blocks.4.norm1.weight, .*blocks.4.mlp.fc2.bias"):
        convert(weights, tmp_path)


def test_regions_that_contradict_the_image_size_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointConversionError, match=r"region_size=\[2, 5, 10\]: does not divide the token grid"):
        convert(draw_mae_dfer(False), tmp_path, region_size=None)
    with pytest.raises(CheckpointConversionError, match=r"lg_region_tokens \(8, 128\) instead of \(16, 128\)"):
        convert(draw_mae_dfer(False), tmp_path, region_size=(1, 1, 2))


def test_stages_that_contradict_the_blocks_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointConversionError, match=r"holds 21 blocks and the stages \[12, 6\]"):
        convert(draw_svfap(False), tmp_path, stage_depths=(12, 6))
    with pytest.raises(CheckpointConversionError, match="missing: blocks.11.cross_norm1.weight"):
        convert(draw_svfap(False), tmp_path, stage_depths=(11, 7, 3))


def test_a_number_of_labels_that_contradicts_the_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointConversionError, match="2 labels are given for the 7 classes"):
        convert(draw_videomae(False), tmp_path, labels=["a", "b"])


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    weights = {"layer1.weight": torch.ones(2), "layer2.weight": torch.ones(2)}
    with pytest.raises(CheckpointConversionError, match="none of .* the first are layer1.weight, layer2.weight"):
        convert(weights, tmp_path)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": draw_videomae(False), "args": Payload()}, tmp_path / "payload.pth")
    with pytest.raises(CheckpointConversionError, match=r"would call \w+.mkdir.*--allow-pickle"):
        convert_checkpoint(tmp_path / "payload.pth", tmp_path / "out", ConversionOptions(image_size=32))
    assert not (tmp_path / "ran").exists()
    convert_checkpoint(tmp_path / "payload.pth", tmp_path / "out", ConversionOptions(image_size=32), allow_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "there is no such file"),
        ("empty.pth", b"", "no readable checkpoint"),
        ("text.pth", b"no checkpoint at all", "no readable checkpoint"),
        ("torn.pth", b"PK\x03\x04torn", "no readable checkpoint"),
        ("torn.safetensors", b"torn", "no readable checkpoint"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointConversionError, match=f"{name}: .*{message}") as caught:
        convert_checkpoint(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"epoch": 3}, [torch.ones(1)]])
def test_files_without_weights_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointConversionError, match="holds no weights|are no tensors: epoch"):
        convert_checkpoint(tmp_path / "odd.pth", tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointConversionError, match="not an empty folder"):
        convert(draw_videomae(False), tmp_path)


def test_command_converts_and_prints_every_key(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"module": draw_mae_dfer(False)}, tmp_path / "released.pth")
    sizes = ["--image-size", "32", "--region-size", "2", "1", "2"]
    assert mtcae(["convert", str(tmp_path / "released.pth"), str(tmp_path / "out"), *sizes]) == 0
    printed = capsys.readouterr().out
    assert "blocks.0.first_attn.q_bias -> lgi_former.layers.0.region_attention.query.bias" in printed
    assert "MAE-DFER: all 519 keys have their place" in printed


# ---------------------------------------------------------------------------------------------- MARLIN and S4D


def in_full_model(weights: Weights) -> Weights:
    full = {f"encoder.{name}": weight for name, weight in weights.items()}
    return full | {"enc_dec_proj.weight": torch.zeros(32, 64), "decoder.mask_token": torch.zeros(1, 1, 32)}


MARLIN_SIZES = ConversionOptions(image_size=32, num_frames=4)
# Of marlin-pytorch 0.3.4's `MarlinEncoder(img_size=32, n_frames=4, embed_dim=64, depth=2, num_heads=1, qkv_bias=True)`
# with these weights, `extract_features(clips, seq_mean_pool=False)`: the first values of the first token, the last of
# the last, and the sums of all values and of their sizes.
MARLIN_FIRST = [0.109133, -0.979446, -1.37122, 0.741046, -0.038087, 0.185063]
MARLIN_LAST = [-0.646105, 2.222697, -0.999008, 0.520879, 0.085496, -0.93536]
MARLIN_SUMS = (-2.5135, 417.7322)


@pytest.mark.parametrize("full", [False, True])
@torch.no_grad()
def test_a_converted_marlin_gives_what_its_own_package_gives(full: bool, tmp_path: Path) -> None:
    weights = in_full_model(draw_marlin()) if full else draw_marlin()
    torch.save(weights, tmp_path / "marlin.pt")
    report = convert_checkpoint(tmp_path / "marlin.pt", tmp_path / "out", MARLIN_SIZES)
    assert report["architecture"] == "MARLIN" and report["num_keys"] == len(weights)
    assert set(report["placed"]) == set(weights)
    clips = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    tokens = AutoModel.from_pretrained(tmp_path / "out").eval()(clips).last_hidden_state
    torch.testing.assert_close(tokens[0, 0, :6], torch.tensor(MARLIN_FIRST), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[0, -1, -6:], torch.tensor(MARLIN_LAST), atol=1e-5, rtol=0)
    assert abs(tokens.double().sum().item() - MARLIN_SUMS[0]) < 1e-3
    assert abs(tokens.double().abs().sum().item() - MARLIN_SUMS[1]) < 1e-3
    # It was trained on colours in [0, 1].
    stored = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert stored["image_mean"] == [0, 0, 0] and stored["image_std"] == [1, 1, 1]
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "out", decoder_num_layers=1).eval()
    assert torch.equal(model.encoder(clips).last_hidden_state, tokens)


@pytest.mark.parametrize(
    ("options", "spoil", "told"),
    [
        (ConversionOptions(), {}, "pos_embedding.emb holds 8 positions, .* give --image-size or --num-frames"),
        (MARLIN_SIZES, {"pos_embedding.emb": torch.zeros(1, 8, 64)}, "is not the table of sinusoids"),
        (MARLIN_SIZES, {"blocks.0.gamma_1": torch.ones(64)}, "1 unknown: blocks.0.gamma_1"),
    ],
)
def test_a_marlin_that_does_not_fit_is_refused(options, spoil: Weights, told: str, tmp_path: Path) -> None:
    torch.save(draw_marlin() | spoil, tmp_path / "marlin.pt")
    with pytest.raises(CheckpointConversionError, match=told):
        convert_checkpoint(tmp_path / "marlin.pt", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_s4d_is_videomae_behind_its_prefix_and_head_for_videos(tmp_path: Path) -> None:
    plain = draw_videomae(pre_training=False)
    renamed = {
        name.replace("head.", "head.video.") if name.startswith("head.") else f"backbone.{name}": weight
        for name, weight in plain.items()
    }
    renamed |= {f"head.image.{kind}": torch.zeros(1) for kind in ("weight", "bias")}
    torch.save({"module": renamed}, tmp_path / "s4d.pt")
    torch.save(plain, tmp_path / "videomae.pt")
    report = convert_checkpoint(tmp_path / "s4d.pt", tmp_path / "s4d")
    convert_checkpoint(tmp_path / "videomae.pt", tmp_path / "videomae", ConversionOptions(image_size=160))
    assert report["architecture"] == "S4D" and set(report["placed"]) == set(renamed)
    assert report["placed"]["head.image.weight"] == []
    ours, theirs = (AutoModelForVideoClassification.from_pretrained(tmp_path / name) for name in ("s4d", "videomae"))
    assert ours.config.image_size == 160 and not (tmp_path / "s4d" / "preprocessor_config.json").exists()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name


def test_an_encoder_of_s4d_without_a_head_is_a_base_model(tmp_path: Path) -> None:
    plain = draw_videomae(pre_training=False)
    encoder = {f"backbone.{name}": weight for name, weight in plain.items() if not name.startswith(("head", "fc_norm"))}
    torch.save({"model": encoder}, tmp_path / "s4d.pt")
    report = convert_checkpoint(tmp_path / "s4d.pt", tmp_path / "s4d")
    assert report["model_class"] == "VideoMAEModel"
    assert (
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "s4d", decoder_num_layers=1).config.num_frames == 16
    )
