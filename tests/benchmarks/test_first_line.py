"""The table of `benchmarks/first_line.py`: medians by stage, and the ratio of two checkouts."""

import first_line


def test_medians_and_their_ratio_by_stage() -> None:
    times = {
        "this checkout": [{"drawing": 1.0, "all": 10.0}, {"drawing": 3.0, "all": 20.0}, {"drawing": 2.0, "all": 90.0}],
        "the other": [{"drawing": 4.0, "all": 40.0}, {"drawing": 4.0, "all": 40.0}, {"drawing": 9.0, "all": 10.0}],
    }
    assert first_line.format_times(times) == [
        "| stage | this checkout, s | the other, s | ratio |",
        "|---|---:|---:|---:|",
        "| drawing | 2.0 | 4.0 | 0.50 |",
        "| all | 20.0 | 40.0 | 0.50 |",
    ]


def test_one_checkout_has_no_ratio() -> None:
    assert first_line.format_times({"this checkout": [{"all": 1.0}]})[-1] == "| all | 1.0 |"
