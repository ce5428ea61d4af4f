"""Masked pre-training of an encoder on videos without labels.

    accelerate launch training/pretrain.py
    accelerate launch training/pretrain.py --videos FOLDER_OR_DATASET --model PRESET_OR_CHECKPOINT --output_dir FOLDER

Without arguments it draws synthetic clips and pre-trains the encoder of the tiny preset on them. The output folder is
what `training/run.py --encoder` and `from_encoder_pretrained` take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, VideoMAEConfig, VideoMAEForPreTraining
from transformers.utils import logging

from mtcae_dfer.configuration_lgi_former import (
    RECONSTRUCTION_TARGETS,
    LGIFormerConfig,
    as_height_and_width,
    compute_token_grid,
    require,
)
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.modeling_lgi_former import (
    LGIFormerForPreTraining,
    reconstruction_losses,
    reconstruction_targets,
    take_tokens,
)
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import (
    PRESETS_FOLDER,
    StepArguments,
    available_presets,
    check_step_arguments,
    flatten_options,
    parse_groups,
    read_options_file,
)
from mtcae_dfer.training.checkpoints import save_checkpoint
from mtcae_dfer.training.data.pretraining_data import (
    UnlabelledClips,
    VideoEntry,
    ViewConfig,
    count_short_videos,
    frames_in_memory,
    index_videos,
    open_videos,
)
from mtcae_dfer.training.evaluation.predictions import normalise
from mtcae_dfer.training.evaluation.reconstruction import draw_reconstructions, reconstruct_frames
from mtcae_dfer.training.evaluation.report import REPORT_FILE
from mtcae_dfer.training.initialisation import whiten_patch_embedding
from mtcae_dfer.training.loop import refuse_nan_loss
from mtcae_dfer.training.optimisation import make_optimiser, make_schedule
from mtcae_dfer.training.run import (
    SYNTHETIC_DATA,
    Progress,
    Stopwatch,
    claim_output_dir,
    make_accelerator,
    save_model_folder,
    start_or_resume,
    whitening_frames,
    write_options,
)
from mtcae_dfer.training.trackers import log_epoch, start_trackers

logger = logging.get_logger(__name__)

PRETRAINING_PRESETS = PRESETS_FOLDER / "pretraining"
PRETRAINING_MODELS = {
    "videomae": (VideoMAEConfig, VideoMAEForPreTraining),
    "lgi_former": (LGIFormerConfig, LGIFormerForPreTraining),
}
INDEX_FILE = "videos.jsonl"
DRAWN_CLIPS = 4


@dataclass
class VideoArguments:
    """Which videos are watched, and what of them."""

    videos: str | None = field(
        default=None,
        metadata={
            "help": "Any folder tree of videos, or a built data set, of which the training clips are watched; "
            "empty = draw synthetic clips."
        },
    )
    synthetic_dir: str = field(
        default="runs/synthetic-unlabelled", metadata={"help": "Where the drawn clips are kept and reused."}
    )
    synthetic_subjects: int = field(default=72, metadata={"help": "Drawn subjects."})
    synthetic_takes: int = field(default=2, metadata={"help": "Clips per drawn subject and expression."})
    synthetic_seed: int = field(
        default=1000, metadata={"help": "Seed of the drawing; training/run.py's own default draws other people."}
    )
    held_out_clips: int = field(
        default=8, metadata={"help": "Videos that are not trained on: their loss is logged, some are drawn."}
    )
    frame_stride: int | None = field(
        default=None,
        metadata={"help": "Frames from one sampled frame to the next, from a random start; empty = the whole video."},
    )
    crop_box: list[float] | None = field(
        default=None,
        metadata={"help": "Part of every frame that is cut out first: x1 y1 x2 y2 / frame width and height."},
    )
    crop_scales: list[float] = field(
        default_factory=lambda: [1.0, 0.875, 0.75, 0.66],
        metadata={"help": "Sides of the random crops / shorter side of the frame, the largest first."},
    )
    flip_probability: float = field(default=0.0, metadata={"help": "Share of clips mirrored left to right."})
    cache_frames_gb: float = field(
        default=4.0,
        metadata={"help": "Decoded frames up to this many GB stay in memory, where no stride draws new ones."},
    )


@dataclass
class ObjectiveArguments:
    """Which model is pre-trained, and what it has to predict."""

    model: str = field(
        default="tiny",
        metadata={"help": "Preset (training/configs/pretraining), or a folder or Hub id of a pre-training checkpoint."},
    )
    encoder_preset: str | None = field(
        default=None, metadata={"help": "Preset of training/run.py whose encoder a preset pre-trains."}
    )
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of the encoder's config that a preset or YAML file sets."}
    )
    whiten_patch_embedding: bool = field(
        default=False,
        metadata={"help": "Start a fresh patch embedding from the videos' tubelets' principal components."},
    )
    reconstruction_target: str = field(
        default="appearance_and_motion", metadata={"help": "appearance_and_motion (MAE-DFER) or pixels (VideoMAE)."}
    )
    norm_pix_loss: bool = field(default=True, metadata={"help": "Targets are normalised per tubelet and channel."})
    motion_loss_weight: float | None = field(
        default=None, metadata={"help": "Share of the motion loss in 0 ... 1; empty = every predicted value alike."}
    )
    mask_ratio: float = field(default=0.9, metadata={"help": "Share of masked places in every region."})
    mask_region: list[int] | None = field(
        default=None,
        metadata={
            "help": "Time, height and width of the mask's regions in tokens; empty = LGI-Former's own regions, "
            "or for VideoMAE the whole clip."
        },
    )


@dataclass
class PretrainingStepArguments(StepArguments):
    """How it is trained, and what is drawn on the way."""

    picture_epochs: int = field(
        default=0, metadata={"help": "Epochs between two pictures of reconstructions; 0 = one at the end."}
    )


@dataclass
class PretrainingArguments:
    """All options of one pre-training."""

    data: VideoArguments
    objective: ObjectiveArguments
    optimisation: PretrainingStepArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        return flatten_options(self.data, self.objective, self.optimisation)


def parse_pretraining_arguments(arguments: Sequence[str] | None = None) -> PretrainingArguments:
    """Resolves the options from a command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    groups = (VideoArguments, ObjectiveArguments, PretrainingStepArguments)
    parsed = parse_groups(groups, arguments, "Pre-trains an encoder on videos without labels.", PRETRAINING_PRESETS)
    resolved = PretrainingArguments(*parsed)
    check_pretraining_arguments(resolved.to_dict())
    return resolved


