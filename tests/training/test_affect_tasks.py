"""Valence, arousal and action units as tasks of MTCAE: loss, labels out of a data set, figures, and a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from mtcae_dfer import MTCAEForMultiTaskVideo, TaskDescription, paper_tasks
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.clips import Clip, DatasetError
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.hub_dataset.synthetic.corpus import load_ground_truth
from mtcae_dfer.task_losses import concordance_loss
from mtcae_dfer.training.affect.tasks import affect_figures, constant_affect, read_affect_labels
from mtcae_dfer.training.evaluation.metrics import action_unit_f1, concordance_correlation
from mtcae_dfer.training.run import main
from tests.support.tiny_models import FRAMES, random_clips, random_labels, tiny_model

BOX, LANDMARKS, EXPRESSION = paper_tasks()
UNITS = ["AU1", "AU12"]
VALENCE_AROUSAL = TaskDescription("valence_arousal", per="frame", output_shape=[2], loss="ccc")
ACTION_UNITS = TaskDescription("action_units", kind="multi_label", per="frame", output_shape=[2], output_names=UNITS)
CLIP_AFFECT = TaskDescription("mood", output_shape=[2], loss="ccc", label_key="clip_valence_arousal")
CLIP_UNITS = TaskDescription(
    "clip_units", kind="multi_label", output_shape=[2], label_key="clip_action_units", output_names=UNITS
)


@pytest.mark.parametrize("output_axes", [0, 1])
def test_the_concordance_loss_is_one_minus_the_metric(output_axes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, labels = (torch.rand(4, 6, 2, generator=generator) for _ in range(2))
    labels[1, 2, 0] = torch.nan
    mask = torch.rand(4, 6, generator=generator) > 0.3
    known = labels.masked_fill(~mask[..., None], torch.nan)
    if output_axes:
        values = [concordance_correlation(prediction[..., c], known[..., c]) for c in range(2)]
    else:
        values = [concordance_correlation(prediction, known)]
    loss = concordance_loss(prediction, labels, mask, output_axes)
    assert loss.item() == pytest.approx(1 - sum(values) / len(values), abs=1e-5)


def test_unknown_labels_take_no_gradient_from_the_concordance_loss() -> None:
    prediction = torch.rand(5, 2, requires_grad=True)
    labels = torch.rand(5, 2)
    labels[3], labels[:, 1] = torch.nan, torch.nan
    concordance_loss(prediction, labels).backward()
    assert prediction.grad[:3, 0].any() and not prediction.grad[3].any() and not prediction.grad[:, 1].any()
    for unlabelled in (torch.full((5, 2), torch.nan), torch.zeros(5, 2)):
        prediction.grad = None
        loss = concordance_loss(prediction, unlabelled)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(prediction.grad).all()


def affect_labels() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "valence_arousal": torch.rand(2, FRAMES, 2, generator=generator) * 2 - 1,
        "action_units": torch.randint(0, 2, (2, FRAMES, 2), generator=generator).float(),
        "clip_valence_arousal": torch.rand(2, 2, generator=generator) * 2 - 1,
        "clip_action_units": torch.randint(0, 2, (2, 2), generator=generator).float(),
    }


@pytest.mark.parametrize(
    "tasks",
    [
        [BOX, LANDMARKS, ACTION_UNITS, EXPRESSION, VALENCE_AROUSAL],
        [VALENCE_AROUSAL, EXPRESSION, ACTION_UNITS],
        [CLIP_AFFECT, CLIP_UNITS, EXPRESSION],
        [EXPRESSION, CLIP_UNITS, VALENCE_AROUSAL, CLIP_AFFECT],
    ],
)
def test_affect_tasks_stand_anywhere_in_the_cascade(tasks: list[TaskDescription], tmp_path: Path) -> None:
    model = tiny_model(tasks=tasks)
    keys = {task.label_key for task in tasks} | {task.mask_key for task in tasks}
    labels = {name: value for name, value in (random_labels() | affect_labels()).items() if name in keys}
    output = model(random_clips(), **labels)
    output.loss.backward()
    assert set(output.task_losses) == {task.name for task in tasks}
    assert all(parameter.grad is not None for parameter in model.heads.parameters())
    model.save_pretrained(tmp_path)
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path).eval()
    for name, value in again(random_clips()).task_outputs.items():
        torch.testing.assert_close(value, output.task_outputs[name], rtol=1e-4, atol=1e-4)


def test_a_batch_without_affect_labels_leaves_their_heads_alone() -> None:
    model = tiny_model(tasks=[ACTION_UNITS, EXPRESSION, VALENCE_AROUSAL])
    labels = {name: torch.full_like(affect_labels()[name], torch.nan) for name in ("valence_arousal", "action_units")}
    output = model(random_clips(), labels=random_labels()["labels"], **labels)
    output.loss.backward()
    assert output.task_losses["valence_arousal"] == 0 and output.task_losses["action_units"] == 0
    for name in ("valence_arousal", "action_units"):
        assert not any(parameter.grad.any() for parameter in model.heads[name].parameters())


def test_rows_of_the_drawn_corpus_hold_what_was_drawn(small_dataset: Path, small_corpus: Path) -> None:
    truths = load_ground_truth(small_corpus)
    rows = load_multitask_dataset(small_dataset)["train"]
    labels = read_affect_labels(rows, [VALENCE_AROUSAL, ACTION_UNITS, CLIP_AFFECT, CLIP_UNITS, EXPRESSION])
    for position, row in enumerate(rows):
        truth, frames = truths[row["name"]], row["frame_indices"]
        np.testing.assert_allclose(labels["valence_arousal"][position, :, 0], truth.valence[frames])
        np.testing.assert_allclose(labels["valence_arousal"][position, :, 1], truth.arousal[frames])
        np.testing.assert_allclose(
            labels["clip_valence_arousal"][position, 1], truth.arousal[frames].mean(), rtol=1e-4, atol=1e-6
        )
        smiles = [float(truth.action_units[frame, 7] >= 0.3) for frame in frames]  # unit 12 is the eighth drawn
        assert labels["action_units"][position, :, 1].tolist() == smiles
        assert labels["clip_action_units"][position, 1] == max(smiles)


def some_rows() -> Dataset:
    return Dataset.from_dict(
        {"valence": [[0.5, None], [None, None]], "arousal": [[0.1, 0.3], [0.0, 0.0]], "action_unit_1": [[0.0, 1.0]] * 2}
    )


def test_unknown_frames_stay_out_of_a_clip_s_labels() -> None:
    labels = read_affect_labels(some_rows(), [CLIP_AFFECT])["clip_valence_arousal"]
    np.testing.assert_allclose(labels, [[0.5, 0.2], [np.nan, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ([ACTION_UNITS], "needs labels of AU12; of affect the data set has AU1, valence, arousal"),
        ([TaskDescription("action_units", "multi_label", "frame", [1], output_names=["smile"])], "smile; name each"),
        ([TaskDescription("action_units", "multi_label", "frame", [1])], "nothing; name each action unit"),
        ([TaskDescription("valence_arousal", per="frame", output_shape=[3])], "its labels need [2]"),
        ([VALENCE_AROUSAL, TaskDescription("b", output_shape=[2], label_key="valence_arousal")], "call those of clips"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tasks: list[TaskDescription], told: str) -> None:
    with pytest.raises(ValueError) as error:
        read_affect_labels(some_rows(), tasks)
    assert told in str(error.value)


def test_two_tasks_of_other_action_units_need_keys_of_their_own() -> None:
    rows = some_rows().add_column("action_unit_2", [[1.0, 0.0]] * 2)
    first = TaskDescription("action_units", "multi_label", "frame", [1], output_names=["AU1"])
    second = TaskDescription("b", "multi_label", "frame", [1], label_key="action_units", output_names=["AU2"])
    told = r"tasks.b.output_names=\['AU2'\]: action_units takes other labels under label_key='action_units'; list all"
    with pytest.raises(ValueError, match=told):
        read_affect_labels(rows, [first, second])
    second.output_names = ["AU1"]
    assert read_affect_labels(rows, [first, second])["action_units"].flatten().tolist() == [0, 1, 0, 1]


def test_figures_are_those_of_the_metrics() -> None:
    random = np.random.default_rng(0)
    predicted, true = random.uniform(-1, 1, (3, 5, 2)), random.uniform(-1, 1, (3, 5, 2))
    true[0, 1, 0] = np.nan
    figures = affect_figures(VALENCE_AROUSAL, predicted, true)
    assert figures == {
        "ccc_valence": concordance_correlation(predicted[..., 0], true[..., 0]),
        "ccc_arousal": concordance_correlation(predicted[..., 1], true[..., 1]),
    }
    present = (random.random((3, 2)) > 0.5).astype(float)
    present[0, 0] = np.nan
    expected = action_unit_f1((predicted[:, 0] >= 0).astype(int), np.where(np.isnan(present), -1, present))
    assert affect_figures(CLIP_UNITS, predicted[:, 0], present) == {"clip_action_unit_f1": expected}
    constant = constant_affect(CLIP_UNITS, np.array([[1.0, 0.0], [1.0, np.nan]]), present)
    assert (constant >= 0).tolist() == [[True, False]] * 3


def test_the_cascade_of_affect_trains_and_reports(small_dataset: Path, tmp_path: Path) -> None:
    words = ["--model", "tiny_affect", "--dataset", str(small_dataset), "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--num_train_epochs", "1"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["history"][0]["task_losses"]) == [
        "face_box",
        "face_landmarks",
        "action_units",
        "expression",
        "valence_arousal",
        "face_box_heat_map",
        "face_landmarks_heat_map",
    ]
    for part in ("test", "constant_predictor"):
        assert {"ccc_valence", "ccc_arousal", "action_unit_f1"} <= set(report[part])
    assert report["constant_predictor"]["ccc_valence"] == pytest.approx(0.0, abs=1e-6)
    assert "validation_ccc_valence" in report["validation"]


def test_clips_with_and_without_affect_labels_do_not_mix(small_corpus: Path, tmp_path: Path) -> None:
    from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
    from mtcae_dfer.hub_dataset.corpora.folder import read_folder

    clips: list[Clip] = read_folder(small_corpus / "videos" / "clips.csv")
    mixed = attach_drawn_labels(clips[:3], small_corpus) + clips[3:]
    with pytest.raises(DatasetError, match="others none, or other units"):
        build_dataset(mixed, tmp_path / "out", BuildOptions(), workers=1, progress=False)
