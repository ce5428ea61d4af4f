"""The table of `benchmarks/learning.py`: means, worst runs, goals and the plateau, by hand."""

import learning


def report(uar: float, iou: float, error: float, recalls: list[float]) -> dict:
    return {
        "test": {"uar": uar, "war": uar, "face_box_iou": iou, "landmark_nme": error},
        "history": [{"epoch": number, "validation_uar": recall} for number, recall in enumerate(recalls, start=1)],
        "options": {"num_train_epochs": len(recalls)},
        "seconds": {"training": 90.0},
    }


def test_the_worst_run_and_the_mean_are_held_to_their_goals() -> None:
    reports = {
        "a": report(0.95, 0.90, 0.08, [0.2, 0.5, 0.9, 0.9]),  # a third of four epochs ends within the second
        "b": report(0.85, 0.90, 0.12, [0.2, 0.41, 0.9, 0.9]),
    }
    lines = learning.format_protocol(learning.PROTOCOLS["whole"], reports)
    assert "| UAR | 90.0 | 85.0 | ≥ 90 (≥ 86) | no |" in lines  # the mean is reached, the worst run is not
    assert "| face box IoU | 90.0 | 90.0 | ≥ 88 (≥ 86) | yes |" in lines
    assert "| landmark error | 10.0 | 12.0 | ≤ 11 (≤ 13) | yes |" in lines
    assert "| validation UAR after a third | 45.5 | 41.0 | every run > 40 | yes |" in lines
    assert "| b | 85.0 | 90.0 | 12.0 | 41.0 | 1.5 |" in lines


def test_one_run_on_the_plateau_is_told() -> None:
    stuck = report(0.95, 0.9, 0.08, [0.14, 0.40, 0.9])
    lines = learning.format_protocol(learning.PROTOCOLS["whole"], {"a": stuck})
    assert "| validation UAR after a third | 14.0 | 14.0 | every run > 40 | no |" in lines


def test_twenty_runs_differ_in_seed_corpus_and_protocol_alone() -> None:
    datasets = {0: "first", 1: "second"}
    planned = [
        entry for protocol in ("whole", "faces") for entry in learning.plan(datasets, range(5), protocol, ["--a", "b"])
    ]
    assert len({entry.name for entry in planned}) == len({entry.arguments for entry in planned}) == 20
    crops = [entry for entry in planned if "--face_crop" in entry.arguments]
    assert len(crops) == 10 and all(entry.arguments[-4:-2] == ("--a", "b") for entry in planned)
