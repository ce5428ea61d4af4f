"""The command `mtcae`."""

import argparse
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from mtcae_dfer.hub_dataset.commands import add_dataset_commands
from mtcae_dfer.training.checkpoint_conversion import add_convert_command
from mtcae_dfer.training.demonstration import add_demo_command
from mtcae_dfer.training.explain import add_explain_command
from mtcae_dfer.training.export import add_export_command
from mtcae_dfer.training.predict import add_predict_command
from mtcae_dfer.training.push import add_push_command


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each sets `run`, a function from the parsed namespace to the exit status."""
    parser = argparse.ArgumentParser(prog="mtcae", description="Multi-task facial expression recognition in video.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_predict_command(subparsers)
    add_explain_command(subparsers)
    add_dataset_commands(subparsers)
    add_convert_command(subparsers)
    add_export_command(subparsers)
    add_demo_command(subparsers)
    add_push_command(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. What the user can mend is one line on standard error."""
    parsed = make_parser().parse_args(arguments)
    logging.disable_progress_bar()  # of loading weights, which takes a moment; our own bars stay
    try:
        return parsed.run(parsed)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        print(f"mtcae: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
