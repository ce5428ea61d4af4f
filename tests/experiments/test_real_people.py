"""The model for real people: orders, fading sequences, calibration, and both stages on a handful of drawn pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people import __main__ as command
from mtcae_dfer.experiments.real_people import cascade, classifier, recipe
from mtcae_dfer.experiments.real_people.cascade import fade_sequences, fade_strengths, make_cascade
from mtcae_dfer.experiments.real_people.classifier import make_classifier, order_of_epoch, size_of_epoch
from mtcae_dfer.experiments.real_people.figures import (
    answer,
    expected_calibration_error,
    figures_of,
    fit_temperature,
    take_off_prior,
)
from mtcae_dfer.experiments.real_people.pictures import join_votes, keep_face
from mtcae_dfer.experiments.real_people.recipe import RealPeopleOptions
from mtcae_dfer.hub_dataset.files import write_json, writing_in
from mtcae_dfer.hub_dataset.votes import count_votes, vote_shares
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceCut, FaceSet, face_squares, make_batch, measure_tones, smooth_targets
from tests.support.tiny_models import tiny_model

NEUTRAL, DISGUST = EXPRESSIONS.index("neutral"), EXPRESSIONS.index("disgust")


def random_faces(count: int, frames: int, seed: int = 0) -> FaceSet:
    """Noise with a face in the middle; the brightness tells the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(EXPRESSIONS)
    pictures = random.integers(0, 60, (count, frames, 3, 32, 32)) + 25 * labels[:, None, None, None, None]
    points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.65], [0.58, 0.65]], np.float32)
    return FaceSet(
        pictures=torch.from_numpy(pictures.astype(np.uint8)),
        labels=labels,
        targets=smooth_targets(labels, len(EXPRESSIONS), 0.1),
        votes=np.zeros((count, 7), np.float32),
        face_boxes=np.tile(np.array([0.3, 0.25, 0.7, 0.75], np.float32), (count, frames, 1)),
        face_landmarks=np.tile(points, (count, frames, 1, 1)),
        subjects=np.array([f"s{number}" for number in range(count)]),
        tones=measure_tones(torch.from_numpy(pictures.astype(np.uint8))),
    )


def test_votes_of_raters_are_a_share_of_a_target_where_there_are_enough() -> None:
    told = ["neutral 4, anger 3, disgust 1, contempt 1, unknown 1", "anger 2, NF 8", ""]
    votes = [count_votes(each, EXPRESSIONS) for each in told]
    labels = np.array([EXPRESSIONS.index("anger"), NEUTRAL, DISGUST])
    targets = smooth_targets(labels, len(EXPRESSIONS), 0.1)
    joined = join_votes(targets, np.array(votes, np.float32), 0.5)
    np.testing.assert_array_equal(joined[1:], targets[1:])
    by_hand = targets[0] / 2
    by_hand[[NEUTRAL, EXPRESSIONS.index("anger"), DISGUST]] += np.array([4, 3, 1]) / 16
    np.testing.assert_allclose(joined[0], by_hand, atol=1e-6)
    alone = join_votes(targets, np.array(votes, np.float32), 1.0)[0]
    np.testing.assert_allclose(alone, vote_shares(np.array(votes, np.float32))[0])


def test_an_epoch_holds_every_official_still_and_rare_classes_twice() -> None:
    stills = random_faces(42, 1)
    order = order_of_epoch(stills.labels, official=21, epoch=0, seed=0)
    counts = np.bincount(order, minlength=42)
    disgust = stills.labels == DISGUST
    assert (counts[:21] == np.where(disgust[:21], 2, 1)).all()
    common = stills.labels[21:] < 2  # neutral and happiness: a third of them
    assert (counts[21:][~common] == 2).all() and counts[21:][common].sum() == common.sum() // 3
    assert not np.array_equal(order, order_of_epoch(stills.labels, official=21, epoch=1, seed=0))


def test_sequences_fade_from_neutral_features_to_the_labelled_ones() -> None:
    random = np.random.default_rng(0)
    strengths = fade_strengths(random, 400, 8)
    assert strengths.shape == (400, 8) and strengths.min() >= 0 and strengths.max() <= 1
    assert (strengths[:, -1] == 1).mean() > 0.6  # most end with the full expression
    assert (strengths.max(axis=1) > 0.9).mean() > 0.95
    labels = np.array([NEUTRAL, 3, 4, NEUTRAL])
    features = torch.from_numpy(labels).float()[:, None, None].expand(4, 6, 5)
    faded, last = fade_sequences(features, labels, 4, 8, random)
    assert faded.shape == (4, 8, 6, 5) and sorted(last.tolist()) == [0, 1, 2, 3]
    for sequence, position in zip(faded, last, strict=True):
        # Features are the labels here: a fade from 0 (neutral) never leaves the way to its own label.
        assert sequence.min() >= 0 and sequence.max() <= labels[position]
    assert fade_sequences(features[1:3], labels[1:3], 2, 8, random) is None


