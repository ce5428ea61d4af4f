"""Files that a command is asked to write: looked at before its work begins."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

PICTURE_SUFFIXES = (".png",)


def check_outputs(outputs: Mapping[str, tuple[str | None, tuple[str, ...]]], inputs: Iterable[str]) -> None:
    """Refuses files that cannot be written, that would be written twice, or that are among the inputs.

    Args:
        outputs: option -> (the file that it names, or None; the endings that such a file may have).
        inputs: files that the command reads.

    Raises:
        ValueError: one line with the option, the file and what to do.
    """
    from mtcae_dfer.hub_dataset.files import why_not_writable  # imports torch, which --help does not wait for

    read = {_identity(file): file for file in inputs}
    written: dict[object, str] = {}
    for option, (file, suffixes) in outputs.items():
        if file is None:
            continue
        place = os.path.realpath(file)
        if _identity(place) in read:
            raise ValueError(f"{option} {file}: is the input {read[_identity(place)]} itself; give another name")
        if _identity(place) in written:
            raise ValueError(f"{option} {file}: {written[_identity(place)]} writes the same file; give another name")
        written[_identity(place)] = option
        if Path(file).suffix.lower() not in suffixes:
            raise ValueError(f"{option} {file}: give a name that ends in {' or '.join(suffixes)}")
        folder = os.path.dirname(place)
        if not os.path.isdir(folder):
            raise ValueError(f"{option} {file}: cannot be written, there is no folder {folder}; create it first")
        if os.path.isdir(place):
            raise ValueError(f"{option} {file}: cannot be written, it is a folder; give the name of a file")
        if reason := why_not_writable(folder):
            raise ValueError(f"{option} {file}: cannot be written, {folder} takes no files ({reason}); choose another")


def _identity(file: str) -> object:
    """What two names of one file have in common, links of both kinds included; of a file to come, its full name."""
    try:
        status = os.stat(file)
    except OSError:
        return os.path.realpath(file)
    return status.st_dev, status.st_ino
