"""Thumbnails: everybody's own face, cut out of the frame in which it is largest."""

from pathlib import Path

import numpy as np

from mtcae_dfer.inference.faces import face_pictures
from tests.support.video_files import write_lossless_video

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def person(track: int, *frames: tuple[float, list[float] | None]) -> dict:
    sampled = [{"time": seconds, "box": box, "landmarks": None} for seconds, box in frames]
    return {"track": track, "windows": [{"frames": sampled[:1]}, {"frames": sampled[1:]}]}


def test_every_person_has_the_largest_of_its_own_faces(tmp_path: Path) -> None:
    frames = [np.zeros((60, 80, 3), np.uint8) for _ in range(10)]
    frames[2][10:20, 10:20] = GREEN
    frames[5][10:40, 10:40] = RED  # the same person, larger
    frames[5][10:30, 55:75] = BLUE
    video = write_lossless_video(tmp_path / "film.mkv", frames)  # 25 frames a second
    people = [
        person(1, (0.08, [10, 10, 20, 20]), (0.2, [10, 10, 40, 40])),
        person(4, (0.2, [75, 10, 55, 30])),  # edges the wrong way round
        person(5, (0.2, None)),
        person(6),
    ]
    pictures = face_pictures(str(video), {"people": people}, side=32)
    assert list(sorted(pictures)) == [1, 4] and all(picture.size == (32, 32) for picture in pictures.values())
    middles = {track: np.asarray(picture)[16, 16].astype(int) for track, picture in pictures.items()}
    assert np.abs(middles[1] - RED).max() < 30 and np.abs(middles[4] - BLUE).max() < 30


def test_a_box_outside_of_the_frame_shows_the_frame(tmp_path: Path) -> None:
    video = write_lossless_video(tmp_path / "film.mkv", [np.full((60, 80, 3), 90, np.uint8)] * 3)
    pictures = face_pictures(str(video), {"people": [person(1, (0.0, [-50, -50, -10, -10]))]}, side=32)
    assert pictures[1].size == (32, 32)
