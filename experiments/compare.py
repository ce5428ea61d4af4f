"""Trains the compared systems on the same folds with the same seeds and budget: the paper's Table II in one harness.

    mtcae compare --jobs 2
    mtcae compare --dataset FOLDER --protocol mtcae-dfer --size paper
    mtcae compare --dataset FOLDER --systems mtformer,mnc,cascaded

Every system gets the recipe of the preset that `--size` names: epochs, batch, learning rate, augmentation. Options that
are not named here go to every run. Without `--dataset` it is a rehearsal on the synthetic corpus: drawn faces, three
folds. A command that was stopped goes on when started again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch

from mtcae_dfer.experiments.ablate import (
    REFERENCE,
    VariantPlan,
    collect_ablation,
    order_by_fold,
    structure_variants,
)
from mtcae_dfer.experiments.cross_validate import REHEARSAL_PROTOCOL, Plan, make_plan
from mtcae_dfer.experiments.operations import count_operations
from mtcae_dfer.experiments.paper_results import PAPER_CORPORA, PaperFigures
from mtcae_dfer.experiments.results import Ablation, write_results
from mtcae_dfer.experiments.runner import run_experiments
from mtcae_dfer.experiments.tables import (
    bootstrap_remark,
    difference_rows,
    find_variant,
    format_markdown,
    format_text,
    paper_cells,
)
from mtcae_dfer.hub_dataset.files import write_json, write_text
from mtcae_dfer.hub_dataset.loading.protocols import load_fold
from mtcae_dfer.hub_dataset.workers import available_processors
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.arguments import read_preset
from mtcae_dfer.training.evaluation.percents import with_deviation

COMPARISON_FILE, TABLE_FILE = "comparison.json", "comparison.md"
SIZES = ("tiny", "paper")
ALONE = ("--structure", "single_task", "--tasks", "expression")
# Of each of its three stages; the published depth is 2.
MTFORMER_DEPTH = {"tiny": (), "paper": ("--decoder_num_layers", "2")}
# What sets systems apart, or belongs to one preset alone.
SYSTEM_OPTIONS = ("model", "model_config", "structure", "decoder_type", "tasks", "encoder", "whiten_patch_embedding")
# Of a preset, without meaning for what is learned.
OWN_OPTIONS = ("output_dir", "gradient_checkpointing")
TIMED_CLIPS, TIMED_SECONDS = 8, 2.0


class Cost(TypedDict):
    """What a system costs."""

    parameters: int
    multiply_adds: int  # of one clip; of convolutions and matrix products
    clips_per_second: float  # prediction, in batches of `TIMED_CLIPS`


class ComparedSystem(TypedDict):
    """One row of the table; figures are fractions, the paper's are percent."""

    name: str
    title: str
    uar: dict[str, float | None]  # mean and std over folds and seeds
    war: dict[str, float | None]
    cost: Cost
    paper: dict[str, PaperFigures]  # by corpus


class Comparison(TypedDict):
    """The content of comparison.json."""

    kind: str  # "comparison"
    protocol: str
    data: str
    seeds: list[int]
    folds: int
    size: str
    machine: str
    systems: list[ComparedSystem]


def plan_systems(size: str, encoders: dict[str, str] | None = None) -> list[VariantPlan]:
    """All systems in the order of the paper's table: the compared methods, then the six structures.

    Args:
        size: "tiny" or "paper", which decides the presets.
        encoders: preset of a system -> checkpoint folder or Hub id of the encoder that it starts from.
    """
    rivals = (
        ("vo_lstm", "VO-LSTM", f"{size}_vo_lstm", ()),
        ("resnext3d", "3D ResNeXt-50", f"{size}_resnext3d", ()),
        ("svfap", "SVFAP", f"{size}_tpsbt", ()),
        ("mae_dfer", "MAE-DFER", f"{size}_lgi_former", ALONE),
        ("mnc", "MNC", size, ("--structure", "mnc")),
        ("mtl_er", "MTL-ER", f"{size}_mtl_er", ()),
        ("mtformer", "MTFormer", size, ("--structure", "mtformer", *MTFORMER_DEPTH[size])),
    )
    structures = [(entry.name, entry.title, size, entry.arguments) for entry in structure_variants()]
    start = {preset: ("--encoder", checkpoint) for preset, checkpoint in (encoders or {}).items()}
    return [
        VariantPlan(name, title, "systems", ("--model", preset, *words, *start.get(preset, ())))
        for name, title, preset, words in (*rivals, *structures)
    ]


