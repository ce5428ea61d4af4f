"""From clips to a finished data set: label, write Parquet with the videos inside, describe, rename into place.

    .OUT.building/                            the work under way; a second run of the same call goes on from here
        build.json                            the call's options
        labels/00000000-00000064.parquet      labels of 64 clips, renamed when complete
    OUT/
        data/train-00000-of-00001-<digest>.parquet …
        README.md                             the card, with the splits of every fold in its head
        build_report.json                     options, counts, coverage, failures
        contact_sheets/                       pictures of some clips with their labels, for a person to look at

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

from mtcae_dfer.hub_dataset.building.card import render_card
from mtcae_dfer.hub_dataset.building.contact_sheets import SHEETS_FOLDER, draw_contact_sheets
from mtcae_dfer.hub_dataset.clips import Clip, DatasetError, FrameLabels, order_class_names
from mtcae_dfer.hub_dataset.folds import SPLITS, Protocol, divided_units, make_protocol
from mtcae_dfer.hub_dataset.labelling.one_machine import (
    ENGINES,
    ClipLabels,
    LabelledClip,
    LabellingOptions,
    hash_file,
    label_clips,
)
from mtcae_dfer.hub_dataset.labelling.shards import read_labels, write_labels, write_then_rename
from mtcae_dfer.hub_dataset.schema import dataset_features, row_from_clip

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3  # grows whenever the same clips and options give other files
REPORT_FILE = "build_report.json"
Labeller = Callable[[Sequence[Clip], LabellingOptions], Iterator[LabelledClip]]
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
    splits: str = field(default="holdout", metadata={"help": "How subjects are divided: one of folds.split_kinds."})
    seed: int = field(default=0, metadata={"help": "Seed of the division into splits."})
    num_folds: int = field(default=5, metadata={"help": "Number of folds, for splits 'folds'."})
    validation_share: float = field(default=1 / 6, metadata={"help": "Share of subjects held out for validation."})
    test_share: float = field(default=1 / 6, metadata={"help": "Share of subjects held out for testing ('holdout')."})
    labelling: LabellingOptions = field(default_factory=LabellingOptions, metadata={"help": "How faces are labelled."})
    corpus: str | None = field(default=None, metadata={"help": "Name of the published corpus, for its own folds."})
    embed_videos: bool = field(
        default=True, metadata={"help": "Whether rows hold the video files, or their names and hashes only."}
    )
    label_source: str | None = field(
        default=None, metadata={"help": "Which recordings these are and where their labels come from, for the card."}
    )


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
    clips_without_face: list[str]  # names of clips in the data set in which no frame shows a face
    face_coverage: float  # share of labelled frames with a face that the detector found
    interpolated_share: float  # share of labelled frames whose face is interpolated between neighbouring frames
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
    engine: str = "processes",
    ray_address: str | None = None,
) -> BuildReport:
    """Builds a data set that `datasets.load_dataset(output_dir)` opens.

    Clips that cannot be read, or whose file another clip has too, are left out and listed in the report. A finished
    data set of the same clips and options is returned at once. An interrupted build is taken up where it stopped.

    Args:
        clips: the clips, with different names.
        output_dir: folder of the data set; must not exist, be empty, or hold the same data set.
        options: how to build; None takes the defaults.
        workers: number of labelling processes; None takes one per processor, fewer for few clips. Above 1 the calling
            script needs the usual `if __name__ == "__main__":` guard.
        progress: whether to show progress bars.
        engine: "processes": workers on this machine; "ray": a Ray cluster whose machines see the clips under the same
            paths. The data set is the same.
        ray_address: of a running cluster, for "ray"; None starts one on this machine.

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
        divided_units(clips, options.splits),
        options.splits,
        options.seed,
        options.num_folds,
        options.validation_share,
        options.test_share,
        options.corpus,
    )
    identity = _identity(clips, class_names, protocol, options)
    with _one_line_for_disk_errors(output):
        finished = _finished_report(output, identity)
        if finished is not None:
            return finished
        workplace = _claim_workplace(output, identity)
        label = _labeller(engine, workers, ray_address)
        labelled = _label_all(clips, options.labelling, workplace / "labels", label, progress)
        labelled = _leave_out_copies(clips, labelled)
        _refuse_total_failure(labelled, workplace)
        report = _summarise(clips, labelled, class_names, protocol, options, output, identity)
        result = workplace / "result"
        shutil.rmtree(result, ignore_errors=True)  # of an interrupted call; cheap to write again
        features = dataset_features(
            class_names, options.labelling.num_frames, options.embed_videos, _labelled_units(clips)
        )
        files = _write_groups(clips, labelled, protocol, features, result / "data", progress)
        draw_contact_sheets(clips, labelled, class_names, result / SHEETS_FOLDER, options.labelling, progress)
        _write_whole(result / "README.md", render_card(report, files, options.license))
        _write_whole(result / REPORT_FILE, _to_json(_stored_report(report)))
        _put_in_place(result, output)
        shutil.rmtree(workplace)
    return report


