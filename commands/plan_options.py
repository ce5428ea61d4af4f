"""Options that `cross-validate`, `ablate` and `compare` share; all further ones are those of `training/run.py`."""

import argparse


def add_plan_arguments(parser: argparse.ArgumentParser, output_dir: str) -> None:
    """Adds what says which folds of which data set are run, and how."""
    parser.epilog = "Further options are those of training/run.py and go to every run."
    parser.add_argument("--dataset", help="folder of a built data set (default: draw the synthetic corpus)")
    parser.add_argument(
        "--protocol",
        help="how subjects are divided: as-built (default), folds:NUMBER, leave-one-subject-out, a published division "
        "of the corpus such as mae-dfer, or a JSON file; of the synthetic corpus folds:3",
    )
    told = f"folder of all runs and results (default: {output_dir})"
    parser.add_argument("--output-dir", default=output_dir, help=told)
    parser.add_argument("--seeds", default="0", help="seeds of every fold's training, with commas between (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
