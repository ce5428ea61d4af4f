"""How many threads a process computes with, where several runs or processes share the machine."""

import os

from mtcae_dfer.hub_dataset.workers import available_processors

THREADS_VARIABLE = "MTCAE_THREADS"  # threads of one run, where several share the machine


def share_threads(processes: int) -> None:
    """Gives this process its share of the run's threads: `accelerate launch` would leave one to each process."""
    import torch  # not before it is needed: who only starts runs goes without

    threads = int(os.environ.get(THREADS_VARIABLE) or available_processors())
    torch.set_num_threads(max(1, threads // processes))
