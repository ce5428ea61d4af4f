"""The clips of a run: the splits of a data set, checked against the model that is to learn them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import datasets
from transformers import PreTrainedConfig

from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.hub_dataset.loading.protocols import fold_title, load_fold
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.arguments import DataArguments, RunArguments
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import (
    ClipDataset,
    FaceCropConfig,
    class_names,
    frames_in_memory,
    labelled_frame_count,
)
from mtcae_dfer.training.data.sampling import FrameWindow
from mtcae_dfer.training.running import SYNTHETIC_DATA, SYNTHETIC_NAME

SEEN_CLIPS_PROTOCOL = "training clips themselves (says nothing about unseen people)"


@dataclass
class Splits:
    """The clips of a run with the name of the protocol that divided them."""

    train: ClipDataset
    validation: ClipDataset
    test: ClipDataset
    protocol: str
    data: str  # what the clips are, for the report
    dataset: dict[str, str]  # its name, licence, corpus and number of clips, for the report


def load_rows(arguments: RunArguments, dataset_dir: str) -> datasets.DatasetDict:
    """The rows of the data set by split, as the protocol and fold of the options divide them.

    Raises:
        ValueError: there are labels without videos, or a class has no training clip.
    """
    rows = load_fold(dataset_dir, arguments.data.protocol, arguments.data.fold, arguments.data.videos)
    if any("video" not in clips.column_names for clips in rows.values()):
        raise ValueError(
            f"{dataset_dir} holds labels without videos: give --videos FOLDER with your copy of the corpus"
        )
    refuse_missing_classes(rows, dataset_dir)
    return rows


def refuse_missing_classes(rows: datasets.DatasetDict, dataset_dir: str) -> None:
    """Refuses to train on clips that lack an expression; warns of one that nobody can be chosen or tested by."""
    for split, clips in rows.items():
        there = set(clips["expression"])
        missing = [name for label, name in enumerate(class_names(clips)) if label not in there]
        if missing and split == "train":
            raise ValueError(
                f"{dataset_dir} has no training clip of {', '.join(missing)}: leave out the class or choose other folds"
            )
        if missing:
            print(f"Warning: no {split} clip of {', '.join(missing)}; the UAR leaves such classes out", file=sys.stderr)


def open_splits(
    rows: datasets.DatasetDict, arguments: RunArguments, model: MTCAEForMultiTaskVideo, dataset_dir: str
) -> Splits:
    """The three splits as the model sees them; with `--train_on_all` the training clips stand for all three.

    Raises:
        ValueError: a split is missing, the model takes other frames than were labelled, or learns a task of which no
            training clip has a label.
    """
    options, size, tasks = arguments.data, model.config.image_size, model.tasks
    missing = [split for split in SPLITS if split not in rows]
    if missing and not options.train_on_all:
        raise ValueError(
            f"{dataset_dir} has no {' and no '.join(missing)} clips: build it with subjects, or pass --train_on_all"
        )
    check_frames(labelled_frame_count(rows["train"]), model.config, dataset_dir, options.frame_stride)
    names = ("train", "train", "train") if options.train_on_all else SPLITS
    needed = sum(frames_in_memory(rows[name], size) for name in set(names))
    keep = needed <= options.cache_frames_gb * 1e9
    changes = {change.name: getattr(options, change.name) for change in fields(AugmentationConfig)}
    augmentation = AugmentationConfig(**changes) if options.augment else None
    window = FrameWindow(model.config.num_frames, options.frame_stride) if options.frame_stride else None
    seed, segments, crop = arguments.optimisation.seed, arguments.optimisation.test_segments, chosen_crop(options)
    train = ClipDataset(rows["train"], size, augmentation, seed, keep, tasks, window, crop=crop)
    validation = ClipDataset(rows[names[1]], size, keep_frames=keep, tasks=tasks, window=window, crop=crop)
    test = ClipDataset(rows[names[2]], size, keep_frames=keep, tasks=tasks, window=window, segments=segments, crop=crop)
    refuse_unlabelled_tasks(model, train, dataset_dir)
    if crop is not None:
        tell_clips_without_face({"train": train, "validation": validation, "test": test}, dataset_dir)
    dataset = describe_dataset(dataset_dir)
    return Splits(
        train,
        validation,
        test,
        protocol=name_protocol(options, dataset_dir),
        data=SYNTHETIC_DATA if dataset["name"] == SYNTHETIC_NAME else dataset["name"],
        dataset=dataset,
    )


def name_protocol(options: DataArguments, dataset_dir: str) -> str:
    """How the clips were divided, and what of the frames the model sees: figures of crops and whole frames differ."""
    title = SEEN_CLIPS_PROTOCOL if options.train_on_all else fold_title(dataset_dir, options.protocol, options.fold)
    return f"{title}, frames cropped to the face" if options.face_crop else title


def chosen_crop(options: DataArguments) -> FaceCropConfig | None:
    """The crop that the options ask for; None: whole frames."""
    return FaceCropConfig(options.face_crop_margin, options.face_crop_rise) if options.face_crop else None


def tell_clips_without_face(splits: dict[str, ClipDataset], dataset_dir: str) -> None:
    """Counts the clips that a crop leaves whole; refuses a data set without faces."""
    counts = {name: clips.clips_without_face for name, clips in splits.items()}
    if counts["train"] == len(splits["train"]):
        raise ValueError(f"--face_crop true: {dataset_dir} has no face box in any training clip; leave it out")
    if any(counts.values()):
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        print(f"Warning: no face in {listed} clips: they stay whole", file=sys.stderr)


def check_frames(labelled: int, config: PreTrainedConfig, dataset_dir: str, stride: int | None = None) -> None:
    """Labels belong to frames: the model must take as many as were labelled, or a window of them."""
    needed = FrameWindow(config.num_frames, stride).length if stride else config.num_frames
    if labelled < needed or (stride is None and labelled != needed):
        wanted = f"every {stride} frames, a window of {needed}" if stride else str(needed)
        raise ValueError(
            f"{dataset_dir} labels {labelled} frames a clip, but the model takes {wanted}: "
            f"build the data set with --num-frames {needed}{' or more, or lower --frame_stride' if stride else ''}"
        )


def refuse_unlabelled_tasks(model: MTCAEForMultiTaskVideo, train: ClipDataset, dataset_dir: str) -> None:
    """Refuses to train a task for which no training clip has a label."""
    labelled = {name for name, values in train.labels.items() if not values.float().isnan().all()}
    missing = [task.name for task in model.tasks if task.label_key not in labelled]
    if missing:
        others = ",".join(task.name for task in model.tasks if task.name not in missing)
        raise ValueError(
            f"{dataset_dir} has no label of the task {', '.join(missing)} in any training clip: "
            f"leave it out, as by --tasks {others or 'NAME'}"
        )


def describe_dataset(dataset_dir: str) -> dict[str, str]:
    """Name, licence, corpus, source and size of a data set, for the report and a model card."""
    built = read_build_report(dataset_dir)
    told = {name: built.options.get(name) or "unknown" for name in ("license", "corpus", "label_source")}
    return {"name": built.dataset_name, **told, "clips": str(built.clip_count), "path": dataset_dir}
