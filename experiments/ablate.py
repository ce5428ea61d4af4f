"""Trains variants of a model on the same folds with the same seeds, and compares them in pairs.

    mtcae ablate --jobs 2
    mtcae ablate --dataset FOLDER --protocol mtcae-dfer --model paper
    mtcae ablate --axes structures,order,tasks,depth,head_width,pooling,loss_weights

The first axis is the paper's Table I, its six structures; the others go beyond it. The reference is the cascade of the
preset, as `training/run.py` trains it. Options that are not named here go to every run. Without `--dataset` it is a
rehearsal on the synthetic corpus: drawn faces, three folds. A command that was stopped goes on when started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.experiments.cross_validate import Plan, collect_folds, make_plan
from mtcae_dfer.experiments.paper_results import PAPER_RIVALS, PAPER_STRUCTURES, PaperFigures
from mtcae_dfer.experiments.results import (
    Ablation,
    CrossValidation,
    Variant,
    compare,
    join_tables,
    read_clip_table,
    sums_of,
    write_results,
)
from mtcae_dfer.experiments.runner import Experiment, run_experiments
from mtcae_dfer.experiments.statistics import SubjectSums
from mtcae_dfer.training.arguments import ModelArguments, available_presets, parse_run_arguments
from mtcae_dfer.training.evaluation.report import Report
from mtcae_dfer.training.initialisation import config_fields

REFERENCE = "cascaded"
REFERENCE_TITLE = "6 cascaded, ViT"


@dataclass(frozen=True)
class VariantPlan:
    """One model of an ablation, before it is trained."""

    name: str  # of its folder
    title: str  # in tables and plots
    axis: str
    arguments: tuple[str, ...]  # what sets it apart from the reference

    @property
    def paper(self) -> dict[str, PaperFigures]:
        """The paper's figures for it, by corpus; empty where the paper has none."""
        return PAPER_STRUCTURES.get(self.name) or PAPER_RIVALS.get(self.title, {})


def structure_variants(config: MTCAEConfig | None = None) -> list[VariantPlan]:
    """The six structures of Table I in the paper's order; the last is the reference."""
    shared = (("non_fully_shared", "non-fully shared"), ("fully_shared", "fully shared"))
    described = [("single_task", "1 single task", ("--structure", "single_task", "--tasks", "expression"))]
    for structure, title in shared:
        for decoder, decoder_title in (("mlp", "MLP"), ("vit", "ViT")):
            words = ("--structure", structure, "--decoder_type", decoder)
            described.append((f"{structure}_{decoder}", f"{len(described) + 1} {title}, {decoder_title}", words))
    return [VariantPlan(name, title, "structures", words) for name, title, words in described] + [reference_variant()]


def reference_variant() -> VariantPlan:
    """The preset's own cascade."""
    return VariantPlan(REFERENCE, REFERENCE_TITLE, "structures", ("--structure", "cascaded", "--decoder_type", "vit"))


def order_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """Every other order of the tasks in the cascade."""
    names = [task.name for task in config.task_descriptions]
    orders = [order for order in permutations(names) if list(order) != names]
    return [_task_variant("order", order, " → ".join(map(_plain, order))) for order in orders]


def task_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """The expression alone, and with each one of the other tasks before it."""
    names = [task.name for task in config.task_descriptions]
    others = [name for name in names if name != "expression"]
    subsets = [["expression"], *([name, "expression"] for name in others if len(others) > 1)]
    return [_task_variant("tasks", subset, " + ".join(map(_plain, subset))) for subset in subsets if subset != names]


def depth_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """Other depths of the recursion; the paper's is 5."""
    depths = [depth for depth in (1, 2, 3, 5) if depth != config.decoder_num_layers]
    return [
        VariantPlan(f"depth_{depth}", f"L = {depth}", "depth", ("--decoder_num_layers", str(depth))) for depth in depths
    ]


