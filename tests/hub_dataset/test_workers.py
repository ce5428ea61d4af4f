"""Processes that share the work of a call: what becomes of them when the calling one is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CALLER = """
import time
from mtcae_dfer.hub_dataset.workers import worker_pool

with worker_pool(2, "labelling", id, (0,)) as executor:
    for work in [executor.submit(time.sleep, 0.2) for _ in range(4)]:
        work.result()
    print(*executor._processes, flush=True)  # which wait for more
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_killed_caller(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as caller:
        assert caller.stdout is not None
        workers = [Path("/proc") / word for word in caller.stdout.readline().split()]
        assert len(workers) == 2 and all(worker.exists() for worker in workers)
        os.kill(caller.pid, number)
        caller.wait()
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)
