"""What the readers of published corpora share: the result of reading, and the comparison with the official release."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mtcae_dfer.hub_dataset.clips import Clip, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import PICTURE_SUFFIXES, file_names, refuse_pointers

LINES_PER_FINDING = 40  # longer lists are shortened where they are printed, never in the reading itself


@dataclass(frozen=True)
class CorpusReading:
    """The clips of a corpus, and how its folder differs from the official release. Lists hold one line per finding."""

    clips: tuple[Clip, ...]  # sorted by name
    class_names: tuple[str, ...]  # classes in the order of their ids, from a fixed list
    label_source: str  # which recordings these are and where their labels come from, for the card
    missing: tuple[str, ...] = ()  # recordings of the release that are not there
    extra: tuple[str, ...] = ()  # recordings that the release does not have; they are among the clips
    repeated: tuple[str, ...] = ()  # further files of a recording that is among the clips; left out
    not_understood: tuple[str, ...] = ()  # videos whose names do not parse or contradict their folder; left out
    not_listed: tuple[str, ...] = ()  # videos that the corpus's official lists do not name; left out
    without_label: tuple[str, ...] = ()  # recordings to which the chosen label source gives no single class; left out
    counts: tuple[str, ...] = ()  # classes and subjects whose number of recordings differs from the release
    notes: tuple[str, ...] = ()  # everything else that a user should know

    def findings(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every kind of finding that is not empty, with its lines."""
        titles = {
            "notes": "notes",
            "counts": "counts that differ from the official release",
            "missing": "missing recordings",
            "extra": "recordings that the official release does not have (kept)",
            "repeated": "repeated recordings (left out)",
            "not_understood": "videos whose names are not this corpus's (left out)",
            "not_listed": "videos that the official lists do not name (left out)",
            "without_label": "recordings without a single label (left out)",
        }
        for name, title in titles.items():
            if getattr(self, name):
                yield title, getattr(self, name)

    def report_lines(self, lines_per_finding: int | None = LINES_PER_FINDING) -> Iterator[str]:
        """The findings as lines of text; of each at most `lines_per_finding` (None: all), and how many more."""
        for title, lines in self.findings():
            yield f"{title} ({len(lines)}):"
            shown = lines[:lines_per_finding]
            yield from (f"  {line}" for line in shown)
            if len(shown) < len(lines):
                yield f"  … and {len(lines) - len(shown)} more"


@dataclass(frozen=True)
class Recording:
    """One recording of an official release."""

    key: str  # its name, the same for every file of the recording
    expression: str
    subject: str


def corpus_videos(source: str | os.PathLike, expected: str) -> list[str]:
    """Sorted paths of all videos below a folder, relative to it, with forward slashes.

    Args:
        source: the corpus's folder.
        expected: the official layout, for messages.

    Raises:
        DatasetError: there is no such folder, or it holds no videos.
    """
    folder = Path(source)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DatasetError(f"{folder}: expected a folder with {expected}, found {found}.")
    names = sorted(file_names(folder))
    if not names:
        pictures = sum(1 for _ in file_names(folder, PICTURE_SUFFIXES))
        if pictures:
            raise DatasetError(
                f"{folder}: expected {expected}, found {pictures} pictures and no videos: `mtcae dataset build stills` "
                "takes single pictures, `mtcae dataset pack-frames` makes videos of folders of frames."
            )
        entries = ", ".join(sorted(entry.name for entry in folder.iterdir())[:3]) or "an empty folder"
        raise DatasetError(f"{folder}: expected {expected}, found no videos ({entries}).")
    refuse_pointers(folder, names)
    return names


def parse_names(names: Iterable[str], parse: Callable[[str], Clip | str | None]) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips of a corpus's videos.

    Args:
        names: paths of the videos below the corpus's folder.
        parse: the clip of a name, the reason why the name is not understood, or None where it is not to be told.

    Returns:
        The clips, and one line for every name that is not understood.
    """
    clips, not_understood = [], []
    for name in names:
        clip = parse(name)
        if isinstance(clip, Clip):
            clips.append(clip)
        elif clip is not None:
            not_understood.append(f"{name}: {clip}")
    return clips, tuple(not_understood)


def refuse_other_corpus(source: str | os.PathLike, expected: str, names: Sequence[str]) -> NoReturn:
    """Raises the error for a folder in which no video has a name of the corpus."""
    raise DatasetError(
        f"{source}: expected {expected}, found {len(names)} videos with other names, such as {names[0]!r}."
    )


def choose(option: str, value: object, choices: Sequence) -> None:
    """Checks an option of a reader.

    Raises:
        DatasetError: the value is none of the choices.
    """
    if value not in choices:
        raise DatasetError(f"{option} {value!r} is unknown: choose one of {', '.join(map(str, choices))}.")


def keep_one_per_recording(
    clips: Iterable[Clip], key: Callable[[Clip], str]
) -> tuple[dict[str, Clip], tuple[str, ...]]:
    """Keeps the first clip of every recording.

    Args:
        clips: in the order of preference.
        key: the recording of a clip.

    Returns:
        Clip of each recording, and one line for every clip that was left out.
    """
    kept: dict[str, Clip] = {}
    repeated = []
    for clip in clips:
        first = kept.setdefault(key(clip), clip)
        if first is not clip:
            repeated.append(f"{clip.name}: the same recording as {first.name}")
    return kept, tuple(repeated)


def missing_recordings(release: Sequence[Recording], present: Iterable[str]) -> tuple[str, ...]:
    """Recordings of a release that are not there; first, in one line each, subjects of whom nothing is there."""
    present = set(present)
    by_subject: dict[str, list[str]] = defaultdict(list)
    for recording in release:
        by_subject[recording.subject].append(recording.key)
    subjects, recordings = [], []
    for subject, keys in by_subject.items():
        absent = [key for key in keys if key not in present]
        if len(absent) == len(keys):
            subjects.append(f"all {len(keys)} recordings of subject {subject}")
        else:
            recordings += absent
    return (*subjects, *recordings)


def extra_recordings(release: Sequence[Recording], present: Iterable[str]) -> tuple[str, ...]:
    """Recordings that a release does not have, in alphabetical order."""
    return tuple(sorted(set(present) - {recording.key for recording in release}))


def count_differences(
    release: Sequence[Recording], found: Sequence[tuple[str, str]], class_names: Sequence[str]
) -> tuple[str, ...]:
    """Lines such as "subject 05: 52 of 60" for every class and subject with another number than the release's.

    Args:
        release: all recordings of the release.
        found: expression and subject of every recording that is there.
        class_names: the order in which classes are named.
    """
    classes = _differences(
        "class", Counter(each.expression for each in release), Counter(pair[0] for pair in found), class_names
    )
    wanted = Counter(each.subject for each in release)
    there = Counter(pair[1] for pair in found)
    return (*classes, *_differences("subject", wanted, there, sorted(wanted | there)))


def _differences(what: str, wanted: Mapping[str, int], there: Mapping[str, int], names: Iterable[str]) -> list[str]:
    differing = (name for name in names if wanted.get(name, 0) != there.get(name, 0))
    return [f"{what} {name}: {there.get(name, 0)} of {wanted.get(name, 0)}" for name in differing]
