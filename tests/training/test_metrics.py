"""Metrics against hand-computed cases and slow literal statements."""

import math
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from mtcae_dfer.training.evaluation.metrics import (
    ConfusionMatrix,
    FaceBoxIoU,
    NormalisedLandmarkError,
    OfflineMetric,
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
# Eyes 0.2 apart.
POINTS = np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.6], [0.4, 0.7], [0.6, 0.7]])
ALL_METRICS = (UnweightedAverageRecall, WeightedAverageRecall, ConfusionMatrix, FaceBoxIoU, NormalisedLandmarkError)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a metric asked the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# The formulas


def test_recalls_computed_by_hand() -> None:
    assert per_class_recall(PREDICTIONS, REFERENCES, 3).tolist() == [0.75, 0.5, 0.0]
    assert unweighted_average_recall(PREDICTIONS, REFERENCES, 3) == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert weighted_average_recall(PREDICTIONS, REFERENCES, 3) == pytest.approx(4 / 7)


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    assert confusion_matrix(PREDICTIONS, REFERENCES, 3).tolist() == [[3, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_a_class_without_clips_does_not_count_in_the_uar() -> None:
    assert unweighted_average_recall(PREDICTIONS, REFERENCES, 4) == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert math.isnan(per_class_recall(PREDICTIONS, REFERENCES, 4)[3])


def test_a_clip_taken_for_an_absent_class_lowers_the_recall_of_its_own() -> None:
    assert unweighted_average_recall(np.array([0, 2]), np.array([0, 0]), 3) == pytest.approx(0.5)


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


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.int64])
def test_narrow_integers_do_not_overflow(kind: type) -> None:
    # 19 * 20 + 18 does not fit into eight bits.
    counts = confusion_matrix(np.array([18, 19], dtype=kind), np.array([19, 19], dtype=kind), 20)
    assert counts[19, 18] == counts[19, 19] == 1 and counts.sum() == 2


