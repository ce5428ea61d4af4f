"""The clips of a run: the splits of a data set, checked against the model that is to learn them."""

from __future__ import annotations

import sys
from collections.abc import Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedConfig
from transformers.utils import logging

from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.hub_dataset.loading.protocols import fold_title, load_fold
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.arguments import DataArguments, FurtherData, RunArguments, parse_also, parse_renames
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import (
    ClipDataset,
    FaceCropConfig,
    class_names,
    frames_in_memory,
)
from mtcae_dfer.training.data.frame_cache import CachedFrames, FrameCacheConfig
from mtcae_dfer.training.data.mixture import MixedClips, match_classes
from mtcae_dfer.training.data.sampling import FrameWindow
from mtcae_dfer.training.running import SYNTHETIC_DATA, SYNTHETIC_NAME

logger = logging.get_logger(__name__)
SEEDS_APART = 1_000_003
SEEN_CLIPS_PROTOCOL = "training clips themselves (says nothing about unseen people)"


@dataclass
class FurtherClips:
    """A data set that is trained on beside the first one."""

    source: FurtherData
    train: ClipDataset
    validation: ClipDataset | None
    dataset: dict[str, str]  # its name, licence, corpus and number of clips, for the report


@dataclass
class Splits:
    """The clips of a run with the name of the protocol that divided them."""

    train: ClipDataset
    validation: ClipDataset
    test: ClipDataset
    protocol: str
    data: str  # what the clips are, for the report
    dataset: dict[str, str]  # its name, licence, corpus and number of clips, for the report
    further: list[FurtherClips]

    def training_clips(self) -> ClipDataset | MixedClips:
        """What is trained on: the training clips, with those of further data sets where there are some."""
        parts = [(self.dataset["name"], self.train), *((entry.source.name, entry.train) for entry in self.further)]
        return MixedClips(parts, [entry.source.share for entry in self.further]) if self.further else self.train


def load_rows(arguments: RunArguments, dataset_dir: str) -> datasets.DatasetDict:
    """The rows of the data set by split, as the protocol and fold of the options divide them.

    Raises:
        ValueError: there are labels without videos, or a class has no training clip.
    """
    rows = load_fold(dataset_dir, arguments.data.protocol, arguments.data.fold, arguments.data.videos)
    refuse_missing_videos(rows, dataset_dir, "give --videos FOLDER with your copy of the corpus")
    refuse_missing_classes(rows, dataset_dir)
    return rows


def refuse_missing_videos(rows: datasets.DatasetDict, dataset_dir: str, way_out: str) -> None:
    """Refuses to train on labels alone."""
    if any("video" not in clips.column_names for clips in rows.values()):
        raise ValueError(f"{dataset_dir} holds labels without videos: {way_out}")


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


def load_further_rows(
    options: DataArguments, classes: list[str], held_out: Set[str]
) -> dict[FurtherData, datasets.DatasetDict]:
    """The rows of the data sets of `--also`, as they were built, with the class ids of the first data set.

    Args:
        options: of the run.
        classes: of the first data set, in the order of their ids.
        held_out: subjects of the first data set that must stay unseen. A further data set may show the same people in
            other recordings: training clips of subjects of these names are left out, and counted.

    Raises:
        ValueError: one has no videos or no training clips, or its classes do not match.
    """
    renames = parse_renames(options.rename)
    loaded = {}
    for source in parse_also(options.also):
        rows = load_fold(source.folder)
        refuse_missing_videos(rows, source.folder, "a data set of --also must hold them")
        if "train" not in rows:
            raise ValueError(f"--also {source.folder}: has no training clips")
        rows = match_classes(rows, classes, renames, source.folder)
        subjects = rows["train"]["subject"]
        kept = [place for place, subject in enumerate(subjects) if subject not in held_out]
        if len(kept) < len(subjects):
            known = next(subject for subject in subjects if subject in held_out)
            print(
                f"--also {source.folder}: {len(subjects) - len(kept)} training clips are left out, of subjects such as "
                f"{known!r} whom the first data set validates or tests",
                file=sys.stderr,
            )
            if not kept:
                raise ValueError(f"--also {source.folder}: no training clip is left; build it with other subject names")
            rows["train"] = rows["train"].select(kept)
        loaded[source] = rows
    return loaded


