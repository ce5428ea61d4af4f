"""Sequences of frame features with their affect labels: from feature and label files, or from the drawn corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from mtcae_dfer.hub_dataset.affect_labels import AffectLabels, labels_from_truth
from mtcae_dfer.hub_dataset.corpora.s_aff_wild2 import read_s_aff_wild2
from mtcae_dfer.hub_dataset.folds import SPLITS, make_protocol
from mtcae_dfer.hub_dataset.synthetic.corpus import load_ground_truth, make_synthetic_corpus
from mtcae_dfer.modeling_mtl_er import MISSING_LABEL, MISSING_VALENCE_AROUSAL
from mtcae_dfer.training.affect.arguments import AffectDataArguments
from mtcae_dfer.training.affect.extract_features import FrameEncoder, read_frames
from mtcae_dfer.training.affect.frame_encoder import FRAME_SIDE, train_frame_encoder
from mtcae_dfer.training.affect.frame_features import (
    FeatureError,
    FrameFeatures,
    join_features,
    read_features,
    take_frames,
    write_features,
)
from mtcae_dfer.training.data.frame_cache import READING_THREADS
from mtcae_dfer.training.running import SYNTHETIC_DATA, synthetic_corpus

FEATURES_FILE, FRAME_ENCODER_FOLDER = "features.parquet", "frame_encoder"
PADDING = {"valence": MISSING_VALENCE_AROUSAL, "arousal": MISSING_VALENCE_AROUSAL}
LABEL_COLUMNS = ("valence", "arousal", "expression", "action_units")


@dataclass(frozen=True)
class AffectSequence:
    """One video: a feature vector and labels for each labelled frame."""

    name: str
    features: np.ndarray  # (L, D) float32
    labels: AffectLabels


@dataclass(frozen=True)
class AffectSplits:
    """The videos of a run."""

    train: list[AffectSequence]
    validation: list[AffectSequence]
    test: list[AffectSequence]
    protocol: str  # how they were divided
    data: str  # what they are
    feature_names: list[str]

    @property
    def input_size(self) -> int:
        """D, length of a frame's feature vector."""
        return self.train[0].features.shape[1]


