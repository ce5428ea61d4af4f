"""Which way things flow: a room uses only rooms on lower floors, and importing does nothing but define."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

ROOT = Path(__file__).parents[2]
# The page stands on top of all rooms; nobody imports it.
ROOT_MODULES = sorted(path for path in ROOT.glob("*.py") if path.name not in ("__init__.py", "app.py"))
DATASET_MODULES = sorted((ROOT / "hub_dataset").glob("*.py"))
REMOTE_CODE_MAY_IMPORT = {
    *("transformers", "torch", "torchvision", "numpy", "av", "huggingface_hub", "safetensors", "PIL"),
}
HIGHER_ROOMS = {"mtcae_dfer", "hub_dataset", "training"}
# Calls that only make a value; anything else at import time might read, write or ask the network.
HARMLESS_CALLS = {
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


@pytest.mark.parametrize("path", DATASET_MODULES, ids=lambda path: path.name)
def test_the_data_set_does_not_know_the_training(path: Path) -> None:
    assert [module for module, _ in imports(path) if "training" in module] == []


def test_root_modules_have_no_import_circle() -> None:
    below = {path.stem: {module for module, level in imports(path) if level == 1} for path in ROOT_MODULES}
    while below:
        free = [name for name, needed in below.items() if not needed & below.keys()]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]


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
