"""Corpora whose owners divide their clips by list files: one reader, and one description for each such corpus.

Such corpora do not tell who is seen in a clip. Their lists therefore are what makes results comparable; this package
takes them as they are and carves validation clips out of the training lists (see `folds`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, UNKNOWN_SUBJECT, Clip, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_rows
from mtcae_dfer.hub_dataset.corpora.reading import (
    CorpusReading,
    corpus_videos,
    keep_one_per_recording,
    parse_names,
    refuse_other_corpus,
)
from mtcae_dfer.hub_dataset.folds import name_part

# A list file's rows: place for messages, the clip's key, its label as the file spells it.
Rows = Iterable[tuple[str, str, str]]


@dataclass(frozen=True)
class ListedClip:
    """One clip of the lists."""

    expression: str
    tested_in: str | None  # name of the fold whose test list has it; None where every fold trains on it


@dataclass(frozen=True)
class OfficialLists:
    """What the lists of a corpus say."""

    clips: dict[str, ListedClip]  # by key
    sizes: dict[str, tuple[int, int]]  # fold -> number of training and of test clips


@dataclass(frozen=True)
class ListedCorpus:
    """Description of a corpus that comes with list files."""

    expected: str  # the official layout, for messages
    places: tuple[str, ...]  # glob patterns of the lists' folder below the source
    list_files: tuple[str, str]  # training and test list of a fold below that folder, with its number for {fold}
    read_list: Callable[[Path], Rows]  # rows of a list file
    parse: Callable[[str], tuple[str, dict[str, str]] | str]  # a video's key and attributes, or why there are none
    expressions: Mapping[str, str]  # a label as the lists spell it -> expression
    class_names: tuple[str, ...]  # positions are class ids
    label_source: str  # for the card
    sizes: Mapping[str, tuple[int, int]]  # fold -> official numbers of training and test clips
    counts: Mapping[str, int]  # class -> official number of clips

    def read(self, source: str | os.PathLike, lists: str | os.PathLike | None = None) -> CorpusReading:
        """Reads the corpus.

        Args:
            source: the folder above the clips; further folders in between do not matter.
            lists: the folder of the official lists; None searches it in the source.

        Returns:
            The clips that the lists name, with unknown subjects and the attribute key (their name in the lists).

        Raises:
            DatasetError: the folder does not hold this corpus, or the lists are not there, damaged or contradictory.
        """
        names = corpus_videos(source, self.expected)
        folder = self._find_lists(Path(source), lists)
        numbers = {fold: fold.removeprefix("fold_") for fold in self.sizes}
        files = {
            fold: (folder / self.list_files[0].format(fold=number), folder / self.list_files[1].format(fold=number))
            for fold, number in numbers.items()
        }
        official = read_official_lists(files, self.read_list, self.expressions)
        not_listed: list[str] = []

        def as_clip(name: str) -> Clip | str | None:
            parsed = self.parse(name)
            if isinstance(parsed, str):
                return parsed
            key, attributes = parsed
            listed = official.clips.get(key)
            if listed is None:
                not_listed.append(name)
                return None
            part = name_part(listed.tested_in, key)
            attributes = {"key": key, **attributes}
            return Clip(Path(source) / name, listed.expression, UNKNOWN_SUBJECT, name, attributes, part)

        clips, not_understood = parse_names(names, as_clip)
        if not clips:
            refuse_other_corpus(source, self.expected, names)
        kept, repeated = keep_one_per_recording(clips, lambda clip: clip.attributes["key"])
        differences = []
        for fold, wanted in self.sizes.items():
            if fold not in official.sizes:
                differences.append(f"lists of {fold}: none there, left out of the protocol")
            elif official.sizes[fold] != wanted:
                train, test = official.sizes[fold]
                differences.append(f"lists of {fold}: {train} and {test} clips of {wanted[0]} and {wanted[1]}")
        found = Counter(clip.expression for clip in kept.values())
        differing = (name for name, count in self.counts.items() if found[name] != count)
        differences += [f"class {name}: {found[name]} of {self.counts[name]}" for name in differing]
        return CorpusReading(
            clips=tuple(sorted(kept.values(), key=lambda clip: clip.name)),
            class_names=self.class_names,
            label_source=self.label_source,
            missing=tuple(key for key in official.clips if key not in kept),
            repeated=repeated,
            not_understood=not_understood,
            not_listed=tuple(not_listed),
            counts=tuple(differences),
        )

    def _find_lists(self, source: Path, lists: str | os.PathLike | None) -> Path:
        """The folder with the list files: the given one, or the first of the usual places below the source."""
        if lists is not None:
            if not Path(lists).is_dir():
                raise DatasetError(f"{lists}: expected the folder of the official lists, found no folder.")
            return Path(lists)
        for place in self.places:
            for folder in sorted(source.glob(place)):
                if folder.is_dir():
                    return folder
        raise DatasetError(
            f"{source}: found no folder {' or '.join(self.places)} with the official lists: put it there, or name its "
            "folder with --lists."
        )


def read_official_lists(
    files: Mapping[str, tuple[Path, Path]], read: Callable[[Path], Rows], expressions: Mapping[str, str]
) -> OfficialLists:
    """Reads the training and test lists of all folds that are there.

    Args:
        files: fold -> training and test list.
        read: rows of a list file.
        expressions: a label as the files spell it -> expression.

    Raises:
        DatasetError: no fold has both lists, a list cannot be read or has an unknown label, or lists contradict one
            another: a clip that is in two lists of a fold, in none, tested in two folds, or has two labels.
    """
    folds = {fold: pair for fold, pair in files.items() if all(file.is_file() for file in pair)}
    if not folds:
        first = next(iter(files.values()))
        raise DatasetError(f"Expected the official lists {first[0]} and {first[1]}, found no complete pair.")
    labels: dict[str, str] = {}
    tested: dict[str, str] = {}
    listed: dict[str, set[str]] = {}
    for fold, pair in folds.items():
        listed[fold] = set()
        for file in pair:
            keys = _read_list(file, read(file), expressions, labels)
            _refuse(keys & listed[fold], f"{file} and the fold's other list both have the clip")
            listed[fold] |= keys
        _refuse(keys & set(tested), f"{file} tests a clip that another fold tests too:")
        tested |= dict.fromkeys(keys, fold)
    for fold, keys in listed.items():
        _refuse(set(labels) - keys, f"The lists of {fold} ({folds[fold][0].parent}) lack a clip of other folds' lists:")
    counts = Counter(tested.values())
    return OfficialLists(
        clips={key: ListedClip(labels[key], tested.get(key)) for key in sorted(labels)},
        sizes={fold: (len(listed[fold]) - counts[fold], counts[fold]) for fold in folds},
    )


def _read_list(file: Path, rows: Rows, expressions: Mapping[str, str], labels: dict[str, str]) -> set[str]:
    """The keys of one list; adds their expressions to `labels`."""
    keys = set()
    for place, key, label in rows:
        if label not in expressions:
            raise DatasetError(f"{place}: label {label!r} is unknown; known are {', '.join(expressions)}.")
        if labels.setdefault(key, expressions[label]) != expressions[label]:
            raise DatasetError(f"{place}: clip {key} is {expressions[label]}, but {labels[key]} in another row.")
        if key in keys:
            raise DatasetError(f"{place}: clip {key} stands in this list twice.")
        keys.add(key)
    return keys


def _refuse(keys: set[str], what: str) -> None:
    if keys:
        raise DatasetError(f"{what} {min(keys)}: these are not the official lists, fetch them again.")


def read_pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of a list without a header, "CLIP LABEL" with one space between.

    Raises:
        DatasetError: the file cannot be read, or a line is not such a pair.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read as a list of clips: {error}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            words = line.split()
            if len(words) != 2:
                raise DatasetError(f"{file}, line {number}: expected a clip and its label, found {line!r}.")
            yield f"{file}, line {number}", words[0], words[1]


# ---------------------------------------------------------------------------------------------------------------
# The corpora


def _read_numbered_table(file: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of DFEW's tables, with a clip's number in five digits."""
    for place, row in read_rows(file, ("video_name", "label")):
        yield place, row["video_name"].zfill(5), row["label"]


