"""What pip installs is what stands in the rooms: a built wheel is compared with the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("hub_dataset", "training", "inference", "experiments", "release", "commands")
DATA_OF_THE_ROOT = {"config.json", "model.safetensors", "video_preprocessor_config.json", "py.typed"}
NOT_PRODUCT = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "tests", "benchmarks", "docs", "examples"
)


def product_files(root: Path) -> set[str]:
    """All that a user needs without the checkout: modules, presets, templates, the demonstration model."""
    files = {*root.glob("*.py"), *(root / name for name in DATA_OF_THE_ROOT), *(root / "demonstration_model").iterdir()}
    for room in ROOMS:
        files |= {file for file in (root / room).rglob("*") if file.is_file()}
    return {f"mtcae_dfer/{file.relative_to(root).as_posix()}" for file in files}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, which a build may litter."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "checkout", ignore=NOT_PRODUCT))


def test_a_wheel_holds_every_file_of_the_rooms_and_no_other(checkout: Path, tmp_path: Path) -> None:
    expected = product_files(checkout)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    process = subprocess.run(build, cwd=checkout, capture_output=True, text=True, timeout=180)
    assert process.returncode == 0, process.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        stored = {name for name in wheel.namelist() if name.startswith("mtcae_dfer/")}
    assert stored == expected


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
