"""The video encoders of transformers under the cascade: grid, order of tokens, checkpoints, frames and sizes."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from mtcae_dfer import FrameBackboneConfig, MTCAEConfig, MTCAEForMultiTaskVideo
from mtcae_dfer.modeling_encoders import ENCODERS, encode_clips
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.image_models import IMAGE_MODELS
from tests.support.tiny_models import randomise
from tests.support.video_encoders import (
    CHECKPOINTS,
    FRAMES,
    IN_RASTER_ORDER,
    PATCH,
    SIDE,
    TOKEN_GRIDS,
    VIDEO_ENCODERS,
)

DECODERS = {
    "decoder_hidden_size": 20,
    "decoder_num_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_head_dim": 8,
}
KINDS = [(model_type, model_class) for model_type, classes in CHECKPOINTS.items() for model_class in classes]


def config_of(model_type: str, **changes: object) -> MTCAEConfig:
    encoder = {"model_type": model_type, **VIDEO_ENCODERS[model_type], **changes}
    return MTCAEConfig(encoder_config=encoder, **DECODERS)


def model_of(model_type: str, **changes: object) -> MTCAEForMultiTaskVideo:
    torch.manual_seed(0)
    return randomise(MTCAEForMultiTaskVideo(config_of(model_type, **changes))).eval()


def clips(batch: int = 2, frames: int = FRAMES, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels(batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "labels": torch.arange(batch),
        "face_boxes": torch.full((batch, FRAMES, 4), 0.5),
        "face_landmarks": torch.full((batch, FRAMES, 5, 2), 0.5),
    }


def save_checkpoint(folder: Path, model_type: str, model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """Writes a checkpoint by transformers alone, all weights random; returns the bare encoder in it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **VIDEO_ENCODERS[model_type])
    if "VideoMAEForPreTraining" in model_class.__name__:
        config.decoder_hidden_size, config.decoder_num_attention_heads = 24, 2
    model = randomise(model_class(config)).eval()
    model.save_pretrained(folder)
    return getattr(model, model.base_model_prefix, model)


# ---------------------------------------------------------------------------------------------------------------
# Grid and order


@pytest.mark.parametrize("model_type", VIDEO_ENCODERS)
@torch.no_grad()
def test_a_bright_patch_moves_the_token_of_its_place_most(model_type: str) -> None:
    torch.manual_seed(0)
    model = MTCAEForMultiTaskVideo(config_of(model_type)).eval()
    grid = model.config.token_grid
    assert grid == TOKEN_GRIDS[model_type] and model.config.num_frames == FRAMES
    assert model.config.image_size == (SIDE, SIDE) and model.config.patch_size == (PATCH, PATCH)
    pixels, step = 0.1 * clips(batch=1), FRAMES // grid[0]
    before = encode_clips(model.encoder, pixels).last_hidden_state
    assert before.shape == (1, grid[0] * grid[1] * grid[2], 48)
    for time, row, column in ((0, 0, 1), (1, 3, 0), (grid[0] - 1, 2, 3)):
        brighter = pixels.clone()
        frames, rows = slice(time * step, (time + 1) * step), slice(row * PATCH, (row + 1) * PATCH)
        brighter[:, frames, :, rows, column * PATCH : (column + 1) * PATCH] += 3.0
        moved = (encode_clips(model.encoder, brighter).last_hidden_state - before).norm(dim=-1)[0]
        assert moved.argmax() == (time * grid[1] + row) * grid[2] + column


@pytest.mark.parametrize(("model_type", "model_class"), KINDS, ids=[model_class.__name__ for _, model_class in KINDS])
@torch.no_grad()
def test_tokens_are_those_of_transformers_also_after_saving_again(
    model_type: str, model_class: type[PreTrainedModel], tmp_path: Path
) -> None:
    alone = save_checkpoint(tmp_path / "encoder", model_type, model_class)
    own = {"skip_predictor": True} if model_type == "vjepa2" else {}
    tokens = alone(clips(), **own).last_hidden_state
    expected = IN_RASTER_ORDER.get(model_type, lambda raster: raster)(tokens)
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path / "encoder"), **DECODERS).eval()
    model.save_pretrained(tmp_path / "mtcae")
    again, report = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "mtcae", output_loading_info=True)
    assert not any(report.values())
    for loaded in (model, again):
        assert torch.equal(encode_clips(loaded.encoder, clips()).last_hidden_state, expected)
    own_weights = alone.state_dict()
    for name, weight in again.encoder.state_dict().items():
        assert torch.equal(weight, own_weights[name]), name