def open_splits(
    rows: datasets.DatasetDict, arguments: RunArguments, model: MTCAEForMultiTaskVideo, dataset_dir: str
) -> Splits:
    """The three splits as the model sees them; with `--train_on_all` the training clips stand for all three.

    Raises:
        ValueError: a split is missing, the model takes other frames than were labelled, or learns a task of which no
            training clip has a label; or as `load_further_rows`.
    """
    options, size = arguments.data, model.config.image_size
    missing = [split for split in SPLITS if split not in rows]
    if missing and not options.train_on_all:
        raise ValueError(
            f"{dataset_dir} has no {' and no '.join(missing)} clips: build it with subjects, or pass --train_on_all"
        )
    names = ("train", "train", "train") if options.train_on_all else SPLITS
    unseen = () if options.train_on_all else ("validation", "test")
    held_out = {subject for name in unseen for subject in rows[name]["subject"]} - {UNKNOWN_SUBJECT}
    others = load_further_rows(options, class_names(rows["train"]), held_out)
    for folder, clips in {dataset_dir: rows, **{source.folder: clips for source, clips in others.items()}}.items():
        check_frames(clips["train"].features["frame_indices"].length, model.config, folder, options.frame_stride)
    needed = sum(frames_in_memory(rows[name], size) for name in set(names))
    needed += sum(frames_in_memory(clips, size) for splits in others.values() for clips in splits.values())
    common: dict[str, Any] = {
        "keep_frames": needed <= options.cache_frames_gb * 1e9,
        "tasks": model.tasks,
        "window": FrameWindow(model.config.num_frames, options.frame_stride) if options.frame_stride else None,
        "crop": FaceCropConfig.chosen(options),
        "optional_labels": bool(others),
    }

    cache_folder = options.frame_cache
    if cache_folder and needed > options.frame_cache_gb * 1e9:
        logger.warning(
            f"Decoded frames of {needed / 1e9:.1f} GB do not go into {cache_folder}: raise --frame_cache_gb "
            f"{options.frame_cache_gb:g} where the disk has room for them"
        )
        cache_folder = None

    def kept(dataset: dict[str, str]) -> dict[str, Any]:
        """The same with the place of the data set's decoded frames."""
        return common | {"cache": FrameCacheConfig(Path(cache_folder), dataset["name"]) if cache_folder else None}

    changes = {change.name: getattr(options, change.name) for change in fields(AugmentationConfig)}
    augmentation = AugmentationConfig(**changes) if options.augment else None
    seed, votes = arguments.optimisation.seed, bool(arguments.optimisation.vote_share)
    dataset = describe_dataset(dataset_dir)
    title = SEEN_CLIPS_PROTOCOL if options.train_on_all else fold_title(dataset_dir, options.protocol, options.fold)
    splits = Splits(
        train=ClipDataset(rows["train"], size, augmentation, seed, votes=votes, **kept(dataset)),
        validation=ClipDataset(rows[names[1]], size, **kept(dataset)),
        test=ClipDataset(rows[names[2]], size, segments=arguments.optimisation.test_segments, **kept(dataset)),
        # What of the frames the model sees, too: figures of crops and whole frames differ.
        protocol=f"{title}, frames cropped to the face" if options.face_crop else title,
        data=SYNTHETIC_DATA if dataset["name"] == SYNTHETIC_NAME else dataset["name"],
        dataset=dataset,
        further=[
            FurtherClips(
                source,
                # A seed of its own: clips of one number in two data sets are not changed alike.
                train=ClipDataset(
                    clips["train"], size, augmentation, seed + SEEDS_APART * number, votes=votes, **kept(described)
                ),
                validation=ClipDataset(clips["validation"], size, **kept(described)) if "validation" in clips else None,
                dataset=described,
            )
            for number, (source, clips) in enumerate(others.items(), start=1)
            for described in [describe_dataset(source.folder)]
        ],
    )
    refuse_unlabelled_tasks(model, splits.training_clips(), dataset_dir)
    if options.face_crop:
        counted = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        tell_clips_without_face(counted, dataset_dir)
        for entry in splits.further:
            tell_clips_without_face({"train": entry.train}, entry.source.folder)
    return splits


def cache_data_set(
    dataset_dir: str, folder: Path, size: tuple[int, int], crop: FaceCropConfig | None = None, videos: str | None = None
) -> tuple[int, int]:
    """Decodes all clips of a data set into a cache of frames, and checks those that are there.

    Args:
        dataset_dir: of the data set.
        folder: of all caches, as `--frame_cache` names it.
        size: (height, width) of the frames.
        crop: how frames are cropped to the face; None: they stay whole.
        videos: folder of the corpus, for labels without videos.

    Returns:
        Clips, and bytes of their frames.

    Raises:
        FrameCacheError: what is there was made otherwise or is damaged, or the disk is full.
        DatasetError: the data set cannot be read.
    """
    config = FrameCacheConfig(folder, describe_dataset(dataset_dir)["name"])
    rows = load_fold(dataset_dir, videos=videos)
    refuse_missing_videos(rows, dataset_dir, "give --videos FOLDER with your copy of the corpus")
    count = total = 0
    for clips in rows.values():
        frames = ClipDataset(clips, size, crop=crop, cache=config).frames
        assert isinstance(frames, CachedFrames)
        total += sum(frames[index].nbytes for index in range(len(frames)))  # reading checks
        count += len(clips)
    return count, total


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


def refuse_unlabelled_tasks(model: MTCAEForMultiTaskVideo, train: ClipDataset | MixedClips, dataset_dir: str) -> None:
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
