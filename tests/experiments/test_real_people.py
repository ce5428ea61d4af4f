"""The model for real people: orders, fading sequences, calibration, and both stages on a handful of drawn pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments import real_people
from mtcae_dfer.experiments.real_people import (
    RealPeopleOptions,
    expected_calibration_error,
    fade_sequences,
    fade_strengths,
    fit_temperature,
    order_of_epoch,
)
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceSet

NEUTRAL, DISGUST = EXPRESSIONS.index("neutral"), EXPRESSIONS.index("disgust")


def random_faces(count: int, frames: int, seed: int = 0) -> FaceSet:
    """Noise with a face in the middle; the brightness tells the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(EXPRESSIONS)
    pictures = random.integers(0, 60, (count, frames, 32, 32, 3)) + 25 * labels[:, None, None, None, None]
    points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.65], [0.58, 0.65]], np.float32)
    return FaceSet(
        pictures=pictures.astype(np.uint8),
        labels=labels,
        face_boxes=np.tile(np.array([0.3, 0.25, 0.7, 0.75], np.float32), (count, frames, 1)),
        face_landmarks=np.tile(points, (count, frames, 1, 1)),
        subjects=np.array([f"s{number}" for number in range(count)]),
    )


def test_an_epoch_holds_every_official_still_and_rare_classes_twice() -> None:
    stills = random_faces(42, 1)
    order = order_of_epoch(stills, official=21, epoch=0, seed=0)
    counts = np.bincount(order, minlength=42)
    disgust = stills.labels == DISGUST
    assert (counts[:21] == np.where(disgust[:21], 2, 1)).all()
    common = stills.labels[21:] < 2  # neutral and happiness: a third of them
    assert (counts[21:][~common] == 2).all() and counts[21:][common].sum() == common.sum() // 3
    assert not np.array_equal(order, order_of_epoch(stills, official=21, epoch=1, seed=0))


def test_sequences_fade_from_neutral_features_to_the_labelled_ones() -> None:
    random = np.random.default_rng(0)
    strengths = fade_strengths(random, 400, 8)
    assert strengths.shape == (400, 8) and strengths.min() >= 0 and strengths.max() <= 1
    assert (strengths[:, -1] == 1).mean() > 0.6  # most end with the full expression
    assert (strengths.max(axis=1) > 0.9).mean() > 0.95
    labels = torch.tensor([NEUTRAL, 3, 4, NEUTRAL])
    features = labels.float()[:, None, None].expand(4, 6, 5)
    faded, faded_labels = fade_sequences(features, labels, 4, 8, random)
    assert faded.shape == (4, 8, 6, 5)
    for sequence, label in zip(faded, faded_labels, strict=True):
        # Features are the labels here: a fade from 0 (neutral) never leaves the way to its own label.
        assert sequence.min() >= 0 and sequence.max() <= label
    assert fade_sequences(features[1:3], labels[1:3], 2, 8, random) is None


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_scores_drawn_by_their_own_softmax_is_found(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(20_000, 7, generator=generator)
    labels = torch.multinomial((scores / true_temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
    assert fit_temperature(scores, labels) == pytest.approx(true_temperature, rel=0.05)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    # Two of confidence 0.9, half right: gap 0.4; two of 0.6, all right: gap 0.4; each half of the stills.
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)


def test_both_stages_learn_stop_and_go_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(real_people, "SIZES", (32, 32))
    monkeypatch.setattr(real_people, "BATCH", 8)
    monkeypatch.setattr(real_people, "STILLS_A_STEP", 8)
    monkeypatch.setattr(real_people, "CLIPS_A_STEP", 2)
    monkeypatch.setattr(real_people, "FADES_A_STEP", 2)
    monkeypatch.setattr(real_people, "SAVE_STEPS", 1)
    stills, clips = random_faces(28, 1), random_faces(4, 4, seed=1)

    def stages(folder: str, epochs: int, steps: int, stop: int | None = None) -> MTCAEForMultiTaskVideo:
        options = RealPeopleOptions(
            stills=[],
            output_dir=str(tmp_path / folder),
            backbone_epochs=epochs,
            small_epochs=1,
            cascade_steps=steps,
            head_steps=2,
        )
        Path(options.output_dir).mkdir(exist_ok=True)
        backbone = real_people.train_backbone(stills, 21, stills, options)
        model = real_people.make_cascade(backbone, seed=0)
        if stop is not None:
            monkeypatch.setattr(real_people, "save_cascade", stopping_after(stop))
        real_people.train_cascade(model, stills, 21, clips, options)
        return model

    class Stopped(Exception):
        pass

    save = real_people.save_cascade

    def stopping_after(stop: int):
        def save_and_stop(trainer: real_people.CascadeTrainer, file: Path) -> None:
            save(trainer, file)
            if trainer.step == stop and trainer.phase.trains_backbone:
                raise Stopped

        return save_and_stop

    trained = stages("straight", 2, 3)
    with pytest.raises(Stopped):
        stages("stopped", 2, 3, stop=2)
    monkeypatch.setattr(real_people, "save_cascade", save)
    straight, resumed = trained.state_dict(), stages("stopped", 2, 3).state_dict()
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    figures = real_people.figures_of(real_people.answer(trained, clips))
    assert figures["count"] == 4 and 0 <= figures["face_box_iou"] <= 1 and figures["landmark_nme"] > 0
