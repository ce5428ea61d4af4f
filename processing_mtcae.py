"""From a video to a model's input, and from a model's output to pixels and names.

file, bytes, array, list of frames ─► 16 frames over the whole clip ─► (face crop) ─► 224 × 224 ─► pixel_values
logits, boxes, points              ─► probabilities by name, pixels of the source video, times in seconds
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL.Image import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import ModelOutput, logging
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .face_crop import FACE_CROP_MARGIN, box_crop, face_crop
from .face_geometry import boxes_to_pixels, map_from_crop, points_to_pixels
from .people_tracking import most_prominent_person
from .video_reading import VideoSource, probe_video, read_clip, resize_frames, uniform_frame_indices

logger = logging.get_logger(__name__)

VideoArray = np.ndarray | torch.Tensor
VideoInput = VideoSource | VideoArray | Sequence[Image | VideoArray]
Box = tuple[float, float, float, float]

WHOLE_FRAME: Box = (0.0, 0.0, 1.0, 1.0)
CHANNEL_COUNTS = (1, 3, 4)  # gray, RGB, RGB with transparency
# Options of the base class, which turns sampled and resized frames into the model's input.
NORMALISATION = (
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


@dataclass(frozen=True)
class ClipMetadata:
    """Where the frames of one clip come from: what it takes to map a prediction back onto the source video."""

    name: str  # path as given, "<bytes>", the file object's name, or "<array>"
    width: int  # pixels of the upright source frame
    height: int  # pixels of the upright source frame
    timestamps: list[float] | None  # T times in seconds from the first frame; None for arrays without a frame rate
    frame_indices: list[int]  # T indices into the source's frames
    crop_box: Box | list[Box]  # part of the frame that the model sees: (x1, y1, x2, y2) divided by frame width and
    # height; T of them where the crop follows a head that moves
    warning: str | None  # one line where only a part of the video could be read, or no face was found to crop to
    face_found: bool | None = None  # whether there is somebody to answer for; None where nobody was looked for
    person_boxes: list[Box | None] | None = None  # T face boxes, as found, of the person whom the model sees, divided
    # by frame width and height, None in frames without it; None where no face was looked for or found
    other_people: int | None = None  # how many others the clip shows; None where no face was looked for


@dataclass(frozen=True)
class _Clip:
    """The sampled frames of one video on their way through the processor."""

    frames: torch.Tensor  # uint8 (T, 3, H, W)
    metadata: ClipMetadata


class MTCAEVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments beyond those of every video processor.

    Attributes:
        do_face_crop: crop each clip to the face of its most prominent person before resizing, by `face_crop.face_crop`.
        face_crop_margin: what is added on every side of the face, as a share of its size.
        face_crop_rise: how far the crop stands above the face, in sides of the crop.
        crop_boxes: one (x1, y1, x2, y2) per video, or one for each of its T frames, divided by frame width and height:
            crop to the square around it without looking for a face. NaN leaves that video whole, None as if nothing
            were given: with `do_face_crop` a face is looked for. For a single call, never stored.
    """

    do_face_crop: bool | None
    face_crop_margin: float | None
    face_crop_rise: float | None
    crop_boxes: Any


