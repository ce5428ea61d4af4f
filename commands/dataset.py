"""Command line: `mtcae dataset build CORPUS SOURCE OUT` and `mtcae dataset build synthetic OUT`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from mtcae_dfer.hub_dataset.clips import Clip, DatasetError, OptionError
from mtcae_dfer.hub_dataset.corpora.reading import LINES_PER_FINDING
from mtcae_dfer.hub_dataset.corpora.registry import CORPORA, crema_d, mead, ravdess
from mtcae_dfer.hub_dataset.folds import GIVEN, KINDS_OF_PARTS, OFFICIAL_CORPORA, count_units, fold_table, split_kinds
from mtcae_dfer.hub_dataset.labelling.one_machine import LONGEST_GAP
from mtcae_dfer.hub_dataset.workers import ENGINES, check_device, check_engine

if TYPE_CHECKING:
    from mtcae_dfer.hub_dataset.building.build import BuildOptions
    from mtcae_dfer.hub_dataset.building.report import BuildReport

Run = Callable[[argparse.Namespace], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions; the parsed namespace's `run(namespace)` returns the exit status.

    `run` raises ValueError with a message of one line where the user has to change something.
    """
    actions = parser.add_subparsers(dest="dataset_action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="label the clips of a corpus and write a data set")
    corpora = build.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    _add_published_corpora(corpora)
    _add_folder_command(corpora)
    _add_stills_command(corpora)
    _add_synthetic_command(corpora)

    parser = actions.add_parser("pack-frames", help="turn folders of JPEG frames into video files of the same pixels")
    parser.add_argument("source", help="the folder above the folders of frames")
    parser.add_argument("output", help="folder of the videos")
    parser.add_argument("--frame-rate", type=_frame_rate, default=Fraction(25), help="to write down (default: 25)")
    parser.set_defaults(run=_pack_frames)

    parser = actions.add_parser("cache-frames", help="decode a data set once, for training with --frame-cache OUT")
    parser.add_argument("dataset", help="folder of the data set")
    parser.add_argument("output", metavar="OUT", help="folder of all caches; each has a folder of its own in it")
    parser.add_argument("--size", type=int, required=True, help="side of the model's frames in pixels (tiny: 64)")
    parser.add_argument("--videos", help="folder of the corpus's videos, for a data set of labels without videos")
    parser.add_argument("--face-crop", action="store_true", help="as training with --face-crop takes the frames")
    parser.add_argument("--face-crop-margin", type=float, help="see training; only with --face-crop")
    parser.add_argument("--face-crop-rise", type=float, help="see training; only with --face-crop")
    parser.set_defaults(run=_cache_frames)

    parser = actions.add_parser("check", help="look for the videos of labels that were built with --labels-only")
    parser.add_argument("labels", help="folder of the labels")
    parser.add_argument("videos", help="folder with a copy of the corpus")
    parser.set_defaults(run=_check_videos)

    parser = actions.add_parser("push", help="upload a built data set to the Hub")
    parser.add_argument("dataset", help="folder of the data set")
    parser.add_argument("repo_id", metavar="org/name", help="repository on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    parser.add_argument("--private", action="store_true", help="make the repository private where it is not there yet")
    parser.add_argument(
        "--i-may-publish-these-videos",
        dest="permission",
        action="store_true",
        help="upload videos and contact sheets although the corpus's licence does not let everybody pass them on",
    )
    parser.set_defaults(run=_push)


def _add_published_corpora(corpora: argparse._SubParsersAction) -> None:
    """Adds a command for each published corpus, with its reader's own options."""
    ravdess_parser = _add_corpus_command(corpora, "ravdess", ("class_count", "modality", "channel"))
    ravdess_parser.add_argument(
        "--class-count",
        type=int,
        default=7,
        choices=tuple(ravdess.CLASSES_OF_COUNT),
        help="7: calm counts as neutral, as in the paper; 8: calm is a class (default: 7)",
    )
    ravdess_parser.add_argument(
        "--modality",
        default="video-only",
        choices=ravdess.MODALITY_CHOICES,
        help="which files; either: one per performance (default: video-only)",
    )
    ravdess_parser.add_argument("--channel", default="speech", choices=ravdess.CHANNEL_CHOICES, help="default: speech")
    _add_corpus_command(corpora, "crema-d", ("labels",)).add_argument(
        "--labels",
        default="intended",
        choices=crema_d.LABEL_CHOICES,
        help="the acted emotion, or the one that most raters saw in the face (default: intended)",
    )
    mead_parser = _add_corpus_command(corpora, "mead", ("views", "levels"))
    mead_parser.add_argument(
        "--view",
        dest="views",
        nargs="+",
        default=["front"],
        choices=mead.VIEWS,
        help="cameras to take clips from (default: front)",
    )
    mead_parser.add_argument(
        "--levels",
        nargs="+",
        type=int,
        default=list(mead.LEVELS),
        choices=mead.LEVELS,
        help="intensities to take; neutral has level 1 only (default: all)",
    )
    for name in OFFICIAL_CORPORA:
        told = "folder of the official lists (default: searched)"
        _add_corpus_command(corpora, name, ("lists",)).add_argument("--lists", metavar="FOLDER", help=told)


def _add_corpus_command(
    corpora: argparse._SubParsersAction, name: str, reader_options: Sequence[str]
) -> argparse.ArgumentParser:
    """Adds the command of a published corpus. Its reader gets the named values of the parsed namespace."""
    corpus = CORPORA[name]
    parser = corpora.add_parser(name, help=f"a folder with {corpus.layout}")
    parser.add_argument("source", help=f"folder with {corpus.layout}")
    parser.add_argument("output", help="folder of the data set")
    _add_build_options(parser, dataset_name=corpus.title, license_name=corpus.license, corpus=name)
    parser.add_argument(
        "--all-findings", action="store_true", help="print every missing or surplus recording, not the first few"
    )
    parser.set_defaults(run=_build_from_corpus, reader_options=tuple(reader_options))
    return parser


def _add_folder_command(corpora: argparse._SubParsersAction) -> None:
    parser = corpora.add_parser("folder", help="a folder class_name/clip.mp4, or a CSV file")
    parser.add_argument("source", help="folder of class folders, or a CSV file with columns path, expression, subject")
    parser.add_argument("output", help="folder of the data set")
    parser.add_argument("--subjects-csv", help="CSV file with columns path, subject, for a folder")
    parser.add_argument("--subject-pattern", help="regular expression whose group finds the subject in a file name")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="all classes in the order of their ids")
    _add_build_options(parser, dataset_name=None, license_name="unknown")
    parser.set_defaults(run=_build_from_folder)


def _add_stills_command(corpora: argparse._SubParsersAction) -> None:
    parser = corpora.add_parser(
        "stills", help="pictures: class folders, CSV or Parquet files, FER2013, RAF-DB, AffectNet"
    )
    parser.add_argument("source", help="folder, .csv or .parquet file of labelled pictures")
    parser.add_argument("output", help="folder of the data set")
    parser.add_argument("--stills-dir", help="folder of the prepared pictures (default: OUTPUT-stills)")
    parser.add_argument(
        "--camera-path",
        type=int,
        default=0,
        metavar="FRAMES",
        help="make of every still a clip of so many frames, with a drawn camera path over it (default: 0, the still)",
    )
    parser.add_argument("--subject-pattern", help="regular expression whose group finds the subject in a file name")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="all classes in the order of their ids")
    parser.add_argument(
        "--rename", nargs="+", default=[], metavar="FROM=TO", help="classes that the source spells otherwise"
    )
    parser.add_argument(
        "--votes",
        metavar="FILE",
        help="fer2013new.csv of FER+: what ten raters saw in each picture of FER2013's own CSV file",
    )
    _add_build_options(parser, dataset_name=None, license_name="unknown", kinds=(GIVEN, *split_kinds()), num_frames=1)
    parser.set_defaults(run=_build_from_stills)


