"""Random changes of a training clip. One draw holds for all frames of the clip, and the labels move with the pixels."""

from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional as transforms

from mtcae_dfer.face_geometry import flip_horizontally, map_to_crop


@dataclass(frozen=True)
class AugmentationConfig:
    """How far clips are changed."""

    smallest_crop: float = 0.8  # side of the smallest crop / side of the frame; 1 = no crop
    largest_stretch: float = 1.1  # largest ratio of a crop's width to its height, and of its height to its width
    flip_probability: float = 0.5  # share of clips that are mirrored left to right
    brightness: float = 0.2  # pixel values are multiplied by a factor in [1 - brightness, 1 + brightness]
    contrast: float = 0.2  # distances to the mean are multiplied by a factor in [1 - contrast, 1 + contrast]


@dataclass(frozen=True)
class LabelledFrames:
    """The frames of a clip with their face labels."""

    frames: torch.Tensor  # uint8 (T, 3, H, W)
    face_boxes: torch.Tensor  # float32 (T, 4), divided by frame width and height, NaN where no face was found
    face_landmarks: torch.Tensor  # float32 (T, 5, 2), likewise


def augment(clip: LabelledFrames, config: AugmentationConfig, generator: torch.Generator) -> LabelledFrames:
    """Draws one crop, flip and light for the whole clip.

    Args:
        clip: the frames and labels of one clip.
        config: how far to change it.
        generator: the only source of randomness, so that a clip's draw does not depend on the loading processes.
    """
    clip = crop(clip, draw_crop_box(config, generator))
    if _uniform(generator, 0.0, 1.0) < config.flip_probability:
        clip = flip(clip)
    brightness = _uniform(generator, 1 - config.brightness, 1 + config.brightness)
    contrast = _uniform(generator, 1 - config.contrast, 1 + config.contrast)
    frames = transforms.adjust_contrast(transforms.adjust_brightness(clip.frames, brightness), contrast)
    return LabelledFrames(frames, clip.face_boxes, clip.face_landmarks)


def draw_crop_box(config: AugmentationConfig, generator: torch.Generator) -> tuple[float, float, float, float]:
    """Draws a crop (x1, y1, x2, y2) inside the frame, divided by frame width and height."""
    side = _uniform(generator, config.smallest_crop, 1.0)
    stretch = _uniform(generator, 1 / config.largest_stretch, config.largest_stretch)
    width, height = min(1.0, side * stretch**0.5), min(1.0, side / stretch**0.5)
    left, top = _uniform(generator, 0.0, 1 - width), _uniform(generator, 0.0, 1 - height)
    return left, top, left + width, top + height


def crop(clip: LabelledFrames, crop_box: tuple[float, float, float, float]) -> LabelledFrames:
    """Cuts the crop out of every frame, resizes it to the frame's size, and moves the labels along.

    The crop's edges are rounded to whole pixels first, so that pixels and labels agree exactly.
    """
    height, width = clip.frames.shape[-2:]
    left, right = round(crop_box[0] * width), max(round(crop_box[2] * width), round(crop_box[0] * width) + 1)
    top, bottom = round(crop_box[1] * height), max(round(crop_box[3] * height), round(crop_box[1] * height) + 1)
    frames = transforms.resized_crop(
        clip.frames, top, left, bottom - top, right - left, [height, width], antialias=True
    )
    whole_pixels = (left / width, top / height, right / width, bottom / height)
    face_boxes, face_landmarks = map_to_crop(clip.face_boxes, clip.face_landmarks, whole_pixels)
    return LabelledFrames(frames, face_boxes, face_landmarks)


def flip(clip: LabelledFrames) -> LabelledFrames:
    """Mirrors frames and labels left to right; left and right eye and mouth corners change names."""
    face_boxes, face_landmarks = flip_horizontally(clip.face_boxes, clip.face_landmarks)
    return LabelledFrames(clip.frames.flip(-1), face_boxes, face_landmarks)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
