"""Outputs of a frozen encoder, kept on the disk: every clip is encoded once, and decoders train from the files.

The files are named by a digest of all that decides their content, so that runs with other decoders share them and a
changed encoder, data set or augmentation never meets old features. They count from the moment that `complete.json`
stands beside them, which is written last. Of several runs that lack them one writes, and the others wait for it.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset
from tqdm import tqdm

from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.votes import VOTES
from mtcae_dfer.modeling_encoders import encode_clips
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.clip_dataset import ClipDataset
from mtcae_dfer.training.data.frame_cache import lock_folder
from mtcae_dfer.training.evaluation.predictions import normalise
from mtcae_dfer.weight_files import digest_weights

ARRAYS = ("encoded", "face_boxes", "face_landmarks")
COMPLETE_FILE = "complete.json"


@dataclass(frozen=True)
class FeatureCacheConfig:
    """Where features are kept, and how."""

    folder: Path  # parent of all caches
    views: int = 1  # fixed views of every clip: the clip as it is, then augmented ones; epochs take turns
    dtype: str = "float32"  # float16 halves the files, and rounds
    batch_size: int = 16  # clips that are encoded at a time


class EncodedClips(Dataset):
    """The clips of a split as the decoders see them; stands in for the `ClipDataset` that it was made from.

    Args:
        clips: the split.
        arrays: "encoded" (N, V, tokens, D), "face_boxes" (N, V, T, 4) and "face_landmarks" (N, V, T, 5, 2).
    """

    def __init__(self, clips: ClipDataset, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.clips = clips
        self.rows, self.names, self.subjects, self.labels = clips.rows, clips.names, clips.subjects, clips.labels
        self.affect_names = clips.affect_names
        self.views = arrays["encoded"].shape[1]
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by processes that load already

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's views."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip: encoded float32 (tokens, D) in place of its frames, and the labels of `ClipDataset`."""
        view = (int(self.epoch) + index) % self.views
        values = {name: torch.from_numpy(array[index, view].astype(np.float32)) for name, array in self.arrays.items()}
        labels = self.clips.view_labels(index, view)
        unmoved = ("labels", "face_found", *([VOTES] if VOTES in labels else []), *self.affect_names)
        return {**values, **{name: labels[name] for name in unmoved}, "index": torch.tensor(index)}


def cache_features(
    model: MTCAEForMultiTaskVideo,
    processor: Any,
    clips: ClipDataset,
    config: FeatureCacheConfig,
    accelerator: Accelerator,
) -> EncodedClips:
    """Encodes the clips of a split, each process its share, unless that was done before; opens the files.

    Args:
        model: its encoder is frozen.
        processor: makes the model's input.
        clips: the split; without augmentation it has the one view.
        config: where and how.
        accelerator: decides device, precision and shares.

    Raises:
        ValueError: the encoder is trained.
        OSError: the folder cannot be written.
    """
    if any(parameter.requires_grad for parameter in model.encoder.parameters()):
        raise ValueError("--cache_features: needs --freeze_encoder, since features of a trained encoder change")
    views = config.views if clips.augmentation is not None else 1
    folder = config.folder / _digest(model, processor, clips, views, config.dtype, accelerator.mixed_precision)
    if not _is_complete(folder):
        # The processes of a run write together: the main one holds the folder for all of them.
        with lock_folder(folder) if accelerator.is_main_process else nullcontext():
            if not _is_complete(folder):  # nor has another run written them while this one waited
                _encode_all(model, processor, clips, views, config, folder, accelerator)
    return EncodedClips(clips, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})


def _is_complete(folder: Path) -> bool:
    """Whether all features are there, as the main process sees it: processes must not decide differently."""
    return broadcast_object_list([(folder / COMPLETE_FILE).is_file()])[0]


def _digest(
    model: MTCAEForMultiTaskVideo, processor: Any, clips: ClipDataset, views: int, dtype: str, precision: str
) -> str:
    digest = digest_weights(model.encoder)
    for value in clips.labels.values():
        digest.update(value.contiguous().numpy().tobytes())
    augmentation = asdict(clips.augmentation) if clips.augmentation and views > 1 else None
    described = [
        model.config.encoder_config.to_dict(),
        processor.to_dict(),
        clips.names,
        clips.rows["sha256"],
        clips.rows["frame_indices"],
        clips.size,
        augmentation,
        clips.seed if augmentation else 0,
        views,
        dtype,
        precision,
        clips.window,
        clips.crop,
    ]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode_all(
    model: MTCAEForMultiTaskVideo,
    processor: Any,
    clips: ClipDataset,
    views: int,
    config: FeatureCacheConfig,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    frames, tokens = model.config.num_frames, int(np.prod(model.config.token_grid))
    shapes = {
        "encoded": (tokens, model.config.hidden_size),
        "face_boxes": (frames, 4),
        "face_landmarks": (frames, 5, 2),
    }
    if accelerator.is_main_process:
        for name, shape in shapes.items():
            dtype = config.dtype if name == "encoded" else "float32"
            file = folder / f"{name}.npy"
            file.unlink(missing_ok=True)  # of a stopped run, whose last processes may still write to it
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(len(clips), views, *shape)).flush()
    accelerator.wait_for_everyone()
    files = {name: folder / f"{name}.npy" for name in shapes}
    arrays = {name: np.lib.format.open_memmap(file, mode="r+") for name, file in files.items()}
    model = model.to(accelerator.device).eval()
    jobs = [(index, view) for index in range(len(clips)) for view in range(views)]
    share = jobs[accelerator.process_index :: accelerator.num_processes]
    batches = [share[start : start + config.batch_size] for start in range(0, len(share), config.batch_size)]
    for batch in tqdm(batches, desc="Encoding clips", unit="batch", disable=not accelerator.is_main_process):
        loaded = clips.views(batch)
        with accelerator.autocast():
            pixel_values = normalise(processor, loaded["frames"].to(accelerator.device))
            loaded["encoded"] = encode_clips(model.encoder, pixel_values)["last_hidden_state"].float().cpu()
        indices, numbers = (list(each) for each in zip(*batch, strict=True))
        for name in ARRAYS:
            arrays[name][indices, numbers] = loaded[name].numpy()
    for array in arrays.values():
        array.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(folder / COMPLETE_FILE, {"clips": len(clips), "views": views, "dtype": config.dtype})
    accelerator.wait_for_everyone()
