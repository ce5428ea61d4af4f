"""Who is to blame where a video has no answer: the video, or model and device, at which the whole study ends."""

import csv
import json
from pathlib import Path

import pytest
import torch

from mtcae_dfer import MTCAEVideoProcessor, pipeline_mtcae
from mtcae_dfer.inference.answering import Crew, VideoAnswerer, answer_study
from mtcae_dfer.inference.answers import AnswerFolder, PlannedVideo, StudyOptions, open_answers, plan_study
from mtcae_dfer.people_tracking import FaceSearch
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_files import (
    cut_off,
    noisy_frames,
    write_lossless_video,
    write_numbered_video,
    write_text_as_video,
)

PROCESSOR = MTCAEVideoProcessor(num_frames=FRAMES, size={"height": SIDE, "width": SIDE})
SINGLE = {"people": "single"}


@pytest.fixture()
def videos(tmp_path: Path) -> list[PlannedVideo]:
    """One video, one that is cut off, and one that is none, in this order."""
    folder = tmp_path / "videos"
    folder.mkdir()
    whole = write_numbered_video(folder / "a.mp4", 20)
    (folder / "b.mp4").write_bytes(whole.read_bytes()[:300])
    write_text_as_video(folder / "c.mp4")
    (tmp_path / "out").mkdir()
    return plan_study([str(folder)], tmp_path / "out")


def open_study(tmp_path: Path, timelines: bool) -> AnswerFolder:
    options = StudyOptions(timelines=timelines, pipeline=SINGLE if timelines else {})
    return open_answers(tmp_path / "out", options, tiny_model(), PROCESSOR)


@pytest.mark.parametrize("timelines", [False, True])
def test_a_broken_video_is_named_and_the_others_are_answered(
    videos: list[PlannedVideo], tmp_path: Path, timelines: bool
) -> None:
    failures = answer_study(videos, open_study(tmp_path, timelines), tiny_model(), PROCESSOR, Crew(workers=1), False)
    assert sorted(failures) == ["b.mp4", "c.mp4"] and videos[0].answer.is_file()
    assert all(
        "cannot be opened as a video" in failure and str(tmp_path) not in failure for failure in failures.values()
    )


@pytest.mark.parametrize("timelines", [False, True])
def test_a_damaged_video_is_told_by_its_name(tmp_path: Path, timelines: bool) -> None:
    (tmp_path / "out").mkdir()
    video = cut_off(write_lossless_video(tmp_path / "film.mkv", noisy_frames(60, 64, 64)), 0.5)
    answers, planned = open_study(tmp_path, timelines), plan_study([str(video)], tmp_path / "out")
    assert answer_study(planned, answers, tiny_model(), PROCESSOR, Crew(workers=1), False) == {}
    rows = list(csv.DictReader((tmp_path / "out" / "all.csv").open(encoding="utf-8")))
    (told,) = {row["warning"] for row in rows}
    assert {row["file"] for row in rows} == {"film.mkv"}
    assert told.startswith("'film.mkv' is damaged or cut off: only the first")
    assert json.loads(planned[0].answer.read_text())["warning"] == told


@pytest.mark.parametrize("timelines", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("logits of another shape"),
        KeyError("expression"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_model_or_device_ends_the_study(
    videos: list[PlannedVideo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timelines: bool, fault: Exception
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise fault

    model = tiny_model()
    monkeypatch.setattr(model, "forward", stumble)
    monkeypatch.setattr(FaceSearch, "search", stumble)  # of timelines: a video without a face never gets to the model
    with pytest.raises(type(fault)) as raised:
        answer_study(videos, open_study(tmp_path, timelines), model, PROCESSOR, Crew(workers=1), False)
    assert raised.value is fault
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["study.json"]


@pytest.mark.parametrize("timelines", [False, True])
def test_of_files_only_the_video_itself_can_be_what_is_not_read(
    videos: list[PlannedVideo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timelines: bool
) -> None:
    answerer = VideoAnswerer(open_study(tmp_path, timelines), tiny_model(), PROCESSOR)
    error: OSError = PermissionError(13, "Permission denied", videos[0].path)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline_mtcae, "FrameStream", refuse)
    monkeypatch.setattr(answerer, "processor", refuse)
    advice = "check its permissions and its drive, or copy it again"
    assert answerer(videos[0]) == ("a.mp4", f"'a.mp4' cannot be read (Permission denied): {advice}")
    error = OSError(5, "Input/output error")  # as reading from an open file gives it
    assert answerer(videos[0]) == ("a.mp4", f"'a.mp4' cannot be read (Input/output error): {advice}")
    error = FileNotFoundError(2, "No such file or directory", "/models/mtcnn.pt")
    with pytest.raises(FileNotFoundError, match=r"mtcnn\.pt"):
        answerer(videos[0])
