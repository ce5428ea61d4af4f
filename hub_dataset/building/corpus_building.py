"""From a published corpus to a data set in one call: read its folder, then build."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.building.report import BuildReport
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading
from mtcae_dfer.hub_dataset.corpora.registry import Corpus, find_corpus
from mtcae_dfer.hub_dataset.folds import split_kinds


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
