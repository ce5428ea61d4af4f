"""Where stills come from: class folders, tables, Parquet files, and the layouts of FER2013, RAF-DB and AffectNet.

SOURCE/happy/*.jpg, SOURCE/train/happy/*.jpg     class folders, with or without a folder for each split
SOURCE.csv  (path,expression[,subject][,split])  paths are relative to the table's own folder
SOURCE.csv  (emotion,pixels,Usage)               FER2013, maybe with the votes of FER+ beside it
SOURCE.parquet (expression,image[,name][,subject][,split])
SOURCE/…/list_patition_label.txt                 RAF-DB, with Image/aligned or Image/original beside its folder
SOURCE/…/training.csv, validation.csv            AffectNet, with its folders of pictures beside them
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, UNKNOWN_SUBJECT, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    SubjectFinder,
    check_expressions,
    inside_folder,
    read_rows,
)
from mtcae_dfer.hub_dataset.files import walk_folder
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.hub_dataset.votes import VOTES

# Other spellings of the eight names, as corpora of stills have them.
SPELLINGS = {
    "angry": "anger",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "afraid": "fear",
    "fearful": "fear",
    "disgusted": "disgust",
    "contemptuous": "contempt",
}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}
FER2013_EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
FER2013_SIDE = 48
RAF_DB_EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # labels from 1
RAF_DB_LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # the first is how its owners spell it
FER_PLUS_VOTES = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown"),
    "NF",  # no face
)
AFFECTNET_EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
AFFECTNET_LISTS = {"training.csv": "train", "validation.csv": "validation"}
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Still:
    """One picture of a corpus."""

    name: str  # path in the source or name in its table, with forward slashes
    expression: str
    subject: str = UNKNOWN_SUBJECT
    split: str = ""  # one of SPLITS; empty where the source tells none
    attributes: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class StillsSource:
    """The stills of a source, and their picture files one by one in the same order."""

    stills: tuple[Still, ...]
    contents: Callable[[], Iterator[bytes | Path]]  # a file's bytes, or where it is
    label_source: str | None = None  # where labels come from, for the card; None where nobody knows
    left_out: Mapping[str, str] = field(default_factory=dict)  # reason by name of pictures without a usable label
    votes: Path | None = None  # the table of votes that was read beside it


@dataclass(frozen=True)
class StillsReading:
    """How a user tells what a source leaves open."""

    class_names: tuple[str, ...] | None = None  # all classes in the order of their ids
    spellings: Mapping[str, str] = field(default_factory=dict)  # class name in the source -> class name
    subjects: SubjectFinder = field(default_factory=SubjectFinder)  # for class folders
    votes: Path | None = None  # fer2013new.csv of FER+ (Barsoum et al., 2016), for FER2013's own CSV file

    def expression(self, name: str) -> str:
        """The class of a name in the source."""
        name = name.strip()
        if name in self.spellings:
            return self.spellings[name]
        if self.class_names is not None and name in self.class_names:
            return name
        lower = name.lower()
        return SPELLINGS.get(lower, lower if lower in EXPRESSIONS else name)


def read_stills(source: str | os.PathLike, reading: StillsReading | None = None) -> StillsSource:
    """Finds the layout of a source and lists its stills.

    Args:
        source: a folder or a file in one of the layouts above.
        reading: what the user tells beside it.

    Raises:
        DatasetError: the source is in no such layout, holds videos, or is damaged; the message names file and row.
    """
    reading = reading or StillsReading()
    path = Path(source)
    if path.is_dir():
        found = _read_folder(path, reading)
    elif not path.exists():
        raise DatasetError(f"{path} does not exist: give a folder of pictures, a .csv or .parquet file.")
    elif path.suffix.lower() == ".csv":
        found = _read_csv(path, reading)
    elif path.suffix.lower() == ".parquet":
        found = _read_parquet([path], reading)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        raise DatasetError(f"{path} is a video, not a source of stills: use `mtcae dataset build folder`.")
    else:
        raise DatasetError(f"{path} is no folder, .csv or .parquet file: give one of these.")
    if found.votes != reading.votes:
        raise DatasetError(
            f"{reading.votes} holds votes by the rows of FER2013's CSV file (emotion, pixels, Usage); {path} is none."
        )
    if not found.stills:
        raise DatasetError(f"{path} names no stills with a usable label.")
    name, count = Counter(still.name for still in found.stills).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{path} has {count} stills of the name {name!r}: give each its own.")
    check_expressions(((still.expression, f"{path}, {still.name}") for still in found.stills), reading.class_names)
    return found


def parse_split(text: str, where: str) -> str:
    """One of SPLITS out of its usual spellings.

    Raises:
        DatasetError: it is none of them; the message begins with `where`.
    """
    split = SPLIT_NAMES.get(text.strip().lower())
    if split is None:
        raise DatasetError(f"{where}: split {text!r} is unknown: write {', '.join(SPLITS)} (or leave out the column).")
    return split


# ---------------------------------------------------------------------------------------------------------------
# Folders


def _read_folder(folder: Path, reading: StillsReading) -> StillsSource:
    """A folder in whichever layout it is."""
    files = [parent / name for parent, names in walk_folder(folder) for name in names]
    by_name: dict[str, Path] = {}
    for file in files:
        by_name.setdefault(file.name, file)
    for name in RAF_DB_LISTS:
        if name in by_name:
            return _read_raf_db(by_name[name])
    affect_net = {split: by_name[name] for name, split in AFFECTNET_LISTS.items() if name in by_name}
    if affect_net:
        return _read_affect_net(affect_net)
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    parquet_files = sorted(file for file in files if file.suffix.lower() == ".parquet")
    if parquet_files and not pictures:
        return _read_parquet(parquet_files, reading)
    if not pictures:
        tables = [file for file in files if file.suffix.lower() == ".csv"]
        if len(tables) == 1:
            return _read_csv(tables[0], reading)
        videos = sum(file.suffix.lower() in VIDEO_SUFFIXES for file in files)
        hint = f"{videos} videos and no pictures: use `mtcae dataset build folder`" if videos else "no pictures"
        raise DatasetError(f"{folder} holds {hint}.")
    return _read_class_folders(folder, pictures, reading)


def _read_class_folders(folder: Path, pictures: Iterable[Path], reading: StillsReading) -> StillsSource:
    names = sorted(picture.relative_to(folder).as_posix() for picture in pictures)
    in_folders = [name for name in names if "/" in name]
    if not in_folders:
        raise DatasetError(
            f"{folder} holds {len(names)} pictures outside of sub-folders: expected class_name/picture.jpg, one "
            "sub-folder per class."
        )
    firsts = {PurePosixPath(name).parts[0] for name in in_folders}
    with_splits = all(first.lower() in SPLIT_NAMES for first in firsts)
    stills = []
    for name in in_folders:
        parts = PurePosixPath(name).parts
        if with_splits and len(parts) < 3:
            raise DatasetError(f"{folder / name}: expected {parts[0]}/class_name/picture.jpg, found no class folder.")
        stills.append(
            Still(
                name,
                reading.expression(parts[1 if with_splits else 0]),
                reading.subjects.subject_of(name),
                SPLIT_NAMES[parts[0].lower()] if with_splits else "",
            )
        )
    return _files(stills, [folder / still.name for still in stills])


def _files(stills: Sequence[Still], paths: Sequence[Path], **told: Any) -> StillsSource:
    """A source whose pictures are files."""
    return StillsSource(tuple(stills), lambda: iter(paths), **told)


# ---------------------------------------------------------------------------------------------------------------
# Tables


def _read_csv(table: Path, reading: StillsReading) -> StillsSource:
    """A list of FER2013 or AffectNet, or else one with the columns path and expression, maybe subject and split."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no readable CSV file in UTF-8 ({error}).") from error
    if {"emotion", "pixels", "Usage"} <= set(header):
        return _read_fer2013(table, reading.votes)
    if "subDirectory_filePath" in header:
        split = AFFECTNET_LISTS.get(table.name.lower(), "train")
        return _read_affect_net({split: table})
    stills, paths = [], []
    for place, row in read_rows(table, ("path", "expression")):
        for column in ("path", "expression", "subject", "split"):
            if column in header and not row[column]:
                raise DatasetError(f"{place} has no {column}: fill in the column, or leave it out for all rows.")
        name = inside_folder(table.parent, row["path"], place)
        told = {"path", "expression", "subject", "split"}
        stills.append(
            Still(
                name,
                reading.expression(row["expression"]),
                row.get("subject") or UNKNOWN_SUBJECT,
                parse_split(row["split"], place) if "split" in header else "",
                {column: value for column, value in row.items() if column not in told},
            )
        )
        paths.append(table.parent / name)
    return _files(stills, paths)


