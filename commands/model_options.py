"""`--model` and `--device`, for the commands that use a trained model."""

import argparse
import sys


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, for which the demonstration model stands in, and `--device`."""
    told = "model folder or Hub id (default: a tiny one that was trained on drawn faces)"
    parser.add_argument("--model", help=told)
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")


def chosen_model(options: argparse.Namespace) -> str:
    """The model named on the command line, or else the demonstration model, which says on standard error what it is."""
    from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, DEMONSTRATION_NOTE

    if options.model is not None:
        return options.model
    print(f"mtcae: no --model is named. {DEMONSTRATION_NOTE}", file=sys.stderr)
    return str(DEMONSTRATION_MODEL)
