"""Per-frame features of videos by a trained encoder, for MTL-ER.

    mtcae extract-features --videos FOLDER --encoder FOLDER_OR_HUB_ID --output F.parquet

Videos are video files, or sub-folders of numbered images (00001.jpg …) as s-Aff-Wild2 has them. An image model
(anything that AutoModel loads; by --as-backbone what AutoBackbone knows) sees frame by frame. A video model (VideoMAE,
LGI-Former, TPSBT, or a model of this repository) sees consecutive clips; its tokens are averaged within each tubelet,
and every frame of a tubelet gets that vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, AutoModel
from transformers.image_utils import load_image

from mtcae_dfer.configuration_common import as_height_and_width
from mtcae_dfer.hub_dataset.corpora.folder import VIDEO_SUFFIXES, file_names
from mtcae_dfer.hub_dataset.corpora.s_aff_wild2 import images_by_frame
from mtcae_dfer.hub_dataset.files import walk_folder
from mtcae_dfer.modeling_encoders import ENCODERS, describe_clips, encode_clips
from mtcae_dfer.training.affect.frame_features import FeatureError, FrameFeatures, write_features
from mtcae_dfer.training.arguments import option
from mtcae_dfer.training.source_processor import read_source_processor
from mtcae_dfer.video_reading import probe_video, read_clip, resize_frames

DEFAULT_SIZE = 224


@dataclass
class ExtractionArguments:
    """What `mtcae extract-features` reads and writes."""

    videos: str = field(
        metadata={"help": "A video, or a folder of videos or of sub-folders with numbered images (00001.jpg …)."}
    )
    encoder: str = field(metadata={"help": "Folder or Hub id of an image or video model."})
    output: str = field(metadata={"help": "Feature file to write: NAME.parquet or NAME.safetensors."})
    image_size: int | None = option(None, "Side of the frames that the encoder sees; empty = as its config says.")
    as_backbone: bool = option(False, "Load an image model by AutoBackbone; its last feature map is averaged.")
    batch_size: int = option(32, "Frames (or clips of a video model) at a time.")
    device: str = option("cpu", "Where the encoder runs.")


class FrameEncoder:
    """A model that turns the frames of a video into one vector each.

    Args:
        source: folder or Hub id.
        image_size: side of the square frames; None takes the config's.
        as_backbone: load an image model by AutoBackbone.
        batch_size: frames, or clips of a video model, at a time.
        device: where the model runs.

    Raises:
        FeatureError: there is no model that can be read.
    """

    def __init__(
        self,
        source: str,
        image_size: int | None = None,
        as_backbone: bool = False,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise FeatureError(f"--batch_size {batch_size}: must be greater than 0.")
        self.source, self.batch_size, self.device = source, batch_size, torch.device(device)
        self.model: Any = _load_encoder(source, as_backbone).eval().to(self.device)
        config = self.model.config
        self.is_video_model = config.model_type in ENCODERS or hasattr(config, "tubelet_size")
        own_size = describe_clips(config).image_size if self.is_video_model else getattr(config, "image_size", None)
        self.size = as_height_and_width(image_size or own_size or DEFAULT_SIZE)
        processor = read_source_processor(source)
        # 3 -> (3, 1, 1)
        self.mean, self.std = (torch.tensor(processor[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> np.ndarray:
        """Frames uint8 (L, 3, H, W) of one video -> vectors float32 (L, D)."""
        if self.is_video_model:
            return self._encode_clips(frames).float().cpu().numpy()
        outputs = (self.model(self._pixels(part)) for part in frames.split(self.batch_size))
        return torch.cat([pool_image_output(output) for output in outputs]).float().cpu().numpy()

    def _pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (..., 3, H, W) -> what the model reads (..., 3, height, width)."""
        return ((resize_frames(frames, self.size).float() / 255.0 - self.mean) / self.std).to(self.device)

    def _encode_clips(self, frames: torch.Tensor) -> torch.Tensor:
        clips = describe_clips(self.model.config)
        tubelets, rows, columns = clips.token_grid
        places = torch.stack(clip_positions(len(frames), clips.num_frames))  # (clips, T)
        vectors = []
        for part in places.split(self.batch_size):
            tokens = encode_clips(self.model, self._pixels(frames[part]))["last_hidden_state"]
            # (B, t * h * w, D) -> (B, t, D), every tubelet once for each of its frames -> (B, T, D)
            pooled = tokens.unflatten(1, (tubelets, rows * columns)).mean(dim=2)
            vectors.append(pooled.repeat_interleave(clips.num_frames // tubelets, dim=1))
        by_clip = torch.cat(vectors)
        result = by_clip.new_empty(len(frames), by_clip.shape[-1])
        for place, clip in zip(places, by_clip, strict=True):
            result[place] = clip
        return result


def clip_positions(frame_count: int, clip_length: int) -> list[torch.Tensor]:
    """Frames of consecutive clips. The last one is moved back to be whole; a short video repeats its last frame."""
    if frame_count <= clip_length:
        return [torch.arange(clip_length).clamp(max=frame_count - 1)]
    starts = [min(start, frame_count - clip_length) for start in range(0, frame_count, clip_length)]
    return [torch.arange(start, start + clip_length) for start in starts]


def pool_image_output(output: Any) -> torch.Tensor:
    """(B, D) from what an image model returns: its pooled vector, the mean of its tokens, or of its last map."""
    if getattr(output, "feature_maps", None) is not None:
        return output.feature_maps[-1].flatten(2).mean(dim=2)
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise FeatureError(f"{type(output).__name__} has neither tokens nor feature maps: try --as-backbone.")
    # Tokens (B, N, D), or a map (B, D, H, W)
    return hidden.mean(dim=1) if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2)


def _load_encoder(source: str, as_backbone: bool) -> Any:
    config = _read(AutoConfig, source)
    if as_backbone:
        # AutoBackbone.from_pretrained would ask the Hub for the folder before it looked into it.
        if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
            raise FeatureError(f"{source}: a {config.model_type} has no backbone; leave out --as-backbone.")
        return _read(MODEL_FOR_BACKBONE_MAPPING[type(config)], source)
    # A masked autoencoder of images hides most patches even in evaluation unless its config says otherwise.
    unmasked = {"mask_ratio": 0.0} if config.model_type == "vit_mae" else {}
    model = _read(AutoModel, source, **unmasked)
    # A model with heads has the encoder inside.
    return model.encoder if model.config.model_type == "mtcae" else model


def _read(read_class: Any, source: str, **overrides: Any) -> Any:
    try:
        return read_class.from_pretrained(source, **overrides)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise FeatureError(
            f"{source} holds no model that can be read ({reason}); give a folder or a Hub id."
        ) from error


def list_videos(source: Path) -> dict[str, Path]:
    """Video files and folders of numbered images under `source`, by their path relative to it.

    Raises:
        FeatureError: there are none.
    """
    if source.is_file():
        return {source.name: source}
    if not source.is_dir():
        raise FeatureError(f"{source} does not exist: give a video or a folder of videos.")
    videos = {name: source / name for name in file_names(source)}
    numbered = [folder for folder, names in walk_folder(source) if any(Path(name).stem.isdigit() for name in names)]
    videos |= {str(folder.relative_to(source)): folder for folder in numbered if images_by_frame(folder)}
    if not videos:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise FeatureError(f"{source} holds no videos ({known}) and no folders of numbered images (00001.jpg).")
    return dict(sorted(videos.items()))


def read_frames(video: Path, size: tuple[int, int]) -> tuple[np.ndarray, torch.Tensor]:
    """All frames of a video file or a folder of numbered images: numbers (L,) and frames uint8 (L, 3, *size)."""
    if video.is_dir():
        images = images_by_frame(video)
        return np.array(list(images)), torch.stack([_read_image(path, size) for path in images.values()])
    clip = read_clip(video, size=size, frame_indices=range(probe_video(video).frame_count))
    # A damaged video repeats frames in the place of those that do not decode.
    indices, first = np.unique(np.array(clip.frame_indices), return_index=True)
    return indices, clip.frames[torch.from_numpy(first)]


def _read_image(path: Path, size: tuple[int, int]) -> torch.Tensor:
    try:
        image = load_image(str(path))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FeatureError(f"{path} is no readable image ({error}).") from error
    # (H, W, 3) -> (3, H, W)
    return resize_frames(torch.from_numpy(np.array(image)).movedim(-1, 0), size)


def extract_features(encoder: FrameEncoder, videos: dict[str, Path], progress: bool = True) -> Iterator[FrameFeatures]:
    """Features of all frames of the videos, one video after the other."""
    for name, path in tqdm(videos.items(), desc="Extracting features", unit="video", disable=not progress):
        indices, frames = read_frames(path, encoder.size)
        yield FrameFeatures(indices, encoder.encode(frames), name)


def write_features_of(options: ExtractionArguments) -> tuple[int, Path]:
    """Writes the features of all frames of the named videos; returns the number of videos and the file.

    Raises:
        ValueError: videos, encoder or output cannot be used. The message is one line for the user.
    """
    encoder = FrameEncoder(options.encoder, options.image_size, options.as_backbone, options.batch_size, options.device)
    videos = list_videos(Path(options.videos))
    return len(videos), write_features(Path(options.output), extract_features(encoder, videos), options.encoder)
