"""Reads the list files with which the owners of a corpus divide its clips into training and test clips.

Such corpora do not tell who is seen in a clip. Their lists therefore are what makes results comparable; this package
takes them as they are and carves validation clips out of the training lists (see `folds`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, Clip, DatasetError
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading, keep_one_per_recording
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


def find_lists_folder(source: str | os.PathLike, lists: str | os.PathLike | None, places: Sequence[str]) -> Path:
    """The folder with the list files: the given one, or the first of the usual places below the source.

    Args:
        source: the corpus's folder.
        lists: the folder that a user named; None searches.
        places: glob patterns below the source.

    Raises:
        DatasetError: there is no such folder.
    """
    if lists is not None:
        if not Path(lists).is_dir():
            raise DatasetError(f"{lists}: expected the folder of the official lists, found no folder.")
        return Path(lists)
    found = [folder for place in places for folder in sorted(Path(source).glob(place)) if folder.is_dir()]
    if not found:
        raise DatasetError(
            f"{source}: found no folder {' or '.join(places)} with the official lists: put it there, or name its "
            "folder with --lists."
        )
    return found[0]


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


def match_clips(
    source: str | os.PathLike,
    names: Iterable[str],
    parse: Callable[[str], tuple[str, dict[str, str]] | str],
    lists: OfficialLists,
    class_names: Sequence[str],
    label_source: str,
    official_sizes: Mapping[str, tuple[int, int]],
    official_counts: Mapping[str, int],
) -> CorpusReading:
    """Gives the videos of a folder the labels and parts that the lists tell.

    Args:
        source: the corpus's folder.
        names: its videos.
        parse: a video's key and attributes, or the reason why its name is not understood.
        lists: the official lists.
        class_names: classes in the order of their ids.
        label_source: for the card.
        official_sizes: numbers of training and test clips of every official fold.
        official_counts: number of clips of each class.
    """
    clips, not_listed, not_understood = [], [], []
    for name in names:
        parsed = parse(name)
        if isinstance(parsed, str):
            not_understood.append(f"{name}: {parsed}")
        elif parsed[0] not in lists.clips:
            not_listed.append(name)
        else:
            clips.append(_clip(Path(source), name, *parsed, lists))
    kept, repeated = keep_one_per_recording(clips, lambda clip: clip.attributes["key"])
    found = Counter(clip.expression for clip in kept.values())
    return CorpusReading(
        clips=tuple(sorted(kept.values(), key=lambda clip: clip.name)),
        class_names=tuple(class_names),
        label_source=label_source,
        missing=tuple(key for key in lists.clips if key not in kept),
        repeated=repeated,
        not_understood=tuple(not_understood),
        not_listed=tuple(not_listed),
        counts=(*_size_differences(lists.sizes, official_sizes), *_class_differences(found, official_counts)),
    )


def _clip(source: Path, name: str, key: str, attributes: dict[str, str], lists: OfficialLists) -> Clip:
    listed = lists.clips[key]
    part = name_part(listed.tested_in, key)
    return Clip(source / name, listed.expression, UNKNOWN_SUBJECT, name, {"key": key, **attributes}, part)


def _size_differences(sizes: Mapping[str, tuple[int, int]], official: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for fold, wanted in official.items():
        if fold not in sizes:
            yield f"lists of {fold}: none there, left out of the protocol"
        elif sizes[fold] != wanted:
            yield f"lists of {fold}: {sizes[fold][0]} and {sizes[fold][1]} clips of {wanted[0]} and {wanted[1]}"


def _class_differences(found: Mapping[str, int], official: Mapping[str, int]) -> Iterator[str]:
    for name, wanted in official.items():
        if found.get(name, 0) != wanted:
            yield f"class {name}: {found.get(name, 0)} of {wanted}"
