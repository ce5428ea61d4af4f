"""Reader for FERV39k: …/Action/Happy/0267.mp4 with 4_setups/All_scenes/train_All.csv, as its archive names them."""

from __future__ import annotations

import os
import re

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS
from mtcae_dfer.hub_dataset.corpora.official_lists import (
    find_lists_folder,
    match_clips,
    read_official_lists,
    read_pairs,
)
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading, corpus_videos, refuse_other_corpus

EXPECTED = "FERV39k's videos, such as Action/Happy/0267.mp4, and its folder 4_setups"
LIST_PLACES = ("4_setups/All_scenes", "*/4_setups/All_scenes", "All_scenes")

CLASSES = EXPRESSIONS[:7]  # positions are class ids
EXPRESSION_OF_LABEL = {
    "Happy": "happiness",
    "Sad": "sadness",
    "Neutral": "neutral",
    "Angry": "anger",
    "Surprise": "surprise",
    "Disgust": "disgust",
    "Fear": "fear",
}
OFFICIAL_SIZES = {"fold_1": (31088, 7847)}  # training and test clips
OFFICIAL_COUNTS = dict(zip(CLASSES, (9748, 7327, 6916, 7393, 2111, 2300, 3140), strict=True))

_PATH = re.compile(rf"(?:.*/)?([^/]+)/({'|'.join(EXPRESSION_OF_LABEL)})/(\d+)\.\w+")


def read_ferv39k(source: str | os.PathLike, lists: str | os.PathLike | None = None) -> CorpusReading:
    """Reads FERV39k.

    Args:
        source: the folder above the scenes; further folders in between do not matter.
        lists: the folder with train_All.csv and test_All.csv; None searches 4_setups/All_scenes in the source.

    Returns:
        The clips that the lists name, with unknown subjects and the attributes key ("Action/Happy/0267") and scene.

    Raises:
        DatasetError: the folder does not hold this corpus, or the lists are not there, damaged or contradictory.
    """
    names = corpus_videos(source, EXPECTED)
    folder = find_lists_folder(source, lists, LIST_PLACES)
    files = {"fold_1": (folder / "train_All.csv", folder / "test_All.csv")}
    reading = match_clips(
        source,
        names,
        _parse,
        read_official_lists(files, read_pairs, EXPRESSION_OF_LABEL),
        CLASSES,
        "FERV39k's expression of each clip, from its official lists of all scenes. They divide clips, not people: the "
        "same person can stand in several splits.",
        OFFICIAL_SIZES,
        OFFICIAL_COUNTS,
    )
    if not reading.clips:
        refuse_other_corpus(source, EXPECTED, names)
    return reading


def _parse(name: str) -> tuple[str, dict[str, str]] | str:
    match = _PATH.fullmatch(name)
    if match is None:
        return "not SCENE/EXPRESSION/NUMBER"
    scene, expression, number = match.groups()
    return f"{scene}/{expression}/{number}", {"scene": scene}