def test_box_overlap_by_hand_and_frames_without_a_face_left_out() -> None:
    # Half of the box is covered: 0.5 / (1 + 0.5 - 0.5) = 0.5.
    references = np.array([[[0.0, 0.0, 1.0, 1.0], [np.nan] * 4]])
    predictions = np.array([[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    assert face_box_iou(predictions, references, np.array([[True, False]])) == pytest.approx(0.5)


def test_box_overlap_is_the_mean_over_frames_and_not_over_clips() -> None:
    # One frame of the first clip (overlap 0.5), two of the second (overlap 1): 2.5 / 3.
    references = np.tile([0.0, 0.0, 1.0, 1.0], (2, 2, 1))
    predictions = references.copy()
    predictions[0] = [0.0, 0.0, 0.5, 1.0]
    assert face_box_iou(predictions, references, np.array([[True, False], [True, True]])) == pytest.approx(2.5 / 3)


def test_landmark_error_by_hand_in_the_pixels_of_the_frame() -> None:
    predicted = POINTS + np.array([0.01, 0.0])
    # Shift 0.01, eyes 0.2 apart, in any frame: both are horizontal.
    found = np.array([True])
    assert landmark_nme(predicted[None], POINTS[None], found) == pytest.approx(0.05)
    assert landmark_nme(predicted[None], POINTS[None], found, 640, 480) == pytest.approx(0.05)
    # A vertical shift shrinks with the frame's height: 0.01 * 240 / (0.2 * 480).
    lower = POINTS + np.array([0.0, 0.01])
    assert landmark_nme(lower[None], POINTS[None], found, 480, 240) == pytest.approx(0.025)


def test_landmark_error_of_random_points_equals_a_literal_loop_in_pixels() -> None:
    random = np.random.default_rng(1)
    predictions, references = random.random((2, 3, 4, 5, 2))
    found = np.array([[True, True, False, True], [False] * 4, [True, False, True, True]])
    errors = []
    for clip, frame in zip(*np.nonzero(found), strict=True):
        pixels = [(480 * x, 360 * y) for x, y in references[clip, frame]]
        eyes = math.dist(pixels[0], pixels[1])
        for (x, y), point in zip(predictions[clip, frame], pixels, strict=True):
            errors.append(math.dist((480 * x, 360 * y), point) / eyes)
    assert landmark_nme(predictions, references, found, 480, 360) == pytest.approx(sum(errors) / len(errors))


def test_the_side_of_a_square_frame_cancels_out() -> None:
    predicted, found = POINTS + np.array([0.01, 0.02]), np.array([True])
    assert landmark_nme(predicted[None], POINTS[None], found, 224, 224) == pytest.approx(
        landmark_nme(predicted[None], POINTS[None], found)
    )


def test_without_any_face_the_face_metrics_are_nan() -> None:
    nothing = np.array([[False, False]])
    assert math.isnan(face_box_iou(np.zeros((1, 2, 4)), np.full((1, 2, 4), np.nan), nothing))
    assert math.isnan(landmark_nme(np.zeros((1, 2, 5, 2)), np.full((1, 2, 5, 2), np.nan), nothing))


def test_a_prediction_that_is_no_number_is_not_left_out() -> None:
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (2, 1))
    assert math.isnan(face_box_iou(np.array([boxes[0], [np.nan] * 4]), boxes, np.array([True, True])))


@pytest.mark.parametrize(
    ("predictions", "references", "told"),
    [
        (np.array([0, 1]), np.array([0]), "two equal lists"),
        (np.array([[0, 1]]), np.array([[0, 1]]), "two equal lists"),
        (np.array([]), np.array([]), "no clips"),
        (np.array([0, 3]), np.array([0, 1]), r"predictions hold class ids \[3\], but there are classes 0 to 2"),
        (np.array([0, 1]), np.array([0, -1]), r"references hold class ids \[-1\]"),
        (np.array([0.7, 0.1]), np.array([0, 1]), "predictions hold float64 values, but class ids are integers"),
    ],
)
def test_wrong_lists_are_refused(predictions: np.ndarray, references: np.ndarray, told: str) -> None:
    for formula in (confusion_matrix, per_class_recall, unweighted_average_recall, weighted_average_recall):
        with pytest.raises(ValueError, match=told):
            formula(predictions, references, 3)


@pytest.mark.parametrize(("formula", "shape"), [(face_box_iou, (4,)), (landmark_nme, (5, 2))])
def test_wrong_face_labels_are_refused(formula: Callable[..., float], shape: tuple[int, ...]) -> None:
    labels, found = np.random.default_rng(2).random((2, 3, *shape)), np.ones((2, 3), dtype=bool)
    unknown = labels.copy()
    unknown[1, 2] = np.nan
    for arguments, told in (
        ((labels, labels[:, :2], found), "do not fit"),
        ((labels, labels, found[:1]), "do not fit"),
        ((labels[..., :1, :], labels[..., :1, :], found), "do not fit"),
        ((labels[:0], labels[:0], found[:0]), "no frames"),
        ((labels, unknown, found), "1 reference frames are said to show a face"),
    ):
        with pytest.raises(ValueError, match=told):
            formula(*arguments)


def test_eyes_that_coincide_and_frames_without_an_area_are_refused() -> None:
    squeezed = POINTS.copy()
    squeezed[1] = squeezed[0]
    with pytest.raises(ValueError, match="the two eyes coincide in 1 reference frames"):
        landmark_nme(POINTS[None], squeezed[None], np.array([True]))
    for size in ((0, 1), (1, -1), (float("nan"), 1)):
        with pytest.raises(ValueError, match="must be greater than 0"):
            landmark_nme(POINTS[None], POINTS[None], np.array([True]), *size)


# The metric classes


def entries_of(metric: type[OfflineMetric]) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, object]]:
    """Predictions and references of four clips or frames, options of `compute`, and the result of the formula."""
    if metric in (FaceBoxIoU, NormalisedLandmarkError):
        shape, formula = ((4,), face_box_iou) if metric is FaceBoxIoU else ((5, 2), landmark_nme)
        predictions, references = np.sort(np.random.default_rng(3).random((2, 4, *shape)).astype(np.float32), axis=-1)
        references[2] = np.nan
        value = formula(predictions, references, np.array([True, True, False, True]))
        name = {FaceBoxIoU: "face_box_iou", NormalisedLandmarkError: "landmark_nme"}[metric]
        return {"predictions": predictions, "references": references}, {}, {name: pytest.approx(value, abs=1e-5)}
    results = {
        UnweightedAverageRecall: {"uar": pytest.approx((1 / 2 + 1) / 2)},
        WeightedAverageRecall: {"war": pytest.approx(3 / 4)},
        ConfusionMatrix: {"confusion_matrix": [[1, 1], [0, 2]]},
    }
    return (
        {"predictions": np.array([0, 1, 1, 1]), "references": np.array([0, 0, 1, 1])},
        {"num_classes": 2},
        results[metric],
    )


