"""Protocols: which subjects a model learns from, is chosen on, and is tested on.

A subject never stands in two splits of the same fold. Every protocol has a name, which is stored in the data set and
printed with every result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, DatasetError

SPLITS = ("train", "validation", "test")
SPLIT_KINDS = ("holdout", "folds", "leave-one-subject-out", "none")
SMALLEST_SPLITTABLE = 3  # subjects: one for each split


@dataclass(frozen=True)
class Fold:
    """One division of the subjects. Each split lists its subjects in alphabetical order."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def split_of(self, subject: str) -> str:
        """The split in which a subject stands."""
        for split in SPLITS:
            if subject in getattr(self, split):
                return split
        raise KeyError(f"Subject {subject!r} is in no split of {self.name}.")


@dataclass(frozen=True)
class Protocol:
    """A named list of folds over the same subjects."""

    name: str
    kind: str  # one of SPLIT_KINDS
    folds: tuple[Fold, ...]

    def to_dict(self) -> dict:
        """As plain lists and dictionaries, for JSON."""
        return {"name": self.name, "kind": self.kind, "folds": [_lists(asdict(fold)) for fold in self.folds]}


def make_protocol(
    subjects: Iterable[str],
    kind: str = "holdout",
    seed: int = 0,
    num_folds: int = 5,
    validation_share: float = 1 / 6,
    test_share: float = 1 / 6,
) -> Protocol:
    """Divides subjects into splits. The same arguments give the same division, on every machine.

    Args:
        subjects: the subject of every clip, with repeats.
        kind: "holdout": one fold "default" of training, validation and test subjects; "folds": `num_folds` folds, every
            subject tested in exactly one; "leave-one-subject-out": one fold per subject; "none": all subjects train.
        seed: chooses the division.
        num_folds: for "folds".
        validation_share: share of a fold's training subjects that is held out for validation ("holdout": share of all
            subjects), at least one subject.
        test_share: for "holdout", at least one subject.

    Raises:
        DatasetError: too few subjects, unknown subjects, or an argument out of range.
    """
    counts = Counter(subjects)
    if kind not in SPLIT_KINDS:
        raise DatasetError(f"Splits {kind!r} are unknown: choose one of {', '.join(SPLIT_KINDS)}.")
    if not counts:
        raise DatasetError("There are no clips to divide into splits.")
    if kind == "none":
        return Protocol("no split (training clips only)", kind, (Fold("default", tuple(sorted(counts))),))
    _check_subjects(counts, validation_share, test_share)
    if kind == "holdout":
        return _holdout(counts, seed, validation_share, test_share)
    return _cross_validation(counts, kind, seed, len(counts) if kind != "folds" else num_folds, validation_share)


def _check_subjects(counts: Counter, validation_share: float, test_share: float) -> None:
    if UNKNOWN_SUBJECT in counts:
        raise DatasetError(
            f"{counts[UNKNOWN_SUBJECT]} clips have no known subject, so they cannot be split by subject: tell the "
            "subjects (a CSV file or a pattern), or build without splits (splits 'none')."
        )
    if len(counts) < SMALLEST_SPLITTABLE:
        raise DatasetError(
            f"{len(counts)} subject(s) ({', '.join(sorted(counts))}) cannot be divided into training, validation and "
            "test subjects: bring clips of at least 3 subjects, or build without splits (splits 'none')."
        )
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise DatasetError(f"{name} is {share}, but must lie between 0 and 1.")


def _holdout(counts: Counter, seed: int, validation_share: float, test_share: float) -> Protocol:
    subjects = _shuffled(counts, seed)
    test_size = max(1, round(test_share * len(subjects)))
    validation_size = max(1, round(validation_share * len(subjects)))
    if test_size + validation_size >= len(subjects):
        raise DatasetError(
            f"validation_share {validation_share} and test_share {test_share} leave none of {len(subjects)} subjects "
            "for training: make them smaller."
        )
    fold = Fold(
        name="default",
        train=tuple(sorted(subjects[test_size + validation_size :])),
        validation=tuple(sorted(subjects[test_size : test_size + validation_size])),
        test=tuple(sorted(subjects[:test_size])),
    )
    sizes = f"{len(fold.train)}/{len(fold.validation)}/{len(fold.test)}"
    return Protocol(f"subject-independent holdout (seed {seed}: {sizes} subjects)", "holdout", (fold,))


def _cross_validation(counts: Counter, kind: str, seed: int, num_folds: int, validation_share: float) -> Protocol:
    if not SMALLEST_SPLITTABLE <= num_folds <= len(counts):
        raise DatasetError(
            f"{num_folds} folds are not possible with {len(counts)} subjects: choose between 3 and {len(counts)}."
        )
    groups = _deal(counts, seed, num_folds)
    folds = tuple(_fold(groups, position, validation_share) for position in range(num_folds))
    name = f"subject-independent {num_folds}-fold (seed {seed})" if kind == "folds" else "leave-one-subject-out"
    return Protocol(name, kind, folds)


def _deal(counts: Counter, seed: int, num_folds: int) -> list[list[str]]:
    """Deals subjects to folds of about as many clips: those with most clips first, each to the emptiest fold."""
    groups: list[list[str]] = [[] for _ in range(num_folds)]
    clips = [0] * num_folds
    for subject in sorted(_shuffled(counts, seed), key=lambda subject: -counts[subject]):
        emptiest = min(range(num_folds), key=lambda fold: (clips[fold], len(groups[fold])))
        groups[emptiest].append(subject)
        clips[emptiest] += counts[subject]
    return groups


def _fold(groups: list[list[str]], position: int, validation_share: float) -> Fold:
    """Tests one group; validates on the first subjects of the groups that follow it in a circle; trains on the rest."""
    following = [subject for group in groups[position + 1 :] + groups[:position] for subject in group]
    size = min(max(1, round(validation_share * len(following))), len(following) - 1)
    return Fold(
        name=f"fold_{position + 1}",
        train=tuple(sorted(following[size:])),
        validation=tuple(sorted(following[:size])),
        test=tuple(sorted(groups[position])),
    )


def _shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    """Subjects in an order that depends on the seed and the names alone, not on a random generator's version."""
    return sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())


def _lists(fold: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fold.items()}
