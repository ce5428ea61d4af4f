"""The main job on a small data set: what it writes, that it resumes to the same weights, what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.run import main
from tests.support.small_data import SMALL_EXPRESSIONS
from tests.support.video_files import write_numbered_video


def words_of(dataset: Path, output: Path, *more: str) -> list[str]:
    return ["--dataset", str(dataset), "--output_dir", str(output), "--save_seconds", "0", *more]


def test_a_run_writes_a_model_folder_and_a_report(small_run: Path) -> None:
    for name in (
        "model.safetensors",
        "config.json",
        "video_preprocessor_config.json",
        "modeling_mtcae.py",
        "report.png",
    ):
        assert (small_run / name).stat().st_size > 0
    report = load_report(small_run / "report.json")
    assert {"uar", "war", "face_box_iou", "landmark_nme"} <= set(report["test"])
    assert report["protocol"].startswith("subject-independent holdout")
    assert report["options"]["num_train_epochs"] == 2 and report["seed"] == 0
    assert len(report["history"]) == 2


def test_no_subject_stands_in_two_splits(small_run: Path) -> None:
    subjects = load_report(small_run / "report.json")["subjects"]
    splits = [set(subjects[name]) for name in ("train", "validation", "test")]
    assert all(splits) and sum(map(len, splits)) == len(set.union(*splits)) == 3


def test_the_selected_epoch_is_the_best_on_validation_clips(small_run: Path) -> None:
    report = load_report(small_run / "report.json")
    best = max(report["history"], key=lambda record: (record["validation_uar"], -record["validation_loss"]))
    assert report["selected_epoch"] == best["epoch"]


def test_the_constant_predictor_is_the_training_clips_mean(small_run: Path, small_dataset: Path) -> None:
    from mtcae_dfer.hub_dataset.loading.load import labels_from_row, load_multitask_dataset

    rows = load_multitask_dataset(small_dataset)
    boxes = [box for row in rows["train"] for box in labels_from_row(row).face_boxes]
    mean = sum(boxes) / len(boxes)
    overlaps = []
    for row in rows["test"]:
        for box in labels_from_row(row).face_boxes:
            width = max(0.0, min(mean[2], box[2]) - max(mean[0], box[0]))
            height = max(0.0, min(mean[3], box[3]) - max(mean[1], box[1]))
            areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (mean, box)]
            overlaps.append(width * height / (sum(areas) - width * height))
    report = load_report(small_run / "report.json")
    assert report["constant_predictor"]["face_box_iou"] == pytest.approx(sum(overlaps) / len(overlaps), abs=1e-5)


@pytest.mark.parametrize("waited_for", ["epoch-00001"])
def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(
    small_run: Path, small_dataset: Path, tmp_path: Path, waited_for: str
) -> None:
    words = words_of(small_dataset, tmp_path / "run", "--num_train_epochs", "2")
    process = subprocess.Popen([sys.executable, "-m", "mtcae_dfer.training.run", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "run" / "checkpoints" / waited_for / "progress.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    assert main([*words, "--resume_from_checkpoint", "latest"]) == 0
    resumed, undisturbed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", small_run))
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)


def test_labels_joined_with_the_users_videos_train_the_same_model(
    small_run: Path, small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clips = attach_drawn_labels(
        read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS), small_corpus
    )
    options = BuildOptions(class_names=SMALL_EXPRESSIONS, embed_videos=False)
    build_dataset(clips, tmp_path / "labels", options, workers=1, progress=False)
    words = words_of(tmp_path / "labels", tmp_path / "run", "--num_train_epochs", "2")
    assert main(words) == 2
    assert "holds labels without videos: give --videos FOLDER" in capsys.readouterr().err.strip().splitlines()[-1]
    # Unpacked in one folder, as people do.
    (tmp_path / "my copy").mkdir()
    for video in (small_corpus / "videos").rglob("*.mp4"):
        shutil.copy(video, tmp_path / "my copy")
    assert main([*words, "--videos", str(tmp_path / "my copy")]) == 0
    joined, embedded = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", small_run))
    assert all(torch.equal(joined[name], embedded[name]) for name in embedded)


def test_two_runs_do_not_mix(small_run: Path, small_dataset: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words_of(small_dataset, small_run)) == 2
    assert "holds a finished run" in capsys.readouterr().err


def test_a_resumed_run_refuses_other_options(small_run: Path, small_dataset: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    os.symlink(small_run / "checkpoints", tmp_path / "run" / "checkpoints")
    words = words_of(small_dataset, tmp_path / "run", "--num_train_epochs", "2", "--learning_rate", "0.5")
    assert main([*words, "--resume_from_checkpoint", "latest"]) == 2
    assert "learning_rate 0.001 -> 0.5" in capsys.readouterr().err


def test_training_on_all_clips_says_so(small_dataset: Path, tmp_path: Path) -> None:
    words = words_of(small_dataset, tmp_path / "run", "--num_train_epochs", "1", "--train_on_all", "true")
    assert main(words) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "says nothing about unseen people" in report["protocol"]
    assert report["subjects"]["train"] == report["subjects"]["test"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model", "no-such-model"], "--model no-such-model: neither a preset"),
        (["--structure", "spiral"], "structure='spiral': must be one of"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0: must be greater than 0"),
        (["--resume_from_checkpoint", "epoch-9"], "no complete checkpoint"),
    ],
)
def test_wrong_options_are_one_line(small_dataset: Path, tmp_path: Path, capsys, more: list[str], told: str) -> None:
    assert main(words_of(small_dataset, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("run.py: error:") and told in error


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model", "tinny"], "--model tinny: neither a preset (finetune,"),
        (["--model", "tiny", "--encoder", "no-such-encoder"], "no-such-encoder holds no encoder that can be read"),
        (["--model", "tiny", "--encoder_overrides", "num_frames=8"], "needs --encoder, whose fields they are"),
        (["--model", "tiny", "--pooling", "sum"], "pooling='sum'"),
        (["--synthetic_subjects", "0"], "--synthetic_subjects 0: must be between 1 and 999"),
    ],
)
def test_a_model_or_corpus_that_cannot_be_is_told_before_folders_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, more: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(more) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words_of(tmp_path, tmp_path / "run")) == 2
    assert "is no data set of this package" in capsys.readouterr().err


def test_a_run_on_face_crops_saves_a_processor_that_crops_likewise(small_dataset: Path, tmp_path: Path) -> None:
    words = words_of(small_dataset, tmp_path / "run", "--num_train_epochs", "1", "--face_crop", "true")
    assert main([*words, "--face_crop_margin", "0.2"]) == 0
    saved = json.loads((tmp_path / "run" / "video_preprocessor_config.json").read_text())
    assert saved["do_face_crop"] is True and saved["face_crop_margin"] == 0.2
    assert load_report(tmp_path / "run" / "report.json")["protocol"].endswith("frames cropped to the face")


def test_a_crop_without_faces_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for length, name in enumerate(SMALL_EXPRESSIONS, start=17):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        write_numbered_video(tmp_path / "corpus" / name / "clip.mp4", length)
    clips = read_folder(tmp_path / "corpus", class_names=SMALL_EXPRESSIONS)
    options = BuildOptions(class_names=SMALL_EXPRESSIONS, splits="none")
    build_dataset(clips, tmp_path / "dataset", options, workers=1, progress=False)
    words = words_of(tmp_path / "dataset", tmp_path / "run", "--tasks", "expression", "--train_on_all", "true")
    assert main([*words, "--face_crop", "true"]) == 2
    assert "has no face box in any training clip" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_trained_patch_embedding_is_not_whitened(small_run: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = words_of(small_dataset, tmp_path / "run", "--model", str(small_run), "--whiten_patch_embedding", "true")
    assert main([*words, "--num_train_epochs", "1", "--learning_rate", "1e-12"]) == 0
    name = "encoder.embeddings.patch_embeddings.projection.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (small_run, tmp_path / "run"))
    assert torch.allclose(before, after, rtol=0, atol=1e-7)
