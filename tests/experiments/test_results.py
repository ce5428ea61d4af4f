"""What is made of several runs: pooled figures, groups, refusals, the schema, and differences in pairs."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtcae_dfer.experiments.results import (
    check_results,
    compare,
    join_tables,
    load_results,
    read_clip_table,
    summarise_folds,
    sums_of,
    write_results,
)
from mtcae_dfer.training.evaluation.metrics import confusion_matrix, unweighted_average_recall
from tests.support.made_up_runs import CLASSES, PARAMETERS, SUBJECTS, draw_predictions, finished_run


def runs_in(folder: Path, skill: float = 0.7, seeds: tuple[int, ...] = (0,)) -> list:
    return [finished_run(folder / f"{fold}-{seed}", fold, seed, skill) for seed in seeds for fold in SUBJECTS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list:
    return runs_in(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(runs: list) -> dict:
    return summarise_folds("made up", "made-up 3 folds", ["--model", "tiny"], runs)


def test_pooled_figures_are_those_of_all_clips_together(results: dict) -> None:
    drawn = [draw_predictions(fold, 0, 0.7) for fold in SUBJECTS]
    labels, predicted, frames = (
        np.concatenate([one[key] for one in drawn]) for key in ("label", "predicted", "frames")
    )
    assert results["confusion_matrix"] == confusion_matrix(predicted, labels, 3).tolist()
    assert results["summary"]["uar"]["pooled"] == pytest.approx(unweighted_average_recall(predicted, labels, 3))
    overlaps = np.concatenate([one["face_box_iou"] for one in drawn])
    assert results["summary"]["face_box_iou"]["pooled"] == pytest.approx(np.nansum(overlaps * frames) / frames.sum())


def test_mean_and_deviation_are_over_the_folds(results: dict, runs: list) -> None:
    recalls = [run.report["test"]["uar"] for run in runs]
    assert results["summary"]["uar"]["mean"] == pytest.approx(np.mean(recalls))
    assert results["summary"]["uar"]["std"] == pytest.approx(np.std(recalls, ddof=1))
    assert [fold["uar"] for fold in results["folds"]] == pytest.approx(recalls)
    assert results["parameters"] == PARAMETERS and results["seconds"] == pytest.approx(6.0)


def test_groups_are_the_clips_of_their_people(results: dict) -> None:
    assert list(results["per_subject"]) == [name for names in SUBJECTS.values() for name in names]
    drawn = draw_predictions("fold_2", 0, 0.7)
    mine = drawn["subject"] == "S3"
    expected = unweighted_average_recall(drawn["predicted"][mine], drawn["label"][mine], 3)
    assert results["per_subject"]["S3"]["uar"] == pytest.approx(expected)
    assert results["per_subject"]["S3"]["low"] is None
    assert {name: (sex["subjects"], sex["clips"]) for name, sex in results["per_sex"].items()} == {
        "female": (3, 36),
        "male": (3, 36),
    }
    assert results["per_sex"]["male"]["low"] < results["per_sex"]["male"]["uar"] < results["per_sex"]["male"]["high"]


def test_several_seeds_are_all_counted(tmp_path: Path) -> None:
    results = summarise_folds("made up", "p", [], runs_in(tmp_path, seeds=(0, 1)))
    assert results["seeds"] == [0, 1] and len(results["folds"]) == 6
    assert sum(map(sum, results["confusion_matrix"])) == 2 * 72
    assert results["bootstrap"]["units"] == 6


def test_clips_of_unknown_people_are_resampled_one_by_one(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    for run in runs:
        run.report["subjects"] = {split: ["unknown"] for split in ("train", "validation", "test")}
        _replace_subjects(run.folder, "unknown")
    results = summarise_folds("made up", "official", [], runs)
    assert results["bootstrap"] == {"unit": "clip", "units": 72, "resamples": 2000, "level": 0.95}
    assert results["per_subject"] == {}


def _replace_subjects(folder: Path, subject: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / "predictions.parquet").to_pydict()
    parquet.write_table(pa.table(table | {"subject": [subject] * len(table["name"])}), folder / "predictions.parquet")


def test_a_subject_tested_twice_is_refused(runs: list) -> None:
    stranger = copy.deepcopy(runs[1].report)
    stranger["subjects"]["test"] = ["S1", "S3"]
    stranger["subjects"]["train"] = ["S9"]
    with pytest.raises(ValueError, match="'S1' is tested in fold_1 and in fold_2"):
        summarise_folds("x", "p", [], [runs[0], replace(runs[1], report=stranger)])


def test_a_run_that_leaks_is_refused(runs: list) -> None:
    leaking = copy.deepcopy(runs[0].report)
    leaking["subjects"]["train"].append("S1")
    with pytest.raises(ValueError, match="leaks: subject 'S1' stands in two of its splits"):
        summarise_folds("x", "p", [], [replace(runs[0], report=leaking)])


def test_missing_predictions_and_other_classes_are_refused(runs: list, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="predictions.parquet: no readable predictions"):
        summarise_folds("x", "p", [], [replace(runs[0], folder=tmp_path)])
    other = copy.deepcopy(runs[0].report) | {"classes": ["x", "y", "z"]}
    with pytest.raises(ValueError, match="knows other classes"):
        summarise_folds("x", "p", [], [runs[1], replace(runs[0], report=other)])


def test_results_come_back_from_their_file(results: dict, tmp_path: Path) -> None:
    file = write_results(results, tmp_path)
    assert load_results(tmp_path) == load_results(file) == results


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda results: results.pop("classes"), "the top: classes missing"),
        (lambda results: results.update(kind="poem"), "are no results"),
        (lambda results: results["summary"]["uar"].update(mean="high"), r"summary\['uar'\].mean: is 'high'"),
        (lambda results: results["folds"][1].pop("uar"), r"folds\[1\]: uar missing"),
        (lambda results: results["confusion_matrix"][0].append(0.5), r"confusion_matrix\[0\]\[3\]: is '0.5'"),
        (lambda results: results.update(parameters=True), "parameters: is 'True', but must be int"),
    ],
)
def test_results_that_break_the_schema_are_refused(results: dict, tmp_path: Path, change, told: str) -> None:
    broken = copy.deepcopy(results)
    change(broken)
    (tmp_path / "results.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=told):
        load_results(tmp_path)
    with pytest.raises(ValueError, match=told):
        write_results(broken, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_models_are_compared_on_the_same_folds(runs: list, results: dict, tmp_path: Path) -> None:
    better = runs_in(tmp_path, skill=0.95)
    collected = summarise_folds("better", "p", [], better)
    tables = [[read_clip_table(run.folder, CLASSES) for run in group] for group in (better, runs)]
    sums = [sums_of(join_tables(group), CLASSES) for group in tables]
    uar = compare(collected, results, *sums)["uar"]
    assert uar["difference"] == pytest.approx(
        collected["summary"]["uar"]["pooled"] - results["summary"]["uar"]["pooled"]
    )
    assert 0 <= uar["low"] < uar["difference"] < uar["high"]
    differences = [
        first["uar"] - second["uar"] for first, second in zip(collected["folds"], results["folds"], strict=True)
    ]
    assert uar["fold_mean"] == pytest.approx(np.mean(differences))
    fewer = summarise_folds("fewer", "p", [], better[:2])
    with pytest.raises(ValueError, match="not tested on the same folds and seeds"):
        compare(fewer, results, *sums)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no readable results"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match="a list: are no results"):
        check_results([], "a list")
