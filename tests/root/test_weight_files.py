"""Damaged weights are named by file and remedy, whichever class or pipeline reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import AutoModel, pipeline

from mtcae_dfer import MTCAEVideoProcessor
from mtcae_dfer.modeling_encoders import load_encoder
from mtcae_dfer.weight_files import damage_of, damaged_weights
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


def test_a_damaged_encoder_is_named_too(tmp_path: Path) -> None:
    encoder = tiny_model().encoder
    encoder.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ValueError, match="holds no encoder that can be read .*Git LFS pointer"):
        load_encoder(str(tmp_path), {})


def test_whole_weights_have_no_damage(folder: Path) -> None:
    assert damage_of(folder / "model.safetensors") is None and damaged_weights(folder) is None
    assert damaged_weights("org/a-name-on-the-hub") is None
