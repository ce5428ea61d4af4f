"""The folder that the Auto* classes load: weights, configs, and every module of this repository that they need."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor

ROOT = Path(__file__).resolve().parents[1]
ENDPOINT_MODULES = ("handler",)  # not named by any config: inference endpoints look for this file


def save_model_folder(
    model: PreTrainedModel,
    processor: MTCAEVideoProcessor,
    output_dir: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes the folder that the Auto* classes load, each file complete before it replaces its forerunner.

    Args:
        model: and its config.
        processor: that makes its input.
        output_dir: where the files go.
        weights: the model's, gathered from several processes; None: its own.
    """
    partial = output_dir / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    processor.save_pretrained(partial)
    if model.config.model_type == "mtcae":
        add_modules(partial)
    for file in partial.iterdir():
        os.replace(file, output_dir / file.name)
    partial.rmdir()


def add_modules(folder: Path) -> None:
    """Adds what save_pretrained leaves out: custom pipelines in config.json, their modules, and what these import."""
    config_file = folder / "config.json"
    config, of_root = (json.loads(file.read_text(encoding="utf-8")) for file in (config_file, ROOT / "config.json"))
    pipelines = of_root.get("custom_pipelines", {}) | config.get("custom_pipelines", {})
    if pipelines != config.get("custom_pipelines", {}):
        config["custom_pipelines"] = pipelines
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    wanted = {entry["impl"].split(".")[0] for entry in pipelines.values()}
    wanted |= {name for name in ENDPOINT_MODULES if (ROOT / f"{name}.py").is_file()}
    while wanted:
        module = f"{wanted.pop()}.py"
        if not (folder / module).exists():
            shutil.copyfile(ROOT / module, folder / module)
            wanted |= set(relative_imports(folder / module))


def relative_imports(file: Path) -> list[str]:
    """Names of the neighbouring modules that a module of the root imports."""
    return re.findall(r"^\s*from \.(\w+) import", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
