"""Results of several runs: cross-validations and ablations, as plain dictionaries that are stored as JSON.

Tables (`tables.py`), plots (`plots.py`) and the model card (`model_card.py`) are made from these dictionaries alone.
All figures are fractions; None (null in the file) stands where a model does not predict something, where nothing could
be counted, or where there are too few folds or subjects for a deviation or an interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pyarrow.parquet as parquet

from mtcae_dfer.experiments.paper_results import PaperFigures
from mtcae_dfer.experiments.statistics import (
    LEVEL,
    RESAMPLES,
    SubjectSums,
    bootstrap_intervals,
    figures_of,
    mean_and_std,
    paired_difference,
    sum_by_subject,
)
from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT
from mtcae_dfer.hub_dataset.files import plain_values, write_json
from mtcae_dfer.training.evaluation.predictions import FACE_FIGURES, PREDICTIONS_FILE
from mtcae_dfer.training.evaluation.report import EpochRecord, Report

RESULTS_FILE = "results.json"
FigureKey = Literal["uar", "war", "face_box_iou", "landmark_nme"]
FIGURE_KEYS: tuple[FigureKey, ...] = ("uar", "war", "face_box_iou", "landmark_nme")


class FoldFigures(TypedDict):
    """One run of a cross-validation, on its test clips."""

    fold: str
    seed: int
    uar: float
    war: float
    face_box_iou: float | None
    landmark_nme: float | None
    clips: int
    constant_predictor: dict[str, float | None]  # the same four figures of the predictor that never looks
    selected_epoch: int
    history: list[EpochRecord]
    subjects: dict[str, list[str]]  # of "train", "validation" and "test"


class Summary(TypedDict):
    """One figure over all folds."""

    mean: float | None  # over folds and seeds
    std: float | None  # sample standard deviation over folds and seeds (ddof = 1)
    pooled: float | None  # of all folds' test clips together
    low: float | None  # 95 % interval of the pooled figure over resampled subjects
    high: float | None
    constant_predictor: float | None  # mean over folds and seeds


class GroupFigures(TypedDict):
    """The test clips of one subject, or of all subjects of one sex."""

    subjects: int
    clips: int
    uar: float | None
    war: float | None
    low: float | None  # 95 % interval of the UAR over resampled subjects
    high: float | None


class ClassFigures(TypedDict):
    """One expression."""

    clips: int
    recall: float | None  # pooled
    std: float | None  # of the folds' recalls
    low: float | None
    high: float | None


class Bootstrap(TypedDict):
    """How the intervals were made."""

    unit: str  # "subject", or "clip" where nobody knows who is seen
    units: int
    resamples: int
    level: float


class CrossValidation(TypedDict):
    """Everything that is known of a model trained and tested on every fold."""

    kind: Literal["cross_validation"]
    name: str
    protocol: str
    data: str
    dataset: dict[str, str]  # as in a run's report
    classes: list[str]
    seeds: list[int]
    arguments: list[str]  # of every run, without its fold and seed
    options: dict[str, Any]  # resolved options of the first run
    parameters: int  # weights of the model
    folds: list[FoldFigures]
    summary: dict[str, Summary]  # of FIGURE_KEYS
    confusion_matrix: list[list[int]]  # pooled: rows are true classes, columns predicted ones
    per_class: dict[str, ClassFigures]
    per_subject: dict[str, GroupFigures]  # empty where nobody knows who is seen
    per_sex: dict[str, GroupFigures]  # empty where the corpus does not tell it
    bootstrap: Bootstrap
    versions: dict[str, str]
    seconds: float  # of all runs together


class Difference(TypedDict):
    """A variant minus the reference, on the same subjects, folds and seeds."""

    difference: float | None  # of the pooled figures
    low: float | None  # 95 % interval over resampled subjects
    high: float | None
    fold_mean: float | None  # of the folds' differences
    fold_std: float | None


class Variant(TypedDict):
    """One model of an ablation."""

    name: str
    title: str
    axis: str
    arguments: list[str]  # what sets it apart from the reference
    result: CrossValidation
    differences: dict[str, Difference]  # of FIGURE_KEYS, from the reference; empty for the reference itself
    paper: dict[str, PaperFigures]  # by corpus; empty where the paper has none


class Ablation(TypedDict):
    """Several models with the same seeds and folds."""

    kind: Literal["ablation"]
    reference: str  # name of the variant that the others are compared with
    protocol: str
    data: str
    seeds: list[int]
    variants: list[Variant]


# Reading runs


@dataclass(frozen=True)
class FinishedRun:
    """One run of a cross-validation: where it stands and what it reports."""

    fold: str
    seed: int
    folder: Path
    report: Report


@dataclass(frozen=True)
class ClipTable:
    """The predictions of a run's test clips, without the scores."""

    units: list[str]  # (N,) the subject, or the clip's name where nobody knows who is seen
    sexes: list[str | None]  # (N,)
    labels: np.ndarray  # int (N,)
    predicted: np.ndarray  # int (N,)
    frames: np.ndarray  # (N,) frames with a face
    face_figures: dict[str, np.ndarray]  # of FACE_FIGURES (N,), NaN where unknown
    knows_subjects: bool