@pytest.mark.parametrize("model_type", VIDEO_ENCODERS)
def test_training_reaches_every_weight_with_and_without_checkpointing(model_type: str) -> None:
    model = model_of(model_type).train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(clips(), **labels()).loss.backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
        checkpoint_activations(model)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", VIDEO_ENCODERS)
@torch.no_grad()
def test_every_attention_gives_the_same_outputs(model_type: str, tmp_path: Path) -> None:
    model = model_of(model_type)
    model.save_pretrained(tmp_path)
    eager = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, attn_implementation="eager").eval()
    output = eager(clips(), output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.logits, model(clips()).logits, atol=1e-5, rtol=1e-5)
    assert len(output.hidden_states) >= 3 and len(output.attentions) >= 2


# ---------------------------------------------------------------------------------------------------------------
# Frames and sizes


@pytest.mark.parametrize("num_frames", [8, 16, 32])
@pytest.mark.parametrize("model_type", VIDEO_ENCODERS)
@torch.no_grad()
def test_other_frames_and_sizes_of_a_checkpoint(
    model_type: str, num_frames: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = save_checkpoint(tmp_path, model_type, CHECKPOINTS[model_type][0])
    sizes = {"num_frames": num_frames, "image_size": 48}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), sizes, **DECODERS).eval()
    tubelet = FRAMES // TOKEN_GRIDS[model_type][0]
    assert model.config.token_grid == (num_frames // tubelet, 3, 3)
    assert model(clips(1, num_frames, 48, 48)).face_boxes.shape == (1, num_frames, 4)
    told = [message for message in caplog.messages if "is interpolated from" in message]
    tables = ENCODERS[model_type].position_tables
    assert len(told) == len(tables) and all(any(name in line for line in told) for name in tables)
    ours = model.encoder.state_dict()
    same = {name: weight for name, weight in alone.state_dict().items() if name not in tables and name in ours}
    assert len(same) == len(ours) - len(tables)
    assert all(torch.equal(ours[name], weight) for name, weight in same.items())


@torch.no_grad()
def test_a_table_over_time_is_interpolated_linearly(tmp_path: Path) -> None:
    alone = save_checkpoint(tmp_path, "timesformer", CHECKPOINTS["timesformer"][0])
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), {"num_frames": 8}, **DECODERS)
    before, after = alone.embeddings.time_embeddings[0], model.encoder.embeddings.time_embeddings[0]
    assert after.shape == (8, 48)
    # Frame 3 of 8 has its middle at 1.75 frames of 4, between the middles of 1 and 2: a quarter of the way.
    torch.testing.assert_close(after[3], 0.75 * before[1] + 0.25 * before[2])
    torch.testing.assert_close(after[0], before[0])
    places = model.encoder.embeddings.position_embeddings
    assert torch.equal(places, alone.embeddings.position_embeddings)


@torch.no_grad()
def test_rotary_positions_take_fewer_frames_and_fixed_tables_do_not() -> None:
    fewer = MTCAEConfig(encoder_config={"model_type": "vjepa2", **VIDEO_ENCODERS["vjepa2"]}, pooling="time", **DECODERS)
    model = MTCAEForMultiTaskVideo(fewer).eval()
    assert model(clips(frames=2)).face_boxes.shape == (2, 2, 4)
    with pytest.raises(ValueError, match="a shorter clip must have a multiple of 2"):
        model(clips(frames=3))
    for model_type in ("vivit", "timesformer", "videoprism_vision_model"):
        with pytest.raises(ValueError, match=r"this model takes \(clips, 4 frames"):
            model_of(model_type)(clips(frames=2))


def test_sizes_go_by_one_name_in_a_dict_too() -> None:
    encoder = {"model_type": "vjepa2", **VIDEO_ENCODERS["vjepa2"]}
    del encoder["crop_size"], encoder["frames_per_clip"]
    config = MTCAEConfig(encoder_config=encoder | {"num_frames": 8, "image_size": [32, 32]}, **DECODERS)
    assert config.encoder_config.frames_per_clip == 8 and config.encoder_config.crop_size == 32
    assert config.num_frames == 8 and config.image_size == (32, 32)


# ---------------------------------------------------------------------------------------------------------------
# Image models by their own checkpoints


