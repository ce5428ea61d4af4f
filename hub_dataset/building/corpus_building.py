"""From a published corpus, or from stills, to a data set in one call: read the source, then build."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.building.report import BuildReport
from mtcae_dfer.hub_dataset.clips import Findings
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading
from mtcae_dfer.hub_dataset.corpora.registry import Corpus, find_corpus
from mtcae_dfer.hub_dataset.folds import GIVEN, split_kinds
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from mtcae_dfer.hub_dataset.stills.preparing import StillsOptions, prepare_stills
from mtcae_dfer.hub_dataset.stills.sources import StillsReading, read_stills


def build_corpus(
    name: str,
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: BuildOptions | None = None,
    workers: int | None = None,
    progress: bool = True,
    engine: str = "processes",
    ray_address: str | None = None,
    **reader_options: Any,
) -> tuple[CorpusReading, BuildReport]:
    """Builds a data set from the official folder of a corpus.

    Args:
        name: one of `corpora.CORPORA`.
        source: the corpus's folder.
        output_dir, workers, progress, engine, ray_address: see `build_dataset`.
        options: see `corpus_options`; None takes the corpus's usual protocol.
        reader_options: the corpus's own, such as `class_count` of RAVDESS.

    Returns:
        What was read, with everything that differs from the official release, and the report of the build.

    Raises:
        DatasetError: the corpus is unknown, the folder does not hold it, or as `build_dataset`.
    """
    corpus = find_corpus(name)
    reading = corpus.read(source, **reader_options)
    options = corpus_options(corpus, reading, options or BuildOptions(splits=split_kinds(name)[0]))
    return reading, build_dataset(reading.clips, output_dir, options, workers, progress, engine, ray_address)


def build_stills(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: BuildOptions | None = None,
    reading: StillsReading | None = None,
    stills_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
    engine: str = "processes",
    ray_address: str | None = None,
) -> tuple[Findings, BuildReport]:
    """Builds a data set from labelled pictures.

    Args:
        source: see `read_stills`.
        output_dir, workers, progress, engine, ray_address: see `build_dataset`.
        options: how to build; `stills` says how pictures become clips. None takes the source's own splits and one
            labelled frame a still.
        reading: what the source leaves open.
        stills_dir: folder of the prepared pictures; None takes OUTPUT-stills.

    Returns:
        What was left out or is to be told of the source, and the report of the build.

    Raises:
        DatasetError: as `read_stills`, `prepare_stills` and `build_dataset`.
    """
    options = options or BuildOptions(splits=GIVEN, labelling=LabellingOptions(num_frames=1))
    stills = options.stills or StillsOptions()
    found = read_stills(source, reading)
    folder = Path(stills_dir or f"{os.path.abspath(output_dir)}-stills")
    clips, findings = prepare_stills(found, folder, stills, progress)
    labelling = options.labelling
    if stills.camera_frames:
        labelling = replace(labelling, num_frames=stills.camera_frames)
    options = replace(
        options, stills=stills, labelling=labelling, label_source=options.label_source or found.label_source
    )
    report = build_dataset(clips, output_dir, options, workers, progress, engine, ray_address, findings)
    return findings, report


def corpus_options(corpus: Corpus, reading: CorpusReading, options: BuildOptions) -> BuildOptions:
    """The options with what the corpus itself decides: classes, where labels come from, its own folds.

    Name and licence are the corpus's where the options still have the defaults.
    """
    usual = BuildOptions()
    return replace(
        options,
        corpus=corpus.name,
        class_names=reading.class_names,
        label_source=reading.label_source,
        dataset_name=corpus.title if options.dataset_name == usual.dataset_name else options.dataset_name,
        license=corpus.license if options.license == usual.license else options.license,
    )
