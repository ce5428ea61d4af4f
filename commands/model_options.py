"""`--model` and `--device`, for the commands that use a trained model."""

import argparse
import sys


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, for which the model of this repository stands in, and `--device`."""
    told = "model folder or Hub id (default: the one of this repository)"
    parser.add_argument("--model", help=told)
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")


def chosen_model(options: argparse.Namespace) -> str:
    """The model named on the command line, or else that of this repository, which says on standard error what it is."""
    from mtcae_dfer.inference.models import PUBLISHED_MODEL, PUBLISHED_NOTE

    if options.model is not None:
        return options.model
    print(f"mtcae: no --model is named. {PUBLISHED_NOTE}", file=sys.stderr)
    return str(PUBLISHED_MODEL)
