"""From clips to a finished data set: label, write Parquet with the videos inside, describe, rename into place.

    .OUT.building/                            the work under way; a second run of the same call goes on from here
        build.json                            the call's options
        labels/00000000-00000064.parquet      labels of 64 clips, renamed when complete
    OUT/
        data/train-00000-of-00001-<digest>.parquet …
        README.md                             the card, with the splits of every fold in its head
        build_report.json                     options, counts, coverage, failures

Everything that is written depends on the clips and the options alone: an interrupted build that is taken up again ends
with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mtcae_dfer.hub_dataset.card import render_card
from mtcae_dfer.hub_dataset.clips import Clip, DatasetError, order_class_names
from mtcae_dfer.hub_dataset.folds import SPLITS, Protocol, make_protocol
from mtcae_dfer.hub_dataset.labelling import ClipLabels, LabelledClip, LabellingOptions, hash_file, label_clips
from mtcae_dfer.hub_dataset.schema import LANDMARK_COUNT, dataset_features, row_from_clip

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # grows whenever the same clips and options give other files
REPORT_FILE = "build_report.json"
CLIPS_PER_LABEL_SHARD = 64
CLIPS_PER_WORKER = 16  # below this many clips a further process costs more than it saves
ROWS_PER_GROUP = 64
BYTES_PER_GROUP = 64 << 20  # a reader of a stream holds one row group in memory
BYTES_PER_FILE = 400 << 20


@dataclass(frozen=True)
class BuildOptions:
    """How a data set is built. Together with the clips it decides every byte of the result."""

    dataset_name: str = field(default="facial-expressions", metadata={"help": "Name in the card and in reports."})
    license: str = field(default="unknown", metadata={"help": "Licence of the videos, as the Hub spells it."})
    class_names: tuple[str, ...] | None = field(
        default=None, metadata={"help": "Classes in the order of their ids; default: see order_class_names."}
    )
    splits: str = field(default="holdout", metadata={"help": "holdout, folds, leave-one-subject-out or none."})
    seed: int = field(default=0, metadata={"help": "Seed of the division into splits."})
    num_folds: int = field(default=5, metadata={"help": "Number of folds, for splits 'folds'."})
    validation_share: float = field(default=1 / 6, metadata={"help": "Share of subjects held out for validation."})
    test_share: float = field(default=1 / 6, metadata={"help": "Share of subjects held out for testing ('holdout')."})
    labelling: LabellingOptions = field(default_factory=LabellingOptions, metadata={"help": "How faces are labelled."})


@dataclass(frozen=True)
class BuildReport:
    """What was built. Stored as build_report.json."""

    output_dir: str
    dataset_name: str
    protocol: dict[str, Any]  # Protocol.to_dict
    class_names: list[str]
    clip_count: int  # rows in the data set
    failures: list[dict[str, str]]  # name and reason of every clip that is not in it
    warnings: list[dict[str, str]]  # name and reason of every clip of which only a part could be read
    face_coverage: float  # share of labelled frames with a face
    class_counts: dict[str, int]
    class_coverage: dict[str, float]
    subject_counts: dict[str, int]
    subject_coverage: dict[str, float]
    fold_counts: dict[str, dict[str, dict[str, int]]]  # fold -> split -> expression -> rows
    options: dict[str, Any]


def build_dataset(
    clips: Sequence[Clip],
    output_dir: str | os.PathLike,
    options: BuildOptions | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> BuildReport:
    """Builds a data set that `datasets.load_dataset(output_dir)` opens.

    Clips that cannot be read are left out and listed in the report. A finished data set of the same clips and options
    is returned at once. An interrupted build is taken up where it stopped.

    Args:
        clips: the clips, with different names.
        output_dir: folder of the data set; must not exist, be empty, or hold the same data set.
        options: how to build; None takes the defaults.
        workers: number of labelling processes; None takes one per processor, fewer for few clips. Above 1 the calling
            script needs the usual `if __name__ == "__main__":` guard.
        progress: whether to show progress bars.

    Returns:
        The report; `report.failures` is not empty where clips were left out.

    Raises:
        DatasetError: no clip could be read, the subjects cannot be split as wanted, the folder holds something else, a
            video changed during the build, or a file cannot be written.
    """
    options = options or BuildOptions()
    output = Path(output_dir)
    clips = sorted(clips, key=lambda clip: clip.name)
    _check_clips(clips)
    class_names = order_class_names((clip.expression for clip in clips), options.class_names)
    protocol = make_protocol(
        (clip.subject for clip in clips),
        options.splits,
        options.seed,
        options.num_folds,
        options.validation_share,
        options.test_share,
    )
    identity = _identity(clips, class_names, protocol, options)
    with _one_line_for_disk_errors(output):
        finished = _finished_report(output, identity)
        if finished is not None:
            return finished
        workplace = _claim_workplace(output, identity)
        labelled = _label_all(clips, options.labelling, workplace / "labels", workers, progress)
        _refuse_total_failure(labelled, workplace)
        report = _summarise(clips, labelled, class_names, protocol, options, output, identity)
        result = workplace / "result"
        shutil.rmtree(result, ignore_errors=True)  # of an interrupted call; cheap to write again
        features = dataset_features(class_names, options.labelling.num_frames)
        files = _write_groups(clips, labelled, protocol, features, result / "data", progress)
        _write_whole(result / "README.md", render_card(report, files, options.license))
        _write_whole(result / REPORT_FILE, _to_json(_stored_report(report)))
        _put_in_place(result, output)
        shutil.rmtree(workplace)
    return report


def read_build_report(dataset_dir: str | os.PathLike) -> BuildReport:
    """The report of a finished data set.

    Raises:
        DatasetError: the folder holds no data set of this package.
    """
    file = Path(dataset_dir) / REPORT_FILE
    try:
        return BuildReport(output_dir=str(dataset_dir), **json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise DatasetError(
            f"{dataset_dir} is no data set of this package (no {REPORT_FILE}): build one with `mtcae dataset build`."
        ) from error
    except (json.JSONDecodeError, TypeError) as error:
        raise DatasetError(f"{file} is damaged ({error}): build the data set again in another folder.") from error


# ---------------------------------------------------------------------------------------------------------------
# What is built: checks, identity, the folder


def _check_clips(clips: Sequence[Clip]) -> None:
    repeated = [name for name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if not clips:
        raise DatasetError("There are no clips to build a data set from.")
    if repeated:
        raise DatasetError(f"{len(repeated)} clips have the same name as another one, such as {repeated[0]!r}.")


def _identity(
    clips: Sequence[Clip], class_names: Sequence[str], protocol: Protocol, options: BuildOptions
) -> dict[str, Any]:
    """Everything that decides the result, in JSON's types. Videos stand in it by name and size; rows have hashes."""
    digest = hashlib.sha256()
    for clip in clips:
        size = clip.path.stat().st_size if clip.path.is_file() else -1
        digest.update(json.dumps([clip.name, clip.expression, clip.subject, size]).encode())
    values = {
        **asdict(options),
        "class_names": list(class_names),
        "protocol": protocol.to_dict(),
        "clips": f"{len(clips)} clips, {digest.hexdigest()}",
        "format_version": FORMAT_VERSION,
    }
    return json.loads(json.dumps(values))