class AffectDataset(Dataset):
    """Videos as tensors: features (L, D), valence (L,), arousal (L,), expression (L,), action_units (L, U)."""

    def __init__(self, sequences: Sequence[AffectSequence]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sequence = self.sequences[index]
        labels = {name: torch.from_numpy(getattr(sequence.labels, name)) for name in LABEL_COLUMNS}
        return {"features": torch.from_numpy(sequence.features), **labels}


def pad_videos(videos: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Videos of different lengths -> one batch (B, L, ...) with attention_mask (B, L); padding has missing labels."""
    length = max(len(video["features"]) for video in videos)
    batch = {
        name: torch.stack([lengthen(video[name], length - len(video[name]), name) for video in videos])
        for name in videos[0]
    }
    frames = torch.tensor([len(video["features"]) for video in videos])
    return batch | {"attention_mask": torch.arange(length) < frames[:, None]}


def lengthen(values: torch.Tensor, frames: int, column: str, axis: int = 0) -> torch.Tensor:
    """Adds frames at the end of an axis, with what stands in this column where there is no frame."""
    padding = 0.0 if column in ("features", "attention_mask") else PADDING.get(column, MISSING_LABEL)
    shape = list(values.shape)
    shape[axis] = frames
    return torch.cat([values, values.new_full(shape, padding)], dim=axis)


def attach_labels(
    features: Mapping[str, FrameFeatures], labels: Mapping[str, AffectLabels], normalise: bool
) -> list[AffectSequence]:
    """The labelled frames of every labelled video.

    Args:
        features: of every video, by its name, with or without a file's suffix.
        labels: of the videos of one split.
        normalise: every feature gets mean 0 and deviation 1 over the video's labelled frames; a constant one gets 0.

    Raises:
        FeatureError: a labelled video or frame has no features.
    """
    by_stem = {str(Path(name).with_suffix("")): video for name, video in features.items()}
    sequences = []
    for name, told in labels.items():
        video = features.get(name) or by_stem.get(name)
        if video is None:
            raise FeatureError(f"{name} has labels, but no features: extract features of all labelled videos.")
        vectors = take_frames(video, told.frame_indices)
        if normalise:
            # A constant feature becomes 0: not even its deviation is 0 once the mean is rounded.
            constant = (vectors == vectors[:1]).all(axis=0)
            values = vectors.astype(np.float64)
            centred = values - values.mean(axis=0)
            vectors = np.where(constant, 0.0, centred / np.where(constant, 1.0, values.std(axis=0))).astype(np.float32)
        sequences.append(AffectSequence(name, vectors, told))
    return sequences


def read_splits(options: AffectDataArguments) -> AffectSplits:
    """The splits that feature files and label files of s-Aff-Wild2 tell.

    Raises:
        ValueError: an option is missing, or as in the readers.
    """
    files = {split: getattr(options, f"{split}_labels") for split in SPLITS}
    missing = [f"--{split}_labels" for split, file in files.items() if not file]
    if missing:
        raise ValueError(f"--features needs {' and '.join(missing)} too")
    names = [name.strip() for name in (options.features or "").split(",")]
    features = join_features([read_features(Path(name)) for name in names], names)
    splits = {
        split: attach_labels(features, read_s_aff_wild2(file), options.normalise_per_video)
        for split, file in files.items()
    }
    seen: dict[str, str] = {}
    for split, sequences in splits.items():
        for sequence in sequences:
            if sequence.name in seen:
                raise ValueError(f"the video {sequence.name} stands in {seen[sequence.name]} and in {split}")
            seen[sequence.name] = split
    return AffectSplits(**splits, protocol="label files", data=", ".join(files.values()), feature_names=names)


def draw_splits(options: AffectDataArguments, output_dir: Path) -> AffectSplits:
    """The drawn corpus with features of an encoder that is trained here; what is there is taken up."""
    corpus = make_synthetic_corpus(Path(options.synthetic_dir) / "corpus", synthetic_corpus(options))
    truths = load_ground_truth(corpus)
    labels = {name: labels_from_truth(truth) for name, truth in truths.items()}
    protocol = make_protocol(truth.subject for truth in truths.values())
    roles = {name: protocol.folds[0].split_of(truth.subject) for name, truth in truths.items()}
    file = output_dir / FEATURES_FILE
    if not file.exists():
        _extract_from_corpus(corpus, labels, roles, options, output_dir, file)
    features = read_features(file)
    splits = {
        split: attach_labels(
            features, {name: told for name, told in labels.items() if roles[name] == split}, options.normalise_per_video
        )
        for split in SPLITS
    }
    name = f"ResNet of {options.frame_encoder_steps} steps on the training subjects' frames"
    data = f"{SYNTHETIC_DATA}; labels: what was drawn"
    return AffectSplits(**splits, protocol=protocol.name, data=data, feature_names=[name])


def _extract_from_corpus(
    corpus: Path,
    labels: Mapping[str, AffectLabels],
    roles: Mapping[str, str],
    options: AffectDataArguments,
    output_dir: Path,
    file: Path,
) -> None:
    """Trains the frame encoder on the training videos, and writes its features of all videos."""
    paths = [corpus / "videos" / name for name in labels]
    with ThreadPoolExecutor(READING_THREADS) as readers:
        read = readers.map(partial(read_frames, size=(FRAME_SIDE, FRAME_SIDE)), paths)
        clips = list(tqdm(read, total=len(paths), desc="Reading clips", unit="clip"))
    frames = {name: pictures for name, (_, pictures) in zip(labels, clips, strict=True)}
    training = [name for name in labels if roles[name] == "train"]
    folder = train_frame_encoder(
        [frames[name] for name in training],
        [labels[name] for name in training],
        options.frame_encoder_steps,
        options.synthetic_seed,
        output_dir / FRAME_ENCODER_FOLDER,
    )
    encoder = FrameEncoder(str(folder), FRAME_SIDE, batch_size=256)
    vectors = (
        FrameFeatures(labels[name].frame_indices, encoder.encode(pictures), name)
        for name, pictures in tqdm(frames.items(), desc="Extracting features", unit="video")
    )
    write_features(file, vectors, str(folder))
