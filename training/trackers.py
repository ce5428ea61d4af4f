"""Trackers of a run: its losses and validation figures as they come, through Accelerate's own trackers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mtcae_dfer.training.arguments import ClipStepArguments, ScriptArguments

PROJECT = "mtcae-dfer"
# What `--report_to` takes -> the packages of which one must be installed.
TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}


def chosen_trackers(options: ClipStepArguments) -> list[str] | None:
    """The trackers of `--report_to`, as Accelerate's `log_with` takes them.

    Raises:
        ValueError: a tracker is unknown, or its package is not installed.
    """
    names = [name.strip() for name in (options.report_to or "").split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--report_to {name}: is no tracker; the trackers are {', '.join(TRACKERS)}")
        if not any(find_spec(package) for package in TRACKERS[name]):
            raise ValueError(f"--report_to {name}: needs the package {TRACKERS[name][0]}; install it by pip")
    return names or None


def start_trackers(accelerator: Accelerator, arguments: ScriptArguments) -> None:
    """Opens the trackers with the run's options. tensorboard writes to output_dir, below the project's name."""
    if accelerator.log_with:
        # tensorboard's table of hyper-parameters holds nothing else than plain values.
        options = {
            name: value if isinstance(value, int | float | str | bool) else json.dumps(value, default=str)
            for name, value in arguments.to_dict().items()
        }
        run_name = Path(arguments.optimisation.output_dir).name
        names = {"wandb": {"name": run_name}, "trackio": {"name": run_name}}
        accelerator.init_trackers(PROJECT, config=options, init_kwargs=names)


def log_epoch(accelerator: Accelerator, record: dict[str, Any]) -> None:
    """Hands the figures of an epoch to the trackers."""
    figures = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "epoch"}
    figures |= {f"train_loss/{task}": loss for task, loss in record["task_losses"].items()}
    accelerator.log(figures, step=record["epoch"])
