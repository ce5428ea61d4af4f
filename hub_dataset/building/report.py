"""What is told of a built data set: build_report.json, its class balance and how many frames show a face."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import BuiltClip, DatasetError
from mtcae_dfer.hub_dataset.folds import SPLITS, Protocol, divided_units, emptied_splits, splits_of_units

REPORT_FILE = "build_report.json"
FORMAT_VERSION = 3  # grows whenever the same clips and options give other files


@dataclass(frozen=True)
class BuildReport:
    """What was built. Stored as build_report.json."""

    output_dir: str
    dataset_name: str
    protocol: dict[str, Any]  # Protocol.to_dict
    class_names: list[str]
    clip_count: int  # rows in the data set
    failures: list[dict[str, str]]  # name and reason of every clip that is not in it
    # Name and reason of every fold that lost a split, and of every clip of which only a part could be read.
    warnings: list[dict[str, str]]
    clips_without_face: list[str]  # names of clips in the data set in which no frame shows a face
    face_coverage: float  # share of labelled frames with a face that the detector found
    interpolated_share: float  # share of labelled frames whose face is interpolated between neighbouring frames
    class_counts: dict[str, int]
    class_coverage: dict[str, float]
    subject_counts: dict[str, int]
    subject_coverage: dict[str, float]
    fold_counts: dict[str, dict[str, dict[str, int]]]  # fold -> split -> expression -> rows
    options: dict[str, Any]


def read_build_report(dataset_dir: str | os.PathLike) -> BuildReport:
    """The report of a finished data set.

    Raises:
        DatasetError: the folder holds no data set of this package, or one of another format.
    """
    file = Path(dataset_dir) / REPORT_FILE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        version = told["options"]["format_version"]
        if version == FORMAT_VERSION:
            return BuildReport(output_dir=str(dataset_dir), **told)
        is_newer = version > FORMAT_VERSION
    except OSError as error:
        raise DatasetError(
            f"{dataset_dir} is no data set of this package (no {REPORT_FILE}): build one with `mtcae dataset build`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise DatasetError(f"{file} is damaged ({error}): build the data set again in another folder.") from error
    remedy = "build it again with `mtcae dataset build`, in another folder"
    raise DatasetError(
        f"{dataset_dir} was built with format {version}, and this release reads {FORMAT_VERSION}: "
        f"{f'install a newer release, or {remedy}' if is_newer else remedy}."
    )


def summarise(
    built: Sequence[BuiltClip],
    failures: Mapping[str, str],
    class_names: Sequence[str],
    protocol: Protocol,
    output_dir: Path,
    options: dict[str, Any],
    remarks: Mapping[str, str] | None = None,
) -> BuildReport:
    """The report of a data set.

    Args:
        built: its clips, at least one.
        failures: reason by name of every clip that is left out.
        class_names: classes in the order of their ids.
        protocol: how the clips are divided.
        output_dir: folder of the data set.
        options: everything that decides the result, in JSON's types; with `dataset_name`.
        remarks: by name of a clip, what a user should know of it beside how far it could be read.
    """
    by_class, by_subject = _coverage(built, "expression"), _coverage(built, "subject")
    class_counts = Counter(each.clip.expression for each in built)
    subject_counts = Counter(each.clip.subject for each in built)
    splits_of = splits_of_units(protocol)
    units = divided_units((each.clip for each in built), protocol.kind)
    fold_counts = Counter(
        (fold.name, split, each.clip.expression)
        for each, unit in zip(built, units, strict=True)
        for fold, split in zip(protocol.folds, splits_of[unit], strict=True)
    )
    return BuildReport(
        output_dir=str(output_dir),
        dataset_name=options["dataset_name"],
        protocol=protocol.to_dict(),
        class_names=list(class_names),
        clip_count=len(built),
        failures=[{"name": name, "reason": reason} for name, reason in failures.items()],
        warnings=[{"name": fold, "reason": told} for fold, told in emptied_splits(protocol).items()]
        + [
            {"name": each.clip.name, "reason": told}
            for each in built
            for told in (each.labels.warning, (remarks or {}).get(each.clip.name))
            if told
        ],
        clips_without_face=[each.clip.name for each in built if not each.labels.face_found.any()],
        face_coverage=float(np.mean([_detected_share(each) for each in built])),
        interpolated_share=float(np.mean([each.labels.face_interpolated.mean() for each in built])),
        class_counts={name: class_counts[name] for name in class_names},
        class_coverage={name: by_class[name] for name in class_names if name in by_class},
        subject_counts=dict(sorted(subject_counts.items())),
        subject_coverage=dict(sorted(by_subject.items())),
        fold_counts={
            fold.name: {split: {name: fold_counts[fold.name, split, name] for name in class_names} for split in SPLITS}
            for fold in protocol.folds
        },
        options=options,
    )


def _coverage(built: Sequence[BuiltClip], attribute: str) -> dict[str, float]:
    """Share of frames with a face, by the clips' value of an attribute."""
    shares: dict[str, list[float]] = {}
    for each in built:
        shares.setdefault(getattr(each.clip, attribute), []).append(_detected_share(each))
    return {value: float(np.mean(values)) for value, values in shares.items()}


def _detected_share(built: BuiltClip) -> float:
    """Share of frames in which the detector found a face."""
    return float((built.labels.face_found & ~built.labels.face_interpolated).mean())
