"""Which protocol a data set is trained and tested by, and the rows of its folds.

A built data set carries the protocol that it was built with. Another one divides the same clips anew: one of the kinds
of `folds.make_protocol`, or a JSON file with lists of subjects, which is checked for leaks before anything is trained.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, DatasetError, OptionError
from mtcae_dfer.hub_dataset.folds import KINDS_OF_PARTS, OFFICIAL, SPLITS, Fold, Protocol, make_protocol, split_kinds
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset, protocol_name

if TYPE_CHECKING:
    from datasets import DatasetDict

AS_BUILT = "as-built"


def resolve_protocol(dataset_dir: str | os.PathLike, wanted: str | None = None) -> Protocol:
    """The protocol to train and test a data set by, checked.

    Args:
        dataset_dir: folder of a built data set.
        wanted: None or "as-built": the one it was built with; a kind of `make_protocol`, with the number of folds
            behind a colon where it is "folds" ("folds:5", "leave-one-subject-out", "mae-dfer"); or a JSON file:
            {"name": ..., "folds": [{"name": ..., "train": [subjects], "validation": [...], "test": [...]}, ...]}.

    Raises:
        DatasetError: the protocol is unknown, damaged, or would leak subjects; see `check_protocol`.
    """
    report = read_build_report(dataset_dir)
    if wanted in (None, AS_BUILT):
        protocol = protocol_from_dict(report.protocol, str(dataset_dir))
    elif wanted.endswith(".json"):
        try:
            values = json.loads(Path(wanted).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{Path(wanted)}: no readable protocol ({error}).") from error
        protocol = protocol_from_dict(values, str(Path(wanted)))
    else:
        kind, _, number = wanted.partition(":")
        corpus = report.options.get("corpus")
        if kind not in split_kinds(corpus) or (number and not (kind == "folds" and number.isdecimal())):
            kinds = ", ".join((AS_BUILT, *split_kinds(corpus)))
            raise DatasetError(f"--protocol {wanted}: must be one of {kinds}, or folds:NUMBER, or a JSON file.")
        clips = [subject for subject, count in report.subject_counts.items() for _ in range(count)]
        counts = {"num_folds": int(number)} if number else {}
        try:
            protocol = make_protocol(clips, kind, corpus=corpus, **counts)
        except OptionError as error:
            raise DatasetError(f"--protocol {wanted}: {error.rule}") from error
    check_protocol(protocol, report.subject_counts)
    return protocol


def load_fold(
    dataset_dir: str | os.PathLike,
    wanted: str | None = None,
    fold: str | None = None,
    videos: str | os.PathLike | None = None,
) -> DatasetDict:
    """The rows of one fold of a protocol: train, validation and test, as far as they hold clips.

    Args:
        dataset_dir: folder of a built data set.
        wanted: see `resolve_protocol`.
        fold: name of a fold; None takes the first.
        videos: folder of the corpus's videos, for a data set of labels without videos.

    Raises:
        DatasetError: as `resolve_protocol` and `load_multitask_dataset`; or the fold is unknown.
    """
    if wanted in (None, AS_BUILT):
        return load_multitask_dataset(dataset_dir, fold, videos=videos)
    from datasets import DatasetDict, concatenate_datasets

    protocol = resolve_protocol(dataset_dir, wanted)
    if protocol.kind == OFFICIAL:
        raise DatasetError(f"Official lists divide {dataset_dir} when it is built (`--splits {OFFICIAL}`), not here.")
    chosen = find_fold(protocol, fold)
    # Every fold of a data set holds all of its clips.
    rows = concatenate_datasets(list(load_multitask_dataset(dataset_dir, videos=videos).values()))
    positions: dict[str, list[int]] = {split: [] for split in SPLITS}
    for position, subject in enumerate(rows["subject"]):
        if subject in chosen.train + chosen.validation + chosen.test:
            positions[chosen.split_of(subject)].append(position)
    return DatasetDict({split: rows.select(kept) for split, kept in positions.items() if kept})


def find_fold(protocol: Protocol, fold: str | None) -> Fold:
    """A fold by its name, or by its number from 1; None: the first.

    Raises:
        DatasetError: there is no such fold.
    """
    names = [entry.name for entry in protocol.folds]
    if fold is None:
        return protocol.folds[0]
    if fold in names:
        return protocol.folds[names.index(fold)]
    if fold.isdecimal() and 1 <= int(fold) <= len(names):
        return protocol.folds[int(fold) - 1]
    raise DatasetError(f"There is no fold {fold!r}: {protocol.name} has {', '.join(names)}.")


def fold_title(dataset_dir: str | os.PathLike, wanted: str | None = None, fold: str | None = None) -> str:
    """Name of a protocol, with the fold where it has several; belongs beside every result. Errors as `load_fold`."""
    if wanted in (None, AS_BUILT):
        return protocol_name(dataset_dir, fold)
    protocol = resolve_protocol(dataset_dir, wanted)
    chosen = find_fold(protocol, fold)
    return protocol.name if len(protocol.folds) == 1 else f"{protocol.name}, {chosen.name}"


def check_protocol(protocol: Protocol, subjects: Iterable[str]) -> None:
    """Refuses a protocol whose figures would say less than they seem to.

    Args:
        protocol: to be checked.
        subjects: who is seen in the data set.

    Raises:
        DatasetError: a fold lacks a split, a subject stands in two splits of a fold or is tested in two folds, nobody
            knows who is seen in some clips, or a subject is not in the data set.
    """
    # Official lists divide clips of unknown people: their folds list parts of these lists.
    known = None if protocol.kind in KINDS_OF_PARTS else set(subjects)
    for fold in protocol.folds:
        _check_fold(fold, protocol, known)
    tested = Counter(subject for fold in protocol.folds for subject in set(fold.test))
    twice = sorted(subject for subject, count in tested.items() if count > 1)
    if twice:
        folds = [fold.name for fold in protocol.folds if twice[0] in fold.test]
        raise DatasetError(
            f"Protocol {protocol.name!r} tests subject {twice[0]!r} in {' and '.join(folds)}: each subject may be "
            "tested once, or its clips would count twice."
        )


def _check_fold(fold: Fold, protocol: Protocol, subjects: set[str] | None) -> None:
    place = f"Protocol {protocol.name!r}, {fold.name}"
    for split in SPLITS:
        if not getattr(fold, split):
            raise DatasetError(f"{place}: has no {split} subjects, so nothing can be tested on unseen people by it.")
    splits_of = Counter(subject for split in SPLITS for subject in set(getattr(fold, split)))
    leaked = sorted(subject for subject, count in splits_of.items() if count > 1)
    if leaked:
        where = " and ".join(split for split in SPLITS if leaked[0] in getattr(fold, split))
        raise DatasetError(
            f"{place} would leak {len(leaked)} subject(s): {leaked[0]!r} stands in {where}. Each may stand in one."
        )
    if UNKNOWN_SUBJECT in splits_of:
        raise DatasetError(
            f"{place} would leak subjects: nobody knows who is seen in the clips of {UNKNOWN_SUBJECT!r}."
        )
    strangers = sorted(set(splits_of) - subjects) if subjects is not None else []
    if strangers:
        raise DatasetError(f"{place}: subject {strangers[0]!r} is not in the data set.")


def protocol_from_dict(values: Mapping[str, Any], where: str) -> Protocol:
    """A protocol from what `Protocol.to_dict` gives.

    Raises:
        DatasetError: something is missing, or of another kind; the message begins with `where`.
    """
    try:
        folds = tuple(
            Fold(str(fold["name"]), *(tuple(map(str, fold.get(split, ()))) for split in SPLITS))
            for fold in values["folds"]
        )
        protocol = Protocol(str(values["name"]), str(values.get("kind", "file")), folds)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}: is no protocol; it needs a name and folds with name, train, validation, test."
        ) from (error)
    names = [fold.name for fold in protocol.folds]
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"{where}: a protocol needs at least one fold, and a different name for each.")
    return protocol
