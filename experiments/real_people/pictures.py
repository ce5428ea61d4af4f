"""The clips of built data sets as square pictures around the face, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people.recipe import SMOOTHING
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.files import hash_file, replacing
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from mtcae_dfer.hub_dataset.votes import read_votes, vote_shares
from mtcae_dfer.training.data.faces import FaceCut, FaceSet, face_squares, measure_tones, smooth_targets
from mtcae_dfer.training.data.frame_cache import READING_THREADS
from mtcae_dfer.video_reading import read_clip, resize_frames

PICTURE_SIDE = 128  # pixels of a kept picture
KEPT_FACES = 1.6  # side of a kept picture / side of the square that is cut around the face, where there is so much


def read_faces(dataset_dir: str, splits: Sequence[str], cache_dir: Path, vote_share: float = 0.0) -> FaceSet:
    """Clips of a built data set as square pictures of `PICTURE_SIDE` pixels around the face, those of all given splits.

    They are kept in `cache_dir` once they are decoded. Clips of other classes than `EXPRESSIONS` are left out.

    Args:
        dataset_dir: folder of a built data set.
        splits: which are read, one after the other.
        cache_dir: where the pictures are kept.
        vote_share: share of raters' votes in the targets, where there are enough; the rest is the label, smoothed.

    Raises:
        DatasetError: there is no such data set, or none of its clips has one of `EXPRESSIONS`.
    """
    # Named by what was built, too: a data set of the same name, or built anew, is decoded anew.
    build = Path(dataset_dir) / "build_report.json"
    digest = hash_file(build)[0][:12] if build.is_file() else "unknown"
    file = cache_dir / f"pictures-{Path(dataset_dir).name}-{digest}-{'-'.join(splits)}.safetensors"
    if not file.exists():
        rows = load_multitask_dataset(dataset_dir)
        names = rows[next(iter(rows))].features["expression"].names
        parts = [row for split in splits if split in rows for row in tqdm(rows[split], desc=f"{dataset_dir} {split}")]
        known = [row for row in parts if names[row["expression"]] in EXPRESSIONS]
        if not known:
            raise DatasetError(
                f"{dataset_dir}: has no clip in the splits {', '.join(splits)} with one of the expressions "
                f"{', '.join(EXPRESSIONS)}"
            )
        if len(known) < len(parts):
            foreign = sorted({names[row["expression"]] for row in parts} - set(EXPRESSIONS))
            print(f"{dataset_dir}: {len(parts) - len(known)} clips left out ({', '.join(foreign)})", flush=True)

        def read(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            frames = read_clip(clip_bytes(row), frame_indices=row["frame_indices"]).frames
            boxes, landmarks = (np.asarray(row[name], np.float32) for name in ("face_boxes", "face_landmarks"))
            return keep_face(frames, boxes, landmarks)

        with ThreadPoolExecutor(READING_THREADS) as readers:
            kept = list(tqdm(readers.map(read, known), total=len(known), desc="Decoding", unit="clip"))
        pictures, boxes, landmarks = (np.stack(column) for column in zip(*kept, strict=True))
        labels = np.array([EXPRESSIONS.index(names[row["expression"]]) for row in known])
        titles, told = ([row[name] for row in known] for name in ("name", "attributes"))
        subjects = np.frombuffer("\n".join(row["subject"] for row in known).encode(), np.uint8)
        arrays = {"pictures": pictures, "face_boxes": boxes, "face_landmarks": landmarks, "labels": labels}
        arrays |= {"votes": read_votes(titles, told, EXPRESSIONS), "subjects": subjects}
        with replacing(file) as temporary:
            save_file(arrays, temporary)
    stored = load_file(file)
    stored_pictures = torch.from_numpy(stored["pictures"])
    return FaceSet(
        pictures=stored_pictures,
        labels=stored["labels"],
        targets=join_votes(smooth_targets(stored["labels"], len(EXPRESSIONS), SMOOTHING), stored["votes"], vote_share),
        votes=stored["votes"],
        face_boxes=stored["face_boxes"],
        face_landmarks=stored["face_landmarks"],
        subjects=np.array(stored["subjects"].tobytes().decode().split("\n")),
        tones=measure_tones(stored_pictures),
    )


def join_votes(targets: np.ndarray, votes: np.ndarray, vote_share: float) -> np.ndarray:
    """Targets (N, K), `vote_share` of them the shares of the votes (N, K) where there are enough."""
    shares = vote_shares(votes)
    joined = (1 - vote_share) * targets + vote_share * shares
    return np.where(shares.any(axis=1, keepdims=True), joined, targets).astype(np.float32)


def keep_face(
    frames: torch.Tensor, boxes: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square around a clip's face, with room for random cuts.

    The whole frame where no face was found; a square that is larger than the frame is made as large as it.

    Args:
        frames: uint8 (T, 3, H, W).
        boxes: float32 (T, 4), divided by the frame's width and height.
        landmarks: float32 (T, 5, 2), likewise.

    Returns:
        Pictures uint8 (T, 3, P, P); boxes and points divided by their side.
    """
    height, width = frames.shape[-2:]
    scale = np.array([width, height], np.float32)
    rule = FaceCut(shortest=FaceCut().shortest * height)
    ((x, y, side),) = face_squares((landmarks * scale)[None], rule)
    if side == 1.0:  # of no face
        left, top, right, bottom = 0, 0, width, height
    else:
        extent = round(min(KEPT_FACES * side, width, height))
        left = round(min(max(x - extent / 2, 0), width - extent))
        top = round(min(max(y - extent / 2, 0), height - extent))
        right, bottom = left + extent, top + extent
    pictures = resize_frames(frames[:, :, top:bottom, left:right], (PICTURE_SIDE, PICTURE_SIDE)).numpy()
    corner, extents = np.array([left, top], np.float32), np.array([right - left, bottom - top], np.float32)
    # (T, 4) -> (T, 2, 2): the box's two corners
    corners = (boxes.reshape(-1, 2, 2) * scale - corner) / extents
    return pictures, corners.reshape(-1, 4), (landmarks * scale - corner) / extents
