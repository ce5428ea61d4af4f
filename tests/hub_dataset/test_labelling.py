"""Face labels of clips: the model's frames, the drawn truth, bad files, worker processes."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtcae_dfer.face_detection import FaceDetector
from mtcae_dfer.hub_dataset.clips import Clip, ClipLabels, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.files import hash_file
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions, fill_short_gaps, label_clip, label_clips
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import load_ground_truth, make_synthetic_corpus
from mtcae_dfer.video_reading import VideoReadingError, read_clip
from tests.support.video_files import write_numbered_video, write_text_as_video

CONFIG = SyntheticCorpusConfig(
    subjects=2, takes=1, expressions=("happiness", "sadness"), frame_size=160, min_frames=20, max_frames=24
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_synthetic_corpus(tmp_path_factory.mktemp("corpus"), CONFIG, workers=1, progress=False)


@pytest.fixture(scope="module")
def clips(corpus) -> list[Clip]:
    return read_folder(corpus / "videos" / "clips.csv")


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def assert_same_labels(one: ClipLabels, two: ClipLabels) -> None:
    for field in dataclasses.fields(ClipLabels):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_labels_lie_on_the_drawn_truth_of_the_very_frames_they_name(corpus, clips, detector):
    truths = load_ground_truth(corpus)
    for clip in clips:
        labels, truth = label_clip(clip.path, detector), truths[clip.name]
        boxes, points = truth.face_boxes[labels.frame_indices], truth.face_landmarks[labels.frame_indices]
        eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=-1)
        assert labels.face_found.all()
        assert np.abs(labels.face_boxes - boxes).mean() < 0.04
        assert (np.linalg.norm(labels.face_landmarks - points, axis=-1).mean(axis=-1) / eyes).mean() < 0.12


def test_labelled_frames_are_those_that_the_model_gets(clips, detector):
    labels = label_clip(clips[0].path, detector, num_frames=7, size=(200, 180))
    frames = read_clip(clips[0].path, num_frames=7, size=(200, 180))
    assert labels.frame_indices.tolist() == frames.frame_indices
    expected = detector.detect(frames.frames)
    np.testing.assert_array_equal(labels.face_boxes, expected.boxes.numpy())
    np.testing.assert_array_equal(labels.face_landmarks, expected.landmarks.numpy())


def test_a_clip_is_labelled_alike_from_its_path_and_its_bytes(clips, detector):
    assert_same_labels(label_clip(clips[0].path, detector), label_clip(clips[0].path.read_bytes(), detector))


def test_shapes_and_types(clips, detector):
    labels = label_clip(clips[0].path, detector)
    expected = {
        "frame_indices": ((16,), np.int64),
        "face_boxes": ((16, 4), np.float32),
        "face_landmarks": ((16, 5, 2), np.float32),
        "face_found": ((16,), np.bool_),
        "face_confidence": ((16,), np.float32),
        "face_count": ((16,), np.int64),
    }
    assert {name: (getattr(labels, name).shape, getattr(labels, name).dtype.type) for name in expected} == expected


def test_a_clip_without_faces_is_kept_and_flagged(tmp_path, detector):
    labels = label_clip(write_numbered_video(tmp_path / "stripes.mp4", 5), detector)
    assert not labels.face_found.any() and np.isnan(labels.face_boxes).all() and (labels.face_count == 0).all()
    assert labels.frame_indices.tolist() == sorted(labels.frame_indices.tolist()) and len(labels.frame_indices) == 16


def labels_with_gaps(indices: list[int], found: list[bool]) -> ClipLabels:
    """A face that moves by 0.01 per frame of the video, seen in some frames."""
    steps, seen = np.array(indices, dtype=np.float32) * 0.01, np.array(found)
    boxes = np.stack([steps, steps, steps + 0.2, steps + 0.3], axis=1)
    points = np.repeat(steps, 10).reshape(-1, 5, 2) + 0.05
    boxes[~seen], points[~seen] = np.nan, np.nan
    confidence = np.where(seen, np.float32(0.99), np.float32(0))
    count, interpolated = seen.astype(np.int64), np.zeros_like(seen)
    return ClipLabels(np.array(indices), boxes, points, seen, confidence, count, interpolated)


def test_short_gaps_are_filled_on_the_straight_line_by_the_frames_places_in_the_video_and_flagged():
    indices = [0, 2, 3, 8, 10, 12]
    gappy = labels_with_gaps(indices, [True, False, False, True, False, True])
    filled, whole = fill_short_gaps(gappy, 2), labels_with_gaps(indices, [True] * 6)
    np.testing.assert_allclose(filled.face_boxes, whole.face_boxes, atol=1e-6)
    np.testing.assert_allclose(filled.face_landmarks, whole.face_landmarks, atol=1e-6)
    assert filled.face_found.all() and filled.face_interpolated.tolist() == [False, True, True, False, True, False]
    assert (filled.face_confidence > 0).tolist() == gappy.face_found.tolist()
    np.testing.assert_array_equal(filled.face_count, gappy.face_count)
    assert not gappy.face_interpolated.any() and np.isnan(gappy.face_boxes[1]).all()  # the given labels stay


def test_longer_gaps_and_gaps_at_the_ends_stay_open():
    found = [False, True, False, False, False, False, True, False, True, False]
    filled = fill_short_gaps(labels_with_gaps(list(range(10)), found), 3)
    assert filled.face_interpolated.nonzero()[0].tolist() == [7]
    assert_same_labels(
        fill_short_gaps(labels_with_gaps([0, 1, 2], [True, False, True]), 0),
        labels_with_gaps([0, 1, 2], [True, False, True]),
    )


def test_a_gap_within_repeated_frames_is_filled_too():
    filled = fill_short_gaps(labels_with_gaps([4, 4, 4], [True, False, True]), 1)
    np.testing.assert_array_equal(filled.face_boxes[1], filled.face_boxes[0])


def test_gaps_longer_than_three_frames_cannot_be_asked_for():
    with pytest.raises(DatasetError, match="interpolate_gaps=4: must lie between 0 and 3"):
        LabellingOptions(interpolate_gaps=4)


def test_many_faces_are_counted_and_one_of_them_is_labelled(real_samples):
    detector = LabellingOptions(min_face=20).make_detector()
    labels = label_clip(real_samples / "street_many_faces.mp4", detector, num_frames=3, size=(540, 960))
    assert (labels.face_count >= 2).all()
    assert labels.face_boxes.shape == (3, 4) and labels.face_found.any()


def test_a_file_that_is_no_video_raises_one_line(tmp_path, detector):
    with pytest.raises(VideoReadingError):
        label_clip(write_text_as_video(tmp_path / "text.mp4"), detector)


def test_bad_files_are_reported_in_their_place_and_do_not_stop_the_others(tmp_path, clips):
    text = Clip(write_text_as_video(tmp_path / "text.mp4"), "happiness", "X", "happiness/text.mp4")
    gone = Clip(tmp_path / "gone.mp4", "happiness", "X", "happiness/gone.mp4")
    results = list(label_clips([gone, clips[0], text]))
    assert [result.labels is not None for result in results] == [False, True, False]
    for clip, result in ((gone, results[0]), (text, results[2])):
        assert clip.name in result.failure and str(tmp_path) not in result.failure and "\n" not in result.failure


def test_results_carry_the_files_hash_and_size(clips):
    (result,) = label_clips(clips[:1])
    data = clips[0].path.read_bytes()
    assert (
        (result.sha256, result.byte_count) == (hashlib.sha256(data).hexdigest(), len(data)) == hash_file(clips[0].path)
    )


def test_worker_processes_give_the_same_labels_in_the_same_order(clips, tmp_path):
    mixed = [*clips, Clip(tmp_path / "gone.mp4", "happiness", "X", "gone.mp4"), *reversed(clips)]
    alone, together = list(label_clips(mixed, workers=1)), list(label_clips(mixed, workers=2))
    assert len(alone) == len(together) == len(mixed)
    for one, two in zip(alone, together, strict=True):
        assert (one.failure, one.sha256, one.byte_count) == (two.failure, two.sha256, two.byte_count)
        if one.labels is not None:
            assert_same_labels(one.labels, two.labels)


def test_options_reach_the_detector_and_the_reader(clips):
    (result,) = label_clips(clips[:1], LabellingOptions(num_frames=3, height=96, width=112))
    assert result.labels.face_boxes.shape == (3, 4)
    with pytest.raises(ValueError, match="policy='first'"):
        list(label_clips(clips[:1], LabellingOptions(face_policy="first")))


@pytest.mark.parametrize("error", [VideoReadingError("cannot be decoded"), OSError(5, "Input/output error")])
def test_what_reading_a_clip_raises_is_that_clips_failure(clips, monkeypatch, error):
    def read_or_stumble(source, **options):
        if source == clips[0].path:
            raise error
        return read_clip(source, **options)

    monkeypatch.setattr("mtcae_dfer.video_reading.read_clip", read_or_stumble)
    first, second = label_clips(clips[:2], LabellingOptions(num_frames=2))
    assert first.labels is None and second.labels is not None
    assert ("cannot be decoded" if isinstance(error, VideoReadingError) else "Input/output error") in first.failure


@pytest.mark.parametrize("error", [NameError("name 'frames' is not defined"), ValueError("a wrong argument")])
def test_a_fault_of_the_program_is_not_blamed_on_the_clip(clips, monkeypatch, error):
    def stumble(source, **options):
        raise error

    monkeypatch.setattr("mtcae_dfer.video_reading.read_clip", stumble)
    with pytest.raises(type(error), match=str(error)):
        list(label_clips(clips[:1], LabellingOptions(num_frames=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames=0: must be at least 1"),
        ({"height": -1}, "height=-1: must be at least 1"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"min_face": 5.0}, "min_face=5.0: must be at least 12"),
        ({"min_face": float("nan")}, "min_face=nan: must be at least 12"),
    ],
)
def test_values_that_nothing_can_be_labelled_by_are_refused(options, message):
    with pytest.raises(DatasetError) as error:
        LabellingOptions(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_with_the_reason(clips, device):
    with pytest.raises(DatasetError, match=f"device='{device}': cannot be used here .*; cpu is always there"):
        list(label_clips(clips[:1], LabellingOptions(device=device)))


def test_a_script_needs_no_guard(clips, tmp_path):
    script = tmp_path / "label.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from mtcae_dfer.hub_dataset.clips import Clip\n"
        "from mtcae_dfer.hub_dataset.labelling.one_machine import label_clips\n"
        "clips = [Clip(Path(path), 'fear', 'S01', path) for path in sys.argv[1:]]\n"
        "print(len(list(label_clips(clips, workers=2))), __file__ == sys.argv[0], __spec__)\n"
    )
    command = [sys.executable, str(script), *(str(clip.path) for clip in clips[:2])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "2 True None\n", done.stderr


def test_a_script_whose_classes_the_processes_need_is_told_of_its_guard(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        "from mtcae_dfer.hub_dataset.workers import worker_pool\n"
        "class Options: pass\n"
        "with worker_pool(1, 'labelling', print, (Options(),)) as executor:\n"
        "    executor.submit(abs, -1).result()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0 and done.stdout == ""
    assert 'needs `if __name__ == "__main__":` round this call' in done.stderr.splitlines()[-1]


def test_a_dying_worker_is_one_clear_line(clips, monkeypatch):
    monkeypatch.setattr("mtcae_dfer.hub_dataset.labelling.one_machine._start_worker", os._exit)  # refuses its argument
    with pytest.raises(DatasetError, match="labelling process died"):
        list(label_clips(clips, workers=2))
