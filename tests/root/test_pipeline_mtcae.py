"""The timeline: windows and people where they were put, single-clip scores, one clear answer to every bad input."""

import json
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transformers import pipeline

from mtcae_dfer import MTCAEVideoProcessor, people_tracking
from mtcae_dfer.face_detection import FaceDetections
from mtcae_dfer.face_geometry import box_intersection_over_union
from mtcae_dfer.people_tracking import CutFinder, FaceSearch, Tracker, thumbnail_of
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline, TimelineOptions
from mtcae_dfer.timeline_windows import ScoredClip, seconds_of_face
from mtcae_dfer.training.model_folder import save_model_folder
from mtcae_dfer.video_reading import FrameStream, VideoReadingError, read_clip
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_files import (
    cut_off,
    noisy_frames,
    write_audio_only,
    write_lossless_video,
    write_numbered_video,
    write_text_as_video,
)

RATE = 25


@pytest.fixture(scope="module")
def pipe() -> FacialExpressionTimelinePipeline:
    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    return FacialExpressionTimelinePipeline(model=tiny_model(), video_processor=processor, device="cpu")


def squares(*seconds_and_places: tuple[float, list[tuple[int, int]]]) -> np.ndarray:
    """Frames (T, 96, 160, 3): red squares of 24 pixels stand for faces; each scene has a background of its own."""
    frames = []
    for scene, (seconds, places) in enumerate(seconds_and_places):
        frame = np.full((96, 160, 3), (20, 90, 160, 230)[scene % 4], np.uint8)
        for x, y in places:
            frame[y : y + 24, x : x + 24] = (255, 0, 0)
        frames += [frame] * round(seconds * RATE)
    return np.stack(frames)


class RedSquares:
    """Stands for MTCNN: the pure red pixels' boxes, one for each connected range of columns."""

    def detect_all(self, pictures: torch.Tensor) -> list[FaceDetections]:
        return [self._one(picture) for picture in pictures]

    def follow(self, pictures: torch.Tensor, places: list[torch.Tensor]) -> list[FaceDetections]:
        found = self.detect_all(pictures)
        for faces, expected in zip(found, places, strict=True):
            overlaps = box_intersection_over_union(faces.boxes[:, None], expected[None])  # (N, expected)
            near = (overlaps > 0.2).any(dim=1)
            for entry in fields(faces):
                setattr(faces, entry.name, getattr(faces, entry.name)[near])
        return found

    def detect(self, pictures: torch.Tensor) -> FaceDetections:
        found = [self._one(picture) for picture in pictures]
        nowhere = torch.full((4,), torch.nan)
        boxes = torch.stack([faces.boxes[0] if len(faces.boxes) else nowhere for faces in found])
        count = torch.tensor([len(faces.boxes) for faces in found])
        landmarks = boxes[:, None, :2].expand(-1, 5, -1)
        return FaceDetections(boxes, landmarks, (count > 0).float(), count > 0, count)

    def _one(self, picture: torch.Tensor) -> FaceDetections:
        red = (picture[0] > 200) & (picture[1] < 60) & (picture[2] < 60)
        columns = torch.nonzero(red.any(dim=0))[:, 0].tolist()
        gaps = [0, *(position for position in range(1, len(columns)) if columns[position] > columns[position - 1] + 1)]
        runs = [columns[first:end] for first, end in zip(gaps, [*gaps[1:], len(columns)], strict=True) if columns]
        boxes = []
        for run in runs:
            rows = torch.nonzero(red[:, run].any(dim=1))[:, 0]
            boxes.append([run[0], int(rows[0]), run[-1] + 1, int(rows[-1]) + 1])
        height, width = red.shape
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height, width, height])
        count = len(boxes)
        ones = torch.ones(count)
        return FaceDetections(boxes, boxes[:, None, :2].expand(-1, 5, -1), ones, ones.bool(), ones.long() * count)


@pytest.fixture()
def red_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_tracking, "_detector", lambda *arguments: RedSquares())


