"""Any VideoMAE checkpoint under fresh decoders, with nothing lost on the way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

from mtcae_dfer import MTCAEForMultiTaskVideo
from mtcae_dfer.modeling_encoders import encode_clips
from tests.support.kinds_of_models import KINDS as KINDS_OF_MODELS
from tests.support.tiny_models import (
    random_clips,
    random_labels,
    randomise,
    tiny_config,
    tiny_encoder_config,
    tiny_model,
)

DECODER_SIZES = {"decoder_hidden_size": 20, "decoder_num_layers": 1, "decoder_head_dim": 8}
HEAD_PARTS = ("norm", "output")
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


@pytest.mark.parametrize("names", [("q_bias", "v_bias"), ("query.bias", "value.bias")], ids=["older", "newer"])
@torch.no_grad()
def test_biases_survive_under_both_names(tmp_path: Path, names: tuple[str, str]) -> None:
    encoder = save_checkpoint(tmp_path, "base model")
    rename_biases(tmp_path / "model.safetensors", *names)
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES).eval()
    expected = encoder(random_clips()).last_hidden_state
    assert torch.equal(model.encoder(random_clips()).last_hidden_state, expected)


def rename_biases(file: Path, query: str, value: str) -> None:
    """transformers before 5 called the biases q_bias and v_bias; both names are found on the Hub."""
    weights = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): weight
        for name, weight in load_file(file).items()
    }
    renamed = {name.replace("q_bias", query).replace("v_bias", value): weight for name, weight in weights.items()}
    assert sum(name.endswith((query, value)) for name in renamed) == 4
    save_file(renamed, file, metadata={"format": "pt"})


def test_decoders_and_heads_are_fresh_and_follow_the_overrides(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    overrides = {"structure": "fully_shared", "id2label": {0: "calm", 1: "angry"}, "initializer_range": 0.1}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, **DECODER_SIZES, **overrides)
    assert model.config.structure == "fully_shared" and model.config.label2id == {"calm": 0, "angry": 1}
    assert model.config.encoder_config.hidden_size == 24 and model.config.num_frames == 4
    head = model.heads["expression"].output
    assert head.out_features == 2 and head.bias.abs().sum() == 0 and 0.05 < head.weight.std() < 0.2
    assert all(parameter.requires_grad for parameter in model.parameters())


WHOLE_MODELS = [name for name, kind in KINDS_OF_MODELS.items() if kind.model_class is MTCAEForMultiTaskVideo]


@pytest.mark.parametrize("name", WHOLE_MODELS)
@torch.no_grad()
def test_a_whole_model_gives_its_encoder(tmp_path: Path, name: str) -> None:
    kind = KINDS_OF_MODELS[name]
    whole = kind.build()
    whole.save_pretrained(tmp_path)
    sizes = {"structure": "non_fully_shared", "id2label": {0: "calm", 1: "angry"}, "pooling": "time"}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES, **sizes).eval()
    expected, clips = whole.encoder.state_dict(), kind.inputs()[0]
    taken = model.encoder.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in expected.items())
    tokens = [encode_clips(encoder, clips).last_hidden_state for encoder in (model.encoder, whole.encoder)]
    assert torch.equal(*tokens)
    assert model.config.structure == "non_fully_shared" and model.config.num_labels == 2


def test_the_encoder_of_a_whole_model_follows_the_overrides(tmp_path: Path) -> None:
    KINDS_OF_MODELS["resnet_cascade"].build().save_pretrained(tmp_path)
    overrides = {"num_frames": 2, "num_temporal_layers": 0}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, overrides, **DECODER_SIZES)
    assert model.config.num_frames == 2 and len(model.encoder.temporal_layers) == 0
    with pytest.raises(ValueError, match="^encoder_overrides: a frame_backbone encoder has no field num_frame[.]"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, {"num_frame": 2}, **DECODER_SIZES)


@pytest.mark.parametrize("kind", ["frame_backbone", "resnet_cascade"])
def test_a_field_that_follows_from_the_image_model_is_none_to_override(tmp_path: Path, kind: str) -> None:
    KINDS_OF_MODELS[kind].build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="^encoder_overrides: a frame_backbone encoder has no field hidden_size[.]"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, {"hidden_size": 48}, **DECODER_SIZES)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_gives_one_model_in_float32(tmp_path: Path, precision: torch.dtype) -> None:
    encoder = save_checkpoint(tmp_path / "encoder", "base model").to(precision)
    encoder.save_pretrained(tmp_path / "encoder")
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "encoder", **DECODER_SIZES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(random_clips(), **random_labels()).loss.backward()
    model.save_pretrained(tmp_path / "mtcae")
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "mtcae")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    bias = again.encoder.encoder.layer[1].attention.attention.query.bias
    assert torch.equal(bias, encoder.encoder.layer[1].attention.attention.query.bias.float())


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        ("base model", "nothing"),
        ("pre-training", "decoder (19), encoder_to_decoder (1), mask_token (1)"),
        ("classifier", "classifier (2), fc_norm (2)"),
    ],
)
def test_it_says_which_weights_are_new_and_which_were_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, unused: str
) -> None:
    save_checkpoint(tmp_path, kind)
    MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), **DECODER_SIZES)
    (told,) = caplog.messages  # without transformers' table of all of them
    heads = [f"heads.{task}.{part} (2)" for task in ("expression", "face_box", "face_landmarks") for part in HEAD_PARTS]
    decoders = [f"structure.decoders.{task} (20)" for task in ("expression", "face_box", "face_landmarks")]
    assert told == (
        f"Encoder weights taken from {tmp_path}. New and untrained: {', '.join(heads + decoders)}. "
        f"Not used from the checkpoint: {unused}."
    )


def test_a_frozen_encoder_keeps_its_pretrained_weights_in_training(tmp_path: Path) -> None:
    encoder = save_checkpoint(tmp_path, "base model")
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, **DECODER_SIZES)
    model.freeze_encoder()
    model.train()
    assert not any(module.training for module in model.encoder.modules()) and model.structure.training
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    before = model.heads["expression"].output.weight.detach().clone()
    model(random_clips(), **random_labels()).loss.backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    state = model.encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    assert not torch.equal(before, model.heads["expression"].output.weight)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut_off_weights(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(2000)


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def put_a_text_model(folder: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **sizes)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (remove_weights, "no file named model.safetensors"),
        (remove_config, "Should have a `model_type` key"),
        (remove_a_layer, "lacks 15 weights of this videomae encoder, .*, first encoder.layer.1.attention"),
        (cut_off_weights, "holds no encoder that can be read .*model.safetensors is cut off, or no safetensors file"),
        (spoil_config, "not a valid JSON file"),
        (put_a_text_model, "model_type='bert': is no video encoder that a cascade can read"),
        (shutil.rmtree, "holds no encoder that can be read"),
    ],
)
def test_a_folder_without_an_encoder_is_refused_in_one_line(tmp_path: Path, spoil: Callable, told: str) -> None:
    folder = tmp_path / "encoder"
    save_checkpoint(folder, "base model")
    spoil(folder)
    with pytest.raises(ValueError, match=told) as refused:
        MTCAEForMultiTaskVideo.from_encoder_pretrained(str(folder), **DECODER_SIZES)
    message = str(refused.value)
    assert message.startswith(f"{folder} ") and "\n" not in message
    assert message.endswith(
        "give a folder with config.json and model.safetensors, or a Hub id, of a video encoder (videomae, vjepa2, "
        "vivit, timesformer, videoprism_vision_model, lgi_former, tpsbt), of a model of this repository, or of an "
        "image model of transformers."
    )


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    with pytest.raises(ValueError, match="model.safetensors is a file; give a folder"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"decoder_layers": 1}, "decoder_layers: no field to override in MTCAEConfig"),
        ({"encoder_config": {}}, "encoder_config: no field to override .* go into encoder_overrides"),
        ({"encoder_overrides": {"imagesize": 48}}, "encoder_overrides: a videomae encoder has no field imagesize"),
    ],
)
def test_a_misspelt_override_is_refused(tmp_path: Path, arguments: dict, told: str) -> None:
    save_checkpoint(tmp_path, "base model")
    with pytest.raises(ValueError, match=f"^{told}"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, **arguments)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    with pytest.raises(ValueError, match="lacks .* weights of this videomae encoder, or has them in another size"):
        MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path, {"hidden_size": 48}, **DECODER_SIZES)


@torch.no_grad()
def test_encoder_sizes_that_hold_no_weights_can_be_changed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base model")
    larger = {"image_size": 48}
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(str(tmp_path), larger, **DECODER_SIZES)
    assert model.config.token_grid == (2, 3, 3)
    assert model(torch.randn(1, 4, 3, 48, 48)).face_boxes.shape == (1, 4, 4)


def test_an_encoder_given_as_an_object_equals_one_given_as_a_dict() -> None:
    assert tiny_config(encoder_config=tiny_encoder_config()).token_grid == tiny_model().config.token_grid
