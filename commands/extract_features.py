"""`mtcae extract-features`: per-frame features of videos by a trained encoder."""

import argparse

from .dataclass_options import add_fields, from_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    from mtcae_dfer.training.affect.extract_features import ExtractionArguments

    add_fields(parser, ExtractionArguments)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes one file with the features of all frames."""
    from mtcae_dfer.training.affect.extract_features import ExtractionArguments, write_features_of

    count, file = write_features_of(from_options(ExtractionArguments, options))
    print(f"Features of {count} videos: {file}")
    return 0
