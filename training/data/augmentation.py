"""Random changes of training clips. One draw holds for all frames of a clip, and the labels move with the pixels.

What is drawn for a clip is a `ClipChange`; the clips of a batch are changed together, each by its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from mtcae_dfer.face_geometry import flip_horizontally, map_to_crop

WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)
# Pixel values that are changed together on a processor: as many as stay in its cache. A GPU takes a whole batch.
VALUES_AT_A_TIME = 1 << 19
GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue in brightness (ITU-R BT.601), as torchvision takes them


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
    """The frames of a clip, or of B clips, with their face labels; of B clips every array has B as its first axis."""

    frames: torch.Tensor  # uint8 ([B,] T, 3, H, W)
    face_boxes: torch.Tensor  # float32 ([B,] T, 4), divided by frame width and height, NaN where no face was found
    face_landmarks: torch.Tensor  # float32 ([B,] T, 5, 2), likewise


@dataclass(frozen=True)
class ErasedRectangle:
    """A rectangle of noise that stands still over all frames of a clip."""

    top: float  # of the room that its height leaves, from 0 to 1
    left: float  # likewise
    area: float  # of the rectangle / that of the frame
    stretch: float  # its height / that of a rectangle with this area and the frame's proportions
    noise_seed: int


@dataclass(frozen=True)
class ClipChange:
    """What is done to all frames of a clip, in this order. The defaults do nothing."""

    degrees: float = 0.0  # turned about the centre, counter-clockwise; what turns in from outside is black
    crop_box: tuple[float, float, float, float] = WHOLE_FRAME  # cut out: x1, y1, x2, y2 / frame width and height
    flipped: bool = False  # mirrored left to right
    brightness: float = 1.0  # pixel values are multiplied by it
    contrast: float = 1.0  # distances to a frame's mean brightness are multiplied by it
    saturation: float = 1.0  # distances to grey are multiplied by it
    hue: float = 0.0  # hues turn by this share of the colour circle
    erased: ErasedRectangle | None = None


def draw_change(config: AugmentationConfig, generator: torch.Generator) -> ClipChange:
    """Draws what is done to one clip; the generator is the only source of randomness."""
    # What is switched off draws no number: it leaves the other draws as they are.
    turn = config.largest_rotation
    degrees = _uniform(generator, -turn, turn) if turn else 0.0
    crop_box = draw_crop_box(config, generator)
    flipped = _uniform(generator, 0.0, 1.0) < config.flip_probability
    brightness, contrast = (
        _uniform(generator, 1 - largest, 1 + largest) for largest in (config.brightness, config.contrast)
    )
    saturation = _uniform(generator, 1 - config.saturation, 1 + config.saturation) if config.saturation else 1.0
    hue = _uniform(generator, -config.hue, config.hue) if config.hue else 0.0
    erases = config.erasing_probability and _uniform(generator, 0.0, 1.0) < config.erasing_probability
    erased = draw_rectangle(config.largest_erasing, generator) if erases else None
    return ClipChange(degrees, crop_box, flipped, brightness, contrast, saturation, hue, erased)


def draw_crop_box(config: AugmentationConfig, generator: torch.Generator) -> tuple[float, float, float, float]:
    """Draws a crop (x1, y1, x2, y2) inside the frame, divided by frame width and height."""
    side = _uniform(generator, config.smallest_crop, 1.0)
    stretch = _uniform(generator, 1 / config.largest_stretch, config.largest_stretch)
    width, height = min(1.0, side * stretch**0.5), min(1.0, side / stretch**0.5)
    left, top = _uniform(generator, 0.0, 1 - width), _uniform(generator, 0.0, 1 - height)
    return left, top, left + width, top + height


def draw_rectangle(largest_area: float, generator: torch.Generator) -> ErasedRectangle:
    """Draws a rectangle to erase: its area is at least a tenth of the largest one, its sides stand at most 1 : 2."""
    area = _uniform(generator, largest_area / 10, largest_area)
    stretch = 2 ** _uniform(generator, -0.5, 0.5)
    top, left = _uniform(generator, 0.0, 1.0), _uniform(generator, 0.0, 1.0)
    noise_seed = int(torch.randint(0, 2**62, (), generator=generator))
    return ErasedRectangle(top, left, area, stretch, noise_seed)


def change_clips(clips: LabelledFrames, changes: Sequence[ClipChange]) -> LabelledFrames:
    """Changes B clips, each by its own, on the device on which they lie; none depends on what else is in the batch."""
    on_processor = clips.frames.device.type == "cpu"
    together = max(1, VALUES_AT_A_TIME // clips.frames[0].numel()) if on_processor else len(changes)
    starts = range(0, len(changes), together)
    parts = [
        change_frames(clips.frames[start : start + together], changes[start : start + together]) for start in starts
    ]
    aspect = clips.frames.shape[-1] / clips.frames.shape[-2]
    face_boxes, face_landmarks = move_labels(clips.face_boxes, clips.face_landmarks, changes, aspect)
    return LabelledFrames(torch.cat(parts), face_boxes, face_landmarks)


def move_labels(
    face_boxes: torch.Tensor, face_landmarks: torch.Tensor, changes: Sequence[ClipChange], aspect: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (B, T, 4) and points (B, T, 5, 2) of B clips after their changes; `aspect` is a frame's width / its height.

    Points turn with the pixels. A box keeps its width and height, and its centre turns: a detector's boxes stand
    upright whatever the head does, and the hull of a turned box would be larger than any box of the turned face.
    """
    if any(change.degrees for change in changes):
        centres = (face_boxes[..., :2] + face_boxes[..., 2:]) / 2
        face_boxes = face_boxes + (_turn(centres, changes, aspect) - centres).repeat(1, 1, 2)
        face_landmarks = _turn(face_landmarks, changes, aspect)
    device = face_boxes.device
    crop_boxes = torch.tensor([[change.crop_box] for change in changes], device=device)  # (B, 1, 4)
    face_boxes, face_landmarks = map_to_crop(face_boxes, face_landmarks, crop_boxes)
    flipped = torch.tensor([change.flipped for change in changes], device=device)
    mirrored = flip_horizontally(face_boxes, face_landmarks)
    boxes = torch.where(flipped[:, None, None], mirrored[0], face_boxes)
    return boxes, torch.where(flipped[:, None, None, None], mirrored[1], face_landmarks)


