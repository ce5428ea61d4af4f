"""`mtcae push`: a finished run as a model repository on the Hub, or, dry, as a folder."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    parser.add_argument(
        "run_dir", metavar="RUN", help="folder of a finished run, such as one fold of a cross-validation"
    )
    parser.add_argument("repo_id", metavar="org/name", help="repository on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="write the folder only")
    parser.add_argument("--output", help="folder to write (default: RUN/hub)")
    parser.add_argument("--license", help="licence of the weights (default: what follows from their parts)")
    parser.add_argument("--private", action="store_true", help="make the repository private where it is not there yet")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the folder and uploads it."""
    from mtcae_dfer.release.push import upload, write_model_folder

    folder = Path(options.output) if options.output else Path(options.run_dir) / "hub"
    write_model_folder(Path(options.run_dir), options.repo_id, folder, options.license)
    print(f"Model folder with its card: {folder}")
    if not options.dry_run:
        print(f"Uploaded: {upload(folder, options.repo_id, options.private)}", file=sys.stderr)
    return 0