def as_tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, requires_grad=values.dtype == np.float32)


@pytest.mark.parametrize("convert", [np.asarray, as_tensor, np.ndarray.tolist], ids=["numpy", "torch", "lists"])
@pytest.mark.parametrize("metric", ALL_METRICS)
def test_the_metric_classes_take_batches_of_arrays_tensors_and_lists(
    metric: type[OfflineMetric], convert: Callable[[np.ndarray], object]
) -> None:
    entries, options, expected = entries_of(metric)
    computer = metric()
    for part in (slice(0, 1), slice(1, 4)):
        computer.add_batch(**{name: convert(values[part]) for name, values in entries.items()})
    assert computer.compute(**options) == expected
    assert computer.compute(**{name: convert(values) for name, values in entries.items()}, **options) == expected


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_one_entry_at_a_time_gives_the_same(metric: type[OfflineMetric]) -> None:
    entries, options, expected = entries_of(metric)
    computer = metric()
    for prediction, reference in zip(*entries.values(), strict=True):
        computer.add(prediction=prediction, reference=reference)
    assert computer.compute(**options) == expected


@pytest.mark.parametrize("metric", [FaceBoxIoU, NormalisedLandmarkError])
def test_face_metrics_take_clips_of_frames(metric: type[OfflineMetric]) -> None:
    entries, options, expected = entries_of(metric)
    clips = {name: values.reshape(2, 2, *values.shape[1:]) for name, values in entries.items()}
    assert metric().compute(**clips, **options) == expected


def test_half_precision_predictions_are_taken() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0]], dtype=torch.bfloat16)
    result = FaceBoxIoU().compute(predictions=boxes, references=np.array([[0.0, 0.0, 1.0, 1.0]]))
    assert result == {"face_box_iou": pytest.approx(0.5)}


def test_the_landmark_metric_takes_the_size_of_the_frame() -> None:
    lower = POINTS + np.array([0.0, 0.01])
    result = NormalisedLandmarkError().compute(predictions=[lower], references=[POINTS], width=480, height=240)
    assert result["landmark_nme"] == pytest.approx(0.025, abs=1e-5)


@pytest.mark.parametrize("metric", [FaceBoxIoU, NormalisedLandmarkError])
def test_no_frame_with_a_face_is_nan_and_no_error(metric: type[OfflineMetric]) -> None:
    nothing = np.full((3, *metric.shape), np.nan, dtype=np.float32)
    assert math.isnan(metric().compute(predictions=np.zeros_like(nothing), references=nothing)[metric.result_name])


