"""The drawn corpus: determinism, independence of the label, action units, ground truth, files, and MTCNN as a judge."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from mtcae_dfer.hub_dataset.synthetic import acting
from mtcae_dfer.hub_dataset.synthetic import corpus as synthetic
from mtcae_dfer.hub_dataset.synthetic.acting import (
    EXPRESSION_ACTION_UNITS,
    EXPRESSIONS,
    EXPRESSIONS_WITH_CONTEMPT,
    SyntheticCorpusConfig,
    clip_slot,
    clip_truth,
    draw_clip,
    draw_performance,
    subject_identity,
    take_scene,
)
from mtcae_dfer.hub_dataset.synthetic.anatomy import (
    ACTION_UNITS,
    FacePose,
    brow_line,
    build_face,
    eye_lids,
    place_in_frame,
)
from mtcae_dfer.hub_dataset.synthetic.corpus import (
    encode_clip,
    load_ground_truth,
    make_synthetic_corpus,
)
from mtcae_dfer.hub_dataset.synthetic.drawing import paint_frames

SMALL = SyntheticCorpusConfig(
    subjects=2, takes=1, expressions=("neutral", "happiness", "surprise"), frame_size=96, min_frames=6, max_frames=8
)
EIGHT = SyntheticCorpusConfig(expressions=EXPRESSIONS_WITH_CONTEMPT)


def files_of(folder: Path) -> dict[str, str]:
    """Digest of every file of a folder by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_synthetic_corpus(tmp_path_factory.mktemp("corpus"), SMALL, workers=1, progress=False)


# -- determinism and files


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(corpus, tmp_path):
    again = make_synthetic_corpus(tmp_path / "again", SMALL, workers=2, progress=False)
    assert files_of(again) == files_of(corpus)


def test_a_different_seed_gives_different_frames():
    other = dataclasses.replace(SMALL, seed=1)
    one, two = (draw_clip(config, 1, "happiness", 1) for config in (SMALL, other))
    assert one.frames.shape != two.frames.shape or not np.array_equal(one.frames, two.frames)
    assert subject_identity(SMALL, 1) != subject_identity(other, 1)


def test_a_clip_does_not_depend_on_what_was_drawn_before():
    alone = draw_clip(SMALL, 2, "surprise", 1).frames
    draw_clip(SMALL, 1, "neutral", 1)
    assert np.array_equal(alone, draw_clip(SMALL, 2, "surprise", 1).frames)


def test_folder_has_class_folders_clip_list_truth_and_configuration(corpus):
    names = [f"{name}/S{subject:02d}_{name}_T1.mp4" for subject in (1, 2) for name in SMALL.expressions]
    lines = (corpus / "videos" / "clips.csv").read_text().splitlines()
    assert lines == [
        "path,expression,subject",
        *(f"{name},{name.split('/')[0]},{name.split('/')[1][:3]}" for name in names),
    ]
    expected = {"corpus.json", "ground_truth.parquet", "videos/clips.csv", *(f"videos/{name}" for name in names)}
    assert set(files_of(corpus)) == expected
    assert json.loads((corpus / "corpus.json").read_text())["expressions"] == list(SMALL.expressions)


