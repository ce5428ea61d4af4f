"""What `run.py`, `pretrain.py` and `run_mtl_er.py` share: from a command line to a prepared folder and device.

A script parses its options, and `run_script` does the rest: it holds the output folder, and turns what the user can
mend into one line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from mtcae_dfer.configuration_common import as_height_and_width
from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.clips import OptionError
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.files import replacing, writing_in
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import (
    RunArguments,
    ScriptArguments,
    StepArguments,
    SyntheticArguments,
    flatten_options,
    parse_run_arguments,
)
from mtcae_dfer.training.checkpoints import (
    CHECKPOINTS_FOLDER,
    CheckpointError,
    Progress,
    find_checkpoint,
    load_progress,
    refuse_other_architecture,
)
from mtcae_dfer.training.data.clip_dataset import FaceCropConfig
from mtcae_dfer.training.data.sampling import draw_seed
from mtcae_dfer.training.errors import tell_user
from mtcae_dfer.training.evaluation.report import REPORT_FILE
from mtcae_dfer.training.initialisation import checked_config_fields
from mtcae_dfer.training.optimisation import computes_in_bfloat16
from mtcae_dfer.training.source_processor import read_source_processor
from mtcae_dfer.training.threads import share_threads

logger = logging.get_logger(__name__)

SYNTHETIC_NAME = "mtcae-synthetic"
SYNTHETIC_DATA = "synthetic faces (drawn, no real people)"
OPTIONS_FILE = "options.yaml"
MEMORY_ADVICE = (
    "lower --per_device_train_batch_size (and raise --gradient_accumulation_steps as much, for the same "
    "step), or add --gradient_checkpointing true, --bf16 true, --decoder_head_dim 64, --freeze_encoder true"
)
# Options that a resumed run may have otherwise than the one that was interrupted.
FREE_OPTIONS = {
    "resume_from_checkpoint",
    "resume_with_changed_options",
    "overwrite_output_dir",
    "output_dir",
    "save_total_limit",
    "save_seconds",
    "save_steps",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "cache_features_dir",
    "cache_frames_gb",
    "frame_cache",
    "frame_cache_gb",
}


ArgumentsType = TypeVar("ArgumentsType", bound=ScriptArguments)
ProgressType = TypeVar("ProgressType", bound=Progress)


class Stopwatch:
    """Seconds of the named stages of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_script(
    name: str,
    parse: Callable[[Sequence[str] | None], ArgumentsType],
    work: Callable[[ArgumentsType], Any],
    words: Sequence[str] | None,
) -> int:
    """Runs a script's job; returns the exit status. Errors that the user can mend are one line on standard error.

    Args:
        name: of the script, before its errors.
        parse: from words of a command line to options.
        work: the job.
        words: of the command line; None: this process's.
    """
    arguments: ArgumentsType | None = None
    logging.disable_progress_bar()  # of every saved model; the run's own bars stay
    try:
        arguments = parse(words)
        with held_folder(Path(arguments.optimisation.output_dir)):
            work(arguments)
        return 0
    except KeyboardInterrupt:
        where = arguments.optimisation.output_dir if arguments else "the run"
        print(f"\nStopped. Go on with the same command and --resume_from_checkpoint latest ({where}).", file=sys.stderr)
        return 130
    except Exception as error:
        return tell_user(error, name, MEMORY_ADVICE)


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Keeps a second command out of the folder as long as the block runs; of several processes the first holds it.

    Raises:
        ValueError: another command works in the folder.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with writing_in(folder):
        yield


def make_accelerator(options: StepArguments, accumulation: int = 1, trackers: list[str] | None = None) -> Accelerator:
    """The accelerator; all processors work where there is no other device.

    Args:
        options: precision, seed of the order of clips, and output folder.
        accumulation: batches that make one step.
        trackers: of `chosen_trackers`.

    Raises:
        ValueError: what is asked for needs an accelerator, and there is none.
    """
    accelerator = Accelerator(
        mixed_precision="bf16" if options.bf16 else "fp16" if options.fp16 else "no",
        gradient_accumulation_steps=accumulation,
        # What follows from pinned memory: a batch is copied while the accelerator works on the one before.
        # The order of an epoch comes from the sum of data_seed and epoch: neighbouring seeds must lie far apart.
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=draw_seed(options.seed), non_blocking=True
        ),
        log_with=trackers,
        project_dir=options.output_dir,
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and accelerator.distributed_type != "FSDP":
        # Accelerate itself would go on without a word, and every process would hold the whole model.
        raise ValueError("FSDP: Accelerate shards over several accelerators only; take it out of the config file here")
    if accelerator.device.type == "cpu" and options.fp16:  # here, too, Accelerate would go on, in float32
        raise ValueError("--fp16 true: needs an accelerator; a processor has --bf16 true, or neither")
    if options.bf16 and not computes_in_bfloat16(accelerator.device):
        accelerator.print("--bf16 true: this device has no instructions for it; --bf16 false is several times as fast.")
    if accelerator.device.type == "cpu":
        share_threads(accelerator.num_processes)
    return accelerator


