"""Options of a run: where values come from, and which ones are refused."""

from pathlib import Path

import pytest

from mtcae_dfer.training.arguments import available_presets, parse_run_arguments


def test_without_arguments_the_tiny_preset_on_drawn_faces() -> None:
    arguments = parse_run_arguments([])
    assert arguments.model.model == "tiny"
    assert arguments.data.dataset is None
    assert arguments.model.model_config["encoder_config"]["model_type"] == "videomae"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("learning_rate: 0.01\nnum_train_epochs: 7\n")
    arguments = parse_run_arguments(["--config", str(options), "--num_train_epochs", "3"])
    assert arguments.optimisation.learning_rate == 0.01
    assert arguments.optimisation.num_train_epochs == 3
    assert arguments.model.whiten_patch_embedding  # from the preset


def test_resolved_options_can_be_read_back(tmp_path: Path) -> None:
    import yaml

    resolved = parse_run_arguments(["--seed", "5"]).to_dict()
    options = tmp_path / "resolved.yaml"
    options.write_text(yaml.safe_dump(resolved))
    assert parse_run_arguments(["--config", str(options)]).to_dict() == resolved


@pytest.mark.parametrize("preset", available_presets())
def test_every_preset_is_accepted(preset: str) -> None:
    assert parse_run_arguments(["--model", preset]).model.model == preset


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_train_epochs", "0"], "--num_train_epochs 0: must be greater than 0"),
        (["--lr_scheduler_type", "steps"], "--lr_scheduler_type steps: must be constant or cosine"),
        (["--bf16", "true", "--fp16", "true"], "cannot be combined with fp16"),
        (["--push_to_hub", "true"], "--hub_model_id None: push_to_hub needs it"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such options file"),
    ],
)
def test_wrong_values_are_named_with_their_rule(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_run_arguments(words)


def test_an_unknown_option_in_a_file_is_refused(tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("learning_rte: 0.01\n")
    with pytest.raises(ValueError, match="unknown options learning_rte"):
        parse_run_arguments(["--config", str(options)])
