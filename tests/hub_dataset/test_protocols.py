"""Protocols of a built data set: its own, another kind, a file; and everything that would leak subjects."""

import json
from pathlib import Path

import pytest

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.folds import Fold, Protocol
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.hub_dataset.loading.protocols import check_protocol, find_fold, fold_title, load_fold, resolve_protocol

SUBJECTS = ("S01", "S02", "S03")


def protocol_file(folder: Path, *folds: dict, name: str = "mine") -> str:
    file = folder / "protocol.json"
    file.write_text(json.dumps({"name": name, "folds": list(folds)}))
    return str(file)


def fold_of(train: str, validation: str, test: str, name: str = "only") -> dict:
    parts = {"train": train, "validation": validation, "test": test}
    return {"name": name, **{split: subjects.split() for split, subjects in parts.items()}}


def test_a_data_set_is_divided_as_it_was_built(small_dataset: Path) -> None:
    built = resolve_protocol(small_dataset)
    assert built.kind == "holdout" and built == resolve_protocol(small_dataset, "as-built")
    rows, loaded = load_fold(small_dataset), load_multitask_dataset(small_dataset)
    assert {split: part["name"] for split, part in rows.items()} == {
        name: part["name"] for name, part in loaded.items()
    }


def test_another_protocol_divides_the_same_clips_anew(small_dataset: Path) -> None:
    protocol = resolve_protocol(small_dataset, "folds:3")
    everything = sorted(name for part in load_multitask_dataset(small_dataset).values() for name in part["name"])
    for fold in protocol.folds:
        rows = load_fold(small_dataset, "folds:3", fold.name)
        assert {split: set(part["subject"]) for split, part in rows.items()} == {
            split: set(getattr(fold, split)) for split in ("train", "validation", "test")
        }
        assert sorted(name for part in rows.values() for name in part["name"]) == everything
    assert fold_title(small_dataset, "folds:3", "fold_2") == f"{protocol.name}, fold_2"


def test_a_protocol_comes_from_a_file(small_dataset: Path, tmp_path: Path) -> None:
    wanted = protocol_file(tmp_path, fold_of("S03", "S01", "S02"))
    rows = load_fold(small_dataset, wanted)
    assert set(rows["train"]["subject"]) == {"S03"} and set(rows["test"]["subject"]) == {"S02"}
    assert fold_title(small_dataset, wanted) == "mine"


@pytest.mark.parametrize(
    ("folds", "told"),
    [
        ([fold_of("S01 S02", "S03", "S02")], "would leak 1 subject.*'S02' stands in train and test"),
        ([fold_of("S01", "S02", "S02")], "'S02' stands in validation and test"),
        ([fold_of("S01", "S02", "")], "has no test subjects"),
        ([fold_of("S01", "", "S02")], "has no validation subjects"),
        ([fold_of("S01", "S02", "S03", "a"), fold_of("S02", "S01", "S03", "b")], "tests subject 'S03' in a and b"),
        ([fold_of("S01", "S02", "S99")], "subject 'S99' is not in the data set"),
        ([], "needs at least one fold"),
        ([{"name": "a", "train": 3}], "is no protocol"),
    ],
)
def test_a_protocol_that_would_leak_or_is_damaged_is_refused(small_dataset, tmp_path, folds, told) -> None:
    with pytest.raises(DatasetError, match=told):
        load_fold(small_dataset, protocol_file(tmp_path, *folds))


def test_clips_of_unknown_people_leak_by_any_division() -> None:
    with pytest.raises(DatasetError, match="nobody knows who is seen"):
        check_protocol(Protocol("p", "file", (Fold("a", ("unknown",), ("x",), ("y",)),)), ["unknown", "x", "y"])


def test_parts_of_official_lists_are_no_subjects() -> None:
    check_protocol(Protocol("p", "official", (Fold("a", ("train/01",), ("train/02",), ("a/01",)),)), ["unknown"])


@pytest.mark.parametrize("wanted", ["folds:x", "none:3", "alphabetical", "mae-dfer"])
def test_unknown_protocols_are_refused_with_the_known_ones(small_dataset: Path, wanted: str) -> None:
    with pytest.raises(DatasetError, match=f"--protocol {wanted}: must be one of as-built, holdout, folds"):
        resolve_protocol(small_dataset, wanted)


def test_a_file_that_is_none_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no readable protocol"):
        resolve_protocol(small_dataset, str(tmp_path / "none.json"))


def test_folds_are_found_by_name_and_number(small_dataset: Path) -> None:
    protocol = resolve_protocol(small_dataset, "folds:3")
    assert find_fold(protocol, None).name == find_fold(protocol, "1").name == "fold_1"
    assert find_fold(protocol, "fold_3").name == find_fold(protocol, "3").name == "fold_3"
    for wrong in ("0", "4", "fold_4", "-1"):
        with pytest.raises(DatasetError, match=f"no fold '{wrong}': .* has fold_1, fold_2, fold_3"):
            find_fold(protocol, wrong)
