"""Running experiments: each once, several at a time, resumed after a kill. A small script stands for a run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtcae_dfer.experiments import runner
from mtcae_dfer.experiments.runner import Experiment, _environment, last_line, run_experiments
from tests.support.made_up_runs import write_run

ACTOR = """
import json, os, sys, time
from pathlib import Path

words = sys.argv[1:]
folder = Path(words[words.index("--output_dir") + 1])
with open(folder / "starts.txt", "a") as starts:
    starts.write(" ".join(words) + chr(10))
(folder / "process.txt").write_text(str(os.getpid()))
if "--fail" in words:
    print("actor: error: no such thing", file=sys.stderr)
    sys.exit(2)
if "--slow" in words and "--resume_from_checkpoint" not in words:
    (folder / "checkpoints" / "epoch-1").mkdir(parents=True)
    time.sleep(60)
end = time.monotonic() + (0.6 if "--wait" in words else 0)
while time.monotonic() < end:
    time.sleep(0.05)
result = {"words": words, "threads": os.environ["OMP_NUM_THREADS"], "ended": time.time()}
(folder / "report.json").write_text(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "actor.py").write_text(ACTOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def act(name: str, *words: str) -> Experiment:
    return Experiment(name, words, module="actor")


def starts(folder: Path) -> list[str]:
    return (folder / "starts.txt").read_text().splitlines()


def test_experiments_run_by_name_and_their_results_come_back_in_order(tmp_path: Path, capsys) -> None:
    results = run_experiments([act("b/fold_1", "--x", "1"), act("a")], tmp_path / "out")
    assert list(results) == ["b/fold_1", "a"]
    assert results["b/fold_1"]["words"] == ["--x", "1", "--output_dir", str(tmp_path / "out" / "b/fold_1")]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["[1/2] b/fold_1", "[2/2] a"]


def test_runs_on_one_data_set_share_decoded_frames_and_two_data_sets_keep_theirs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cache refuses a second data set of its name, and drawn corpora of several seeds have one name.
    monkeypatch.setattr(runner, "RUN_MODULE", "actor")
    sets = {"a": "one/dataset", "b": "two/dataset", "c": "one/dataset"}
    runs = [act(name, "--dataset", folder) for name, folder in sets.items()]
    monkeypatch.setattr(runner, "load_report", lambda file: json.loads(file.read_text()))
    results = run_experiments([*runs, act("d", "--frame_cache", "own")], tmp_path / "out")
    words = [result["words"] for result in results.values()]
    first, second, third, own = (told[told.index("--frame_cache") + 1] for told in words)
    assert first == third != second and own == "own"
    assert Path(first).parent == Path(second).parent == tmp_path / "out" / "frame_cache"


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys) -> None:
    first = run_experiments([act("a"), act("b")], tmp_path / "out")
    assert run_experiments([act("a"), act("b"), act("c")], tmp_path / "out").items() >= first.items()
    assert len(starts(tmp_path / "out" / "a")) == 1
    assert "2 of 3 runs were already done" in capsys.readouterr().out


def test_a_report_of_other_arguments_is_no_result(tmp_path: Path) -> None:
    run_experiments([act("a", "--x", "1")], tmp_path / "out")
    with pytest.raises(ValueError, match="holds a run of other arguments than these: choose another output folder"):
        run_experiments([act("a", "--x", "2")], tmp_path / "out")


