"""The report: everything in it comes from the results, and numbers that are none are null."""

import copy
import json
from pathlib import Path

import pytest

from mtcae_dfer.training.report import format_markdown_table, format_table, load_report, write_report


def made_up_results(classes: int = 3, epochs: int = 4) -> dict:
    names = ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise", "contempt"][:classes]
    figures = {"uar": 0.8123, "war": 0.8, "face_box_iou": 0.9, "landmark_nme": 0.071}
    shared = {"clips": 2 * classes, "frames_with_face": 32, "per_class_recall": dict.fromkeys(names, 0.5)}
    matrix = [[2 if row == column else 0 for column in range(classes)] for row in range(classes)]
    history = [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "task_losses": {"face_box": 0.1 / epoch, "expression": 2 / epoch},
            "validation_uar": 0.9 - 0.5 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    constant = figures | {"uar": 1 / classes, "landmark_nme": float("nan")}
    return {
        "protocol": "subject-independent holdout (seed 0: 4/1/1 subjects)",
        "data": "made-up results",
        "seed": 7,
        "classes": names,
        "test": figures | shared | {"confusion_matrix": matrix},
        "constant_predictor": constant | shared | {"confusion_matrix": matrix},
        "history": history,
        "selected_epoch": 1,
    }


@pytest.mark.parametrize(("classes", "epochs"), [(3, 1), (8, 200)])
def test_a_report_is_written_and_read_back(tmp_path: Path, classes: int, epochs: int) -> None:
    results = made_up_results(classes, epochs)
    write_report(results, tmp_path)
    again = load_report(tmp_path / "report.json")
    assert again["test"] == results["test"]
    assert again["constant_predictor"]["landmark_nme"] is None
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.png"}


def test_the_tables_carry_the_protocol_and_the_figures(tmp_path: Path) -> None:
    for table in (format_table(made_up_results()), format_markdown_table(made_up_results())):
        assert "subject-independent holdout (seed 0: 4/1/1 subjects), seed 7; made-up results" in table
        assert "81.2 %" in table and "7.1 %" in table and "no face" in table


def test_tasks_that_the_model_lacks_are_left_out(tmp_path: Path) -> None:
    results = copy.deepcopy(made_up_results())
    results["test"]["face_box_iou"] = results["test"]["landmark_nme"] = None
    write_report(results, tmp_path)
    assert "face box" not in format_table(results) and "UAR" in format_table(results)


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"protocol": "x"}))
    with pytest.raises(ValueError, match="no report of a run: test, constant_predictor, classes missing"):
        load_report(tmp_path / "report.json")
    with pytest.raises(ValueError, match="no readable report"):
        load_report(tmp_path / "nowhere.json")
