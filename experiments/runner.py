"""Runs named experiments, each in a process of its own, and reads their reports.

What is done is not done again: a folder that holds the report of the same arguments is read, one that holds
checkpoints of the same arguments is resumed. So every command built on this can be killed and started again. The
checkpoints of a finished run are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.workers import available_processors
from mtcae_dfer.training.checkpoints import CHECKPOINTS_FOLDER
from mtcae_dfer.training.evaluation.percents import percent
from mtcae_dfer.training.evaluation.report import REPORT_FILE, Report, load_report
from mtcae_dfer.training.threads import THREADS_VARIABLE

RUN_MODULE = "mtcae_dfer.training.run"
EXPERIMENT_FILE, LOG_FILE, LOCK_FILE = "experiment.json", "log.txt", ".lock"
FRAMES_FOLDER = "frame_cache"  # of all runs, with a folder for each data set
POLLING_SECONDS = 0.2


@dataclass(frozen=True)
class Experiment:
    """One run: a name, and what one would type."""

    name: str  # its folder under the output folder; may contain "/"
    arguments: tuple[str, ...]  # command line of the module, without --output_dir and --resume_from_checkpoint
    module: str = RUN_MODULE  # started by `python -m`; takes --output_dir, --resume_from_checkpoint; writes report.json

    def command(self, folder: Path) -> list[str]:
        """The command line that starts it, or goes on with what a killed one left in its folder."""
        command = [sys.executable, "-m", self.module, *self.arguments, "--output_dir", str(folder)]
        return [*command, "--resume_from_checkpoint", "latest"] if has_checkpoints(folder) else command

    def as_stored(self) -> dict[str, Any]:
        """What experiment.json in its folder holds."""
        return {"module": self.module, "arguments": list(self.arguments)}


@dataclass
class _Running:
    """An experiment whose process works."""

    experiment: Experiment
    process: subprocess.Popen
    place: int  # 0 ... jobs - 1, decides its device
    start: float = field(default_factory=time.perf_counter)


def has_checkpoints(folder: Path) -> bool:
    """Whether a run was begun in this folder."""
    return any((folder / CHECKPOINTS_FOLDER).glob("*"))


def run_experiments(experiments: Sequence[Experiment], output_dir: Path, jobs: int = 1) -> dict[str, Report]:
    """Runs what is not done yet, `jobs` at a time; returns the reports by name, in the order of the experiments.

    Args:
        experiments: with different names.
        output_dir: the folder of every experiment is made in it, with the run's files and log.txt.
        jobs: processes at a time; the machine's threads (and its CUDA devices) are divided among them.

    Raises:
        ValueError: a folder holds a run of other arguments, or runs failed: the message names them, their last line
            and their log. The others are finished by then.
    """
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"experiments need different names, but there are several of {', '.join(twice)}")
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: must be at least 1")
    output_dir = Path(output_dir)
    waiting = [experiment for experiment in experiments if not is_done(experiment, output_dir / experiment.name)]
    if len(waiting) < len(experiments):
        print(f"{len(experiments) - len(waiting)} of {len(experiments)} runs were already done.", flush=True)
    with _termination_interrupts():
        failed = _work_off(waiting, output_dir, jobs, len(experiments))
    if failed:
        raise ValueError(f"{len(failed)} of {len(experiments)} runs failed: {'; '.join(failed)}")
    return {experiment.name: read_result(experiment, output_dir) for experiment in experiments}


def is_done(experiment: Experiment, folder: Path) -> bool:
    """Whether the folder holds this experiment's report.

    Raises:
        ValueError: it holds a run of other arguments.
    """
    finished = (folder / REPORT_FILE).exists()
    if finished or has_checkpoints(folder):
        file = folder / EXPERIMENT_FILE
        if not file.exists() or json.loads(file.read_text(encoding="utf-8")) != experiment.as_stored():
            raise ValueError(
                f"{folder} holds a run of other arguments than these: choose another output folder, or remove this one"
            )
    return finished


def read_result(experiment: Experiment, output_dir: Path) -> Report:
    """The report of a finished experiment; that of another module than `run` is read as it is, without its check."""
    file = Path(output_dir) / experiment.name / REPORT_FILE
    if experiment.module == RUN_MODULE:
        return load_report(file)
    return json.loads(file.read_text(encoding="utf-8"))


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM, by `kill` or a cluster's scheduler, ends the runs as Ctrl-C does; they would go on without a command."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _work_off(waiting: list[Experiment], output_dir: Path, jobs: int, total: int) -> list[str]:
    """Starts experiments as places get free and awaits them; returns a line for each that failed."""
    waiting, done = list(waiting), total - len(waiting)
    running: list[_Running] = []
    failed: list[str] = []
    announced: set[str] = set()  # names of those that wait for another process
    try:
        while waiting or running:
            for ended in [entry for entry in running if entry.process.poll() is not None]:
                running.remove(ended)
                done += 1
                problem = _announce(ended, output_dir, f"[{done}/{total}]")
                failed += [problem] if problem else []
            free = sorted(set(range(jobs)) - {entry.place for entry in running})
            for place in free[: len(waiting)]:
                started = _start(waiting.pop(0), output_dir, place, jobs, announced)
                if isinstance(started, Experiment):
                    waiting.append(started)  # another process works in its folder
                else:
                    running.append(started)
            time.sleep(POLLING_SECONDS)
    finally:
        for entry in running:  # only where we are interrupted
            entry.process.terminate()
            entry.process.wait()
    return failed


def _start(
    experiment: Experiment, output_dir: Path, place: int, jobs: int, announced: set[str]
) -> _Running | Experiment:
    """Starts the process of an experiment; gives the experiment back while another process works in its folder."""
    folder = output_dir / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    with _folder_lock(folder) as lock:
        if lock is None:
            if experiment.name not in announced:
                print(f"{experiment.name}: another process works in {folder}, waiting for it", flush=True)
                announced.add(experiment.name)
            return experiment
        # What an earlier start of the same command left running may have finished meanwhile.
        command = [sys.executable, "-c", ""] if is_done(experiment, folder) else experiment.command(folder)
        named = any(word.split("=")[0] == "--frame_cache" for word in experiment.arguments)
        if experiment.module == RUN_MODULE and not named:
            # It decides no result, so it is not stored. Two data sets of one name have two caches.
            words = dict(pairwise(experiment.arguments))
            digest = hashlib.sha256(str(Path(words.get("--dataset", "")).resolve()).encode()).hexdigest()
            command += ["--frame_cache", str(output_dir / FRAMES_FOLDER / digest[:8])]
        write_json(folder / EXPERIMENT_FILE, experiment.as_stored())
        with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
            # The process inherits the lock and so holds it as long as it lives, even when we are killed.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=_environment(place, jobs), pass_fds=(lock,), close_fds=True
            )
    return _Running(experiment, process, place)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[int | None]:
    """A file descriptor that holds the folder's lock; None where another process holds it."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        held: int | None = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = None
        yield held
    finally:
        os.close(descriptor)