def _turn(points: torch.Tensor, changes: Sequence[ClipChange], aspect: float) -> torch.Tensor:
    """Points (B, ..., 2) from 0 to 1 across a frame of this aspect, after their clips turned about the centre."""
    angles = torch.tensor([math.radians(change.degrees) for change in changes], device=points.device)
    # (B,) -> (B, 1, ...): as many axes as x and y have
    angles = angles.view(-1, *[1] * (points.ndim - 2))
    x, y = (points[..., 0] - 0.5) * aspect, points[..., 1] - 0.5
    # Rows count downwards, so a counter-clockwise turn takes (1, 0) to (cos, -sin).
    across, down = x * angles.cos() + y * angles.sin(), y * angles.cos() - x * angles.sin()
    turned = torch.stack([across / aspect + 0.5, down + 0.5], dim=-1)
    # What does not turn keeps its numbers to the last bit, whatever else is in the batch.
    return torch.where((angles != 0)[..., None], turned, points)


def change_frames(frames: torch.Tensor, changes: Sequence[ClipChange]) -> torch.Tensor:
    """Frames uint8 (B, T, 3, H, W) after their changes: turn, crop and flip in one interpolation, then the colours."""
    height, width = frames.shape[-2:]
    # (B, T, 3, H, W) -> (B, T * 3, H, W): every frame of a clip takes its pixels from the same places.
    pixels = frames.flatten(1, 2).float()
    moves = [_source_places(change, width / height) for change in changes]
    places = torch.tensor(moves, device=frames.device)  # (B, 2, 3)
    grid = functional.affine_grid(places, [len(changes), 1, height, width], align_corners=False)  # (B, H, W, 2)
    # At its own edge a frame goes on as it is; only what turns in from outside is black.
    pixels = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    if any(change.degrees for change in changes):
        pixels *= (grid.abs() <= 1).all(dim=-1)[:, None]
    # (B, T * 3, H, W) -> (B, T, 3, H, W)
    changed = change_colours(pixels.unflatten(1, frames.shape[1:3]), changes).round_().to(torch.uint8)
    for clip, change in zip(changed, changes, strict=True):
        if change.erased is not None:
            erase(clip, change.erased)
    return changed


def _source_places(change: ClipChange, aspect: float) -> list[list[float]]:
    """From places in the changed frame to those in the frame, both from -1 to 1, as `affine_grid` takes it."""
    left, top, right, bottom = change.crop_box
    across, down = (right - left) * (-1 if change.flipped else 1), bottom - top
    x, y = left + right - 1, top + bottom - 1
    cosine, sine = math.cos(math.radians(change.degrees)), math.sin(math.radians(change.degrees))
    return [
        [cosine * across, -sine / aspect * down, cosine * x - sine / aspect * y],
        [sine * aspect * across, cosine * down, sine * aspect * x + cosine * y],
    ]


def change_colours(frames: torch.Tensor, changes: Sequence[ClipChange]) -> torch.Tensor:
    """Frames (B, T, 3, H, W) of values from 0 to 255 after their changes of colour."""

    def factors(name: str) -> torch.Tensor:
        values = [getattr(change, name) for change in changes]
        return torch.tensor(values, device=frames.device).view(-1, 1, 1, 1, 1)

    frames = (frames * factors("brightness")).clamp_(0, 255)
    # A frame's mean brightness is that of its channels' means; one pass over the pixels instead of four.
    mean = (frames.mean(dim=(-2, -1)) @ frames.new_tensor(GREY))[..., None, None, None]  # (B, T, 1, 1, 1)
    contrast = factors("contrast")
    frames = frames.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    if any(change.saturation != 1.0 for change in changes):
        frames = torch.lerp(transforms.rgb_to_grayscale(frames), frames, factors("saturation")).clamp_(0, 255)
    for clip, change in enumerate(changes):
        if change.hue:
            frames[clip] = 255 * transforms.adjust_hue(frames[clip] / 255, change.hue)
    return frames


def erase(frames: torch.Tensor, rectangle: ErasedRectangle) -> None:
    """Covers one rectangle of all frames uint8 (T, 3, H, W) with noise that stands still, in place.

    Labels stay: a covered mouth is where it is, as behind a hand.
    """
    height, width = frames.shape[-2:]
    rows = max(1, min(height, round(height * math.sqrt(rectangle.area) * rectangle.stretch)))
    columns = max(1, min(width, round(width * math.sqrt(rectangle.area) / rectangle.stretch)))
    top, left = round(rectangle.top * (height - rows)), round(rectangle.left * (width - columns))
    # Drawn on the processor: the same noise whatever the device.
    generator = torch.Generator().manual_seed(rectangle.noise_seed)
    noise = torch.randint(0, 256, (3, rows, columns), dtype=torch.uint8, generator=generator)
    frames[..., top : top + rows, left : left + columns] = noise


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
