"""The picture of a clip: boxes and points are drawn where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtcae_dfer.inference import clips
from mtcae_dfer.inference.pictures import LABELLED, PREDICTED, draw_clip_picture
from tests.support.video_files import write_numbered_video

GRAY_FRAMES = torch.full((16, 3, 64, 64), 128, dtype=torch.uint8)
BOXES = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(16, 4)
POINTS = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.65], [0.6, 0.65]]).expand(16, 5, 2)


def count_pixels(picture: Path, colour: str) -> int:
    wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    return int((np.abs(pixels - wanted).max(axis=-1) < 12).sum())


def test_predictions_and_labels_have_their_colours(tmp_path: Path) -> None:
    with_labels, without = tmp_path / "with.png", tmp_path / "without.png"
    draw_clip_picture(GRAY_FRAMES, BOXES, POINTS, with_labels, BOXES, POINTS, expression_scores={"calm": 1.0})
    draw_clip_picture(GRAY_FRAMES, BOXES, POINTS, without)
    assert count_pixels(with_labels, PREDICTED) > 500 and count_pixels(with_labels, LABELLED) > 0
    assert count_pixels(without, PREDICTED) > 500 and count_pixels(without, LABELLED) == 0


def test_labels_of_frames_without_a_face_are_not_drawn(tmp_path: Path) -> None:
    draw_clip_picture(GRAY_FRAMES, None, None, tmp_path / "a.png", BOXES, POINTS, torch.ones(16, dtype=torch.bool))
    draw_clip_picture(GRAY_FRAMES, None, None, tmp_path / "b.png", BOXES, POINTS, torch.zeros(16, dtype=torch.bool))
    assert count_pixels(tmp_path / "a.png", LABELLED) > 10 * max(1, count_pixels(tmp_path / "b.png", LABELLED) - 100)


@pytest.mark.parametrize("frames", [1, 3, 16])
def test_clips_of_any_length_are_drawn_and_leave_nothing_behind(tmp_path: Path, frames: int) -> None:
    draw_clip_picture(GRAY_FRAMES[:frames], BOXES[:frames], POINTS[:frames], tmp_path / "picture.png")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_clip_is_drawn_in_the_proportions_of_its_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_numbered_video(tmp_path / "wide.mp4", 4, height=48, width=80)
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(clips, "draw_clip_picture", lambda frames, *arguments, **named: drawn.append(frames))
    result = {"clip": str(clip), "width": 80, "height": 48, "face_boxes": None, "face_landmarks": None}
    clips.draw_predicted_clip(result | {"expression": None}, 4, tmp_path / "wide.png")
    assert drawn[0].shape[2] / drawn[0].shape[3] == pytest.approx(48 / 80, abs=0.01)