def _read_numbered_pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of MAFW's lists, whose clips have a suffix."""
    for place, clip, label in read_pairs(file):
        yield place, PurePosixPath(clip).stem, label


def _parse_number(name: str) -> tuple[str, dict[str, str]] | str:
    stem = PurePosixPath(name).stem
    return (stem.zfill(5), {}) if stem.isascii() and stem.isdigit() else "not a number"


DFEW = ListedCorpus(
    # Of 16,372 clips of films, the lists name the 11,697 to which one of seven emotions could be given.
    expected="DFEW's videos, such as Clip/original/1.mp4, and its folder EmoLabel_DataSplit",
    places=("EmoLabel_DataSplit", "*/EmoLabel_DataSplit"),
    list_files=("train(single-labeled)/set_{fold}.csv", "test(single-labeled)/set_{fold}.csv"),
    read_list=_read_numbered_table,
    parse=_parse_number,
    expressions={
        "1": "happiness",
        "2": "sadness",
        "3": "neutral",
        "4": "anger",
        "5": "surprise",
        "6": "disgust",
        "7": "fear",
    },
    class_names=EXPRESSIONS[:7],
    label_source=(
        "DFEW's single label of ten annotators, from its official lists. They divide clips, not people: the same actor "
        "can stand in several splits."
    ),
    sizes={
        "fold_1": (9356, 2341),
        "fold_2": (9356, 2341),
        "fold_3": (9357, 2340),
        "fold_4": (9358, 2339),
        "fold_5": (9361, 2336),
    },
    counts=dict(zip(EXPRESSIONS[:7], (2669, 2445, 1894, 2173, 902, 145, 1469), strict=True)),
)

