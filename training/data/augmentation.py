"""Random changes of a training clip. One draw holds for all frames of the clip, and the labels move with the pixels."""

import math
from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import InterpolationMode
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
    largest_rotation: float = 0.0  # degrees; clips are turned by up to this much either way
    saturation: float = 0.0  # distances to grey are multiplied by a factor in [1 - saturation, 1 + saturation]
    hue: float = 0.0  # hues turn by up to this share of the colour circle, at most 0.5
    erasing_probability: float = 0.0  # share of clips in which a rectangle is covered with noise
    largest_erasing: float = 0.2  # area of the largest rectangle / area of the frame


@dataclass(frozen=True)
class LabelledFrames:
    """The frames of a clip with their face labels."""

    frames: torch.Tensor  # uint8 (T, 3, H, W)
    face_boxes: torch.Tensor  # float32 (T, 4), divided by frame width and height, NaN where no face was found
    face_landmarks: torch.Tensor  # float32 (T, 5, 2), likewise


def augment(clip: LabelledFrames, config: AugmentationConfig, generator: torch.Generator) -> LabelledFrames:
    """Draws one rotation, crop, flip, light, colour and erased rectangle for the whole clip.

    Args:
        clip: the frames and labels of one clip.
        config: how far to change it.
        generator: the only source of randomness, so that a clip's draw does not depend on the loading processes.
    """
    # What is switched off draws no number: it leaves the other draws as they are.
    if config.largest_rotation:
        clip = rotate(clip, _uniform(generator, -config.largest_rotation, config.largest_rotation))
    clip = crop(clip, draw_crop_box(config, generator))
    if _uniform(generator, 0.0, 1.0) < config.flip_probability:
        clip = flip(clip)
    frames = change_colours(clip.frames, config, generator)
    if config.erasing_probability and _uniform(generator, 0.0, 1.0) < config.erasing_probability:
        frames = erase(frames, config.largest_erasing, generator)
    return LabelledFrames(frames, clip.face_boxes, clip.face_landmarks)


def change_colours(frames: torch.Tensor, config: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Draws brightness, contrast, saturation and hue for all frames uint8 (T, 3, H, W)."""
    brightness = _uniform(generator, 1 - config.brightness, 1 + config.brightness)
    contrast = _uniform(generator, 1 - config.contrast, 1 + config.contrast)
    frames = transforms.adjust_contrast(transforms.adjust_brightness(frames, brightness), contrast)
    if config.saturation:
        frames = transforms.adjust_saturation(frames, _uniform(generator, 1 - config.saturation, 1 + config.saturation))
    if config.hue:
        frames = transforms.adjust_hue(frames, _uniform(generator, -config.hue, config.hue))
    return frames


def erase(frames: torch.Tensor, largest_area: float, generator: torch.Generator) -> torch.Tensor:
    """Covers one rectangle of all frames uint8 (T, 3, H, W) with noise that stands still.

    Labels stay: a covered mouth is where it is, as behind a hand. The area is at least a tenth of the largest one, the
    sides stand at most 1 : 2.

    Args:
        frames: of one clip.
        largest_area: of the rectangle / that of the frame.
        generator: source of the rectangle and of the noise.
    """
    height, width = frames.shape[-2:]
    area = _uniform(generator, largest_area / 10, largest_area)
    stretch = 2 ** _uniform(generator, -0.5, 0.5)
    rows = max(1, min(height, round(height * math.sqrt(area) * stretch)))
    columns = max(1, min(width, round(width * math.sqrt(area) / stretch)))
    top = round(_uniform(generator, 0, height - rows))
    left = round(_uniform(generator, 0, width - columns))
    erased = frames.clone()
    noise = torch.randint(0, 256, (3, rows, columns), dtype=torch.uint8, generator=generator)
    erased[..., top : top + rows, left : left + columns] = noise
    return erased


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


def rotate(clip: LabelledFrames, degrees: float) -> LabelledFrames:
    """Turns every frame about its centre, counter-clockwise for positive degrees; what turns in from outside is black.

    Points turn with the pixels. A box keeps its width and height, and its centre turns: a detector's boxes stand
    upright whatever the head does, and the hull of a turned box would be larger than any box of the turned face.
    """
    height, width = clip.frames.shape[-2:]
    frames = transforms.rotate(clip.frames, degrees, interpolation=InterpolationMode.BILINEAR)
    pixels = torch.tensor([width, height], dtype=torch.float32)
    angle = math.radians(degrees)
    # Rows count downwards, so a counter-clockwise turn takes (1, 0) to (cos, -sin); points are rows of the matrix.
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def turned(points: torch.Tensor) -> torch.Tensor:
        return ((points - 0.5) * pixels) @ turn / pixels + 0.5

    upper_left, lower_right = clip.face_boxes[..., :2], clip.face_boxes[..., 2:]
    shift = turned((upper_left + lower_right) / 2) - (upper_left + lower_right) / 2
    face_boxes = torch.cat([upper_left + shift, lower_right + shift], dim=-1)
    return LabelledFrames(frames, face_boxes, turned(clip.face_landmarks))


def flip(clip: LabelledFrames) -> LabelledFrames:
    """Mirrors frames and labels left to right; left and right eye and mouth corners change names."""
    face_boxes, face_landmarks = flip_horizontally(clip.face_boxes, clip.face_landmarks)
    return LabelledFrames(clip.frames.flip(-1), face_boxes, face_landmarks)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