class MTCAEVideoProcessor(BaseVideoProcessor):
    """Samples 16 frames over the whole clip and squashes them to 224 × 224, as in the paper.

    Accepts a video, or a list of videos of any mixture of these kinds:
        - a file: path (str or path-like), the file's bytes, or a binary file object;
        - a row's video as `datasets` gives it undecoded: {"bytes", "path"};
        - an array: numpy or torch, (T, H, W, C) or (T, C, H, W), uint8, or floating point in [0, 1];
        - a list of frames: PIL pictures, or arrays (H, W, C) or (C, H, W).
    A file and an array of all its frames give the same pixel values.
    """

    valid_kwargs = MTCAEVideoProcessorKwargs  # type: ignore[assignment]  # as every video processor's
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_sample_frames = True
    num_frames = 16
    do_face_crop = False
    face_crop_margin = FACE_CROP_MARGIN
    face_crop_rise = 0.0
    return_tensors = "pt"
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[MTCAEVideoProcessorKwargs]) -> None:
        super().__init__(**kwargs)  # type: ignore[misc]  # the base class keeps what it does not know
        # A saved folder always points at the copy of this module beside it.
        self.auto_map = {"AutoVideoProcessor": "processing_mtcae.MTCAEVideoProcessor"}

    def preprocess(
        self, videos: VideoInput | Sequence[VideoInput], **kwargs: Unpack[MTCAEVideoProcessorKwargs]
    ) -> BatchFeature:
        """Turn videos into a model's input.

        Args:
            videos: one video or a list of videos (see the class).
            **kwargs: any attribute of the class for this call only; besides them `crop_boxes`, `return_metadata=True`
                to get `video_metadata` (one `ClipMetadata` per video), and `video_metadata` with an `fps` to give
                arrays a time.

        Returns:
            `pixel_values`: float32 (B, T, 3, H, W). With `do_face_crop` also `person_found`, bool (B,): whether there
            is a face to answer for; models give all classes the same score where there is none.

        Raises:
            VideoReadingError: a file cannot be read; the message is one line and names the file.
            ValueError: an array has the wrong shape or values, or an argument does not fit.
            TypeError: a video is of no known kind, or an argument is unknown.
        """
        options = self._resolve_options(dict(kwargs))
        videos = list_videos(videos)
        given_metadata = _one_per_video("video_metadata", options["video_metadata"], len(videos))
        crop_boxes = _one_per_video("crop_boxes", options["crop_boxes"], len(videos))
        clips = [
            self._prepare_clip(video, metadata, crop_box, options)
            for video, metadata, crop_box in zip(videos, given_metadata, crop_boxes, strict=True)
        ]
        batch = self._normalise_clips([clip.frames for clip in clips], options)
        if options["do_face_crop"]:
            found = [clip.metadata.face_found is not False for clip in clips]
            batch.update(BatchFeature({"person_found": found}, tensor_type=options["return_tensors"]))
        if options["return_metadata"]:
            batch["video_metadata"] = [clip.metadata for clip in clips]
        return batch

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Indices (T,) of the frames to take from a clip of `metadata.total_num_frames` frames."""
        if fps is not None:
            raise ValueError(f"fps={fps}: frames are spread over the whole clip by num_frames, not by a frame rate")
        return np.array(uniform_frame_indices(metadata.total_num_frames, num_frames or self.num_frames))

    def post_process_multi_task(
        self,
        outputs: ModelOutput,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        metadata: Sequence[ClipMetadata] | None = None,
        id2label: Mapping[int | str, str] | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Turn a model's output into names, pixels of the source videos, and times.

        Args:
            outputs: with `logits` (B, K), `face_boxes` (B, T, 4) and `face_landmarks` (B, T, 5, 2), each of which may
                be None.
            target_sizes: (height, width) of each source video in pixels; by default those in `metadata`.
            metadata: `video_metadata` of the call that made the input; undoes its crops and gives the times.
            id2label: names of the K expressions, usually `model.config.id2label`; needed where there are logits.
            top_k: how many of the expressions to keep; all by default.

        Returns:
            One dict per video: "expression" {name: probability}, the most probable first; "face_boxes" float32 (T, 4)
            and "face_landmarks" float32 (T, 5, 2) in pixels of the upright source video; "timestamps", T seconds;
            where the processor looked for faces, whose they are: "face_found", "person_boxes" float32 (T, 4) in pixels,
            NaN where not found, and "other_people", how many more there are. What the model does not predict, and what
            is not known, is None: without a face there is neither an expression nor a place.

        Raises:
            ValueError: boxes or points without sizes, logits without names, or lists of the wrong length.
        """
        predictions = [outputs.get(name) for name in ("logits", "face_boxes", "face_landmarks")]
        batch_sizes = {len(prediction) for prediction in predictions if prediction is not None}
        if len(batch_sizes) != 1:
            raise ValueError("outputs hold no logits, face_boxes or face_landmarks of one and the same batch")
        (batch_size,) = batch_sizes
        logits, boxes, landmarks = (
            [None] * batch_size if prediction is None else list(prediction.detach().float().cpu())
            for prediction in predictions
        )
        metadata = _one_per_video("metadata", metadata, batch_size)
        target_sizes = _one_per_video("target_sizes", target_sizes, batch_size)
        results = []
        for index in range(batch_size):
            clip: ClipMetadata | None = metadata[index]
            person_boxes = None
            if clip is not None and clip.person_boxes is not None:
                seen = torch.tensor([[math.nan] * 4 if box is None else box for box in clip.person_boxes])
                person_boxes = boxes_to_pixels(seen, clip.width, clip.height)
            result = {
                "expression": _name_probabilities(logits[index], id2label, top_k),
                **_place_in_source(boxes[index], landmarks[index], target_sizes[index], clip),
                "timestamps": clip.timestamps if clip is not None else None,
                "face_found": clip.face_found if clip is not None else None,
                "person_boxes": person_boxes,
                "other_people": clip.other_people if clip is not None else None,
            }
            if result["face_found"] is False:
                result |= {"expression": None, "face_boxes": None, "face_landmarks": None}
            results.append(result)
        return results

    def _resolve_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Check a call's arguments and fill up with the processor's own attributes."""
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__))
        if unknown:
            raise TypeError(f"MTCAEVideoProcessor has no argument {', '.join(unknown)}")
        validate_typed_dict(self.valid_kwargs, kwargs)  # type: ignore[type-var]
        given = {name: value for name, value in kwargs.items() if value is not None}
        defaults = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        options = self._standardize_kwargs(**{**defaults, **given})
        # Refuses what would be ignored otherwise.
        if options["do_resize"] and not (options["size"].height and options["size"].width):
            raise ValueError(f"size={dict(options['size'])}: frames are squashed, so give 'height' and 'width'")
        if options["resample"] not in (None, PILImageResampling.BILINEAR):
            rule = "frames are resized bilinearly everywhere, in training too"
            raise ValueError(f"resample={options['resample']}: {rule}")
        if options["fps"] is not None:
            rule = "frames are spread over the whole clip by num_frames, not by a rate"
            raise ValueError(f"fps={options['fps']}: {rule}")
        if options["face_crop_margin"] < 0:
            raise ValueError(f"face_crop_margin={options['face_crop_margin']} must not be negative")
        if not -1 <= options["face_crop_rise"] <= 1:
            raise ValueError(f"face_crop_rise={options['face_crop_rise']} must lie between -1 and 1")
        return options

    def _prepare_clip(
        self, video: VideoInput, metadata: Mapping[str, Any] | None, crop_box: Any, options: dict[str, Any]
    ) -> _Clip:
        """Read or take over one video, sample it, crop it and resize it: uint8 (T, 3, height, width)."""
        size = (options["size"].height, options["size"].width) if options["do_resize"] else None
        crops = options["do_face_crop"] or crop_box is not None
        if _is_file(video):
            # Only a crop needs the frames in their full size.
            clip = _read_file(video, None if crops else size, options)
        else:
            clip = _take_array(video, metadata, options)
        if crops:
            clip = _crop_clip(clip, crop_box, size, options)
        if clip.metadata.warning is not None:
            logger.warning(clip.metadata.warning)
        return clip if size is None else replace(clip, frames=resize_frames(clip.frames, size))

    def _normalise_clips(self, clips: list[torch.Tensor], options: dict[str, Any]) -> BatchFeature:
        """uint8 clips (T, 3, H, W) -> pixel_values (B, T, 3, H, W)."""
        if options["device"] is not None:
            clips = [clip.to(options["device"]) for clip in clips]
        # Frames have been resized one video at a time, to hold no more than one in its full size.
        arguments = {name: options[name] for name in NORMALISATION} | {"do_resize": False}
        clips = self._preprocess(videos=clips, **arguments)["pixel_values_videos"]
        clips = [clip.to(torch.float32) for clip in clips]
        shapes = {tuple(clip.shape) for clip in clips}
        if len(shapes) > 1:
            raise ValueError(
                f"clips of different shapes {sorted(shapes)} make no batch: "
                "leave do_sample_frames and do_resize on, or pass them one by one"
            )
        # B × (T, 3, H, W) -> (B, T, 3, H, W)
        return BatchFeature({"pixel_values": torch.stack(clips)}, tensor_type=options["return_tensors"])


def _is_file(video: Any) -> TypeGuard[VideoSource]:
    is_named_or_whole = isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview, Mapping))
    return is_named_or_whole or hasattr(video, "read")


def is_frame(item: Any) -> bool:
    return isinstance(item, Image) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3)


def is_list_of_videos(videos: Any) -> bool:
    """Whether this holds several videos or frames: a list, a data set's column, a `KeyDataset`."""
    return not _is_file(videos) and hasattr(videos, "__len__") and hasattr(videos, "__getitem__")


