"""The job of MTL-ER on a very small drawn corpus and on feature files."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS
from mtcae_dfer.modeling_mtl_er import MTLERPrediction
from mtcae_dfer.training.affect import members
from mtcae_dfer.training.affect import sequences as affect_data
from mtcae_dfer.training.affect.arguments import parse_dependencies
from mtcae_dfer.training.affect.frame_features import FrameFeatures, write_features
from mtcae_dfer.training.affect.members import selection_score
from mtcae_dfer.training.affect.sequences import AffectSequence, attach_labels
from mtcae_dfer.training.affect.testing import as_table, join_tasks, search_smoothing
from mtcae_dfer.training.evaluation.metrics import concordance_correlation
from mtcae_dfer.training.run_mtl_er import main
from mtcae_dfer.training.threads import THREADS_VARIABLE
from tests.support.affect_labels import some_labels

FRAMES_A_VIDEO = 20


def write_inputs(folder: Path, videos: int = 4) -> list[str]:
    """Feature files of 2 + 1 channels and label files of three splits; returns the words that name them."""
    random = np.random.default_rng(0)
    words = []
    truths = {}
    for split in ("train", "validation", "test"):
        rows = []
        for number in range(videos):
            name, phase = f"{split}-{number}", random.uniform(0, 6)
            signal_track = np.sin(phase + np.arange(FRAMES_A_VIDEO) / 4)
            truths[name] = signal_track
            for frame, value in enumerate(signal_track):
                units = [int(value > 0)] * 6 + [-1] * 6
                labels = [f"{value:.4f}", f"{-value:.4f}", str(int(value > 0) if frame % 5 else -1), *map(str, units)]
                rows.append(f"{name}/{frame + 1:05d}.jpg," + ",".join(labels))
        (folder / f"{split}.txt").write_text("\n".join(rows))
        words += [f"--{split}_labels", str(folder / f"{split}.txt")]
    files = []
    for part, channels in (("a", 2), ("b", 1)):
        features = [
            FrameFeatures(
                np.arange(FRAMES_A_VIDEO),
                (track[:, None] + 0.1 * random.normal(size=(FRAMES_A_VIDEO, channels))).astype(np.float32),
                name,
            )
            for name, track in truths.items()
        ]
        files.append(str(write_features(folder / f"{part}.parquet", features, "noisy truth")))
    return ["--features", ",".join(files), *words]


def words_of(inputs: list[str], output_dir: Path, *more: str) -> list[str]:
    return [*inputs, "--output_dir", str(output_dir), "--num_train_epochs", "2", "--seeds", "0,1", *more]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost such small models more than they give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(THREADS_VARIABLE, "1")
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(words_of(inputs, folder)) == 0
    return folder


def test_the_report_holds_every_system_and_its_parts(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    names = ["predict the mean", "one model per task", "multi-task, first seed", "multi-task, ensemble of 2"]
    assert list(report["systems"]) == names
    for system in report["systems"].values():
        test = system["test"]
        total = (test["ccc_valence"] + test["ccc_arousal"]) / 2 + test["expression_f1"] + test["action_unit_f1"]
        assert test["p_mtl"] == pytest.approx(total)
    assert report["input_size"] == 3 and report["action_units"] == list(AFFECT_ACTION_UNITS[:6])
    assert report["systems"]["predict the mean"]["test"]["ccc_valence"] == pytest.approx(0.0, abs=1e-6)


def test_a_stopped_run_resumes_to_the_weights_of_an_undisturbed_one(
    finished: Path, inputs: list[str], tmp_path: Path, capsys
) -> None:
    words = words_of(inputs, tmp_path / "run")
    epochs = []

    def stop_in_the_fourth_epoch(*arguments):
        epochs.append(None)
        if len(epochs) == 4:  # the second epoch of the second model
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    train_epoch = members.train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "train_epoch", stop_in_the_fourth_epoch)
        assert main(words) == 130
    assert "--resume_from_checkpoint latest" in capsys.readouterr().err
    assert main(words) == 2  # not without being asked
    assert main([*words, "--resume_from_checkpoint", "latest"]) == 0
    for member in ("multi_task-seed-0", "multi_task-seed-1", "valence-seed-0"):
        there, here = (
            load_file(folder / "members" / member / "model.safetensors") for folder in (finished, tmp_path / "run")
        )
        assert all(torch.equal(there[name], here[name]) for name in there), member


def test_further_models_join_the_ensemble(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    other = finished / "members" / "multi_task-seed-1"
    words = [*inputs, "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1", "--seeds", "5"]
    words += ["--single_tasks", "false", "--ensemble", str(other), "--encoder_type", "gru"]
    assert main([*words, "--feedback_kind", "label_embedding", "--true_label_decay", "true"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "multi-task, ensemble of 2" in report["systems"] and "one model per task" not in report["systems"]


def test_the_drawn_corpus_goes_all_the_way(small_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(affect_data, "make_synthetic_corpus", lambda *asked: drawn.append(asked) or small_corpus)
    words = ["--synthetic_dir", str(tmp_path / "drawn"), "--synthetic_subjects", "3", "--synthetic_takes", "1"]
    words += ["--frame_encoder_steps", "2", "--num_train_epochs", "1", "--seeds", "0", "--single_tasks", "false"]
    assert main([*words, "--output_dir", str(tmp_path / "run")]) == 0
    ((folder, config),) = drawn
    assert folder == tmp_path / "drawn" / "corpus" and (config.subjects, config.takes, config.seed) == (3, 1, 0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert 10 not in report["action_units"] and len(report["action_units"]) == 10
    subjects = [
        {name.split("/")[1][:3] for name in report["videos"][split]} for split in ("train", "validation", "test")
    ]
    assert not subjects[0] & subjects[2] and not subjects[1] & subjects[2]
    assert "synthetic faces" in report["data"]


def some_prediction(values: list[float]) -> MTLERPrediction:
    return MTLERPrediction(
        valence=torch.tensor(values),
        arousal=-torch.tensor(values),
        expression_probabilities=torch.eye(8)[: len(values)],
        action_unit_probabilities=torch.full((len(values), 12), 0.5),
    )


def test_a_table_holds_clipped_values_classes_and_units() -> None:
    table = as_table(some_prediction([0.5, 1.5]))
    np.testing.assert_allclose(table[:, :3], [[0.5, -0.5, 0], [1.0, -1.0, 1]])
    assert (table[:, 3:] == 1).all()  # 0.5 counts as there
    (joined,) = join_tasks([[MTLERPrediction(valence=torch.ones(2))], [MTLERPrediction(arousal=torch.zeros(2))]])
    assert sorted(joined) == ["arousal", "valence"] and as_table(joined)[:, 0].tolist() == [1.0, 1.0]


def test_the_smoothing_is_the_best_on_the_given_videos() -> None:
    random = np.random.default_rng(0)
    true = np.sin(np.arange(80) / 9).astype(np.float32)
    noisy = torch.from_numpy((true + random.normal(size=80)).astype(np.float32))
    video = AffectSequence("a", np.zeros((80, 1)), some_labels(80, valence=true, arousal=noisy.numpy().clip(-1, 1)))
    prediction = MTLERPrediction(valence=noisy, arousal=noisy)
    chosen = search_smoothing([prediction], [video], [0, 2, 5, 30])
    assert chosen["arousal"] == 0 and chosen["valence"] in (2, 5)
    scores = {}
    for width in (0, 2, 5, 30):
        smoothed = [noisy[max(0, t - width) : t + width + 1].mean().item() for t in range(80)]
        scores[width] = concordance_correlation(smoothed, true)
    assert chosen["valence"] == max(scores, key=scores.get)


def test_selection_weighs_the_parts_as_p_mtl_does() -> None:
    assert selection_score({"ccc_valence": 0.5, "ccc_arousal": 0.1}) == pytest.approx(0.3)
    assert selection_score({"expression_f1": 0.5, "action_unit_f1": math.nan}) == pytest.approx(0.5)


def test_dependencies_are_written_as_target_and_sources() -> None:
    assert parse_dependencies("arousal=valence+action_units,expression=action_units") == {
        "arousal": ["valence", "action_units"],
        "expression": ["action_units"],
    }
    assert parse_dependencies("none") == {}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--dependencies", "arousal=valence,valence=arousal"], "arousal needs valence needs arousal"),
        (["--dependencies", "arousal"], "write target=source+source"),
        (["--encoder_type", "rnn"], "must be one of transformer, lstm, gru"),
        (["--seeds", "0,0"], "different whole numbers"),
        (["--model", "huge"], "no preset; there are released, tiny"),
        (["--test_labels", ""], "--features needs --test_labels too"),
        # Options of the other scripts, which would do nothing here.
        (["--gradient_checkpointing", "true"], "--gradient_checkpointing: there is no such option"),
        (["--dataloader_num_workers", "2"], "--dataloader_num_workers: there is no such option"),
        (["--report_to", "tensorboard"], "--report_to: there is no such option"),
        (["--save_seconds", "600"], "--save_seconds: there is no such option"),
    ],
)
def test_wrong_options_are_one_line(inputs: list[str], tmp_path: Path, capsys, more: list[str], told: str) -> None:
    assert main(words_of(inputs, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("run_mtl_er.py: error:") and told in error
    assert not (tmp_path / "run" / "members").exists()


def test_other_outputs_than_the_labels_are_one_line(inputs: list[str], tmp_path: Path, capsys) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("model_config: {action_units: [1, 2, 4]}")
    assert main(words_of(inputs, tmp_path / "run", "--config", str(options))) == 2
    assert "model_config.action_units=[1, 2, 4]: the label files hold [1, 2, 4, 6," in capsys.readouterr().err


def test_a_video_in_two_splits_is_refused(inputs: list[str], tmp_path: Path, capsys) -> None:
    words = list(inputs)
    words[words.index("--test_labels") + 1] = words[words.index("--train_labels") + 1]
    assert main(words_of(words, tmp_path / "run")) == 2
    assert "stands in train and in test" in capsys.readouterr().err


def test_two_runs_do_not_mix(finished: Path, inputs: list[str], capsys) -> None:
    assert main(words_of(inputs, finished)) == 2
    assert "holds a finished run" in capsys.readouterr().err


def test_a_batch_whose_steps_were_all_skipped_leaves_the_schedule_alone(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_optimiser, moved = members.step_optimiser, []

    def skip_the_first_batch(*parts) -> bool:
        moved.append(step_optimiser(*parts) and len(moved) >= 2)  # 20 frames are two chunks of 16
        return moved[-1]

    monkeypatch.setattr(members, "step_optimiser", skip_the_first_batch)
    words = [*inputs, "--output_dir", str(tmp_path / "run"), "--seeds", "0", "--single_tasks", "false"]
    words += ["--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--lr_scheduler_type", "constant"]
    assert main([*words, "--warmup_epochs", "2", "--learning_rate", "1e-3"]) == 0
    history = json.loads((tmp_path / "run" / "report.json").read_text())["members"]["multi_task-seed-0"]["history"]
    # One batch an epoch: of the two steps from 0 to the peak the first was not taken.
    assert [record["learning_rate"] for record in history] == pytest.approx([0.0, 0.5e-3])
    assert moved == [False, False, True, True]


def test_a_constant_feature_is_zero_however_it_is_rounded() -> None:
    track = np.arange(7, dtype=np.float32)
    features = np.stack([np.full(7, 0.1, np.float32), np.full(7, 1e6 + 0.1, np.float32), 1e4 + track], axis=1)
    video = FrameFeatures(np.arange(7), features, "a")
    (sequence,) = attach_labels({"a": video}, {"a": some_labels(7)}, normalise=True)
    np.testing.assert_array_equal(sequence.features[:, :2], 0.0)
    np.testing.assert_allclose(sequence.features[:, 2], (track - 3) / 2, rtol=1e-6)  # 0 to 6 deviate by 2
    assert sequence.features.dtype == np.float32
