"""Damaged weights are named by file and remedy, whichever class or pipeline reads them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, pipeline

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.modeling_encoders import load_encoder
from mtcae_dfer.weight_files import damage_of, damaged_weights, digest_weights
from tests.support.tiny_models import tiny_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5427172\n"
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pointer": (lambda whole: POINTER, "is a Git LFS pointer and not the weights; run `git lfs pull`"),
    "empty": (lambda whole: b"", "is empty"),
    "a few bytes": (lambda whole: whole[:5], "is cut off"),
    "cut in the header": (lambda whole: whole[:100], "is cut off"),
    "cut in the tensors": (lambda whole: whole[:-4], "should have"),
    "longer": (lambda whole: whole + b"1234", "should have"),
    "no JSON": (lambda whole: whole[:8] + b"XX" + whole[10:], "its header cannot be read"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "whole"
    tiny_model().save_pretrained(place)
    MTCAEVideoProcessor(num_frames=4, size={"height": 32, "width": 32}).save_pretrained(place)
    return place


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_loader_names_the_file_and_what_is_wrong_with_it(folder: Path, tmp_path: Path, damage: str) -> None:
    change, told = DAMAGES[damage]
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    assert told in str(damage_of(weights))
    for load in (
        lambda: AutoModel.from_pretrained(tmp_path),
        lambda: pipeline("video-classification", model=str(tmp_path)),
    ):
        with pytest.raises(SafetensorError) as refused:
            load()
        assert str(refused.value).startswith(str(weights)) and told in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lacking", [["model.safetensors"], ["model.safetensors", "video_preprocessor_config.json"]])
def test_a_folder_with_a_config_alone_is_named_by_every_loader(
    folder: Path, tmp_path: Path, lacking: list[str]
) -> None:
    for file in folder.iterdir():
        if file.is_file() and file.name not in lacking:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for load in (
        lambda: MTCAEForMultiTaskVideo.from_pretrained(tmp_path),
        lambda: AutoModel.from_pretrained(tmp_path),
        lambda: pipeline(model=str(tmp_path)),
        lambda: pipeline("video-classification", model=str(tmp_path)),
        lambda: pipeline("facial-expression-timeline", model=str(tmp_path)),
    ):
        with pytest.raises(SafetensorError) as refused:
            load()
        assert str(refused.value).startswith(f"{tmp_path} holds no weights (model.safetensors); give a trained model")
    # A fresh model with the weights of another is no folder without weights.
    given = tiny_model(seed=3).state_dict()
    loaded = MTCAEForMultiTaskVideo.from_pretrained(
        None, config=MTCAEConfig.from_pretrained(tmp_path), state_dict=given
    )
    assert all(torch.equal(value, given[name]) for name, value in loaded.state_dict().items())


def test_a_model_in_a_folder_of_a_folder_loads(folder: Path) -> None:
    assert MTCAEForMultiTaskVideo.from_pretrained(folder.parent, subfolder=folder.name).config.num_frames == 4


def test_a_damaged_encoder_is_named_too(tmp_path: Path) -> None:
    encoder = tiny_model().encoder
    encoder.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ValueError, match="holds no encoder that can be read .*Git LFS pointer"):
        load_encoder(str(tmp_path), {})


def test_whole_weights_have_no_damage(folder: Path) -> None:
    assert damage_of(folder / "model.safetensors") is None and damaged_weights(folder) is None
    assert damaged_weights("org/a-name-on-the-hub") is None


def test_the_digest_of_weights_is_that_of_names_and_bytes_in_the_order_of_the_names() -> None:
    module = nn.BatchNorm1d(2, dtype=torch.bfloat16)  # with buffers, one of them a whole number without an axis
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, -2.0]))
    # The upper halves of IEEE 754 single precision, little-endian: 1 is 0x3f80, -2 is 0xc000, 0 is 0.
    parts = {
        "bias": bytes(4),
        "num_batches_tracked": bytes(8),
        "running_mean": bytes(4),
        "running_var": bytes.fromhex("803f803f"),
        "weight": bytes.fromhex("803f00c0"),
    }
    expected = hashlib.sha256(b"".join(name.encode() + content for name, content in parts.items()))
    assert digest_weights(module).hexdigest() == expected.hexdigest()


def test_the_digest_of_weights_tells_any_change() -> None:
    model = tiny_model()
    before = digest_weights(model).hexdigest()
    assert digest_weights(tiny_model()).hexdigest() == before
    with torch.no_grad():
        next(iter(model.heads["expression"].parameters())).view(-1)[0] += 1e-6
    assert digest_weights(model).hexdigest() != before