def claim_output_dir(
    output_dir: Path, options: StepArguments, accelerator: Accelerator, begun: Sequence[str], others: Sequence[str]
) -> None:
    """Refuses to mix two runs in one folder; replaces the one that is there where the options ask for it.

    Args:
        output_dir: the folder.
        options: whether to replace or to resume.
        accelerator: of several processes the main one claims.
        begun: names of files and folders that are there as soon as a run has begun.
        others: names of what else a run writes; nothing but these and `begun` is ever removed.

    Raises:
        ValueError: the folder holds a run that the options do not name.
    """
    if accelerator.is_main_process:
        if options.overwrite_output_dir and not options.resume_from_checkpoint:
            # Only what a run writes: a mistyped folder must not cost somebody's files.
            for path in [output_dir / name for name in (*begun, *others, REPORT_FILE)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif (output_dir / REPORT_FILE).exists():
            raise ValueError(
                f"{output_dir} holds a finished run: choose another --output_dir or --overwrite_output_dir"
            )
        elif any((output_dir / name).exists() for name in begun) and not options.resume_from_checkpoint:
            raise ValueError(
                f"{output_dir} holds an unfinished run: add --resume_from_checkpoint latest, or --overwrite_output_dir"
            )
        output_dir.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()


def write_options(arguments: ScriptArguments, output_dir: Path, accelerator: Accelerator) -> None:
    """Writes the resolved options beside the results, as `--config` reads them."""
    if accelerator.is_main_process:
        once = {"resume_from_checkpoint", "resume_with_changed_options", "overwrite_output_dir"}
        options = {name: value for name, value in arguments.to_dict().items() if name not in once}
        with replacing(output_dir / OPTIONS_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")


def start_or_resume(
    accelerator: Accelerator,
    arguments: ScriptArguments,
    output_dir: Path,
    state_class: type[ProgressType],
    save: Callable[[ProgressType], Any],
    model: torch.nn.Module | None = None,
) -> ProgressType:
    """A fresh state, saved at once so that a run can be taken up from its first second; or a checkpoint's.

    Args:
        accelerator: holds everything that was prepared or registered for checkpointing.
        arguments: of the run; a resumed one must have those of the interrupted one.
        output_dir: its checkpoints stand in a sub-folder.
        state_class: of what the training knows between epochs.
        save: writes a checkpoint.
        model: prepared; a checkpoint of another architecture is refused by the names of its weights.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not suit.
    """
    wanted = arguments.optimisation.resume_from_checkpoint
    checkpoint = find_checkpoint(output_dir / CHECKPOINTS_FOLDER, wanted) if wanted else None
    if checkpoint is None:
        state = state_class(options=arguments.to_dict(), processes=accelerator.num_processes)
        save(state)
        return state
    state = state_class(**load_progress(checkpoint))
    if not arguments.to_dict().get("resume_with_changed_options"):
        refuse_changed_options(state.options, arguments, checkpoint)
        if state.processes not in (None, accelerator.num_processes):
            raise CheckpointError(
                f"{checkpoint} was made by {state.processes} processes, and now there are {accelerator.num_processes}: "
                "clips and batches would be shared out otherwise; start as many as before"
            )
    if model is not None:
        refuse_other_architecture(checkpoint, accelerator.unwrap_model(model))
    state.options, state.processes = arguments.to_dict(), accelerator.num_processes
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"Resumed from {checkpoint}")
    return state


def refuse_changed_options(before: dict[str, Any], arguments: ScriptArguments, checkpoint: Path) -> None:
    """Raises a CheckpointError that lists the options by which a resumed run is not the one that was interrupted."""
    now = arguments.to_dict()
    # An option that the interrupted run did not know yet had its default's effect.
    groups: Any = arguments
    defaults = flatten_options(*(type(getattr(groups, group.name))() for group in fields(groups)))
    before = defaults | before
    changed = [
        f"{name} {before[name]} -> {value}"
        for name, value in now.items()
        if name not in FREE_OPTIONS and before[name] != value
    ]
    if changed:
        way_out = ", or add --resume_with_changed_options true" if "resume_with_changed_options" in now else ""
        raise CheckpointError(f"{checkpoint} was made with other options: {'; '.join(changed)}; repeat those{way_out}")


def make_processor(
    config: PreTrainedConfig, crop: FaceCropConfig | None = None, source: str | None = None
) -> MTCAEVideoProcessor:
    """The processor that makes the input of a model with this config, cropped to the face as it was trained.

    Colours are normalised as the processor of `source`, the pre-trained model, does; by default as on ImageNet.
    """
    height, width = as_height_and_width(config.image_size)
    options: dict[str, Any] = {"size": {"height": height, "width": width}, "num_frames": config.num_frames}
    if source is not None:
        pretrained = read_source_processor(source)
        options |= {name: list(pretrained[name]) for name in ("image_mean", "image_std")}
        tell_other_crop(source, pretrained, crop)
    if crop is not None:
        options |= {"do_face_crop": True, "face_crop_margin": crop.margin, "face_crop_rise": crop.rise}
    return MTCAEVideoProcessor(**options)


def tell_other_crop(source: str, pretrained: dict[str, Any], crop: FaceCropConfig | None) -> None:
    """Warns where a run crops its frames otherwise than the pre-trained model that it starts from."""
    if not pretrained.get("do_face_crop"):
        return
    told = {name: pretrained.get(f"face_crop_{name}") for name in ("margin", "rise")}
    learned = FaceCropConfig(**{name: value for name, value in told.items() if value is not None})
    if crop != learned:
        words = f"--face_crop true --face_crop_margin {learned.margin:g} --face_crop_rise {learned.rise:g}"
        logger.warning(f"{source} has learned from frames that are cropped to the face: {words} crops as it does.")


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Makes the model keep its layers' inputs alone and compute the rest again on the way back."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # the only name that it has before transformers 5.24, and one that version 6 does without
        model.gradient_checkpointing_enable()


def package_versions(*others: str) -> dict[str, str]:
    """Versions of the packages that decide a run's numbers, for its report."""
    return {name: version(name) for name in ("transformers", "torch", "accelerate", *others)}


# The drawn corpus


def parse_checked(words: Sequence[str] | None) -> RunArguments:
    """The options of `run.py`, of a model that is there and a corpus that can be drawn: told before any work begins."""
    arguments = parse_run_arguments(words)
    checked_config_fields(arguments.model)
    if not arguments.data.dataset:
        synthetic_corpus(arguments.data)
    return arguments


def synthetic_corpus(options: SyntheticArguments) -> SyntheticCorpusConfig:
    """What the options ask to be drawn.

    Raises:
        ValueError: an option has a value that it cannot have.
    """
    try:
        return SyntheticCorpusConfig(
            subjects=options.synthetic_subjects, takes=options.synthetic_takes, seed=options.synthetic_seed
        )
    except OptionError as error:
        raise ValueError(f"--synthetic_{error.name} {error.value}: {error.rule}") from error


def draw_synthetic_videos(options: SyntheticArguments, accelerator: Accelerator, stopwatch: Stopwatch) -> str:
    """Draws the synthetic clips unless they are there; returns their folder."""
    folder = Path(options.synthetic_dir)
    if accelerator.is_main_process:
        with stopwatch.stage("drawing"):
            make_synthetic_corpus(folder, synthetic_corpus(options))
    accelerator.wait_for_everyone()
    return str(folder / "videos")


def make_synthetic_dataset(options: SyntheticArguments, accelerator: Accelerator, stopwatch: Stopwatch) -> str:
    """Draws the synthetic corpus, labels it and builds its data set, each unless it is there; returns its folder."""
    folder, config = Path(options.synthetic_dir), synthetic_corpus(options)
    dataset_dir = folder / "dataset"
    if accelerator.is_main_process:
        with stopwatch.stage("drawing"):
            corpus = make_synthetic_corpus(folder / "corpus", config)
        with stopwatch.stage("labelling"):
            clips = read_folder(corpus / "videos" / "clips.csv", class_names=config.expressions)
            clips = attach_drawn_labels(clips, corpus)
            build = BuildOptions(SYNTHETIC_NAME, "apache-2.0", config.expressions, labelling=LabellingOptions())
            build_dataset(clips, dataset_dir, build)
    accelerator.wait_for_everyone()
    return str(dataset_dir)