def _read_fer2013(table: Path, votes_file: Path | None) -> StillsSource:
    """FER2013's own CSV file: emotion 0 to 6, 48 × 48 grey values, Training, PublicTest or PrivateTest."""
    stills = []
    votes = None if votes_file is None else _read_fer_plus(votes_file)
    for number, (place, row) in enumerate(_fer2013_rows(table)):
        if row["emotion"] not in map(str, range(len(FER2013_EXPRESSIONS))):
            raise DatasetError(f"{place}: emotion {row['emotion']!r} is unknown; known are 0 to 6.")
        expression = FER2013_EXPRESSIONS[int(row["emotion"])]
        name = f"{row['Usage']}_{number:05d}.png"
        attributes = {}
        if votes is not None:
            usage, attributes[VOTES] = votes[number] if number < len(votes) else ("no row", "")
            if usage != row["Usage"]:
                raise DatasetError(
                    f"{place} is of {row['Usage']}, and there {votes_file} has {usage}: both files must have the "
                    "same rows in the same order."
                )
        stills.append(Still(name, expression, split=parse_split(row["Usage"], place), attributes=attributes))
    if votes is not None and len(votes) > len(stills):
        raise DatasetError(
            f"{votes_file} has {len(votes)} rows, and {table} only {len(stills)}: they must be the same."
        )

    def contents() -> Iterator[bytes]:
        from PIL import Image

        for place, row in _fer2013_rows(table):
            try:
                values = np.array(row["pixels"].split(), dtype=np.uint8).reshape(FER2013_SIDE, FER2013_SIDE)
            except (ValueError, OverflowError) as error:
                raise DatasetError(f"{place}: pixels are not 48 × 48 numbers from 0 to 255 ({error}).") from error
            file = io.BytesIO()
            Image.fromarray(values).save(file, format="PNG")
            yield file.getvalue()

    told = "FER2013's own, of the pictures' finders; known to be noisy."
    return StillsSource(tuple(stills), contents, told, votes=votes_file)