def read_build_report(dataset_dir: str | os.PathLike) -> BuildReport:
    """The report of a finished data set.

    Raises:
        DatasetError: the folder holds no data set of this package, or one of another format.
    """
    file = Path(dataset_dir) / REPORT_FILE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        _check_format(dataset_dir, told["options"]["format_version"])
        return BuildReport(output_dir=str(dataset_dir), **told)
    except OSError as error:
        raise DatasetError(
            f"{dataset_dir} is no data set of this package (no {REPORT_FILE}): build one with `mtcae dataset build`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise DatasetError(f"{file} is damaged ({error}): build the data set again in another folder.") from error


def _check_format(dataset_dir: str | os.PathLike, version: int) -> None:
    if version != FORMAT_VERSION:
        remedy = "build it again with `mtcae dataset build`, in another folder"
        raise DatasetError(
            f"{dataset_dir} was built with format {version}, and this release reads {FORMAT_VERSION}: "
            f"{f'install a newer release, or {remedy}' if version > FORMAT_VERSION else remedy}."
        )


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
        told = [clip.name, clip.expression, clip.subject, clip.attributes, clip.part]
        told += [] if clip.frame_labels is None else [_digest_frame_labels(clip.frame_labels)]
        digest.update(json.dumps([*told, size], sort_keys=True).encode())
    values = {
        **asdict(options),
        "class_names": list(class_names),
        "protocol": protocol.to_dict(),
        "clips": f"{len(clips)} clips, {digest.hexdigest()}",
        "format_version": FORMAT_VERSION,
    }
    for name in ("corpus", "label_source"):  # absent where not told, as in data sets built before these existed
        if values[name] is None:
            del values[name]
    return json.loads(json.dumps(values))


def _labelled_units(clips: Sequence[Clip]) -> tuple[int, ...] | None:
    """The action units of which clips have labels; None where no clip has labels of affect."""
    told = {None if clip.frame_labels is None else clip.frame_labels.action_unit_numbers for clip in clips}
    if len(told) > 1:
        raise DatasetError("Some clips have labels of valence, arousal and action units; others none, or other units.")
    return told.pop()


def _digest_frame_labels(labels: FrameLabels) -> str:
    digest = hashlib.sha256(json.dumps(labels.action_unit_numbers).encode())
    for values in (labels.valence, labels.arousal, labels.action_units):
        digest.update(np.ascontiguousarray(values, dtype=np.float32).tobytes())
    return digest.hexdigest()


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
    write_then_rename(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _put_in_place(result: Path, output: Path) -> None:
    if output.exists():
        output.rmdir()  # known to be empty
    os.replace(result, output)


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------------------------------------------------------
# Labels, kept in shards


def _labeller(engine: str, workers: int | None, ray_address: str | None) -> Labeller:
    """The function that labels clips in their order, on this machine or on a cluster."""
    if engine not in ENGINES:
        raise DatasetError(f"Engine {engine!r} is unknown: choose one of {', '.join(ENGINES)}.")
    if engine == "ray":
        from mtcae_dfer.hub_dataset.labelling.ray_engine import label_clips_on_ray

        return lambda clips, options: label_clips_on_ray(clips, options, workers, ray_address)
    if ray_address is not None:
        raise DatasetError("A Ray address was given, but not the engine 'ray'.")
    return lambda clips, options: label_clips(clips, options, _worker_count(workers, len(clips)))


def _label_all(
    clips: Sequence[Clip], options: LabellingOptions, folder: Path, label: Labeller, progress: bool
) -> list[LabelledClip]:
    """Labels of all clips, in their order; shards that an earlier call finished are read, the others are made."""
    shards = list(_label_shards(clips, folder))
    missing = [(run, file) for run, file in shards if not file.exists()]
    wanted = [clip for run, _ in missing for clip in run]
    results = label(wanted, options)
    with tqdm(
        total=len(clips), initial=len(clips) - len(wanted), desc="Labelling faces", unit="clip", disable=not progress
    ) as bar:
        for run, file in missing:
            shard = []
            for _ in run:
                shard.append(next(results))
                bar.update()
            write_labels(file, shard)
    return [labelled for _, file in shards for labelled in read_labels(file)]


def _label_shards(clips: Sequence[Clip], folder: Path) -> Iterator[tuple[Sequence[Clip], Path]]:
    """Runs of clips, each with the file that keeps its labels."""
    for start in range(0, len(clips), CLIPS_PER_LABEL_SHARD):
        run = clips[start : start + CLIPS_PER_LABEL_SHARD]
        yield run, folder / f"{start:08d}-{start + len(run):08d}.parquet"


def _worker_count(workers: int | None, clip_count: int) -> int:
    if workers is not None:
        return workers
    return max(1, min(os.cpu_count() or 1, clip_count // CLIPS_PER_WORKER))


def _leave_out_copies(clips: Sequence[Clip], labelled: Sequence[LabelledClip]) -> list[LabelledClip]:
    """Of clips with the same bytes the first one stays: another could stand in another split, with another label."""
    first: dict[str, str] = {}
    kept = []
    for clip, result in zip(clips, labelled, strict=True):
        if result.labels is not None and first.setdefault(result.sha256, clip.name) != clip.name:
            reason = f"the same file as {first[result.sha256]}: keep one of them."
            result = LabelledClip(None, reason, result.sha256, result.byte_count)
        kept.append(result)
    return kept


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
    roles = _unit_roles(protocol)
    for position, unit in enumerate(divided_units(clips, protocol.kind)):
        if labelled[position].labels is not None:
            groups.setdefault(roles[unit], []).append(position)
    files: dict[str, dict[str, list[str]]] = {fold.name: {split: [] for split in SPLITS} for fold in protocol.folds}
    total = sum(len(positions) for positions in groups.values())
    with tqdm(total=total, desc="Writing Parquet", unit="clip", disable=not progress) as bar:
        for number, role in enumerate(sorted(groups)):
            group = role[0] if len(protocol.folds) == 1 else f"group-{number:04d}"
            names = _write_group(clips, labelled, groups[role], features, folder, group, bar)
            for fold, split in zip(protocol.folds, role, strict=True):
                files[fold.name][split] += [f"{folder.name}/{name}" for name in names]
    return files


def _unit_roles(protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """For each subject (or part of official lists), its split in every fold."""
    first = protocol.folds[0]
    units = first.train + first.validation + first.test
    return {unit: tuple(fold.split_of(unit) for fold in protocol.folds) for unit in units}


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
    sizes = _row_sizes(labelled, positions, features)
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

    sizes = _row_sizes(labelled, positions, features)
    # Videos are compressed already; a second compression costs time and saves nothing.
    with parquet.ParquetWriter(file, features.arrow_schema, compression="none") as writer:
        for row_group in _cut_by_size(positions, sizes, BYTES_PER_GROUP, ROWS_PER_GROUP):
            writer.write_table(_table(clips, labelled, row_group, features))
            bar.update(len(row_group))


def _row_sizes(labelled: Sequence[LabelledClip], positions: Sequence[int], features: Any) -> list[int]:
    """Bytes of the rows' videos, beside which the rest does not count."""
    return [labelled[position].byte_count if "video" in features else 0 for position in positions]


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
        video = _read_unchanged(clip, result) if "video" in features else None
        rows.append(row_from_clip(clip, result, result.labels, video))
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
        clips_without_face=[clip.name for clip, labels in built if not labels.face_found.any()],
        face_coverage=float(np.mean([_detected_share(labels) for _, labels in built])),
        interpolated_share=float(np.mean([labels.face_interpolated.mean() for _, labels in built])),
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
        shares.setdefault(getattr(clip, attribute), []).append(_detected_share(labels))
    return {value: float(np.mean(values)) for value, values in shares.items()}


def _detected_share(labels: ClipLabels) -> float:
    """Share of frames in which the detector found a face."""
    return float((labels.face_found & ~labels.face_interpolated).mean())


def _fold_counts(
    clips: Sequence[Clip], protocol: Protocol, class_names: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    roles = _unit_roles(protocol)
    counts = Counter(
        (fold.name, split, clip.expression)
        for clip, unit in zip(clips, divided_units(clips, protocol.kind), strict=True)
        for fold, split in zip(protocol.folds, roles[unit], strict=True)
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
