"""Whole runs of the main job by other recipes: killed at any step, on two processes, from cached features."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtcae_dfer.training import loop, run, running
from mtcae_dfer.training.arguments import OptimisationArguments
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.threads import THREADS_VARIABLE
from tests.support.runs import words_of

SECONDS = 240
# Half the width of the tiny preset, with dropout, so that random states matter.
RECIPE = {
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "task_weighting": "uncertainty",
    "label_smoothing_factor": 0.1,
    "vote_share": 0.5,
    "class_weights": "balanced",
    "balanced_sampling": True,
    "drop_path": 0.3,
    "layer_decay": 0.75,
    "largest_rotation": 10.0,
    "erasing_probability": 0.5,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 2,
    "save_steps": 1,
    "save_total_limit": 3,
    "save_seconds": 0.0,
}


@pytest.fixture(scope="module")
def six_clip_dataset(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training clips, four with votes; with --train_on_all they stand for all splits."""
    from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
    from mtcae_dfer.hub_dataset.corpora.folder import read_folder

    names = ("neutral", "happiness")
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=names)
    votes = ("neutral 4, happiness 6", "neutral 10", "", "happiness 5, anger 5", "neutral 1, unknown 9", "neutral 7")
    told = [{"votes": each} if each else {} for each in votes]
    clips = [dataclasses.replace(clip, attributes=more) for clip, more in zip(clips, told, strict=True)]
    folder = tmp_path_factory.mktemp("six") / "dataset"
    build_dataset(clips, folder, BuildOptions(class_names=names, splits="none"), workers=1, progress=False)
    return folder


