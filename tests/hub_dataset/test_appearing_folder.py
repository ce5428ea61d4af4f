"""A folder appears whole, and two commands do not write one and the same."""

from pathlib import Path

import pytest

from mtcae_dfer.hub_dataset.files import appearing_folder


def test_a_folder_appears_when_all_is_in_it_and_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.txt").write_text("left by a killed process")
    with appearing_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_second_writer_is_refused_and_the_first_keeps_its_work(tmp_path: Path) -> None:
    with appearing_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        with pytest.raises(ValueError, match="out: another command is writing this folder"):
            with appearing_folder(tmp_path / "out"):
                pass
        (folder / "b.txt").write_text("b")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt"]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), appearing_folder(tmp_path / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
