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

with worker_pool(1, "labelling", id, (0,)) as executor:
    for work in [executor.submit(time.sleep, 0.2) for _ in range(2)]:
        work.result()
    print(*executor._processes, flush=True)  # which waits for more
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_worker_ends_with_a_killed_caller(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as caller:
        assert caller.stdout is not None
        worker = Path("/proc") / caller.stdout.readline().strip()
        assert worker.name.isdigit() and worker.exists()
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    deadline = time.monotonic() + 30
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.exists()
