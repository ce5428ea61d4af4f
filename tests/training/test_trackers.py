"""Trackers: what tensorboard gets from a run, and names that are none."""

from pathlib import Path

import pytest

from mtcae_dfer.training.arguments import OptimisationArguments, parse_run_arguments
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.run import main
from mtcae_dfer.training.trackers import TRACKERS, chosen_trackers


def test_tensorboard_gets_every_epochs_figures(small_dataset: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = ["--dataset", str(small_dataset), "--output_dir", str(tmp_path), "--num_train_epochs", "2"]
    assert main([*words, "--report_to", "tensorboard"]) == 0
    (written,) = (tmp_path / "mtcae-dfer").glob("events.*")
    events = event_accumulator.EventAccumulator(str(written))
    events.Reload()
    history = load_report(tmp_path / "report.json")["history"]
    for name in ("train_loss", "validation_uar", "learning_rate"):
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({record["epoch"]: record[name] for record in history}, rel=1e-5)
    losses = [event.value for event in events.Scalars("train_loss/expression")]
    assert losses == pytest.approx([record["task_losses"]["expression"] for record in history], rel=1e-5)


def test_several_trackers_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtcae_dfer.training.trackers.find_spec", lambda name: object())
    assert chosen_trackers(OptimisationArguments(report_to="tensorboard, wandb")) == ["tensorboard", "wandb"]
    assert chosen_trackers(OptimisationArguments(report_to="none")) is None
    assert chosen_trackers(parse_run_arguments(["--model", "tiny"]).optimisation) is None


@pytest.mark.parametrize(("name", "told"), [("paper", "is no tracker"), ("wandb", "needs the package wandb")])
def test_unknown_and_missing_trackers_are_refused(monkeypatch, name: str, told: str) -> None:
    monkeypatch.setattr("mtcae_dfer.training.trackers.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=f"--report_to {name}: {told}"):
        chosen_trackers(OptimisationArguments(report_to=name))
    assert "tensorboard" in TRACKERS