def list_videos(videos: Any) -> list[Any]:
    """One video or many -> list of videos."""
    if _is_file(videos):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        # (B, T, ., ., .) holds B videos
        return list(videos) if videos.ndim == 5 else [videos]
    if not is_list_of_videos(videos):
        raise TypeError(
            f"a video is a path, bytes, a file object, an array or a list of frames, not {type(videos).__name__}"
        )
    if len(videos) == 0:
        raise ValueError("the list of videos is empty")
    items = [videos[index] for index in range(len(videos))]
    return [items] if all(is_frame(item) for item in items) else items


def _one_per_video(name: str, values: Any, count: int) -> list[Any]:
    """Spread an argument that is given per video; None stands for None everywhere."""
    if values is None:
        return [None] * count
    if isinstance(values, Mapping):
        values = [values]
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} videos")
    return list(values)


def _read_file(video: VideoSource, size: tuple[int, int] | None, options: dict[str, Any]) -> _Clip:
    if options["do_sample_frames"]:
        sampled = read_clip(video, options["num_frames"], size)
    else:
        sampled = read_clip(video, size=size, frame_indices=range(probe_video(video).frame_count))
    info = sampled.info
    metadata = ClipMetadata(
        name=info.name,
        width=info.width,
        height=info.height,
        timestamps=sampled.timestamps,
        frame_indices=sampled.frame_indices,
        crop_box=WHOLE_FRAME,
        warning=sampled.warning,
    )
    return _Clip(sampled.frames, metadata)


