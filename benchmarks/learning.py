"""How well and how surely the README's recipe learns: seeds x drawn corpora x {whole frames, face crops}.

    python benchmarks/learning.py                                    # 5 seeds, 2 corpora, both protocols: twenty runs
    python benchmarks/learning.py --seeds 0,1 --corpora 0 --protocols whole --num_train_epochs 10
    python benchmarks/learning.py --collect                          # the table of what is finished

A corpus is what `--synthetic_seed` draws. Every run is one of `training/run.py`, tested on people that it has not seen;
options that are not named here go to every run. What is finished is not done again, so that the command can be stopped
and started. A run has left the plateau when its validation UAR is above 40 % after a third of its epochs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from results_file import keep_table

from mtcae_dfer.experiments.runner import Experiment, is_done, read_result, run_experiments
from mtcae_dfer.training.arguments import DataArguments
from mtcae_dfer.training.evaluation.percents import number, percent
from mtcae_dfer.training.running import Stopwatch, make_synthetic_dataset

LEFT_PLATEAU = 0.40


@dataclass(frozen=True)
class Goal:
    """What a figure is to reach: the mean of all runs, and the worst of them. Fractions."""

    name: str  # in the table
    mean: float
    worst: float
    more_is_better: bool = True


@dataclass(frozen=True)
class Protocol:
    """What the model sees of a frame, with the options that ask for it and the goals by figure of a report."""

    title: str
    words: tuple[str, ...]
    goals: Mapping[str, Goal]


PROTOCOLS = {
    "whole": Protocol(
        "whole frames",
        (),
        {
            "uar": Goal("UAR", 0.90, 0.86),
            "face_box_iou": Goal("face box IoU", 0.88, 0.86),
            "landmark_nme": Goal("landmark error", 0.11, 0.13, more_is_better=False),
        },
    ),
    "faces": Protocol(
        "face crops",
        ("--face_crop", "true"),
        {
            "uar": Goal("UAR", 0.98, 0.95),
            "face_box_iou": Goal("face box IoU", 0.91, 0.90),
            "landmark_nme": Goal("landmark error", 0.08, 0.09, more_is_better=False),
        },
    ),
}


def plan(datasets: Mapping[int, str], seeds: Sequence[int], protocol: str, words: Sequence[str]) -> list[Experiment]:
    """The runs of one protocol: every seed on every corpus."""
    return [
        Experiment(
            f"{protocol}-corpus_{corpus}-seed_{seed}",
            ("--dataset", dataset, *PROTOCOLS[protocol].words, *words, "--seed", str(seed)),
        )
        for corpus, dataset in datasets.items()
        for seed in seeds
    ]


def third_uar(report: Mapping[str, Any]) -> float:
    """Validation UAR after a third of the epochs that the run was to take."""
    epochs = int(report["options"]["num_train_epochs"])
    record = report["history"][min(math.ceil(epochs / 3), len(report["history"])) - 1]
    return number(record["validation_uar"])


def format_protocol(protocol: Protocol, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table of one protocol: mean, worst run and goals of every figure, and the runs one by one."""
    lines = [f"## {protocol.title}: {len(reports)} runs", "", "| figure | mean | worst | goal | reached |"]
    lines.append("|---|---:|---:|---:|---|")
    for key, goal in protocol.goals.items():
        values = [number(report["test"].get(key)) for report in reports.values()]
        mean = sum(values) / len(values)
        worst = min(values) if goal.more_is_better else max(values)
        sign = 1 if goal.more_is_better else -1
        reached = sign * mean >= sign * goal.mean and sign * worst >= sign * goal.worst
        bound = "≥" if goal.more_is_better else "≤"
        wanted = f"{bound} {percent(goal.mean, 0)} ({bound} {percent(goal.worst, 0)})"
        lines.append(f"| {goal.name} | {percent(mean)} | {percent(worst)} | {wanted} | {'yes' if reached else 'no'} |")
    thirds = [third_uar(report) for report in reports.values()]
    left = "yes" if min(thirds) > LEFT_PLATEAU else "no"
    cells = f"{percent(sum(thirds) / len(thirds))} | {percent(min(thirds))} | every run > {percent(LEFT_PLATEAU, 0)}"
    lines += [f"| validation UAR after a third | {cells} | {left} |", ""]
    lines += ["| run | UAR | box IoU | landmark error | validation UAR after a third | minutes |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for name, report in reports.items():
        figures = [percent(report["test"].get(key)) for key in protocol.goals]
        minutes = report["seconds"]["training"] / 60
        lines.append(f"| {name} | {' | '.join(figures)} | {percent(third_uar(report))} | {minutes:.1f} |")
    return [*lines, ""]


def whole_numbers(text: str) -> list[int]:
    """ "0,1,2" as numbers."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Runs what is missing, prints the table and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=whole_numbers, default=[0, 1, 2, 3, 4], help="of the training (0,1,2,3,4)")
    parser.add_argument("--corpora", type=whole_numbers, default=[0, 1], help="seeds of the drawing (0,1)")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="some of %(default)s, with commas between")
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--collect", action="store_true", help="train nothing: the table of what is finished")
    parser.add_argument("--name", default="learning", help="of the kept table (default: learning)")
    parsed, words = parser.parse_known_args()
    chosen = parsed.protocols.split(",")
    if not set(chosen) <= set(PROTOCOLS):
        parser.error(f"--protocols {parsed.protocols}: must be some of {', '.join(PROTOCOLS)}")
    datasets = {}
    for corpus in parsed.corpora:
        options = DataArguments(synthetic_dir=str(parsed.output_dir / f"corpus_{corpus}"), synthetic_seed=corpus)
        if parsed.collect:
            datasets[corpus] = str(Path(options.synthetic_dir) / "dataset")
        else:
            datasets[corpus] = make_synthetic_dataset(options, Accelerator(cpu=True), Stopwatch())
    experiments = {protocol: plan(datasets, parsed.seeds, protocol, words) for protocol in chosen}
    if parsed.collect:
        done = {
            protocol: [entry for entry in entries if is_done(entry, parsed.output_dir / entry.name)]
            for protocol, entries in experiments.items()
        }
    else:
        every = [entry for entries in experiments.values() for entry in entries]
        run_experiments(every, parsed.output_dir, parsed.jobs)
        done = experiments
    lines = ["Drawn faces, test clips of people that no run has seen; in percent. Goals: the mean (the worst run).", ""]
    for protocol, entries in done.items():
        if entries:
            reports = {entry.name: read_result(entry, parsed.output_dir) for entry in entries}
            lines += format_protocol(PROTOCOLS[protocol], reports)
    print("\n".join(lines))
    print(f"kept in {keep_table(parsed.name, 'Does every run learn?', lines)}")


if __name__ == "__main__":
    main()