def test_two_people_are_two_tracks_with_their_own_boxes(pipe, red_faces) -> None:
    result = pipe(squares((3, [(10, 40), (110, 40)])), fps=RATE, window_seconds=1.0)
    assert {name: result[name] for name in ("duration", "fps", "width", "height")} == {
        "duration": 3.0,
        "fps": 25.0,
        "width": 160,
        "height": 96,
    }
    assert [person["track"] for person in result["people"]] == [1, 2]
    for person, left in zip(result["people"], (10, 110), strict=True):
        for window in person["windows"]:
            assert window["face_coverage"] == 1.0
            assert sum(window["scores"].values()) == pytest.approx(1.0, abs=1e-5)
            for frame in window["frames"]:
                assert frame["box"] == pytest.approx([left, 40, left + 24, 64], abs=2)
    json.dumps(result)


def test_a_moving_person_stays_one_track(pipe, red_faces) -> None:
    frames = np.stack([squares((1 / RATE, [(10 + 2 * step, 40)]))[0] for step in range(55)])
    assert len(pipe(frames, fps=RATE, window_seconds=1.0)["people"]) == 1


def test_somebody_who_steps_aside_and_back_between_two_searches_is_followed(pipe, red_faces) -> None:
    places = [60 + 2 * min(step % 50, 50 - step % 50) for step in range(100)]  # aside and back in two seconds
    frames = np.stack([squares((1 / RATE, [(place, 40)]))[0] for place in places])
    (person,) = pipe(frames, fps=RATE, window_seconds=1.0)["people"]
    seen = {frame["time"]: frame["box"] for window in person["windows"] for frame in window["frames"]}
    assert len(seen) > 20
    for seconds, box in seen.items():
        assert box[0] == pytest.approx(places[round(seconds * RATE)], abs=8)


def test_a_jump_aside_between_two_searches_is_found(pipe, red_faces) -> None:
    scene, aside = squares((0.8, [(20, 40)])), squares((0.2, [(100, 40)]))
    result = pipe(np.concatenate([scene, aside, scene, aside, scene]), fps=RATE, window_seconds=1.0)
    lefts = {frame["box"][0] for person in result["people"] for w in person["windows"] for frame in w["frames"]}
    assert {round(left, -1) for left in lefts} == {20, 100}


def test_a_cut_ends_every_track_even_with_a_face_at_the_same_place(pipe, red_faces) -> None:
    result = pipe(squares(*[(1.0, [(60, 40)])] * 4), fps=RATE, window_seconds=1.0)
    assert [round(person["start"]) for person in result["people"]] == [0, 1, 2, 3]
    for person in result["people"]:
        assert all(person["start"] <= window["start"] < window["end"] <= person["end"] for window in person["windows"])


def test_a_person_who_comes_back_after_a_pause_is_a_track_of_its_own(pipe, red_faces) -> None:
    scene = squares((2, [(60, 40)]))
    empty = scene.copy()
    empty[:, 40:64, 60:84] = 20
    result = pipe(np.concatenate([scene, empty, scene]), fps=RATE)
    assert [(round(person["start"]), round(person["end"])) for person in result["people"]] == [(0, 2), (4, 6)]


def test_thirty_people_are_thirty_tracks(pipe, red_faces) -> None:
    frame = np.full((200, 30 * 40, 3), 90, np.uint8)
    for person in range(30):
        frame[80:104, 40 * person + 8 : 40 * person + 32] = (255, 0, 0)
    assert len(pipe(np.stack([frame] * 30), fps=RATE, window_seconds=1.2)["people"]) == 30


def test_windows_without_a_face_have_no_scores(pipe, red_faces) -> None:
    scene = squares((2, [(60, 40)]))
    empty = np.full_like(scene, 20)
    result = pipe(np.concatenate([scene, empty]), fps=RATE, people="single", window_seconds=1.0, hop_seconds=1.0)
    (person,) = result["people"]
    assert [window["scores"] is None for window in person["windows"]] == [False, False, True, True]
    assert [window["face_coverage"] for window in person["windows"]] == [1, 1, 0, 0]
    assert person["windows"][3]["frames"] == []