def test_class_weights_fall_with_the_square_root_of_a_class_in_the_targets() -> None:
    targets = np.array([[0.8, 0.2], [0.8, 0.2]] * 50, np.float32)  # 80 of the first class, 20 of the second
    weights = recipe.soft_class_weights(targets).numpy()
    assert weights[1] / weights[0] == pytest.approx(2) and (weights @ [0.8, 0.2]) == pytest.approx(1)


def test_a_share_of_the_prior_is_taken_off_the_scores() -> None:
    model = make_cascade(make_classifier(), seed=0).eval()
    clips = torch.zeros(1, 1, 3, 80, 80)
    before = model(clips).logits.detach()
    parts = np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32)
    take_off_prior(model, np.stack([parts, parts]), 0.5)
    moved = (model(clips).logits.detach() - before)[0]
    # The first expression is four times as frequent as each other: half of log 4 less than they.
    np.testing.assert_allclose(moved[1:] - moved[0], np.log(4) / 2, atol=1e-5)
    assert float(moved.sum()) == pytest.approx(0, abs=1e-4)


def test_clips_of_equally_frequent_expressions_are_judged_by_the_scores_that_stand_in_the_end() -> None:
    model = make_cascade(make_classifier(), seed=0).eval()
    clips = torch.zeros(1, 1, 3, 80, 80)
    stills = np.array([[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]], np.float32)
    with torch.no_grad():
        judged = model(clips).logits + cascade.offset_of_clips(np.eye(7, dtype=np.float32), stills)
        take_off_prior(model, stills, recipe.PRIOR_SHARE)
        np.testing.assert_allclose(judged, model(clips).logits, atol=1e-5)
    np.testing.assert_allclose(cascade.offset_of_clips(stills, stills), 0, atol=1e-6)  # clips as stills: as they are


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


def test_a_kept_picture_shows_the_face_with_room_and_its_labels_move_along() -> None:
    frames = np.zeros((2, 160, 300, 3), np.uint8)
    points = np.array([[140, 90], [160, 90], [150, 100], [142, 110], [158, 110]], np.float32)
    for x, y in points.astype(int):
        frames[:, y, x] = 250
    scale = np.array([300, 160], np.float32)
    given = torch.from_numpy(frames).permute(0, 3, 1, 2)
    boxes = np.tile(np.array([130, 75, 170, 125], np.float32) / np.tile(scale, 2), (2, 1))
    pictures, boxes, landmarks = keep_face(given, boxes, np.tile(points / scale, (2, 1, 1)))
    assert pictures.shape == (2, 3, 128, 128)
    # The square's side is 1.048 * 2.48 * 20 pixels; the kept one is 1.6 as wide.
    extent = round(1.6 * 1.048 * 2.48 * 20)
    assert (boxes[0, 2] - boxes[0, 0]) * extent == pytest.approx(40) and (
        boxes[0, 3] - boxes[0, 1]
    ) * extent == pytest.approx(50)
    for x, y in landmarks[1] * 128:
        around = pictures[1, :, int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
        assert around.max() > 100
    whole, boxes, _ = keep_face(given, np.full((2, 4), np.nan, np.float32), np.full((2, 5, 2), np.nan, np.float32))
    assert whole.shape == (2, 3, 128, 128) and np.isnan(boxes).all()


class Stopped(Exception):
    """A run that somebody stopped."""


def test_all_stages_learn_stop_and_go_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "SIZES", (32, 32, 32))
    monkeypatch.setattr(cascade, "SAVE_STEPS", 1)
    clips = random_faces(4, 4, seed=1)

    def stages(folder: str) -> MTCAEForMultiTaskVideo:
        stills = random_faces(28, 1)
        options = RealPeopleOptions(
            stills=[],
            output_dir=str(tmp_path / folder),
            device="cpu",
            backbone_epochs=2,
            backbone_batch=8,
            cascade_steps=3,
            still_batch=8,
            clip_batch=2,
            fade_batch=2,
        )
        Path(options.output_dir).mkdir(exist_ok=True)
        model = make_cascade(classifier.train_classifier(stills, 21, stills, options), seed=0)
        cascade.train_cascade(model, stills, 21, clips, options)
        return model

    trained = stages("straight")
    # Stopped in the second epoch of the first stage, then behind the second step of the second one.
    score, save, asked = classifier.score_stills, cascade.save_stage, []

    def score_once(*given):
        asked.append(given)
        if len(asked) == 2:
            raise Stopped
        return score(*given)

    def save_and_stop(trainer: cascade.CascadeTrainer, file: Path, step: int) -> None:
        save(trainer, file, step=step)
        if step == 2:
            raise Stopped

    with monkeypatch.context() as first, pytest.raises(Stopped):
        first.setattr(classifier, "score_stills", score_once)
        stages("stopped")
    with monkeypatch.context() as second, pytest.raises(Stopped):
        second.setattr(cascade, "save_stage", save_and_stop)
        stages("stopped")
    straight, resumed = trained.state_dict(), stages("stopped").state_dict()
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    # The image model of the first stage is not trained on in the second.
    kept = load_file(tmp_path / "straight" / "backbone.safetensors")
    image_model = {name: value for name, value in straight.items() if name.startswith("encoder.backbone.")}
    assert all(torch.equal(kept[name.removeprefix("encoder.")], value) for name, value in image_model.items())
    figures = figures_of(answer(trained, clips), clips.votes)
    assert figures["count"] == 4 and 0 <= figures["face_box_iou"] <= 1 and figures["landmark_nme"] > 0
    assert "voted" not in figures
    # One answered as the raters say, one not; one without a majority, one with too few votes.
    answers = answer(trained, clips)
    first, second = answers.scores[:2].argmax(dim=1).tolist()
    votes = np.zeros((4, len(EXPRESSIONS)), np.float32)
    votes[0, first], votes[1, second - 1], votes[1, second], votes[3, 0] = 6, 6, 4, 4
    votes[2, :2] = 5
    assert figures_of(answers, votes)["voted"] == {"count": 2, "accuracy": 0.5, "uar": 0.5}