def same_weights(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def recipe_options() -> dict:
    from mtcae_dfer.training.arguments import parse_run_arguments

    tiny = parse_run_arguments([]).model.model_config
    encoder = tiny["encoder_config"] | {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    model_config = tiny | {"encoder_config": encoder, "decoder_hidden_size": 48, "decoder_dropout": 0.1}
    return RECIPE | {"model_config": model_config, "train_on_all": True}


@pytest.fixture(scope="module")
def undisturbed(six_clip_dataset: Path, recipe_options: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run.main(words_of(six_clip_dataset, folder, recipe_options)) == 0
    return folder


def test_a_run_killed_at_a_random_step_ends_like_an_undisturbed_one(
    undisturbed: Path, six_clip_dataset: Path, recipe_options: dict, tmp_path: Path
) -> None:
    words = [*words_of(six_clip_dataset, tmp_path / "run", recipe_options), "--resume_from_checkpoint", "latest"]
    # 3 optimiser steps an epoch, so 2 checkpoints within each; the kill comes some time after one appears.
    chosen = random.Random().sample([(epoch, step) for epoch in range(2) for step in (2, 4)], 1)
    for epoch, step in chosen:
        process = subprocess.Popen([sys.executable, "-m", "mtcae_dfer.training.run", *words], stderr=subprocess.DEVNULL)
        wanted = tmp_path / "run" / "checkpoints" / f"epoch-{epoch:05d}-step-{step:08d}" / "progress.json"
        deadline = time.monotonic() + SECONDS
        while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.Random().uniform(0.0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    assert run.main(words) == 0
    assert same_weights(tmp_path / "run", undisturbed), f"killed after {chosen}"
    histories = [load_report(folder / "report.json")["history"] for folder in (tmp_path / "run", undisturbed)]
    for record in [record for history in histories for record in history]:
        record.pop("seconds")
    assert histories[0] == histories[1]


def test_a_checkpoint_folder_loads_by_auto_classes_alone(undisturbed: Path) -> None:
    from transformers import AutoModelForVideoClassification, AutoVideoProcessor

    newest = sorted((undisturbed / "checkpoints").glob("epoch-*"))[-1]
    model, report = AutoModelForVideoClassification.from_pretrained(
        newest, trust_remote_code=True, output_loading_info=True
    )
    assert model.config.model_type == "mtcae"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoVideoProcessor.from_pretrained(newest, trust_remote_code=True).num_frames == 16
    assert (newest / "modeling_mtcae.py").is_file()


def test_resolved_options_stand_beside_the_results_and_give_the_same_run(undisturbed: Path) -> None:
    from mtcae_dfer.training.arguments import parse_run_arguments

    options = parse_run_arguments(["--config", str(undisturbed / "options.yaml")]).to_dict()
    stored = load_report(undisturbed / "report.json")["options"]
    assert json.loads(json.dumps(options)) == stored


def test_a_resume_with_changed_options_lists_them_and_obeys_the_flag(
    undisturbed: Path, six_clip_dataset: Path, recipe_options: dict, tmp_path: Path, capsys
) -> None:
    (tmp_path / "run").mkdir()
    os.symlink(undisturbed / "checkpoints", tmp_path / "run" / "checkpoints")
    changed = recipe_options | {"layer_decay": 0.5}
    words = [*words_of(six_clip_dataset, tmp_path / "run", changed), "--resume_from_checkpoint", "latest"]
    assert run.main(words) == 2
    told = capsys.readouterr().err
    assert "layer_decay 0.75 -> 0.5" in told and "--resume_with_changed_options true" in told
    encoder = recipe_options["model_config"]["encoder_config"] | {"intermediate_size": 64}
    other = recipe_options | {"model_config": recipe_options["model_config"] | {"encoder_config": encoder}}
    words = words_of(six_clip_dataset, tmp_path / "run", other | {"resume_with_changed_options": True})
    assert run.main([*words, "--resume_from_checkpoint", "latest"]) == 2
    assert "another architecture: encoder." in capsys.readouterr().err


def plain_options(recipe_options: dict, **changes) -> dict:
    """No dropout and no averaging: what is left is arithmetic."""
    model_config = recipe_options["model_config"] | {"decoder_dropout": 0.0}
    return {"model_config": model_config, "train_on_all": True, "num_train_epochs": 2, "augment": False, **changes}


def test_two_processes_have_the_loss_curve_of_one_with_twice_the_batch(
    six_clip_dataset: Path, recipe_options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As each of the two: the whitened embedding of six clips, and all that follows, knows rounding.
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    one = words_of(six_clip_dataset, tmp_path / "one", plain_options(recipe_options, per_device_train_batch_size=2))
    assert run.main(one) == 0
    two = words_of(six_clip_dataset, tmp_path / "two", plain_options(recipe_options, per_device_train_batch_size=1))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command = [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "mtcae_dfer.training.run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run([*command, *two], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert finished.returncode == 0, finished.stderr[-2000:]
    curves = [[record["train_loss"] for record in load_report(tmp_path / name / "report.json")["history"]]
              for name in ("one", "two")]  # fmt: skip
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_cached_features_train_to_the_same_result_as_frames(
    six_clip_dataset: Path, recipe_options: dict, tmp_path: Path
) -> None:
    options = plain_options(recipe_options, freeze_encoder=True, per_device_train_batch_size=2)
    for name, cached in (("frames", False), ("features", True)):
        assert run.main(words_of(six_clip_dataset, tmp_path / name, options | {"cache_features": cached})) == 0
    reports = [load_report(tmp_path / name / "report.json") for name in ("frames", "features")]
    losses = [[record["train_loss"] for record in report["history"]] for report in reports]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("frames", "features")]
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-4
    assert reports[0]["test"]["face_box_iou"] == pytest.approx(reports[1]["test"]["face_box_iou"], abs=1e-4)


def test_votes_that_no_clip_has_are_refused(
    small_dataset: Path, recipe_options: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run.main(words_of(small_dataset, tmp_path / "run", plain_options(recipe_options, vote_share=0.5))) == 2
    assert "--vote_share 0.5: no training clip has votes; build the data set with them" in capsys.readouterr().err


def test_a_loss_that_is_no_number_names_its_clips_and_keeps_the_checkpoint(
    six_clip_dataset: Path, recipe_options: dict, tmp_path: Path, capsys, monkeypatch
) -> None:
    class Breaking(loop.TrainingLoss):
        def forward(self, outputs, labels, blend=None, votes=None):
            loss, losses = super().forward(outputs, labels, blend, votes)
            return loss * float("nan"), losses

    monkeypatch.setattr(loop, "TrainingLoss", Breaking)
    options = plain_options(recipe_options, per_device_train_batch_size=2)
    assert run.main(words_of(six_clip_dataset, tmp_path / "run", options)) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss is nan on the clips" in told and told.count(",") >= 1
    assert (tmp_path / "run" / "checkpoints" / "epoch-00000" / "progress.json").is_file()


def test_out_of_memory_says_which_options_help(
    six_clip_dataset: Path, recipe_options: dict, tmp_path: Path, capsys, monkeypatch
) -> None:
    def exhausted(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(loop, "take_step", exhausted)
    assert run.main(words_of(six_clip_dataset, tmp_path / "run", plain_options(recipe_options))) == 2
    assert "--gradient_checkpointing true" in capsys.readouterr().err


def test_early_stopping_ends_a_run_that_gets_no_better(
    six_clip_dataset: Path, recipe_options: dict, tmp_path: Path
) -> None:
    options = plain_options(recipe_options, learning_rate=1e-12, num_train_epochs=9, early_stopping_patience=2)
    assert run.main(words_of(six_clip_dataset, tmp_path / "run", options | {"optim": "adamw_torch_fused"})) == 0
    report = load_report(tmp_path / "run" / "report.json")
    assert len(report["history"]) == report["selected_epoch"] + 2 < 9


def test_what_needs_an_accelerator_is_refused_without_one(monkeypatch) -> None:
    class Processor:
        device, distributed_type = torch.device("cpu"), "NO"

    monkeypatch.setattr(running, "Accelerator", lambda **options: Processor())
    with pytest.raises(ValueError, match="--fp16 true: needs an accelerator"):
        running.make_accelerator(OptimisationArguments(fp16=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP: Accelerate shards over several accelerators only"):
        running.make_accelerator(OptimisationArguments())
