"""Presets: every one resolves to the options that are stored here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.training.affect.arguments import parse_affect_arguments
from mtcae_dfer.training.arguments import parse_run_arguments
from mtcae_dfer.training.pretraining.arguments import parse_pretraining_arguments

STORED: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "resolved_presets.json").read_text(encoding="utf-8")
)
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "run": parse_run_arguments,
    "pretrain": parse_pretraining_arguments,
    "run_mtl_er": parse_affect_arguments,
}
FOLDERS = {"run": CONFIGS, "pretrain": CONFIGS / "pretraining", "run_mtl_er": CONFIGS / "mtl_er"}


@pytest.mark.parametrize("script", PARSERS)
def test_every_preset_is_stored_and_no_other(script: str) -> None:
    assert sorted(STORED[script]) == sorted(file.stem for file in FOLDERS[script].glob("*.yaml"))


@pytest.mark.parametrize(("script", "preset"), [(script, preset) for script in PARSERS for preset in STORED[script]])
def test_a_preset_resolves_to_the_stored_options(script: str, preset: str) -> None:
    resolved = PARSERS[script](["--model", preset]).to_dict()
    assert json.loads(json.dumps(resolved)) == STORED[script][preset]


def test_the_small_decoders_have_the_sizes_and_the_crop_of_the_weights_that_they_stand_on() -> None:
    root = CONFIGS.parents[1]
    weights, processor = (
        json.loads((root / name).read_text(encoding="utf-8"))
        for name in ("config.json", "video_preprocessor_config.json")
    )
    preset = parse_run_arguments(["--model", "frozen_small"]).to_dict()
    described = MTCAEConfig(**preset["model_config"]).to_dict()
    for name in [name for name in weights if name.startswith("decoder_")]:
        assert described[name] == weights[name], name
    for own, published in zip(described["tasks"][:2], weights["tasks"][:2], strict=True):
        assert own == published
    for name in ("face_crop_margin", "face_crop_rise"):
        assert preset[name] == processor[name]
