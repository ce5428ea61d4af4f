"""Many videos in one go: which files a folder or a pattern means, and a timeline of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mtcae_dfer.hub_dataset.corpora.folder import VIDEO_SUFFIXES, file_names
from mtcae_dfer.inference.timeline_files import Timeline
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline, describe_failure
from mtcae_dfer.video_reading import VideoReadingError


@dataclass(frozen=True)
class NamedVideo:
    """A video of a study."""

    path: str  # as the folder or pattern gives it
    name: str  # below the folder, or below what of the pattern stands before its first sign; of a file, its own


def find_videos(names: Iterable[str]) -> list[str]:
    """The paths of `name_videos`."""
    return [video.path for video in name_videos(names)]


def name_videos(names: Iterable[str]) -> list[NamedVideo]:
    """The videos that files, folders (with all folders in them) and patterns (`*`, `?`, `[…]`, `**`) mean, each once.

    A name that stands for no video stays as it is: reading it tells what is wrong with it, and the others are read.

    Raises:
        ValueError: a single folder without videos, or a single pattern that nothing matches.
    """
    names = list(names)
    found: dict[str, NamedVideo] = {}  # by real path
    for name in names:
        start, videos = os.path.dirname(name), [name]
        if os.path.isdir(name):
            start, videos = name, [os.path.join(name, each) for each in sorted(file_names(Path(name)))]
        elif not os.path.exists(name) and glob.has_magic(name):
            parts = Path(name).parts
            start = os.path.join("", *takewhile(lambda part: not glob.has_magic(part), parts))
            videos = [each for each in sorted(glob.glob(name, recursive=True)) if os.path.isfile(each)]
        if not videos and len(names) == 1:
            raise ValueError(f"{name}: stands for no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
        for video in videos or [name]:
            below = Path(os.path.relpath(video, start or os.curdir)).as_posix()
            found.setdefault(os.path.realpath(video), NamedVideo(video, below))
    return list(found.values())


@dataclass
class Study:
    """The timelines of several videos by their names, and why those that failed did."""

    timelines: dict[str, Timeline] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)  # {"code", "message"}

    def entries(self) -> list[dict[str, Any]]:
        """For JSON: {"video", …} with the timeline, or with "error" {"code", "message"}; in the order of names."""
        answers = self.timelines | {video: {"error": failure} for video, failure in self.failures.items()}
        return [{"video": video, **answers[video]} for video in sorted(answers)]


def predict_timelines(
    videos: Sequence[str], pipe: FacialExpressionTimelinePipeline, options: dict[str, Any], progress: bool = True
) -> Study:
    """A timeline of each video; one that cannot be read does not stop the others.

    Args:
        videos: paths.
        pipe: of the chosen model.
        options: of the pipeline's call.
        progress: show a bar on standard error.
    """
    study = Study()
    text = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
    bar_options: dict[str, Any] = {"desc": "timeline", "bar_format": text, "disable": not progress}
    with logging_redirect_tqdm(), tqdm(total=float(len(videos)), **bar_options) as bar:
        done = 0

        def show(share: float) -> None:
            """Moves the bar to all videos that are done and a share of the next one."""
            bar.update(done + share - bar.n)

        for video in videos:
            try:
                study.timelines[video] = cast(Timeline, pipe(video, progress=show, **options))
            except VideoReadingError as error:
                study.failures[video] = describe_failure(error)
            done += 1
            show(0.0)
    return study
