"""Fresh processes that share the work of a call."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mtcae_dfer.hub_dataset.clips import DatasetError

ENGINES = ("processes", "ray")  # what works side by side: processes of this machine, or a Ray cluster


@contextmanager
def worker_pool(
    workers: int, work: str, start: Callable[..., None], start_arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes: a forked copy of one in which torch or OpenCV run threads can hang.

    Args:
        workers: number of processes.
        work: what they do, for messages ("labelling").
        start: called once in every process, with `start_arguments`.
        start_arguments: see `start`.

    Raises:
        DatasetError: a process died.
    """
    # A fresh process begins by importing the calling script. Where that runs into this call again, for want of a guard,
    # the process ends without a word: the calling one tells what to do.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(start, start_arguments),
    )
    try:
        yield executor
    except BrokenProcessPool as error:
        raise DatasetError(
            f'A {work} process died. A script needs `if __name__ == "__main__":` round this call, because each '
            "process imports the script; with it, memory may have run out: start again, with fewer workers (what is "
            "finished is kept)."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C is the calling process's to handle: it lets the workers finish what they have and stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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


def check_engine(engine: str, ray_address: str | None) -> None:
    """Raises a DatasetError for an unknown engine, or the address of a cluster that is not asked for."""
    if engine not in ENGINES:
        raise DatasetError(f"Engine {engine!r} is unknown: choose one of {', '.join(ENGINES)}.")
    if ray_address is not None and engine != "ray":
        raise DatasetError("A Ray address was given, but not the engine 'ray': add it, or leave out the address.")