@pytest.mark.parametrize("model_class", [ViTModel, ViTForImageClassification])
@torch.no_grad()
def test_an_image_models_checkpoint_looks_at_every_frame(
    model_class: type[PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = randomise(model_class(ViTConfig(**IMAGE_MODELS["vit"], num_labels=7))).eval()
    alone.save_pretrained(tmp_path / "vit")
    sizes = {"num_frames": 2, "num_temporal_layers": 1, "num_temporal_attention_heads": 2}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path / "vit"), sizes, **DECODERS).eval()
    assert isinstance(model.config.encoder_config, FrameBackboneConfig) and model.config.token_grid == (2, 4, 4)
    assert "New and untrained: encoder.temporal_layers.0 (" in caplog.text
    plain = alone if model_class is ViTModel else alone.vit
    tokens = plain(clips(1)[0, :1]).last_hidden_state[:, 1:]
    first_frame = encode_clips(model.encoder, clips(1, 2)).last_hidden_state[:, :16]
    position = torch.tensor([0.0, 1.0]).repeat(16)  # of the first frame: sines are 0, cosines 1
    torch.testing.assert_close(first_frame, tokens + position, atol=1e-5, rtol=1e-5)
    # Saved by itself, the encoder comes back as one.
    model.encoder.save_pretrained(tmp_path / "encoder")
    again = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path / "encoder"), **DECODERS).eval()
    assert torch.equal(encode_clips(again.encoder, clips(1, 2)).last_hidden_state[:, :16], first_frame)


@torch.no_grad()
def test_of_an_image_and_text_model_the_image_model_is_taken(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = SiglipConfig(vision_config=IMAGE_MODELS["siglip_vision_model"], text_config=text | {"vocab_size": 20})
    alone = randomise(SiglipModel(config)).eval()
    alone.save_pretrained(tmp_path)
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), {"num_frames": 2}, **DECODERS).eval()
    for name, weight in model.encoder.backbone.state_dict().items():
        assert torch.equal(weight, alone.vision_model.state_dict()[name]), name


# ---------------------------------------------------------------------------------------------------------------
# What cannot be used


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ({"model_type": "bert"}, "'bert': is no video encoder that a cascade can read: its config has no num_frames"),
        ({"model_type": "wav2vec2"}, "'wav2vec2': is no video encoder that a cascade can read"),
        ({"model_type": "resnet"}, "'resnet': is an image model; it goes into .*frame_backbone"),
        ({"model_type": "pe_video_encoder"}, "gives one vector a frame, by way of the package timm, and no grid"),
        ({"model_type": "vjepa2", "image_size": [64, 32]}, r"=\[64, 32\]: a vjepa2 encoder takes square frames alone"),
        ({"model_type": "vjepa2", "num_frames": 15}, "encoder_config.frames_per_clip=15: must be a multiple of 2"),
        ({"model_type": "timesformer", "image_size": 100}, r"image_size \(height\)=100: must be a multiple of 16"),
        ({"model_type": "vivit", "num_frames": 5}, "encoder_config.num_frames=5: must be a multiple of 2"),
    ],
)
def test_what_no_cascade_can_read_is_refused_in_one_line(encoder: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        MTCAEConfig(encoder_config=encoder, **DECODERS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("overrides", [{"num_layers": 3}, {"hidden_size": 12}])
def test_overrides_that_an_image_model_cannot_take_are_refused(tmp_path: Path, overrides: dict) -> None:
    ViTModel(ViTConfig(**IMAGE_MODELS["vit"])).save_pretrained(tmp_path)
    told = f"encoder_overrides: a frame_backbone encoder has no field {next(iter(overrides))}"
    with pytest.raises(ValueError, match=told):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), overrides, **DECODERS)


def test_a_checkpoint_with_missing_weights_and_an_id_without_network_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = AutoModel.from_config(AutoConfig.for_model("vivit", **VIDEO_ENCODERS["vivit"]))
    weights = {name: weight for name, weight in alone.state_dict().items() if "layers.1." not in name}
    alone.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks .* weights of this vivit encoder"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODERS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="someone/something holds no encoder that can be read") as refused:
        MTCAEForMultiTaskVideo.from_encoder_pretrained("someone/something", **DECODERS)
    assert "\n" not in str(refused.value)


def test_heat_maps_need_more_than_one_place() -> None:
    resnet = {"model_type": "resnet", **IMAGE_MODELS["resnet"]}
    encoder = {"model_type": "frame_backbone", "backbone_config": resnet, "image_size": 32}
    with pytest.raises(ValueError, match=r"covers the whole frame \(grid 1 x 1\)"):
        MTCAEConfig(encoder_config=encoder, pooling="heat_map", **DECODERS)