def test_files_are_h264_with_the_frames_that_were_drawn(corpus):
    clip = draw_clip(SMALL, 1, "happiness", 1)
    with av.open(str(corpus / "videos" / clip.truth.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == SMALL.frame_rate
    decoded = _decode((corpus / "videos" / clip.truth.path).read_bytes())
    assert decoded.shape == clip.frames.shape
    assert np.abs(decoded.astype(int) - clip.frames).mean() < 8  # gray levels lost to compression


def test_encoding_the_same_frames_gives_the_same_bytes_whatever_lay_in_memory():
    frames = draw_clip(SMALL, 1, "happiness", 1).frames
    random = np.random.default_rng(0)
    litter, encodings = [], set()
    for _ in range(120):  # with look-ahead, about one in five differs
        encodings.add(encode_clip(frames, 25, 23))
        litter.append(random.bytes(int(random.integers(1, 9000))))
    assert len(encodings) == 1


def test_a_complete_corpus_is_left_alone(corpus, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    monkeypatch.setattr(synthetic, "draw_clip", lambda *_: pytest.fail("drew a clip of a complete corpus"))
    make_synthetic_corpus(corpus, SMALL, workers=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_an_interrupted_call_is_continued_and_keeps_finished_clips(corpus, tmp_path, monkeypatch):
    drawn = []

    def draw_until_interrupted(*job):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(job)
        return draw_clip(*job)

    monkeypatch.setattr(synthetic, "draw_clip", draw_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic_corpus(tmp_path / "out", SMALL, workers=1, progress=False)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "corpus.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    assert len(kept) == 3
    (tmp_path / "out" / "videos" / "happiness" / ".S02_happiness_T1.mp4.1.partial").write_bytes(b"half")
    make_synthetic_corpus(tmp_path / "out", SMALL, workers=1, progress=False)
    assert files_of(tmp_path / "out") == files_of(corpus)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_deleted_files_are_made_again(corpus):
    before = files_of(corpus)
    for name in ("videos/happiness/S01_happiness_T1.mp4", "videos/clips.csv", "ground_truth.parquet"):
        (corpus / name).unlink()
        make_synthetic_corpus(corpus, SMALL, workers=1, progress=False)
        assert files_of(corpus) == before


def test_another_configuration_in_the_same_folder_is_refused_in_one_line(corpus):
    before = files_of(corpus)
    with pytest.raises(ValueError, match="another configuration .seed 0 instead of 5.: choose another folder") as error:
        make_synthetic_corpus(corpus, dataclasses.replace(SMALL, seed=5), workers=1, progress=False)
    assert "\n" not in str(error.value)
    assert files_of(corpus) == before


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "mine" / "videos").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not drawn by this module"):
        make_synthetic_corpus(tmp_path / "mine", SMALL)
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="is a file"):
        make_synthetic_corpus(tmp_path / "file", SMALL)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        make_synthetic_corpus(tmp_path / "broken", SMALL)


def test_ground_truth_reads_back_as_drawn(corpus):
    truths = load_ground_truth(corpus)
    assert len(truths) == 6
    read = truths["surprise/S02_surprise_T1.mp4"]
    drawn = clip_truth(SMALL, 2, "surprise", 1)
    for field in dataclasses.fields(drawn):
        assert np.array_equal(getattr(read, field.name), getattr(drawn, field.name)), field.name
        if isinstance(getattr(drawn, field.name), np.ndarray):
            assert getattr(read, field.name).dtype == np.float32, field.name


def test_ground_truth_of_a_missing_corpus_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make the corpus first"):
        load_ground_truth(tmp_path)


# -- configuration


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("subjects", 0, "between 1 and 999"),
        ("takes", 1.5, "a whole number"),
        ("expressions", ("neutral", "joy"), "different names out of neutral"),
        ("expressions", ("fear", "fear"), "different names out of neutral"),
        ("expressions", (), "different names out of neutral"),
        ("frame_size", 63, "an even number of at least 64"),
        ("frame_size", 101, "an even number of at least 64"),
        ("frame_rate", 0, "between 1 and 120"),
        ("min_frames", 1, "at least 2"),
        ("max_frames", 10, "at least min_frames"),
        ("min_intensity", -0.1, "between 0 and 1"),
        ("max_intensity", 0.5, "between min_intensity and 1"),
        ("max_face_width", 0.8, "between min_face_width and 0.7"),
        ("speech_share", float("nan"), "between 0 and 1"),
        ("seed", -1, "at least 0"),
        ("seed", True, "a whole number"),
    ],
)
def test_wrong_configuration_names_field_value_and_rule(field, value, rule):
    with pytest.raises(ValueError) as error:
        SyntheticCorpusConfig(**{field: value})
    message = str(error.value)
    assert message.startswith(f"{field}={value!r}: must be {rule}") and "\n" not in message


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ((3, "neutral", 1), "subject is 3"),
        ((1, "anger", 1), "expression is 'anger'"),
        ((1, "neutral", 2), "take is 2"),
    ],
)
def test_clips_outside_the_corpus_are_refused(job, message):
    with pytest.raises(ValueError, match=message):
        draw_clip(SMALL, *job)


