"""Labelling on a Ray cluster: the same worker as on one machine, its clips handed out by Ray Data.

Every machine of the cluster needs this package and sees the clips under the same paths (a network drive). Only paths
and labels travel; videos are read where they are labelled.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.clips import Clip, DatasetError, LabelledClip
from mtcae_dfer.hub_dataset.labelling.one_machine import ClipLabeller, LabellingOptions
from mtcae_dfer.hub_dataset.labelling.shards import label_table, labelled_from_row

if TYPE_CHECKING:
    import pyarrow as pa

CLIPS_PER_TASK = 16  # long enough to hide a task's costs, short enough to lose little with a machine


def label_clips_on_ray(
    clips: Sequence[Clip],
    options: LabellingOptions,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[LabelledClip]:
    """Labels clips on a Ray cluster, in their order; as `label_clips`.

    Args:
        clips: their paths hold on every machine.
        options: how to label; with a device other than "cpu" each worker takes a whole accelerator.
        workers: number of workers; None: as many as the cluster has processors or accelerators.
        ray_address: of a running cluster ("auto", "ray://host:10001"); None starts one on this machine, and stops it.

    Raises:
        ImportError: Ray is not installed.
        DatasetError: the cluster cannot be reached, or labelling failed there.
    """
    if not clips:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; nothing leaves the cluster
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('The engine "ray" needs Ray, which is not installed: pip install -e ".[ray]"') from error
    with _cluster(ray, workers, ray_address):
        try:
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False  # the build has its own
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            needs: dict[str, Any] = {"num_cpus": 1} if options.device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
            resource = "CPU" if options.device == "cpu" else "GPU"
            workers = workers or max(1, int(ray.cluster_resources().get(resource, 1)))
            tasks = -(-len(clips) // CLIPS_PER_TASK)
            videos = [{"path": os.path.abspath(clip.path), "name": clip.name} for clip in clips]
            labelled = ray.data.from_items(videos, override_num_blocks=tasks).map_batches(
                RayLabeller,
                fn_constructor_args=(options,),
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=min(workers, tasks)),
                **needs,
            )
            for row in labelled.iter_rows():
                yield labelled_from_row(row)
        except ray.exceptions.RayError as error:
            raise DatasetError(
                f"Labelling on Ray stopped ({_last_line(error)}): start again; finished clips are kept."
            ) from error


class RayLabeller:
    """A worker of the cluster: labels the clips of one task."""

    def __init__(self, options: LabellingOptions):
        self.label = ClipLabeller(options)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Labels the videos of a batch with columns `path` and `name`; returns a row for each."""
        videos = zip(batch["path"], batch["name"], strict=True)
        return label_table([self.label(Clip(Path(path), "", "", str(name))) for path, name in videos])


@contextmanager
def _cluster(ray: Any, workers: int | None, address: str | None) -> Iterator[None]:
    """A connection to the cluster; one that the caller made already is used and left alone."""
    if ray.is_initialized():
        yield
        return
    settings = {"include_dashboard": False, "num_cpus": workers} if address is None else {"address": address}
    try:
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.RayError, ValueError) as error:
        raise DatasetError(
            f"The Ray cluster {address or 'on this machine'} is not there ({_last_line(error)})."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
