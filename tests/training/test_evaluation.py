"""predictions.parquet: a row per clip, from which the report's figures come back."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest

from mtcae_dfer.experiments.results import read_clip_table, sums_of
from mtcae_dfer.training.evaluation.predictions import Predictions, compute_metrics, write_clip_predictions
from mtcae_dfer.training.evaluation.report import load_report

CLASSES = ["neutral", "happiness"]


def made_up_predictions(boxes: bool = True) -> Predictions:
    """Three clips of four frames, in another order than their rows; the second clip has no face."""
    random = np.random.default_rng(0)
    found = np.array([[True, True, False, True], [False] * 4, [True] * 4])
    true_boxes = np.tile(np.array([0.2, 0.2, 0.6, 0.7], np.float32), (3, 4, 1))
    points = np.tile(np.array([[0.3, 0.4], [0.5, 0.4], [0.4, 0.5], [0.3, 0.6], [0.5, 0.6]], np.float32), (3, 4, 1, 1))
    true_boxes[~found], points[~found] = np.nan, np.nan
    noise = random.normal(0, 0.02, (3, 4, 4)).astype(np.float32)
    return Predictions(
        scores=random.normal(size=(3, 2)).astype(np.float32),
        labels=np.array([0, 1, 1]),
        face_found=found,
        true_boxes=true_boxes,
        true_landmarks=points,
        face_boxes=np.nan_to_num(true_boxes) + noise if boxes else None,
        face_landmarks=np.nan_to_num(points) + 0.01,
        rows=np.array([2, 0, 1]),
    )


def rows(**columns) -> datasets.Dataset:
    shared = {"name": ["a", "b", "c"], "subject": ["S1", "S2", "S1"]}
    return datasets.Dataset.from_dict(shared | columns)


def test_every_row_belongs_to_its_clip(tmp_path: Path) -> None:
    attributes = [json.dumps({"sex": sex}) for sex in ("male", "Female", "male")]
    predictions = made_up_predictions()
    table = parquet.read_table(write_clip_predictions(predictions, rows(attributes=attributes), CLASSES, tmp_path))
    clips = table.to_pydict()
    assert clips["name"] == ["c", "a", "b"] and clips["subject"] == ["S1", "S1", "S2"]
    assert clips["expression"] == ["neutral", "happiness", "happiness"]
    assert clips["predicted"] == [CLASSES[label] for label in predictions.scores.argmax(axis=1)]
    assert clips["score_happiness"] == pytest.approx(predictions.scores[:, 1].tolist())
    assert clips["frames_with_face"] == [3, 0, 4] and clips["face_box_iou"][1] is None
    assert read_clip_table(tmp_path, CLASSES).sexes == ["male", "male", "female"]


def test_the_figures_of_all_clips_come_back_from_the_rows(tmp_path: Path) -> None:
    from mtcae_dfer.experiments.statistics import figures_of

    predictions = made_up_predictions()
    write_clip_predictions(predictions, rows(), CLASSES, tmp_path)
    figures, metrics = (
        figures_of(sums_of(read_clip_table(tmp_path, CLASSES), CLASSES)),
        compute_metrics(predictions, CLASSES),
    )
    for name in ("uar", "war", "face_box_iou", "landmark_nme"):
        assert figures[name] == pytest.approx(metrics[name], abs=1e-6)


def test_a_model_without_boxes_has_none_in_the_rows(tmp_path: Path) -> None:
    write_clip_predictions(made_up_predictions(boxes=False), rows(), CLASSES, tmp_path)
    clips = parquet.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert clips["face_box_iou"] == [None] * 3 and clips["landmark_nme"][0] is not None


def test_a_run_keeps_its_test_clips_predictions(small_run: Path) -> None:
    report = load_report(small_run / "report.json")
    table = read_clip_table(small_run, report["classes"])
    assert set(table.units) == set(report["subjects"]["test"])
    assert sums_of(table, report["classes"]).confusion.sum(axis=0).tolist() == report["test"]["confusion_matrix"]
