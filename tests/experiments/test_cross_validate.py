"""The commands cross_validate and ablate: every fold once, one at a time or all, collected; and what they refuse."""

import json
from pathlib import Path

import datasets
import pytest

from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.commands.command_line import parse_command
from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.experiments import ablate, cross_validate
from mtcae_dfer.experiments.results import load_results
from mtcae_dfer.training.arguments import parse_run_arguments
from mtcae_dfer.training.data.splits import refuse_missing_classes
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.initialisation import build_model
from tests.support.made_up_runs import write_run


@pytest.fixture(scope="module")
def words(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a small cross-validation: three folds, each of which tests one subject."""
    folder = tmp_path_factory.mktemp("folds")
    return [
        *("--dataset", str(small_dataset), "--protocol", "folds:3", "--output_dir", str(folder), "--jobs", "2"),
        *("--num_train_epochs", "1", "--augment", "false"),
    ]


@pytest.fixture(scope="module")
def folder(words: list[str]) -> Path:
    return Path(words[words.index("--output_dir") + 1])


@pytest.fixture(scope="module")
def collected(words: list[str], folder: Path) -> dict:
    """One fold by itself, then all, of which the first is not repeated."""
    assert mtcae(["cross-validate", *words, "--fold", "2"]) == 0
    # The folds' runs share the data set's decoded frames.
    assert sorted(path.name for path in folder.iterdir()) == ["fold_2", "frame_cache"]
    assert sum(file.stat().st_size for file in (folder / "frame_cache").rglob("*")) > 6 * 16 * 3 * 64 * 64
    first = (folder / "fold_2" / "report.json").stat().st_mtime_ns
    assert mtcae(["cross-validate", *words]) == 0
    assert (folder / "fold_2" / "report.json").stat().st_mtime_ns == first
    return load_results(folder)


def test_every_subject_is_tested_once_by_a_model_that_never_saw_them(collected: dict) -> None:
    assert [fold["fold"] for fold in collected["folds"]] == ["fold_1", "fold_2", "fold_3"]
    assert sorted(collected["per_subject"]) == ["S01", "S02", "S03"]
    for fold in collected["folds"]:
        seen = fold["subjects"]["train"] + fold["subjects"]["validation"]
        assert not set(seen) & set(fold["subjects"]["test"])


def test_the_pooled_matrix_is_the_sum_of_the_folds(collected: dict, folder: Path) -> None:
    reports = [load_report(folder / fold["fold"] / "report.json") for fold in collected["folds"]]
    matrices = [report["test"]["confusion_matrix"] for report in reports]
    total = [[sum(matrix[row][column] for matrix in matrices) for column in range(2)] for row in range(2)]
    assert collected["confusion_matrix"] == total and sum(map(sum, total)) == 6
    overlaps = [(report["test"]["face_box_iou"], report["test"]["frames_with_face"]) for report in reports]
    pooled = sum(overlap * frames for overlap, frames in overlaps) / sum(frames for _, frames in overlaps)
    assert collected["summary"]["face_box_iou"]["pooled"] == pytest.approx(pooled, abs=1e-6)


def test_results_tables_and_plots_are_written(collected: dict, folder: Path) -> None:
    assert collected["protocol"] == "subject-independent 3-fold (seed 0)"
    assert "| fold_3 | 0 |" in (folder / "results.md").read_text()
    assert (folder / "plots" / "confusion_matrix.svg").exists()


def test_collecting_trains_nothing(collected: dict, words: list[str], folder: Path) -> None:
    (folder / "results.json").unlink()
    assert mtcae(["cross-validate", *words, "--collect"]) == 0
    assert load_results(folder) == collected


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--collect"], "lacks 3 of 3 runs: fold_1, fold_2, fold_3; run them by the same command with --fold NAME"),
        (["--fold", "4"], "There is no fold '4': subject-independent 3-fold (seed 0) has fold_1, fold_2, fold_3"),
        (["--protocol", "holdout:9"], "--protocol holdout:9: must be one of"),
        (["--protocol", "none"], "has no validation subjects"),
        (["--seeds", "1,1"], "--seeds 1,1: must be different whole numbers"),
        (["--seed", "3"], "--seed: is decided for every run by this command (seeds: --seeds)"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--learning_rate", "-1"], "--learning_rate -1.0: must be greater than 0"),
    ],
)
def test_wrong_options_are_one_line(words, tmp_path, capsys, more: list[str], told: str) -> None:
    assert mtcae(["cross-validate", *words, "--output_dir", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mtcae: error:") and told in error
    assert not list(tmp_path.glob("*/report.json"))


@pytest.mark.parametrize(
    "more", [["--model", "nobody"], ["--tasks", "smile"], ["--seeds", "1,1"], ["--synthetic_takes", "0"]]
)
def test_what_no_run_could_use_is_refused_before_clips_are_drawn(
    tmp_path, monkeypatch, capsys, more: list[str]
) -> None:
    monkeypatch.setattr(cross_validate, "make_synthetic_dataset", lambda *given: pytest.fail("clips are drawn"))
    assert mtcae(["cross-validate", "--output_dir", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert more[0].split("_")[-1].removeprefix("--") in error and error.count("\n") == 1


def test_a_leaking_protocol_is_refused_before_anything_is_trained(words, tmp_path, capsys) -> None:
    file = tmp_path / "leaks.json"
    fold = {"name": "a", "train": ["S01", "S02"], "validation": ["S03"], "test": ["S02"]}
    file.write_text(json.dumps({"name": "leaky", "folds": [fold]}))
    assert mtcae(["cross-validate", *words, "--output_dir", str(tmp_path / "out"), "--protocol", str(file)]) == 2
    assert "would leak 1 subject(s): 'S02' stands in train and test" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folds_of_other_options_are_not_collected(collected: dict, words: list[str], capsys) -> None:
    assert mtcae(["cross-validate", *words, "--collect", "--learning_rate", "0.01"]) == 2
    assert "holds a run of other arguments" in capsys.readouterr().err


def rows_of(expressions: list[int]) -> datasets.Dataset:
    features = datasets.Features({"expression": datasets.ClassLabel(names=["neutral", "happiness"])})
    return datasets.Dataset.from_dict({"expression": expressions}, features=features)


def test_a_class_without_training_clips_is_refused_and_without_test_clips_told(capsys) -> None:
    refuse_missing_classes({"train": rows_of([0, 1]), "test": rows_of([1, 1])}, "data")
    assert "Warning: no test clip of neutral; the UAR leaves such classes out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="data has no training clip of happiness: leave out the class"):
        refuse_missing_classes({"train": rows_of([0, 0]), "test": rows_of([0, 1])}, "data")


def test_several_seeds_have_folders_of_their_own_and_can_be_added_to(small_dataset: Path) -> None:
    words = ["--dataset", str(small_dataset), "--protocol", "folds:3", "--model", "tiny", "--seeds"]

    def planned(seeds: str) -> dict:
        options = parse_command("cross-validate", [*words, seeds])
        return cross_validate.make_plan(options, options.run_words).experiments()

    experiments = planned("0,7")
    for alone in ("0", "7"):
        assert planned(alone).items() <= experiments.items()
    assert experiments["fold_2", 7].name == "fold_2-seed_7" and len(experiments) == 6
    assert experiments["fold_2", 7].arguments[-4:] == ("--fold", "fold_2", "--seed", "7")
    assert parse_run_arguments(experiments["fold_2", 7].arguments).optimisation.seed == 7


# Ablation


@pytest.mark.parametrize("axis", list(ablate.AXES))
def test_every_variant_of_every_axis_is_a_model(axis: str) -> None:
    preset = parse_run_arguments(["--model", "tiny"]).model
    variants = ablate.plan_variants([axis], ablate.preset_config(preset))
    assert len(variants) >= 2 and len({variant.name for variant in variants}) == len(variants)
    built = []
    for variant in variants:
        arguments = parse_run_arguments(["--model", "tiny", *variant.arguments])
        model = build_model(arguments.model, ["neutral", "happiness"])
        built.append(json.dumps(model.config.to_dict(), sort_keys=True, default=str))
    assert len(set(built)) == len(built)


@pytest.mark.parametrize(
    ("words", "axis", "expected"),
    [
        (["--decoder_num_layers", "3"], "depth", {"L = 1", "L = 2", "L = 5"}),
        (["--pooling", "mean"], "pooling", {"pooling: time", "pooling: time and place"}),
        (["--decoder_head_dim", "64"], "head_width", {"head width 32", "head width 96"}),
        (["--tasks", "face_box,expression"], "order", {"expression → box"}),
    ],
)
def test_variants_differ_from_the_reference_as_the_runs_options_make_it(
    words: list[str], axis: str, expected: set[str]
) -> None:
    preset = parse_run_arguments(["--model", "tiny", *words]).model
    variants = ablate.plan_variants([axis], ablate.preset_config(preset))
    assert {variant.title for variant in variants[1:]} == expected


def test_variants_of_a_checkpoint_are_refused(small_run: Path, small_dataset: Path, tmp_path: Path, capsys) -> None:
    words = ["--dataset", str(small_dataset), "--protocol", "folds:3", "--output_dir", str(tmp_path / "out")]
    assert mtcae(["ablate", *words, "--model", str(small_run), "--axes", "depth"]) == 2
    assert f"--model {small_run}: variants are built of a preset (finetune" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_axes_change_what_they_say() -> None:
    config = MTCAEConfig(**parse_run_arguments(["--model", "tiny"]).model.model_config)
    orders = [variant.arguments[1].split(",") for variant in ablate.order_variants(config)]
    assert len(orders) == 5 and all(sorted(order) == ["expression", "face_box", "face_landmarks"] for order in orders)
    shared = build_model(
        parse_run_arguments(["--model", "tiny", *ablate.recursion_variants(config)[1].arguments]).model, ["a", "b"]
    )
    assert shared.config.share_decoder_layers and shared.config.decoder_num_layers == 3
    weights = ablate.loss_weight_variants(config)[0]
    assert weights.arguments == ("--task_weights", "face_box=0.5,face_landmarks=0.5,expression=1.5")


def test_unknown_axes_and_tasks_are_refused(small_dataset: Path, tmp_path: Path, capsys) -> None:
    words = ["--dataset", str(small_dataset), "--protocol", "folds:3", "--output_dir", str(tmp_path / "out")]
    assert mtcae(["ablate", *words, "--axes", "structures,colour"]) == 2
    assert "--axes structures,colour: must be some of structures, order" in capsys.readouterr().err
    assert mtcae(["ablate", *words, "--tasks", "expression,gaze"]) == 2
    assert "--tasks expression,gaze: must name each task at most once" in capsys.readouterr().err
    assert mtcae(["ablate", *words, "--task_weights", "expression=heavy"]) == 2
    assert "--task_weights expression=heavy: must be TASK=NUMBER" in capsys.readouterr().err


def test_an_ablation_runs_its_variants_on_the_same_folds_and_seeds(small_dataset, tmp_path, monkeypatch) -> None:
    begun = []

    def run_made_up(experiments, output_dir, jobs):
        for experiment in experiments:
            fold, seed = experiment.arguments[-3], int(experiment.arguments[-1])
            begun.append((experiment.name.split("/")[0], fold, seed, jobs))
            write_run(output_dir / experiment.name, fold, seed, skill=0.9 if "cascaded" in experiment.name else 0.4)
        return {entry.name: load_report(output_dir / entry.name / "report.json") for entry in experiments}

    monkeypatch.setattr(ablate, "run_experiments", run_made_up)
    words = ["--dataset", str(small_dataset), "--protocol", "folds:3", "--output_dir", str(tmp_path), "--seeds", "0,1"]
    assert mtcae(["ablate", *words, "--jobs", "2", "--axes", "structures,tasks"]) == 0
    results = load_results(tmp_path)
    assert len(results["variants"]) == 6 + 3 and len(begun) == 9 * 3 * 2
    # Whole folds first: every variant stands in fold 1 before one stands in fold 2.
    assert [(fold, seed) for _, fold, seed, _ in begun[:9]] == [("fold_1", 0)] * 9
    assert all(variant["result"]["seeds"] == [0, 1] for variant in results["variants"])
    assert results["variants"][0]["differences"]["uar"]["high"] < 0
    assert (tmp_path / "plots" / "structures.png").exists() and "5 folds" not in (tmp_path / "results.md").read_text()
