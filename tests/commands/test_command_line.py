"""The door itself: quick and light until a command is known, one spelling of options, one translation of errors."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtcae_dfer.commands import command_line
from mtcae_dfer.commands.command_line import COMMANDS, Command, main, parse_command

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "torchao", "matplotlib", "numpy", "mtcae_dfer")
# Nothing of these helps to predict a clip: training, tables, charts, pages and clusters wait until they are asked for.
NOT_TO_PREDICT = (
    *("datasets", "pyarrow", "pandas", "evaluate", "scipy", "sklearn"),
    *("matplotlib", "gradio", "ray", "onnx", "onnxruntime", "tensorboard", "IPython"),
)
LISTEN = """
import sys
try:
    {work}
finally:
    print(*[name for name in sys.modules if name in {heavy}], file=sys.stderr)
"""
DOOR = "from mtcae_commands.command_line import main; status = main({words})"


def in_a_process(folder: Path, program: str, *words: str) -> subprocess.CompletedProcess:
    """Runs a program that has the door as it is installed, as a package of its own, and what else is in `folder`."""
    (folder / "mtcae_commands").symlink_to(ROOT / "commands")
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True)


def in_a_process_that_lists_heavy_modules(
    folder: Path, *words: str, heavy: tuple[str, ...] = HEAVY
) -> subprocess.CompletedProcess:
    """The door, which tells at last which heavy modules are loaded."""
    return in_a_process(folder, LISTEN.format(work=DOOR.format(words="sys.argv[1:]"), heavy=heavy), *words)


@pytest.mark.parametrize(
    "words", [["--help"], ["predict", "--help"], ["ablate", "--help"], ["push"], ["predict", "--top-k", "many"]]
)
def test_help_and_wrong_options_load_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    process = in_a_process_that_lists_heavy_modules(tmp_path, *words)
    assert process.returncode == (0 if "--help" in words else 2)
    assert process.stderr.splitlines()[-1] == ""
    assert ("usage: mtcae" in process.stdout) == ("--help" in words)


def test_a_prediction_loads_nothing_that_it_does_not_use(small_corpus: Path, tmp_path: Path) -> None:
    clip = str(sorted((small_corpus / "videos").rglob("*.mp4"))[0])
    words = ["predict", clip, "--output-dir", str(tmp_path / "out"), "--workers", "1", "--people", "all"]
    process = in_a_process_that_lists_heavy_modules(tmp_path, *words, heavy=NOT_TO_PREDICT)
    assert process.returncode == 0, process.stderr
    # Where SciPy is installed, transformers loads it by itself.
    (tmp_path / "transformers alone").mkdir()
    imports = LISTEN.format(work="import transformers.modeling_utils", heavy=NOT_TO_PREDICT)
    alone = in_a_process(tmp_path / "transformers alone", imports).stderr.splitlines()[-1]
    assert set(process.stderr.splitlines()[-1].split()) == set(alone.split())


def test_what_a_command_imports_is_never_searched_for_garbage(tmp_path: Path) -> None:
    told = "print(status, gc.isenabled(), gc.get_freeze_count() > 100_000)"
    program = f"import gc; {DOOR.format(words='')}; {told}"
    process = in_a_process(tmp_path, program, "predict", "none.mp4")
    assert process.stdout.splitlines()[-1] == "1 True True", process.stderr


def test_a_broken_installation_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mtcae_dfer").mkdir()
    (tmp_path / "mtcae_dfer" / "__init__.py").write_text("import no_such_package\n")
    process = in_a_process(tmp_path, DOOR.format(words=""), "predict", "a.mp4")
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert "cannot be imported (No module named 'no_such_package')" in process.stderr


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n    {name}" in listed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_hyphens_alone(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        parse_command(name, ["--help"])
    assert left.value.code == 0
    words = capsys.readouterr().out.replace(",", " ").replace("[", " ").split()
    assert f"mtcae {name}" in " ".join(words)
    assert [word for word in words if word.startswith("--") and "_" in word] == []


def test_underscores_are_understood() -> None:
    options = parse_command("predict", ["a.mp4", "--hop_seconds=0.5", "--window_seconds", "1", "--csv", "a_b.csv"])
    assert (options.hop_seconds, options.window_seconds, options.csv) == (0.5, 1.0, "a_b.csv")


def test_options_of_the_runs_reach_them_in_their_own_spelling() -> None:
    words = ["--output-dir", "out", "--num-train-epochs", "3", "--learning_rate=0.1", "--tasks", "a-b"]
    options = parse_command("cross-validate", words)
    assert options.output_dir == "out"
    assert options.run_words == ["--num_train_epochs", "3", "--learning_rate=0.1", "--tasks", "a-b"]


def test_choices_of_the_door_are_those_of_the_rooms() -> None:
    from mtcae_dfer.experiments import compare
    from mtcae_dfer.hub_dataset.workers import ENGINES
    from mtcae_dfer.inference.answers import ENDINGS
    from mtcae_dfer.release import export
    from mtcae_dfer.timeline_windows import PEOPLE

    choices = {}
    for name in ("predict", "compare", "export"):
        parser = argparse.ArgumentParser()
        __import__(f"mtcae_dfer.commands.{name}", fromlist=["add_arguments"]).add_arguments(parser)
        choices |= {(name, action.dest): action.choices for action in parser._actions if action.choices}
    assert choices == {
        ("predict", "people"): PEOPLE,
        ("predict", "each"): tuple(ENDINGS),
        ("predict", "engine"): ENGINES,
        ("compare", "size"): compare.SIZES,
        ("export", "format"): export.FORMATS,
        ("export", "dtype"): export.DTYPES,
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\n  b"), "mtcae: error: a b"),
        (ImportError("install it"), "mtcae: error: install it"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "mtcae: error: out of memory: lower"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error: Exception, told: str, monkeypatch, capsys) -> None:
    assert run_a_command_that_raises(error, monkeypatch) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(told)


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        run_a_command_that_raises(RuntimeError("a fault"), monkeypatch)


def test_a_stopped_command_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run_a_command_that_raises(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "\nStopped. Go on with the same command.\n"


def run_a_command_that_raises(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(options: argparse.Namespace) -> int:
        raise error

    command = Command("push", "stands for any command", when_stopped="Go on with the same command.")
    monkeypatch.setitem(command_line.COMMANDS, "failing", command)
    monkeypatch.setattr(command_line, "parse_command", lambda name, words: argparse.Namespace(run=run))
    return main(["failing"])
