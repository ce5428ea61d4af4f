"""Files that are whole or not there: every room writes through these."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.git_lfs import GIT_LFS_HEAD

LONGEST_POINTER = 1024  # bytes, by the specification of Git LFS


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside the file, which takes the file's place when the block ends well, and goes otherwise."""
    temporary = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appearing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its name when the block ends well, and is removed otherwise.

    What a killed process left of an earlier call is removed first.

    Raises:
        ValueError: another process is writing this folder; what it has written so far stays.
    """
    temporary = folder.absolute().with_name(f".{folder.name}.partial")
    if temporary.is_dir():
        os.close(_hold(temporary, folder))  # nobody works in it
        shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    held = _hold(temporary, folder)
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Keeps other commands out of a folder that is there as long as the block runs.

    Raises:
        ValueError: another process is writing this folder.
    """
    held = _hold(folder, folder)
    try:
        yield
    finally:
        os.close(held)


def _hold(temporary: Path, folder: Path) -> int:
    """Locks a folder until the returned descriptor is closed, or the process ends."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{folder}: another command is writing this folder; choose another, or wait for it") from None
    return descriptor


def plain_values(value: Any) -> Any:
    """The value in JSON's own types: arrays as lists, numbers that are none (NaN, infinity) as None."""
    if isinstance(value, dict):
        return {key: plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain_values(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(file: Path, text: str) -> None:
    """Writes a whole text file or none, with a line's end at its end.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_json(file: Path, values: Any) -> None:
    """Writes a whole JSON file or none; numbers that are none become null.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(file, json.dumps(plain_values(values), indent=2, ensure_ascii=False, allow_nan=False))


def walk_folder(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below a folder, itself first, with the sorted names of its files; hidden ones are left out.

    Symbolic links to folders are followed once all real folders are told, and no folder is told twice: links that lead
    back up end there.
    """
    told: set[str] = set()
    starts = [folder]
    while starts:
        links: list[Path] = []
        for start in starts:
            for parent, folders, files in os.walk(start):
                place = os.path.realpath(parent)
                if place in told:
                    folders.clear()
                    continue
                told.add(place)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                links += [Path(parent, name) for name in folders if os.path.islink(os.path.join(parent, name))]
                yield Path(parent), sorted(name for name in files if not name.startswith("."))
        starts = links


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is only the text with which Git LFS stands for a file that has not been fetched."""
    if file.stat().st_size > LONGEST_POINTER:
        return False
    with open(file, "rb") as stream:
        return stream.read(len(GIT_LFS_HEAD)) == GIT_LFS_HEAD


def hash_file(path: str | os.PathLike) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and length in bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest(), file.tell()


def why_not_writable(folder: str | os.PathLike[str]) -> str | None:
    """Why no file can be made in a folder that is there, in the system's words; None where one can.

    A file is made and removed: permissions do not tell of folders that the system makes up, or of read-only drives.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mtcae-"):
            return None
    except OSError as error:
        return error.strerror or str(error)
