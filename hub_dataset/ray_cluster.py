"""Work on a Ray cluster: rows handed out by Ray Data to actors, each of which holds what it needs for all of them.

Every machine of the cluster needs this package and sees files under the same paths (a network drive).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mtcae_dfer.hub_dataset.clips import DatasetError


@dataclass(frozen=True)
class RayPlan:
    """Where work is done, and how it is handed out."""

    work: str  # what is done, for messages ("Labelling")
    rows_per_task: int  # enough to hide a task's costs, few enough to lose little with a machine
    workers: int | None = None  # actors; None: as many as the cluster has processors or accelerators
    address: str | None = None  # of a running cluster ("auto", "ray://host:10001"); None starts and stops one here
    device: str = "cpu"  # with another one each actor takes a whole accelerator
    in_order: bool = True  # results come in the order of the rows, and not as they are ready


def map_on_ray(
    rows: Sequence[dict[str, Any]], worker: type, arguments: tuple[Any, ...], plan: RayPlan
) -> Iterator[dict[str, Any]]:
    """Lets actors turn rows into rows.

    Args:
        rows: of plain values.
        worker: a class; an instance is called with the columns of some rows, and returns a table of new rows.
        arguments: of the worker's constructor; every machine gets them once.
        plan: where and how.

    Raises:
        ImportError: Ray is not installed.
        DatasetError: the cluster cannot be reached, or the work failed there.
    """
    if not rows:
        return
    ray = import_ray()
    with _cluster(ray, plan):
        try:
            yield from _mapped_rows(ray, rows, worker, arguments, plan)
        except ray.exceptions.RayError as error:
            raise DatasetError(
                f"{plan.work} on Ray stopped ({_last_line(error)}): start again; what is finished is kept."
            ) from error


class _Actor:
    """A worker of the cluster, made from arguments that are kept once a machine."""

    def __init__(self, worker: type, held: Any) -> None:
        import ray

        self.work = worker(*ray.get(held))

    def __call__(self, batch: dict[str, Any]) -> Any:
        return self.work(batch)


def _mapped_rows(
    ray: Any, rows: Sequence[dict[str, Any]], worker: type, arguments: tuple[Any, ...], plan: RayPlan
) -> Iterator[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = plan.in_order
    context.enable_progress_bars = False  # the caller has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    needs = {"num_cpus": 1} if plan.device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
    resource = "CPU" if plan.device == "cpu" else "GPU"
    workers = plan.workers or max(1, int(ray.cluster_resources().get(resource, 1)))
    tasks = -(-len(rows) // plan.rows_per_task)
    mapped = ray.data.from_items(list(rows), override_num_blocks=tasks).map_batches(
        _Actor,
        fn_constructor_args=(worker, ray.put(arguments)),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, tasks)),
        **needs,
    )
    yield from mapped.iter_rows()


@contextmanager
def _cluster(ray: Any, plan: RayPlan) -> Iterator[None]:
    """A connection to the cluster; one that the caller made already is used and left alone."""
    if ray.is_initialized():
        yield
        return
    own = {"include_dashboard": False, "num_cpus": plan.workers}
    settings = own if plan.address is None else {"address": plan.address}
    try:
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.RayError, ValueError) as error:
        where = plan.address or "on this machine"
        raise DatasetError(f"The Ray cluster {where} is not there ({_last_line(error)}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        ImportError: Ray is not installed; the message says how to install it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; nothing leaves the cluster
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('The engine "ray" needs Ray, which is not installed: pip install -e ".[ray]"') from error
    return ray


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