_FERV39K_EXPRESSIONS = {
    "Happy": "happiness",
    "Sad": "sadness",
    "Neutral": "neutral",
    "Angry": "anger",
    "Surprise": "surprise",
    "Disgust": "disgust",
    "Fear": "fear",
}
_FERV39K_PATH = re.compile(rf"(?:.*/)?([^/]+)/({'|'.join(_FERV39K_EXPRESSIONS)})/(\d+)\.\w+")


def _parse_scene(name: str) -> tuple[str, dict[str, str]] | str:
    match = _FERV39K_PATH.fullmatch(name)
    if match is None:
        return "not SCENE/EXPRESSION/NUMBER"
    scene, expression, number = match.groups()
    return f"{scene}/{expression}/{number}", {"scene": scene}


FERV39K = ListedCorpus(
    expected="FERV39k's videos, such as Action/Happy/0267.mp4, and its folder 4_setups",
    places=("4_setups/All_scenes", "*/4_setups/All_scenes", "All_scenes"),
    list_files=("train_All.csv", "test_All.csv"),
    read_list=read_pairs,
    parse=_parse_scene,
    expressions=_FERV39K_EXPRESSIONS,
    class_names=EXPRESSIONS[:7],
    label_source=(
        "FERV39k's expression of each clip, from its official lists of all scenes. They divide clips, not people: the "
        "same person can stand in several splits."
    ),
    sizes={"fold_1": (31088, 7847)},
    counts=dict(zip(EXPRESSIONS[:7], (9748, 7327, 6916, 7393, 2111, 2300, 3140), strict=True)),
)

_MAFW_CLASSES = (*EXPRESSIONS, "anxiety", "helplessness", "disappointment")

MAFW = ListedCorpus(
    # Of 10,045 clips, the lists name the 9,172 to which one of eleven emotions could be given.
    expected="MAFW's videos, such as data/clips/00001.mp4, and its lists single/no_caption/set_1/train.txt",
    places=("single/no_caption", "*/single/no_caption", "*/*/single/no_caption"),
    list_files=("set_{fold}/train.txt", "set_{fold}/test.txt"),
    read_list=_read_numbered_pairs,
    parse=_parse_number,
    expressions={name: name for name in _MAFW_CLASSES},
    class_names=_MAFW_CLASSES,
    label_source=(
        "MAFW's single expression of eleven annotators, from its official lists. They divide clips, not people: the "
        "same actor can stand in several splits."
    ),
    sizes={
        "fold_1": (7333, 1839),
        "fold_2": (7335, 1837),
        "fold_3": (7339, 1833),
        "fold_4": (7340, 1832),
        "fold_5": (7341, 1831),
    },
    counts=dict(zip(_MAFW_CLASSES, (1138, 1242, 1470, 1390, 625, 639, 1072, 236, 916, 262, 182), strict=True)),
)