def read_clip_table(run_dir: Path, classes: Sequence[str]) -> ClipTable:
    """Reads predictions.parquet of a run.

    Raises:
        ValueError: it is missing or damaged.
    """
    file = Path(run_dir) / PREDICTIONS_FILE
    try:
        table = parquet.read_table(file).to_pydict()
        labels, predicted = ([classes.index(name) for name in table[key]] for key in ("expression", "predicted"))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: no readable predictions of a run ({error})") from error
    known = all(subject != UNKNOWN_SUBJECT for subject in table["subject"])
    return ClipTable(
        units=table["subject"] if known else table["name"],
        # Corpora spell it "Female" and "female".
        sexes=[json.loads(attributes).get("sex", "").lower() or None for attributes in table["attributes"]],
        labels=np.array(labels),
        predicted=np.array(predicted),
        frames=np.array(table["frames_with_face"], dtype=float),
        face_figures={key: np.array(table[key], dtype=float) for key in FACE_FIGURES},
        knows_subjects=known,
    )


def join_tables(tables: Sequence[ClipTable]) -> ClipTable:
    """The clips of several runs together."""
    return ClipTable(
        units=[unit for table in tables for unit in table.units],
        sexes=[sex for table in tables for sex in table.sexes],
        labels=np.concatenate([table.labels for table in tables]),
        predicted=np.concatenate([table.predicted for table in tables]),
        frames=np.concatenate([table.frames for table in tables]),
        face_figures={key: np.concatenate([table.face_figures[key] for table in tables]) for key in FACE_FIGURES},
        knows_subjects=all(table.knows_subjects for table in tables),
    )


def sums_of(table: ClipTable, classes: Sequence[str]) -> SubjectSums:
    """The clips added up by subject, or each for itself where nobody knows who is seen."""
    return sum_by_subject(
        table.units, table.labels, table.predicted, table.frames, table.face_figures, num_classes=len(classes)
    )


