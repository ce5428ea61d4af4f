"""Checkpoints: torn ones are found out and skipped, old ones go, other architectures are listed."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from mtcae_dfer.training.checkpoints import (
    CheckpointError,
    checkpoint_name,
    find_checkpoint,
    list_checkpoints,
    load_progress,
    refuse_other_architecture,
    save_checkpoint,
)


@pytest.fixture()
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(torch.nn.Linear(3, 2))
    return accelerator


@pytest.fixture()
def folder(accelerator: Accelerator, tmp_path: Path) -> Path:
    """Three checkpoints: after epoch 1, two steps later, after epoch 2."""
    for progress in ({"epoch": 1}, {"epoch": 1, "step": 2}, {"epoch": 2, "step": 0}):
        save_checkpoint(accelerator, tmp_path, progress, keep=3)
    return tmp_path


def test_names_sort_by_time() -> None:
    names = [checkpoint_name({"epoch": epoch, "step": step}) for epoch in (0, 1, 10) for step in (0, 9, 10)]
    assert names == sorted(names)


def test_only_the_newest_are_kept(accelerator: Accelerator, folder: Path) -> None:
    save_checkpoint(accelerator, folder, {"epoch": 3}, keep=2)
    assert [path.name for path in list_checkpoints(folder)] == ["epoch-00002", "epoch-00003"]


@pytest.mark.parametrize("damage", ["shortened", "changed", "missing", "progress", "manifest"])
def test_a_torn_checkpoint_is_named_and_the_one_before_it_taken(folder: Path, capsys, damage: str) -> None:
    newest = folder / "epoch-00002"
    weights = newest / "model.safetensors"
    content = weights.read_bytes()
    if damage == "shortened":
        weights.write_bytes(content[:-5])
    elif damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    else:
        (newest / f"{damage}.json").write_text("{")
    assert find_checkpoint(folder, "latest") == folder / "epoch-00001-step-00000002"
    assert "epoch-00002 is damaged" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="is damaged"):
        find_checkpoint(folder, "epoch-00002")


def test_a_folder_that_was_being_written_is_no_checkpoint(folder: Path) -> None:
    (folder / ".epoch-00003.partial").mkdir()
    (folder / "epoch-00004").mkdir()
    assert find_checkpoint(folder, "latest") == folder / "epoch-00002"
    assert load_progress(folder / "epoch-00002")["epoch"] == 2


def test_latest_of_none_is_none_and_of_torn_ones_an_error(folder: Path, tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "nowhere", "latest") is None
    for checkpoint in list_checkpoints(folder):
        (checkpoint / "manifest.json").write_text(json.dumps({"gone": [1, 1]}))
    with pytest.raises(CheckpointError, match="all checkpoints of"):
        find_checkpoint(folder, "latest")


def test_the_weights_of_another_architecture_are_listed(folder: Path) -> None:
    refuse_other_architecture(folder / "epoch-00002", torch.nn.Linear(3, 2))
    told = r"weight: \(2, 3\) there, \(2, 4\) here"
    with pytest.raises(CheckpointError, match=told):
        refuse_other_architecture(folder / "epoch-00002", torch.nn.Linear(4, 2))
    with pytest.raises(CheckpointError, match=r"bias: \(2,\) there, absent here"):
        refuse_other_architecture(folder / "epoch-00002", torch.nn.Linear(3, 2, bias=False))


def test_what_is_no_number_is_null_in_a_checkpoint_and_never_a_word_that_json_does_not_know(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    progress = {"epoch": 1, "history": [{"face_box_iou": float("nan"), "validation_loss": float("inf"), "uar": 0.5}]}
    checkpoint = save_checkpoint(accelerator, tmp_path, progress, keep=1)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    stored = json.loads((checkpoint / "progress.json").read_text(), parse_constant=refuse)
    assert stored["history"] == [{"face_box_iou": None, "validation_loss": None, "uar": 0.5}]