def test_a_still_is_answered_as_the_processor_shows_it_sixteen_times() -> None:
    model = make_cascade(make_classifier(), seed=0).eval()
    stills = random_faces(3, 1)
    answers = answer(model, stills)
    pictures = make_batch(stills, face_squares(stills.face_landmarks, FaceCut()), np.arange(3), 80).pixel_values
    with torch.no_grad():
        expected = model(pictures.repeat(1, 16, 1, 1, 1))
    torch.testing.assert_close(answers.scores, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.boxes, expected.face_boxes[:, :1], atol=1e-5, rtol=1e-5)
    assert answers.landmarks.shape == answers.batch.face_landmarks.shape == (3, 1, 5, 2)
    # Of four frames the inner ones are shown five times, the others three.
    clips = random_faces(2, 4)
    pictures = make_batch(clips, face_squares(clips.face_landmarks, FaceCut()), np.arange(2), 80).pixel_values
    with torch.no_grad():
        expected = model(pictures[:, [0] * 3 + [1] * 5 + [2] * 5 + [3] * 3])
    answers = answer(model, clips)
    torch.testing.assert_close(answers.scores, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.landmarks, expected.face_landmarks[:, [0, 3, 8, 13]], atol=1e-5, rtol=1e-5)


def test_without_steps_a_cascade_stays_as_it_was_and_is_kept(tmp_path: Path) -> None:
    model = make_cascade(make_classifier(), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = RealPeopleOptions(stills=[], output_dir=str(tmp_path), cascade_steps=0, still_batch=8)
    cascade.train_cascade(model, random_faces(14, 1), 14, None, options)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (tmp_path / "cascade.safetensors").exists()


def test_a_clip_is_seen_in_a_frame_of_each_equal_part() -> None:
    encoded = object.__new__(cascade.EncodedFaces)
    frames = torch.arange(16.0).expand(2, 16)
    places = {"features": frames[..., None, None], "face_boxes": frames[..., None], "face_landmarks": frames[..., None]}
    encoded.views, encoded.device = [places] * 2, torch.device("cpu")
    encoded.labels, encoded.targets = np.zeros(2, int), np.zeros((2, 7), np.float32)
    for wanted, part in ((4, 4), (8, 2), (16, 1), (1, 16)):
        batch = encoded.batch(np.array([1, 0]), np.random.default_rng(0), wanted)
        seen = batch.features[0, :, 0, 0]
        assert (seen // part).tolist() == list(range(wanted))
        torch.testing.assert_close(batch.face_boxes[0, :, 0], seen)


def test_clips_that_are_tested_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, batch = [], cascade.EncodedFaces.batch

    def note(self: cascade.EncodedFaces, indices: np.ndarray, *given) -> cascade.EncodedBatch:
        drawn.append(indices.tolist())
        return batch(self, indices, *given)

    monkeypatch.setattr(cascade.EncodedFaces, "batch", note)
    monkeypatch.setattr(recipe, "SIZES", (32, 32, 32))
    options = RealPeopleOptions(
        [], output_dir=str(tmp_path), cascade_steps=4, still_batch=7, clip_batch=3, fade_batch=2
    )
    tested = np.array([False, True, False, True, False])
    clips = random_faces(5, 4, seed=1)
    cascade.train_cascade(make_cascade(make_classifier(), 0), random_faces(14, 1), 14, clips, options, tested)
    assert drawn[1::2] and all(set(indices) == {0, 2, 4} for indices in drawn[1::2])


def test_a_second_call_goes_on_with_the_backbone_of_the_first(tmp_path: Path) -> None:
    first = make_cascade(make_classifier(), seed=0)
    first.save_pretrained(tmp_path / "first")
    second = make_cascade(make_classifier(str(tmp_path / "first")), seed=1)
    expected, found = (model.encoder.backbone.state_dict() for model in (first, second))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    options = RealPeopleOptions([], output_dir=str(tmp_path), start=str(tmp_path / "first"), backbone_epochs=0)
    kept = classifier.train_classifier(random_faces(14, 1), 14, random_faces(14, 1), options).backbone.state_dict()
    assert all(torch.equal(expected[name], kept[name]) for name in expected)
    assert (tmp_path / "backbone.safetensors").exists()  # the stage is over
    tiny_model().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="--start .*other: its backbone differs in model_type; give"):
        make_classifier(str(tmp_path / "other"))


def test_a_classifier_tells_scores_and_the_points_of_the_cascades_heads() -> None:
    model = make_classifier().eval()
    for size in (48, 80):  # the heads' grid stays
        scores, places = model(torch.zeros(2, 3, size, size))
        assert scores.shape == (2, len(EXPRESSIONS)) and places.shape == (2, 14)
        assert places.min() > 0 and places.max() < 1  # expectations of cells, offsets start at zero


def test_frames_grow_with_the_epochs() -> None:
    assert [size_of_epoch(epoch, 10) for epoch in range(10)] == [48] * 3 + [64] * 4 + [80] * 3
    assert size_of_epoch(0, 1) == 48


def test_a_share_of_votes_above_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--stills", "A", "--output_dir", str(tmp_path / "run"), "--vote_share", "1.5"]
    assert command.main(words) == 2
    assert capsys.readouterr().err.strip() == "real_people: error: --vote_share 1.5: must be in [0, 1]"
    assert not (tmp_path / "run").exists()


def test_options_that_need_clips_or_more_stills_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["--stills", "A", "--output_dir", str(tmp_path / "run")]

    def told(*more: str) -> str:
        assert command.main([*words, *more]) == 2
        return capsys.readouterr().err.strip()

    assert told("--clip_fold", "1") == "real_people: error: --clip_stills and --clip_fold need clips: give --clips"
    assert told("--clip_stills", "3") == "real_people: error: --clip_stills and --clip_fold need clips: give --clips"
    assert "--backbone_epochs 0: must be at least 1 without --start" in told("--backbone_epochs", "0")
    assert "--backbone_epochs -1: must not be negative" in told("--backbone_epochs", "-1", "--start", "first")
    assert "--fade_batch 16: must be at most --still_batch 8" in told("--still_batch", "8")
    monkeypatch.setattr(command, "read_faces", lambda name, *others: random_faces(28 if name == "A" else 5, 4))
    # 28 stills in equal parts, those of disgust twice.
    assert "--backbone_batch 128: there are no more than 32 to learn from; give a" in told("--clips", "B")
    fitting = ("--clips", "B", "--backbone_batch", "8", "--still_batch", "16")
    assert "--clip_batch 32: there are no more than 5 to learn from; give a" in told(*fitting)


def test_folds_share_the_image_model_unless_it_learns_from_their_clips() -> None:
    alone = RealPeopleOptions([], clip_fold="2")
    assert (alone.fold_suffix, alone.image_suffix) == ("-fold_2", "")
    assert RealPeopleOptions([], clip_fold="2", clip_stills=3).image_suffix == "-fold_2"
    assert RealPeopleOptions([], clip_stills=3).image_suffix == ""


def test_two_commands_do_not_work_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with writing_in(tmp_path):
        assert command.main(["--stills", "A", "--output_dir", str(tmp_path)]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(f"{tmp_path}: another command is writing this folder; choose another, or wait for it")
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_stages_of_one_set_of_options_and_folds_share_it(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    command.refuse_other_options(RealPeopleOptions(stills=["A"]), file)
    write_json(file, command.deciding_options(RealPeopleOptions(stills=["A"])))
    command.refuse_other_options(RealPeopleOptions(stills=["A"], clip_fold="2", threads=1), file)
    with pytest.raises(ValueError, match="made with other options .--backbone_epochs 30 -> 5."):
        command.refuse_other_options(RealPeopleOptions(stills=["A"], backbone_epochs=5), file)
