"""The tables of `benchmarks/paper_setting.py`: what a choice is worth, by hand; its runs differ as their names say."""

from pathlib import Path

import paper_setting

from mtcae_dfer.training.arguments import parse_run_arguments


def test_a_choice_is_worth_the_mean_of_the_pairs_that_differ_in_nothing_else() -> None:
    worth = {"single_task": 0.0, "non_fully_shared": 0.1, "cascaded": 0.05, "paper": 0.0, "places": 0.2}
    worth |= {"random": 0.0, "pre_trained": 0.02, "frozen": -0.1}
    tests = {
        cell: [{"uar": 0.5 + sum(worth[name] for name in cell) + noise} for noise in (-0.01, 0.01)]
        for cell in paper_setting.CELLS
    }
    # One cell more, so that a mean hides what "worst" and "best" show.
    tests["cascaded", "paper", "random"] = [{"uar": 0.58}]
    rows = [line.strip("| ").split(" | ") for line in paper_setting.format_contrasts(tests)[2:]]
    assert [row[1:] for row in rows] == [
        ["+10.0", "+10.0", "+10.0", "6"],
        ["+5.5", "+5.0", "+8.0", "6"],
        ["-4.5", "-5.0", "-2.0", "6"],
        ["+19.7", "+17.0", "+20.0", "9"],
        ["+1.5", "-1.0", "+2.0", "6"],
        ["-12.0", "-12.0", "-12.0", "6"],
    ]


def test_what_is_not_finished_has_no_row() -> None:
    tests = {("cascaded", "paper", "random"): [{"uar": 0.5, "face_box_iou": 0.8, "landmark_nme": 0.2}]}
    lines = paper_setting.format_table(tests)
    assert lines[2:] == ["| mean pooling, FC | random | cascade | 50.0 | 80.0 | 20.0 |"]
    assert len(paper_setting.format_contrasts(tests)) == 2


def test_the_picture_shows_what_is_finished(tmp_path: Path) -> None:
    tests = {cell: [{"uar": 0.5}, {"uar": 0.6}] for cell in paper_setting.CELLS[:4]}
    paper_setting.draw_picture(tests, tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_runs_differ_as_their_names_say(tmp_path: Path) -> None:
    heads = paper_setting.write_heads(tmp_path)
    runs = paper_setting.plan("data", heads, tmp_path / "pre-training", 3, ["--num_train_epochs", "5"])
    assert len({run.name for run in runs.values()}) == 18
    options = {cell: parse_run_arguments(run.arguments) for cell, run in runs.items()}
    for (structure, kind, encoder), told in options.items():
        fields = told.model.model_config
        assert told.model.structure == structure and told.optimisation.num_train_epochs == 5
        assert (fields["decoder_num_layers"], fields["decoder_hidden_size"]) == (5, 48)
        assert fields["pooling"] == ("mean" if kind == "paper" else "time_and_place")
        assert any("heat_map" in str(task) for task in fields.get("tasks", [])) == (kind == "places")
        assert (told.model.encoder is not None) == (encoder != "random")
        assert told.model.freeze_encoder == (encoder == "frozen")
