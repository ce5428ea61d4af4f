"""`mtcae predict`: the same scores as the pipeline, one clear line for every bad input, nothing lost in a batch."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoVideoProcessor

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, PUBLISHED_NOTE, load_model
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


@pytest.mark.parametrize("more", [[], ["--verify-face"]])
def test_a_clip_without_a_face_is_told(tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str]) -> None:
    """By a model that sees whole frames as well, which has scores for them."""
    noise, output = write_lossless_video(tmp_path / "noise.mkv", noisy_frames(20, 64, 64)), tmp_path / "out.json"
    words = [str(noise), "--model", str(DEMONSTRATION_MODEL)]
    assert main(["predict", *words, "--json", str(output), *more]) == 0
    assert capsys.readouterr().out.count("no face was found: do not trust the scores\n") == 1
    (result,) = json.loads(output.read_text())
    assert result["face_found"] is False and "no face was found" in result["warning"]
    assert main(["explain", *words, "--output", str(tmp_path / "why.png")]) == 0
    assert "no face was found: do not trust the scores" in capsys.readouterr().out


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
    assert failed["error"]["code"] == "unreadable_video" and bad.name in failed["error"]["message"]
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2 and "1 of 2 clips could not be read" in errors[0]
    assert bad.name in errors[1] and "Traceback" not in errors[1]


def test_the_picture_shows_the_first_clip_that_can_be_read(clip: Path, tmp_path: Path, capsys) -> None:
    bad, picture = write_text_as_video(tmp_path / "text.mp4"), tmp_path / "clip.png"
    words = ["--model", str(DEMONSTRATION_MODEL), "--picture", str(picture)]
    assert main(["predict", str(bad), *words]) == 1
    told = capsys.readouterr().err
    assert f"--picture {picture}: not written" in told and "1 of 1 clips could not be read" in told
    assert not picture.exists()
    assert main(["predict", str(bad), str(clip), *words]) == 1
    assert "1 of 2 clips could not be read" in capsys.readouterr().err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_lines_hold_an_answer_each(clip: Path, tmp_path: Path) -> None:
    bad, output = write_text_as_video(tmp_path / "text.mp4"), tmp_path / "out.jsonl"
    words = ["predict", str(bad), str(clip), "--model", str(DEMONSTRATION_MODEL), "--json", str(output)]
    for more, key, name in (([], "expression", "clip"), (["--people", "single"], "people", "video")):
        assert main([*words, *more]) == 1
        answers = {answer[name]: answer for answer in map(json.loads, output.read_text().splitlines())}
        assert set(answers) == {str(bad), str(clip)}
        assert key in answers[str(clip)] and answers[str(bad)]["error"]["code"] == "unreadable_video"


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


def test_without_a_model_that_of_the_repository_answers_and_says_what_it_is(clip: Path, tmp_path: Path, capsys) -> None:
    assert main(["predict", str(clip), "--json", str(tmp_path / "out.json")]) == 0
    assert PUBLISHED_NOTE in capsys.readouterr().err
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert len(result["expression"]) == 7
    assert main(["explain", str(clip), "--output", str(tmp_path / "why.png")]) == 0
    assert PUBLISHED_NOTE in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--csv", "out.csv"], ["--people", "single"]])
def test_scores_that_are_no_numbers_are_one_line(
    small_run: Path, clip: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    model = AutoModel.from_pretrained(small_run)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "heads.expression" in name:
                weights.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    AutoVideoProcessor.from_pretrained(small_run).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(clip), "--model", "model", "--json", "out.json", *more]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mtcae:")]
    assert len(errors) == 1 and "the model's scores are not numbers" in errors[0]
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(clip: Path, capsys: pytest.CaptureFixture, device: str) -> None:
    assert main(["predict", str(clip), "--device", device]) == 2
    assert f"--device {device}: cannot be used here" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--json", "A.mp4", "B.mp4"], "--json A.mp4: give a name that ends in .json"),
        (["A.mp4", "--csv", "A.mp4"], "--csv A.mp4: is the input A.mp4 itself"),
        (["A.mp4", "--overlay", "link.mp4"], "--overlay link.mp4: is the input A.mp4 itself"),
        (["A.mp4", "--overlay", "hard.mp4"], "--overlay hard.mp4: is the input A.mp4 itself"),
        (["A.mp4", "--timeline", "x.png", "--picture", "./x.png"], "--timeline x.png: --picture writes the same file"),
        (["A.mp4", "--json", "x.csv"], "--json x.csv: give a name that ends in .json"),
        (["A.mp4", "--json", "nowhere/x.json"], "there is no folder"),
        (["A.mp4", "--csv", "folder.csv"], "it is a folder"),
        # Root may write everywhere, as the permissions have it; here nobody can.
        (["A.mp4", "--json", "/proc/x.json"], "--json /proc/x.json: cannot be written, /proc takes no files"),
        (["A.mp4", "B.mp4", "--overlay", "x.mp4"], "--overlay: not for several videos (2)"),
        (["A.mp4", "--per-frame"], "--per-frame: is for the rows of --csv"),
        (["*.avi"], "*.avi: stands for no video"),
        (["folder.csv"], "folder.csv: stands for no video"),
    ],
)
def test_outputs_are_looked_at_before_the_work_begins(
    words: list[str], told: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("A.mp4", "B.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link.mp4").symlink_to("A.mp4")
    (tmp_path / "hard.mp4").hardlink_to("A.mp4")
    (tmp_path / "folder.csv").mkdir()
    assert main(["predict", *words, "--model", "a model that is never looked for"]) == 2
    assert told in capsys.readouterr().err
    assert all((tmp_path / name).read_bytes() == name.encode() for name in ("A.mp4", "B.mp4"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["A.mp4", "B.mp4", "folder.csv", "hard.mp4", "link.mp4"]


def test_the_picture_of_an_explanation_is_not_the_video(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    video = tmp_path / "A.mp4"
    video.write_bytes(b"a film")
    assert main(["explain", str(video), "--output", str(video)]) == 2
    assert "is the input" in capsys.readouterr().err and video.read_bytes() == b"a film"


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
    assert "do not trust the scores" in capsys.readouterr().out
