"""Timelines of several videos in one call."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from mtcae_dfer import MTCAEVideoProcessor
from mtcae_dfer.inference.studies import predict_timelines
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_files import write_numbered_video


def test_a_file_without_permission_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, good = (str(write_numbered_video(tmp_path / name, 20)) for name in ("locked.mp4", "good.mp4"))
    opened = builtins.open

    def refuse(file: Any, *words: Any, **options: Any) -> Any:
        """As the system does it for a user who may not read the file; root may read all."""
        if file == locked:
            raise PermissionError(13, "Permission denied", file)
        return opened(file, *words, **options)

    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    pipe = FacialExpressionTimelinePipeline(model=tiny_model(), video_processor=processor, device="cpu")
    monkeypatch.setattr(builtins, "open", refuse)
    study = predict_timelines([locked, good], pipe, {"people": "single"}, progress=False)
    assert list(study.timelines) == [good]
    failed, answered = sorted(study.entries(), key=lambda entry: "people" in entry)
    assert failed["video"] == locked and failed["error"]["code"] == "unreadable_video"
    assert f"'{locked}' cannot be read (Permission denied)" in failed["error"]["message"]
    assert answered["video"] == good
    both = pipe([locked, good], people="single")
    assert ["error" in result for result in both] == [True, False]
