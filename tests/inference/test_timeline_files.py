"""Tables and charts of a timeline."""

import csv
from pathlib import Path

import pandas
import pytest
import torch
from PIL import Image

from mtcae_dfer.inference.annotated_video import Painter
from mtcae_dfer.inference.timeline_files import (
    draw_timeline,
    format_live_window,
    format_timeline,
    strongest,
    timeline_to_pandas,
    write_csv,
)
from tests.inference.test_annotated_video import result_with


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


def test_a_data_frame_holds_numbers_and_names_the_file_where_there_are_several() -> None:
    result = result_with((0.5, [1, 2, 3, 4]), scores={"joy": 0.75, "fear": 0.25})
    frame = timeline_to_pandas(result)
    evidence = "face_coverage face_frames face_seconds short"
    assert list(frame.columns) == f"track start end {evidence} warning expression probability fear joy".split()
    assert frame.loc[0, "joy"] == 0.75 and frame.loc[0, "expression"] == "joy"
    both = timeline_to_pandas({"a.mp4": result, "b.mp4": result})
    assert both["file"].tolist() == ["a.mp4", "b.mp4"] and both.groupby("file")["joy"].mean().tolist() == [0.75, 0.75]
    frames = timeline_to_pandas({"a.mp4": result}, per_frame=True)
    assert frames[["file", "time", "x1", "y2", "left_eye_x", "joy"]].values.tolist() == [
        ["a.mp4", 0.5, 1, 4, 1.0, 0.75]
    ]


def test_a_video_without_people_is_an_empty_table() -> None:
    for per_frame in (False, True):
        frame = timeline_to_pandas(result_with(), per_frame)
        assert isinstance(frame, pandas.DataFrame) and len(frame) == 0 and "track" in frame.columns


@pytest.mark.parametrize("per_frame", [False, True])
def test_among_several_videos_one_without_people_has_a_row(per_frame: bool) -> None:
    seen = result_with((0.5, [1, 2, 3, 4]), scores={"joy": 1.0}) | {"warning": "cut off"}
    frame = timeline_to_pandas({"a.mp4": result_with(), "b.mp4": seen}, per_frame)
    assert frame["file"].tolist() == ["a.mp4", "b.mp4"]
    assert frame.drop(columns="file").iloc[0].isna().all()
    assert frame.loc[1, "warning"] == "cut off" and frame.loc[1, "joy"] == 1.0


def test_people_who_were_left_out_are_not_called_missing(tmp_path: Path) -> None:
    nobody = result_with()
    assert "no face was found" in format_timeline("film.mp4", nobody)
    told = format_timeline("film.mp4", nobody | {"left_out": 2})
    assert "no face" not in told and "2 people were seen, too shortly for --min-seconds" in told
    live = {"start": 0.0, "end": 1.0, "latency": 0.1, "people": [], "left_out": 1}
    assert "no face" not in format_live_window(live) and "1 person was seen" in format_live_window(live)
    assert "no face was found" in format_live_window(live | {"left_out": 0})
    draw_timeline(nobody, tmp_path / "nobody.png")
    draw_timeline(nobody | {"left_out": 2}, tmp_path / "left_out.png")
    assert (tmp_path / "nobody.png").read_bytes() != (tmp_path / "left_out.png").read_bytes()


def test_a_damaged_video_is_told_below_its_people() -> None:
    told = format_timeline("film.mp4", result_with() | {"warning": "'film.mp4' is cut off"})
    assert told.splitlines()[-1] == "  note: 'film.mp4' is cut off"


def test_a_chart_for_a_telephone_is_narrow_and_shows_faces(tmp_path: Path) -> None:
    result = result_with((0.5, [0, 0, 1, 1]), scores={"joy": 1.0})
    red = {1: Image.new("RGB", (96, 96), (255, 0, 0))}
    wide = Image.open(draw_timeline(result, tmp_path / "wide.png"))
    narrow = Image.open(draw_timeline(result, tmp_path / "narrow.png", red, width=4.0)).convert("RGB")
    assert (wide.width, narrow.width) == (1100, 440)
    assert sum(count for count, colour in narrow.getcolors(narrow.width * narrow.height) if colour == (255, 0, 0)) > 400


def test_what_rests_on_too_little_of_a_face_is_marked(tmp_path: Path) -> None:
    result = result_with((0.5, [0, 0, 1, 1]), scores={"joy": 0.9, "fear": 0.1})
    draw_timeline(result, tmp_path / "plain.png")
    plain = Painter(result).paint(torch.zeros(3, 48, 80, dtype=torch.uint8), 0.5)
    (window,) = result["people"][0]["windows"]
    window |= {"face_frames": 3, "face_seconds": 0.3, "short": True}
    assert strongest(window) == "joy 90% (short: 0.3 s of face)"
    write_csv({"film.mp4": result}, tmp_path / "out.csv")
    (row,) = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))
    assert (row["face_frames"], row["face_seconds"], row["short"]) == ("3", "0.3", "True")
    draw_timeline(result, tmp_path / "short.png")
    assert (tmp_path / "short.png").read_bytes() != (tmp_path / "plain.png").read_bytes()
    marked = Painter(result).paint(torch.zeros(3, 48, 80, dtype=torch.uint8), 0.5)
    assert not torch.equal(marked, plain)