def _add_synthetic_command(corpora: argparse._SubParsersAction) -> None:
    parser = corpora.add_parser("synthetic", help="drawn faces, made on the spot")
    parser.add_argument("output", help="folder of the data set")
    parser.add_argument("--clips-dir", help="folder of the drawn clips (default: OUTPUT-clips)")
    parser.add_argument("--subjects", type=int, help="number of drawn people")
    parser.add_argument("--takes", type=int, help="clips of each expression by each person")
    parser.add_argument("--corpus-seed", type=int, default=0, help="seed of the drawings (default: 0)")
    _add_build_options(parser, dataset_name="mtcae-synthetic", license_name="apache-2.0")
    parser.set_defaults(run=_build_synthetic)


def _add_build_options(
    parser: argparse.ArgumentParser,
    dataset_name: str | None,
    license_name: str,
    corpus: str | None = None,
    kinds: Sequence[str] | None = None,
    num_frames: int = 16,
) -> None:
    told = dataset_name or "the output folder's name"
    parser.add_argument("--name", default=dataset_name, help=f"name of the data set in its card (default: {told})")
    parser.add_argument("--license", default=license_name, help=f"licence of the videos (default: {license_name})")
    kinds = kinds or split_kinds(corpus)
    parser.add_argument(
        "--splits", default=kinds[0], choices=kinds, help=f"how the clips are divided (default: {kinds[0]})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the division (default: 0)")
    parser.add_argument("--num-folds", type=int, default=5, help="number of folds, for --splits folds (default: 5)")
    told = f"labelled frames per clip; a shorter clip repeats some (default: {num_frames})"
    parser.add_argument("--num-frames", type=int, default=num_frames, help=told)
    parser.add_argument("--size", type=int, default=224, help="side of the labelled frames in pixels (default: 224)")
    parser.add_argument("--min-face", type=float, default=56.0, help="smallest face to look for first (default: 56)")
    parser.add_argument(
        "--face-policy", default="track", choices=("track", "largest", "central"), help="which face is labelled"
    )
    parser.add_argument(
        "--interpolate-gaps",
        type=int,
        default=0,
        choices=range(LONGEST_GAP + 1),
        help="longest run of frames without a face to fill from its neighbours, flagged as such (default: 0)",
    )
    parser.add_argument(
        "--labels-only", action="store_true", help="write names and hashes of the videos, not the videos themselves"
    )
    parser.add_argument("--device", default="cpu", help="where the face detector runs (default: cpu)")
    parser.add_argument(
        "--engine",
        default="processes",
        choices=ENGINES,
        help="what labels side by side: processes of this machine, or a Ray cluster (default: processes)",
    )
    parser.add_argument("--ray-address", help="of a running Ray cluster (default: one is started here)")
    parser.add_argument("--workers", type=int, help="labelling processes (default: one per processor)")


