"""Where the benchmarks keep their tables: `benchmarks/results/NAME.md`, with date, machine, versions and command."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mtcae_dfer.hub_dataset.workers import available_processors

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "accelerate", "av", "facenet-pytorch", "onnxruntime", "torchao")


def keep_table(name: str, title: str, lines: Sequence[str], device: str = "cpu", folder: Path = RESULTS) -> Path:
    """Writes a benchmark's Markdown table with all that is needed to read it; returns the file.

    Args:
        name: of the file, without suffix; a second run replaces it.
        title: first line.
        lines: the table and its remarks, in Markdown.
        device: where the models ran.
        folder: of the table; made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    head = [f"# {title}", "", f"- Command: `{command}`", f"- Date: {date.today()}", f"- Machine: {machine(device)}"]
    file = folder / f"{name}.md"
    file.write_text("\n".join([*head, f"- Versions: {versions()}", "", *lines]) + "\n", encoding="utf-8")
    return file


def machine(device: str = "cpu") -> str:
    """The processor with its cores, or the accelerator with its memory."""
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    return f"{_processor()}, {available_processors()} cores, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> str:
    """Python's version, and those of the packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