def _finished_report(output: Path, identity: dict[str, Any]) -> BuildReport | None:
    """The report of the same data set, finished earlier; None where the folder is free."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / REPORT_FILE).is_file():
        raise DatasetError(f"{output} exists and is no data set of this package: choose another folder.")
    report = read_build_report(output)
    difference = _difference(report.options, identity)
    if difference:
        raise DatasetError(f"{output} holds another data set ({difference}): choose another folder or delete it.")
    return report


def _difference(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first option that differs, for a message; empty where none does."""
    for name in sorted(set(there) | set(wanted)):
        if there.get(name) != wanted.get(name):
            if isinstance(there.get(name), dict) and isinstance(wanted.get(name), dict):
                return f"{name}: {_difference(there[name], wanted[name])}"
            return f"{name} {_shorten(there.get(name))} instead of {_shorten(wanted.get(name))}"
    return ""


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _claim_workplace(output: Path, identity: dict[str, Any]) -> Path:
    """The folder of the work under way; refuses one that was begun with other options."""
    workplace = output.absolute().parent / f".{output.absolute().name}.building"
    note = workplace / "build.json"
    if note.exists():
        difference = _difference(json.loads(note.read_text(encoding="utf-8")), identity)
        if difference:
            raise DatasetError(
                f"{workplace} holds an unfinished build with other options ({difference}): finish it with the same "
                "options, or delete that folder."
            )
        logger.info("Taking up the unfinished build in %s", workplace)
    workplace.joinpath("labels").mkdir(parents=True, exist_ok=True)
    _write_whole(note, _to_json(identity))
    return workplace