def _frame_rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text} is no number, such as 25 or 30000/1001") from None


def _telling_options(**names: str) -> Callable[[Run], Run]:
    """Lets the errors of a command tell its options instead of the fields behind them.

    Args:
        names: field -> name of its option, where that is another one.
    """

    def decorate(run: Run) -> Run:
        @wraps(run)
        def run_and_tell(arguments: argparse.Namespace) -> int:
            def option(field: str) -> str:
                name = names.get(field, field)
                return f"--{name.replace('_', '-')}" if hasattr(arguments, name) else field

            try:
                return run(arguments)
            except OptionError as error:
                rule = re.sub(r"`(\w+)`", lambda field: option(field[1]), error.rule)
                raise DatasetError(f"{option(error.name)} {error.value}: {rule}") from error

        return run_and_tell

    return decorate


@_telling_options()
def _pack_frames(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.corpora.frame_folders import pack_frame_folders

    report = pack_frame_folders(arguments.source, arguments.output, arguments.frame_rate)
    print(f"{report.packed} folders of frames are videos in {arguments.output}")
    for failure in report.failures:
        print(f"  left out: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def _cache_frames(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.training.data.clip_dataset import FaceCropConfig
    from mtcae_dfer.training.data.splits import cache_data_set

    if arguments.size < 1:
        raise DatasetError(f"--size {arguments.size}: must be at least 1 pixel")
    told = {"margin": arguments.face_crop_margin, "rise": arguments.face_crop_rise}
    told = {name: value for name, value in told.items() if value is not None}
    if told and not arguments.face_crop:
        raise DatasetError(f"--face-crop-{next(iter(told))}: is for --face-crop, which is not asked for")
    crop = FaceCropConfig(**told) if arguments.face_crop else None
    size, folder = (arguments.size, arguments.size), Path(arguments.output)
    count, total = cache_data_set(arguments.dataset, folder, size, crop, arguments.videos)
    print(f"{count} clips, {total / 1e9:.2f} GB of frames, checked; train with --frame-cache {arguments.output}")
    return 0


@_telling_options(height="size", width="size")
def _build_from_corpus(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.building.corpus_building import corpus_options

    options = _build_options(arguments)
    chosen = {name: getattr(arguments, name) for name in arguments.reader_options}
    corpus = CORPORA[arguments.corpus]
    reading = corpus.read(arguments.source, **chosen)
    for line in reading.report_lines(None if arguments.all_findings else LINES_PER_FINDING):
        print(line, file=sys.stderr)
    return _build(reading.clips, arguments, corpus_options(corpus, reading, options))


@_telling_options(height="size", width="size")
def _build_from_folder(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.corpora.folder import read_folder

    options = _build_options(arguments, arguments.classes)
    clips = read_folder(arguments.source, arguments.subjects_csv, arguments.subject_pattern, arguments.classes)
    return _build(clips, arguments, options)


@_telling_options(height="size", width="size", camera_frames="camera_path")
def _build_from_stills(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.building.corpus_building import build_stills
    from mtcae_dfer.hub_dataset.corpora.folder import SubjectFinder
    from mtcae_dfer.hub_dataset.stills.preparing import StillsOptions
    from mtcae_dfer.hub_dataset.stills.sources import StillsReading

    classes = None if arguments.classes is None else tuple(arguments.classes)
    spellings = {}
    for text in arguments.rename:
        old, _, new = text.partition("=")
        if not (old and new):
            raise DatasetError(f"--rename {text}: must be FROM=TO, such as angry=anger.")
        spellings[old] = new
    stills = StillsOptions(camera_frames=arguments.camera_path, seed=arguments.seed)
    votes = None if arguments.votes is None else Path(arguments.votes)
    findings, report = build_stills(
        arguments.source,
        arguments.output,
        replace(_build_options(arguments, classes), stills=stills),
        StillsReading(classes, spellings, SubjectFinder(pattern=arguments.subject_pattern), votes),
        arguments.stills_dir,
        workers=arguments.workers,
        engine=arguments.engine,
        ray_address=arguments.ray_address,
    )
    _print_report(report)
    return 1 if {failure["name"] for failure in report.failures} - findings.left_out.keys() else 0


@_telling_options(height="size", width="size", seed="corpus_seed")
def _build_synthetic(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
    from mtcae_dfer.hub_dataset.corpora.folder import read_folder
    from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
    from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus

    chosen = {"subjects": arguments.subjects, "takes": arguments.takes, "seed": arguments.corpus_seed}
    config = SyntheticCorpusConfig(**{name: value for name, value in chosen.items() if value is not None})
    options = _build_options(arguments, config.expressions)
    clips_dir = arguments.clips_dir or f"{os.path.abspath(arguments.output)}-clips"
    corpus = make_synthetic_corpus(clips_dir, config, workers=arguments.workers)
    clips = read_folder(corpus / "videos" / "clips.csv", class_names=config.expressions)
    clips = attach_drawn_labels(clips, corpus)
    return _build(clips, arguments, options)


def _build_options(arguments: argparse.Namespace, class_names: Sequence[str] | None = None) -> BuildOptions:
    """The options of a build, refused here where they are wrong: before a source is read or prepared."""
    from mtcae_dfer.hub_dataset.building.build import BuildOptions
    from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions

    check_engine(arguments.engine, arguments.ray_address, arguments.workers)
    if arguments.engine == "processes":  # the machines of a cluster have devices of their own
        check_device(arguments.device)
    labelling = LabellingOptions(
        num_frames=arguments.num_frames,
        height=arguments.size,
        width=arguments.size,
        min_face=arguments.min_face,
        face_policy=arguments.face_policy,
        interpolate_gaps=arguments.interpolate_gaps,
        device=arguments.device,
    )
    return BuildOptions(
        dataset_name=arguments.name or Path(os.path.abspath(arguments.output)).name,
        license=arguments.license,
        class_names=None if class_names is None else tuple(class_names),
        splits=arguments.splits,
        seed=arguments.seed,
        num_folds=arguments.num_folds,
        labelling=labelling,
        embed_videos=not arguments.labels_only,
    )


def _build(clips: Sequence[Clip], arguments: argparse.Namespace, options: BuildOptions) -> int:
    from mtcae_dfer.hub_dataset.building.build import build_dataset

    report = build_dataset(
        clips,
        arguments.output,
        options,
        workers=arguments.workers,
        engine=arguments.engine,
        ray_address=arguments.ray_address,
    )
    _print_report(report)
    return 1 if report.failures else 0


def _print_report(report: BuildReport) -> None:
    subjects = f"{count_units(report.subject_counts)} subjects"
    print(f"{report.dataset_name}: {report.clip_count} clips of {subjects} in {report.output_dir}")
    print(f"  classes: {', '.join(f'{name} {count}' for name, count in report.class_counts.items())}")
    print(f"  protocol: {report.protocol['name']}")
    # The class balance of every split: words to the left, numbers to the right.
    units = "parts" if report.protocol["kind"] in KINDS_OF_PARTS else "subjects"
    table = fold_table(report.protocol["folds"], report.fold_counts, units)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        print(f"    {'  '.join([*words, *numbers])}")
    print(f"  frames with a face: {report.face_coverage:.1%}", end="")
    print(f", and {report.interpolated_share:.1%} interpolated" if report.interpolated_share else "")
    if report.clips_without_face:
        print(f"  clips without any face: {len(report.clips_without_face)}, such as {report.clips_without_face[0]}")
    for kind, entries in (("warnings", report.warnings), ("clips left out", report.failures)):
        if entries:
            print(f"  {len(entries)} {kind}:", file=sys.stderr)
        for entry in entries:
            print(f"    {entry['name']}: {entry['reason']}", file=sys.stderr)


def _check_videos(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.loading.load import match_labels

    match = match_labels(arguments.labels, arguments.videos)
    print(f"{len(match.found)} videos are there with the labelled content, {len(match.missing)} are missing, ", end="")
    print(f"{len(match.different)} have other content")
    for kind, names in (("missing", match.missing), ("other content", match.different)):
        for name in names:
            print(f"  {kind}: {name}")
    return 0 if match.complete else 1


def _push(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.loading.publishing import plan_upload, push_dataset

    upload = plan_upload(arguments.dataset, arguments.repo_id, arguments.permission)
    print("\n".join(upload.describe()))
    if not arguments.dry_run:
        print(f"Uploaded: {push_dataset(upload, arguments.private)}")
    return 0
