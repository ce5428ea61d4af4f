"""What can be chosen for a timeline: a value of a wrong type or size is named, whatever type it has."""

import numpy as np
import pytest

from mtcae_dfer.timeline_windows import TimelineOptions

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
