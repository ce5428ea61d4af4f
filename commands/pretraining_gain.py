"""`mtcae pretraining-gain`: few labelled people, with and without pre-training on many unlabelled ones."""

import argparse

from .dataclass_options import add_fields, from_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    from mtcae_dfer.experiments.pretraining_gain import GainOptions

    add_fields(parser, GainOptions)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the measurement and prints its table."""
    from mtcae_dfer.experiments.pretraining_gain import GainOptions, measure_gain

    print(measure_gain(from_options(GainOptions, options)))
    return 0
