"""Options of a run: where values come from, and which ones are refused."""

from pathlib import Path

import pytest

from mtcae_dfer.training.affect.arguments import parse_affect_arguments
from mtcae_dfer.training.arguments import (
    available_presets,
    merge_options,
    parse_run_arguments,
    read_options_file,
    read_preset,
)
from mtcae_dfer.training.pretraining.arguments import parse_pretraining_arguments


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
    options.write_text("model: tiny_long\n")
    for words in (["--model", "tiny_tpsbt"], ["--model=tiny_tpsbt"]):
        assert parse_run_arguments(["--config", str(options), *words]).model.model == "tiny_tpsbt"


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lerning_rate", "0.1"], "--lerning_rate: there is no such option; did you mean --learning_rate?"),
        (["--zzz=1"], "--zzz=1: there is no such option"),
        (["stray.yaml"], "stray.yaml: there is no such option"),
    ],
)
def test_an_unknown_option_on_the_command_line_is_named(words: list[str], told: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_run_arguments(words)
    assert str(error.value) == told


def test_own_options_lie_over_inherited_ones_field_by_field() -> None:
    inherited = {"seed": 3, "model_config": {"pooling": "mean", "encoder_config": {"model_type": "a", "depth": 2}}}
    own = {"seed": None, "model_config": {"encoder_config": {"depth": 5}}, "bf16": True}
    assert merge_options(inherited, own) == {
        "model_config": {"pooling": "mean", "encoder_config": {"model_type": "a", "depth": 5}},
        "bf16": True,
    }
    other = merge_options(inherited, {"model_config": {"encoder_config": {"model_type": "b"}}})
    assert other["model_config"]["encoder_config"] == {"model_type": "b"}


def test_a_file_extends_a_preset_and_no_other_name(tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("extends: tiny\nseed: 7\n")
    assert read_options_file(options) == read_preset("tiny") | {"seed": 7}
    options.write_text("extends: tinny\n")
    with pytest.raises(ValueError, match="extends: tinny: no preset; there are .*tiny_tpsbt"):
        parse_run_arguments(["--config", str(options)])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("num_train_epochs: 2.5", "--num_train_epochs 2.5: must be a whole number"),
        ("num_train_epochs: true", "--num_train_epochs True: must be a whole number"),
        ("learning_rate: fast", "--learning_rate fast: must be a number"),
        ("learning_rate: null", "--learning_rate None: must be a number"),
        ("learning_rate: false", "--learning_rate False: must be a number"),
        ("dataset: 5", "--dataset 5: must be text or empty"),
        ("augment: 1", "--augment 1: must be true or false"),
        ("model_config: tiny", "--model_config tiny: must be a mapping"),
        ("frame_stride: [2]", r"--frame_stride \[2\]: must be a whole number or empty"),
        ("1: 2", "unknown options 1; the options are"),
        ("- seed", "must map option names to values"),
    ],
)
def test_a_value_of_another_type_in_a_file_is_named_with_its_rule(tmp_path: Path, written: str, told: str) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(written)
    with pytest.raises(ValueError, match=told):
        parse_run_arguments(["--config", str(options)])


def test_yaml_takes_a_power_of_ten_for_text_and_it_is_a_number_all_the_same(tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("learning_rate: 1e-3")
    assert parse_run_arguments(["--config", str(options)]).optimisation.learning_rate == 1e-3


def test_lists_of_other_types_are_named_too(tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("crop_scales: 0.9")
    with pytest.raises(ValueError, match="--crop_scales 0.9: must be a list, each a number"):
        parse_pretraining_arguments(["--config", str(options)])
    options.write_text("seeds: 0")
    with pytest.raises(ValueError, match="--seeds 0: must be text"):
        parse_affect_arguments(["--config", str(options)])
