"""Faces in frames: agreement with facenet-pytorch, drawn truth, one face per frame by each policy, empty frames."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from torch.nn.functional import interpolate

from mtcae_dfer.face_detection import FaceDetections, FaceDetector
from mtcae_dfer.face_geometry import box_intersection_over_union, boxes_from_pixels, points_from_pixels
from mtcae_dfer.hub_dataset.synthetic.acting import EXPRESSIONS, SyntheticCorpusConfig, draw_clip
from mtcae_dfer.video_reading import read_clip, resize_frames

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
CONFIG = SyntheticCorpusConfig()
SIZE = (224, 224)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def detector(**options) -> FaceDetector:
    return FaceDetector(**options)


@cache
def drawn(subject: int, expression: str, frame_count: int = 4) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Frames uint8 (T, 3, 224, 224) of a drawn clip with its true boxes (T, 4) and points (T, 5, 2)."""
    clip = draw_clip(CONFIG, subject, expression, 1)
    picked = np.linspace(0, len(clip.frames) - 1, frame_count).astype(int)
    frames = torch.from_numpy(clip.frames[picked]).permute(0, 3, 1, 2).contiguous()
    return frames, clip.truth.face_boxes[picked], clip.truth.face_landmarks[picked]


def reference_faces(frames: torch.Tensor, **options) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What facenet-pytorch finds frame by frame: boxes (N, 4), probabilities (N,), points (N, 5, 2) in pixels."""
    network = MTCNN(keep_all=True, **options)
    found = []
    for frame in frames:
        boxes, probabilities, points = network.detect(frame.permute(1, 2, 0).numpy(), landmarks=True)
        if boxes is None:
            boxes, probabilities, points = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
        found.append(tuple(np.asarray(values, dtype=np.float32) for values in (boxes, probabilities, points)))
    return found


def assert_agrees(found: FaceDetections, frames: torch.Tensor, reference: list, tolerance: float) -> None:
    """The first face of facenet-pytorch (the largest) is the found one, to a tolerance in shares of the frame."""
    height, width = frames.shape[-2:]
    for index, (boxes, probabilities, points) in enumerate(reference):
        assert found.face_count[index] == len(boxes)
        assert found.face_found[index]
        expected = boxes_from_pixels(torch.from_numpy(boxes[0]), width, height).clamp(0, 1)
        torch.testing.assert_close(found.boxes[index], expected, atol=tolerance, rtol=0)
        expected = points_from_pixels(torch.from_numpy(points[0]), width, height).clamp(0, 1)
        torch.testing.assert_close(found.landmarks[index], expected, atol=tolerance, rtol=0)
        assert abs(float(found.confidence[index]) - float(probabilities[0])) < 1e-3


@pytest.mark.parametrize("subject", [1, 4, 7])
def test_with_the_complete_pyramid_drawn_faces_are_those_that_facenet_finds_frame_by_frame(subject):
    frames, _, _ = drawn(subject, EXPRESSIONS[subject % 7])
    assert_agrees(detector(min_face=20).detect(frames), frames, reference_faces(frames), tolerance=2e-4)


def test_by_default_drawn_faces_lie_where_facenet_finds_them_and_as_close_to_the_truth():
    ours, theirs, true_boxes, true_points = [], [], [], []
    for subject in range(1, 9):
        frames, boxes, points = drawn(subject, EXPRESSIONS[subject % 7])
        ours.append(detector().detect(frames))
        theirs += reference_faces(frames)
        true_boxes.append(torch.from_numpy(boxes).float())
        true_points.append(torch.from_numpy(points).float())
    boxes, points = torch.cat(true_boxes), torch.cat(true_points)
    found_boxes, found_points = (torch.cat([getattr(clip, name) for clip in ours]) for name in ("boxes", "landmarks"))
    their_boxes = torch.from_numpy(np.stack([found[0][0] for found in theirs])) / 224
    their_points = torch.from_numpy(np.stack([found[2][0] for found in theirs])) / 224
    diagonal = (their_boxes[:, 2:] - their_boxes[:, :2]).norm(dim=-1)
    assert torch.cat([clip.face_found for clip in ours]).all()
    assert box_intersection_over_union(found_boxes, their_boxes).mean() > 0.9
    assert ((found_points - their_points).norm(dim=-1).mean(dim=-1) / diagonal).mean() < 0.025
    our_overlap, their_overlap = (
        box_intersection_over_union(found, boxes).mean() for found in (found_boxes, their_boxes)
    )
    our_error, their_error = ((found - points).norm(dim=-1).mean() for found in (found_points, their_points))
    assert 1 - our_overlap < 1.02 * (1 - their_overlap) and our_error < 1.02 * their_error


def test_frames_of_other_sizes_agree_with_facenet_too():
    frames, _, _ = drawn(2, "happiness")
    frames = resize_frames(frames, (301, 417))
    assert_agrees(detector(min_face=20).detect(frames), frames, reference_faces(frames), tolerance=2e-4)


def test_several_faces_in_a_frame_are_all_counted_as_facenet_counts_them():
    frames = side_by_side(drawn(1, "neutral")[0], drawn(2, "neutral")[0])
    reference = reference_faces(frames, min_face_size=20)
    assert all(len(boxes) == 2 for boxes, _, _ in reference)
    assert_agrees(detector(policy="largest", min_face=20).detect(frames), frames, reference, tolerance=2e-4)


def test_faces_are_followed_from_places_nearby_to_where_they_are_found_anyhow():
    frames = side_by_side(drawn(1, "neutral")[0], drawn(2, "neutral")[0])
    found = detector(min_face=20).detect_all(frames)
    widths = [faces.boxes[:, 2:] - faces.boxes[:, :2] for faces in found]
    places = [faces.boxes + 0.1 * width.repeat(1, 2) for faces, width in zip(found, widths, strict=True)]
    for faces, near in zip(found, detector(min_face=20).follow(frames, places), strict=True):
        assert len(near.boxes) == len(faces.boxes) == 2
        order, expected_order = near.boxes[:, 0].argsort(), faces.boxes[:, 0].argsort()
        overlap = box_intersection_over_union(near.boxes[order], faces.boxes[expected_order])
        assert float(overlap.min()) > 0.85
        error = (near.landmarks[order] - faces.landmarks[expected_order]).norm(dim=-1)
        assert float(error.mean()) < 0.01 and float(error.max()) < 0.03


def test_where_no_face_is_expected_or_there_is_none_nothing_is_followed():
    frames, _, _ = drawn(1, "neutral")
    places = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 0.15, 0.15]]), torch.zeros(0, 4), torch.zeros(0, 4)]
    assert [len(faces.boxes) for faces in detector().follow(frames, places)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="3 frames, but 4"):
        detector().follow(frames, places[:3])


@pytest.mark.parametrize("subject", range(1, 9))
def test_boxes_and_points_lie_on_the_drawn_truth(subject):
    frames, boxes, points = drawn(subject, EXPRESSIONS[subject % 7])
    found = detector().detect(frames)
    assert found.face_found.all()
    overlap = box_intersection_over_union(found.boxes.numpy(), boxes)
    eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=-1)
    error = np.linalg.norm(found.landmarks.numpy() - points, axis=-1).mean(axis=-1) / eyes
    assert overlap.mean() > 0.75
    assert error.mean() < 0.12
    assert (found.landmarks[:, 0, 0] < found.landmarks[:, 1, 0]).all()  # "left" is the viewer's left


def test_a_small_face_below_min_face_is_still_found():
    small = resize_frames(drawn(1, "happiness")[0], (64, 64))  # the face is about 35 pixels wide
    frames = torch.full((4, 3, *SIZE), 90, dtype=torch.uint8)
    frames[:, :, 100:164, 30:94] = small
    assert detector(min_face=120).detect(frames).face_found.all()
    assert not detector(min_face=120, search_small_faces=False).detect(frames).face_found.any()


def test_frames_without_a_face_hold_nan_and_zero():
    frames = drawn(1, "sadness")[0].clone()
    frames[1] = 127
    frames[3] = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = detector().detect(frames)
    assert found.face_found.tolist() == [True, False, True, False]
    assert found.face_count.tolist() == [1, 0, 1, 0]
    assert found.boxes[[1, 3]].isnan().all() and found.landmarks[[1, 3]].isnan().all()
    assert not found.boxes[[0, 2]].isnan().any() and not found.landmarks[[0, 2]].isnan().any()
    assert found.confidence[[1, 3]].tolist() == [0, 0]


def test_a_clip_without_any_face_and_a_clip_without_frames_are_no_errors():
    found = detector().detect(torch.zeros(3, 3, *SIZE, dtype=torch.uint8))
    assert not found.face_found.any() and found.boxes.shape == (3, 4) and found.landmarks.shape == (3, 5, 2)
    found = detector().detect(torch.zeros(0, 3, *SIZE, dtype=torch.uint8))
    assert found.boxes.shape == (0, 4) and found.face_count.shape == (0,)


def test_shapes_types_and_range():
    found = detector().detect(drawn(3, "fear")[0])
    assert (found.boxes.shape, found.boxes.dtype) == ((4, 4), torch.float32)
    assert (found.landmarks.shape, found.landmarks.dtype) == ((4, 5, 2), torch.float32)
    assert (found.confidence.shape, found.confidence.dtype) == ((4,), torch.float32)
    assert found.face_found.dtype == torch.bool and not found.face_count.is_floating_point()
    for values in (found.boxes, found.landmarks, found.confidence):
        assert ((values >= 0) & (values <= 1)).all()


def test_results_can_take_part_in_training():
    boxes = detector().detect(drawn(3, "fear")[0]).boxes
    weight = torch.ones(4, requires_grad=True)
    (boxes * weight).sum().backward()
    assert weight.grad is not None


def test_a_clip_longer_than_one_stack_gives_the_same_faces(monkeypatch):
    frames, _, _ = drawn(5, "anger", frame_count=7)
    whole = detector().detect(frames)
    monkeypatch.setattr("mtcae_dfer.face_detection.FRAMES_AT_ONCE", 3)
    parts = detector().detect(frames)
    torch.testing.assert_close(parts.boxes, whole.boxes, atol=1e-4, rtol=0)
    assert parts.face_count.tolist() == whole.face_count.tolist()


# -- one face per frame


def side_by_side(left: torch.Tensor, right: torch.Tensor, right_size: int = 224) -> torch.Tensor:
    """Two clips in one picture (T, 3, 224, 448), the right one shrunk to a square in its half."""
    canvas = torch.full((len(left), 3, 224, 448), 100, dtype=torch.uint8)
    canvas[..., :224] = left
    canvas[..., :right_size, 224 : 224 + right_size] = resize_frames(right, (right_size, right_size))
    return canvas


def two_people() -> torch.Tensor:
    """Six frames of 224×448: a large face on the left that leaves after two of them, a small one on the right."""
    left, _, _ = drawn(1, "neutral", 6)
    right, _, _ = drawn(2, "neutral", 6)
    frames = side_by_side(left, right, right_size=130)
    frames[2:, :, :, :224] = 100
    return frames


def test_the_tracked_face_is_the_one_seen_in_most_frames():
    found = detector(policy="track").detect(two_people())
    assert found.face_found.all()
    assert (found.boxes[:, 0] > 0.5).all()
    assert found.face_count.tolist() == [2, 2, 1, 1, 1, 1]


def test_the_largest_face_is_taken_in_each_frame_where_that_is_wished():
    found = detector(policy="largest").detect(two_people())
    assert (found.boxes[:, 2] < 0.5).tolist() == [True, True, False, False, False, False]


def test_the_central_face_is_taken_in_each_frame_where_that_is_wished():
    frames = side_by_side(drawn(1, "neutral")[0], drawn(2, "neutral")[0], right_size=130)
    frames = torch.nn.functional.pad(frames, (0, 120), value=100)
    # Centres: the left face near x = 100 of 568, the small one near x = 290, next to the frame's centre at 284.
    found = detector(policy="central").detect(frames)
    assert ((found.boxes[:, 0] + found.boxes[:, 2]) / 2 > 0.4).all()


def test_of_two_equally_long_tracks_the_larger_face_is_taken():
    frames = side_by_side(drawn(1, "neutral")[0], drawn(2, "neutral")[0], right_size=130)
    found = detector(policy="track").detect(frames)
    assert (found.boxes[:, 2] < 0.5).all() and found.face_count.tolist() == [2, 2, 2, 2]


def test_a_track_goes_on_after_a_gap():
    frames = side_by_side(drawn(1, "neutral", 6)[0], drawn(2, "neutral", 6)[0], right_size=130)
    frames[2:4, :, :, 224:] = 100  # the small face is away for two frames
    frames[3:, :, :, :224] = 100  # the large one leaves for good
    found = detector(policy="track").detect(frames)
    assert found.face_found.tolist() == [True, True, False, False, True, True]
    assert (found.boxes[found.face_found, 0] > 0.5).all()


# -- wrong use


@pytest.mark.parametrize(
    ("options", "message"),
    [({"policy": "first"}, "track, largest, central"), ({"min_face": 5}, "12"), ({"min_face": float("nan")}, "12")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(**options)


@pytest.mark.parametrize(
    "frames", [torch.zeros(2, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(2, 64, 64, 3).byte()]
)
def test_wrong_frames_are_refused(frames):
    with pytest.raises(ValueError, match="uint8"):
        detector().detect(frames)


def test_frames_smaller_than_a_face_hold_none():
    assert not detector().detect(torch.zeros(2, 3, 10, 12, dtype=torch.uint8)).face_found.any()


# -- real clips


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample clips are not here")
@pytest.mark.parametrize("name", ["1001_DFA_FEA_XX.flv", "02-01-01-01-02-01-01.mp4"])
def test_real_faces_agree_with_facenet(name):
    frames = read_clip(SAMPLES / name, num_frames=16, size=SIZE).frames
    found = detector().detect(frames)
    reference = torch.from_numpy(np.stack([boxes[0] for boxes, _, _ in reference_faces(frames)]))
    overlap = box_intersection_over_union(found.boxes, boxes_from_pixels(reference, 224, 224))
    assert found.face_found.all() and float(overlap.mean()) > 0.9


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample clips are not here")
def test_a_real_clip_without_faces_has_none_and_a_street_has_several_people():
    nobody = read_clip(SAMPLES / "no_face.mp4", num_frames=4, size=SIZE).frames
    assert not detector().detect(nobody).face_found.any()
    street = read_clip(SAMPLES / "street_many_faces.mp4", num_frames=3, size=(540, 960)).frames
    assert (detector(min_face=20).detect(street).face_count >= 2).all()


def test_area_averages_are_torchs_area_interpolation():
    from mtcae_dfer.face_detection import _PixelSums

    frames = drawn(1, "neutral")[0][..., :150, :201]
    expected = (interpolate(frames.float(), size=(47, 61), mode="area") - 127.5) / 128
    torch.testing.assert_close(_PixelSums(frames).resized(47, 61), expected, atol=1e-5, rtol=0)
    # One table after the other: of a small part, of one that reaches beyond it, and of the whole frames.
    sums = _PixelSums(frames)
    for left, top, right, bottom in ((90, 60, 120, 85), (92, 61, 119, 84), (7, 20, 50, 131), (150, 0, 201, 150)):
        crop = (interpolate(frames[1:2, :, top:bottom, left:right].float(), size=(24, 24), mode="area") - 127.5) / 128
        found = sums.crops(torch.tensor([1]), torch.tensor([[left, top, right, bottom]]), 24)
        torch.testing.assert_close(found, crop, atol=1e-5, rtol=0)
    torch.testing.assert_close(sums.resized(47, 61), expected, atol=1e-5, rtol=0)
