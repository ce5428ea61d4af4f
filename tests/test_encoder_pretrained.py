"""Any VideoMAE checkpoint under fresh decoders, with nothing lost on the way."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import random_clips, randomise, tiny_config, tiny_encoder_config, tiny_model
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from transformers.utils import logging as transformers_logging

from mtcae_dfer import MTCAEForMultiTaskVideo

DECODER_SIZES = {"decoder_hidden_size": 20, "decoder_num_layers": 1, "decoder_head_dim": 8}
SMALL_DECODER = {"decoder_hidden_size": 12, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
KINDS = {
    "base model": (VideoMAEModel, {}),
    "pre-training": (VideoMAEForPreTraining, {"decoder_intermediate_size": 24, **SMALL_DECODER}),
    "classifier": (VideoMAEForVideoClassification, {"use_mean_pooling": True}),
}


def save_checkpoint(folder: Path, kind: str) -> VideoMAEModel:
    """Saves a checkpoint of one kind with random biases; returns its encoder."""
    model_class, overrides = KINDS[kind]
    model = randomise(model_class(tiny_encoder_config(**overrides)))
    model.save_pretrained(folder)
    return (model if kind == "base model" else model.videomae).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_encoder_computes_what_it_did_before_also_after_saving_again(tmp_path: Path, kind: str) -> None:
    encoder = save_checkpoint(tmp_path / "encoder", kind)
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path / "encoder"), **DECODER_SIZES).eval()
    model.save_pretrained(tmp_path / "mtcae")
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "mtcae").eval()
    expected = encoder(random_clips()).last_hidden_state
    for loaded in (model, again):
        attention = loaded.encoder.encoder.layer[0].attention.attention
        original = encoder.encoder.layer[0].attention.attention
        assert original.query.bias.abs().sum() > 0
        assert torch.equal(attention.query.bias, original.query.bias)
        assert torch.equal(attention.value.bias, original.value.bias)
        assert torch.equal(loaded.encoder(random_clips()).last_hidden_state, expected)


@torch.no_grad()
def test_checkpoints_with_the_older_bias_names_lose_nothing(tmp_path: Path) -> None:
    encoder = save_checkpoint(tmp_path, "base model")
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value for name, value in weights.items()
    }
    assert renamed.keys() != weights.keys() or any("q_bias" in name for name in weights)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES).eval()
    expected = encoder(random_clips()).last_hidden_state
    assert torch.allclose(model.encoder(random_clips()).last_hidden_state, expected, atol=1e-6)


def test_it_says_which_weights_are_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(tmp_path, "base model")
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES)
    transformers_logging.disable_propagation()
    told = next(record.getMessage() for record in caplog.records if "New and untrained" in record.getMessage())
    assert (
        "structure.decoders.expression" in told and "heads.face_box" in told and "encoder." not in told.split("in ")[1]
    )


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    weights = load_file(tmp_path / "model.safetensors")
    removed = [name for name in weights if "layer.1." in name]
    save_file(
        {name: value for name, value in weights.items() if name not in removed},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match="the checkpoint lacks .* weights of the encoder"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES)


@torch.no_grad()
def test_encoder_sizes_that_hold_no_weights_can_be_changed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    larger = {"image_size": 48}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), larger, **DECODER_SIZES)
    assert model.config.token_grid == (2, 3, 3)
    assert model(torch.randn(1, 4, 3, 48, 48)).face_boxes.shape == (1, 4, 4)


def test_an_encoder_given_as_an_object_equals_one_given_as_a_dict() -> None:
    assert tiny_config(encoder_config=tiny_encoder_config()).token_grid == tiny_model().config.token_grid
