"""From the official folder of a corpus to a data set that a fresh process loads, through the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.building.build import BuildOptions
from mtcae_dfer.hub_dataset.building.corpus_building import build_corpus
from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from tests.support.look_alike_corpora import make_crema_d_like, make_dfew_like, make_mead_like, make_ravdess_like

SMALL = ("--num-frames", "4", "--size", "160", "--workers", "1")
FRAMES = 5

# What a fresh process sees of data sets: splits of the first fold, and one decoded clip of each.
LOAD = """
import json, sys
from datasets import load_dataset
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset, protocol_name
from mtcae_dfer.video_reading import read_clip

seen = {}
for folder in sys.argv[1:]:
    splits = load_dataset(folder)
    assert load_multitask_dataset(folder).num_rows == splits.num_rows
    names = splits["train"].features["expression"].names
    clip = read_clip(splits["train"][0]["video"]["bytes"], num_frames=4)
    seen[folder] = {
        "classes": names,
        "protocol": protocol_name(folder),
        "subjects": {split: sorted(set(rows["subject"])) for split, rows in splits.items()},
        "expressions": {row["name"]: names[row["expression"]] for rows in splits.values() for row in rows},
        "attributes": {row["name"]: json.loads(row["attributes"]) for rows in splits.values() for row in rows},
        "frames": list(clip.frames.shape),
        "stored": [clip.info.width, clip.info.height, round(clip.info.frame_rate, 2)],
    }
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Data sets of four corpora, built by the command."""
    folder = tmp_path_factory.mktemp("corpora")
    make_ravdess_like(
        folder / "ravdess",
        ("01", "05", "09"),
        ("01", "02", "05"),
        modalities=("01", "02"),
        statements=("01",),
        repetitions=("01",),
        intensities=("01",),
        frames=FRAMES,
    )
    make_crema_d_like(
        folder / "crema-d",
        ("1001", "1002", "1020", "1040", "1060"),
        ("ANG", "HAP"),
        ("DFA",),
        votes={"1001_DFA_ANG_XX": "H", "1002_DFA_ANG_XX": "A:H"},
        frames=FRAMES,
    )
    make_mead_like(
        folder / "mead", ("M003", "M005", "W009"), ("happy", "contempt"), ("front", "top"), (2,), frames=FRAMES
    )
    make_dfew_like(folder / "dfew", {number: "15"[number % 2] for number in range(1, 13)}, folds=5, frames=FRAMES)
    for name, *options in (
        ("ravdess", "--splits", "mae-dfer", "--modality", "either"),
        ("crema-d", "--labels", "perceived"),
        ("mead", "--splits", "leave-one-subject-out"),
        ("dfew",),
    ):
        command = ["dataset", "build", name, str(folder / name), str(folder / f"{name}-built"), *SMALL, *options]
        assert main(command) == 0, name
    return folder


@pytest.fixture(scope="module")
def loaded(built: Path, tmp_path_factory) -> dict[str, dict]:
    """What a process of its own sees of them, by corpus."""
    names = ("ravdess", "crema-d", "mead", "dfew")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("cache"))}
    command = [sys.executable, "-c", LOAD, *(str(built / f"{name}-built") for name in names)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return {Path(folder).name.removesuffix("-built"): seen for folder, seen in json.loads(run.stdout).items()}


def card_of(folder: Path) -> tuple[dict, str]:
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_ravdess_like_tree_loads_in_a_fresh_process(loaded):
    seen = loaded["ravdess"]
    assert seen["classes"] == ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]
    assert seen["protocol"].startswith("MAE-DFER's 6 folds of ravdess") and seen["protocol"].endswith(", fold_1")
    assert seen["subjects"]["test"] == ["01"] and set(seen["subjects"]) == {"train", "validation", "test"}
    assert len(seen["expressions"]) == 9  # each performance once, though its file with sound is there too
    assert seen["expressions"]["Actor_05/02-01-02-01-01-01-05.mp4"] == "neutral"
    assert seen["attributes"]["Actor_05/02-01-02-01-01-01-05.mp4"]["emotion"] == "calm"
    assert seen["frames"] == [4, 3, 720, 1280] and seen["stored"] == [1280, 720, 29.97]


def test_a_crema_d_like_tree_with_perceived_labels_loads_in_a_fresh_process(loaded):
    seen = loaded["crema-d"]
    assert seen["classes"] == ["neutral", "happiness", "sadness", "anger", "fear", "disgust"]
    assert seen["protocol"] == (
        "MTCAE-DFER's 5 subject-independent folds (lists unpublished: subjects dealt by seed 0), fold_1"
    )
    assert len(seen["expressions"]) == 9  # the tie is left out
    name = "VideoFlash/1001_DFA_ANG_XX.flv"
    assert seen["expressions"][name] == "happiness" and seen["attributes"][name]["intended"] == "anger"
    assert seen["frames"] == [4, 3, 360, 480] and seen["stored"][:2] == [480, 360]


def test_a_mead_like_tree_loads_in_a_fresh_process(loaded):
    seen = loaded["mead"]
    assert seen["classes"][-1] == "contempt" and len(seen["classes"]) == 8
    assert seen["protocol"] == "leave-one-subject-out, fold_1"
    assert sorted(sum(seen["subjects"].values(), [])) == ["M003", "M005", "W009"]
    assert {attributes["view"] for attributes in seen["attributes"].values()} == {"front"}
    assert len(seen["expressions"]) == 6 and seen["frames"] == [4, 3, 1080, 1920]


def test_a_dfew_like_tree_with_its_official_folds_loads_in_a_fresh_process(loaded, built):
    seen = loaded["dfew"]
    assert seen["protocol"].startswith("dfew's official 5 folds (validation: 17% of the training clips")
    assert len(seen["expressions"]) == 12 and seen["subjects"]["test"] == ["unknown"]
    counts = read_build_report(built / "dfew-built").fold_counts
    # Twelve clips are dealt to five lists: 1, 6 and 11 to the first, 2, 7 and 12 to the second, 3 and 8 to the third.
    assert [sum(counts[f"fold_{fold}"]["test"].values()) for fold in range(1, 6)] == [3, 3, 2, 2, 2]
    assert counts["fold_1"]["test"]["surprise"] == 2 and counts["fold_1"]["test"]["happiness"] == 1
    assert all(sum(map(sum, (split.values() for split in fold.values()))) == 12 for fold in counts.values())


def test_cards_tell_labels_protocol_balance_licence_and_citation(built):
    head, text = card_of(built / "crema-d-built")
    assert head["license"] == "odbl" and head["pretty_name"] == "CREMA-D" and len(head["configs"]) == 5
    assert "Labels: CREMA-D. Labels are the crowd-perceived emotions" in text
    assert "## Protocol: MTCAE-DFER's 5 subject-independent folds" in text and "| shift |" in text
    assert "@article{cao2014cremad," in text and "the videos may be passed on." in text
    head, text = card_of(built / "mead-built")
    assert head["license"] == "other" and "the videos may NOT be passed on: share labels without videos" in text
    head, text = card_of(built / "dfew-built")
    assert "12 clips of unknown subjects in 7 classes" in text and "| fold | split | parts | clips |" in text


def test_the_command_prints_findings_and_the_balance_of_every_fold(built, capsys):
    command = ["dataset", "build", "ravdess", str(built / "ravdess"), str(built / "printed"), *SMALL]
    assert main([*command, "--class-count", "8", "--splits", "leave-one-subject-out"]) == 0
    printed = capsys.readouterr()
    assert "  all 60 recordings of subject 02\n" in printed.err and "  class calm: 3 of 192\n" in printed.err
    assert "  02-01-03-01-01-01-01\n" in printed.err and "  … and " in printed.err
    lines = [line.split() for line in printed.out.splitlines()]
    assert "fold split subjects clips neutral calm happiness sadness anger fear disgust surprise shift".split() in lines
    assert "fold_1 test 1 3 1 1 0 0 1 0 0 0 0.0".split() in lines
    capsys.readouterr()
    assert main([*command, "--class-count", "8", "--splits", "leave-one-subject-out", "--all-findings"]) == 0
    assert "… and" not in capsys.readouterr().err


def test_a_changed_reader_option_is_refused_against_a_finished_data_set(built, capsys):
    command = ["dataset", "build", "crema-d", str(built / "crema-d"), str(built / "crema-d-built"), *SMALL]
    assert main(command) == 2  # intended labels
    assert "holds another data set" in capsys.readouterr().err


def test_a_wrong_corpus_name_on_the_command_line_lists_the_right_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["dataset", "build", "ravdes", "source", "out"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    for name in ("ravdess", "crema-d", "mead", "dfew", "ferv39k", "mafw", "folder", "synthetic"):
        assert repr(name) in printed


def test_another_corpus_is_refused_in_one_line(built, capsys):
    assert main(["dataset", "build", "mead", str(built / "ravdess"), str(built / "never"), *SMALL]) == 2
    printed = capsys.readouterr().err
    assert "expected MEAD's videos, such as M003/video/front/happy/level_1/001.mp4, found 18 videos" in printed
    assert not (built / "never").exists()


def test_the_same_as_a_python_function(built):
    options = BuildOptions(splits="leave-one-subject-out", labelling=LabellingOptions(4, 160, 160))
    reading, report = build_corpus(
        "mead", built / "mead", built / "by function", options, workers=1, progress=False, views=("top",)
    )
    assert {clip.attributes["view"] for clip in reading.clips} == {"top"} and report.clip_count == 6
    assert (report.dataset_name, report.options["license"], report.options["corpus"]) == ("MEAD", "other", "mead")
    with pytest.raises(DatasetError, match="choose one of ravdess, crema-d"):
        build_corpus("meat", built / "mead", built / "never")


def test_a_file_that_is_there_under_two_names_is_built_once_and_told(built, tmp_path):
    shutil.copytree(built / "mead", tmp_path / "mead")
    happy, other = (tmp_path / f"mead/{actor}/video/front/happy/level_2/001.mp4" for actor in ("M003", "W009"))
    shutil.copy(happy, other)  # the same recording would train and test
    options = BuildOptions(splits="leave-one-subject-out", labelling=LabellingOptions(4, 160, 160))
    _, report = build_corpus("mead", tmp_path / "mead", tmp_path / "out", options, workers=1, progress=False)
    assert report.clip_count == 5
    reason = "the same file as M003/video/front/happy/level_2/001.mp4: keep one of them."
    assert report.failures == [{"name": "W009/video/front/happy/level_2/001.mp4", "reason": reason}]


def test_real_clips_build_with_the_corpus_they_are_of(real_samples, tmp_path):
    reading, report = build_corpus(
        "crema-d",
        real_samples,
        tmp_path / "out",
        BuildOptions(splits="none", labelling=LabellingOptions(4, 160, 160)),
        workers=1,
        progress=False,
    )
    assert report.clip_count == 6 and report.face_coverage == 1.0 and report.subject_counts == {"1001": 6}
    assert len(reading.not_understood) == 4  # the clips of other corpora


def test_look_alike_clips_are_all_different(tmp_path):
    make_ravdess_like(tmp_path / "r", ("01", "02"), ("01", "02"), repetitions=("01",), frames=2)
    make_mead_like(tmp_path / "m", ("M009", "W009"), ("neutral",), ("front", "top"), frames=2)
    clips = [file.read_bytes() for file in sorted(tmp_path.rglob("*.mp4"))]
    assert len(clips) == 16 and len(set(clips)) == 16
