"""The command `mtcae`."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

# Command -> the function that adds it to the parser, and its module.
COMMANDS = {
    "predict": ("add_predict_command", "mtcae_dfer.inference.predict"),
    "explain": ("add_explain_command", "mtcae_dfer.inference.explain"),
    "dataset": ("add_dataset_commands", "mtcae_dfer.commands.dataset"),
    "convert": ("add_convert_command", "mtcae_dfer.release.convert"),
    "export": ("add_export_command", "mtcae_dfer.release.export"),
    "demo": ("add_demo_command", "mtcae_dfer.inference.demonstration"),
    "push": ("add_push_command", "mtcae_dfer.release.push"),
}


def make_parser(commands: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of some commands. Each sets `run`, a function from the parsed namespace to the exit status."""
    parser = argparse.ArgumentParser(prog="mtcae", description="Multi-task facial expression recognition in video.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        function, module = COMMANDS[command]
        getattr(import_module(module), function)(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. What the user can mend is one line on standard error."""
    words = sys.argv[1:] if arguments is None else arguments
    # The modules of other commands, which draw or read tables, need not be loaded.
    named = words[:1] if words and words[0] in COMMANDS else COMMANDS
    parsed = make_parser(named).parse_args(words)
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
