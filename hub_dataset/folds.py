"""Protocols: which subjects a model learns from, is chosen on, and is tested on.

A subject never stands in two splits of the same fold. Corpora of unknown people come with lists that divide their clips
("official"): there, parts of these lists take the place of subjects. Every protocol has a name, which is stored in the
data set and printed with every result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, Clip, DatasetError, OptionError

SPLITS = ("train", "validation", "test")
SPLIT_KINDS = ("holdout", "folds", "leave-one-subject-out", "none")
SMALLEST_SPLITTABLE = 3  # subjects: one for each split

# The paper that this model comes from tests on five subject-independent folds, and does not publish who is in which.
PAPER = "mtcae-dfer"
PAPER_CORPORA = ("ravdess", "crema-d", "mead")
PAPER_FOLDS = 5

# Divisions of clips that a corpus's owners publish as list files.
OFFICIAL = "official"
OFFICIAL_CORPORA = {"dfew": 5, "ferv39k": 1, "mafw": 5}  # how many folds
GIVEN = "given"  # the splits that the source of the clips itself tells
KINDS_OF_PARTS = (OFFICIAL, GIVEN)  # divide parts of a corpus, not subjects
TRAINING_ONLY = "train"  # stands in place of a fold's name in parts whose clips no fold tests
PARTS_PER_FOLD = 60  # what the validation split is made of

# Published divisions: protocol -> corpus -> first and last tested subject of each fold, in the order of the folds.
PUBLISHED_FOLDS = {
    "mae-dfer": {
        "ravdess": (("01", "04"), ("05", "08"), ("09", "12"), ("13", "16"), ("17", "20"), ("21", "24")),
        "crema-d": (("1001", "1018"), ("1019", "1036"), ("1037", "1054"), ("1055", "1072"), ("1073", "1091")),
    }
}
PROTOCOL_TITLES = {"mae-dfer": "MAE-DFER"}


@dataclass(frozen=True)
class Fold:
    """One division of the subjects (or parts of official lists). Each split lists them in alphabetical order."""

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
    kind: str  # one of split_kinds
    folds: tuple[Fold, ...]

    def to_dict(self) -> dict:
        """As plain lists and dictionaries, for JSON."""
        folds = [{"name": fold.name, **{split: list(getattr(fold, split)) for split in SPLITS}} for fold in self.folds]
        return {"name": self.name, "kind": self.kind, "folds": folds}


def split_kinds(corpus: str | None = None) -> tuple[str, ...]:
    """The ways to divide a corpus (None: any folder of clips); the first is the usual one."""
    if corpus in OFFICIAL_CORPORA:
        return (OFFICIAL, "none")
    paper = (PAPER,) if corpus in PAPER_CORPORA else ()
    return (*paper, *(kind for kind, corpora in PUBLISHED_FOLDS.items() if corpus in corpora), *SPLIT_KINDS)


def divided_units(clips: Iterable[Clip], kind: str) -> list[str]:
    """What a division of this kind keeps in one split, of each clip: its subject, or its part of the official lists."""
    return [clip.part if kind in KINDS_OF_PARTS else clip.subject for clip in clips]


def divide_present(protocol: Protocol, units: Collection[str]) -> Protocol:
    """A protocol of what is there alone: where no clip of a subject could be read, it stands in no split.

    Args:
        protocol: made of all clips of a corpus.
        units: the subjects, or parts of official lists, that have clips.

    Returns:
        The protocol without the others, and without the folds in which nobody is left to be tested. Its name says how
        many were left out; a fold may have lost a whole split (see `emptied_splits`).

    Raises:
        DatasetError: no fold is left.
    """
    folds: list[Fold] = []
    for fold in protocol.folds:
        train, validation, test = (tuple(unit for unit in getattr(fold, split) if unit in units) for split in SPLITS)
        if test or not fold.test:
            folds.append(Fold(fold.name, train, validation, test))
    if not folds:
        raise DatasetError(f"Protocol {protocol.name!r}: no clip of the subjects that it tests could be read.")
    name = protocol.name
    if protocol.kind == "holdout":
        name = name.replace(_sizes(protocol.folds[0]), _sizes(folds[0]))
    absent = set(splits_of_units(protocol)) - set(units)
    if absent:
        name += f", {len(absent)} {_unit(protocol.kind)}(s) without readable clips left out"
        gone = len(protocol.folds) - len(folds)
        name += f" with {gone} of {len(protocol.folds)} folds" if gone else ""
    return Protocol(name, protocol.kind, tuple(folds))


def emptied_splits(protocol: Protocol) -> dict[str, str]:
    """By name of a fold that lists nobody to train on, or nobody to choose by, what it lacks."""
    if protocol.kind == "none":
        return {}
    lacking = {fold.name: [split for split in SPLITS if not getattr(fold, split)] for fold in protocol.folds}
    return {
        name: f"no {_unit(protocol.kind)} of its {' and '.join(splits)} split has a readable clip"
        for name, splits in lacking.items()
        if splits
    }


def count_units(units: Collection[str]) -> str:
    """How many subjects (or parts of official lists) there are, before that word; unknown ones do not count as one."""
    known = len(set(units) - {UNKNOWN_SUBJECT})
    if UNKNOWN_SUBJECT not in units:
        return str(known)
    return f"{known} and unknown" if known else "unknown"


def _unit(kind: str) -> str:
    """What a division of this kind divides."""
    return "part" if kind in KINDS_OF_PARTS else "subject"


def _sizes(fold: Fold) -> str:
    """Numbers of training, validation and test subjects, in the name of a holdout."""
    return f"{len(fold.train)}/{len(fold.validation)}/{len(fold.test)} subjects"


def splits_of_units(protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """For each subject (or part of official lists), its split in every fold."""
    first = protocol.folds[0]
    units = first.train + first.validation + first.test
    return {unit: tuple(fold.split_of(unit) for fold in protocol.folds) for unit in units}


def name_part(fold: str | None, key: str) -> str:
    """The part of an official division in which a clip stands.

    Args:
        fold: name of the fold that tests the clip; None where it trains in all.
        key: the clip's name in the lists. It alone decides on the number, so that lists without one of its neighbours
            put it into the same part.
    """
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % PARTS_PER_FOLD
    return f"{fold or TRAINING_ONLY}/{number:02d}"


def fold_table(
    folds: Sequence[Mapping], counts: Mapping[str, Mapping[str, Mapping[str, int]]], units: str = "subjects"
) -> list[list[str]]:
    """The class balance of every split, as a header and rows of cells.

    Args:
        folds: of `Protocol.to_dict`.
        counts: fold -> split -> class -> clips.
        units: what the splits list.

    Returns:
        Per split that lists anything: fold, split, number of units, clips, clips of each class, shift. The shift is the
        largest difference between a class's share of the split and its share of the whole fold, in percentage points.
    """
    rows = []
    for fold in folds:
        splits = counts[fold["name"]]
        whole = {name: sum(split[name] for split in splits.values()) for name in next(iter(splits.values()))}
        header = ["fold", "split", units, "clips", *whole, "shift"]
        for split, by_class in splits.items():
            if fold[split]:
                size, total = sum(by_class.values()), sum(whole.values())
                shift = max(abs(by_class[name] / size - whole[name] / total) for name in whole) if size else 0.0
                cells = (count_units(fold[split]), size, *by_class.values(), f"{100 * shift:.1f}")
                rows.append([fold["name"], split, *map(str, cells)])
    return [header, *rows]


def make_protocol(
    subjects: Iterable[str],
    kind: str = "holdout",
    seed: int = 0,
    num_folds: int = 5,
    validation_share: float = 1 / 6,
    test_share: float = 1 / 6,
    corpus: str | None = None,
) -> Protocol:
    """Divides subjects into splits. The same arguments give the same division, on every machine.

    Args:
        subjects: the subject of every clip, with repeats; for "official" its part of the lists (see `divided_units`).
        kind: "holdout": one fold "default" of training, validation and test subjects; "folds": `num_folds` folds, every
            subject tested in exactly one; "leave-one-subject-out": one fold per subject; "none": all subjects train;
            "mtcae-dfer": five folds like that paper's; "mae-dfer": that paper's published folds. Published folds of
            which no subject is there are left out. "official": the folds of the corpus's own lists, for corpora of
            unknown people. "given": the splits that the source of the clips tells.
        seed: chooses the division.
        num_folds: for "folds".
        validation_share: share of a fold's training subjects that is held out for validation ("holdout": share of all
            subjects), at least one subject.
        test_share: for "holdout", at least one subject.
        corpus: name of the corpus, for published folds.

    Raises:
        OptionError: too few subjects, unknown subjects, or an argument out of range; `kind` is called `splits` in it,
            as in the options of a build.
        DatasetError: the corpus has no such division, or too few clips for it.
    """
    counts = Counter(subjects)
    if kind != GIVEN and kind not in split_kinds(corpus):
        corpora_of = {name: tuple(corpora) for name, corpora in PUBLISHED_FOLDS.items()}
        corpora_of |= {PAPER: PAPER_CORPORA, OFFICIAL: tuple(OFFICIAL_CORPORA)}
        told = f"exist for {', '.join(corpora_of[kind])} only" if kind in corpora_of else "are unknown"
        raise DatasetError(f"Splits {kind!r} {told}: choose one of {', '.join(split_kinds(corpus))}.")
    if not counts:
        raise DatasetError("There are no clips to divide into splits.")
    if kind == "none":
        return Protocol("no split (training clips only)", kind, (Fold("default", tuple(sorted(counts))),))
    if kind == GIVEN:
        return _given(counts, seed, validation_share)
    if kind == OFFICIAL and corpus is not None:
        return _official(counts, corpus, seed, validation_share)
    if UNKNOWN_SUBJECT in counts:
        told = "tell the subjects, in a CSV file or by a `subject_pattern`, or choose none"
        raise OptionError("splits", kind, f"{counts[UNKNOWN_SUBJECT]} clips have no known subject; {told}")
    if len(counts) < SMALLEST_SPLITTABLE:
        told = f"{len(counts)} subject(s) ({', '.join(sorted(counts))}) cannot be divided into training, validation and"
        raise OptionError("splits", kind, f"{told} test subjects; bring clips of at least 3, or choose none")
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise OptionError(name, share, "must lie between 0 and 1")
    if kind == "holdout":
        return _holdout(counts, seed, validation_share, test_share)
    if kind in PUBLISHED_FOLDS and corpus is not None:
        return _published(counts, kind, corpus, seed, validation_share)
    num_folds = {"folds": num_folds, PAPER: PAPER_FOLDS}.get(kind, len(counts))
    return _cross_validation(counts, kind, seed, num_folds, validation_share)


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
    return Protocol(f"subject-independent holdout (seed {seed}: {_sizes(fold)})", "holdout", (fold,))


def _cross_validation(counts: Counter, kind: str, seed: int, num_folds: int, validation_share: float) -> Protocol:
    if not SMALLEST_SPLITTABLE <= num_folds <= len(counts):
        if kind == "folds":
            rule = f"must be at least {SMALLEST_SPLITTABLE} and at most the number of subjects, {len(counts)}"
            raise OptionError("num_folds", num_folds, rule)
        rule = f"{num_folds} folds are not possible with {len(counts)} subjects; bring clips of more, or choose others"
        raise OptionError("splits", kind, rule)
    # Subjects are dealt to folds of about as many clips: those with most clips first, each to the emptiest fold.
    groups: list[list[str]] = [[] for _ in range(num_folds)]
    clips = [0] * num_folds
    for subject in sorted(_shuffled(counts, seed), key=lambda subject: -counts[subject]):
        emptiest = min(range(num_folds), key=lambda fold: (clips[fold], len(groups[fold])))
        groups[emptiest].append(subject)
        clips[emptiest] += counts[subject]
    folds = tuple(_fold(groups, position, validation_share) for position in range(num_folds))
    names = {
        "folds": f"subject-independent {num_folds}-fold (seed {seed})",
        PAPER: f"MTCAE-DFER's {num_folds} subject-independent folds (lists unpublished: subjects dealt by seed {seed})",
    }
    return Protocol(names.get(kind, "leave-one-subject-out"), kind, folds)


def _published(counts: Counter, kind: str, corpus: str, seed: int, validation_share: float) -> Protocol:
    """Folds whose tested subjects are published; which of the others validate, the seed decides."""
    ranges = PUBLISHED_FOLDS[kind][corpus]
    groups = [[subject for subject in _shuffled(counts, seed) if first <= subject <= last] for first, last in ranges]
    strangers = sorted(set(counts) - {subject for group in groups for subject in group})
    if strangers:
        raise DatasetError(
            f"Subject {strangers[0]!r} is in none of the {kind} folds of {corpus}: leave out its clips, or choose "
            f"other splits ({', '.join(SPLIT_KINDS)})."
        )
    present = [number for number, group in enumerate(groups, 1) if group]
    there = [groups[number - 1] for number in present]
    left = sum(map(len, there)) - max(map(len, there))
    if left < 2:
        raise DatasetError(
            f"A fold of the {kind} folds of {corpus} leaves {left} of {len(counts)} subjects for training and "
            "validation: bring clips of more subjects, or choose other splits."
        )
    folds = tuple(_fold(there, position, validation_share, f"fold_{number}") for position, number in enumerate(present))
    title = f"{PROTOCOL_TITLES[kind]}'s {len(ranges)} folds of {corpus} (validation subjects: seed {seed})"
    left_out = len(ranges) - len(present)
    return Protocol(title + (f", {left_out} of them without subjects left out" if left_out else ""), kind, folds)


def _official(counts: Counter, corpus: str, seed: int, validation_share: float) -> Protocol:
    """The folds that the parts' names tell; which training parts validate, the seed decides."""
    groups: dict[str, list[str]] = {}
    for part in _shuffled(counts, seed):
        groups.setdefault(part.split("/")[0], []).append(part)
    tested = sorted(name for name in groups if name != TRAINING_ONLY)
    ordered = [groups[name] for name in (*tested, TRAINING_ONLY) if name in groups]
    if not tested:
        raise DatasetError(f"No clip is in the test lists of {corpus}: bring its clips, or build without splits.")
    if sum(len(group) for group in ordered) - max(len(groups[name]) for name in tested) < 2:
        raise DatasetError(f"Too few clips are in the training lists of {corpus}: bring more, or build without splits.")
    folds = tuple(_fold(ordered, position, validation_share, name) for position, name in enumerate(tested))
    count = OFFICIAL_CORPORA[corpus]
    title = f"{corpus}'s official {'split' if count == 1 else f'{count} folds'}"
    only = "" if len(folds) == count else f", only {', '.join(tested)}"
    share = f"{validation_share:.0%} of the training clips, drawn by seed {seed}"
    return Protocol(f"{title}{only} (validation: {share})", OFFICIAL, folds)


