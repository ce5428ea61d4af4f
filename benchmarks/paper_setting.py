"""When does cascading pay? The paper's own setting at a small size, with structure, heads and pre-training apart.

    python benchmarks/paper_setting.py --jobs 2                     # seed 0: a pre-training and eighteen runs
    python benchmarks/paper_setting.py --jobs 2 --seeds 0,1,2
    python benchmarks/paper_setting.py --collect --picture docs/paper_setting.png   # what is finished

The preset is `tiny_paper`: decoders of five layers and half the encoder's width. Three things vary, each with each:

- the structure: one task, non-fully shared, cascaded;
- the heads: the paper's (mean pooling and a fully connected layer), or those of the preset `tiny` (heat maps for boxes
  and points, maps of place and time for the expression), with their losses and weights;
- the encoder: random at the start, pre-trained by masked pre-training on drawn clips, or the same and frozen.

All runs see the same drawn clips of the same people, for the same number of epochs, and are tested on others.
Options that are not named here go to every run. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from learning import whole_numbers
from results_file import keep_table

from mtcae_dfer.experiments.ablate import REFERENCE, structure_variants
from mtcae_dfer.experiments.plots import DOTS_PER_INCH
from mtcae_dfer.experiments.runner import Experiment, is_done, read_result, run_experiments
from mtcae_dfer.experiments.statistics import mean_and_std
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.training.arguments import DataArguments, read_preset
from mtcae_dfer.training.evaluation.drawing import CHANCE_COLOUR, CONSTANT_COLOUR, MODEL_COLOUR, SELECTED_COLOUR
from mtcae_dfer.training.evaluation.percents import number, percent, with_deviation
from mtcae_dfer.training.pretraining.arguments import VideoArguments
from mtcae_dfer.training.running import Stopwatch, draw_synthetic_videos, make_synthetic_dataset

PRESET = "tiny_paper"
VARIANTS = {variant.name: variant.arguments for variant in structure_variants()}
STRUCTURES = {
    "single_task": VARIANTS["single_task"],
    "non_fully_shared": VARIANTS["non_fully_shared_vit"],
    "cascaded": VARIANTS[REFERENCE],
}
HEADS = ("paper", "places")
ENCODERS = ("random", "pre_trained", "frozen")
TITLES = {
    "single_task": "single task",
    "non_fully_shared": "non-fully shared, ViT",
    "cascaded": "cascade",
    "paper": "mean pooling, FC",
    "places": "heat maps; place and time",
    "random": "random",
    "pre_trained": "pre-trained",
    "frozen": "pre-trained, frozen",
}
FIGURES = {"uar": "UAR", "face_box_iou": "box IoU", "landmark_nme": "landmark error"}
COLOURS = (SELECTED_COLOUR, CONSTANT_COLOUR, MODEL_COLOUR)  # of the structures
Cell = tuple[str, str, str]  # structure, heads, encoder
CELLS: tuple[Cell, ...] = tuple(itertools.product(STRUCTURES, HEADS, ENCODERS))


def write_heads(folder: Path) -> Path:
    """The options file of the preset `tiny_paper` with the heads, losses and weights of the preset `tiny`."""
    tiny = read_preset("tiny")["model_config"]
    heads = {name: tiny[name] for name in ("pooling", "pooling_maps", "tasks")}
    file = folder / "places.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"extends": PRESET, "model_config": heads}), encoding="utf-8")
    return file


def plan(dataset: str, heads_file: Path, encoder: Path, seed: int, words: Sequence[str]) -> dict[Cell, Experiment]:
    """The runs of one seed."""
    head_words = {"paper": ("--model", PRESET), "places": ("--config", str(heads_file))}
    pre_trained = ("--encoder", str(encoder))
    encoder_words = {"random": (), "pre_trained": pre_trained, "frozen": (*pre_trained, "--freeze_encoder", "true")}
    found = {}
    for structure, heads, start in CELLS:
        options = (*head_words[heads], *STRUCTURES[structure], *encoder_words[start], "--seed", str(seed), *words)
        found[structure, heads, start] = Experiment(
            f"{structure}-{heads}-{start}-seed_{seed}", ("--dataset", dataset, *options)
        )
    return found


def format_table(tests: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[str]:
    """One row for each structure, heads and encoder: mean, and standard deviation where there are several seeds."""
    lines = [f"| heads | encoder | structure | {' | '.join(FIGURES.values())} |", "|---|---|---|---:|---:|---:|"]
    for heads, encoder, structure in itertools.product(HEADS, ENCODERS, STRUCTURES):
        runs = tests.get((structure, heads, encoder), [])
        if not runs:
            continue
        cells = []
        for key in FIGURES:
            values = [number(run.get(key)) for run in runs]
            cells.append(with_deviation(*mean_and_std(values)) if len(values) > 1 else percent(values[0]))
        lines.append(f"| {TITLES[heads]} | {TITLES[encoder]} | {TITLES[structure]} | {' | '.join(cells)} |")
    return lines


def format_contrasts(tests: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What each choice is worth for the UAR, in points: differences of runs that differ in nothing else.

    "worst" and "best" are the smallest and the largest of the differences that the mean is of.
    """
    uar = {cell: sum(number(run["uar"]) for run in runs) / len(runs) for cell, runs in tests.items() if runs}
    # (the row's title, the place of the choice in a cell, what it is compared with, what it is)
    choices = [
        ("structure: multi-task, non-fully shared, against one task", 0, "single_task", "non_fully_shared"),
        ("structure: cascade against one task", 0, "single_task", "cascaded"),
        ("structure: cascade against non-fully shared", 0, "non_fully_shared", "cascaded"),
        ("heads: places against mean pooling", 1, "paper", "places"),
        ("encoder: pre-trained against random", 2, "random", "pre_trained"),
        ("encoder: frozen against trained on", 2, "pre_trained", "frozen"),
    ]
    lines = ["| choice | UAR, points | worst | best | pairs |", "|---|---:|---:|---:|---:|"]
    for title, place, before, after in choices:
        pairs = [
            100 * (value - uar[other])
            for cell, value in uar.items()
            if cell[place] == after and (other := (*cell[:place], before, *cell[place + 1 :])) in uar
        ]
        if pairs:
            mean = sum(pairs) / len(pairs)
            lines.append(f"| {title} | {mean:+.1f} | {min(pairs):+.1f} | {max(pairs):+.1f} | {len(pairs)} |")
    return lines


