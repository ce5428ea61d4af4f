"""Reader for any folder of videos: one sub-folder per class, or a table that names the clips.

SOURCE/happiness/clip 1.mp4          the class is the sub-folder's name
SOURCE.csv  (path,expression,subject)  paths are relative to the table's own folder
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, UNKNOWN_SUBJECT, Clip, DatasetError
from mtcae_dfer.hub_dataset.files import is_lfs_pointer, walk_folder

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".flv", ".mov", ".webm", ".m4v"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
CLIP_COLUMNS = ("path", "expression", "subject")
SUBJECT_COLUMNS = ("path", "subject")


def read_folder(
    source: str | os.PathLike,
    subjects_csv: str | os.PathLike | None = None,
    subject_pattern: str | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Clip]:
    """Lists the clips of a folder or of a table, sorted by name.

    Args:
        source: a folder `class_name/…/clip.mp4` (mp4, mkv, avi, flv, mov, webm, m4v), or a CSV file with the columns
            path (relative to the CSV's folder), expression, subject. Further columns become the clips' attributes.
        subjects_csv: for a folder: a CSV file with the columns path (relative to the folder, or the bare file name) and
            subject. It must name every clip; rows without a clip are ignored.
        subject_pattern: for a folder: a regular expression searched in each file name; its group `subject`, or else its
            first group, is the subject.
        class_names: the only allowed expressions; None allows those of EXPRESSIONS, or names that are all others.

    Returns:
        Clips. Without `subjects_csv` and `subject_pattern` the subjects of a folder are UNKNOWN_SUBJECT: such clips can
        be labelled and trained on, but not split by subject.

    Raises:
        DatasetError: the source is not such a folder or table; a column is missing, a row has an unknown expression, no
            subject, a path that leaves the folder or one that an earlier row has; a clip has no subject in
            `subjects_csv`; or the pattern does not match. The message names the file and the row.
    """
    source = Path(source)
    if subjects_csv is not None and subject_pattern is not None:
        raise DatasetError("subjects_csv and subject_pattern both tell the subjects: give one of them.")
    if not source.is_dir():
        if not source.exists():
            raise DatasetError(f"{source} does not exist: give a folder of class_name/clip.mp4 or a CSV file.")
        if source.suffix.lower() != ".csv":
            raise DatasetError(f"{source} is neither a folder nor a .csv file: give a folder of class_name/clip.mp4.")
        if subjects_csv is not None or subject_pattern is not None:
            raise DatasetError(f"{source} tells the subjects itself: leave out subjects_csv and subject_pattern.")
        return _read_clip_table(source, class_names)
    subjects = SubjectFinder(subjects_csv, subject_pattern)
    names = sorted(file_names(source))
    in_classes = [name for name in names if len(PurePosixPath(name).parts) > 1]
    if not in_classes:
        found = f"{len(names)} videos outside of sub-folders" if names else "no videos"
        pictures = sum(1 for _ in file_names(source, PICTURE_SUFFIXES))
        if pictures and not names:
            raise DatasetError(f"{source} holds {pictures} pictures and no videos: use `mtcae dataset build stills`.")
        raise DatasetError(f"{source} holds {found}: expected class_name/clip.mp4, one sub-folder per class.")
    refuse_pointers(source, in_classes)
    clips = [Clip(source / name, PurePosixPath(name).parts[0], subjects.subject_of(name), name) for name in in_classes]
    check_expressions(((clip.expression, str(clip.path)) for clip in clips), class_names)
    return clips


def file_names(folder: Path, suffixes: Collection[str] = VIDEO_SUFFIXES) -> Iterator[str]:
    """Paths of all files with one of these suffixes, relative to the folder and with forward slashes.

    Symbolic links are followed; hidden files and folders are left out.
    """
    for parent, files in walk_folder(folder):
        for name in files:
            if Path(name).suffix.lower() in suffixes:
                yield (parent / name).relative_to(folder).as_posix()


def refuse_pointers(folder: Path, names: Sequence[str]) -> None:
    """Raises a DatasetError where all of these files are Git LFS pointers; single ones are told when they are read."""
    if names and all(is_lfs_pointer(folder / name) for name in names):
        raise DatasetError(
            f"{folder}: all {len(names)} videos, such as {names[0]!r}, are Git LFS pointers, not videos: run "
            "`git lfs pull` in that folder, then build again."
        )


class SubjectFinder:
    """Who is seen in a clip: by a table, by a pattern in its file name, or UNKNOWN_SUBJECT where neither is given.

    Args:
        table: CSV file of paths (or bare file names) and subjects.
        pattern: regular expression that is searched in file names; its group `subject`, or else its first group, is the
            subject.

    Raises:
        DatasetError: the table is damaged, or the pattern is no regular expression or has no group.
    """

    def __init__(self, table: str | os.PathLike | None = None, pattern: str | None = None):
        self.table = table
        self.subjects: dict[str, str] = {}
        for row_name, row in read_rows(Path(table), SUBJECT_COLUMNS) if table is not None else ():
            if not row["subject"]:
                raise DatasetError(f"{row_name} has no subject: fill in the column.")
            if self.subjects.setdefault(row["path"], row["subject"]) != row["subject"]:
                raise DatasetError(f"{row_name} gives {row['path']!r} another subject than an earlier row: keep one.")
        try:
            self.pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise DatasetError(f"The subject pattern {pattern!r} is no regular expression: {error}.") from error
        if self.pattern is not None and self.pattern.groups == 0:
            raise DatasetError(f"The subject pattern {pattern!r} has no group: put the subject's part in brackets.")

    def subject_of(self, name: str) -> str:
        """The subject of a clip, by its path relative to the folder.

        Raises:
            DatasetError: the table or the pattern does not tell it.
        """
        last = PurePosixPath(name).name
        if self.table is not None:
            if name not in self.subjects and last not in self.subjects:
                raise DatasetError(f"{self.table} has no row for the clip {name!r}: add its path and subject.")
            return self.subjects.get(name) or self.subjects[last]
        if self.pattern is None:
            return UNKNOWN_SUBJECT
        match = self.pattern.search(last)
        subject = match["subject" if "subject" in self.pattern.groupindex else 1] if match else None
        if not subject:
            raise DatasetError(f"The subject pattern {self.pattern.pattern!r} finds no subject in the clip {name!r}.")
        return subject


def _read_clip_table(table: Path, class_names: Sequence[str] | None) -> list[Clip]:
    clips: dict[str, Clip] = {}
    places: list[tuple[str, str]] = []
    for row_name, row in read_rows(table, CLIP_COLUMNS):
        for column in CLIP_COLUMNS:
            if not row[column]:
                raise DatasetError(f"{row_name} has no {column}: fill in the column.")
        name = inside_folder(table.parent, row["path"], row_name)
        if name in clips:
            raise DatasetError(f"{row_name} names {name!r}, which an earlier row names too: keep one of them.")
        attributes = {column: value for column, value in row.items() if column not in CLIP_COLUMNS}
        clips[name] = Clip(table.parent / name, row["expression"], row["subject"], name, attributes)
        places.append((row["expression"], row_name))
    if not clips:
        raise DatasetError(f"{table} has no rows: name one clip per row.")
    check_expressions(places, class_names)
    return [clips[name] for name in sorted(clips)]


def inside_folder(folder: Path, path: str, row_name: str) -> str:
    """A path of a table below its folder, with forward slashes.

    Raises:
        DatasetError: it leaves the folder; the message begins with `row_name`.
    """
    inner = PurePosixPath(path)
    inside = not inner.is_absolute() and ".." not in inner.parts
    if not inside or not (folder / inner).resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{row_name}: the path {path!r} leaves the folder {folder}: move the clip into it.")
    return inner.as_posix()


def read_rows(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with a header, each with its name for messages ("FILE, row 2" is the first below the header).

    Raises:
        DatasetError: the file is missing, is no UTF-8 text, or lacks a column.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise DatasetError(
                    f"{table} has no column {missing[0]!r}: its first row must name {', '.join(columns)}."
                )
            for row in reader:
                row.pop("", None)
                yield f"{table}, row {reader.line_num}", {name: value.strip() for name, value in row.items()}
    except OSError as error:
        raise DatasetError(f"{table} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is not a CSV file in UTF-8: {error}.") from error


def check_expressions(places: Iterable[tuple[str, str]], class_names: Sequence[str] | None) -> None:
    """Checks each (expression, where it stands) against the allowed names."""
    places = list(places)
    if class_names is None and any(expression in EXPRESSIONS for expression, _ in places):
        # Beside the usual names, another one is more likely misspelt than meant.
        class_names, remedy = EXPRESSIONS, "; for other classes, give the names of all (--classes)"
    else:
        remedy = ""
    for expression, place in places:
        if class_names is not None and expression not in class_names:
            known = ", ".join(class_names)
            raise DatasetError(f"{place}: expression {expression!r} is unknown; known are {known}{remedy}.")
