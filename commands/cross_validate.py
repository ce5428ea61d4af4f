"""`mtcae cross-validate`: every fold of a protocol.

mtcae cross-validate
mtcae cross-validate --dataset FOLDER --protocol mae-dfer --model PRESET --jobs 2
mtcae cross-validate --dataset FOLDER --fold fold_3     # one fold, as a job of its own
mtcae cross-validate --dataset FOLDER --collect         # when all jobs are done
"""

import argparse

from .plan_options import add_plan_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    add_plan_arguments(parser, "runs/cross_validation")
    parser.add_argument("--name", help="of the model, in tables and plots (default: the preset or checkpoint)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fold", help="train and test this fold only, by its name or its number from 1")
    which.add_argument("--collect", action="store_true", help="train nothing: put together the folds that are done")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains and tests the folds, and puts the results together."""
    from mtcae_dfer.experiments.cross_validate import cross_validate

    cross_validate(options, options.run_words)
    return 0
