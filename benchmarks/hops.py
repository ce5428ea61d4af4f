"""How many functions a reader passes: functions per 1,000 lines, and private helpers that are used once, per room.

    python benchmarks/hops.py              # this checkout
    python benchmarks/hops.py FOLDER       # another one, to compare
    python benchmarks/hops.py --helpers    # names the private helpers used once, the shortest first

Counted are functions and methods (nested ones too) of product code: all `*.py` but tests and benchmarks, with their
blank lines and comments. A private helper is a function or method that begins with one underscore. It is used once
where its name occurs once besides its definition, counted in two ways: in its own module (the stricter one), and in all
product code, where two helpers of one name hide each other. Overrides that other packages call occur nowhere and do not
count. Shares are of all functions.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"tests", "benchmarks", "build", "examples"}
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One definition."""

    name: str
    place: str  # file:line
    uses: int  # in its own module, besides its definition
    body_lines: int  # from the first statement after the docstring to the last


@dataclass
class Room:
    """The product code of one folder, its sub-folders included."""

    lines: int = 0
    functions: list[Function] = field(default_factory=list)


def product_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(room, file) of every module; the modules beside `__init__.py` are the room "root"."""
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).parts
        if parts[0] not in LEFT_OUT and not any(part.startswith(".") for part in parts):
            yield (parts[0] if len(parts) > 1 else "root"), file


def functions_of(tree: ast.Module, file: str) -> Iterator[Function]:
    """All definitions of a module, methods and nested functions included."""
    uses = Counter(names_used(tree))
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            last = body[-1].end_lineno or body[-1].lineno
            yield Function(node.name, f"{file}:{node.lineno}", uses[node.name], last - body[0].lineno + 1)


def names_used(tree: ast.Module) -> Iterator[str]:
    """Every name and attribute that a module reads, and every text that is a name (`getattr`, tables of names)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def measure(folder: Path) -> tuple[dict[str, Room], Counter[str]]:
    """Rooms by name, and how often each name is used in all of them.

    Raises:
        SyntaxError: a module cannot be parsed.
    """
    rooms: dict[str, Room] = {}
    uses: Counter[str] = Counter()
    for room, file in product_files(folder):
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        entry = rooms.setdefault(room, Room())
        entry.lines += text.count("\n")
        entry.functions += functions_of(tree, str(file.relative_to(folder)))
        uses.update(names_used(tree))
    return rooms, uses


def is_private(name: str) -> bool:
    """Whether a function is a helper of its own module."""
    return name.startswith("_") and not name.startswith("__")


def format_row(name: str, room: Room, uses: Counter[str]) -> str:
    """One line of the table."""
    count = len(room.functions)
    private = [function for function in room.functions if is_private(function.name)]
    in_module = sum(function.uses == 1 for function in private)
    anywhere = sum(uses[function.name] == 1 for function in private)
    shares = " | ".join(f"{number} | {100 * number / max(1, count):.1f} %" for number in (in_module, anywhere))
    return f"| {name} | {room.lines:,} | {count} | {1000 * count / max(1, room.lines):.1f} | {shares} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=CHECKOUT)
    parser.add_argument("--helpers", action="store_true", help="name the private helpers used once in their module")
    parsed = parser.parse_args()
    rooms, uses = measure(parsed.folder)
    functions = [function for room in rooms.values() for function in room.functions]
    total = Room(sum(room.lines for room in rooms.values()), functions)
    print("| room | lines | functions | per 1,000 lines | used once in module | share | used once anywhere | share |")
    print("|---|" + "---:|" * 7)
    for name, room in [*sorted(rooms.items()), ("all", total)]:
        print(format_row(name, room, uses))
    if parsed.helpers:
        once = [function for function in functions if is_private(function.name) and function.uses == 1]
        for function in sorted(once, key=lambda function: (function.body_lines, function.place)):
            print(f"{function.body_lines:4d}  {function.place}  {function.name}")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, `head` for one, has enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