# -- independence of the label


def test_a_subject_and_its_recording_session_are_the_same_for_every_expression():
    scenes = {draw_clip(SMALL, 1, name, 1).scene for name in SMALL.expressions}
    assert scenes == {take_scene(SMALL, 1, 1)}


def test_performances_belong_to_slots_and_slots_are_dealt_evenly():
    """Head movement, timing, blinks and speech are drawn per slot; each expression meets each slot equally often."""
    config = SyntheticCorpusConfig(subjects=500)
    slots = np.array([[clip_slot(config, s, name, 1) for name in EXPRESSIONS] for s in range(1, 501)])
    dealt = [clip_slot(config, 1, name, take) for name in EXPRESSIONS for take in (1, 2)]
    assert sorted(dealt) == list(range(14))
    # The mean of 500 draws from 0..13 lies within 6.5 +- 0.72 (four standard errors).
    assert np.abs(slots.mean(axis=0) - 6.5).max() < 0.72


def test_the_same_performance_differs_between_expressions_in_the_expressions_units_alone():
    performance = draw_performance(EIGHT, 3, 4)
    neutral = acting.action_unit_track(performance, "neutral")
    for name in EXPRESSIONS_WITH_CONTEMPT:
        track = acting.action_unit_track(performance, name)
        others = [ACTION_UNITS.index(unit) for unit in ACTION_UNITS if unit not in EXPRESSION_ACTION_UNITS[name]]
        assert np.array_equal(track[:, others], neutral[:, others])
        for unit in EXPRESSION_ACTION_UNITS[name]:
            assert track[:, ACTION_UNITS.index(unit)].max() > 0.4


def test_neutral_shows_no_unit_but_blinks_and_speech():
    expressive = [ACTION_UNITS.index(unit) for unit in ACTION_UNITS if unit not in (25, 26, 45)]
    parting = [ACTION_UNITS.index(unit) for unit in (25, 26)]
    for subject in range(1, 9):
        truth = clip_truth(EIGHT, subject, "neutral", 1)
        assert not truth.action_units[:, expressive].any()
        assert not truth.action_units[truth.speech_opening == 0][:, parting].any()
        assert not truth.valence.any() and not truth.arousal.any() and not truth.expression_strength.any()


def test_valence_and_arousal_follow_the_circumplex():
    signs = {"happiness": (1, 1), "sadness": (-1, -1), "anger": (-1, 1), "fear": (-1, 1), "surprise": (1, 1)}
    for name, (valence, arousal) in signs.items():
        truth = clip_truth(EIGHT, 1, name, 1)
        apex = int(truth.expression_strength.argmax())
        assert np.sign(truth.valence[apex]) == valence and np.sign(truth.arousal[apex]) == arousal
        np.testing.assert_allclose(np.hypot(truth.valence, truth.arousal), truth.expression_strength, atol=1e-6)
        assert EIGHT.min_intensity * 0.99 <= truth.expression_strength.max() <= EIGHT.max_intensity


# -- action units to geometry


def still_pose(frame_count: int) -> FacePose:
    values = {"centre_x": 0.5, "centre_y": 0.45, "half_width": 0.28, "roll": 0.0, "yaw": 0.0, "pitch": 0.0}
    return FacePose(**{name: np.full(frame_count, value) for name, value in values.items()})


def units_of(**intensities: float) -> np.ndarray:
    """(2, A): a frame without any unit and one with these, written au12=1.0."""
    track = np.zeros((2, len(ACTION_UNITS)))
    for name, value in intensities.items():
        track[1, ACTION_UNITS.index(int(name[2:]))] = value
    return track


def movement(subject: int = 1, dimple_side: int = 1, **intensities: float) -> tuple[np.ndarray, float]:
    """Shift of the five landmarks (5, 2) and of the chin, in face units, that units cause."""
    identity = subject_identity(EIGHT, subject)
    geometry = build_face(identity, units_of(**intensities), still_pose(2), np.zeros((2, 2)), dimple_side)
    chin = geometry.contour[..., 1].max(axis=1)
    return geometry.landmarks[1] - geometry.landmarks[0], float(chin[1] - chin[0])


