"""What can be chosen for a timeline, each wrong value being named, and where the windows lie that this makes."""

import numpy as np
import pytest

from mtcae_dfer.timeline_windows import TimelineOptions, WindowPlan

NUMBERS = (
    "window_seconds",
    "hop_seconds",
    "min_face",
    "fps",
    "batch_size",
    "top_k",
    "smoothing",
    "margin",
    "min_seconds",
)
SWITCHES = ("average_windows", "compile", "int8")
NULLABLE = ("hop_seconds", "min_face", "fps", "top_k", "margin")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["2", [], {}, True, None, float("nan"), float("inf"), -1])
def test_a_number_must_be_one(name: str, value: object) -> None:
    if value is None and name in NULLABLE:
        assert getattr(TimelineOptions(**{name: value}), name) is None
        return
    with pytest.raises(ValueError) as refused:
        TimelineOptions(**{name: value})
    assert str(refused.value).startswith(f"{name}={value!r}: must be")


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["false", 0, 1, None, []])
def test_a_switch_must_be_one(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="must be true or false"):
        TimelineOptions(**{name: value})


@pytest.mark.parametrize("value", ["everybody", 1, True, None, ["all"], {}])
def test_people_is_one_of_two_words(value: object) -> None:
    with pytest.raises(ValueError, match="must be one of all, single"):
        TimelineOptions(people=value)


@pytest.mark.parametrize("name", ["batch_size", "top_k"])
def test_counts_are_whole(name: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        TimelineOptions(**{name: 1.5})


def test_numbers_of_numpy_are_numbers() -> None:
    assert TimelineOptions(top_k=np.int64(3), window_seconds=np.float32(1.5)).hop == 0.75


@pytest.mark.parametrize(
    ("duration", "window", "hop", "expected"),
    [
        (1.9, 1.0, 5.0, [0.0, 0.9]),
        (3.5, 1.0, 3.0, [0.0, 2.5]),
        (4.0, 1.0, 3.0, [0.0, 3.0]),
        (2.25, 1.0, 0.5, [0.0, 0.5, 1.0, 1.25]),
        (0.5, 1.0, 5.0, [0.0]),
    ],
)
def test_windows_reach_the_end_and_none_is_cut_short(
    duration: float, window: float, hop: float, expected: list
) -> None:
    times = np.arange(round(duration * 20)) / 20
    plan = WindowPlan(times, duration, TimelineOptions(window_seconds=window, hop_seconds=hop), 4)
    spans = list(plan.spans)
    assert [start for start, _ in spans] == pytest.approx(expected)
    assert spans[-1][1] == pytest.approx(duration, abs=2e-3) and max(plan.wanted) == len(times) - 1
    assert all(end - start >= min(window, duration) for start, end in spans)
