"""Any image model of transformers frame by frame: its map as the grid, layers over time, and nothing untrained."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, ResNetModel, ViTModel
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from mtcae_dfer import FrameBackboneConfig, FrameBackboneModel, MTCAEConfig, MTCAEForMultiTaskVideo
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.image_models import FEATURE_MAPS, IMAGE_MODELS, SIDE, describe_image_model
from tests.support.tiny_models import randomise

FRAMES = 3
DECODERS = {
    "decoder_hidden_size": 20,
    "decoder_num_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_head_dim": 8,
}


def config_of(model_type: str, **overrides: object) -> FrameBackboneConfig:
    sizes = {"image_size": SIDE, "num_frames": FRAMES, "num_temporal_attention_heads": 2}
    return FrameBackboneConfig(backbone_config=describe_image_model(model_type), **sizes | overrides)


def encoder_of(model_type: str, **overrides: object) -> FrameBackboneModel:
    torch.manual_seed(0)
    return randomise(FrameBackboneModel(config_of(model_type, **overrides))).eval()


def whole_model_of(model_type: str, **overrides: object) -> MTCAEForMultiTaskVideo:
    torch.manual_seed(0)
    config = MTCAEConfig(encoder_config=config_of(model_type, **overrides), **DECODERS)
    return randomise(MTCAEForMultiTaskVideo(config)).eval()


def clips(batch: int = 2, frames: int = FRAMES, side: int = SIDE) -> torch.Tensor:
    return torch.randn(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def labels(batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "labels": torch.arange(batch),
        "face_boxes": torch.full((batch, FRAMES, 4), 0.5),
        "face_landmarks": torch.full((batch, FRAMES, 5, 2), 0.5),
    }


def time_positions(num_frames: int, width: int) -> torch.Tensor:
    """By hand: sines on even channels, cosines on odd ones; (T, 1, D)."""
    table = torch.zeros(num_frames, 1, width)
    for frame in range(num_frames):
        for channel in range(width):
            angle = frame / 10000 ** (2 * (channel // 2) / width)
            table[frame, 0, channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    return table


# ---------------------------------------------------------------------------------------------------------------
# Every image model


def make_convolutions_average(model: torch.nn.Module) -> None:
    """Each about its middle: through fresh small weights, and norms not fitted to them, nothing gets to the end."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = torch.rand_like(module.weight)
            rows, columns = weight.shape[2:]
            weight[:, :, rows // 2, columns // 2] += rows * columns
            module.weight.copy_(weight / weight.sum(dim=(1, 2, 3), keepdim=True))


@pytest.mark.parametrize("model_type", IMAGE_MODELS)
@torch.no_grad()
def test_a_bright_patch_moves_the_token_of_its_place_most(model_type: str) -> None:
    torch.manual_seed(0)
    model = FrameBackboneModel(config_of(model_type)).eval()
    brightness = 3.0
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
        make_convolutions_average(model)
        brightness = 0.003  # sums of residual branches grow; the largest activation of some is 6
    side = FEATURE_MAPS[model_type]
    assert model.config.token_grid == (FRAMES, side, side)
    pixels, step = 0.03 * brightness * clips(batch=1), SIDE // side
    before = model(pixels).last_hidden_state
    assert before.shape == (1, FRAMES * side * side, model.config.hidden_size)
    for frame, row, column in ((0, 0, 1), (1, side - 1, 0), (2, side // 2, side - 1)):
        brighter = pixels.clone()
        brighter[:, frame, :, row * step : (row + 1) * step, column * step : (column + 1) * step] += brightness
        moved = (model(brighter).last_hidden_state - before).norm(dim=-1)[0]
        assert moved.argmax() == (frame * side + row) * side + column
        others = moved.reshape(FRAMES, -1)[[other for other in range(FRAMES) if other != frame]]
        assert others.abs().max() < 1e-5


@pytest.mark.parametrize("model_type", IMAGE_MODELS)
def test_every_weight_takes_a_gradient_and_every_name_is_the_plain_models(model_type: str) -> None:
    model = encoder_of(model_type, num_temporal_layers=1).train()
    model(clips()).last_hidden_state.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    plain = AutoModel.from_config(AutoConfig.for_model(model_type, **IMAGE_MODELS[model_type]))
    assert set(model.backbone.state_dict()) == set(plain.state_dict())
    model.backbone.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("model_type", IMAGE_MODELS)
@torch.no_grad()
def test_whole_models_save_load_and_attend_alike(model_type: str, tmp_path: Path) -> None:
    model = whole_model_of(model_type, num_temporal_layers=1)
    model.save_pretrained(tmp_path)
    again, report = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    eager = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, attn_implementation="eager")
    expected = model(clips())
    assert torch.equal(again(clips()).logits, expected.logits)
    torch.testing.assert_close(eager(clips()).face_boxes, expected.face_boxes, atol=1e-5, rtol=1e-5)
    for loaded in (again, eager):
        kept = dict(model.named_buffers())
        assert all(torch.equal(buffer, kept[name]) for name, buffer in loaded.named_buffers())


@torch.no_grad()
def test_a_way_of_attending_may_be_asked_of_a_model_over_one_without_attention(tmp_path: Path) -> None:
    model = whole_model_of("resnet", num_temporal_layers=1)
    model.save_pretrained(tmp_path / "resnet")
    asked = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "resnet", attn_implementation="sdpa")
    assert asked.config._attn_implementation == "sdpa"
    assert torch.equal(asked(clips()).logits, model(clips()).logits)
    # What does attend, and not in this way, is still refused.
    whole_model_of("swinv2").save_pretrained(tmp_path / "swinv2")
    with pytest.raises(ValueError, match="does not support"):
        MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "swinv2", attn_implementation="sdpa")