@contextmanager
def _one_line_for_disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{error.filename or output} cannot be written or read ({error.strerror}): mend that and start again; "
            "finished labels are kept."
        ) from error


def _write_whole(file: Path, text: str) -> None:
    """Writes under a temporary name first, so that a file with its final name is always complete."""
    _write_then_rename(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_then_rename(file: Path, write: Callable[[Path], object]) -> None:
    temporary = file.with_name(f".{file.name}.partial")
    write(temporary)
    os.replace(temporary, file)


def _put_in_place(result: Path, output: Path) -> None:
    if output.exists():
        output.rmdir()  # known to be empty
    os.replace(result, output)


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------------------------------------------------------
# Labels, kept in shards


def _label_all(
    clips: Sequence[Clip], options: LabellingOptions, folder: Path, workers: int | None, progress: bool
) -> list[LabelledClip]:
    """Labels of all clips, in their order; shards that an earlier call finished are read, the others are made."""
    shards = list(_label_shards(clips, folder))
    missing = [(run, file) for run, file in shards if not file.exists()]
    wanted = [clip for run, _ in missing for clip in run]
    results = label_clips(wanted, options, _worker_count(workers, len(wanted)))
    with tqdm(
        total=len(clips), initial=len(clips) - len(wanted), desc="Labelling faces", unit="clip", disable=not progress
    ) as bar:
        for run, file in missing:
            shard = []
            for _ in run:
                shard.append(next(results))
                bar.update()
            _write_labels(file, shard)
    return [labelled for _, file in shards for labelled in _read_labels(file)]


def _label_shards(clips: Sequence[Clip], folder: Path) -> Iterator[tuple[Sequence[Clip], Path]]:
    """Runs of clips, each with the file that keeps its labels."""
    for start in range(0, len(clips), CLIPS_PER_LABEL_SHARD):
        run = clips[start : start + CLIPS_PER_LABEL_SHARD]
        yield run, folder / f"{start:08d}-{start + len(run):08d}.parquet"


def _worker_count(workers: int | None, clip_count: int) -> int:
    if workers is not None:
        return workers
    return max(1, min(os.cpu_count() or 1, clip_count // CLIPS_PER_WORKER))


def _label_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("failure", pa.string()),
            ("sha256", pa.string()),
            ("byte_count", pa.int64()),
            ("warning", pa.string()),
            ("frame_indices", pa.list_(pa.int64())),
            ("face_boxes", pa.list_(pa.float32())),  # 4 numbers per frame
            ("face_landmarks", pa.list_(pa.float32())),  # 10 numbers per frame
            ("face_found", pa.list_(pa.bool_())),
            ("face_confidence", pa.list_(pa.float32())),
            ("face_count", pa.list_(pa.int64())),
        ]
    )


def _write_labels(file: Path, shard: Sequence[LabelledClip]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for labelled in shard:
        row = {"failure": labelled.failure, "sha256": labelled.sha256, "byte_count": labelled.byte_count}
        if labelled.labels is not None:
            values = vars(labelled.labels)
            row |= {name: value.ravel() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=_label_schema())
    _write_then_rename(file, lambda temporary: parquet.write_table(table, temporary))


def _read_labels(file: Path) -> list[LabelledClip]:
    from pyarrow import parquet

    return [_labelled_from_row(row) for row in parquet.read_table(file).to_pylist()]


def _labelled_from_row(row: dict[str, Any]) -> LabelledClip:
    if row["failure"] is not None:
        return LabelledClip(None, row["failure"], row["sha256"], row["byte_count"])
    labels = ClipLabels(
        frame_indices=np.array(row["frame_indices"], dtype=np.int64),
        face_boxes=np.array(row["face_boxes"], dtype=np.float32).reshape(-1, 4),
        face_landmarks=np.array(row["face_landmarks"], dtype=np.float32).reshape(-1, LANDMARK_COUNT, 2),
        face_found=np.array(row["face_found"], dtype=bool),
        face_confidence=np.array(row["face_confidence"], dtype=np.float32),
        face_count=np.array(row["face_count"], dtype=np.int64),
        warning=row["warning"],
    )
    return LabelledClip(labels, None, row["sha256"], row["byte_count"])


def _refuse_total_failure(labelled: Sequence[LabelledClip], workplace: Path) -> None:
    failures = [clip.failure for clip in labelled if clip.failure is not None]
    if len(failures) == len(labelled):
        shutil.rmtree(workplace)
        raise DatasetError(f"None of {len(labelled)} clips could be read; the first: {failures[0]}")


# ---------------------------------------------------------------------------------------------------------------
# Parquet files: one group of files for all clips that stand in the same split of every fold


def _write_groups(
    clips: Sequence[Clip],
    labelled: Sequence[LabelledClip],
    protocol: Protocol,
    features: Any,
    folder: Path,
    progress: bool,
) -> dict[str, dict[str, list[str]]]:
    """Writes all Parquet files. Returns the files of each split of each fold, relative to the data set's folder."""
    folder.mkdir(parents=True)
    groups: dict[tuple[str, ...], list[int]] = {}
    roles = _subject_roles(protocol)
    for position, clip in enumerate(clips):
        if labelled[position].labels is not None:
            groups.setdefault(roles[clip.subject], []).append(position)
    files: dict[str, dict[str, list[str]]] = {fold.name: {split: [] for split in SPLITS} for fold in protocol.folds}
    total = sum(len(positions) for positions in groups.values())
    with tqdm(total=total, desc="Writing Parquet", unit="clip", disable=not progress) as bar:
        for number, role in enumerate(sorted(groups)):
            group = role[0] if len(protocol.folds) == 1 else f"group-{number:04d}"
            names = _write_group(clips, labelled, groups[role], features, folder, group, bar)
            for fold, split in zip(protocol.folds, role, strict=True):
                files[fold.name][split] += [f"{folder.name}/{name}" for name in names]
    return files


def _subject_roles(protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """For each subject, its split in every fold."""
    first = protocol.folds[0]
    subjects = first.train + first.validation + first.test
    return {subject: tuple(fold.split_of(subject) for fold in protocol.folds) for subject in subjects}


def _write_group(
    clips: Sequence[Clip],
    labelled: Sequence[LabelledClip],
    positions: Sequence[int],
    features: Any,
    folder: Path,
    group: str,
    bar: tqdm,
) -> list[str]:
    """Writes one group of clips into files of bounded size; returns their names."""
    sizes = [labelled[position].byte_count for position in positions]
    parts = _cut_by_size(positions, sizes, BYTES_PER_FILE, len(positions))
    names = []
    for number, part in enumerate(parts):
        temporary = folder / ".partial"
        _write_file(clips, labelled, part, features, temporary, bar)
        # `datasets` keeps its copy of a local folder under a hash of the file names alone, and would go on serving the
        # rows of an earlier data set in a folder of the same name; so the content's digest is part of the name.
        digest, _ = hash_file(temporary)
        names.append(f"{group}-{number:05d}-of-{len(parts):05d}-{digest[:16]}.parquet")
        os.replace(temporary, folder / names[-1])
    return names


def _write_file(
    clips: Sequence[Clip],
    labelled: Sequence[LabelledClip],
    positions: Sequence[int],
    features: Any,
    file: Path,
    bar: tqdm,
) -> None:
    from pyarrow import parquet

    sizes = [labelled[position].byte_count for position in positions]
    # Videos are compressed already; a second compression costs time and saves nothing.
    with parquet.ParquetWriter(file, features.arrow_schema, compression="none") as writer:
        for row_group in _cut_by_size(positions, sizes, BYTES_PER_GROUP, ROWS_PER_GROUP):
            writer.write_table(_table(clips, labelled, row_group, features))
            bar.update(len(row_group))


def _cut_by_size(positions: Sequence[int], sizes: Sequence[int], byte_limit: int, count_limit: int) -> list[list[int]]:
    """Cuts a list into runs within both limits; a single item may exceed the byte limit."""
    runs: list[list[int]] = []
    filled = 0
    for position, size in zip(positions, sizes, strict=True):
        if not runs or filled + size > byte_limit or len(runs[-1]) == count_limit:
            runs.append([])
            filled = 0
        runs[-1].append(position)
        filled += size
    return runs


def _table(
    clips: Sequence[Clip], labelled: Sequence[LabelledClip], positions: Sequence[int], features: Any
) -> pa.Table:
    from datasets import Dataset

    rows = []
    for position in positions:
        clip, result = clips[position], labelled[position]
        rows.append(row_from_clip(clip, result, result.labels, _read_unchanged(clip, result)))
    return Dataset.from_list(rows, features=features).data.table


def _read_unchanged(clip: Clip, labelled: LabelledClip) -> bytes:
    """The bytes of the video that was labelled."""
    video = clip.path.read_bytes()
    if hashlib.sha256(video).hexdigest() != labelled.sha256:
        raise DatasetError(
            f"{clip.path} has changed since it was labelled: delete the unfinished build's folder and start again."
        )
    return video


# ---------------------------------------------------------------------------------------------------------------
# The report


def _summarise(
    clips: Sequence[Clip],
    labelled: Sequence[LabelledClip],
    class_names: Sequence[str],
    protocol: Protocol,
    options: BuildOptions,
    output: Path,
    identity: dict[str, Any],
) -> BuildReport:
    pairs = list(zip(clips, labelled, strict=True))
    built = [(clip, result.labels) for clip, result in pairs if result.labels is not None]
    by_class, by_subject = _coverage(built, "expression"), _coverage(built, "subject")
    class_counts = Counter(clip.expression for clip, _ in built)
    subject_counts = Counter(clip.subject for clip, _ in built)
    return BuildReport(
        output_dir=str(output),
        dataset_name=options.dataset_name,
        protocol=protocol.to_dict(),
        class_names=list(class_names),
        clip_count=len(built),
        failures=[{"name": clip.name, "reason": result.failure} for clip, result in pairs if result.failure],
        warnings=[{"name": clip.name, "reason": labels.warning} for clip, labels in built if labels.warning],
        face_coverage=float(np.mean([labels.face_found.mean() for _, labels in built])),
        class_counts={name: class_counts[name] for name in class_names},
        class_coverage={name: by_class[name] for name in class_names if name in by_class},
        subject_counts=dict(sorted(subject_counts.items())),
        subject_coverage=dict(sorted(by_subject.items())),
        fold_counts=_fold_counts([clip for clip, _ in built], protocol, class_names),
        options=identity,
    )


def _coverage(built: Sequence[tuple[Clip, ClipLabels]], attribute: str) -> dict[str, float]:
    """Share of frames with a face, by the clips' value of an attribute."""
    shares: dict[str, list[float]] = {}
    for clip, labels in built:
        shares.setdefault(getattr(clip, attribute), []).append(float(labels.face_found.mean()))
    return {value: float(np.mean(values)) for value, values in shares.items()}


def _fold_counts(
    clips: Sequence[Clip], protocol: Protocol, class_names: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    roles = _subject_roles(protocol)
    counts = Counter(
        (fold.name, split, clip.expression)
        for clip in clips
        for fold, split in zip(protocol.folds, roles[clip.subject], strict=True)
    )
    return {
        fold.name: {split: {name: counts[fold.name, split, name] for name in class_names} for split in SPLITS}
        for fold in protocol.folds
    }


def _stored_report(report: BuildReport) -> dict[str, Any]:
    """The report without the place where it lies, so that a moved or repeated data set has the same bytes."""
    values = asdict(report)
    del values["output_dir"]
    return values