@pytest.mark.parametrize("subject", range(1, 7))
def test_mouth_units_move_the_corners_as_facs_says(subject):
    left, right = 3, 4
    smile, _ = movement(subject, au12=1.0)
    assert (smile[[left, right], 1] < -0.08).all() and smile[left, 0] < -0.05 and smile[right, 0] > 0.05
    frown, _ = movement(subject, au15=1.0)
    assert (frown[[left, right], 1] > 0.06).all()
    stretch, _ = movement(subject, au20=1.0)
    assert stretch[left, 0] < -0.08 and stretch[right, 0] > 0.08
    dimple, _ = movement(subject, dimple_side=1, au14=1.0)
    assert np.abs(dimple[left]).max() == 0.0 and dimple[right, 1] < -0.03
    dropped, chin = movement(subject, au26=1.0)
    assert chin > 0.2 and np.abs(dropped[:2]).max() == 0.0


def test_brow_units_move_their_own_end_of_the_brow():
    identity = subject_identity(EIGHT, 1)
    ends = np.array([0.0, 1.0])

    def shift(**intensities: float) -> np.ndarray:
        track = units_of(**intensities)
        units = {unit: track[:, column, None] for column, unit in enumerate(ACTION_UNITS)}
        heights = brow_line(identity, units, ends)
        return heights[1] - heights[0]

    inner, outer = shift(au1=1.0)
    assert inner < -0.1 and abs(outer) < 0.02
    inner, outer = shift(au2=1.0)
    assert outer < -0.1 and abs(inner) < 0.02
    assert (shift(au4=1.0) > 0.03).all()
    inner, outer = shift(au1=1.0, au4=1.0)  # the oblique brow of sadness
    assert inner < -0.05 < 0.03 < outer
    assert (shift(au1=1.0, au2=1.0, au4=1.0) < -0.05).all()  # the raised, straight brow of fear


def test_lid_units_open_narrow_and_close_the_eye():
    identity = subject_identity(EIGHT, 1)

    def opening(**intensities: float) -> float:
        track = units_of(**intensities)
        upper, lower = eye_lids(identity, {u: track[:, i, None] for i, u in enumerate(ACTION_UNITS)}, np.array([0.0]))
        assert (upper <= lower).all()
        return float((lower - upper)[1, 0] / (lower - upper)[0, 0])

    assert opening(au5=1.0) > 1.25
    assert opening(au6=1.0) < 0.85 and opening(au7=1.0) < 0.75
    assert opening(au45=1.0) < 0.05
    assert opening(au5=1.0, au45=1.0) < 0.05


def test_every_unit_shows_in_its_own_part_of_the_picture():
    identity = dataclasses.replace(subject_identity(EIGHT, 8), hair_style="bald", glasses=False)
    scene = dataclasses.replace(take_scene(EIGHT, 8, 1), noise=0.0)
    track = np.concatenate([np.zeros((1, len(ACTION_UNITS))), np.eye(len(ACTION_UNITS))])
    pose = still_pose(len(track))
    geometry = build_face(identity, track, pose, np.zeros((len(track), 2)), 1)
    frames = paint_frames(identity, geometry, pose, scene, 224).astype(int)
    changed = np.abs(frames[1:] - frames[:1]).max(axis=-1) > 4  # (A, H, W)
    eyes, nose = (place_in_frame(geometry.landmarks, pose)[0, point, 1] * 224 for point in (0, 2))
    upper_face, lower_face = changed[:, : int(eyes) + 25].sum(axis=(1, 2)), changed[:, int(nose) :].sum(axis=(1, 2))
    upper_units, lower_units = (1, 2, 4, 5, 7, 45), (12, 14, 15, 16, 20, 23, 25, 26)
    for unit, above, below in zip(ACTION_UNITS, upper_face, lower_face, strict=True):
        if unit in upper_units:
            assert above > 60 and below == 0, unit
        elif unit in lower_units:
            assert below > 60 and (above < 0.01 * below or unit == 12), unit  # unit 12 lifts the cheeks' light
        else:
            assert above > 60, unit  # 6 and 9 work on both


# -- ground truth