def check_pretraining_arguments(options: dict[str, Any]) -> None:
    """Refuses values that no pre-training can use, each with its option, value and rule."""
    check_step_arguments(options)
    for name, least in (("held_out_clips", 1), ("picture_epochs", 0), ("cache_frames_gb", 0)):
        require(options[name] >= least, f"--{name}", options[name], f"must be at least {least}")
    stride, box, scales = options["frame_stride"], options["crop_box"], options["crop_scales"]
    require(stride is None or stride >= 1, "--frame_stride", stride, "must be at least 1")
    inside = box is None or (len(box) == 4 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1)
    require(inside, "--crop_box", box, "must be x1 y1 x2 y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
    require(scales and all(0 < scale <= 1 for scale in scales), "--crop_scales", scales, "must lie in (0, 1]")
    require(
        0 <= options["flip_probability"] <= 1, "--flip_probability", options["flip_probability"], "must be in [0, 1]"
    )
    _check_objective(options)


def _check_objective(options: dict[str, Any]) -> None:
    target, weight = options["reconstruction_target"], options["motion_loss_weight"]
    allowed = " or ".join(RECONSTRUCTION_TARGETS)
    require(target in RECONSTRUCTION_TARGETS, "--reconstruction_target", target, f"must be {allowed}")
    require(weight is None or 0 <= weight <= 1, "--motion_loss_weight", weight, "must be in [0, 1]")
    rule = "the target 'pixels' has no motion part; leave it out"
    require(weight is None or target != "pixels", "--motion_loss_weight", weight, rule)
    require(0 < options["mask_ratio"] < 1, "--mask_ratio", options["mask_ratio"], "must be in (0, 1)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status. Errors that the user can mend are one line on standard error."""
    options: PretrainingArguments | None = None
    logging.disable_progress_bar()  # of every saved model; the run's own bars stay
    try:
        options = parse_pretraining_arguments(arguments)
        pretrain(options)
        return 0
    except KeyboardInterrupt:
        where = options.optimisation.output_dir if options else "the run"
        print(f"\nStopped. Go on with the same command and --resume_from_checkpoint latest ({where}).", file=sys.stderr)
        return 130
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"pretrain.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def pretrain(arguments: PretrainingArguments) -> dict[str, Any]:
    """Pre-trains, draws reconstructions and reports; returns the report's content."""
    accelerator = make_accelerator(arguments.optimisation)
    output_dir = Path(arguments.optimisation.output_dir)
    stopwatch = Stopwatch()
    model = build_pretraining_model(arguments.objective, arguments.optimisation.seed)
    claim_output_dir(output_dir, arguments.optimisation, accelerator)
    if accelerator.is_main_process and not arguments.optimisation.resume_from_checkpoint:
        _forget_videos(output_dir)
    write_options(arguments, output_dir, accelerator)
    start_trackers(accelerator, arguments)
    source = arguments.data.videos or draw_synthetic_videos(arguments.data, accelerator, stopwatch)
    with stopwatch.stage("counting frames"):
        training, held_out = open_clips(source, arguments, model.config, accelerator)
    processor = make_processor(model.config)
    with stopwatch.stage("pre-training"):
        state = train(accelerator, model, processor, training, held_out, arguments, output_dir)
    results = describe_pretraining(arguments, training, held_out, state, stopwatch)
    if accelerator.is_main_process:
        write_json(output_dir / REPORT_FILE, results)
        print(f"Pre-trained model, {REPORT_FILE} and reconstructions: {output_dir}")
    accelerator.end_training()
    return results


def _forget_videos(output_dir: Path) -> None:
    """Of a forerunner in this folder: its list of videos and its pictures."""
    for file in (output_dir / INDEX_FILE, *output_dir.glob("reconstructions-*.png")):
        file.unlink(missing_ok=True)


def draw_synthetic_videos(options: VideoArguments, accelerator: Accelerator, stopwatch: Stopwatch) -> str:
    """Draws the synthetic clips unless they are there; returns their folder."""
    folder = Path(options.synthetic_dir)
    config = SyntheticCorpusConfig(
        subjects=options.synthetic_subjects, takes=options.synthetic_takes, seed=options.synthetic_seed
    )
    if accelerator.is_main_process:
        with stopwatch.stage("drawing"):
            make_synthetic_corpus(folder, config)
    accelerator.wait_for_everyone()
    return str(folder / "videos")


# The model and its objective


def build_pretraining_model(options: ObjectiveArguments, seed: int = 0) -> PreTrainedModel:
    """The model of `--model`: fresh from a preset, or from a checkpoint, with the objective of the options.

    Raises:
        ValueError: the name is neither a preset nor a checkpoint that can be pre-trained, or the objective does not
            suit the model; the message names the option or the config's field.
    """
    set_seed(seed)
    if options.model in available_presets(PRETRAINING_PRESETS):
        config_class, model_class = PRETRAINING_MODELS[_model_type(_preset_config(options))]
        fields_of_config = {name: value for name, value in _preset_config(options).items() if name != "model_type"}
        model = model_class(_with_objective(config_class(**fields_of_config), options))
    else:
        config = _read_checkpoint_config(options.model)
        _, model_class = PRETRAINING_MODELS[config.model_type]
        model = model_class.from_pretrained(options.model, config=_with_objective(config, options))
    mask_region(model.config, options)
    return model


def _preset_config(options: ObjectiveArguments) -> dict[str, Any]:
    """Fields of the encoder's config: those of the run's preset, then the pre-training preset's own."""
    if options.encoder_preset is None:
        return options.model_config
    if options.encoder_preset not in available_presets():
        raise ValueError(f"--encoder_preset {options.encoder_preset}: must be one of {', '.join(available_presets())}")
    preset = read_options_file(PRESETS_FOLDER / f"{options.encoder_preset}.yaml")
    return {**preset.get("model_config", {}).get("encoder_config", {}), **options.model_config}


def _model_type(config: dict[str, Any]) -> str:
    model_type = config.get("model_type", "videomae")
    known = ", ".join(PRETRAINING_MODELS)
    require(model_type in PRETRAINING_MODELS, "--model_config: model_type", model_type, f"must be one of {known}")
    return model_type


def _read_checkpoint_config(name: str) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        presets = ", ".join(available_presets(PRETRAINING_PRESETS))
        raise ValueError(
            f"--model {name}: neither a preset ({presets}) nor a readable checkpoint folder or Hub id"
        ) from error
    known = ", ".join(PRETRAINING_MODELS)
    require(config.model_type in PRETRAINING_MODELS, "--model", name, f"is no model that can be pre-trained: {known}")
    return config


def _with_objective(config: PreTrainedConfig, options: ObjectiveArguments) -> PreTrainedConfig:
    """The config with the objective where it has fields for it. VideoMAE's knows only `norm_pix_loss`."""
    config.norm_pix_loss = options.norm_pix_loss
    if isinstance(config, LGIFormerConfig):
        config.reconstruction_target, config.mask_ratio = options.reconstruction_target, options.mask_ratio
        config.motion_loss_weight = options.motion_loss_weight
    elif options.reconstruction_target == "appearance_and_motion":
        rule = "the target 'appearance_and_motion' needs 2 frames in a tubelet at least"
        require(config.tubelet_size > 1, "tubelet_size", config.tubelet_size, rule)
    return config


def mask_region(config: PreTrainedConfig, options: ObjectiveArguments) -> list[int]:
    """Time, height and width of the mask's regions in tokens: every region keeps the same number of visible tokens.

    Raises:
        ValueError: the regions do not divide the token grid, or do not divide LGI-Former's own regions.
    """
    grid = compute_token_grid(config)
    region = options.mask_region or list(getattr(config, "region_size", grid))
    fits = len(region) == 3 and all(side >= 1 and whole % side == 0 for side, whole in zip(region, grid, strict=True))
    require(fits, "--mask_region", region, f"must be three numbers that divide the token grid {grid}")
    own = getattr(config, "region_size", region)
    whole = all(outer % inner == 0 for outer, inner in zip(own[1:], region[1:], strict=True))
    rule = f"must divide the model's own regions {own}, which need equal numbers of visible tokens"
    require(whole, "--mask_region", region, rule)
    return region


def make_processor(config: PreTrainedConfig) -> MTCAEVideoProcessor:
    """The processor that makes this model's input."""
    height, width = as_height_and_width(config.image_size)
    return MTCAEVideoProcessor(size={"height": height, "width": width}, num_frames=config.num_frames)


def predict_masked(
    model: torch.nn.Module,
    config: PreTrainedConfig,
    options: ObjectiveArguments,
    pixel_values: torch.Tensor,
    bool_masked_pos: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Predictions (B, K, values) of the masked tokens, their losses, and the targets (B, N, values) of all tokens."""
    predictions = model(pixel_values=pixel_values, bool_masked_pos=bool_masked_pos).logits
    patch_size = as_height_and_width(config.patch_size)
    described = (config.tubelet_size, patch_size, options.reconstruction_target, options.norm_pix_loss)
    targets = reconstruction_targets(pixel_values, *described)
    # Stable: visible tokens come first, masked ones after them in raster order.
    masked = bool_masked_pos.long().argsort(dim=1, stable=True)[:, -predictions.shape[1] :]
    losses = reconstruction_losses(
        predictions,
        take_tokens(targets, masked),
        config.tubelet_size,
        options.reconstruction_target,
        options.motion_loss_weight,
    )
    return predictions, losses, targets


# The clips


def open_clips(
    source: str, arguments: PretrainingArguments, config: PreTrainedConfig, accelerator: Accelerator
) -> tuple[UnlabelledClips, UnlabelledClips]:
    """Clips to train on, and the held-out ones, spread evenly over the videos.

    Raises:
        DatasetError: there are no readable videos, or too few.
    """
    videos, index_file = open_videos(source), Path(arguments.optimisation.output_dir) / INDEX_FILE
    with accelerator.main_process_first():
        entries = index_videos(videos, index_file, source)
    wanted = arguments.data.held_out_clips
    if len(entries) <= wanted:
        raise DatasetError(
            f"--videos {source}: {len(entries)} readable videos leave none to train on beside {wanted} held-out ones; "
            f"lower --held_out_clips or bring more videos"
        )
    places = {round(place) for place in torch.linspace(0, len(entries) - 1, wanted).tolist()}
    view = make_view(arguments, config)
    _tell_short_videos(entries, view, accelerator)
    keep = frames_in_memory(len(entries), view) <= arguments.data.cache_frames_gb * 1e9
    seed = arguments.optimisation.seed
    trained = [entry for place, entry in enumerate(entries) if place not in places]
    held_out = [entries[place] for place in sorted(places)]
    return (
        UnlabelledClips(videos, trained, view, seed, keep),
        UnlabelledClips(videos, held_out, view, seed, keep, fixed=True),
    )


def make_view(arguments: PretrainingArguments, config: PreTrainedConfig) -> ViewConfig:
    """What of a video this model sees."""
    options = arguments.data
    return ViewConfig(
        size=as_height_and_width(config.image_size),
        num_frames=config.num_frames,
        token_grid=compute_token_grid(config),
        mask_region=mask_region(config, arguments.objective),
        mask_ratio=arguments.objective.mask_ratio,
        frame_stride=options.frame_stride,
        crop_box=None if options.crop_box is None else tuple(options.crop_box),
        crop_scales=tuple(options.crop_scales),
        flip_probability=options.flip_probability,
    )


def _tell_short_videos(entries: Sequence[VideoEntry], view: ViewConfig, accelerator: Accelerator) -> None:
    short = count_short_videos(entries, view)
    if short and accelerator.is_main_process:
        window = 1 + (view.num_frames - 1) * (view.frame_stride or 1)
        logger.warning(
            f"{short} of {len(entries)} videos are shorter than the {window} frames of a clip: they repeat frames."
        )


# Training


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: MTCAEVideoProcessor,
    training: UnlabelledClips,
    held_out: UnlabelledClips,
    arguments: PretrainingArguments,
    output_dir: Path,
) -> Progress:
    """Trains epoch by epoch; with every checkpoint `output_dir` gets the model as it is then."""
    options, config = arguments.optimisation, model.config
    if arguments.objective.whiten_patch_embedding and arguments.objective.model in available_presets(
        PRETRAINING_PRESETS
    ):
        whiten_patch_embedding(model, normalise(processor, whitening_frames(training)))
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model, optimiser, loader = accelerator.prepare(
        model,
        make_optimiser(model, options),
        DataLoader(
            training,
            options.per_device_train_batch_size,
            shuffle=True,
            num_workers=options.dataloader_num_workers,
            pin_memory=accelerator.device.type != "cpu",
        ),
    )
    schedule = make_schedule(optimiser, options, len(loader))
    accelerator.register_for_checkpointing(schedule)
    state = start_or_resume(accelerator, arguments, output_dir, Progress)
    last_save = time.monotonic()
    hidden = not accelerator.is_main_process
    with tqdm(
        total=options.num_train_epochs, initial=state.epoch, desc="Pre-training", unit="epoch", disable=hidden
    ) as bar:
        while state.epoch < options.num_train_epochs:
            record = train_epoch(
                accelerator, model, config, optimiser, schedule, loader, training, processor, state, arguments
            )
            record |= evaluate(accelerator, model, config, processor, held_out, state.epoch + 1, arguments, output_dir)
            state.epoch += 1
            state.history.append({"epoch": state.epoch, **record})
            log_epoch(accelerator, state.history[-1])
            done = state.epoch == options.num_train_epochs
            if done or time.monotonic() - last_save >= options.save_seconds:
                if accelerator.is_main_process:
                    save_model_folder(accelerator.unwrap_model(model), processor, output_dir)
                save_checkpoint(accelerator, output_dir / "checkpoints", vars(state), options.save_total_limit)
                last_save = time.monotonic()
            bar.set_postfix({name: f"{loss:.4f}" for name, loss in record["task_losses"].items()})
            bar.update()
    return state


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    config: PreTrainedConfig,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loader: DataLoader,
    training: UnlabelledClips,
    processor: MTCAEVideoProcessor,
    state: Progress,
    arguments: PretrainingArguments,
) -> dict[str, Any]:
    """One pass over the training clips; returns mean losses over all processes, the learning rate and the seconds."""
    start, options = time.perf_counter(), arguments.optimisation
    # Every epoch starts from its own seed, so that a resumed run draws what an undisturbed one does.
    set_seed(options.seed + 1 + state.epoch)
    training.set_epoch(state.epoch)
    loader.set_epoch(state.epoch)
    model.train()
    sums: dict[str, torch.Tensor] = {}
    for batch in loader:
        pixel_values = normalise(processor, batch["frames"])
        _, losses, _ = predict_masked(model, config, arguments.objective, pixel_values, batch["bool_masked_pos"])
        refuse_nan_loss(losses["loss"], batch, training)
        accelerator.backward(losses["loss"])
        if options.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.detach()
    means = {name: accelerator.reduce(total / len(loader), "mean").item() for name, total in sums.items()}
    return {
        "train_loss": means["loss"],
        "task_losses": _loss_parts(means),
        "learning_rate": schedule.get_last_lr()[0],
        "seconds": time.perf_counter() - start,
    }


def _loss_parts(losses: dict[str, float]) -> dict[str, float]:
    """Appearance and motion apart, without the ending of their names; of the target "pixels" there is one part."""
    return {name.removesuffix("_loss"): loss for name, loss in losses.items() if name != "loss"}


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: torch.nn.Module,
    config: PreTrainedConfig,
    processor: MTCAEVideoProcessor,
    held_out: UnlabelledClips,
    epoch: int,
    arguments: PretrainingArguments,
    output_dir: Path,
) -> dict[str, float]:
    """Losses of the held-out clips, and a picture of some of them where the options ask for one after this epoch."""
    options, every = arguments.optimisation, arguments.optimisation.picture_epochs
    drawn = epoch == options.num_train_epochs or (every > 0 and epoch % every == 0)
    # All processes do the same here: with so few clips dividing them is not worth it.
    plain_model = accelerator.unwrap_model(model).eval()
    sums: dict[str, float] = {}
    for batch in DataLoader(held_out, options.per_device_train_batch_size):
        batch = {name: value.to(accelerator.device) for name, value in batch.items()}
        pixel_values, mask = normalise(processor, batch["frames"]), batch["bool_masked_pos"]
        with accelerator.autocast():
            predictions, losses, targets = predict_masked(plain_model, config, arguments.objective, pixel_values, mask)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item() * len(mask) / len(held_out)
        if drawn and accelerator.is_main_process:
            count = min(DRAWN_CLIPS, len(mask))
            _draw(pixel_values, targets, predictions, mask, count, config, held_out.names, epoch, arguments, output_dir)
            drawn = False
    parts = {f"held_out_{name}": loss for name, loss in _loss_parts(sums).items()}
    return {"held_out_loss": sums["loss"], **parts}


def _draw(
    pixel_values: torch.Tensor,
    targets: torch.Tensor,
    predictions: torch.Tensor,
    bool_masked_pos: torch.Tensor,
    count: int,
    config: PreTrainedConfig,
    names: Sequence[str],
    epoch: int,
    arguments: PretrainingArguments,
    output_dir: Path,
) -> None:
    options = arguments.objective
    patch_size = as_height_and_width(config.patch_size)
    tensors = (pixel_values[:count], targets[:count], predictions[:count], bool_masked_pos[:count])
    described = (config.tubelet_size, patch_size, options.reconstruction_target, options.norm_pix_loss)
    title = f"Videos that were not trained on, epoch {epoch}, {100 * options.mask_ratio:g} % masked"
    picture = output_dir / f"reconstructions-{epoch:05d}.png"
    draw_reconstructions(reconstruct_frames(*tensors, *described), names[:count], title, picture)


def describe_pretraining(
    arguments: PretrainingArguments,
    training: UnlabelledClips,
    held_out: UnlabelledClips,
    state: Progress,
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    """The content of report.json."""
    packages = ("transformers", "torch", "accelerate")
    return {
        "data": arguments.data.videos or SYNTHETIC_DATA,
        "seed": arguments.optimisation.seed,
        "videos": {"trained_on": len(training), "held_out": held_out.names},
        "history": state.history,
        "options": arguments.to_dict(),
        "versions": {name: version(name) for name in packages},
        "seconds": stopwatch.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