def _take_array(video: VideoInput, given: Mapping[str, Any] | None, options: dict[str, Any]) -> _Clip:
    frames = stack_frames(video)
    count = len(frames)
    if count == 0:
        raise ValueError("a video without frames: its first axis is empty")
    indices = uniform_frame_indices(count, options["num_frames"]) if options["do_sample_frames"] else range(count)
    # Sampled first, so that a long array is not converted as a whole.
    frames = frames[list(indices)] if options["do_sample_frames"] else frames
    frames = to_rgb(frames, options["input_data_format"])
    frame_rate = (given or {}).get("fps")
    metadata = ClipMetadata(
        name="<array>",
        width=frames.shape[-1],
        height=frames.shape[-2],
        timestamps=[index / frame_rate for index in indices] if frame_rate else None,
        frame_indices=list(indices),
        crop_box=WHOLE_FRAME,
        warning=None,
    )
    return _Clip(frames, metadata)


def stack_frames(video: VideoInput) -> torch.Tensor:
    """An array or a list of frames -> (T, ., ., .), values and layout as they were."""
    if isinstance(video, (np.ndarray, torch.Tensor)):
        return _as_tensor(video)
    if not isinstance(video, Sequence) or not all(is_frame(frame) for frame in video):
        raise TypeError(
            f"a video is a path, bytes, a file object, an array or a list of frames, not {type(video).__name__}"
        )
    frames: list[Any] = [np.array(frame.convert("RGB")) if isinstance(frame, Image) else frame for frame in video]
    shapes = {tuple(frame.shape) for frame in frames}
    if len(shapes) > 1:
        raise ValueError(f"the frames of a video must have one size, but here are {sorted(shapes)}")
    return torch.stack([_as_tensor(frame) for frame in frames])


def _as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    # Colours turned around by [..., ::-1], as OpenCV's users do, have a stride that torch does not know.
    return torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)


def to_rgb(video: torch.Tensor, layout: ChannelDimension | str | None) -> torch.Tensor:
    """(T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels, uint8 or floats in [0, 1] -> uint8 (T, 3, H, W)."""
    if video.ndim != 4:
        raise ValueError(
            f"a video array has 4 axes, (T, H, W, C) or (T, C, H, W), but this one is {tuple(video.shape)}"
        )
    if _channels_are_last(video, layout):
        video = video.permute(0, 3, 1, 2)  # (T, H, W, C) -> (T, C, H, W)
    # Gray is repeated, transparency is dropped, as PIL does.
    video = video.expand(-1, 3, -1, -1) if video.shape[1] == 1 else video[:, :3]
    if video.dtype != torch.uint8:
        if not video.is_floating_point() or not bool(((video >= 0) & (video <= 1)).all()):
            raise ValueError(
                f"a video array is uint8, or floating point in [0, 1], but this one is {video.dtype} from "
                f"{video.min().item():.4g} to {video.max().item():.4g}: convert it, for example with .astype('uint8')"
            )
        video = (video * 255).round().to(torch.uint8)
    return video.contiguous()


