"""`mtcae compare`: the systems that the paper compares with, on the same folds."""

import argparse

from .plan_options import add_plan_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    add_plan_arguments(parser, "runs/comparison")
    parser.add_argument(
        "--systems", help="names with commas between; a wrong one lists the right ones (default: all systems)"
    )
    parser.add_argument("--size", choices=("tiny", "paper"), default="tiny", help="of all systems (default: tiny)")
    parser.add_argument(
        "--encoders",
        default="",
        help="pre-trained encoders by preset: tiny_lgi_former=FOLDER,tiny=FOLDER (default: none, all start afresh)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains and tests all systems, and writes their table."""
    from mtcae_dfer.experiments.compare import compare

    compare(options, options.run_words)
    return 0
