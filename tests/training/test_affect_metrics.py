"""CCC, F1 of expressions, F1 of action units and P_MTL, against slow statements and hand-computed cases."""

import math
import random

import numpy as np
import pytest

from mtcae_dfer.training.evaluation.metrics import (
    ActionUnitF1,
    ConcordanceCorrelation,
    ExpressionF1,
    MultiTaskScore,
    action_unit_f1,
    concordance_correlation,
    macro_f1,
    multi_task_score,
    per_unit_f1,
)


def slow_concordance(predictions: list[float], references: list[float]) -> float:
    pairs = [(p, y) for p, y in zip(predictions, references, strict=True) if y != -5]
    count = len(pairs)
    mean_p, mean_y = sum(p for p, _ in pairs) / count, sum(y for _, y in pairs) / count
    covariance = sum((p - mean_p) * (y - mean_y) for p, y in pairs) / count
    variance_p = sum((p - mean_p) ** 2 for p, _ in pairs) / count
    variance_y = sum((y - mean_y) ** 2 for _, y in pairs) / count
    return 2 * covariance / (variance_p + variance_y + (mean_p - mean_y) ** 2)


def slow_f1(predictions: list[int], references: list[int], wanted: int) -> float | None:
    pairs = [(p, y) for p, y in zip(predictions, references, strict=True) if y != -1]
    hits = sum(p == wanted and y == wanted for p, y in pairs)
    false_alarms = sum(p == wanted and y != wanted for p, y in pairs)
    misses = sum(p != wanted and y == wanted for p, y in pairs)
    return None if hits + false_alarms + misses == 0 else hits / (hits + (false_alarms + misses) / 2)


def drawn_frames(seed: int, frames: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references in the columns of s-Aff-Wild2, each label missing in a third of the frames."""
    source = random.Random(seed)
    predictions, references = [], []
    for _ in range(frames):
        row = [source.uniform(-1, 1), source.uniform(-1, 1), source.randrange(8)]
        row += [source.randrange(2) for _ in range(12)]
        true = [source.uniform(-1, 1), source.uniform(-1, 1), source.randrange(6)]
        true += [source.randrange(2) for _ in range(12)]
        missing = [-5, -5] + [-1] * 13
        references.append(
            [lost if source.random() < 0.33 else value for value, lost in zip(true, missing, strict=True)]
        )
        predictions.append(row)
    return np.array(predictions), np.array(references)


@pytest.mark.parametrize("seed", range(5))
def test_p_mtl_and_its_parts_are_their_slow_statements(seed: int) -> None:
    predictions, references = drawn_frames(seed)
    figures = multi_task_score(predictions, references, 8)
    valence, arousal = (slow_concordance(list(predictions[:, c]), list(references[:, c])) for c in (0, 1))
    classes = [slow_f1(list(predictions[:, 2]), list(references[:, 2]), wanted) for wanted in range(8)]
    classes = [score for score in classes if score is not None]
    units = [slow_f1(list(predictions[:, c]), list(references[:, c]), 1) or 0.0 for c in range(3, 15)]
    expected = {
        "ccc_valence": valence,
        "ccc_arousal": arousal,
        "expression_f1": sum(classes) / len(classes),
        "action_unit_f1": sum(units) / 12,
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name
    total = (valence + arousal) / 2 + expected["expression_f1"] + expected["action_unit_f1"]
    assert figures["p_mtl"] == pytest.approx(total, abs=1e-12)


def test_a_concordance_computed_by_hand() -> None:
    # y = 0, 1 and p = 0, 0.5: cov 0.125, variances 0.25 and 0.0625, distance of means 0.25
    assert concordance_correlation([0.0, 0.5], [0.0, 1.0]) == pytest.approx(2 * 0.125 / (0.25 + 0.0625 + 0.0625))
    assert concordance_correlation([0.3, -0.4], [0.3, -0.4]) == pytest.approx(1.0)
    assert concordance_correlation([0.5, -0.5], [-0.5, 0.5]) == pytest.approx(-1.0)


def test_the_concordance_is_pooled_over_videos_and_no_mean_of_theirs() -> None:
    one, two = ([0.1, 0.2], [0.1, 0.2]), ([0.8, 0.7], [-0.8, -0.7])
    metric = ConcordanceCorrelation()
    for predictions, references in (one, two):
        metric.add_batch(predictions=np.array(predictions), references=np.array(references))
    expected = slow_concordance(one[0] + two[0], one[1] + two[1])
    assert metric.compute()["ccc"] == pytest.approx(expected)
    assert expected != pytest.approx((slow_concordance(*one) + slow_concordance(*two)) / 2)


def test_a_constant_agrees_with_nothing() -> None:
    assert concordance_correlation([0.2, 0.2], [0.1, 0.5]) == 0.0
    assert concordance_correlation([0.0, 0.0], [0.0, 0.0]) == 0.0


def test_an_f1_computed_by_hand() -> None:
    # class 0: 1 hit, 1 miss -> 2/3; class 1: 1 hit, 1 false alarm -> 2/3; class 2: 0 hits, predicted never, true never
    assert macro_f1([0, 1, 1, 3], [0, 0, 1, -1], 4) == pytest.approx(2 / 3)


def test_each_action_unit_is_masked_by_itself() -> None:
    predictions = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]])
    references = np.array([[1, -1, -1], [0, 0, -1], [1, 1, -1]])
    # unit 1: a hit, a false alarm and a miss; unit 2: a hit alone; unit 3: no labels
    np.testing.assert_allclose(per_unit_f1(predictions, references), [0.5, 1.0, np.nan])
    assert action_unit_f1(predictions, references) == pytest.approx(0.75)


def test_without_labels_there_is_no_figure() -> None:
    assert math.isnan(concordance_correlation([0.1], [-5.0])) and math.isnan(macro_f1([1], [-1], 3))
    assert math.isnan(action_unit_f1(np.array([[1]]), np.array([[-1]])))


def test_the_metric_classes_compute_the_functions() -> None:
    predictions, references = drawn_frames(9)
    whole = MultiTaskScore()
    for part in range(0, 60, 20):
        whole.add_batch(predictions=predictions[part : part + 20], references=references[part : part + 20])
    assert whole.compute(num_classes=8) == pytest.approx(multi_task_score(predictions, references, 8))
    ids = predictions[:, 2].astype(int), references[:, 2].astype(int)
    found = ExpressionF1().compute(predictions=ids[0], references=ids[1], num_classes=8)
    assert found == {"expression_f1": macro_f1(*ids, 8)}
    found = ActionUnitF1().compute(predictions=predictions[:, 3:], references=references[:, 3:])
    assert found == {"action_unit_f1": action_unit_f1(predictions[:, 3:], references[:, 3:])}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: concordance_correlation([0.1, 0.2], [0.1]), "differ in shape"),
        (lambda: concordance_correlation([0.1], [1.2]), r"hold \[1.2\], but valence and arousal are in \[-1, 1\]"),
        (lambda: macro_f1([0], [9], 8), "class ids"),
        (lambda: per_unit_f1([[0.4]], [[1]]), "compare probabilities with 0.5 first"),
        (lambda: per_unit_f1([[1]], [[2]]), "must hold 0, 1, and -1"),
        (lambda: multi_task_score(np.zeros((2, 3)), np.zeros((2, 3)), 8), "two equal tables"),
        (lambda: multi_task_score(np.full((2, 5), 0.5), np.zeros((2, 5)), 8), "no whole numbers"),
    ],
)
def test_what_is_no_prediction_or_label_is_refused(call, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
