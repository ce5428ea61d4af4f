"""Reader for DFEW: Clip/original/1.mp4 with EmoLabel_DataSplit/train(single-labeled)/set_1.csv, as its archive unpacks.

Of 16,372 clips of films, the official lists name the 11,697 to which one of seven emotions could be given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS
from mtcae_dfer.hub_dataset.corpora.folder import read_rows
from mtcae_dfer.hub_dataset.corpora.official_lists import find_lists_folder, match_clips, read_official_lists
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading, corpus_videos, file_stem, refuse_other_corpus

EXPECTED = "DFEW's videos, such as Clip/original/1.mp4, and its folder EmoLabel_DataSplit"
LIST_PLACES = ("EmoLabel_DataSplit", "*/EmoLabel_DataSplit")

CLASSES = EXPRESSIONS[:7]  # positions are class ids
EXPRESSION_OF_LABEL = {
    "1": "happiness",
    "2": "sadness",
    "3": "neutral",
    "4": "anger",
    "5": "surprise",
    "6": "disgust",
    "7": "fear",
}
OFFICIAL_SIZES = {  # training and test clips
    "fold_1": (9356, 2341),
    "fold_2": (9356, 2341),
    "fold_3": (9357, 2340),
    "fold_4": (9358, 2339),
    "fold_5": (9361, 2336),
}
OFFICIAL_COUNTS = dict(zip(CLASSES, (2669, 2445, 1894, 2173, 902, 145, 1469), strict=True))


def read_dfew(source: str | os.PathLike, lists: str | os.PathLike | None = None) -> CorpusReading:
    """Reads DFEW.

    Args:
        source: the folder above the clips; further folders in between do not matter. A clip's file name is its number.
        lists: the folder EmoLabel_DataSplit; None searches it in the source.

    Returns:
        The clips that the lists name, with unknown subjects and the attribute key (the clip's number in five digits).

    Raises:
        DatasetError: the folder does not hold this corpus, or the lists are not there, damaged or contradictory.
    """
    names = corpus_videos(source, EXPECTED)
    folder = find_lists_folder(source, lists, LIST_PLACES)
    files = {
        fold: tuple(folder / f"{split}(single-labeled)" / f"set_{fold[-1]}.csv" for split in ("train", "test"))
        for fold in OFFICIAL_SIZES
    }
    reading = match_clips(
        source,
        names,
        _parse,
        read_official_lists(files, _read_list, EXPRESSION_OF_LABEL),
        CLASSES,
        "DFEW's single label of ten annotators, from its official lists. They divide clips, not people: the same actor "
        "can stand in several splits.",
        OFFICIAL_SIZES,
        OFFICIAL_COUNTS,
    )
    if not reading.clips:
        refuse_other_corpus(source, EXPECTED, names)
    return reading


def _read_list(file: Path) -> Iterator[tuple[str, str, str]]:
    for place, row in read_rows(file, ("video_name", "label")):
        yield place, row["video_name"].zfill(5), row["label"]


def _parse(name: str) -> tuple[str, dict[str, str]] | str:
    stem = file_stem(name)
    return (stem.zfill(5), {}) if stem.isascii() and stem.isdigit() else "not a number"
