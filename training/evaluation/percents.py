"""Fractions as people read them, wherever a figure is printed or drawn."""

from __future__ import annotations

import math

UNKNOWN = "–"


def number(value: float | None) -> float:
    """What is null in a file is NaN again."""
    return math.nan if value is None else float(value)


def percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A fraction in percent without the unit, "82.1"; a dash where it is unknown."""
    share = 100 * number(value)
    return UNKNOWN if math.isnan(share) else f"{share:{'+' if sign else ''}.{digits}f}"


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """Mean ± standard deviation in percent, "82.7 ± 1.2"; the mean alone where there is no deviation."""
    return percent(mean) if math.isnan(number(deviation)) else f"{percent(mean)} ± {percent(deviation)}"


def interval(low: float | None, high: float | None, sign: bool = False) -> str:
    """An interval in percent, "80.1 to 84.0"; a dash where an end is unknown."""
    if math.isnan(number(low)) or math.isnan(number(high)):
        return UNKNOWN
    return f"{percent(low, sign=sign)} to {percent(high, sign=sign)}"
