"""Reader for MEAD: M003/video/front/happy/level_1/001.mp4, as its archives unpack."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path, PurePosixPath

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, Clip
from mtcae_dfer.hub_dataset.corpora.reading import (
    CorpusReading,
    Recording,
    choose,
    corpus_videos,
    extra_recordings,
    keep_one_per_recording,
    missing_recordings,
    parse_names,
    refuse_other_corpus,
)

EXPECTED = "MEAD's videos, such as M003/video/front/happy/level_1/001.mp4"

CLASSES = EXPRESSIONS  # positions are class ids
EMOTIONS = {
    "neutral": "neutral",
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "fear": "fear",
    "disgusted": "disgust",
    "surprised": "surprise",
    "contempt": "contempt",
}
VIEWS = ("front", "left_30", "left_60", "right_30", "right_60", "top", "down")
LEVELS = (1, 2, 3)  # neutral has level 1 only

ACTOR_COUNT = 48
# Names of released actors; the release has one more, whose name no source at hand gives.
ACTORS = (
    *(f"M{number:03d}" for number in (3, 5, 7, 9, 11, 12, 13, 19, *range(22, 36), 37, 39, 40, 41, 42)),
    *(f"W{number:03d}" for number in (9, 11, 14, 15, 16, 18, 19, 21, 23, 24, 25, 26, 28, 29, 33, 35, 36, 37, 38, 40)),
)
# The paper does not tell which frontal clips these are, so they cannot be chosen, only compared with.
PAPER_COUNTS = {"neutral": 380} | dict.fromkeys(CLASSES[1:], 884)

_PATH = re.compile(r"(?:.*/)?([MW]\d{3})/video/([^/]+)/([^/]+)/level_(\d)/(\d{3})\.\w+")


def read_mead(
    source: str | os.PathLike, views: Sequence[str] = ("front",), levels: Sequence[int] = LEVELS
) -> CorpusReading:
    """Reads MEAD.

    Args:
        source: the folder above M003 … W040; further folders in between do not matter.
        views: cameras to take clips from. Several cameras show the same performance; its subject keeps them in one
            split.
        levels: intensities to take. Neutral has level 1 only.

    Returns:
        Clips whose subject is the actor, such as "M003", and whose attributes are emotion, view, level, number and sex.

    Raises:
        DatasetError: an option is unknown, or the folder does not hold this corpus.
    """
    for view in views:
        choose("view", view, VIEWS)
    for level in levels:
        choose("level", level, LEVELS)
    names = corpus_videos(source, EXPECTED)
    understood, not_understood = parse_names(names, lambda name: _parse(Path(source), name))
    if not understood:
        refuse_other_corpus(source, EXPECTED, names)
    wanted = [
        clip for clip in understood if clip.attributes["view"] in views and int(clip.attributes["level"]) in levels
    ]
    if not wanted:
        refuse_other_corpus(source, f"MEAD's views {', '.join(views)}, levels {', '.join(map(str, levels))}", names)
    passed_over = len(understood) - len(wanted)
    # The official path, ACTOR/video/VIEW/EMOTION/level_N/NNN, wherever it stands in the source.
    clips, repeated = keep_one_per_recording(
        wanted, lambda clip: "/".join(PurePosixPath(clip.name).with_suffix("").parts[-6:])
    )
    folders = {str(PurePosixPath(path).parent) for path in clips}
    actors = {clip.subject for clip in clips.values()}
    # The folders that the release has. How many clips stand in a folder differs there.
    release = [
        Recording(f"{actor}/video/{view}/{emotion}/level_{level}", expression, actor)
        for actor, view, (emotion, expression), level in product(
            sorted(actors | set(ACTORS)), views, EMOTIONS.items(), levels
        )
        if not (emotion == "neutral" and level > 1)
    ]
    lines = missing_recordings([each for each in release if each.subject in actors], folders)
    absent = sorted({each.subject for each in release} - actors)
    counts = [] if len(actors) == ACTOR_COUNT else [f"subjects: {len(actors)} of {ACTOR_COUNT}"]
    if tuple(views) == ("front",) and sorted(levels) == list(LEVELS):
        found = Counter(clip.expression for clip in clips.values())
        differing = (name for name in CLASSES if found[name] != PAPER_COUNTS[name])
        counts += [f"class {name}: {found[name]}, where the paper uses {PAPER_COUNTS[name]}" for name in differing]
    return CorpusReading(
        clips=tuple(sorted(clips.values(), key=lambda clip: clip.name)),
        class_names=CLASSES,
        label_source=(
            f"MEAD, views: {', '.join(views)}; intensity levels: {', '.join(map(str, levels))}. "
            "Labels are the acted emotions that the folders' names give."
        ),
        missing=(*(f"all clips of subject {actor}" for actor in absent), *(f"all clips of {line}" for line in lines)),
        extra=extra_recordings(release, folders),
        repeated=repeated,
        not_understood=not_understood,
        counts=tuple(counts),
        notes=(f"{passed_over} videos are of other views or levels: passed over",) if passed_over else (),
    )


def _parse(folder: Path, name: str) -> Clip | str:
    """The clip, or the reason why its path is not understood."""
    match = _PATH.fullmatch(name)
    if match is None:
        return "not ACTOR/video/VIEW/EMOTION/level_N/NNN.mp4"
    actor, view, emotion, level, number = match.groups()
    if view not in VIEWS:
        return f"view {view} is unknown"
    if emotion not in EMOTIONS:
        return f"emotion {emotion} is unknown"
    if int(level) not in LEVELS:
        return f"level {level} is unknown"
    attributes = {"emotion": emotion, "view": view, "level": level, "number": number}
    attributes["sex"] = "male" if actor[0] == "M" else "female"
    return Clip(folder / name, EMOTIONS[emotion], actor, name, attributes)