# ---------------------------------------------------------------------------------------------------------------
# What the tokens are


@torch.no_grad()
def test_tokens_of_a_vit_are_its_patch_tokens_plus_time() -> None:
    model = encoder_of("vit")
    plain = ViTModel(model.config.backbone_config).eval()
    plain.load_state_dict(model.backbone.state_dict())
    for frame in range(FRAMES):
        alone = plain(clips()[:, frame]).last_hidden_state[:, 1:]
        expected = alone + time_positions(FRAMES, 32)[frame]
        actual = model(clips()).last_hidden_state.unflatten(1, (FRAMES, 16))[:, frame]
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_a_resnet_are_its_feature_map_plus_time() -> None:
    model = encoder_of("resnet")
    plain = ResNetModel(model.config.backbone_config).eval()
    plain.load_state_dict(model.backbone.state_dict())
    feature_map = plain(clips()[0]).last_hidden_state  # (T, 32, 2, 2)
    tokens = model(clips()).last_hidden_state[0]
    for frame in range(FRAMES):
        for row in range(2):
            for column in range(2):
                expected = feature_map[frame, :, row, column] + time_positions(FRAMES, 32)[frame, 0]
                torch.testing.assert_close(tokens[frame * 4 + row * 2 + column], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_siglip_2_gets_the_patches_of_its_own_processor() -> None:
    model = encoder_of("siglip2_vision_model")
    pictures = clips()[0]
    patches = torch.stack([convert_image_to_patches(picture, 16) for picture in pictures])
    mask, shapes = torch.ones(FRAMES, 16, dtype=torch.long), torch.tensor([[4, 4]] * FRAMES)
    plain = model.backbone(patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state
    expected = plain + time_positions(FRAMES, 32)
    torch.testing.assert_close(model(clips()).last_hidden_state[0], expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_masked_autoencoder_masks_nothing() -> None:
    model = encoder_of("vit_mae").train()
    first, second = (model(clips()).last_hidden_state for _ in range(2))
    assert first.shape[1] == FRAMES * 16 and torch.equal(first, second)
    given = AutoConfig.for_model("vit_mae", **IMAGE_MODELS["vit_mae"])
    FrameBackboneConfig(backbone_config=given, image_size=SIDE)
    assert given.mask_ratio == 0.75  # what is handed in stays as it is


@torch.no_grad()
def test_a_clip_may_be_shorter_and_a_still_is_one_frame() -> None:
    model = encoder_of("resnet", num_temporal_layers=2)
    whole = encoder_of("resnet")(clips()).last_hidden_state
    assert torch.equal(encoder_of("resnet")(clips()[:, :1]).last_hidden_state, whole[:, :4])
    assert model(clips()[:, :2]).last_hidden_state.shape == (2, 2 * 4, 32)
    assert model(clips()[:, :1]).last_hidden_state.shape == (2, 4, 32)


@pytest.mark.parametrize("model_type", ["vit", "dinov2", "dinov3_vit", "siglip_vision_model", "swinv2", "resnet"])
@torch.no_grad()
def test_frames_of_another_size_than_the_image_models_own(model_type: str) -> None:
    model = encoder_of(model_type, image_size=[96, 64])
    side = FEATURE_MAPS[model_type]
    assert model.config.token_grid == (FRAMES, side * 3 // 2, side)
    assert model(torch.zeros(1, 1, 3, 96, 64)).last_hidden_state.shape[1] == side * 3 // 2 * side


# ---------------------------------------------------------------------------------------------------------------
# Layers over time


@torch.no_grad()
def test_fresh_layers_over_time_change_nothing() -> None:
    torch.manual_seed(0)
    layered = FrameBackboneModel(config_of("resnet", num_temporal_layers=2)).eval()
    plain = encoder_of("resnet")
    plain.backbone.load_state_dict(layered.backbone.state_dict())
    assert torch.equal(layered(clips()).last_hidden_state, plain(clips()).last_hidden_state)
    within = MTCAEForMultiTaskVideo(MTCAEConfig(encoder_config=layered.config, **DECODERS)).encoder
    assert within.temporal_layers[1].attention.output.weight.abs().sum() == 0


def attend_by_hand(layer: torch.nn.Module, sequence: torch.Tensor, heads: int) -> torch.Tensor:
    """One pre-norm layer on one sequence (T, D), head by head."""
    attention, normed = layer.attention, layer.norm_attention(sequence)
    query, key, value = attention.query(normed), attention.key(normed), attention.value(normed)
    width = sequence.shape[1] // heads
    attended = torch.empty_like(sequence)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(query[:, part] @ key[:, part].T / math.sqrt(width), dim=1)
        attended[:, part] = weights @ value[:, part]
    sequence = sequence + attention.output(attended)
    hidden = torch.nn.functional.gelu(layer.mlp.dense_in(layer.norm_mlp(sequence)))
    return sequence + layer.mlp.dense_out(hidden)


@torch.no_grad()
def test_layers_over_time_look_at_one_place_at_a_time() -> None:
    model = encoder_of("resnet", num_temporal_layers=2)
    plain = encoder_of("resnet")
    plain.backbone.load_state_dict(model.backbone.state_dict())
    before, after = (encoder(clips()).last_hidden_state.unflatten(1, (FRAMES, 4)) for encoder in (plain, model))
    for clip in range(2):
        for place in range(4):
            sequence = before[clip, :, place]
            for layer in model.temporal_layers:
                sequence = attend_by_hand(layer, sequence, heads=2)
            torch.testing.assert_close(after[clip, :, place], sequence, atol=1e-4, rtol=1e-4)


def test_hidden_states_and_attentions_are_those_over_time() -> None:
    model = encoder_of("vit", num_temporal_layers=2, attn_implementation="eager")
    output = model(clips(), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, FRAMES * 16, 32)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(2 * 16, 2, FRAMES, FRAMES)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(32, 2, FRAMES))


# ---------------------------------------------------------------------------------------------------------------
# Ways of running


@pytest.mark.parametrize("model_type", ["resnet", "vit"])
def test_gradients_are_the_same_with_checkpointing(model_type: str) -> None:
    model = whole_model_of(model_type, num_temporal_layers=1).train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(clips(), **labels()).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
        checkpoint_activations(model)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["resnet", "vit"])
@torch.no_grad()
def test_half_precision_and_one_compiled_graph(model_type: str) -> None:
    torch._dynamo.reset()
    model = whole_model_of(model_type, num_temporal_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clips()).logits, model(clips()).logits, atol=1e-5, rtol=1e-5)
    logits = model.to(torch.bfloat16)(clips().bfloat16()).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_a_plain_checkpoint_of_an_image_model_goes_into_the_backbone(tmp_path: Path) -> None:
    plain: PreTrainedModel = randomise(ResNetModel(config_of("resnet").backbone_config))
    plain.save_pretrained(tmp_path)
    model = whole_model_of("resnet")
    model.encoder.backbone.load_state_dict(AutoModel.from_pretrained(tmp_path).state_dict())
    weight = model.encoder.backbone.embedder.embedder.convolution.weight
    assert torch.equal(weight, plain.embedder.embedder.convolution.weight)


# ---------------------------------------------------------------------------------------------------------------
# What cannot be used


BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"backbone_config": {}}, "backbone_config.model_type=None: must be an image model of transformers"),
        (
            {"backbone_config": {"model_type": "resnett"}},
            "backbone_config.model_type='resnett': must be an image model",
        ),
        ({"backbone_config": BERT}, "model_type='bert': gives no feature map .*it takes input_ids"),
        ({"backbone_config": {"model_type": "whisper"}}, "model_type='whisper': .*it is no image model"),
        (
            {"backbone_config": describe_image_model("vit", num_channels=1)},
            "'vit': gives no feature map of 3 x 64 x 64",
        ),
        ({"image_size": [64, 70]}, "image_size=\\[64, 70\\]: must be a multiple of the image model's patch of 16 x 16"),
        ({"num_frames": 0}, "num_frames=0: must be greater than 0"),
        ({"num_temporal_layers": -1}, "num_temporal_layers=-1: must be at least 0"),
        ({"num_temporal_layers": 1, "num_temporal_attention_heads": 5}, "=5: must divide the 32 channels"),
        ({"hidden_act": "gelo"}, "hidden_act='gelo': is no activation"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob=1.0: must be at least 0 and less than 1"),
    ],
)
def test_what_it_cannot_use_is_refused_in_one_line(changes: dict, told: str) -> None:
    given = {"backbone_config": describe_image_model("vit"), "image_size": SIDE} | changes
    with pytest.raises(ValueError, match=told) as refused:
        FrameBackboneConfig(**given)
    assert "\n" not in str(refused.value)


def test_clips_of_another_size_are_refused() -> None:
    model = encoder_of("resnet")
    for pixels in (clips(frames=FRAMES + 1), clips(side=32), clips()[:, :0], clips()[:, 0]):
        with pytest.raises(ValueError, match=r"takes \(clips, 1 to 3 frames, 3 channels, 64, 64\)"):
            model(pixels)