def count_parameters(run_dir: Path) -> int:
    """How many weights the model of a run has, by the head of model.safetensors."""
    from safetensors import safe_open

    with safe_open(Path(run_dir) / "model.safetensors", framework="np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())


# From runs to results


def summarise_folds(name: str, protocol: str, arguments: Sequence[str], runs: Sequence[FinishedRun]) -> CrossValidation:
    """Puts the runs of all folds together.

    Args:
        name: of the model, for tables and plots.
        protocol: its name.
        arguments: of every run, without its fold and seed.
        runs: of all folds and seeds.

    Raises:
        ValueError: the runs know different classes, a subject was tested in two folds or stands in two splits of one,
            or a file is missing.
    """
    first = runs[0].report
    classes = first["classes"]
    _check_runs(runs)
    table = join_tables([read_clip_table(run.folder, classes) for run in runs])
    sums = sums_of(table, classes)
    folds = [_fold_figures(run) for run in runs]
    sex_of = dict(zip(table.units, table.sexes, strict=True))
    results = CrossValidation(
        kind="cross_validation",
        name=name,
        protocol=protocol,
        data=first["data"],
        dataset=first.get("dataset", {}),
        classes=classes,
        seeds=sorted({run.seed for run in runs}),
        arguments=list(arguments),
        options=first["options"],
        parameters=count_parameters(runs[0].folder),
        folds=folds,
        summary=_summaries(folds, sums),
        confusion_matrix=sums.confusion.sum(axis=0).tolist(),
        per_class=_per_class(classes, [run.report for run in runs], sums),
        per_subject=_by_group(sums, {name: name for name in sums.subjects}) if table.knows_subjects else {},
        per_sex=_by_group(sums, sex_of),
        bootstrap=Bootstrap(
            unit="subject" if table.knows_subjects else "clip",
            units=len(sums.subjects),
            resamples=RESAMPLES,
            level=LEVEL,
        ),
        versions=first["versions"],
        seconds=sum(sum(run.report["seconds"].values()) for run in runs),
    )
    return plain_values(results)


def _check_runs(runs: Sequence[FinishedRun]) -> None:
    """Makes sure, by what the runs say of themselves, that nobody was learnt from and tested, or tested twice."""
    tested: dict[tuple[int, str], str] = {}
    for run in runs:
        if run.report["classes"] != runs[0].report["classes"]:
            other_run = runs[0].folder
            raise ValueError(f"{run.folder} knows other classes than {other_run}: they are not folds of the same data")
        subjects = run.report["subjects"]
        train, validation, test = (set(subjects[name]) - {UNKNOWN_SUBJECT} for name in ("train", "validation", "test"))
        leaked = sorted(train & validation | train & test | validation & test)
        if leaked:
            raise ValueError(f"{run.folder} leaks: subject {leaked[0]!r} stands in two of its splits")
        for subject in test:
            other = tested.setdefault((run.seed, subject), run.fold)
            if other != run.fold:
                raise ValueError(f"subject {subject!r} is tested in {other} and in {run.fold}, and would count twice")


def _fold_figures(run: FinishedRun) -> FoldFigures:
    report, test, constant = run.report, run.report["test"], run.report["constant_predictor"]
    return FoldFigures(
        fold=run.fold,
        seed=run.seed,
        uar=test["uar"],
        war=test["war"],
        face_box_iou=test.get("face_box_iou"),
        landmark_nme=test.get("landmark_nme"),
        clips=test["clips"],
        constant_predictor={key: constant.get(key) for key in FIGURE_KEYS},
        selected_epoch=report["selected_epoch"],
        history=report["history"],
        subjects=report["subjects"],
    )


def _summaries(folds: Sequence[FoldFigures], sums: SubjectSums) -> dict[str, Summary]:
    pooled, intervals = figures_of(sums), bootstrap_intervals(sums)
    summaries: dict[str, Summary] = {}
    for key in FIGURE_KEYS:
        mean, std = _mean_and_std([fold[key] for fold in folds])
        constant, _ = _mean_and_std([fold["constant_predictor"][key] for fold in folds])
        low, high = intervals[key].tolist()
        summaries[key] = Summary(
            mean=mean, std=std, pooled=float(pooled[key]), low=low, high=high, constant_predictor=constant
        )
    return summaries


def _mean_and_std(values: Sequence[float | None]) -> tuple[float, float]:
    """Of the folds that have the figure; NaN where none has."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return mean_and_std(known) if known else (math.nan, math.nan)


def _per_class(classes: Sequence[str], reports: Sequence[Report], sums: SubjectSums) -> dict[str, ClassFigures]:
    recalls, intervals = figures_of(sums)["per_class_recall"], bootstrap_intervals(sums)["per_class_recall"]
    clips = sums.confusion.sum(axis=(0, 2))
    figures = {}
    for number, name in enumerate(classes):
        _, std = _mean_and_std([report["test"]["per_class_recall"].get(name) for report in reports])
        low, high = intervals[number].tolist()
        figures[name] = ClassFigures(
            clips=int(clips[number]), recall=float(recalls[number]), std=std, low=low, high=high
        )
    return figures


def _by_group(sums: SubjectSums, group_of: Mapping[str, str | None]) -> dict[str, GroupFigures]:
    """The figures of the subjects of each group, in the order of the groups' names; subjects of none are left out."""
    groups = {}
    for group in sorted({name for name in group_of.values() if name}):
        chosen = sums.select([group_of[subject] == group for subject in sums.subjects])
        figures, (low, high) = figures_of(chosen), bootstrap_intervals(chosen)["uar"].tolist()
        groups[group] = GroupFigures(
            subjects=len(chosen.subjects),
            clips=int(chosen.confusion.sum()),
            uar=float(figures["uar"]),
            war=float(figures["war"]),
            low=low,
            high=high,
        )
    return groups


def compare(
    model: CrossValidation, reference: CrossValidation, model_sums: SubjectSums, reference_sums: SubjectSums
) -> dict[str, Difference]:
    """Paired differences of every figure that both models have.

    Raises:
        ValueError: they were tested on other folds, seeds or subjects.
    """
    runs = [[(fold["fold"], fold["seed"]) for fold in result["folds"]] for result in (model, reference)]
    if runs[0] != runs[1]:
        raise ValueError(f"{model['name']} and {reference['name']} were not tested on the same folds and seeds")
    differences = {}
    for key in FIGURE_KEYS:
        pairs = [(fold[key], other[key]) for fold, other in zip(model["folds"], reference["folds"], strict=True)]
        known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        paired = paired_difference(model_sums, reference_sums, key, known)
        mean, std = _mean_and_std(paired.fold_differences)
        differences[key] = Difference(
            difference=paired.difference, low=paired.low, high=paired.high, fold_mean=mean, fold_std=std
        )
    return plain_values(differences)


# Files


def write_results(results: CrossValidation | Ablation, output_dir: Path) -> Path:
    """Writes results.json, whole or not at all.

    Raises:
        ValueError: the results do not follow their schema.
    """
    check_results(results, "the results")
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / RESULTS_FILE, results)
    return output_dir / RESULTS_FILE


