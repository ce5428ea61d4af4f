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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtcae_dfer.hub_dataset.building.card import render_card
from mtcae_dfer.hub_dataset.building.contact_sheets import SHEETS_FOLDER, draw_contact_sheets
from mtcae_dfer.hub_dataset.building.parquet_files import write_groups
from mtcae_dfer.hub_dataset.building.report import (
    FORMAT_VERSION,
    REPORT_FILE,
    BuildReport,
    read_build_report,
    summarise,
)
from mtcae_dfer.hub_dataset.clips import (
    BuiltClip,
    Clip,
    DatasetError,
    Findings,
    LabelledClip,
    order_class_names,
)
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.folds import SPLITS, Protocol, divide_present, divided_units, make_protocol
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions, label_clips
from mtcae_dfer.hub_dataset.labelling.shards import read_labels, write_labels
from mtcae_dfer.hub_dataset.schema import dataset_features
from mtcae_dfer.hub_dataset.stills.camera_path import move_labels
from mtcae_dfer.hub_dataset.stills.preparing import StillsOptions
from mtcae_dfer.hub_dataset.workers import available_processors, check_engine

logger = logging.getLogger(__name__)

CLIPS_PER_LABEL_SHARD = 64
CLIPS_PER_WORKER = 16  # below this many clips a further process costs more than it saves


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
    stills: StillsOptions | None = field(
        default=None, metadata={"help": "How stills became the clips; None where they were videos."}
    )


def build_dataset(
    clips: Sequence[Clip],
    output_dir: str | os.PathLike,
    options: BuildOptions | None = None,
    workers: int | None = None,
    progress: bool = True,
    engine: str = "processes",
    ray_address: str | None = None,
    findings: Findings | None = None,
) -> BuildReport:
    """Builds a data set that `datasets.load_dataset(output_dir)` opens.

    Clips that cannot be read, or whose file another clip has too, are left out and listed in the report. A finished
    data set of the same clips and options is returned at once. An interrupted build is taken up where it stopped.

    Args:
        clips: the clips, with different names.
        output_dir: folder of the data set; must not exist, be empty, or hold the same data set.
        options: how to build; None takes the defaults.
        workers: number of labelling processes; None takes one per processor, fewer for few clips.
        progress: whether to show progress bars.
        engine: "processes": workers on this machine; "ray": a Ray cluster whose machines see the clips under the same
            paths. The data set is the same.
        ray_address: of a running cluster, for "ray"; None starts one on this machine.
        findings: of the source; what it leaves out stands in the report among the failures, its remarks among the
            warnings.

    Returns:
        The report; `report.failures` is not empty where clips were left out.

    Raises:
        DatasetError: no clip could be read, the subjects cannot be split as wanted, the folder holds something else, a
            video changed during the build, a file cannot be written, or an option has a value that it cannot have.
        ValueError, ImportError: the face detector cannot be made with these options.
    """
    options = options or BuildOptions()
    output = Path(output_dir)
    check_engine(engine, ray_address, workers)
    clips = sorted(clips, key=lambda clip: clip.name)
    if not clips:
        raise DatasetError("There are no clips to build a data set from.")
    repeated = [name for name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if repeated:
        raise DatasetError(f"{len(repeated)} clips have the same name as another one, such as {repeated[0]!r}.")
    units = {None if clip.frame_labels is None else clip.frame_labels.action_unit_numbers for clip in clips}
    if len(units) > 1:
        raise DatasetError("Some clips have labels of valence, arousal and action units; others none, or other units.")
    class_names = order_class_names((clip.expression for clip in clips), options.class_names)
    protocol = make_protocol(
        divided_units(clips, options.splits),
        kind=options.splits,
        seed=options.seed,
        num_folds=options.num_folds,
        validation_share=options.validation_share,
        test_share=options.test_share,
        corpus=options.corpus,
    )
    findings = findings or Findings()
    identity = _identity(clips, class_names, protocol, options, findings)
    try:
        finished = _finished_report(output, identity)
        if finished is not None:
            return finished
        if engine == "processes":
            options.labelling.make_detector()  # says what every worker would stumble over, before anything is written
        workplace = _claim_workplace(output, identity)
        filmed = options.stills is not None and options.stills.camera_frames > 0
        # A filmed still is searched once, in the frame that shows it as it is; its labels then go along the path.
        labelling = replace(options.labelling, num_frames=1) if filmed else options.labelling
        labelled = _label_all(clips, labelling, workplace / "labels", engine, workers, ray_address, progress)
        built, failures = sort_out(clips, labelled)
        if not built:
            shutil.rmtree(workplace)
            raise DatasetError(f"None of {len(clips)} clips could be read; the first: {failures[clips[0].name]}")
        failures |= findings.left_out
        protocol = divide_present(protocol, set(divided_units((each.clip for each in built), protocol.kind)))
        report = summarise(built, failures, class_names, protocol, output, identity, findings.remarks)
        result = workplace / "result"
        shutil.rmtree(result, ignore_errors=True)  # of an interrupted call; cheap to write again
        features = dataset_features(class_names, options.labelling.num_frames, options.embed_videos, units.pop())
        files = write_groups(built, protocol, features, result / "data", progress)
        draw_contact_sheets(built, class_names, result / SHEETS_FOLDER, progress)
        (result / "README.md").write_text(render_card(report, files, options.license), encoding="utf-8")
        # Without the place where it lies, so that a moved or repeated data set has the same bytes.
        told = {name: value for name, value in asdict(report).items() if name != "output_dir"}
        write_json(result / REPORT_FILE, told)
        if output.exists():
            output.rmdir()  # known to be empty
        os.replace(result, output)
        shutil.rmtree(workplace)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or output} cannot be written or read ({error.strerror}): mend that and start again; "
            "finished labels are kept."
        ) from error
    return report


