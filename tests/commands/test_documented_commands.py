"""What the documentation tells to type exists: commands, their options, scripts and files."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import COMMANDS, parse_command
from mtcae_dfer.training.arguments import ARGUMENT_GROUPS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_OPTIONS = {field.name for group in ARGUMENT_GROUPS for field in fields(group)}
NAMED_FILE = re.compile(
    r"(?<![\w/.-])((?:hub_dataset|training|inference|experiments|release|commands|tests|benchmarks|examples|docs)/"
    r"[\w/]+\.(?:py|yaml|md|jinja|png))"
)
NAMED_MODULE = re.compile(r"\b(?:python -m|from|import) ((?:mtcae_dfer|tests)(?:\.\w+)+)")


def commands_in(document: Path) -> Iterator[list[str]]:
    """The words of every command in the fenced shell blocks of a document."""
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\|(?=\s)", line):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_and_their_options_exist(document: Path) -> None:
    for words in commands_in(document):
        if words[0] == "mtcae":
            assert words[1] in COMMANDS, words
            parsed = parse_command(words[1], words[2:])  # exits where an option is unknown
            unknown = {word.split("=")[0][2:] for word in getattr(parsed, "run_words", []) if word.startswith("--")}
            assert unknown <= RUN_OPTIONS, words
        if "training/run.py" in words:
            typed = {word.split("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")}
            assert typed <= RUN_OPTIONS | {"config"}, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_files_and_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    # NAME stands for what a reader chooses.
    named = [name for name in NAMED_FILE.findall(text) if "NAME" not in name]
    assert [name for name in named if not (ROOT / name).is_file()] == []
    for module in NAMED_MODULE.findall(text):
        parts = module.removeprefix("mtcae_dfer.").split(".")
        assert (ROOT / "/".join(parts)).with_suffix(".py").is_file() or (ROOT / "/".join(parts)).is_dir(), module


def test_the_badges_say_what_the_package_states() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\[!\[([^:]+): ([^\]]+)\]\(https://img.shields.io/", readme, re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stated = {
        "Python": re.search(r'requires-python = ">=([\d.]+)"', project),
        "transformers": re.search(r'"transformers>=([\d.]+)', project),
        "code": re.search(r'^license = "([^"]+)"', project, re.MULTILINE),
        "weights": re.search(r"\bexpressions.*\| (CC [^|]+) \|$", readme, re.MULTILINE),
    }
    assert told == {
        name: f"{found[1]} or newer" if name in ("Python", "transformers") else found[1]
        for name, found in stated.items()
        if found is not None
    }


def test_the_new_places_of_modules_exist() -> None:
    rows = re.findall(
        r"^\| (`[^|]*) \| (`[^|]*) \|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 60
    for old, new in rows:
        for module in re.findall(r"`([\w.]+)`", new):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), f"{old} -> {module}"