def choose_systems(text: str | None, known: Sequence[VariantPlan]) -> list[VariantPlan]:
    """The named systems, in the table's order, and the reference that they are compared with.

    Raises:
        ValueError: a name is unknown.
    """
    names = [entry.name for entry in known]
    wanted = names if text is None else [word.strip() for word in text.split(",") if word.strip()]
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise ValueError(f"--systems {text}: must be some of {', '.join(names)}")
    return [entry for entry in known if entry.name in (*wanted, REFERENCE)]


def read_encoders(text: str, size: str) -> dict[str, str]:
    """ "PRESET=CHECKPOINT,…" as a dictionary.

    Raises:
        ValueError: a word is no such pair, or no system has the preset.
    """
    presets = sorted({entry.arguments[1] for entry in plan_systems(size)})
    pairs = [word.partition("=") for word in text.split(",") if word.strip()]
    for preset, _, checkpoint in pairs:
        if preset.strip() not in presets or not checkpoint:
            raise ValueError(
                f"--encoders {text}: must be PRESET=CHECKPOINT, several with commas between; "
                f"the presets are {', '.join(presets)}"
            )
    return {preset.strip(): checkpoint.strip() for preset, _, checkpoint in pairs}


def recipe_words(size: str) -> tuple[str, ...]:
    """The recipe of the preset `size` as options, so that every system is trained alike, whatever its own preset."""
    recipe = read_preset(size)
    left_out = (*SYSTEM_OPTIONS, *OWN_OPTIONS)
    return tuple(word for name, value in recipe.items() if name not in left_out for word in (f"--{name}", str(value)))


def refuse_missing_faces(plan: Plan, systems: Sequence[VariantPlan], protocol: str | None) -> None:
    """Raises a ValueError where systems learn from faces and no training clip has one."""
    learning_faces = []
    for entry in systems:
        chosen = dict(zip(entry.arguments[::2], entry.arguments[1::2], strict=True))
        preset = read_preset(chosen["--model"])["model_config"]
        if "single_task" not in (chosen.get("--structure"), preset.get("structure")):
            learning_faces.append(entry.name)
    rows = load_fold(plan.dataset, protocol, plan.folds[0])["train"]
    if learning_faces and not any(any(found) for found in rows["face_found"]):
        raise ValueError(
            f"{plan.dataset}: no training clip has a face, which {', '.join(learning_faces)} learn from: "
            "build the data set with face labels, or choose other --systems"
        )


def compare(parsed: argparse.Namespace, run_words: Sequence[str]) -> Comparison:
    """Runs the command; returns the comparison."""
    from mtcae_dfer.experiments.plots import draw_results

    for word in run_words:
        if word.startswith("--") and word.split("=")[0].removeprefix("--").replace("-", "_") in SYSTEM_OPTIONS:
            raise ValueError(f"{word}: is decided by the compared systems; choose them by --systems and --size")
    encoders = read_encoders(parsed.encoders, parsed.size)
    systems = choose_systems(parsed.systems, plan_systems(parsed.size, encoders))
    if not parsed.dataset:
        parsed.protocol = parsed.protocol or REHEARSAL_PROTOCOL
    plan = make_plan(parsed, [*recipe_words(parsed.size), *run_words])
    refuse_missing_faces(plan, systems, parsed.protocol)
    output_dir = Path(parsed.output_dir)
    reports = run_experiments(order_by_fold(plan, systems), output_dir, parsed.jobs)
    results = collect_ablation(plan, systems, output_dir, reports)
    comparison = summarise(results, plan, output_dir, parsed.size)
    write_results(results, output_dir)
    write_json(output_dir / COMPARISON_FILE, comparison)
    write_text(output_dir / TABLE_FILE, format_comparison(comparison, results, markdown=True))
    print(format_comparison(comparison, results, markdown=False))
    draw_results(results, output_dir)
    print(f"{COMPARISON_FILE}, {TABLE_FILE}, results.json and plots: {output_dir}")
    return comparison