def test_eight_bits_change_scores_a_little_and_the_model_not_at_all(pipe, red_faces) -> None:
    pytest.importorskip("torchao")
    video = squares((1.5, [(60, 40)]))
    options = {"fps": RATE, "window_seconds": 1.0}
    before = pipe(video, **options)
    quantised = pipe(video, int8=True, **options)
    scores = [[window["scores"] for window in result["people"][0]["windows"]] for result in (before, quantised)]
    assert scores[0] != scores[1]
    for one, other in zip(*scores, strict=True):
        assert other == pytest.approx(one, abs=0.05)
    assert pipe(video, **options) == before


def test_two_windows_that_end_with_the_same_frame_are_both_scored(pipe, red_faces) -> None:
    result = pipe(squares((1.52, [(60, 40)])), fps=RATE, window_seconds=1.0, hop_seconds=0.5, average_windows=False)
    (person,) = result["people"]
    spans = [(window["start"], window["end"]) for window in person["windows"]]
    assert [start for start, _ in spans] == pytest.approx([0.0, 0.5, 0.52]) and all(
        w["scores"] for w in person["windows"]
    )


def test_windows_of_the_whole_frame_have_the_single_clip_scores(pipe, red_faces, tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "clip.mp4", 80)
    with_faces = pytest.MonkeyPatch()
    with_faces.setattr(FaceSearch, "search", _everything_is_a_face)
    try:
        result = pipe(str(video), people="single", window_seconds=1.0, hop_seconds=0.5, average_windows=False)
    finally:
        with_faces.undo()
    windows = result["people"][0]["windows"]
    assert len(windows) == 6  # 3.2 seconds: 0, 0.5, …, 2.0, and one that ends with the video
    for window in windows:
        first = int(np.ceil(round(window["start"] * RATE, 3)))
        indices = [first + offset for offset in (0, 8, 16, 24)]
        frames = read_clip(video, size=(SIDE, SIDE), frame_indices=indices).frames
        pixels = pipe.video_processor([frames], do_sample_frames=False, input_data_format="channels_first")
        with torch.no_grad():
            expected = pipe.model(pixels["pixel_values"]).logits[0].softmax(-1)
        names = pipe.model.config.id2label
        assert window["scores"] == pytest.approx({names[i]: float(p) for i, p in enumerate(expected)}, abs=1e-5)


def _everything_is_a_face(search, frames, ended) -> None:
    for frame in frames:
        frame.searched = True
        frame.faces[0] = (np.zeros(4), np.zeros((5, 2)))


def test_overlapping_windows_are_averaged_over_each_hop(pipe, red_faces) -> None:
    rng = np.random.default_rng(0)
    video = squares((3, [(60, 40)]))
    video[:, 70:] = rng.integers(0, 255, video[:, 70:].shape)
    options = {"fps": RATE, "people": "single", "window_seconds": 1.0, "hop_seconds": 0.5}
    raw = pipe(video, average_windows=False, **options)["people"][0]["windows"]
    averaged = pipe(video, **options)["people"][0]["windows"]
    assert [(window["start"], window["end"]) for window in averaged] == [(k / 2, k / 2 + 0.5) for k in range(6)]
    for name, score in averaged[2]["scores"].items():
        assert score == pytest.approx((raw[1]["scores"][name] + raw[2]["scores"][name]) / 2, abs=1e-6)


def test_a_window_says_on_how_much_of_a_face_it_rests(pipe, red_faces) -> None:
    scene, empty = squares((2.0, [(60, 40)])), squares((2.0, []))
    result = pipe(np.concatenate([scene, empty]), fps=RATE, window_seconds=1.0, hop_seconds=1.0)
    (person,) = result["people"]
    for window in person["windows"]:
        # Four frames stand for a second.
        assert (window["face_frames"], window["short"]) == (FRAMES, False)
        assert window["face_seconds"] == pytest.approx(1.0, abs=0.05)
    alone = pipe(np.concatenate([scene, empty]), fps=RATE, people="single", window_seconds=1.0, hop_seconds=1.0)
    seconds = [window["face_seconds"] for window in alone["people"][0]["windows"]]
    assert seconds == pytest.approx([1, 1, 0, 0], abs=0.05)


