"""`mtcae dataset`: a wrong option is one line that names it as it was typed, before any work."""

from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import main
from tests.support.video_files import write_numbered_video


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three clips of nobody known, in two classes."""
    for number, name in enumerate(("fear/one", "fear/two", "anger/three")):
        file = tmp_path / "clips" / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_numbered_video(file, 5 + number)
    return tmp_path / "clips"


def error_of(capsys: pytest.CaptureFixture, *words: object) -> str:
    """The one line of a call that fails."""
    assert main(["dataset", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("mtcae: error: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--num-frames", "0"), "--num-frames 0: must be at least 1"),
        (("--num-frames=-1",), "--num-frames -1: must be at least 1"),
        (("--size", "0"), "--size 0: must be at least 1"),
        (("--min-face", "5"), "--min-face 5.0: must be at least 12"),
        (("--workers", "0"), "--workers 0: must be at least 1"),
        (("--workers=-1",), "--workers -1: must be at least 1"),
        (("--device", "foo"), "--device foo: cannot be used here ("),
        (("--device", "cuda:99"), "--device cuda:99: cannot be used here ("),
    ],
)
def test_a_wrong_value_is_not_blamed_on_the_clips(source: Path, tmp_path: Path, capsys, words, told: str) -> None:
    assert error_of(capsys, "build", "folder", source, tmp_path / "out", "--splits", "none", *words).startswith(told)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_clips_of_unknown_subjects_are_refused_by_the_options_that_help(source: Path, tmp_path: Path, capsys) -> None:
    told = error_of(capsys, "build", "folder", source, tmp_path / "out")
    assert told == (
        "--splits holdout: 3 clips have no known subject; tell the subjects, in a CSV file or by a --subject-pattern, "
        "or choose none"
    )


def test_an_impossible_number_of_folds_is_refused_by_its_option(source: Path, tmp_path: Path, capsys) -> None:
    words = ("--subject-pattern", "(.+)", "--splits", "folds", "--num-folds", "1")
    told = error_of(capsys, "build", "folder", source, tmp_path / "out", *words)
    assert told == "--num-folds 1: must be at least 3 and at most the number of subjects, 3"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stills", "pictures", "--camera-path", "-1"), "--camera-path -1: must be 0, or at least 2 frames"),
        (("synthetic", "--subjects", "0"), "--subjects 0: must be between 1 and 999"),
        (("synthetic", "--corpus-seed", "-1"), "--corpus-seed -1: must be at least 0"),
        (("synthetic", "--workers", "0"), "--workers 0: must be at least 1"),
    ],
)
def test_options_of_the_corpora_are_told_by_their_names(tmp_path: Path, capsys, words, told: str) -> None:
    corpus, *more = words
    place = [more.pop(0)] if corpus == "stills" else []
    assert error_of(capsys, "build", corpus, *place, tmp_path / "out", *more) == told
    assert list(tmp_path.iterdir()) == []


def test_unknown_subjects_are_not_counted_and_a_data_set_with_videos_needs_no_others(
    source: Path, tmp_path: Path, capsys
) -> None:
    words = ("--splits", "none", "--num-frames", "2", "--size", "64", "--workers", "1")
    assert main(["dataset", "build", "folder", str(source), str(tmp_path / "out"), *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("out: 3 clips of unknown subjects in ")
    assert printed[4].split() == ["default", "train", "unknown", "3", "1", "2", "0.0"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "3 clips of unknown subjects in 2 classes" in card and "| default | train | unknown | 3 |" in card
    told = error_of(capsys, "check", tmp_path / "out", source)
    assert told == f"{tmp_path / 'out'} holds its videos: it needs no folder of videos beside it."


def test_a_fold_that_lost_a_split_is_a_warning_on_standard_error(source: Path, tmp_path: Path, capsys) -> None:
    names = ("fear/one.mp4", "fear/two.mp4", "anger/three.mp4")
    rows = [f"{name},{name.split('/')[0]},S{number}" for number, name in enumerate(names)]
    (source / "clips.csv").write_text("\n".join(["path,expression,subject", *rows]))
    from mtcae_dfer.hub_dataset.folds import make_protocol

    (lost,) = make_protocol(["S0", "S1", "S2"]).folds[0].validation
    (source / names[int(lost[1])]).write_text("no video")
    words = ("--num-frames", "2", "--size", "64", "--workers", "1")
    assert main(["dataset", "build", "folder", str(source / "clips.csv"), str(tmp_path / "out"), *words]) == 1
    printed = capsys.readouterr()
    assert "(seed 0: 1/0/1 subjects), 1 subject(s) without readable clips left out" in printed.out
    assert "  1 warnings:\n    default: no subject of its validation split has a readable clip\n" in printed.err
