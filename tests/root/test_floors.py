"""Which way things flow: a room uses only rooms on lower floors, and importing does nothing but define."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

ROOT = Path(__file__).parents[2]
# The page stands on top of all rooms; nobody imports it.
ROOT_MODULES = sorted(path for path in ROOT.glob("*.py") if path.name not in ("__init__.py", "app.py"))
REMOTE_CODE_MAY_IMPORT = {
    *("transformers", "torch", "torchvision", "numpy", "av", "huggingface_hub", "safetensors", "PIL"),
}
# A room uses the rooms on lower floors and its own; those on one floor do not know each other.
FLOORS = {"root": 0, "hub_dataset": 1, "training": 2, "inference": 2, "experiments": 3, "release": 4, "commands": 5}
HIGHER_ROOMS = {"mtcae_dfer", *FLOORS} - {"root"}
# They stand on top of all rooms; nobody imports them.
SCRIPTS = {"training.run", "training.pretrain", "training.run_mtl_er", "app"}
# Calls that only make a value; anything else at import time might read, write or ask the network.
HARMLESS_CALLS = {
    *("Encoder",),  # an entry of the table of encoders
    *("OutputRecorder", "TypeVar", "dict", "field", "frozenset", "logging.getLogger", "logging.get_logger", "range"),
}
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, relative level) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda path: path.name)
def test_root_modules_import_each_other_flat_and_nothing_above_them(path: Path) -> None:
    for module, level in imports(path):
        if level:
            assert level == 1 and (ROOT / f"{module}.py").is_file(), f"from {'.' * level}{module}"
        else:
            assert module.split(".")[0] not in HIGHER_ROOMS, module


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda path: path.name)
def test_remote_code_asks_for_no_other_package_than_transformers_needs(path: Path) -> None:
    # What is imported inside a `try` is not asked for.
    assert set(get_imports(path)) <= REMOTE_CODE_MAY_IMPORT | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda path: path.name)
def test_the_remote_code_loader_finds_every_module_and_no_other(path: Path) -> None:
    # It reads by line, so that it takes a docstring that begins like an import for one, and skips `from . import x`.
    assert set(get_relative_imports(path)) == {module for module, level in imports(path) if level}


@cache
def imported_modules() -> dict[str, set[str]]:
    """Every module of the package by its name ("training.loop") -> modules of the package that it imports.

    Imports inside functions and under TYPE_CHECKING count like all others.
    """
    folders = [ROOT, *(ROOT / room for room in FLOORS if room != "root")]
    files = {*folders[0].glob("*.py"), *(file for folder in folders[1:] for file in folder.rglob("*.py"))}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    used: dict[str, set[str]] = {}
    for name, file in names.items():
        used[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # "training/loop.py" stands in "training": one dot is its own folder, every further one a folder above.
                above = ["mtcae_dfer", *name.split(".")][: -node.level] if node.level else []
                start = ".".join([*above, *([node.module] if node.module else [])])
                # What is named may be a module of the package, or something that stands in it.
                found = [start, *(f"{start}.{alias.name}" for alias in node.names)]
            else:
                continue
            inside = (module.removeprefix("mtcae_dfer.") for module in found if module.startswith("mtcae_dfer."))
            used[name] |= {module for module in inside if module in names}
    return used


def room_of(module: str) -> str:
    return module.split(".")[0] if "." in module else "root"


def test_a_room_uses_lower_rooms_only() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in imported_modules().items()
        for other in others
        if name not in SCRIPTS and room_of(name) != room_of(other) and FLOORS[room_of(name)] <= FLOORS[room_of(other)]
    ]
    assert upward == []


def test_nobody_imports_a_script() -> None:
    assert [(name, others & SCRIPTS) for name, others in imported_modules().items() if others & SCRIPTS] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = dict(imported_modules())
    while below:
        free = [name for name, needed in below.items() if not needed & below.keys() - {name}]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]


def test_the_floors_see_imports_of_every_kind() -> None:
    used = imported_modules()
    assert "modeling_mtcae" in used["__init__"]  # relative
    assert "hub_dataset.files" in used["training.evaluation.report"]  # absolute
    assert "release.push" in used["training.run"]  # inside a function


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda path: path.name)
def test_importing_a_root_module_only_defines(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_docstring or isinstance(node, DEFINITIONS), ast.unparse(node)[:80]
        for call in calls_when_defined(node):
            assert ast.unparse(call.func) in HARMLESS_CALLS, ast.unparse(call)[:80]


def calls_when_defined(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that run when a module defines something: not those in the bodies of functions, nor decorators."""
    if isinstance(node, ast.FunctionDef):
        inner = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
    elif isinstance(node, ast.ClassDef):
        inner = node.body
    else:
        inner = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        yield node
    for child in inner:
        yield from calls_when_defined(child)


def test_importing_the_package_writes_nothing_and_asks_no_network(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-B", "-c", WATCH_THE_IMPORT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "" and list(tmp_path.iterdir()) == []


# Third-party packages are imported first: what they do is not this repository's.
WATCH_THE_IMPORT = """
import sys
import av, numpy, torch, torchvision, transformers
from transformers import AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, VideoMAEModel
from transformers import video_processing_utils

def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove"):
        print(event, arguments)

sys.addaudithook(watch)
import mtcae_dfer
"""
