"""3D ResNeXt and VO-LSTM: independent counts, grids of tokens, and both under the heads of the multi-task model."""

import math
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, ResNeXt3DConfig, ResNeXt3DModel, VOLSTMConfig, VOLSTMModel
from mtcae_dfer.modeling_resnext3d import ResNeXt3DBottleneck
from tests.support.tiny_models import CLASSES, EXPRESSION_TASK, random_labels, randomise

FRAME_ENCODER = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12],
    "depths": [1, 1],
    "layer_type": "basic",
}
ENCODERS = {
    "resnext3d": {
        "image_size": 32,
        "num_frames": 4,
        "stem_channels": 8,
        "stage_depths": [1, 2],
        "stage_widths": [8, 16],
        "groups": 4,
    },
    "vo_lstm": {"image_size": 32, "num_frames": 4, "hidden_size": 16, "frame_encoder_config": FRAME_ENCODER},
}


def config_of(name: str) -> MTCAEConfig:
    encoder = {"model_type": name, **ENCODERS[name]}
    return MTCAEConfig(encoder_config=encoder, structure="single_task", tasks=[EXPRESSION_TASK])


def model_of(name: str) -> MTCAEForMultiTaskVideo:
    torch.manual_seed(0)
    return randomise(MTCAEForMultiTaskVideo(config_of(name))).eval()


