"""Labels without videos meet the videos again: by file name and SHA-256, in the user's own copy of a corpus."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.files import hash_file, walk_folder

HASHING_THREADS = 4  # hashing releases the interpreter; more threads wait for the disk
NAMES_IN_MESSAGE = 5


@dataclass(frozen=True)
class VideoMatch:
    """Which labelled clips have their video in a folder. Names are sorted."""

    folder: Path
    found: dict[str, Path]  # name -> video with the very bytes that were labelled
    missing: list[str]  # no file of that name
    different: list[str]  # a file of that name, with other content, that is no other clip's video

    @property
    def complete(self) -> bool:
        """Whether every labelled clip has its video."""
        return not self.missing and not self.different

    def describe(self, limit: int | None = NAMES_IN_MESSAGE) -> str:
        """What is missing or differs, in one line; at most `limit` names of each kind."""
        wanted = len(self.found) + len(self.missing) + len(self.different)
        parts = [f"{self.folder} holds {len(self.found)} of {wanted} labelled videos"]
        for kind, names in (("missing", self.missing), ("with other content", self.different)):
            if names:
                rest = "" if limit is None or len(names) <= limit else f" and {len(names) - limit} more"
                parts.append(f"{len(names)} {kind}: {', '.join(names[:limit])}{rest}")
        return "; ".join(parts)


class VideoMatchError(DatasetError):
    """Labels lack their videos. `match` lists all of them; the message is one line."""

    def __init__(self, match: VideoMatch):
        super().__init__(f"{match.describe()}: complete the folder, or load only what is there (incomplete=True).")
        self.match = match


def match_videos(hashes: Mapping[str, str], videos: str | os.PathLike, progress: bool = True) -> VideoMatch:
    """Looks for the videos of labelled clips.

    A clip's video is the file under the clip's name in the folder; where there is none, a file of the same last name
    anywhere in the folder (people unpack archives differently), those first whose folders are called alike. It counts
    only with the hash of the labelled file. Every file is read once at most.

    Args:
        hashes: SHA-256 by name of every clip; names are relative paths with forward slashes.
        videos: folder with a copy of the corpus.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: there is no such folder, a name leads out of it, or a file cannot be read.
    """
    folder = Path(videos)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: give the folder that holds the corpus's videos.")
    for name in hashes:
        # Labels come from other people: their names may not point at files outside of the folder.
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or Path(name).drive:
            raise DatasetError(
                f"The labels name the video {name!r}, outside of the corpus's folder: do not trust them."
            )
    elsewhere: dict[str, list[Path]] = {}  # all files by their last name
    for parent, names in sorted(walk_folder(folder)):
        for name in names:
            elsewhere.setdefault(name, []).append(parent / name)

    @cache
    def hash_once(file: Path) -> str:
        try:
            return hash_file(file)[0]
        except OSError as error:
            raise DatasetError(f"{file} cannot be read ({error.strerror}): mend that and load again.") from error

    def look_up(name: str) -> tuple[str, list[Path], Path | None]:
        # The likeliest first: those whose last folders, too, are called as the clip's.
        direct = folder / name
        others = [file for file in elsewhere.get(direct.name, ()) if file != direct]
        others.sort(key=lambda file: -_parts_in_common(name, file))
        candidates = [direct, *others] if direct.is_file() else others
        return name, candidates, next((file for file in candidates if hash_once(file) == hashes[name]), None)

    found: dict[str, Path] = {}
    not_found: dict[str, list[Path]] = {}
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        results = threads.map(look_up, sorted(hashes))
        for name, candidates, file in tqdm(
            results, total=len(hashes), desc="Checking videos", unit="clip", disable=not progress
        ):
            if file is not None:
                found[name] = file
            else:
                not_found[name] = candidates
    different = _changed_copies(not_found, set(found.values()), folder, hashes)
    missing = [name for name in not_found if name not in different]
    return VideoMatch(folder, found, missing, different)


def _changed_copies(
    not_found: Mapping[str, Sequence[Path]], taken: set[Path], folder: Path, names: Iterable[str]
) -> list[str]:
    """The clips of whose videos there is a changed copy, given the candidates of all clips without a video."""
    last_names = Counter(PurePosixPath(name).name for name in names)

    def is_copy(name: str, file: Path) -> bool:
        # In MEAD the last name alone, such as 001.mp4, says nothing: there one path has to end with the other.
        shorter = min(len(PurePosixPath(name).parts), len(file.relative_to(folder).parts))
        same_place = _parts_in_common(name, file.relative_to(folder)) == shorter
        return file not in taken and (last_names[file.name] == 1 or same_place)

    return [name for name, candidates in not_found.items() if any(is_copy(name, file) for file in candidates)]


def _parts_in_common(name: str, file: Path) -> int:
    """How many parts of both paths are the same, counted from the end."""
    pairs = zip(reversed(PurePosixPath(name).parts), reversed(file.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