# ---------------------------------------------------------------------------------------------------------------
# What is built: checks, identity, the folder


def _identity(
    clips: Sequence[Clip], class_names: Sequence[str], protocol: Protocol, options: BuildOptions, findings: Findings
) -> dict[str, Any]:
    """Everything that decides the result, in JSON's types. Videos stand in it by name and size; rows have hashes."""
    digest = hashlib.sha256()
    for clip in clips:
        size = clip.path.stat().st_size if clip.path.is_file() else -1
        told = [clip.name, clip.expression, clip.subject, clip.attributes, clip.part]
        if clip.frame_labels is not None:
            labels = clip.frame_labels
            of_labels = hashlib.sha256(json.dumps(labels.action_unit_numbers).encode())
            for column in (labels.valence, labels.arousal, labels.action_units):
                of_labels.update(np.ascontiguousarray(column, dtype=np.float32).tobytes())
            told.append(of_labels.hexdigest())
        told += [] if clip.camera_path is None else [clip.camera_path.matrices.tolist()]
        digest.update(json.dumps([*told, size], sort_keys=True).encode())
    values = {
        **asdict(options),
        "class_names": list(class_names),
        "protocol": protocol.to_dict(),
        "clips": f"{len(clips)} clips, {digest.hexdigest()}",
        "format_version": FORMAT_VERSION,
    }
    # Absent where not told, as in data sets built before these existed.
    for name in ("corpus", "label_source", "stills"):
        if values[name] is None:
            del values[name]
    left_out, remarks = findings.left_out, findings.remarks
    if left_out or remarks:
        of_findings = hashlib.sha256(json.dumps([left_out, remarks], sort_keys=True).encode()).hexdigest()
        values["source"] = f"{len(left_out)} left out, {len(remarks)} remarks, {of_findings}"
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
    write_json(note, identity)
    return workplace


# ---------------------------------------------------------------------------------------------------------------
# Labels, kept in shards


def _label_all(
    clips: Sequence[Clip],
    options: LabellingOptions,
    folder: Path,
    engine: str,
    workers: int | None,
    ray_address: str | None,
    progress: bool,
) -> list[LabelledClip]:
    """Labels of all clips, in their order, made on this machine or on a cluster; finished shards are only read."""
    starts = range(0, len(clips), CLIPS_PER_LABEL_SHARD)
    runs = [clips[start : start + CLIPS_PER_LABEL_SHARD] for start in starts]
    shards = [
        (run, folder / f"{start:08d}-{start + len(run):08d}.parquet") for start, run in zip(starts, runs, strict=True)
    ]
    missing = [(run, file) for run, file in shards if not file.exists()]
    wanted = [clip for run, _ in missing for clip in run]
    if engine == "ray":
        from mtcae_dfer.hub_dataset.labelling.ray_engine import label_clips_on_ray

        results = label_clips_on_ray(wanted, options, workers, ray_address)
    else:
        usual = max(1, min(available_processors(), len(wanted) // CLIPS_PER_WORKER))
        results = label_clips(wanted, options, usual if workers is None else workers)
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


def sort_out(clips: Sequence[Clip], labelled: Sequence[LabelledClip]) -> tuple[list[BuiltClip], dict[str, str]]:
    """The clips that become rows, and the reason by name of every other one.

    Of clips with the same bytes the first one stays: another could stand in another split, with another label. Where
    the source itself tells each clip's split, all stay: an official test set keeps its size, and what shows the same in
    two splits was found when the source was read.
    """
    first: dict[str, str] = {}
    built, failures = [], {}
    for clip, result in zip(clips, labelled, strict=True):
        if result.labels is None:
            failures[clip.name] = result.failure or "no labels were made"
            continue
        if clip.part not in SPLITS and first.setdefault(result.sha256, clip.name) != clip.name:
            failures[clip.name] = f"the same file as {first[result.sha256]}: keep one of them."
            continue
        labels = result.labels if clip.camera_path is None else move_labels(result.labels, clip.camera_path)
        built.append(BuiltClip(clip, labels, result.sha256, result.byte_count))
    return built, failures
