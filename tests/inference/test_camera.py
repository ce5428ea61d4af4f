"""A camera: times and colours, all frames of a file, the latest ones of a camera, one line where there is none."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference import camera
from mtcae_dfer.inference.camera import camera_frames
from tests.support.video_files import write_lossless_video


class FakeCapture:
    """Stands for a camera that gives a picture every few milliseconds; its number is the red value."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def grab(self) -> bool:
        time.sleep(0.002)
        self.taken += 1
        return self.taken <= self.count

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((8, 8, 3), (0, 0, self.taken), np.uint8)


def test_a_file_stands_in_for_a_camera_with_its_own_times_and_colours(tmp_path: Path) -> None:
    red = [np.full((48, 64, 3), (10 * number, 0, 0), np.uint8) for number in range(20)]
    file = write_lossless_video(tmp_path / "clip.mkv", red)
    with camera_frames(str(file)) as frames:
        seen = list(frames)
    assert [seconds for seconds, _ in seen] == pytest.approx([number / 25 for number in range(20)], abs=1e-3)
    assert [int(picture[0, 0].argmax()) for _, picture in seen[1:]] == [0] * 19


@pytest.mark.parametrize("name", ["77", "/dev/no such camera", "rtsp://nowhere/stream"])
def test_no_camera_is_one_line(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", "--webcam", name]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mtcae:")]
    assert len(told) == 1 and f"there is no camera {name}" in told[0]


def test_a_busy_reader_gets_the_latest_frames_of_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "FRAME_SPACING", 0.0)
    monkeypatch.setattr(camera, "MOST_WAITING", 3)
    frames = camera._frames_of_camera(FakeCapture(30), "0")
    first = next(frames)
    time.sleep(0.5)  # all frames have come by then
    numbers = [int(picture[0, 0, 0]) for _, picture in [first, *frames]]
    assert numbers[1:] == [28, 29, 30]


def test_a_camera_without_a_picture_is_told() -> None:
    with pytest.raises(ValueError, match="camera 0 gives no picture"):
        list(camera._frames_of_camera(FakeCapture(0), "0"))


def test_the_command_prints_each_window_and_keeps_it(
    small_run: Path, small_corpus: Path, tmp_path: Path, capsys
) -> None:
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    output = tmp_path / "windows.jsonl"
    options = ["--window-seconds", "0.4", "--hop-seconds", "0.2", "--json", str(output)]
    assert main(["predict", "--webcam", str(clip), "--model", str(small_run), *options]) == 0
    windows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(windows) >= 2 and all("answered after" in line for line in printed)
    assert windows[0]["people"][0]["window"]["scores"] and "person 1" in printed[0]


def test_a_camera_does_not_mix_with_files_of_a_whole_video(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", "clip.mp4", "--webcam", "--overlay", "out.mp4"]) == 2
    assert "without clip.mp4 --overlay" in capsys.readouterr().err
