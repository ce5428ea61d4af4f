"""Options of a run of MTL-ER, and where their values come from; see `training/arguments.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mtcae_dfer.training.arguments import (
    MTL_ER_PRESETS,
    StepArguments,
    SyntheticArguments,
    available_presets,
    check_step_arguments,
    flatten_options,
    option,
    parse_groups,
)


@dataclass
class AffectDataArguments(SyntheticArguments):
    """Which features and labels a run trains and tests on."""

    features: str | None = option(
        None, "Feature files, separated by commas, concatenated per frame; empty = the synthetic corpus."
    )
    train_labels: str | None = option(None, "Label file of s-Aff-Wild2 for training.")
    validation_labels: str | None = option(None, "Label file for validation.")
    test_labels: str | None = option(None, "Label file for the test.")
    normalise_per_video: bool = option(
        False, "Every feature gets mean 0 and deviation 1 over a video's labelled frames."
    )
    frame_encoder_steps: int = option(600, "Training steps of the synthetic corpus's frame encoder.")


@dataclass
class AffectModelArguments:
    """Which models a run trains."""

    model: str = option("tiny", "Preset (training/configs/mtl_er): tiny, or released for the paper's size.")
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of MTLERConfig that a preset or YAML file sets."}
    )
    encoder_type: str | None = option(None, "transformer, lstm or gru.")
    framework: str | None = option(None, "share_encoder, share_bottom or share_bottom_feedback.")
    feedback_kind: str | None = option(None, "hidden_state or label_embedding.")
    dependencies: str | None = option(None, "What is fed back: arousal=valence+action_units,expression=action_units.")
    valence_arousal_loss: str | None = option(None, "mse or ccc.")
    chunk_merge: str | None = option(None, "overlap or consecutive, for inference.")
    seeds: str = option("0,1", "Seeds of the ensemble's models.")
    ensemble: str | None = option(None, "Folders of trained models, separated by commas, that join the ensemble.")
    single_tasks: bool = option(True, "Train a model for each task alone too, with the first seed, for comparison.")
    smoothing_half_widths: str = option(
        "0,1,2,5,10,15", "Half widths in frames among which validation chooses the smoothing of valence and arousal."
    )


@dataclass
class AffectStepArguments(StepArguments):
    """How each model is trained."""

    true_label_decay: bool = option(
        False, "feedback_kind label_embedding: the share of true labels falls to 0 linearly."
    )


@dataclass
class AffectArguments:
    """All options of one run."""

    data: AffectDataArguments
    model: AffectModelArguments
    optimisation: AffectStepArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        return flatten_options(self.data, self.model, self.optimisation)


def parse_affect_arguments(arguments: Sequence[str] | None = None) -> AffectArguments:
    """Resolves the options of a run from its command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    groups = (AffectDataArguments, AffectModelArguments, AffectStepArguments)
    description = "Trains and tests MTL-ER on per-frame features."
    resolved = AffectArguments(*parse_groups(groups, arguments, description, MTL_ER_PRESETS))
    options = resolved.to_dict()
    check_step_arguments(options)
    presets = available_presets(MTL_ER_PRESETS)
    if resolved.model.model not in presets:
        raise ValueError(f"--model {resolved.model.model}: no preset; there are {', '.join(presets)}")
    if options["frame_encoder_steps"] < 1:
        raise ValueError(f"--frame_encoder_steps {options['frame_encoder_steps']}: must be greater than 0")
    whole_numbers("seeds", resolved.model.seeds)
    whole_numbers("smoothing_half_widths", resolved.model.smoothing_half_widths)
    return resolved


def whole_numbers(name: str, text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"--{name} {text}: must be different whole numbers, separated by commas")
    return [int(part) for part in parts]


def parse_dependencies(text: str) -> dict[str, list[str]]:
    """ "arousal=valence+action_units" -> {"arousal": ["valence", "action_units"]}; "none" -> {}."""
    if text.strip() == "none":
        return {}
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"--dependencies {text}: write target=source+source, several separated by commas, or none")
    return {target.strip(): [source.strip() for source in sources.split("+")] for target, sources in pairs}
