"""The job of MTL-ER: features, models, ensemble, test, report.

    accelerate launch training/run_mtl_er.py
    accelerate launch training/run_mtl_er.py --features A.parquet,B.parquet --train_labels TRAIN.txt \
        --validation_labels VALIDATION.txt --test_labels TEST.txt --model released --output_dir RUN

Without arguments it draws the synthetic corpus, trains a small frame encoder on the training subjects, extracts its
features, trains MTL-ER and one model for each task alone, and tests them on unseen subjects.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from mtcae_dfer.configuration_mtl_er import TASKS
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.modeling_mtl_er import MTLERForAffectiveBehavior
from mtcae_dfer.training.affect.arguments import AffectArguments, AffectDataArguments, parse_affect_arguments
from mtcae_dfer.training.affect.members import MEMBERS_FOLDER, Member, make_config, plan_members, train_member
from mtcae_dfer.training.affect.sequences import (
    FEATURES_FILE,
    FRAME_ENCODER_FOLDER,
    AffectSplits,
    draw_splits,
    read_splits,
)
from mtcae_dfer.training.affect.testing import labelled_units, score_constant, test_system
from mtcae_dfer.training.evaluation.report import REPORT_FILE
from mtcae_dfer.training.running import (
    Stopwatch,
    claim_output_dir,
    make_accelerator,
    package_versions,
    run_script,
)

FIGURES = {
    "p_mtl": "P_MTL",
    "ccc_valence": "CCC valence",
    "ccc_arousal": "CCC arousal",
    "expression_f1": "F1 expressions",
    "action_unit_f1": "F1 action units",
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    return run_script("run_mtl_er.py", parse_affect_arguments, run, words)


def run(arguments: AffectArguments) -> dict[str, Any]:
    """Trains, selects, tests and reports; returns the report's content."""
    output_dir = Path(arguments.optimisation.output_dir)
    accelerator = make_accelerator(arguments.optimisation)
    stopwatch = Stopwatch()
    begun = (MEMBERS_FOLDER, FRAME_ENCODER_FOLDER, FEATURES_FILE)
    claim_output_dir(output_dir, arguments.optimisation, accelerator, begun, others=())
    with stopwatch.stage("features"):
        splits = open_splits(arguments.data, output_dir, accelerator)
    make_config(arguments.model, splits, TASKS)  # a wrong option is told before anything is trained
    members = plan_members(arguments.model)
    with stopwatch.stage("training"):
        results = {member.name: train_member(member, splits, arguments, output_dir) for member in members}
    with stopwatch.stage("testing"):
        systems = test_systems(accelerator, members, splits, arguments, output_dir)
    report = {
        "protocol": splits.protocol,
        "data": splits.data,
        "features": splits.feature_names,
        "input_size": splits.input_size,
        "videos": {name: [video.name for video in getattr(splits, name)] for name in SPLITS},
        "test_frames": sum(len(video.labels) for video in splits.test),
        "action_units": labelled_units(splits.test),
        "systems": systems,
        "members": results,
        "options": arguments.to_dict(),
        "versions": package_versions(),
        "seconds": stopwatch.seconds,
    }
    if accelerator.is_main_process:
        write_json(output_dir / REPORT_FILE, report)
        print(format_table(report))
        print(f"Models and report.json: {output_dir}")
    accelerator.end_training()
    return report


def open_splits(options: AffectDataArguments, output_dir: Path, accelerator: Accelerator) -> AffectSplits:
    """The run's videos. The main process draws and extracts; the others then find its files."""
    if options.features:
        return read_splits(options)
    if any((options.train_labels, options.validation_labels, options.test_labels)):
        raise ValueError("label files need --features FILE of the same videos; see training/affect/extract_features.py")
    with accelerator.main_process_first():
        return draw_splits(options, output_dir)


def test_systems(
    accelerator: Accelerator,
    members: Sequence[Member],
    splits: AffectSplits,
    arguments: AffectArguments,
    output_dir: Path,
) -> dict[str, Any]:
    """Figures of each system on the test videos, with the smoothing that its validation videos chose."""
    options = arguments.model
    models = {
        member.name: MTLERForAffectiveBehavior.from_pretrained(output_dir / MEMBERS_FOLDER / member.name)
        for member in members
    }
    joint = [models[member.name] for member in members if len(member.tasks) > 1]
    folders = options.ensemble.split(",") if options.ensemble else []
    extra = [load_ensemble_member(folder.strip(), splits) for folder in folders]
    systems: dict[str, Any] = {"predict the mean": {"test": score_constant(splits)}}
    if options.single_tasks:
        alone = [[models[member.name]] for member in members if len(member.tasks) == 1]
        systems["one model per task"] = test_system(alone, splits, options)
    systems["multi-task, first seed"] = test_system([joint[:1]], splits, options)
    if len(joint) + len(extra) > 1:
        systems[f"multi-task, ensemble of {len(joint) + len(extra)}"] = test_system([joint + extra], splits, options)
    return systems


def load_ensemble_member(folder: str, splits: AffectSplits) -> MTLERForAffectiveBehavior:
    """A model trained elsewhere on the same features.

    Raises:
        ValueError: it takes other features or predicts other tasks.
    """
    model = MTLERForAffectiveBehavior.from_pretrained(folder)
    if model.config.input_size != splits.input_size or sorted(model.config.tasks) != sorted(TASKS):
        raise ValueError(
            f"--ensemble {folder}: a model of {', '.join(model.config.tasks)} on {model.config.input_size} features "
            f"cannot join one of all tasks on {splits.input_size}"
        )
    return model


def format_table(report: dict[str, Any]) -> str:
    """The table that a run prints at its end, as Markdown."""
    units = report["action_units"]
    lines = [
        f"{report['protocol']}; {report['data']}.",
        f"{len(report['videos']['test'])} test videos, {report['test_frames']} frames; F1 of {len(units)} action units "
        f"({', '.join(map(str, units))}). Features: {'; '.join(report['features'])}.",
        "",
        f"| | {' | '.join(FIGURES.values())} |",
        f"|---|{'---|' * len(FIGURES)}",
    ]
    for name, system in report["systems"].items():
        values = [system["test"][figure] for figure in FIGURES]
        cells = ["no labels" if value is None or not np.isfinite(value) else f"{value:.3f}" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Higher is better; P_MTL = mean CCC + both F1, at most 3."])


if __name__ == "__main__":
    sys.exit(main())