def test_somebody_seen_for_a_moment_is_marked_and_can_be_left_out(pipe, red_faces) -> None:
    video = np.concatenate([squares((3.0, [(10, 40)])), squares((0.44, [(10, 40), (110, 40)]))])
    long, brief = pipe(video, fps=RATE, window_seconds=1.0)["people"]
    assert not any(window["short"] for window in long["windows"])
    assert all(window["short"] and 0 < window["face_seconds"] < 0.5 for window in brief["windows"])
    (only,) = pipe(video, fps=RATE, window_seconds=1.0, min_seconds=0.5)["people"]
    assert only == long


def test_those_who_are_left_out_are_counted(pipe, red_faces) -> None:
    two, none = squares((1.0, [(10, 40), (110, 40)])), squares((1.0, []))
    for people, count in (("all", 2), ("single", 1)):
        options = {"fps": RATE, "window_seconds": 1.0, "people": people}
        assert pipe(two, **options)["left_out"] == 0
        shortly = pipe(two, **options, min_seconds=5.0)
        assert (shortly["people"], shortly["left_out"]) == ([], count)
        nobody = pipe(none, **options, min_seconds=5.0)
        assert (nobody["people"], nobody["left_out"]) == ([], 0)


def test_a_camera_counts_those_who_are_left_out(pipe, red_faces) -> None:
    for least, count in ((0.0, 0), (5.0, 2)):
        two = ((number / RATE, frame) for number, frame in enumerate(squares((1.0, [(10, 40), (110, 40)]))))
        (window,) = pipe(two, window_seconds=1.0, min_seconds=least)
        assert (len(window["people"]), window["left_out"]) == (2 - count, count)


@pytest.mark.parametrize("live", [False, True])
def test_with_gaps_between_windows_the_last_one_ends_with_the_video(pipe, red_faces, live: bool) -> None:
    video, options = squares((1.92, [(60, 40)])), {"window_seconds": 1.0, "hop_seconds": 5.0}
    if live:
        windows = list(pipe(((number / RATE, frame) for number, frame in enumerate(video)), **options))
    else:
        windows = pipe(video, fps=RATE, people="single", **options)["people"][0]["windows"]
    spans = [(window["start"], window["end"]) for window in windows]
    assert len(spans) == 2 and spans[0] == pytest.approx((0.0, 1.0), abs=0.01)
    assert spans[1] == pytest.approx((0.92, 1.92), abs=0.05)


def test_seconds_of_a_face_are_those_in_which_it_was_seen() -> None:
    """Windows of two seconds that begin every second, eight frames a second; a person seen from 1.0 to 1.4 s."""

    def clip(start: float, end: float, times: list[float], found: list[bool] | None = None) -> ScoredClip:
        blank = np.zeros((len(times), 4), np.float32), np.zeros((len(times), 5, 2), np.float32)
        return ScoredClip(0, start, end, np.array(times), *blank, np.array(found or [True] * len(times)))

    times = [1.0, 1.125, 1.25, 1.375]
    # Both windows hold the person's four frames, the first one several times; both end after the person has left.
    briefly = [clip(1.0, 2.0, sorted(times * 2)), clip(1.0, 3.0, times)]
    assert seconds_of_face(briefly) == pytest.approx(0.5)
    whole = [clip(0.0, 2.0, [k / 8 for k in range(16)]), clip(1.0, 3.0, [1 + k / 8 for k in range(16)])]
    assert seconds_of_face(whole) == pytest.approx(3.0)
    half = clip(0.0, 2.0, [k / 8 for k in range(16)], [k % 2 == 0 for k in range(16)])
    assert seconds_of_face([half]) == pytest.approx(1.0)
    assert seconds_of_face([clip(1.0, 3.0, [1.0] * 16)]) <= 2 / 16