def load_results(file: Path) -> CrossValidation | Ablation:
    """Reads results.json, or that of a folder.

    Raises:
        ValueError: it is missing or does not follow its schema.
    """
    file = Path(file) / RESULTS_FILE if Path(file).is_dir() else Path(file)
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: no readable results ({error})") from error
    check_results(results, str(file))
    return results


def check_results(results: Any, where: str) -> None:
    """Raises a ValueError that begins with `where` and names the first place that breaks the schema."""
    schemas: dict[Any, Any] = {"cross_validation": CrossValidation, "ablation": Ablation}
    schema = schemas.get(str(results.get("kind"))) if isinstance(results, dict) else None
    if schema is None:
        raise ValueError(f"{where}: are no results of a cross-validation or an ablation")
    fault = find_fault(results, schema)
    if fault:
        raise ValueError(f"{where}: {fault}")


def find_fault(value: Any, wanted: Any, place: str = "") -> str | None:
    """First place where a value breaks a type of TypedDict, dict, list, Literal, unions and plain types; None: none."""
    if wanted is Any:
        return None
    if is_typeddict(wanted) and isinstance(value, dict):
        types = get_type_hints(wanted)
        missing = sorted(wanted.__required_keys__ - set(value))
        if missing:
            return f"{place or 'the top'}: {', '.join(missing)} missing"
        faults = (find_fault(value[key], types[key], f"{place}.{key}".lstrip(".")) for key in value if key in types)
        return next((fault for fault in faults if fault), None)
    origin, inner = get_origin(wanted), get_args(wanted)
    # 1.0 is written as 1 by some writers of JSON.
    plain = NoneType if wanted is None else (int, float) if wanted is float else origin or wanted
    if origin is Literal:
        fits = value in inner
    elif origin in (Union, UnionType):
        fits = any(find_fault(value, part, place) is None for part in inner)
    else:
        fits = not is_typeddict(wanted) and isinstance(value, plain) and (wanted is bool or not isinstance(value, bool))
    if not fits:
        name = getattr(wanted, "__name__", wanted) if not inner else wanted
        return f"{place or 'the top'}: is {str(value)[:60]!r}, but must be {name}"
    entries = enumerate(value) if origin is list else value.items() if origin is dict else ()
    faults = (find_fault(entry, inner[-1], f"{place}[{key!r}]") for key, entry in entries)
    return next((fault for fault in faults if fault), None)
