"""Labelling on a Ray cluster: the same worker as on one machine, its clips handed out by Ray Data.

Only paths and labels travel; videos are read where they are labelled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.clips import Clip, LabelledClip
from mtcae_dfer.hub_dataset.labelling.one_machine import ClipLabeller, LabellingOptions
from mtcae_dfer.hub_dataset.labelling.shards import label_table, labelled_from_row
from mtcae_dfer.hub_dataset.ray_cluster import RayPlan, map_on_ray

if TYPE_CHECKING:
    import pyarrow as pa

CLIPS_PER_TASK = 16


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
    videos = [{"path": os.path.abspath(clip.path), "name": clip.name} for clip in clips]
    plan = RayPlan("Labelling", CLIPS_PER_TASK, workers, ray_address, options.device)
    for row in map_on_ray(videos, RayLabeller, (options,), plan):
        yield labelled_from_row(row)


class RayLabeller:
    """A worker of the cluster: labels the clips of one task."""

    def __init__(self, options: LabellingOptions):
        self.label = ClipLabeller(options)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Labels the videos of a batch with columns `path` and `name`; returns a row for each."""
        videos = zip(batch["path"], batch["name"], strict=True)
        return label_table([self.label(Clip(Path(path), "", "", str(name))) for path, name in videos])
