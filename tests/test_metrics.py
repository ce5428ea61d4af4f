"""Metrics against hand-computed cases and slow literal statements."""

import math

import numpy as np
import pytest
import torch

from mtcae_dfer.training.metrics import (
    ConfusionMatrix,
    FaceBoxIoU,
    NormalisedLandmarkError,
    UnweightedAverageRecall,
    WeightedAverageRecall,
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)

# Class 0: 3 of 4 right; class 1: 1 of 2 right; class 2: none of 1 right.
REFERENCES = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 0, 1])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_recalls_computed_by_hand() -> None:
    assert per_class_recall(PREDICTIONS, REFERENCES, 3).tolist() == [0.75, 0.5, 0.0]
    assert unweighted_average_recall(PREDICTIONS, REFERENCES, 3) == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert weighted_average_recall(PREDICTIONS, REFERENCES, 3) == pytest.approx(4 / 7)


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    assert confusion_matrix(PREDICTIONS, REFERENCES, 3).tolist() == [[3, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_a_class_without_clips_does_not_count_in_the_uar() -> None:
    assert unweighted_average_recall(PREDICTIONS, REFERENCES, 4) == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert math.isnan(per_class_recall(PREDICTIONS, REFERENCES, 4)[3])


def test_the_uar_of_random_labels_equals_a_literal_loop() -> None:
    random = np.random.default_rng(0)
    predictions, references = random.integers(0, 5, (2, 200))
    recalls = []
    for expression in range(5):
        right = total = 0
        for predicted, true in zip(predictions, references, strict=True):
            if true == expression:
                total += 1
                right += predicted == expression
        recalls.append(right / total)
    assert unweighted_average_recall(predictions, references, 5) == pytest.approx(sum(recalls) / 5)


def test_box_overlap_by_hand_and_frames_without_a_face_left_out() -> None:
    # Half of the box is covered: 0.5 / (1 + 0.5 - 0.5) = 0.5.
    references = np.array([[[0.0, 0.0, 1.0, 1.0], [np.nan] * 4]])
    predictions = np.array([[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    assert face_box_iou(predictions, references, np.array([[True, False]])) == pytest.approx(0.5)


def test_landmark_error_by_hand_in_the_pixels_of_the_frame() -> None:
    reference = np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.6], [0.4, 0.7], [0.6, 0.7]])
    predicted = reference + np.array([0.01, 0.0])
    # Shift 0.01, eyes 0.2 apart, in any frame: both are horizontal.
    found = np.array([True])
    assert landmark_nme(predicted[None], reference[None], found) == pytest.approx(0.05)
    assert landmark_nme(predicted[None], reference[None], found, 640, 480) == pytest.approx(0.05)
    # A vertical shift shrinks with the frame's height: 0.01 * 240 / (0.2 * 480).
    lower = reference + np.array([0.0, 0.01])
    assert landmark_nme(lower[None], reference[None], found, 480, 240) == pytest.approx(0.025)


def test_without_any_face_the_face_metrics_are_nan() -> None:
    nothing = np.array([[False, False]])
    assert math.isnan(face_box_iou(np.zeros((1, 2, 4)), np.full((1, 2, 4), np.nan), nothing))
    assert math.isnan(landmark_nme(np.zeros((1, 2, 5, 2)), np.full((1, 2, 5, 2), np.nan), nothing))


@pytest.mark.parametrize(
    ("predictions", "references", "told"),
    [
        ([0, 1], [0], "two equal lists"),
        ([], [], "no clips"),
        ([0, 3], [0, 1], r"predictions hold class ids \[3\]"),
        ([0, 1], [0, -1], r"references hold class ids \[-1\]"),
    ],
)
def test_wrong_lists_are_refused(predictions: list[int], references: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        confusion_matrix(np.array(predictions, dtype=int), np.array(references, dtype=int), 3)


def test_face_metrics_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        face_box_iou(np.zeros((2, 3, 4)), np.zeros((2, 2, 4)), np.ones((2, 2), dtype=bool))


def test_the_metric_classes_work_offline_batch_by_batch() -> None:
    for metric, expected in ((UnweightedAverageRecall(), {"uar": 1.25 / 3}), (WeightedAverageRecall(), {"war": 4 / 7})):
        metric.add_batch(predictions=torch.tensor(PREDICTIONS[:3]), references=torch.tensor(REFERENCES[:3]))
        metric.add_batch(predictions=PREDICTIONS[3:], references=REFERENCES[3:])
        assert metric.compute(num_classes=3) == pytest.approx(expected)
    counts = ConfusionMatrix().compute(predictions=PREDICTIONS, references=REFERENCES, num_classes=3)
    assert counts["confusion_matrix"] == [[3, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_the_face_metric_classes_skip_frames_without_a_reference() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [np.nan] * 4], dtype=np.float32)
    predicted = np.array([[0.0, 0.0, 0.5, 1.0], [0.1, 0.1, 0.2, 0.2]], dtype=np.float32)
    assert FaceBoxIoU().compute(predictions=predicted, references=boxes)["face_box_iou"] == pytest.approx(0.5)
    points = np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.6], [0.4, 0.7], [0.6, 0.7]], dtype=np.float32)
    result = NormalisedLandmarkError().compute(predictions=[points + np.float32([0.01, 0])], references=[points])
    assert result["landmark_nme"] == pytest.approx(0.05, abs=1e-5)
