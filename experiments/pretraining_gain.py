"""What masked pre-training without labels is worth where few people are labelled.

    mtcae pretraining-gain --output-dir runs/pretraining-gain --jobs 2

Pre-trains the tiny preset's encoder on drawn clips of many people without their labels, then fine-tunes it with a few
labelled people; beside it the same model starts from scratch, with the same labelled people, the same options and as
many fine-tuning steps. Both are tested on the same unseen people. Every seed draws other labelled people and
fine-tunes both arms anew; the seeds share `--pretrainings` pre-trained encoders. What is done is not done again after
a stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from mtcae_dfer.experiments.runner import Experiment, run_experiments
from mtcae_dfer.experiments.statistics import mean_and_std
from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.files import write_json, write_text
from mtcae_dfer.training.arguments import DataArguments
from mtcae_dfer.training.evaluation.percents import percent, with_deviation
from mtcae_dfer.training.evaluation.report import FIGURES, Figures
from mtcae_dfer.training.pretraining.arguments import VideoArguments
from mtcae_dfer.training.running import SYNTHETIC_DATA, Stopwatch, draw_synthetic_videos, make_synthetic_dataset

ARMS = ("from scratch", "pre-trained")
PRETRAIN_MODULE = "mtcae_dfer.training.pretrain"
RESULT_FILE, TABLE_FILE = "pretraining_gain.json", "pretraining_gain.md"


@dataclass(frozen=True)
class GainOptions:
    """How the gain is measured."""

    output_dir: str = field(default="runs/pretraining-gain", metadata={"help": "Clips, runs and table go here."})
    jobs: int = field(default=2, metadata={"help": "Runs at a time; the processors are divided among them."})
    seeds: int = field(default=3, metadata={"help": "Repetitions, each with labelled people of its own."})
    model: str = field(default="tiny", metadata={"help": "Preset of training/run.py and training/pretrain.py."})
    unlabelled_subjects: int = field(default=72, metadata={"help": "Drawn people that are watched without labels."})
    labelled_subjects: int = field(default=12, metadata={"help": "Drawn people that are labelled for fine-tuning."})
    validation_subjects: int = field(default=3, metadata={"help": "Drawn people that choose the epoch, for both."})
    test_subjects: int = field(default=30, metadata={"help": "Drawn people that both are tested on, once."})
    takes: int = field(default=2, metadata={"help": "Clips of every expression of every drawn person."})
    pretraining_epochs: int = field(default=100, metadata={"help": "Passes over the unlabelled clips."})
    pretrainings: int = field(default=1, metadata={"help": "Pre-trained encoders that the seeds take in turn."})
    epochs: int = field(default=100, metadata={"help": "Passes over the labelled clips, for both."})

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def measure_gain(options: GainOptions) -> str:
    """Draws the clips, runs all experiments, writes result and table; returns the table."""
    output_dir = Path(options.output_dir)
    dataset_dir = draw_clips(options, output_dir)
    seeds = range(options.seeds)
    protocols = [write_protocol(options, dataset_dir, seed) for seed in seeds]
    videos = Path(unlabelled_videos(options, output_dir).synthetic_dir) / "videos"
    encoders = []
    for seed in range(options.pretrainings):
        words = ("--model", options.model, "--seed", str(seed), "--num_train_epochs", str(options.pretraining_epochs))
        encoders.append(Experiment(f"pre-training-{seed}", (*words, "--videos", str(videos)), PRETRAIN_MODULE))
    from_scratch = [fine_tuning_experiment(options, ARMS[0], dataset_dir, protocols[seed], seed) for seed in seeds]
    run_experiments([*encoders, *from_scratch], output_dir, options.jobs)
    pretrained = [
        fine_tuning_experiment(
            options, ARMS[1], dataset_dir, protocols[seed], seed, output_dir / encoders[seed % len(encoders)].name
        )
        for seed in seeds
    ]
    arms = dict(zip(ARMS, (from_scratch, pretrained), strict=True))
    reports = run_experiments([experiment for arm in arms.values() for experiment in arm], output_dir, options.jobs)
    figures = {arm: [reports[experiment.name]["test"] for experiment in arm_runs] for arm, arm_runs in arms.items()}
    write_json(output_dir / RESULT_FILE, {"data": SYNTHETIC_DATA, "options": asdict(options), "figures": figures})
    table = format_gain(options, figures)
    write_text(output_dir / TABLE_FILE, table)
    return table


def draw_clips(options: GainOptions, output_dir: Path) -> Path:
    """Draws the unlabelled clips, and draws and labels those of other people; returns the labelled data set."""
    accelerator, stopwatch = Accelerator(cpu=True), Stopwatch()
    draw_synthetic_videos(unlabelled_videos(options, output_dir), accelerator, stopwatch)
    people = options.labelled_subjects + options.validation_subjects + options.test_subjects
    labelled = DataArguments(
        synthetic_dir=str(output_dir / "labelled"), synthetic_subjects=people, synthetic_takes=options.takes
    )
    return Path(make_synthetic_dataset(labelled, accelerator, stopwatch))


def unlabelled_videos(options: GainOptions, output_dir: Path) -> VideoArguments:
    """Clips of other people than the labelled ones: another seed draws them."""
    return VideoArguments(
        synthetic_dir=str(output_dir / "unlabelled"),
        synthetic_subjects=options.unlabelled_subjects,
        synthetic_takes=options.takes,
    )


def write_protocol(options: GainOptions, dataset_dir: Path, seed: int) -> Path:
    """Draws who is labelled and who chooses the epoch; the test people are the same for all seeds."""
    people = np.array(sorted(read_build_report(dataset_dir).subject_counts))
    test, others = people[: options.test_subjects], people[options.test_subjects :]
    others = np.random.default_rng(seed).permutation(others)
    fold = {
        "name": "default",
        "train": sorted(others[: options.labelled_subjects].tolist()),
        "validation": sorted(others[options.labelled_subjects :].tolist()),
        "test": test.tolist(),
    }
    name = f"{options.labelled_subjects} labelled subjects, unseen test subjects, draw {seed}"
    file = dataset_dir.parent / f"protocol-{seed}.json"
    write_json(file, {"name": name, "folds": [fold]})
    return file


def fine_tuning_experiment(
    options: GainOptions, arm: str, dataset_dir: Path, protocol: Path, seed: int, encoder: Path | None = None
) -> Experiment:
    """Training with few labelled people: the arms differ in `--encoder` alone."""
    words = ("--model", options.model, "--seed", str(seed), "--num_train_epochs", str(options.epochs))
    data = ("--dataset", str(dataset_dir), "--protocol", str(protocol))
    start = ("--encoder", str(encoder)) if encoder is not None else ()
    return Experiment(f"{arm.replace(' ', '-')}-{seed}", (*words, *data, *start))


def format_gain(options: GainOptions, figures: Mapping[str, Sequence[Figures]]) -> str:
    """The table: mean ± standard deviation over the seeds of both arms, and of the difference within each seed."""
    # Plain dictionaries: the figures are looked up by any of their names.
    runs_of: Mapping[str, Sequence[Mapping[str, Any]]] = figures
    keys = [key for key in FIGURES if all(run.get(key) is not None for runs in runs_of.values() for run in runs)]
    lines = [
        f"{SYNTHETIC_DATA}: {options.unlabelled_subjects} people watched without labels, {options.labelled_subjects} "
        f"labelled, {options.validation_subjects} to choose the epoch, {options.test_subjects} unseen people to test; "
        f"{options.seeds} seeds with {options.pretrainings} pre-training(s), mean ± standard deviation in percent",
        "",
        "| figure | " + " | ".join(ARMS) + " | difference | by seed |",
        "|---|" + "---:|" * (len(ARMS) + 2),
    ]
    for key in keys:
        before, after = ([run[key] for run in runs_of[arm]] for arm in ARMS)
        gains = [pretrained - fresh for fresh, pretrained in zip(before, after, strict=True)]
        cells = [with_deviation(*mean_and_std(values)) for values in (before, after, gains)]
        sign = "+" if mean_and_std(gains)[0] >= 0 else ""
        by_seed = ", ".join(percent(gain, sign=True) for gain in gains)
        lines.append(f"| {FIGURES[key][0]} | {cells[0]} | {cells[1]} | {sign}{cells[2]} | {by_seed} |")
    return "\n".join(lines)