def test_smoothing_is_an_exponential_average(pipe, red_faces) -> None:
    video = squares((3, [(60, 40)]))
    video[:, 70:] = np.random.default_rng(1).integers(0, 255, video[:, 70:].shape)
    options = {"fps": RATE, "window_seconds": 1.0, "hop_seconds": 1.0}
    plain = pipe(video, **options)["people"][0]["windows"]
    smooth = pipe(video, smoothing=0.75, **options)["people"][0]["windows"]
    for name in plain[0]["scores"]:
        second = 0.75 * plain[0]["scores"][name] + 0.25 * plain[1]["scores"][name]
        assert smooth[1]["scores"][name] == pytest.approx(second, abs=1e-6)


def test_batches_change_nothing_and_top_k_keeps_the_most_probable(pipe, red_faces) -> None:
    video = squares((3, [(10, 40), (110, 40)]))
    one, many = (pipe(video, fps=RATE, batch_size=size)["people"] for size in (1, 8))
    for first, second in zip(one, many, strict=True):
        for window, same in zip(first["windows"], second["windows"], strict=True):
            assert window["scores"] == pytest.approx(same["scores"], abs=1e-5)
    best = pipe(video, fps=RATE, top_k=2)["people"][0]["windows"][0]["scores"]
    assert list(best) == list(one[0]["windows"][0]["scores"])[:2]


def test_live_frames_give_windows_as_they_end(pipe, red_faces) -> None:
    taken = []

    def camera():
        for number, frame in enumerate(squares((3.5, [(60, 40)]))):
            taken.append(number)
            yield number / RATE, frame

    results = pipe(camera(), window_seconds=1.0, hop_seconds=1.0)
    first = next(results)
    assert len(taken) == RATE + 1  # the first frame behind the window, and none after it
    rest = list(results)
    assert [(window["start"], window["end"]) for window in (first, *rest[:2])] == [(0, 1), (1, 2), (2, 3)]
    assert rest[-1]["end"] == pytest.approx(3.5, abs=0.05)
    assert all(window["people"][0]["window"]["scores"] for window in (first, *rest))
    assert first["latency"] >= 0


def test_one_bad_video_does_not_lose_the_others(pipe, red_faces, tmp_path: Path) -> None:
    good = write_numbered_video(tmp_path / "good 'one'\n.mp4", 30)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    results = pipe([str(good), str(empty), b"", str(good)])
    assert not isinstance(results, list)
    first, second, third, fourth = results
    assert first == fourth and first["people"] == []
    assert second["error"]["code"] == third["error"]["code"] == "unreadable_video"
    assert "empty.mp4' is empty (0 bytes)" in second["error"]["message"] and second["video"] == str(empty)


def test_a_damaged_video_is_told(pipe, red_faces, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = write_lossless_video(tmp_path / "film.mkv", noisy_frames(60, 64, 64))
    assert pipe(str(video))["warning"] is None
    result = pipe(str(cut_off(video, 0.5)))
    assert f"'{video}' is damaged or cut off: only the first" in result["warning"]
    assert result["warning"] in caplog.text


def test_a_single_bad_video_raises_one_line(pipe, tmp_path: Path) -> None:
    for bad in (write_text_as_video(tmp_path / "a.mp4"), write_audio_only(tmp_path / "b.mp4"), b"", "missing.mp4"):
        with pytest.raises(VideoReadingError) as caught:
            pipe(bad if isinstance(bad, bytes) else str(bad))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="give fps"):
        pipe(squares((1, [])))
    with pytest.raises(TypeError):
        pipe(5)


@pytest.mark.parametrize(
    "options",
    [
        {"window_seconds": 0},
        {"hop_seconds": -1},
        {"hop_seconds": float("nan")},
        {"people": "two"},
        {"top_k": 0},
        {"batch_size": 1.5},
        {"smoothing": 1},
        {"margin": -0.1},
        {"min_face": "big"},
    ],
)
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        TimelineOptions(**options)


def test_an_unknown_option_is_named(pipe) -> None:
    with pytest.raises(TypeError, match="no option windows"):
        pipe(b"", windows=3)


