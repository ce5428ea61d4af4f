"""Programs of another checkout of this repository, run in the same session as this one's."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = {"mtcae_dfer": ".", "mtcae_commands": "commands"}  # as pyproject.toml maps them


def checkout_root(path: str) -> Path:
    """The root of a checkout, from the command line.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    if not (Path(path) / "training" / "run.py").is_file():
        raise argparse.ArgumentTypeError(f"{path}: no checkout, there is no training/run.py")
    return Path(path).resolve()


@contextmanager
def importing(root: Path) -> Iterator[dict[str, str]]:
    """The environment in which the packages are those of a checkout, whatever its folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        for package, part in PACKAGES.items():
            (Path(folder) / package).symlink_to(root / part)
        # Before any installed package.
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        yield os.environ | {"PYTHONPATH": path}
