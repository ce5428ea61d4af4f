"""Reader for MAFW: data/clips/00001.mp4 with Train & Test Set/single/no_caption/set_1/train.txt, as it unpacks.

Of 10,045 clips, the lists of the single-expression set name the 9,172 to which one of eleven emotions could be given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS
from mtcae_dfer.hub_dataset.corpora.official_lists import (
    find_lists_folder,
    match_clips,
    read_official_lists,
    read_pairs,
)
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading, corpus_videos, file_stem, refuse_other_corpus

EXPECTED = "MAFW's videos, such as data/clips/00001.mp4, and its lists single/no_caption/set_1/train.txt"
LIST_PLACES = ("single/no_caption", "*/single/no_caption", "*/*/single/no_caption")

CLASSES = (*EXPRESSIONS, "anxiety", "helplessness", "disappointment")  # positions are class ids
OFFICIAL_SIZES = {  # training and test clips
    "fold_1": (7333, 1839),
    "fold_2": (7335, 1837),
    "fold_3": (7339, 1833),
    "fold_4": (7340, 1832),
    "fold_5": (7341, 1831),
}
OFFICIAL_COUNTS = dict(zip(CLASSES, (1138, 1242, 1470, 1390, 625, 639, 1072, 236, 916, 262, 182), strict=True))


def read_mafw(source: str | os.PathLike, lists: str | os.PathLike | None = None) -> CorpusReading:
    """Reads MAFW's single-expression set.

    Args:
        source: the folder above the clips; further folders in between do not matter. A clip's file name is its number.
        lists: the folder no_caption with set_1 to set_5; None searches it in the source.

    Returns:
        The clips that the lists name, with unknown subjects and the attribute key (the clip's number in five digits).

    Raises:
        DatasetError: the folder does not hold this corpus, or the lists are not there, damaged or contradictory.
    """
    names = corpus_videos(source, EXPECTED)
    folder = find_lists_folder(source, lists, LIST_PLACES)
    files = {
        fold: tuple(folder / f"set_{fold[-1]}" / f"{split}.txt" for split in ("train", "test"))
        for fold in OFFICIAL_SIZES
    }
    reading = match_clips(
        source,
        names,
        _parse,
        read_official_lists(files, _read_list, {name: name for name in CLASSES}),
        CLASSES,
        "MAFW's single expression of eleven annotators, from its official lists. They divide clips, not people: the "
        "same actor can stand in several splits.",
        OFFICIAL_SIZES,
        OFFICIAL_COUNTS,
    )
    if not reading.clips:
        refuse_other_corpus(source, EXPECTED, names)
    return reading


def _read_list(file: Path) -> Iterator[tuple[str, str, str]]:
    for place, clip, label in read_pairs(file):
        yield place, file_stem(clip), label


def _parse(name: str) -> tuple[str, dict[str, str]] | str:
    stem = file_stem(name)
    return (stem, {}) if stem.isascii() and stem.isdigit() else "not a number"
