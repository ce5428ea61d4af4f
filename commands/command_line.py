"""The command `mtcae`."""

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

DESCRIPTION = "Multi-task facial expression recognition in video."
MEMORY_ADVICE = "lower --batch-size, or take a smaller model or --device cpu"


@dataclass(frozen=True)
class Command:
    """A command: its module in this room, and what it is for.

    The module has `add_arguments(parser)`, which also sets `run`, a function from the parsed options to the exit
    status. With `further_options`, options that the parser does not know are no errors but stand in
    `options.run_words`, spelled with underscores: they are for `training/run.py`.
    """

    module: str
    help: str
    further_options: bool = False
    when_stopped: str = ""  # how to go on after Ctrl-C


GO_ON = "Go on with the same command."
COMMANDS = {
    "predict": Command(
        "predict",
        "expressions and faces of videos, or of a camera",
        when_stopped="With --output-dir, go on with the same command.",
    ),
    "explain": Command("explain", "where the model looked in a video"),
    "demo": Command("demo", "a web page on this machine to try a model on clips"),
    "dataset": Command("dataset", "build, check and publish labelled data sets"),
    "cross-validate": Command("cross_validate", "train and test a model on every fold of a protocol", True, GO_ON),
    "ablate": Command("ablate", "compare variants of a model on the same folds", True, GO_ON),
    "compare": Command("compare", "compare this model with others on the same folds", True, GO_ON),
    "pretraining-gain": Command("pretraining_gain", "what pre-training without labels is worth", when_stopped=GO_ON),
    "extract-features": Command("extract_features", "per-frame features of videos, for MTL-ER"),
    "convert": Command("convert", "released VideoMAE, MAE-DFER, SVFAP, MARLIN and S4D checkpoints into model folders"),
    "export": Command("export", "a trained model as one graph, for ONNX Runtime or torch.export"),
    "push": Command("push", "write a run's model folder with its card, and upload it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. What the user can mend is one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        parser = argparse.ArgumentParser(prog="mtcae", description=DESCRIPTION)
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, described in COMMANDS.items():
            commands.add_parser(name, help=described.help)
        parser.parse_args(words)  # prints the help, or what is wrong, and leaves
    command = COMMANDS[words[0]]
    options = parse_command(words[0], words[1:])
    try:
        if arguments is None:  # the process is this command's alone
            import_once()
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights, which takes a moment; our own bars stay
        return options.run(options)
    except KeyboardInterrupt:
        # Without an import: torch may be half imported.
        print(f"\nStopped. {command.when_stopped}".rstrip(), file=sys.stderr)
        return 130
    except Exception as error:
        from mtcae_dfer.training.errors import tell_user

        return tell_user(error, "mtcae", MEMORY_ADVICE)


def import_once() -> None:
    """Imports what every command works with, and leaves it out of all searches for garbage.

    torch and transformers make more than a million objects, all of which stay; searched again and again while they
    come, they cost a sixth of the start.

    Raises:
        SystemExit: a package is missing or broken.
    """
    gc.disable()
    try:
        import_module("mtcae_dfer")
    except ImportError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        sys.exit(f"mtcae: error: what it works with cannot be imported ({reason}); install the package anew")
    gc.freeze()
    gc.enable()


def parse_command(name: str, words: Sequence[str]) -> argparse.Namespace:
    """The options of a command. Exits as argparse does where they are wrong, or where `--help` is among them."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"mtcae {name}", description=f"{command.help[0].upper()}{command.help[1:]}.")
    parser.allow_abbrev = not command.further_options
    import_module(f".{command.module}", __package__).add_arguments(parser)
    words = [spell(word, "_", "-") for word in words]
    if not command.further_options:
        return parser.parse_args(words)
    options, further = parser.parse_known_args(words)
    options.run_words = [spell(word, "-", "_") for word in further]
    return options


def spell(word: str, old: str, new: str) -> str:
    """An option `--some-name` or `--some-name=value` with another sign between its words; other words stay."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace(old, new)}{equals}{value}"


if __name__ == "__main__":
    sys.exit(main())