def draw_picture(tests: Mapping[Cell, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """The UAR of every run by heads, encoder and structure; a short line is the mean of several seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(HEADS), sharey=True)
    for panel, heads in zip(panels, HEADS, strict=True):
        for shift, (structure, colour) in enumerate(zip(STRUCTURES, COLOURS, strict=True)):
            for place, encoder in enumerate(ENCODERS):
                values = [100 * number(run["uar"]) for run in tests.get((structure, heads, encoder), [])]
                across = place + 0.22 * (shift - 1)
                label = TITLES[structure] if place == 0 else None
                panel.scatter([across] * len(values), values, s=26, color=colour, label=label, zorder=3)
                if len(values) > 1:
                    panel.hlines(sum(values) / len(values), across - 0.08, across + 0.08, color=colour, linewidth=2)
        panel.axhline(100 / 7, color=CHANCE_COLOUR, linewidth=1, linestyle=":", label="chance")
        panel.set_xticks(range(len(ENCODERS)), [TITLES[encoder] for encoder in ENCODERS])
        panel.set_title(TITLES[heads], fontsize=10)
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("UAR of unseen drawn people, %")
    panels[-1].legend(frameon=False, fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)


def main() -> None:
    """Runs what is missing, prints the tables and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=whole_numbers, default=[0], help="of the training, as 0,1,2 (default: 0)")
    parser.add_argument("--pretraining_epochs", "--pretraining-epochs", type=int, default=100)
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("runs/paper_setting"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--collect", action="store_true", help="train nothing: the table of what is finished")
    parser.add_argument("--name", default="paper_setting", help="of the kept table (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="PNG file in which the runs are drawn, too")
    parsed, words = parser.parse_known_args()
    folder: Path = parsed.output_dir
    labelled = DataArguments(synthetic_dir=str(folder / "labelled"), synthetic_seed=1)
    unlabelled = VideoArguments(synthetic_dir=str(folder / "unlabelled"), synthetic_seed=2)
    pretraining = Experiment(
        "pre-training",
        ("--videos", str(folder / "unlabelled" / "videos"), "--num_train_epochs", str(parsed.pretraining_epochs)),
        "mtcae_dfer.training.pretrain",
    )
    dataset = str(folder / "labelled" / "dataset")
    if not parsed.collect:
        stopwatch = Stopwatch()
        dataset = make_synthetic_dataset(labelled, Accelerator(cpu=True), stopwatch)
        draw_synthetic_videos(unlabelled, Accelerator(cpu=True), stopwatch)
        run_experiments([pretraining], folder)
    heads_file = write_heads(folder)
    plans = [plan(dataset, heads_file, folder / pretraining.name, seed, words) for seed in parsed.seeds]
    if not parsed.collect:
        run_experiments([run for of_seed in plans for run in of_seed.values()], folder, parsed.jobs)
    tests = {
        cell: [
            read_result(of_seed[cell], folder)["test"]
            for of_seed in plans
            if is_done(of_seed[cell], folder / of_seed[cell].name)
        ]
        for cell in CELLS
    }
    lines = ["Drawn faces, test clips of people that no run has seen; in percent.", ""]
    lines += [*format_table(tests), "", *format_contrasts(tests)]
    print("\n".join(lines))
    if parsed.picture is not None:
        draw_picture(tests, parsed.picture)
    print(f"kept in {keep_table(parsed.name, 'When does cascading pay?', lines)}")


if __name__ == "__main__":
    main()
