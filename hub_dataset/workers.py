"""Fresh processes that share the work of a call."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from mtcae_dfer.hub_dataset.clips import DatasetError, OptionError

ENGINES = ("processes", "ray")  # what works side by side: processes of this machine, or a Ray cluster


def available_processors() -> int:
    """How many processors this process may use: of a shared machine perhaps a few."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ScriptlessProcess(SpawnProcess):
    """A fresh process that does not import the calling script: one without a guard would begin its work anew in it."""

    def start(self) -> None:
        """Starts the process. What it is told of the script is read from these two names of the main module."""
        main = vars(sys.modules["__main__"])
        hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            super().start()
        finally:
            main.update({"__spec__": None} | hidden)


class ScriptlessContext(SpawnContext):
    """Of `ScriptlessProcess`es."""

    Process = ScriptlessProcess


@contextmanager
def worker_pool(
    workers: int, work: str, start: Callable[..., None], start_arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes: a forked copy of one in which torch or OpenCV run threads can hang.

    They import the calling script only where an argument is of a class that it defines. That script then needs the
    usual `if __name__ == "__main__":` guard.

    Args:
        workers: number of processes.
        work: what they do, for messages ("labelling").
        start: called once in every process, with `start_arguments`.
        start_arguments: see `start`.

    Raises:
        DatasetError: a process died.
    """
    needs_script = any(type(argument).__module__ == "__main__" for argument in start_arguments)
    # A fresh process that imports the script and so runs into this call again, for want of a guard, ends without a
    # word: the calling one tells what to do.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
    executor = ProcessPoolExecutor(
        workers,
        mp_context=SpawnContext() if needs_script else ScriptlessContext(),
        initializer=_start,
        initargs=(start, start_arguments),
    )
    try:
        yield executor
    except BrokenProcessPool as error:
        guard = 'The script needs `if __name__ == "__main__":` round this call, because each process imports it. '
        raise DatasetError(
            f"A {work} process died. {guard if needs_script else ''}Memory may have run out: start again, with fewer "
            "workers (what is finished is kept)."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C is the calling process's to handle: it lets the workers finish what they have and stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    caller = multiprocessing.parent_process()
    assert caller is not None

    def end_with_the_caller() -> None:
        caller.join()
        os._exit(1)

    # The workers hold the pool's pipes open among themselves: those of a killed caller would wait for work, and keep
    # their memory, for ever.
    threading.Thread(target=end_with_the_caller, daemon=True).start()
    start(*arguments)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, as the workers do: sums come out the same to the last bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_engine(engine: str, ray_address: str | None, workers: int | None = None) -> None:
    """Raises a DatasetError for an unknown engine, the address of a cluster that is not asked for, or no workers."""
    if engine not in ENGINES:
        raise DatasetError(f"Engine {engine!r} is unknown: choose one of {', '.join(ENGINES)}.")
    if ray_address is not None and engine != "ray":
        raise DatasetError("A Ray address was given, but not the engine 'ray': add it, or leave out the address.")
    if workers is not None and workers < 1:
        raise OptionError("workers", workers, "must be at least 1")


def check_device(device: str) -> None:
    """Refuses a device that torch does not know, or that is not here.

    Raises:
        OptionError: with torch's reason.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name; an accelerator that is not there
        reason = str(error).strip().splitlines()[0]
        raise OptionError("device", device, f"cannot be used here ({reason}); cpu is always there") from error