def _channels_are_last(video: torch.Tensor, layout: ChannelDimension | str | None) -> bool:
    shape = tuple(video.shape)
    first, last = shape[1] in CHANNEL_COUNTS, shape[3] in CHANNEL_COUNTS
    if layout is not None:
        is_last = ChannelDimension(layout) == ChannelDimension.LAST
        first, last = first and not is_last, last and is_last
    if first == last:
        problem = "both the second and the last axis may be the channels" if first else "no axis has 1, 3 or 4 channels"
        raise ValueError(
            f"video array of shape {shape}: {problem}; give input_data_format='channels_first' or 'channels_last'"
        )
    return last


def _crop_clip(clip: _Clip, crop_box: Any, size: tuple[int, int] | None, options: dict[str, Any]) -> _Clip:
    """Crop a clip to the square around a given box, or else to the face of its most prominent person."""
    metadata, frames = clip.metadata, clip.frames
    frame_size, crop, problem = (metadata.height, metadata.width), None, "no face found"
    if crop_box is not None:
        given = torch.as_tensor(crop_box, dtype=torch.float64)
        crop, problem = None, "the crop box is NaN"
        if bool(torch.isfinite(given).all()):
            crop = box_crop(given, frame_size, len(frames))
    else:
        person = most_prominent_person(frames)
        others = person.other_people if person is not None else 0
        metadata = replace(metadata, face_found=person is not None, other_people=others)
        if person is not None:
            margin, rise = options["face_crop_margin"], options["face_crop_rise"]
            crop = face_crop(person.boxes, person.landmarks, frame_size, margin, rise=rise)
            known = np.isfinite(person.boxes).all(axis=1)
            boxes = [tuple(box) if there else None for box, there in zip(person.boxes.tolist(), known, strict=True)]
            metadata = replace(metadata, person_boxes=boxes)
    if crop is None:
        lines = [metadata.warning, f"'{metadata.name}': {problem}, so the whole frame is used"]
        return replace(clip, metadata=replace(metadata, warning="; ".join(line for line in lines if line)))
    corners = [tuple(box) for box in crop.boxes.tolist()]
    return _Clip(crop.cut(frames, size), replace(metadata, crop_box=corners if crop.follows else corners[0]))


def _name_probabilities(
    logits: torch.Tensor | None, id2label: Mapping[int | str, str] | None, top_k: int | None
) -> dict[str, float] | None:
    """Logits (K,) -> {name: probability}, the most probable first."""
    if logits is None:
        return None
    if id2label is None:
        raise ValueError("outputs hold logits: give their names as id2label=model.config.id2label")
    # JSON turns the keys into strings.
    names = {int(index): name for index, name in id2label.items()}
    if sorted(names) != list(range(len(logits))):
        raise ValueError(f"id2label names the classes {sorted(names)}, but there are {len(logits)} logits")
    probabilities, order = logits.softmax(dim=-1).sort(descending=True, stable=True)
    pairs = zip(order.tolist(), probabilities.tolist(), strict=True)
    return dict([(names[index], probability) for index, probability in pairs][:top_k])


def _place_in_source(
    boxes: torch.Tensor | None,
    landmarks: torch.Tensor | None,
    target_size: tuple[int, int] | None,
    metadata: ClipMetadata | None,
) -> dict[str, torch.Tensor | None]:
    """Boxes (T, 4) and landmarks (T, 5, 2), normalised by what the model saw -> pixels of the source video."""
    if boxes is None and landmarks is None:
        return {"face_boxes": None, "face_landmarks": None}
    if target_size is not None:
        height, width = target_size
    elif metadata is not None:
        height, width = metadata.height, metadata.width
    else:
        raise ValueError("outputs hold face boxes or landmarks: give target_sizes=[(height, width), …] or metadata")
    crop_box = torch.tensor(metadata.crop_box if metadata is not None else WHOLE_FRAME)  # (4,) or (T, 4)
    # map_from_crop takes both; what is not predicted is stood in for by NaN.
    count = len(boxes) if boxes is not None else len(landmarks) if landmarks is not None else 0
    some_boxes = boxes if boxes is not None else torch.full((count, 4), math.nan)
    some_landmarks = landmarks if landmarks is not None else torch.full((count, 5, 2), math.nan)
    some_boxes, some_landmarks = map_from_crop(some_boxes, some_landmarks, crop_box)
    return {
        "face_boxes": None if boxes is None else boxes_to_pixels(some_boxes, width, height),
        "face_landmarks": None if landmarks is None else points_to_pixels(some_landmarks, width, height),
    }


__all__ = ["ClipMetadata", "MTCAEVideoProcessor"]