def _given(counts: Counter, seed: int, validation_share: float) -> Protocol:
    """The splits of the parts: named like them, or as in official lists where validation clips are to be drawn."""
    if set(counts) == set(SPLITS):
        fold = Fold("default", train=("train",), validation=("validation",), test=("test",))
        return Protocol("the source's own splits", GIVEN, (fold,))
    parts = _shuffled(counts, seed)
    tested = [part for part in parts if part.startswith("default/")]
    training = [part for part in parts if part.startswith(f"{TRAINING_ONLY}/")]
    if not tested or len(training) < 2 or len(tested) + len(training) < len(parts):
        raise DatasetError(
            "The source does not tell which of its clips train and which test: choose other splits (--splits holdout "
            "where subjects are known, or none)."
        )
    share = f"{validation_share:.0%} of the training clips, drawn by seed {seed}"
    fold = _fold([tested, training], 0, validation_share, "default")
    return Protocol(f"the source's own split (validation: {share})", GIVEN, (fold,))


def _fold(groups: list[list[str]], position: int, validation_share: float, name: str | None = None) -> Fold:
    """Tests one group; validates on the first subjects of the groups that follow it in a circle; trains on the rest."""
    following = [subject for group in groups[position + 1 :] + groups[:position] for subject in group]
    size = min(max(1, round(validation_share * len(following))), len(following) - 1)
    return Fold(
        name=name or f"fold_{position + 1}",
        train=tuple(sorted(following[size:])),
        validation=tuple(sorted(following[:size])),
        test=tuple(sorted(groups[position])),
    )


def _shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    """Subjects in an order that depends on the seed and the names alone, not on a random generator's version."""
    return sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())