def test_jobs_run_at_the_same_time_and_share_the_threads(tmp_path: Path) -> None:
    start = time.time()
    results = run_experiments([act(str(number), "--wait") for number in range(4)], tmp_path / "out", jobs=4)
    alone = run_experiments([act("alone")], tmp_path / "out")
    assert max(result["ended"] for result in results.values()) - start < 4 * 0.6 + 2
    assert {result["threads"] for result in results.values()} == {str(max(1, os.cpu_count() // 4))}
    assert alone["alone"]["threads"] == str(os.cpu_count())


def test_a_failure_is_named_and_the_others_go_on(tmp_path: Path, capsys) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 runs failed: bad \(actor: error: no such thing; see .*log.txt\)"):
        run_experiments([act("bad", "--fail"), act("a"), act("b")], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "report.json").exists() and (tmp_path / "out" / "b" / "report.json").exists()
    assert "bad (actor: error: no such thing" in capsys.readouterr().err


def run_interruptibly(folder: Path) -> None:
    """Where the tests are a background job of a shell, Ctrl-C is ignored, and so it would be in what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_experiments([act("a", "--slow")], folder)


def start_command(folder: Path) -> multiprocessing.Process:
    """A forked process that runs the slow experiment; forked, because importing torch anew takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=run_interruptibly, args=(folder / "out",))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "out" / "a" / "checkpoints" / "epoch-1").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def run_of(folder: Path) -> int:
    """Process id of the slow run."""
    return int((folder / "out" / "a" / "process.txt").read_text())


def test_after_a_kill_of_everything_the_run_is_resumed(tmp_path: Path) -> None:
    command = start_command(tmp_path)
    os.kill(command.pid, signal.SIGKILL)
    os.kill(run_of(tmp_path), signal.SIGKILL)
    command.join()
    run_experiments([act("a", "--slow")], tmp_path / "out")
    assert [line.endswith("--resume_from_checkpoint latest") for line in starts(tmp_path / "out" / "a")] == [
        False,
        True,
    ]


def test_checkpoints_of_finished_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / "out" / "a" / "checkpoints" / "epoch-1").mkdir(parents=True)
    (tmp_path / "out" / "a" / "experiment.json").write_text('{"module": "actor", "arguments": []}')
    run_experiments([act("a")], tmp_path / "out")
    assert not (tmp_path / "out" / "a" / "checkpoints").exists()


def test_a_run_whose_starter_was_killed_is_waited_for(tmp_path: Path, capsys) -> None:
    command = start_command(tmp_path)
    os.kill(command.pid, signal.SIGKILL)
    command.join()
    orphan = run_of(tmp_path)
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1.5); os.kill({orphan}, 9)"])
    run_experiments([act("a", "--slow")], tmp_path / "out")
    killer.wait()
    assert "another process works in" in capsys.readouterr().out
    assert len(starts(tmp_path / "out" / "a")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_or_a_polite_kill_ends_the_runs(number: signal.Signals, tmp_path: Path) -> None:
    command = start_command(tmp_path)
    run = run_of(tmp_path)
    os.kill(command.pid, number)
    command.join(timeout=30)
    assert not command.is_alive()
    assert not Path(f"/proc/{run}").exists()


def test_names_are_different_and_jobs_are_some(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="several of a"):
        run_experiments([act("a"), act("a", "--x")], tmp_path)
    with pytest.raises(ValueError, match="--jobs 0: must be at least 1"):
        run_experiments([act("a")], tmp_path, jobs=0)


def test_the_report_of_a_run_is_checked(tmp_path: Path) -> None:
    experiment = Experiment("a", ("--dataset", "x"))
    write_run(tmp_path / "a", "fold_1")
    (tmp_path / "a" / "experiment.json").write_text(
        '{"module": "mtcae_dfer.training.run", "arguments": ["--dataset", "x"]}'
    )
    assert run_experiments([experiment], tmp_path)["a"]["seed"] == 0
    (tmp_path / "a" / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="no report of a run"):
        run_experiments([experiment], tmp_path)


def test_each_job_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [_environment(place, jobs=3)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == ["4", "6", "4"]
    assert _environment(0, jobs=1)["CUDA_VISIBLE_DEVICES"] == "4,6"


def test_the_last_line_of_a_log_is_read_past_progress_bars(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("start\nTraining: 10%\rTraining: 20%\r\nrun.py: error: no clips\n\n")
    assert last_line(log) == "run.py: error: no clips"
    log.write_text("")
    assert last_line(log) == "no output"


def test_an_error_of_what_a_folder_is_held_for_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="no more processes"), runner._folder_lock(tmp_path):
        raise BlockingIOError("no more processes")
    with runner._folder_lock(tmp_path) as held, runner._folder_lock(tmp_path) as second:
        assert held is not None and second is None