def summarise(results: Ablation, plan: Plan, output_dir: Path, size: str) -> Comparison:
    """The table's content, with every system's cost measured on this machine."""
    machine = f"CPU, {torch.get_num_threads()} of {available_processors()} threads"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    systems = []
    for variant in results["variants"]:
        first_run = next(iter(plan.experiments(prefix=f"{variant['name']}/").values()))
        model = MTCAEForMultiTaskVideo.from_pretrained(output_dir / first_run.name).eval()
        clips_per_second = time_prediction(model)  # before counting leaves the model with plain attention
        uar, war = variant["result"]["summary"]["uar"], variant["result"]["summary"]["war"]
        system = ComparedSystem(
            name=variant["name"],
            title=variant["title"],
            uar={"mean": uar["mean"], "std": uar["std"]},
            war={"mean": war["mean"], "std": war["std"]},
            cost=Cost(
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                multiply_adds=count_multiply_adds(model),
                clips_per_second=clips_per_second,
            ),
            paper=variant["paper"],
        )
        systems.append(system)
    return Comparison(
        kind="comparison",
        protocol=results["protocol"],
        data=results["data"],
        seeds=results["seeds"],
        folds=len(plan.folds),
        size=size,
        machine=machine,
        systems=systems,
    )


def _random_clips(model: MTCAEForMultiTaskVideo, count: int) -> torch.Tensor:
    return torch.rand(count, model.config.num_frames, 3, *model.config.image_size, device=model.device)


@torch.no_grad()
def count_multiply_adds(model: MTCAEForMultiTaskVideo) -> int:
    """Multiply-adds of the convolutions and matrix products for one clip."""
    with count_operations() as counter:
        model(_random_clips(model, 1))
    return counter.get_total_flops() // 2


@torch.no_grad()
def time_prediction(model: MTCAEForMultiTaskVideo) -> float:
    """Clips per second of the forward pass, after a first one that does not count."""
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    clips = _random_clips(model, TIMED_CLIPS)
    passes, start = -1, time.perf_counter()
    while passes < 1 or time.perf_counter() - start < TIMED_SECONDS:
        model(clips)
        if clips.is_cuda:
            torch.cuda.synchronize()
        passes += 1
        start = time.perf_counter() if passes == 0 else start
    return passes * TIMED_CLIPS / (time.perf_counter() - start)


def format_comparison(comparison: Comparison, results: Ablation, markdown: bool) -> str:
    """All that the tables say, with what the figures are figures of."""
    layout = format_markdown if markdown else format_text
    reference = find_variant(results, results["reference"])
    seeds = ", ".join(map(str, comparison["seeds"]))
    # The paper's Table II with our figures, costs, and the paper's own figures.
    costs = ["parameters", "multiply-adds", "clips/s"]
    rows = [["system", "UAR here", "WAR here", *costs, *(f"paper: {corpus}" for corpus in PAPER_CORPORA)]]
    for system in comparison["systems"]:
        figures = [with_deviation(figure["mean"], figure["std"]) for figure in (system["uar"], system["war"])]
        cost = system["cost"]
        cells = [f"{cost['parameters']:,}", f"{cost['multiply_adds'] / 1e6:,.0f} M", f"{cost['clips_per_second']:.1f}"]
        rows.append([system["title"], *figures, *cells, *paper_cells(system["paper"])])
    parts = [
        f"Compared systems, size {comparison['size']}: {comparison['protocol']}; {comparison['data']}; "
        f"{comparison['folds']} folds, seed {seeds}, one recipe for all.",
        "UAR and WAR in percent; the paper's figures are UAR / WAR of full-size, pre-trained models on other data.",
        layout(rows),
        f"Multiply-adds of one clip; clips/s on {comparison['machine']}, batches of {TIMED_CLIPS}.",
    ]
    if len(results["variants"]) > 1:
        parts += [f"Differences from {reference['title']}, in points", layout(difference_rows(results["variants"]))]
    return "\n\n".join([*parts, bootstrap_remark(reference["result"])])