def _environment(place: int, jobs: int) -> dict[str, str]:
    """The environment of one of `jobs` processes: its share of the threads, and its own CUDA device of several."""
    import torch

    threads = str(max(1, available_processors() // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads, THREADS_VARIABLE: threads}
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    else:
        devices = [str(number) for number in range(torch.cuda.device_count())]
    if jobs > 1 and len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    return environment


def _announce(ended: _Running, output_dir: Path, count: str) -> str | None:
    """Prints how an experiment ended; returns a line where it failed."""
    experiment, folder = ended.experiment, output_dir / ended.experiment.name
    minutes = (time.perf_counter() - ended.start) / 60
    if ended.process.returncode == 0 and (folder / REPORT_FILE).exists():
        # What resuming needs, and nobody resumes it: the optimiser states of many large runs would fill a disk.
        shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
        test: Any = read_result(experiment, output_dir).get("test", {})
        summary = "".join(f"{key.upper()} {percent(test[key])} %, " for key in ("uar", "war") if key in test)
        print(f"{count} {experiment.name}: {summary}{minutes:.1f} min", flush=True)
        return None
    problem = f"{experiment.name} ({last_line(folder / LOG_FILE)}; see {folder / LOG_FILE})"
    print(f"{count} {problem} failed after {minutes:.1f} min", file=sys.stderr, flush=True)
    return problem


def last_line(log: Path) -> str:
    """The last line of a log that says something: of a failed run, its error."""
    # Progress bars overwrite themselves by carriage returns.
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