def test_a_reference_that_is_known_in_part_is_refused_and_not_skipped() -> None:
    with pytest.raises(ValueError, match="said to show a face"):
        FaceBoxIoU().compute(predictions=np.zeros((1, 4)), references=np.array([[0.1, 0.1, np.nan, 0.9]]))


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_nothing_to_compute_is_a_clear_error(metric: type[OfflineMetric]) -> None:
    options = entries_of(metric)[1]
    with pytest.raises(ValueError, match="nothing was added"):
        metric().compute(**options)
    with pytest.raises(ValueError, match="there are no (clips|frames)"):
        metric().compute(predictions=[], references=[], **options)


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "told"),
    [
        (WeightedAverageRecall, [0.7, 1.9], [0, 1], "class ids are integers"),
        (WeightedAverageRecall, np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=int), "list of class ids"),
        (WeightedAverageRecall, [0, 1, 1], [0, 1], "differ in shape"),
        (WeightedAverageRecall, [0, 2], [0, 1], r"predictions hold class ids \[2\]"),
        (FaceBoxIoU, np.zeros((2, 8, 4)), np.zeros((4, 4, 4)), "differ in shape"),
        (FaceBoxIoU, np.zeros((2, 5)), np.zeros((2, 5)), "last axes must be"),
    ],
)
def test_the_metric_classes_refuse_what_is_wrong(
    metric: type[OfflineMetric], predictions: object, references: object, told: str
) -> None:
    options = {"num_classes": 2} if metric is WeightedAverageRecall else {}
    with pytest.raises(ValueError, match=told):
        metric().compute(predictions=predictions, references=references, **options)


def test_a_metric_works_on_after_an_error() -> None:
    metric = WeightedAverageRecall()
    with pytest.raises(ValueError, match="class ids"):
        metric.compute(predictions=[5], references=[0], num_classes=2)
    assert metric.compute(predictions=[0, 1], references=[0, 0], num_classes=2) == {"war": 0.5}


def test_metrics_touch_no_cache_folder(tmp_path: Path) -> None:
    for metric in ALL_METRICS:
        entries, options, expected = entries_of(metric)
        assert metric(cache_dir=str(tmp_path / "cache")).compute(**entries, **options) == expected
    assert list(tmp_path.iterdir()) == []


def test_many_metrics_at_the_same_time_do_not_mix() -> None:
    def accuracy_with(right: int) -> float:
        metric = WeightedAverageRecall()
        for clip in range(20):
            metric.add(prediction=int(clip < right), reference=1)
        return metric.compute(num_classes=2)["war"]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(accuracy_with, range(20))) == [right / 20 for right in range(20)]


def test_names_are_the_keys_of_the_results_and_metrics_can_be_combined() -> None:
    assert [metric().name for metric in ALL_METRICS] == [
        "uar",
        "war",
        "confusion_matrix",
        "face_box_iou",
        "landmark_nme",
    ]
    both = evaluate.combine([UnweightedAverageRecall(), WeightedAverageRecall()])
    result = both.compute(predictions=PREDICTIONS, references=REFERENCES, num_classes=3)
    assert result == pytest.approx({"uar": 1.25 / 3, "war": 4 / 7})


def test_metrics_on_file_give_the_same(tmp_path: Path) -> None:
    metric = UnweightedAverageRecall(keep_in_memory=False, cache_dir=str(tmp_path))
    metric.add_batch(predictions=PREDICTIONS[:3], references=REFERENCES[:3])
    metric.add_batch(predictions=PREDICTIONS[3:], references=REFERENCES[3:])
    assert metric.compute(num_classes=3) == pytest.approx({"uar": 1.25 / 3})


def test_single_predictions_are_added_by_place_by_name_and_through_combined_metrics() -> None:
    by_place, by_name = WeightedAverageRecall(), WeightedAverageRecall()
    both = evaluate.combine([UnweightedAverageRecall(), WeightedAverageRecall()])
    # Three of four are right; of class 0 one of two.
    for predicted, true in ((0, 0), (1, 0), (1, 1), (1, 1)):
        by_place.add(predicted, true)
        by_name.add(references=true, predictions=predicted)
        both.add(predicted, true)
    for metric in (by_place, by_name):
        assert metric.compute(num_classes=2) == {"war": 0.75}
    assert both.compute(num_classes=2) == {"uar": 0.75, "war": 0.75}
    by_place.add_batch([1, 1], [1, 0])
    assert by_place.compute(num_classes=2) == {"war": 0.5}
