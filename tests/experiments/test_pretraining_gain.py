"""The measurement of what pre-training is worth: equal arms, unseen people, and the arithmetic of its table."""

import json
from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.experiments import pretraining_gain
from mtcae_dfer.experiments.pretraining_gain import ARMS, GainOptions, format_gain, measure_gain
from mtcae_dfer.training.pretraining.arguments import parse_pretraining_arguments


class Report:
    """What a data set tells about its people."""

    subject_counts = {f"S{number:02}": 14 for number in range(1, 13)}


@pytest.fixture
def options(tmp_path: Path) -> GainOptions:
    people = {"labelled_subjects": 3, "validation_subjects": 2, "test_subjects": 7}
    return GainOptions(output_dir=str(tmp_path), seeds=2, **people)


def figures(*recalls: float) -> list[dict[str, float]]:
    return [{"uar": recall, "war": recall, "face_box_iou": 0.5, "landmark_nme": None} for recall in recalls]


def test_both_arms_get_the_same_but_for_the_encoder(options: GainOptions, tmp_path: Path, monkeypatch) -> None:
    started = []

    def run_experiments(experiments, output_dir, jobs):
        started.extend(experiments)
        return {experiment.name: {"test": figures(0.25)[0]} for experiment in experiments}

    dataset = tmp_path / "labelled" / "dataset"
    dataset.mkdir(parents=True)
    monkeypatch.setattr(pretraining_gain, "read_build_report", lambda folder: Report)
    monkeypatch.setattr(pretraining_gain, "draw_clips", lambda options, output_dir: dataset)
    monkeypatch.setattr(pretraining_gain, "run_experiments", run_experiments)
    measure_gain(options)
    words = {experiment.name: experiment.arguments for experiment in started}
    for seed in range(2):
        scratch, pretrained = words[f"from-scratch-{seed}"], words[f"pre-trained-{seed}"]
        assert pretrained == (*scratch, "--encoder", str(tmp_path / "pre-training-0"))
        (fold,) = json.loads((tmp_path / "labelled" / f"protocol-{seed}.json").read_text())["folds"]
        assert [len(fold[split]) for split in ("train", "validation", "test")] == [3, 2, 7]
        assert len(set(fold["train"] + fold["validation"] + fold["test"])) == 12
    assert [name for name in words if name.startswith("pre-training")] == ["pre-training-0"]
    assert parse_pretraining_arguments(words["pre-training-0"]).data.videos == str(tmp_path / "unlabelled" / "videos")
    assert json.loads((tmp_path / "pretraining_gain.json").read_text())["options"]["seeds"] == 2


def test_the_table_pairs_the_seeds(options: GainOptions) -> None:
    table = format_gain(options, dict(zip(ARMS, (figures(0.2, 0.4), figures(0.5, 0.5)), strict=True)))
    row = next(line for line in table.splitlines() if line.startswith("| UAR"))
    # Differences 30 and 10 points: mean 20, sample deviation 14.1.
    assert row == "| UAR | 30.0 ± 14.1 | 50.0 ± 0.0 | +20.0 ± 14.1 | +30.0, +10.0 |"
    assert "landmark" not in table  # not measured in every run


def test_a_wrong_number_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert mtcae(["pretraining-gain", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "mtcae: error: --seeds 0: must be at least 1\n"
