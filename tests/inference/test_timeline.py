"""What a timeline looks like: the annotated video keeps size, times and sound; table, chart and explanation."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference.annotated_video import LabelPlaces, LabelText, Painter, write_overlay
from mtcae_dfer.inference.timeline_files import draw_timeline, write_csv
from mtcae_dfer.video_reading import FrameStream
from tests.support.video_files import rotate_track, write_numbered_video


def result_with(*boxes: tuple[float, list[float]], scores: dict | None = None, width=80, height=48) -> dict:
    frames = [{"time": seconds, "box": box, "landmarks": [[1.0, 1.0]] * 5} for seconds, box in boxes]
    window = {"start": 0.0, "end": 1.0, "face_coverage": 1.0, "scores": scores, "frames": frames}
    person = {"track": 1, "start": 0.0, "end": 1.0, "windows": [window]}
    return {"duration": 1.0, "fps": 25.0, "width": width, "height": height, "people": [person] if boxes else []}


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
    assert Painter(result_with(width=400, height=200)).paint(black, 0.5)[:, :40].any()


def test_the_table_has_a_row_per_person_and_window(tmp_path: Path) -> None:
    result = result_with((0.5, [0, 0, 1, 1]), scores={"joy, great": 0.75, "fear": 0.25})
    empty = {"start": 1.0, "end": 2.0, "face_coverage": 0.0, "scores": None, "frames": []}
    result["people"][0]["windows"].append(empty)
    write_csv({"film.mp4": result}, tmp_path / "out.csv")
    first, second = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))
    assert (first["track"], first["expression"], first["joy, great"], first["fear"]) == (
        "1",
        "joy, great",
        "0.7500",
        "0.2500",
    )
    assert (second["start"], second["face_coverage"], second["expression"], second["fear"]) == ("1.0", "0.0", "", "")


@pytest.mark.parametrize("boxes", [[], [(0.5, [0, 0, 1, 1])]])
def test_a_chart_is_drawn_with_people_and_without(boxes: list, tmp_path: Path) -> None:
    file = draw_timeline(result_with(*boxes), tmp_path / "chart.png")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_everything_asked_for(small_run: Path, small_corpus: Path, tmp_path: Path, capsys) -> None:
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    names = {"--json": "out.json", "--csv": "out.csv", "--timeline": "out.png", "--overlay": "out.mp4"}
    words = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert main(["predict", str(clip), "--model", str(small_run), "--people", "single", *words]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names.values())
    result = json.loads((tmp_path / "out.json").read_text())
    assert len(result["people"]) == 1 and result["people"][0]["windows"][0]["scores"]
    assert "person 1" in capsys.readouterr().out
    assert main(["predict", "missing.mp4", "--model", str(small_run), "--csv", str(tmp_path / "no.csv")]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "no.csv").exists()
    picture = tmp_path / "why.png"
    assert main(["explain", str(clip), "--model", str(small_run), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