def head_width_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """Other head widths: 64, the decoder's width divided among the heads, and the whole width (the authors')."""
    width = config.decoder_hidden_size
    widths = {64, width // config.decoder_num_attention_heads, width} - {config.decoder_head_dim}
    return [
        VariantPlan(f"head_{size}", f"head width {size}", "head_width", ("--decoder_head_dim", str(size)))
        for size in sorted(widths)
    ]


def pooling_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """Other poolings; the paper's is the mean."""
    poolings = [pooling for pooling in ("mean", "time", "time_and_place") if pooling != config.pooling]
    return [
        VariantPlan(f"pooling_{pooling}", f"pooling: {_plain(pooling)}", "pooling", ("--pooling", pooling))
        for pooling in poolings
    ]


def loss_weight_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """Other weights of the task losses: the paper's, equal ones, and face labels that hardly count."""
    own = {task.name: task.weight for task in config.task_descriptions}
    ratios = {"paper": (0.5, 1.5), "equal": (1.0, 1.0), "face_tenth": (0.1, 1.0)}
    variants = []
    for name, (face, expression) in ratios.items():
        weights = {task: expression if task == "expression" else face for task in own}
        if weights != own:
            words = ",".join(f"{task}={weight:g}" for task, weight in weights.items())
            title = f"loss weights {' / '.join(f'{weight:g}' for weight in weights.values())}"
            variants.append(VariantPlan(f"weights_{name}", title, "loss_weights", ("--task_weights", words)))
    return variants


def recursion_variants(config: MTCAEConfig) -> list[VariantPlan]:
    """One layer's weights for the whole recursion, beside layers of their own, at a depth where they differ."""
    depth = max(config.decoder_num_layers, 3)
    words = () if depth == config.decoder_num_layers else ("--decoder_num_layers", str(depth))
    shared = VariantPlan(
        f"shared_{depth}", f"L = {depth}, shared layer", "recursion", (*words, "--share_decoder_layers", "true")
    )
    own = VariantPlan(f"own_{depth}", f"L = {depth}, own layers", "recursion", words)
    return [own, shared] if words else [shared]


AXES: dict[str, Callable[[MTCAEConfig], list[VariantPlan]]] = {
    "structures": structure_variants,
    "order": order_variants,
    "tasks": task_variants,
    "depth": depth_variants,
    "head_width": head_width_variants,
    "pooling": pooling_variants,
    "loss_weights": loss_weight_variants,
    "recursion": recursion_variants,
}


def _task_variant(axis: str, names: Sequence[str], title: str) -> VariantPlan:
    return VariantPlan(f"{axis}_{'-'.join(names)}", title, axis, ("--tasks", ",".join(names)))


def _plain(name: str) -> str:
    return name.removeprefix("face_").replace("_", " ")


def plan_variants(axes: Sequence[str], config: MTCAEConfig) -> list[VariantPlan]:
    """The variants of the axes with the reference, each once.

    Raises:
        ValueError: an axis is unknown.
    """
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown or not axes:
        raise ValueError(f"--axes {','.join(axes)}: must be some of {', '.join(AXES)}")
    planned = [variant for axis in axes for variant in AXES[axis](config)]
    return planned if "structures" in axes else [reference_variant(), *planned]


def preset_config(model: ModelArguments) -> MTCAEConfig:
    """The config of the model that the runs train, with the options that all of them have.

    Raises:
        ValueError: it is a checkpoint: its structure is fixed; or an option cannot be used.
    """
    presets = available_presets()
    if model.model not in presets:
        raise ValueError(
            f"--model {model.model}: variants are built of a preset ({', '.join(presets)}); a pre-trained encoder goes "
            "under them by --encoder"
        )
    return MTCAEConfig(**config_fields(model))


def ablate(parsed: argparse.Namespace, run_words: Sequence[str]) -> Ablation:
    """Runs the command; returns the results."""
    from mtcae_dfer.experiments.plots import draw_results
    from mtcae_dfer.experiments.tables import write_tables

    axes = [axis.strip() for axis in parsed.axes.split(",") if axis.strip()]
    variants = plan_variants(axes, preset_config(parse_run_arguments(run_words).model))
    plan, output_dir = make_plan(parsed, run_words), Path(parsed.output_dir)
    reports = run_experiments(order_by_fold(plan, variants), output_dir, parsed.jobs)
    results = collect_ablation(plan, variants, output_dir, reports)
    write_results(results, output_dir)
    print(write_tables(results, output_dir))
    draw_results(results, output_dir)
    print(f"results.json, tables and plots: {output_dir}")
    return results


def order_by_fold(plan: Plan, variants: Sequence[VariantPlan]) -> list[Experiment]:
    """The runs of all variants fold by fold, so that a table can be made of whole folds when time runs short."""
    runs = {entry.name: plan.experiments(entry.arguments, f"{entry.name}/") for entry in variants}
    pairs = plan.experiments()
    return [runs[entry.name][pair] for pair in pairs for entry in variants]


def collect_ablation(
    plan: Plan, variants: Sequence[VariantPlan], output_dir: Path, reports: dict[str, Report]
) -> Ablation:
    """The finished runs of all variants, with the differences from the reference."""
    results: dict[str, CrossValidation] = {}
    sums: dict[str, SubjectSums] = {}
    for entry in variants:
        experiments = plan.experiments(entry.arguments, f"{entry.name}/")
        result = collect_folds(plan, entry.title, experiments, output_dir, reports)
        tables = [read_clip_table(output_dir / run.name, result["classes"]) for run in experiments.values()]
        results[entry.name], sums[entry.name] = result, sums_of(join_tables(tables), result["classes"])
    reference = results[REFERENCE]
    return Ablation(
        kind="ablation",
        reference=REFERENCE,
        protocol=reference["protocol"],
        data=reference["data"],
        seeds=reference["seeds"],
        variants=[
            Variant(
                name=entry.name,
                title=entry.title,
                axis=entry.axis,
                arguments=list(entry.arguments),
                result=results[entry.name],
                differences={}
                if entry.name == REFERENCE
                else compare(results[entry.name], reference, sums[entry.name], sums[REFERENCE]),
                paper=entry.paper,
            )
            for entry in variants
        ],
    )