def _read_fer_plus(file: Path) -> list[tuple[str, str]]:
    """Usage and votes by the rows of FER+'s table, which tells no picture's name: a row is that of the same number."""
    rows = []
    for place, row in read_rows(file, ("Usage", *FER_PLUS_VOTES)):
        if not all(row[name].isdecimal() for name in FER_PLUS_VOTES):
            raise DatasetError(f"{place}: votes must be whole numbers, one in each column.")
        rows.append((row["Usage"], ", ".join(f"{name} {row[name]}" for name in FER_PLUS_VOTES if int(row[name]))))
    return rows


def _fer2013_rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of FER2013's CSV file; one of its releases has blanks before the column names."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader)]
        for row in reader:
            place = f"{table}, row {reader.line_num}"
            if len(row) != len(header):
                raise DatasetError(f"{place} has {len(row)} columns instead of {len(header)}.")
            yield place, dict(zip(header, row, strict=True))


def _read_parquet(files: Sequence[Path], reading: StillsReading) -> StillsSource:
    """Parquet files with the columns expression and image (bytes, or the Hub's {bytes, path})."""
    import pyarrow as pa
    from pyarrow import parquet

    stills: list[Still] = []
    # A name in a table is a label, and a table may repeat it (a Parquet file of FER2013 does): the second is "NAME-2".
    repeats: Counter[str] = Counter()
    for file in files:
        try:
            schema = parquet.read_schema(file)
            for column in ("expression", "image"):
                if column not in schema.names:
                    raise DatasetError(f"{file} has no column {column!r}: it needs expression and image.")
            words = [each.name for each in schema if pa.types.is_string(each.type)]
            rows = parquet.read_table(file, columns=words).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{file} cannot be read as a Parquet file ({str(error).splitlines()[0]}).") from error
        if "expression" not in words:
            raise DatasetError(f"{file}: the column expression must hold class names.")
        for number, row in enumerate(rows):
            place = f"{file}, row {number}"
            if not row["expression"]:
                raise DatasetError(f"{place} has no expression: fill in the column.")
            told = {"name", "expression", "subject", "split"}
            name = row.get("name") or f"{file.stem}-{number:06d}"
            repeats[name] += 1
            stem, suffix = os.path.splitext(name)
            stills.append(
                Still(
                    name if repeats[name] == 1 else f"{stem}-{repeats[name]}{suffix}",
                    reading.expression(row["expression"]),
                    row.get("subject") or UNKNOWN_SUBJECT,
                    parse_split(row["split"] or "", place) if "split" in row else "",
                    {column: value or "" for column, value in row.items() if column not in told},
                )
            )

    def contents() -> Iterator[bytes]:
        for file in files:
            for batch in parquet.ParquetFile(file).iter_batches(ROWS_AT_ONCE, columns=["image"]):
                for image in batch.column(0).to_pylist():
                    content = image.get("bytes") if isinstance(image, dict) else image
                    yield content or b""

    return StillsSource(tuple(stills), contents)


