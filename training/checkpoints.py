"""Checkpoints of a run under way: written whole, checked, rotated, and found again."""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open

from mtcae_dfer.hub_dataset.files import plain_values

CHECKPOINTS_FOLDER = "checkpoints"  # in the folder of a run
PROGRESS_FILE, MANIFEST_FILE, WEIGHTS_FILE = "progress.json", "manifest.json", "model.safetensors"
CHUNK_BYTES = 1 << 24
LISTED_MISMATCHES = 5


@dataclass
class Progress:
    """What any training knows between epochs; stored in every checkpoint."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    processes: int | None = None  # that train; None: a checkpoint of old does not tell


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message is one line for the user."""


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    progress: dict[str, Any],
    keep: int,
    describe: Callable[[Path], None] | None = None,
) -> Path:
    """Saves weights, optimiser, schedule and random states, then drops the oldest checkpoints.

    The folder gets its final name when it is complete and on the disk: a manifest of its files with their sizes and
    checksums is written last but one, `progress.json` last.

    Args:
        accelerator: holds everything that was prepared or registered for checkpointing.
        folder: parent of the checkpoints.
        progress: values of JSON; numbers that are none become null. Needs "epoch", and "step" above 0 within an epoch.
        keep: how many checkpoints remain.
        describe: called on the main process, writes further files into the folder, such as those that the Auto*
            classes need.
    """
    final = folder / checkpoint_name(progress)
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if describe is not None:
            describe(partial)
        _seal(partial, progress)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def checkpoint_name(progress: dict[str, Any]) -> str:
    """epoch-00003, or epoch-00003-step-00000040 within the epoch after it; names sort by time."""
    name = f"epoch-{progress['epoch']:05d}"
    return f"{name}-step-{progress['step']:08d}" if progress.get("step") else name


def _seal(folder: Path, progress: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(folder)): fingerprint(path) for path in files}
    for name, content in ((MANIFEST_FILE, manifest), (PROGRESS_FILE, plain_values(progress))):
        with (folder / name).open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())


def fingerprint(file: Path) -> list[int]:
    """Size and CRC-32 of a file, which is on the disk when this returns."""
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
        os.fsync(stream.fileno())
    return [file.stat().st_size, checksum]


def find_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None: nothing."""
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
        json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    for name, expected in manifest.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if fingerprint(file) != expected:
            return f"{name} is not what was written"
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to their end, oldest first."""
    return sorted(path for path in folder.glob("epoch-*") if (path / PROGRESS_FILE).is_file())


def find_checkpoint(folder: Path, wanted: str) -> Path | None:
    """The checkpoint to resume from: "latest" (None if there is none yet), a name in `folder`, or a path.

    "latest" is the newest one whose files are what was written; damaged ones are named on standard error and skipped.

    Raises:
        CheckpointError: the named checkpoint does not exist or is damaged, or all there are.
    """
    there = list_checkpoints(folder)
    if wanted == "latest":
        return _newest_sound(there)
    for candidate in (folder / wanted, Path(wanted)):
        if (candidate / PROGRESS_FILE).is_file():
            fault = find_fault(candidate)
            if fault:
                raise CheckpointError(f"{candidate} is damaged ({fault}): name an older one, or latest")
            return candidate
    names = ", ".join(path.name for path in there) or "none"
    raise CheckpointError(f"--resume_from_checkpoint {wanted}: no complete checkpoint; {folder} holds {names}")


def _newest_sound(checkpoints: list[Path]) -> Path | None:
    for checkpoint in reversed(checkpoints):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint
        print(f"Warning: {checkpoint} is damaged ({fault}) and skipped", file=sys.stderr)
    if checkpoints:
        raise CheckpointError(
            f"all checkpoints of {checkpoints[0].parent} are damaged: start with another --output_dir"
        )
    return None


def load_progress(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given beside the states."""
    return json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))


def refuse_other_architecture(checkpoint: Path, model: torch.nn.Module) -> None:
    """Raises a CheckpointError that lists the weights by which a checkpoint differs from the model."""
    file = checkpoint / WEIGHTS_FILE
    if not file.is_file():  # sharded states check themselves
        return
    with safe_open(file, framework="pt") as stored:
        there = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if differing:
        listed = [
            f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
            for name in differing[:LISTED_MISMATCHES]
        ]
        rest = f"; and {len(differing) - len(listed)} more" if len(differing) > len(listed) else ""
        raise CheckpointError(f"{checkpoint} is of another architecture: {'; '.join(listed)}{rest}")
