"""Command line: `mtcae dataset build folder SOURCE OUT` and `mtcae dataset build synthetic OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtcae_dfer.hub_dataset.clips import Clip

if TYPE_CHECKING:
    from mtcae_dfer.hub_dataset.building import BuildReport


def add_dataset_commands(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command `dataset`. The parsed namespace's `run(namespace)` returns the exit status.

    `run` raises ValueError with a message of one line where the user has to change something.
    """
    dataset = subparsers.add_parser("dataset", help="build labelled data sets")
    actions = dataset.add_subparsers(dest="dataset_action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="label the clips of a corpus and write a data set")
    corpora = build.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    _add_folder_command(corpora)
    _add_synthetic_command(corpora)


def _add_folder_command(corpora: argparse._SubParsersAction) -> None:
    parser = corpora.add_parser("folder", help="a folder class_name/clip.mp4, or a CSV file")
    parser.add_argument("source", help="folder of class folders, or a CSV file with columns path, expression, subject")
    parser.add_argument("output", help="folder of the data set")
    parser.add_argument("--subjects-csv", help="CSV file with columns path, subject, for a folder")
    parser.add_argument("--subject-pattern", help="regular expression whose group finds the subject in a file name")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="all classes in the order of their ids")
    _add_build_options(parser, dataset_name=None, license_name="unknown")
    parser.set_defaults(run=_build_from_folder)


def _add_synthetic_command(corpora: argparse._SubParsersAction) -> None:
    parser = corpora.add_parser("synthetic", help="drawn faces, made on the spot")
    parser.add_argument("output", help="folder of the data set")
    parser.add_argument("--clips-dir", help="folder of the drawn clips (default: OUTPUT-clips)")
    parser.add_argument("--subjects", type=int, help="number of drawn people")
    parser.add_argument("--takes", type=int, help="clips of each expression by each person")
    parser.add_argument("--corpus-seed", type=int, default=0, help="seed of the drawings (default: 0)")
    _add_build_options(parser, dataset_name="mtcae-synthetic", license_name="apache-2.0")
    parser.set_defaults(run=_build_synthetic)


def _add_build_options(parser: argparse.ArgumentParser, dataset_name: str | None, license_name: str) -> None:
    told = dataset_name or "the output folder's name"
    parser.add_argument("--name", default=dataset_name, help=f"name of the data set in its card (default: {told})")
    parser.add_argument("--license", default=license_name, help=f"licence of the videos (default: {license_name})")
    parser.add_argument(
        "--splits",
        default="holdout",
        choices=("holdout", "folds", "leave-one-subject-out", "none"),
        help="how subjects are divided (default: holdout)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the division (default: 0)")
    parser.add_argument("--num-folds", type=int, default=5, help="number of folds, for --splits folds (default: 5)")
    parser.add_argument("--num-frames", type=int, default=16, help="labelled frames per clip (default: 16)")
    parser.add_argument("--size", type=int, default=224, help="side of the labelled frames in pixels (default: 224)")
    parser.add_argument("--min-face", type=float, default=56.0, help="smallest face to look for first (default: 56)")
    parser.add_argument(
        "--face-policy", default="track", choices=("track", "largest", "central"), help="which face is labelled"
    )
    parser.add_argument("--device", default="cpu", help="where the face detector runs (default: cpu)")
    parser.add_argument("--workers", type=int, help="labelling processes (default: one per processor)")


def _build_from_folder(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.folder import read_folder

    clips = read_folder(arguments.source, arguments.subjects_csv, arguments.subject_pattern, arguments.classes)
    return _build(clips, arguments, arguments.classes)


def _build_synthetic(arguments: argparse.Namespace) -> int:
    from mtcae_dfer.hub_dataset.folder import read_folder
    from mtcae_dfer.hub_dataset.synthetic import SyntheticCorpusConfig, make_synthetic_corpus

    chosen = {"subjects": arguments.subjects, "takes": arguments.takes, "seed": arguments.corpus_seed}
    config = SyntheticCorpusConfig(**{name: value for name, value in chosen.items() if value is not None})
    clips_dir = arguments.clips_dir or f"{os.path.abspath(arguments.output)}-clips"
    corpus = make_synthetic_corpus(clips_dir, config, workers=arguments.workers)
    clips = read_folder(corpus / "videos" / "clips.csv", class_names=config.expressions)
    return _build(clips, arguments, config.expressions)


def _build(clips: Sequence[Clip], arguments: argparse.Namespace, class_names: Sequence[str] | None) -> int:
    from mtcae_dfer.hub_dataset.building import BuildOptions, build_dataset
    from mtcae_dfer.hub_dataset.labelling import LabellingOptions

    labelling = LabellingOptions(
        num_frames=arguments.num_frames,
        height=arguments.size,
        width=arguments.size,
        min_face=arguments.min_face,
        face_policy=arguments.face_policy,
        device=arguments.device,
    )
    options = BuildOptions(
        dataset_name=arguments.name or Path(os.path.abspath(arguments.output)).name,
        license=arguments.license,
        class_names=None if class_names is None else tuple(class_names),
        splits=arguments.splits,
        seed=arguments.seed,
        num_folds=arguments.num_folds,
        labelling=labelling,
    )
    report = build_dataset(clips, arguments.output, options, workers=arguments.workers)
    _print_report(report)
    return 1 if report.failures else 0


def _print_report(report: BuildReport) -> None:
    subjects = len(report.subject_counts)
    print(f"{report.dataset_name}: {report.clip_count} clips of {subjects} subjects in {report.output_dir}")
    print(f"  classes: {', '.join(f'{name} {count}' for name, count in report.class_counts.items())}")
    print(f"  protocol: {report.protocol['name']}")
    print(f"  frames with a face: {report.face_coverage:.1%}")
    for kind, entries in (("only partly read", report.warnings), ("left out", report.failures)):
        if entries:
            print(f"  {len(entries)} clips {kind}:", file=sys.stderr)
        for entry in entries:
            print(f"    {entry['name']}: {entry['reason']}", file=sys.stderr)
