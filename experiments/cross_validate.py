"""Trains and tests a model on every fold of a protocol, and puts the results together.

    mtcae cross-validate
    mtcae cross-validate --dataset FOLDER --protocol mae-dfer --model PRESET --jobs 2
    mtcae cross-validate --dataset FOLDER --fold fold_3     # one fold, as a job of its own
    mtcae cross-validate --dataset FOLDER --collect         # when all jobs are done

Every option that is not one of these is an option of `training/run.py` and goes to every run. A fold's model is chosen
on validation subjects of that fold; its test subjects are looked at once, after training. Without `--dataset` it is a
rehearsal on the synthetic corpus: drawn faces, three folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from mtcae_dfer.experiments.results import CrossValidation, FinishedRun, summarise_folds, write_results
from mtcae_dfer.experiments.runner import Experiment, is_done, run_experiments
from mtcae_dfer.hub_dataset.folds import Protocol
from mtcae_dfer.hub_dataset.loading.protocols import find_fold, resolve_protocol
from mtcae_dfer.training.arguments import RunArguments
from mtcae_dfer.training.evaluation.report import Report
from mtcae_dfer.training.running import Stopwatch, make_synthetic_dataset, parse_checked

REHEARSAL_PROTOCOL = "folds:3"
# What the command itself decides for each of its runs.
OWN_RUN_OPTIONS = (
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "train_on_all",
    "push_to_hub",
    "seed",
)


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the folds and seeds of one data set, and what every run is told."""

    dataset: str
    protocol: Protocol
    folds: tuple[str, ...]  # names of all folds
    seeds: tuple[int, ...]
    common: tuple[str, ...]  # arguments of every run, besides fold and seed

    def experiment(self, fold: str, seed: int, extra: Sequence[str] = (), prefix: str = "") -> Experiment:
        """The run of one fold with one seed; its name does not hang on the other seeds, so that some can be added."""
        name = fold if seed == 0 else f"{fold}-seed_{seed}"
        words = (*self.common, *extra, "--fold", fold, "--seed", str(seed))
        return Experiment(prefix + name, words)

    def experiments(self, extra: Sequence[str] = (), prefix: str = "") -> dict[tuple[str, int], Experiment]:
        """All runs of one model by fold and seed; `extra` sets the model apart."""
        pairs = [(fold, seed) for seed in self.seeds for fold in self.folds]
        return {pair: self.experiment(*pair, extra, prefix) for pair in pairs}


def make_plan(parsed: argparse.Namespace, run_words: Sequence[str]) -> Plan:
    """Resolves data set, protocol, folds and seeds, and checks the options of the runs.

    Args:
        parsed: the options of `commands.plan_options`.
        run_words: options for every run.

    Raises:
        ValueError: something cannot be used; the message is one line for the user.
    """
    words = parsed.seeds.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise ValueError(f"--seeds {parsed.seeds}: must be different whole numbers with commas between")
    seeds = tuple(int(word) for word in words)
    arguments = _check_run_words(run_words)
    # The synthetic corpus, drawn and labelled unless it is there.
    dataset = parsed.dataset or make_synthetic_dataset(arguments.data, Accelerator(cpu=True), Stopwatch())
    wanted = parsed.protocol or (None if parsed.dataset else REHEARSAL_PROTOCOL)
    protocol = resolve_protocol(dataset, wanted)
    told = () if wanted is None else ("--protocol", wanted)
    folds = tuple(fold.name for fold in protocol.folds)
    return Plan(dataset, protocol, folds, seeds, ("--dataset", dataset, *told, *run_words))


def _check_run_words(words: Sequence[str]) -> RunArguments:
    """Refuses, before the first run starts, what every run would refuse."""
    for word in words:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in OWN_RUN_OPTIONS:
            raise ValueError(f"{word}: is decided for every run by this command (seeds: --seeds)")
    try:
        return parse_checked(words)
    except SystemExit:
        # argparse has told what it did not understand.
        raise ValueError(f"the options {' '.join(words)} are not options of a run") from None


def collect_folds(
    plan: Plan, name: str, experiments: dict[tuple[str, int], Experiment], output_dir: Path, reports: dict[str, Report]
) -> CrossValidation:
    """The finished runs of one model as one result. Errors as `summarise_folds`."""
    runs = [
        FinishedRun(fold, seed, output_dir / experiment.name, reports[experiment.name])
        for (fold, seed), experiment in experiments.items()
    ]
    arguments = next(iter(experiments.values())).arguments[: -len(("--fold", "fold", "--seed", "seed"))]
    return summarise_folds(name, plan.protocol.name, arguments, runs)


def cross_validate(parsed: argparse.Namespace, run_words: Sequence[str]) -> CrossValidation | None:
    """Runs the command; returns the results, or None where `--fold` asked for one fold only."""
    from mtcae_dfer.experiments.plots import draw_results
    from mtcae_dfer.experiments.tables import write_tables

    plan = make_plan(parsed, run_words)
    experiments = plan.experiments()
    output_dir = Path(parsed.output_dir)
    if parsed.fold:
        fold = find_fold(plan.protocol, parsed.fold).name
        run_experiments([plan.experiment(fold, seed) for seed in plan.seeds], output_dir, parsed.jobs)
        return None
    if parsed.collect:
        missing = [entry.name for entry in experiments.values() if not is_done(entry, output_dir / entry.name)]
        if missing:
            raise ValueError(
                f"{output_dir} lacks {len(missing)} of {len(experiments)} runs: {', '.join(missing)}; run them by the "
                "same command with --fold NAME, or all by the same command without --collect"
            )
    reports = run_experiments(list(experiments.values()), output_dir, parsed.jobs)
    name = parsed.name or next(iter(reports.values()))["options"]["model"]
    results = collect_folds(plan, name, experiments, output_dir, reports)
    write_results(results, output_dir)
    print(write_tables(results, output_dir))
    draw_results(results, output_dir)
    print(f"results.json, tables and plots: {output_dir}")
    return results