# ---------------------------------------------------------------------------------------------------------------
# RAF-DB and AffectNet


def _read_raf_db(list_file: Path) -> StillsSource:
    """RAF-DB's basic expressions: lines "train_00001.jpg 5", pictures in Image/aligned or Image/original."""
    base = list_file.parent.parent
    stills, paths, left_out = [], [], {}
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{list_file} cannot be read as a list of pictures ({error}).") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{list_file}, line {number}"
        if len(words) != 2 or words[1] not in map(str, range(1, len(RAF_DB_EXPRESSIONS) + 1)):
            raise DatasetError(f"{place}: expected a picture and a label from 1 to 7, found {line!r}.")
        name = inside_folder(base, words[0], place)
        stem, suffix = os.path.splitext(name)
        candidates = [
            base / place_of / f"{stem}{ending}{suffix}"
            for place_of, ending in (("Image/aligned", "_aligned"), ("Image/original", ""), ("aligned", "_aligned"))
        ]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            left_out[name] = f"no picture {candidates[0].relative_to(base).as_posix()}, nor the original"
            continue
        split = parse_split(name.split("_")[0], place)
        stills.append(Still(name, RAF_DB_EXPRESSIONS[int(words[1]) - 1], split=split))
        paths.append(path)
    return _files(stills, paths, label_source="RAF-DB's basic expression of about 40 raters.", left_out=left_out)


def _read_affect_net(tables: Mapping[str, Path]) -> StillsSource:
    """AffectNet's lists; rows without one of the eight expressions (8 none, 9 uncertain, 10 no face) are left out."""
    folders = ("", "Manually_Annotated_Images", "Manually_Annotated", "images")
    stills, paths, left_out = [], [], {}
    for split, table in tables.items():
        for place, row in read_rows(table, ("subDirectory_filePath", "expression")):
            name = inside_folder(table.parent, row["subDirectory_filePath"], place)
            if not row["expression"].isdecimal() or int(row["expression"]) > 10:
                raise DatasetError(f"{place}: expression {row['expression']!r} is unknown; known are 0 to 10.")
            label = int(row["expression"])
            if label >= len(AFFECTNET_EXPRESSIONS):
                left_out[name] = "without one of the eight expressions"
                continue
            # Beside its list, in a folder beside it, or in one beside the list's folder.
            places = [base / folder / name for base in (table.parent, table.parent.parent) for folder in folders]
            path = next((place for place in places if place.is_file()), None)
            if path is None:
                left_out[name] = "no such picture"
                continue
            known = {column: row[column] for column in ("valence", "arousal") if row.get(column)}
            stills.append(Still(name, AFFECTNET_EXPRESSIONS[label], split=split, attributes=known))
            paths.append(path)
    told = "AffectNet's expression by one annotator (its validation pictures count as test, as is usual)."
    return _files(stills, paths, label_source=told, left_out=left_out)