def clips(batch: int = 2, frames: int = 4, side: int = 32) -> torch.Tensor:
    return torch.randn(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------------------------
# 3D ResNeXt


def count_resnext_weights() -> int:
    """3D ResNeXt-50 by hand: convolutions without biases, two numbers a channel in every batch norm."""
    total, channels = 3 * 64 * 7**3 + 2 * 64, 64
    for width, depth in ((128, 3), (256, 4), (512, 6), (1024, 3)):
        out = 2 * width
        for block in range(depth):
            grouped = 32 * (width // 32) ** 2 * 3**3
            total += channels * width + 2 * width + grouped + 2 * width + width * out + 2 * out
            total += channels * out + 2 * out if block == 0 else 0
            channels = out
    return total


def test_the_default_is_the_3d_resnext_50() -> None:
    with torch.device("meta"):
        model = ResNeXt3DModel(ResNeXt3DConfig())
        tokens = model(torch.empty(1, 16, 3, 224, 224)).last_hidden_state
        longer = ResNeXt3DModel(ResNeXt3DConfig(num_frames=32))(torch.empty(1, 32, 3, 224, 224)).last_hidden_state
    assert sum(weight.numel() for weight in model.parameters()) == count_resnext_weights()
    assert [len(stage) for stage in model.stages] == [3, 4, 6, 3]
    assert [stage[-1].conv3.out_channels for stage in model.stages] == [256, 512, 1024, 2048]
    # (2, 7, 7) is what the published average pooling covers after 30 frames.
    assert tokens.shape == (1, 1 * 7 * 7, 2048) and longer.shape == (1, 2 * 7 * 7, 2048)


@pytest.mark.parametrize(("frames", "side"), [(16, 64), (32, 96)])
def test_the_grid_is_what_the_convolutions_leave(frames: int, side: int) -> None:
    config = ResNeXt3DConfig(num_frames=frames, image_size=side, stage_widths=[32, 32, 32, 32], stage_depths=[1] * 4)
    tokens = ResNeXt3DModel(config)(torch.zeros(1, frames, 3, side, side)).last_hidden_state
    assert config.token_grid == (frames // 16, side // 32, side // 32)
    assert tokens.shape == (1, math.prod(config.token_grid), config.hidden_size)


@torch.no_grad()
def test_a_bottleneck_equals_a_literal_statement() -> None:
    torch.manual_seed(0)
    block = randomise(ResNeXt3DBottleneck(4, 6, 8, groups=3, stride=2)).double().eval()
    features = torch.randn(1, 4, 3, 4, 5, dtype=torch.double)

    def norm(channels: torch.Tensor, layer: torch.nn.BatchNorm3d) -> torch.Tensor:
        return channels / math.sqrt(1 + layer.eps) * layer.weight + layer.bias

    def inner(t: int, y: int, x: int) -> torch.Tensor:
        inside = 0 <= t < 3 and 0 <= y < 4 and 0 <= x < 5
        if not inside:
            return torch.zeros(6, dtype=torch.double)
        return norm(block.conv1.weight[:, :, 0, 0, 0] @ features[0, :, t, y, x], block.bn1).relu()

    actual = block(features)[0]
    assert actual.shape == (8, 2, 2, 3)
    for t, y, x in ((0, 0, 0), (1, 1, 2), (0, 1, 1)):
        grouped = torch.zeros(6, dtype=torch.double)
        for out in range(6):
            first = 2 * (out // 2)  # three groups of two channels
            for dt in range(3):
                for dy in range(3):
                    for dx in range(3):
                        seen = inner(2 * t + dt - 1, 2 * y + dy - 1, 2 * x + dx - 1)[first : first + 2]
                        grouped[out] += block.conv2.weight[out, :, dt, dy, dx] @ seen
        wide = norm(block.conv3.weight[:, :, 0, 0, 0] @ norm(grouped, block.bn2).relu(), block.bn3)
        dense, shortcut_norm = block.downsample
        shortcut = norm(dense.weight[:, :, 0, 0, 0] @ features[0, :, 2 * t, 2 * y, 2 * x], shortcut_norm)
        torch.testing.assert_close(actual[:, t, y, x], (wide + shortcut).relu())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stage_widths": [128, 256, 512, 1000]}, "multiples of the 32 groups"),
        ({"stage_widths": [128]}, "must hold 4 widths"),
        ({"stage_depths": []}, "positive depth for every stage"),
        ({"num_frames": 30}, "num_frames=30: must be a multiple of 16"),
        ({"image_size": 100}, "must be a multiple of 32"),
        ({"groups": 0}, "groups=0: must be greater than 0"),
    ],
)
def test_what_resnext_cannot_use_is_refused(changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ResNeXt3DConfig(**changes)


# ---------------------------------------------------------------------------------------------------------------
# VO-LSTM


def test_the_default_has_resnet_18_and_one_lstm_layer() -> None:
    with torch.device("meta"):
        model = VOLSTMModel(VOLSTMConfig())
        torchvisions = sum(weight.numel() for weight in resnet18(weights=None).parameters()) - (512 * 1000 + 1000)
    assert sum(weight.numel() for weight in model.frame_encoder.parameters()) == torchvisions
    assert sum(weight.numel() for weight in model.lstm.parameters()) == 4 * 512 * (512 + 512 + 2)


@torch.no_grad()
def test_states_follow_the_lstms_equations_over_pooled_frames() -> None:
    torch.manual_seed(0)
    model = randomise(VOLSTMModel(VOLSTMConfig(**ENCODERS["vo_lstm"]))).eval()
    frames = clips(1)
    state, cell = torch.zeros(16), torch.zeros(16)
    lstm, actual = model.lstm, model(frames).last_hidden_state
    for number in range(4):
        seen = model.frame_encoder(frames[:, number]).last_hidden_state[0].mean(dim=(1, 2))
        gates = lstm.weight_ih_l0 @ seen + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ state + lstm.bias_hh_l0
        take, keep, fresh, show = gates.split(16)
        cell = keep.sigmoid() * cell + take.sigmoid() * fresh.tanh()
        state = show.sigmoid() * cell.tanh()
        torch.testing.assert_close(actual[0, number], state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_an_image_transformer_are_pooled_too() -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    frame = {"model_type": "vit", "image_size": 32, "patch_size": 16, **sizes}
    model = VOLSTMModel(VOLSTMConfig(**ENCODERS["vo_lstm"] | {"frame_encoder_config": frame})).eval()
    assert model.lstm.input_size == 12 and model(clips()).last_hidden_state.shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"frame_encoder_config": {"model_type": "resnat"}}, "must be an image model of transformers"),
        ({"frame_encoder_config": {"depths": [1]}}, "must be an image model of transformers"),
        ({"num_lstm_layers": -1}, "num_lstm_layers=-1: must be at least 0"),
        ({"num_lstm_layers": 0, "hidden_size": 256}, "hidden_size=256: must be the 512 channels of a frame's feature"),
        ({"lstm_dropout": 1.0}, "must be at least 0 and less than 1"),
    ],
)
def test_what_vo_lstm_cannot_use_is_refused(changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        VOLSTMConfig(**changes)


# ---------------------------------------------------------------------------------------------------------------
# Both


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_weight_learns(name: str) -> None:
    model = model_of(name).train()
    outputs = model(clips(), labels=random_labels()["labels"])
    outputs.loss.backward()
    assert outputs.logits.shape == (2, CLASSES)
    assert not [weight for weight, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", list(ENCODERS))
@torch.no_grad()
def test_the_batchs_other_clips_change_nothing(name: str) -> None:
    model = model_of(name)
    together = model(clips(3)).logits
    torch.testing.assert_close(together[1:2], model(clips(3)[1:2]).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(ENCODERS))
@torch.no_grad()
def test_what_is_saved_comes_back(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    model.save_pretrained(tmp_path / "whole")
    model.encoder.save_pretrained(tmp_path / "encoder")
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "whole")
    assert torch.equal(again(clips()).logits, model(clips()).logits)
    started = MTCAEForMultiTaskVideo.from_encoder_pretrained(
        str(tmp_path / "encoder"), structure="single_task", tasks=[EXPRESSION_TASK]
    ).eval()
    assert torch.equal(started.encoder(clips()).last_hidden_state, model.encoder(clips()).last_hidden_state)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_clip_of_another_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"this model takes \(clips, 4 frames, 3 channels, 32, 32\)"):
        model_of(name).encoder(clips(frames=8))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_the_cascade_stands_on_it_too(name: str) -> None:
    sizes = {"decoder_hidden_size": 20, "decoder_num_layers": 1, "decoder_head_dim": 8, "pooling": "time_and_place"}
    model = MTCAEForMultiTaskVideo(MTCAEConfig(encoder_config={"model_type": name, **ENCODERS[name]}, **sizes))
    outputs = model(clips(), **random_labels())
    assert outputs.face_boxes.shape == (2, 4, 4) and torch.isfinite(outputs.loss)


def test_fresh_weights_keep_features_alive() -> None:
    torch.manual_seed(0)
    for name in ENCODERS:
        tokens = MTCAEForMultiTaskVideo(config_of(name)).encoder(clips(8)).last_hidden_state
        assert tokens.std(dim=0).mean() > 0.01