def test_short_fast_and_oddly_shaped_videos_have_a_timeline(pipe, red_faces, tmp_path: Path) -> None:
    one_frame = pipe(squares((0.04, [(60, 40)])), fps=RATE)
    assert one_frame["people"][0]["windows"][0]["scores"] is not None
    fast = pipe(np.repeat(squares((1, [(60, 40)])), 5, axis=0), fps=120)
    assert len(fast["people"]) == 1
    flat = pipe(np.full((10, 16, 1000, 3), 90, np.uint8), fps=RATE)
    assert flat["people"] == [] and (flat["width"], flat["height"]) == (1000, 16)


def test_half_precision_answers_like_full(red_faces) -> None:
    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    video = squares((1, [(60, 40)]))
    full, half = (
        FacialExpressionTimelinePipeline(model=tiny_model().to(dtype), video_processor=processor, device="cpu")
        for dtype in (torch.float32, torch.bfloat16)
    )
    scores = [answer(video, fps=RATE)["people"][0]["windows"][0]["scores"] for answer in (full, half)]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


def test_a_saved_folder_brings_the_pipeline_and_leaves_the_stock_one(pipe, tmp_path: Path) -> None:
    save_model_folder(pipe.model, pipe.video_processor, tmp_path)
    loaded = pipeline(model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded.task == "facial-expression-timeline"
    video = np.stack(noisy_frames(30, 64, 64))
    assert loaded(video, fps=RATE, people="single") == pipe(video, fps=RATE, people="single")
    stock = pipeline("video-classification", model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert type(stock).__name__ == "VideoClassificationPipeline"


def test_a_stream_has_the_announced_times_of_a_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 40, 80, 480, 500, 1500]
    with av.open(str(tmp_path / "variable.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for position, milliseconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * position, np.uint8), format="rgb24")
            frame.pts, frame.time_base = milliseconds, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = FrameStream(tmp_path / "variable.mkv")
    assert frames.times.tolist() == pytest.approx([time / 1000 for time in times])
    assert [(frame.index, round(frame.time * 1000)) for frame in frames] == list(enumerate(times))


def test_motion_is_no_cut_and_a_cut_is() -> None:
    finder, rng = CutFinder(), np.random.default_rng(2)
    scenes = [torch.from_numpy(rng.integers(0, 255, (3, 9, 16))).float() for _ in range(2)]
    pictures = [torch.nn.functional.interpolate(scene[None], (90, 160))[0].byte() for scene in scenes]
    moved = [torch.roll(pictures[0], step, dims=2) for step in range(6)]
    assert not any([finder.is_cut(thumbnail_of(picture)) for picture in moved])
    assert finder.is_cut(thumbnail_of(pictures[1]))


def test_somebody_who_was_lost_while_turning_is_the_same_track() -> None:
    tracker = Tracker(1)
    seconds_and_places = [(0.0, 0), (0.1, 20), (0.2, 40), (0.6, 45)]  # on the old course it would be at 110
    keys = [
        tracker.link(seconds, np.array([[x, 0.0, x + 30, 30]]), np.ones(1), is_cut=False)
        for seconds, x in seconds_and_places
    ]
    assert keys == [[1]] * 4


def test_a_window_begins_with_the_track_that_was_seen_in_its_last_frame_only(pipe, red_faces) -> None:
    video = squares((0.96, []), (1.5, [(60, 40)]))
    (person,) = pipe(video, fps=RATE, window_seconds=1.0, hop_seconds=0.5)["people"]
    assert person["start"] == 0.96 and all(window["scores"] for window in person["windows"])


def test_colours_turned_around_by_a_negative_stride_are_read(pipe, red_faces) -> None:
    blue_first = np.ascontiguousarray(squares((1.0, [(60, 40)]))[..., ::-1])
    turned = blue_first[..., ::-1]  # as OpenCV's users do
    assert pipe(turned, fps=RATE) == pipe(turned.copy(), fps=RATE) == pipe(list(turned), fps=RATE)


def test_people_who_cross_keep_their_course() -> None:
    tracker, keys = Tracker(1), []
    for step in range(11):
        boxes = np.array([[10 * step, 0, 10 * step + 30, 30], [100 - 10 * step, 12, 130 - 10 * step, 42]], float)
        keys.append(tracker.link(0.1 * step, boxes, np.ones(2), is_cut=False))
    assert keys == [[1, 2]] * 11
