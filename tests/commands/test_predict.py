"""`mtcae predict`: the same scores as the pipeline, one clear line for every bad input, nothing lost in a batch."""

import json
from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import DEMONSTRATION_NOTE, load_model
from tests.support.video_files import (
    cut_off,
    noisy_frames,
    write_audio_only,
    write_lossless_video,
    write_text_as_video,
    write_zero_frame_video,
)


@pytest.fixture(scope="module")
def clip(small_corpus: Path) -> Path:
    return sorted((small_corpus / "videos").rglob("*.mp4"))[0]


def test_a_clip_is_predicted_with_scores_that_sum_to_one(small_run: Path, clip: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "result.json"
    assert main(["predict", str(clip), "--model", str(small_run), "--json", str(output), "--verify-face"]) == 0
    (result,) = json.loads(output.read_text())
    assert sum(result["expression"].values()) == pytest.approx(1.0, abs=1e-5)
    assert set(result["expression"]) == {"neutral", "happiness"}
    assert len(result["face_boxes"]) == len(result["face_landmarks"]) == len(result["timestamps"]) == 16
    assert (result["width"], result["height"]) == (224, 224)
    assert result["face_coverage"] == 1.0
    printed = capsys.readouterr().out
    assert "face box of frame 9 of 16" in printed and "frames with a face (MTCNN): 100%" in printed


def test_the_stock_pipeline_gives_the_same_scores(small_run: Path, clip: Path) -> None:
    from transformers import pipeline

    answers = pipeline("video-classification", model=str(small_run), trust_remote_code=True)(str(clip), top_k=2)
    model, processor = load_model(str(small_run))
    expected = predict_file(str(clip), model, processor)["expression"]
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(expected, abs=1e-5)


def test_top_k_keeps_the_most_probable(small_run: Path, clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert main(["predict", str(clip), "--model", str(small_run), "--json", str(output), "--top-k", "1"]) == 0
    (result,) = json.loads(output.read_text())
    (probability,) = result["expression"].values()
    assert probability >= 0.5


def test_a_clip_without_a_face_is_told(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    noise = write_lossless_video(tmp_path / "noise.mkv", noisy_frames(20, 64, 64))
    assert main(["predict", str(noise), "--model", str(small_run), "--verify-face"]) == 0
    assert "no face was found: do not trust the scores above" in capsys.readouterr().out


BAD_CLIPS = {
    "missing": lambda folder: folder / "nowhere.mp4",
    "directory": lambda folder: folder,
    "empty": lambda folder: _empty(folder / "empty.mp4"),
    "text": lambda folder: write_text_as_video(folder / "text.mp4"),
    "audio": lambda folder: write_audio_only(folder / "audio.mp4"),
    "zero frames": lambda folder: write_zero_frame_video(folder / "none.mp4"),
}


def _empty(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_a_bad_clip_is_one_line_and_does_not_lose_the_others(
    small_run: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    bad, output = BAD_CLIPS[kind](tmp_path), tmp_path / "result.json"
    assert main(["predict", str(bad), str(clip), "--model", str(small_run), "--json", str(output)]) == 1
    failed, good = json.loads(output.read_text())
    assert set(failed) == {"clip", "error"} and "expression" in good
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2 and "1 of 2 clips could not be read" in errors[0]
    assert bad.name in errors[1] and "Traceback" not in errors[1]


def test_a_truncated_clip_uses_what_can_be_read_and_says_so(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_lossless_video(tmp_path / "clip.mkv", noisy_frames(60, 64, 64))
    cut_off(path, 0.5)
    assert main(["predict", str(path), "--model", str(small_run)]) == 0
    assert "note:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("no weights", "holds no weights (model.safetensors)"),
        ("no config", "no model folder or Hub id that can be read"),
        ("other frames", "the model takes 16 frames, but its processor samples 8"),
    ],
)
def test_a_bad_model_folder_is_one_line(
    small_run: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damage: str, told: str
) -> None:
    folder = _damaged_copy(small_run, tmp_path / "model", damage)
    assert main(["predict", str(clip), "--model", str(folder)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("mtcae: error:") and told in error[0]


def _damaged_copy(small_run: Path, folder: Path, damage: str) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json"):
        (folder / name).write_bytes((small_run / name).read_bytes())
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "other frames":
        processor = json.loads((folder / "video_preprocessor_config.json").read_text())
        (folder / "video_preprocessor_config.json").write_text(json.dumps(processor | {"num_frames": 8}))
    return folder


def test_without_a_model_the_demonstration_model_answers_and_says_what_it_is(
    clip: Path, tmp_path: Path, capsys
) -> None:
    assert main(["predict", str(clip), "--json", str(tmp_path / "out.json")]) == 0
    assert DEMONSTRATION_NOTE in capsys.readouterr().err
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert len(result["expression"]) == 7
    assert main(["explain", str(clip), "--output", str(tmp_path / "why.png")]) == 0
    assert DEMONSTRATION_NOTE in capsys.readouterr().err


def test_without_a_clip_one_line_says_what_to_give(capsys: pytest.CaptureFixture) -> None:
    assert main(["predict"]) == 2
    assert "name a video file" in capsys.readouterr().err


def test_a_result_file_that_cannot_be_written_is_one_line(small_run: Path, clip: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "nowhere" / "result.json"
    assert main(["predict", str(clip), "--model", str(small_run), "--json", str(output)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_real_clips_are_predicted_in_their_own_pixels(small_run: Path, real_samples: Path, tmp_path: Path) -> None:
    clips = [str(real_samples / name) for name in ("02-01-01-01-02-01-01.mp4", "1001_DFA_HAP_XX.flv")]
    output = tmp_path / "result.json"
    assert main(["predict", *clips, "--model", str(small_run), "--json", str(output), "--verify-face"]) == 0
    ravdess, crema_d = json.loads(output.read_text())
    assert (ravdess["width"], ravdess["height"]) == (1280, 720)
    assert (crema_d["width"], crema_d["height"]) == (480, 360)
    assert ravdess["face_coverage"] == crema_d["face_coverage"] == 1.0


def test_no_face_in_a_real_clip_is_told(small_run: Path, real_samples: Path, capsys: pytest.CaptureFixture) -> None:
    clip = str(real_samples / "no_face.mp4")
    assert main(["predict", clip, "--model", str(small_run), "--verify-face"]) == 0
    assert "do not trust the scores above" in capsys.readouterr().out
