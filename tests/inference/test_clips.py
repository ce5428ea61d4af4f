"""One clip as a whole: which frame is told of, and whether there is a face in any."""

from pathlib import Path

from mtcae_dfer.inference.clips import format_clip, predict_file, shows_face
from mtcae_dfer.video_reading import FrameStream
from tests.support.tiny_models import tiny_model
from tests.support.video_files import write_lossless_video


def answer_with(people: list[list[float] | None] | None) -> dict:
    """An answer for four frames; the model's box of frame i begins at 100 i."""
    return {
        "clip": "clip.mp4",
        "expression": {"joy": 1.0},
        "face_boxes": [[100.0 * frame, 0.0, 100.0 * frame + 50, 50.0] for frame in range(4)],
        "face_found": True,
        "person_boxes": people,
        "other_people": 0,
        "face_coverage": None,
        "warning": None,
    }


def test_the_frame_that_is_told_of_shows_the_person() -> None:
    everywhere = [[10.0 * frame, 1.0, 2.0, 3.0] for frame in range(4)]
    told = format_clip(answer_with(everywhere))
    assert "face box of frame 3 of 4: (200, 0, 250, 50)" in told and "the one at (20, 1, 2, 3) pixels" in told
    assert "seen in" not in told
    told = format_clip(answer_with([None, None, None, everywhere[3]]))
    assert "face box of frame 4 of 4: (300, 0, 350, 50)" in told
    assert "the one at (30, 1, 2, 3) pixels, seen in 1 of 4 frames" in told
    assert "face box of frame 3 of 4" in format_clip(answer_with(None))  # whole frames: nobody was followed


def test_a_face_in_any_of_the_frames_is_found(real_samples: Path, tmp_path: Path) -> None:
    frames = [each.picture().permute(1, 2, 0).numpy() for each in FrameStream(real_samples / "1001_DFA_HAP_XX.flv")]
    film = str(write_lossless_video(tmp_path / "film.mkv", [frames[0] * 0] * 5 + frames[:1]))
    assert shows_face(film, [5, 5]) and shows_face(film, [0, 2, 5]) and not shows_face(film, [0, 1, 4])


def test_what_keeps_a_file_from_being_read_is_that_clips_error() -> None:
    def refuse(clip: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", clip)

    failed = predict_file("clip.mp4", tiny_model(), refuse)  # type: ignore[arg-type]  # stands for the processor
    assert failed["clip"] == "clip.mp4" and failed["error"]["code"] == "unreadable_video"
    assert failed["error"]["message"].startswith("'clip.mp4' cannot be read (Permission denied)")
