"""Means over folds, resampled subjects and paired differences, against hand-computed and literal values."""

import math
from statistics import mean, stdev

import numpy as np
import pytest

from mtcae_dfer.experiments.statistics import (
    bootstrap_intervals,
    figures_of,
    mean_and_std,
    paired_difference,
    percentile_interval,
    resampled_weights,
    sum_by_subject,
)
from mtcae_dfer.training.evaluation.metrics import per_class_recall, unweighted_average_recall, weighted_average_recall
from mtcae_dfer.training.evaluation.percents import with_deviation

SUBJECTS = ["a"] * 5 + ["b"] * 3 + ["c"] * 8
RANDOM = np.random.default_rng(0)
LABELS, PREDICTED = RANDOM.integers(3, size=16), RANDOM.integers(3, size=16)
FRAMES = np.array([2, 0] * 8)
OVERLAPS = np.where(FRAMES > 0, RANDOM.random(16), np.nan)


def sums(predicted=PREDICTED, subjects=SUBJECTS, overlaps=OVERLAPS):
    face_figures = {"face_box_iou": overlaps, "landmark_nme": np.full(16, np.nan)}
    return sum_by_subject(subjects, LABELS, predicted, FRAMES, face_figures, num_classes=3)


def test_mean_and_sample_deviation_by_hand():
    # Squared distances from 0.5 are 0.01, 0 and 0.01; divided by 2 that is 0.01.
    assert mean_and_std([0.4, 0.5, 0.6]) == (pytest.approx(0.5), pytest.approx(0.1))
    values = [0.31, 0.72, 0.44, 0.9]
    assert mean_and_std(values) == (pytest.approx(mean(values)), pytest.approx(stdev(values)))


def test_one_value_has_no_deviation():
    assert math.isnan(mean_and_std([0.5])[1])
    assert with_deviation(*mean_and_std([0.5])) == "50.0"
    assert with_deviation(*mean_and_std([0.4, 0.5, 0.6])) == "50.0 ± 10.0"
    with pytest.raises(ValueError, match="no value"):
        mean_and_std([])


def test_figures_of_all_subjects_are_the_metrics_of_all_clips():
    figures = figures_of(sums())
    assert figures["uar"] == pytest.approx(unweighted_average_recall(PREDICTED, LABELS, 3))
    assert figures["war"] == pytest.approx(weighted_average_recall(PREDICTED, LABELS, 3))
    np.testing.assert_allclose(figures["per_class_recall"], per_class_recall(PREDICTED, LABELS, 3))
    assert figures["face_box_iou"] == pytest.approx(np.nansum(OVERLAPS * FRAMES) / FRAMES.sum())
    assert np.isnan(figures["landmark_nme"])


def test_a_resample_is_the_clips_of_the_drawn_subjects():
    weights = np.array([[2, 0, 1], [0, 3, 0]])
    figures = figures_of(sums(), weights)
    for row, weight in enumerate(weights):
        clips = [clip for place, name in enumerate("abc") for clip in np.flatnonzero(np.array(SUBJECTS) == name)
                 for _ in range(weight[place])]  # fmt: skip
        assert figures["uar"][row] == pytest.approx(unweighted_average_recall(PREDICTED[clips], LABELS[clips], 3))
        assert figures["war"][row] == pytest.approx(weighted_average_recall(PREDICTED[clips], LABELS[clips], 3))
        overlap = np.nansum(OVERLAPS[clips] * FRAMES[clips]) / FRAMES[clips].sum()
        assert figures["face_box_iou"][row] == pytest.approx(overlap)


def test_every_resample_draws_as_many_subjects_and_the_seed_decides():
    weights = resampled_weights(7, resamples=50, seed=3)
    assert weights.shape == (50, 7) and (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, resampled_weights(7, resamples=50, seed=3))
    assert (weights != resampled_weights(7, resamples=50, seed=4)).any()


def test_the_interval_is_that_of_a_literal_bootstrap():
    low, high = bootstrap_intervals(sums(), resamples=4000)["war"]
    random, rates = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = random.choice(["a", "b", "c"], size=3)
        clips = np.concatenate([np.flatnonzero(np.array(SUBJECTS) == name) for name in drawn])
        rates.append((PREDICTED[clips] == LABELS[clips]).mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(rates, [0.025, 0.975])), abs=0.03)


def test_one_subject_has_no_interval():
    one = sums().select([True, False, False])
    assert one.subjects == ("a",) and one.confusion.sum() == 5
    assert np.isnan(bootstrap_intervals(one)["uar"]).all()
    assert bootstrap_intervals(one)["per_class_recall"].shape == (3, 2)


def test_resamples_without_a_value_do_not_count():
    assert percentile_interval(np.array([np.nan, 0.2, 0.2, np.nan])) == pytest.approx((0.2, 0.2))
    assert all(map(math.isnan, percentile_interval(np.array([np.nan]))))


def test_a_model_does_not_differ_from_itself():
    paired = paired_difference(sums(), sums(), "uar", [(0.4, 0.4)])
    assert (paired.difference, paired.low, paired.high, paired.fold_differences) == (0, 0, 0, (0,))


def test_one_subject_gives_a_difference_without_an_interval():
    one = sums().select([name == "a" for name in sums().subjects])
    paired = paired_difference(one, one, "war")
    assert paired.difference == 0 and np.isnan([paired.low, paired.high]).all()


def test_pairing_takes_the_subjects_difficulty_out():
    # Both models fail on the same hard subject, and one finds a clip more of every subject.
    better = PREDICTED.copy()
    for name in "abc":
        wrong = [clip for clip in np.flatnonzero(np.array(SUBJECTS) == name) if PREDICTED[clip] != LABELS[clip]]
        better[wrong[0]] = LABELS[wrong[0]]
    paired = paired_difference(sums(better), sums(), "war", [(0.6, 0.5), (0.5, 0.5)])
    assert paired.difference == pytest.approx(3 / 16) and 0 < paired.low <= paired.difference <= paired.high
    assert paired.fold_differences == pytest.approx((0.1, 0.0))


def test_models_of_other_subjects_cannot_be_compared():
    with pytest.raises(ValueError, match="same subjects"):
        paired_difference(sums(), sums(subjects=["a"] * 8 + ["z"] * 8), "uar")
