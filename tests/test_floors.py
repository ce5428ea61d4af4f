"""Which way things flow: a room uses only rooms on lower floors, and importing does nothing but define."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOT_MODULES = sorted(path for path in ROOT.glob("*.py") if path.name != "__init__.py")
DATASET_MODULES = sorted((ROOT / "hub_dataset").glob("*.py"))
REMOTE_CODE_MAY_IMPORT = {"transformers", "torch", "torchvision", "numpy", "av", "huggingface_hub", "PIL"}
STANDARD_LIBRARY = __import__("sys").stdlib_module_names
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, relative level) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def guarded_imports(path: Path) -> set[str]:
    """Packages imported inside a `try`, which a user need not have."""
    tries = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Try)]
    nodes = [inner for outer in tries for inner in ast.walk(outer)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {
        name.split(".")[0] for name in names + [node.module or "" for node in nodes if type(node) is ast.ImportFrom]
    }


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda path: path.name)
def test_root_modules_import_each_other_flat_and_nothing_above_them(path: Path) -> None:
    allowed = REMOTE_CODE_MAY_IMPORT | set(STANDARD_LIBRARY) | guarded_imports(path)
    for module, level in imports(path):
        if level:
            assert level == 1 and (ROOT / f"{module}.py").is_file(), f"from {'.' * level}{module}"
        else:
            assert module.split(".")[0] in allowed, module


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
