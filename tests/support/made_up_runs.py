"""Folders of finished runs whose predictions are made up, for tests of what is made of runs."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from safetensors.torch import save_file

from mtcae_dfer.experiments.results import FinishedRun
from mtcae_dfer.training.evaluation.metrics import confusion_matrix, per_class_recall

CLASSES = ["neutral", "happiness", "sadness"]
SUBJECTS = {"fold_1": ("S1", "S2"), "fold_2": ("S3", "S4"), "fold_3": ("S5", "S6")}
CLIPS_PER_SUBJECT = 12
PARAMETERS = 10


def draw_predictions(fold: str, seed: int, skill: float) -> dict[str, np.ndarray]:
    """Labels and predictions of a fold's clips; `skill` of them are right on average, the others random."""
    random = np.random.default_rng([int(fold[-1]), seed, int(1000 * skill)])
    count = len(SUBJECTS[fold]) * CLIPS_PER_SUBJECT
    labels = np.arange(count) % len(CLASSES)
    guesses = random.integers(len(CLASSES), size=count)
    frames = random.integers(0, 5, size=count)
    known = np.where(frames > 0, 1.0, np.nan)
    return {
        "subject": np.repeat(SUBJECTS[fold], CLIPS_PER_SUBJECT),
        "label": labels,
        "predicted": np.where(random.random(count) < skill, labels, guesses),
        "frames": frames,
        "face_box_iou": random.random(count) * known,
        "landmark_nme": random.random(count) * known,
    }


def frame_mean(drawn: dict[str, np.ndarray], key: str) -> float:
    """Mean over frames of a figure that is given as means over each clip's frames."""
    return float(np.nansum(drawn[key] * drawn["frames"]) / drawn["frames"].sum())


def write_run(folder: Path, fold: str, seed: int = 0, skill: float = 0.7, **changes) -> dict:
    """A run's folder: report.json, predictions.parquet and model.safetensors; returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_predictions(fold, seed, skill)
    report = make_report(drawn, fold, seed) | changes
    (folder / "report.json").write_text(json.dumps(report))
    write_predictions(folder, drawn, fold)
    save_file({"weight": torch.zeros(2, 3), "bias": torch.zeros(4)}, folder / "model.safetensors")
    return report


def finished_run(folder: Path, fold: str, seed: int = 0, skill: float = 0.7) -> FinishedRun:
    """The same run as `write_run`, as a cross-validation takes it."""
    return FinishedRun(fold, seed, folder, write_run(folder, fold, seed, skill))


def write_predictions(folder: Path, drawn: dict[str, np.ndarray], fold: str) -> None:
    names = np.array(CLASSES)
    sexes = ["male" if int(subject[1:]) % 2 else "female" for subject in drawn["subject"]]
    table = {
        "name": [f"{fold}-{number}.mp4" for number in range(len(drawn["label"]))],
        "subject": drawn["subject"].tolist(),
        "attributes": [json.dumps({"sex": sex}) for sex in sexes],
        "expression": names[drawn["label"]].tolist(),
        "predicted": names[drawn["predicted"]].tolist(),
        "frames_with_face": drawn["frames"].tolist(),
        **{
            key: pa.array([None if np.isnan(value) else value for value in drawn[key]], pa.float64())
            for key in ("face_box_iou", "landmark_nme")
        },
    }
    parquet.write_table(pa.table(table), folder / "predictions.parquet")


def make_report(drawn: dict[str, np.ndarray], fold: str, seed: int) -> dict:
    recalls = per_class_recall(drawn["predicted"], drawn["label"], len(CLASSES))
    figures = {
        "uar": float(recalls.mean()),
        "war": float((drawn["predicted"] == drawn["label"]).mean()),
        "face_box_iou": frame_mean(drawn, "face_box_iou"),
        "landmark_nme": frame_mean(drawn, "landmark_nme"),
        "clips": len(drawn["label"]),
        "frames_with_face": int(drawn["frames"].sum()),
        "confusion_matrix": confusion_matrix(drawn["predicted"], drawn["label"], len(CLASSES)).tolist(),
        "per_class_recall": dict(zip(CLASSES, recalls.tolist(), strict=True)),
    }
    others = [subjects for name, subjects in SUBJECTS.items() if name != fold]
    return {
        "protocol": f"made-up 3 folds, {fold}",
        "seed": seed,
        "data": "made-up clips",
        "dataset": {
            "name": "made-up",
            "license": "cc-by-nc-sa-4.0",
            "corpus": "ravdess",
            "clips": "72",
            "path": "/a/b",
        },
        "classes": CLASSES,
        "test": figures,
        "constant_predictor": figures | {"uar": 1 / 3, "war": 1 / 3},
        "history": [
            {"epoch": epoch, "train_loss": 2 / epoch, "task_losses": {}, "validation_uar": 0.2 * epoch, "seconds": 1.0}
            for epoch in (1, 2, 3)
        ],
        "selected_epoch": 2,
        "options": {"model": "tiny", "fold": fold, "learning_rate": 1e-3, "dataset": "/a/b"},
        "subjects": {"train": list(others[0]), "validation": list(others[1]), "test": list(SUBJECTS[fold])},
        "versions": {"torch": "1"},
        "seconds": {"training": 2.0},
    }
