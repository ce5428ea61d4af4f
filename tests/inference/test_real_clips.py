"""The main job on real input: six CREMA-D clips are labelled, learnt and predicted; RAVDESS clips are predicted."""

import json
from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, load_model
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.run import main as run
from mtcae_dfer.video_reading import FrameStream
from tests.support.video_files import write_lossless_video

EXPRESSION_OF = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}


def code_of(clip: Path) -> str:
    return clip.stem.split("_")[2]


@pytest.fixture(scope="module")
def crema_d_clips() -> list[Path]:
    folder = Path(__file__).parents[3] / "shared" / "samples"
    clips = sorted(folder.glob("1001_DFA_*_XX.flv"))
    if len(clips) != 6:
        pytest.skip("the real sample clips are not here")
    return clips


@pytest.fixture(scope="module")
def trained(crema_d_clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny preset on the six clips, which it is to learn by heart."""
    folder = tmp_path_factory.mktemp("real")
    for clip in crema_d_clips:
        place = folder / "clips" / EXPRESSION_OF[code_of(clip)] / clip.name
        place.parent.mkdir(parents=True)
        place.write_bytes(clip.read_bytes())
    dataset, output = folder / "dataset", folder / "run"
    build = ["dataset", "build", "folder", str(folder / "clips"), str(dataset), "--splits", "none"]
    assert mtcae([*build, "--subject-pattern", r"^(\d{4})_", "--license", "odbl"]) == 0
    options = {"num_train_epochs": 150, "per_device_train_batch_size": 3, "warmup_epochs": 5, "augment": "false"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--dataset", str(dataset), "--output_dir", str(output), "--train_on_all", "true", "--save_seconds", "600"]
    assert run(words) == 0
    return output


def test_six_real_clips_are_learnt(trained: Path) -> None:
    report = load_report(trained / "report.json")
    assert report["test"]["frames_with_face"] == 96
    assert report["test"]["war"] == 1.0
    assert report["test"]["face_box_iou"] >= 0.8
    assert "says nothing about unseen people" in report["protocol"]


def test_predict_and_pipeline_agree_on_the_very_files(trained: Path, crema_d_clips: list[Path], tmp_path: Path) -> None:
    from transformers import pipeline

    output = tmp_path / "result.json"
    assert mtcae(["predict", *map(str, crema_d_clips), "--model", str(trained), "--json", str(output)]) == 0
    classify = pipeline("video-classification", model=str(trained), trust_remote_code=True)
    for clip, result in zip(crema_d_clips, json.loads(output.read_text()), strict=True):
        first = next(iter(result["expression"]))
        assert first == EXPRESSION_OF[code_of(clip)]
        answer = classify(str(clip), top_k=1)[0]
        assert answer["label"] == first
        assert answer["score"] == pytest.approx(result["expression"][first], abs=1e-4)


def test_ravdess_clips_are_predicted_in_720p_pixels(trained: Path, crema_d_clips: list[Path], tmp_path: Path) -> None:
    clips = sorted(crema_d_clips[0].parent.glob("0*.mp4"))
    output = tmp_path / "result.json"
    assert len(clips) == 2
    assert mtcae(["predict", *map(str, clips), "--model", str(trained), "--json", str(output), "--verify-face"]) == 0
    for result in json.loads(output.read_text()):
        assert (result["width"], result["height"]) == (1280, 720)
        assert result["face_coverage"] == 1.0
        assert sum(result["expression"].values()) == pytest.approx(1.0, abs=1e-5)


def test_windows_of_a_concatenation_are_the_predictions_of_its_clips(crema_d_clips: list[Path], tmp_path: Path) -> None:
    scenes = [
        [frame.picture().permute(1, 2, 0).numpy() for frame in FrameStream(clip)][:50] for clip in crema_d_clips[::2]
    ]
    film = write_lossless_video(tmp_path / "film.mkv", [picture for scene in scenes for picture in scene])
    model, processor = load_model(str(DEMONSTRATION_MODEL))
    pipe = FacialExpressionTimelinePipeline(model=model, video_processor=processor, device="cpu")
    (person,) = pipe(str(film), people="single", window_seconds=2.0, hop_seconds=2.0)["people"]
    assert len(person["windows"]) == len(scenes) == 3
    for number, (window, scene) in enumerate(zip(person["windows"], scenes, strict=True)):
        single = predict_file(str(write_lossless_video(tmp_path / f"{number}.mkv", scene)), model, processor)
        assert window["scores"] == pytest.approx(single["expression"], abs=1e-4)
        assert window["face_coverage"] == 1.0
