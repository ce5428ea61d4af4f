"""`mtcae ablate`: the structures of Table I, and further axes."""

import argparse

from .plan_options import add_plan_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    add_plan_arguments(parser, "runs/ablation")
    told = "what to vary, with commas between; a wrong name lists the right ones (default: structures)"
    parser.add_argument("--axes", default="structures", help=told)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains and tests all variants, and writes their table."""
    from mtcae_dfer.experiments.ablate import ablate

    ablate(options, options.run_words)
    return 0
