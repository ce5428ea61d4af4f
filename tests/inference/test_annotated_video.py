"""What a timeline looks like: the annotated video keeps size, times and sound; table, chart and explanation."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mtcae_dfer.inference.annotated_video import LabelPlaces, LabelText, Look, Painter, write_overlay
from mtcae_dfer.video_reading import FrameStream
from tests.support.timelines import result_with
from tests.support.video_files import rotate_track, write_numbered_video


def write_video_with_sound(file: Path) -> Path:
    with av.open(str(file), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 80, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for step in range(25):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((48, 80, 3), np.uint8), format="rgb24")))
            tone = np.sin(2 * np.pi * 440 * (np.arange(1920) + 1920 * step) / 48000).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1920 * step
            container.mux(sound.encode(frame))
        container.mux([*pictures.encode(None), *sound.encode(None)])
    return file


def test_the_annotated_video_keeps_its_sound_and_its_times(tmp_path: Path) -> None:
    video = write_video_with_sound(tmp_path / "a 'quoted'\nname.mp4")
    output = write_overlay(str(video), result_with((0.5, [10, 10, 40, 40])), tmp_path / "out.mp4", progress=False)
    assert FrameStream(output).times.tolist() == pytest.approx(FrameStream(video).times.tolist(), abs=1e-3)
    with av.open(str(output)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(samples) / 48000 == pytest.approx(1.0, abs=0.1)
    assert np.sqrt(np.mean(samples[4800:43200] ** 2)) == pytest.approx(np.sqrt(0.5), abs=0.1)


def test_the_annotated_video_stands_upright(tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "video.mp4", 10)
    rotate_track(video, 90)
    assert (FrameStream(video).info.width, FrameStream(video).info.height) == (48, 80)
    output = write_overlay(str(video), result_with(), tmp_path / "out.mp4", progress=False)
    info = FrameStream(output).info
    assert (info.width, info.height, info.rotation) == (48, 80, 0)


def test_the_video_itself_and_other_formats_are_refused(tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "video.mp4", 10)
    before = video.read_bytes()
    with pytest.raises(ValueError, match="is the video itself"):
        write_overlay(str(video), result_with(), video)
    with pytest.raises(ValueError, match="ends in .mp4"):
        write_overlay(str(video), result_with(), tmp_path / "out.avi")
    assert video.read_bytes() == before and list(tmp_path.iterdir()) == [video]


def test_boxes_are_drawn_where_they_are_and_move_between_sampled_frames() -> None:
    black = torch.zeros(3, 400, 800, dtype=torch.uint8)
    painter = Painter(result_with((0.0, [100, 100, 200, 200]), (0.2, [140, 100, 240, 200]), width=800, height=400))
    painted = painter.paint(black, 0.1).sum(dim=0)
    columns = torch.nonzero(painted[150])[:, 0].tolist()
    assert min(columns) == 120 and max(column for column in columns if column < 225) == 220


FULL, SHORT = LabelText(("1", "joy 90%"), (0.0, 0.9), 100, 60), LabelText(("1 joy 90%",), (), 100, 20)


def overlap(one: tuple, two: tuple) -> float:
    width, height = (min(one[axis + 2], two[axis + 2]) - max(one[axis], two[axis]) for axis in (0, 1))
    return max(0, width) * max(0, height)


def test_labels_stand_beside_faces_and_on_none_of_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = [(x + rng.integers(0, 60), y + rng.integers(0, 60)) for x in (150, 420, 690) for y in (100, 400)]
        boxes = {track: (x, y, x + 70, y + 90) for track, (x, y) in enumerate(corners, start=1)}
        places = LabelPlaces((1000, 700), 4).choose(boxes, dict.fromkeys(boxes, [FULL, SHORT]))
        areas = [(*corner, corner[0] + text.width, corner[1] + text.height) for text, corner in places.values()]
        assert not any(overlap(area, box) for area in areas for box in boxes.values())
        assert not any(overlap(one, two) for one in areas for two in areas if one is not two)


def test_a_label_is_short_where_there_is_no_room_and_stays_on_its_side() -> None:
    places = LabelPlaces((300, 110), 4)
    left, right = (0, 0, 100, 80), (200, 0, 300, 80)
    (text, corner), _ = places.choose({1: left, 2: right}, {1: [FULL, SHORT], 2: [SHORT]}).values()
    assert text is SHORT and corner[1] >= 80
    alone = LabelPlaces((1000, 700), 4)
    assert alone.choose({1: left}, {1: [FULL]})[1][1] == (104, 0)
    wall = {1: (700, 200, 800, 300)}
    assert alone.choose({**wall, 2: (810, 200, 910, 300)}, {1: [FULL], 2: [FULL]})[1][1][0] < 700
    assert alone.choose(wall, {1: [FULL]})[1][1][0] < 700  # the neighbour has gone, the label does not jump back


def test_while_a_face_is_lost_nothing_is_drawn_of_its_person() -> None:
    black = torch.zeros(3, 200, 400, dtype=torch.uint8)
    painter = Painter(result_with((0.0, [10, 100, 60, 150]), (0.9, [10, 100, 60, 150]), width=400, height=200))
    assert painter.paint(black, 0.0)[:, 100:, :80].any() and not painter.paint(black, 0.5)[:, 100:].any()


def test_a_video_without_people_says_so_on_every_frame() -> None:
    black = torch.zeros(3, 200, 400, dtype=torch.uint8)
    nobody = result_with(width=400, height=200)
    painted = Painter(nobody).paint(black, 0.5)
    assert painted[:, :40].any()
    # People whom the result leaves out may be on the frame: it is not said that there is no face.
    assert not torch.equal(Painter(nobody | {"left_out": 1}).paint(black, 0.5), painted)


def test_small_videos_are_enlarged_where_it_is_asked_for(tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "video.mp4", 10)  # 80 x 48
    result = result_with((0.0, [10, 10, 40, 40]))
    output = write_overlay(str(video), result, tmp_path / "out.mp4", progress=False, look=Look(least_side=240))
    info = FrameStream(output).info
    assert (info.width, info.height) == (400, 240)
    black = torch.zeros(3, 48, 80, dtype=torch.uint8)
    painted = Painter(result, Look(least_side=240)).paint(black, 0.0).sum(dim=0)
    assert painted.shape == (240, 400)
    columns = torch.nonzero(painted[150])[:, 0].tolist()
    assert min(columns) == 50 and max(column for column in columns if column < 210) in (199, 200)  # 10 and 40, by five