def test_boxes_hold_the_five_points_and_lie_in_the_frame():
    for subject in range(1, 25):
        for name in ("neutral", "surprise", "happiness"):
            truth = clip_truth(EIGHT, subject, name, 2)
            boxes, points = truth.face_boxes, truth.face_landmarks
            assert len(boxes) == len(points) == len(truth.action_units) == len(truth.valence)
            assert (points > boxes[:, None, :2]).all() and (points < boxes[:, None, 2:]).all()
            assert boxes.min() >= 0.0 and boxes.max() <= 1.0
            assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all()


def test_head_size_and_place_vary_within_the_configured_range():
    config = SyntheticCorpusConfig(subjects=100, min_face_width=0.40, max_face_width=0.50, position_reach=0.12)
    poses = [draw_performance(config, subject, 0).pose for subject in range(1, 101)]
    # Size and place drift by up to 2.5 % and 3 % of the frame within a clip.
    widths = np.array([2 * pose.half_width.mean() for pose in poses])
    assert 0.39 < widths.min() < 0.42 and 0.48 < widths.max() < 0.513
    places = np.array([pose.centre_x.mean() for pose in poses]) - 0.5
    assert 0.12 / np.sqrt(3) * 0.8 < places.std() < 0.12 / np.sqrt(3) * 1.25  # a uniform distribution's
    assert np.abs(places).max() < 0.12 + 0.03
    assert all(np.ptp(pose.centre_x) > 0 and np.ptp(pose.roll) > 0 for pose in poses)


def test_speech_appears_in_the_configured_share_of_clips_whatever_the_expression():
    config = SyntheticCorpusConfig(subjects=150, speech_share=0.5)
    for name in ("neutral", "fear"):
        talking = [clip_truth(config, subject, name, 1).speech_opening.any() for subject in range(1, 151)]
        assert 0.34 < np.mean(talking) < 0.66  # four standard errors


def test_mtcnn_finds_the_faces_where_the_truth_says():
    """An independent judge: a detector trained on photographs."""
    facenet_pytorch = pytest.importorskip("facenet_pytorch")
    frames, boxes, points = _sample_frames(count=104)
    detected, _, landmarks = _detect(facenet_pytorch.MTCNN(keep_all=True), frames)
    overlaps, errors = [], []
    for found, marks, box, five in zip(detected, landmarks, boxes, points, strict=True):
        overlap = [0.0] if found is None else [_overlap(np.asarray(one, float), box) for one in found]
        best = int(np.argmax(overlap))
        overlaps.append(overlap[best])
        if overlap[best] > 0.4:
            distance = np.linalg.norm(np.asarray(marks[best], float) - five, axis=-1).mean()
            errors.append(distance / np.linalg.norm(five[0] - five[1]))
    assert np.mean(np.array(overlaps) > 0.4) >= 0.97
    assert np.mean(overlaps) >= 0.8
    assert np.mean(errors) <= 0.15


def _sample_frames(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decoded frames (N, H, W, 3) of many subjects in all eight expressions, with boxes and points in pixels."""
    config = dataclasses.replace(EIGHT, subjects=count, min_frames=8, max_frames=10, seed=7)
    random = np.random.default_rng(0)
    frames, boxes, points = [], [], []
    for subject in range(1, count + 1):
        clip = draw_clip(config, subject, EXPRESSIONS_WITH_CONTEMPT[subject % 8], 1)
        index = int(random.integers(len(clip.frames)))
        frames.append(_decode(encode_clip(clip.frames, config.frame_rate, clip.scene.compression))[index])
        boxes.append(clip.truth.face_boxes[index] * config.frame_size)
        points.append(clip.truth.face_landmarks[index] * config.frame_size)
    return np.stack(frames), np.stack(boxes), np.stack(points)


def _decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _detect(detector, frames: np.ndarray) -> tuple[list, list, list]:
    batches = [detector.detect(frames[start : start + 26], landmarks=True) for start in range(0, len(frames), 26)]
    return tuple([one for batch in batches for one in batch[part]] for part in range(3))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    width, height = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0.0, None)
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return float(width * height / (sum(areas) - width * height))
