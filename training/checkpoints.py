"""Checkpoints of a run under way: written whole, rotated, and found again."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

PROGRESS_FILE = "progress.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message is one line for the user."""


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict[str, Any], keep: int) -> Path:
    """Saves weights, optimiser, schedule and random states after an epoch, then drops the oldest checkpoints.

    The folder gets its final name when it is complete, and `progress.json` is written last.

    Args:
        accelerator: holds everything that was prepared or registered for checkpointing.
        folder: parent of the checkpoints, one folder per epoch.
        progress: JSON-serialisable; needs "epoch".
        keep: how many checkpoints remain.
    """
    final = folder / f"epoch-{progress['epoch']:05d}"
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    if accelerator.is_main_process:
        (partial / PROGRESS_FILE).write_text(json.dumps(progress, indent=2), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("epoch-*") if (path / PROGRESS_FILE).is_file())


def find_checkpoint(folder: Path, wanted: str) -> Path | None:
    """The checkpoint to resume from: "latest" (None if there is none yet), a name in `folder`, or a path.

    Raises:
        CheckpointError: the named checkpoint does not exist or is not complete.
    """
    if wanted == "latest":
        complete = list_checkpoints(folder)
        return complete[-1] if complete else None
    for candidate in (folder / wanted, Path(wanted)):
        if (candidate / PROGRESS_FILE).is_file():
            return candidate
    there = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
    raise CheckpointError(f"--resume_from_checkpoint {wanted}: no complete checkpoint; {folder} holds {there}")


def load_progress(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given beside the states."""
    return json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
