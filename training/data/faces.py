"""Pictures of faces in memory, cut by the face and changed at random a whole batch at once: stills and frames of clips.

A still is a clip of one frame here. Shapes: N pictures or clips, B of them in a batch, T frames, P pixels of a side,
K classes. Random numbers come from a numpy generator on the processor and pixels are changed where the pictures lie, so
that a batch is the same, up to rounding, on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch.nn import functional

from mtcae_dfer.face_crop import SIDES_PER_EYE_TO_MOUTH
from mtcae_dfer.face_geometry import MIRRORED_LANDMARK_ORDER

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # by which the pixels of a batch are normalised
TONE_KNOTS = 17  # of a clip's tone: so many quantiles of its grey values, from the darkest to the lightest


@dataclass(frozen=True)
class FaceCut:
    """The square that is cut around a face: the same rule for training and prediction."""

    margin: float = 0.024  # added on every side of the face, as a share of its size (`face_crop.face_crop`)
    rise: float = 0.1  # how far the square's centre stands above the middle of eyes and mouth, in sides
    shortest: float = 0.12  # distance between eyes and mouth in heights of the picture; a shorter one is no face


@dataclass(frozen=True)
class FaceAugmentation:
    """How cut faces are changed at random. All of a clip's frames are changed alike."""

    smallest: float = 0.78  # of the square's side: how close it comes to the face
    largest: float = 1.15  # of the square's side
    shift: float = 0.08  # largest shift of the square, in sides
    degrees: float = 15.0  # largest turn
    aspect: float = 0.1  # largest logarithm of the ratio of width to height
    tone: float = 0.9  # share of the clips that take the tone of another one of the set
    contrast: float = 0.35  # largest logarithm of the gain of all colours
    tint: float = 0.12  # largest logarithm of the gain of one colour
    light: float = 0.15  # largest change of brightness, and of a slope of light over width and height
    grey: float = 0.3  # share of the clips without colours
    erase: float = 0.35  # share of the clips of which a rectangle is filled with one grey value


@dataclass
class FaceSet:
    """Pictures with labels.

    Attributes:
        pictures: uint8 (N, T, 3, P, P), RGB, on the device on which batches are made.
        labels: (N,) expression class ids.
        targets: float32 (N, K), what the scores are trained towards: probabilities of the classes.
        votes: float32 (N, K), how many raters saw each class; zeros where nobody was asked.
        face_boxes: float32 (N, T, 4), divided by the picture's side; NaN without a face.
        face_landmarks: float32 (N, T, 5, 2), likewise.
        subjects: (N,) names.
        tones: float32 (N, `TONE_KNOTS`), from `measure_tones`.
    """

    pictures: torch.Tensor
    labels: np.ndarray
    targets: np.ndarray
    votes: np.ndarray
    face_boxes: np.ndarray
    face_landmarks: np.ndarray
    subjects: np.ndarray
    tones: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: np.ndarray) -> FaceSet:
        """The clips at some positions, or where a boolean array says so."""
        positions = np.arange(len(self))[chosen]
        arrays = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "pictures"}
        pictures = self.pictures[torch.from_numpy(positions).to(self.pictures.device)]
        return FaceSet(pictures, **{name: array[positions] for name, array in arrays.items()})


def join_faces(sets: Sequence[FaceSet]) -> FaceSet:
    """Several sets with the same number of frames as one, in their order."""
    pictures, *arrays = zip(*(vars(faces).values() for faces in sets), strict=True)
    return FaceSet(torch.cat(pictures), *(np.concatenate(array) for array in arrays))


def middle_frames(clips: FaceSet, count: int) -> FaceSet:
    """Frames of clips as stills: `count` of every clip, evenly from the middle half, where its expression is shown."""
    frames = clips.pictures.shape[1]
    moments = ((np.arange(count) + 0.5) / count * frames / 2 + frames / 4).astype(int)
    parts = []
    for moment in moments.tolist():
        pictures = clips.pictures[:, moment : moment + 1]
        boxes, landmarks = (places[:, moment : moment + 1] for places in (clips.face_boxes, clips.face_landmarks))
        tones = measure_tones(pictures)
        parts.append(replace(clips, pictures=pictures, face_boxes=boxes, face_landmarks=landmarks, tones=tones))
    return join_faces(parts)


def smooth_targets(labels: np.ndarray, classes: int, smoothing: float) -> np.ndarray:
    """Labels (N,) as probabilities float32 (N, K), a share of each spread over all classes."""
    return (np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes).astype(np.float32)


def measure_tones(pictures: torch.Tensor) -> np.ndarray:
    """How dark and light clips are: `TONE_KNOTS` quantiles of their grey values / 255, float32 (N, `TONE_KNOTS`).

    Stills whose histograms were made even, as in releases of FER2013, differ in tone from everything that a camera
    takes, and a network learns that. The curve from one clip's quantiles to another's gives it the other's tone.

    Args:
        pictures: uint8 (N, T, 3, P, P); every fourth row and column is looked at.
    """
    greys = pictures[..., ::4, ::4].float().mean(dim=2).flatten(1).div_(255).cpu().numpy()
    return np.quantile(greys, np.linspace(0, 1, TONE_KNOTS), axis=1).T.astype(np.float32)


@dataclass
class FaceBatch:
    """What a model is trained on; the labels are those of the cut frames.

    Attributes:
        pixel_values: float32 (B, T, 3, S, S), (rgb / 255 - `PIXEL_MEAN`) / `PIXEL_STD`.
        labels: (B,) class ids.
        targets: (B, K) probabilities.
        face_boxes: (B, T, 4), divided by the cut's side.
        face_landmarks: (B, T, 5, 2), likewise.
        face_found: (B, T).
    """

    pixel_values: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    face_boxes: torch.Tensor
    face_landmarks: torch.Tensor
    face_found: torch.Tensor


def face_squares(landmarks: np.ndarray, rule: FaceCut) -> np.ndarray:
    """Centre and side (N, 3) of the square around the face of each clip, by the median of its frames' points.

    Args:
        landmarks: (N, T, 5, 2), divided by the picture's side.
        rule: size and place of the square.

    Returns:
        (x, y, side) divided by the picture's side; the whole picture where no face was found.
    """
    eyes, mouth = landmarks[:, :, :2].mean(axis=2), landmarks[:, :, 3:].mean(axis=2)
    distances = np.linalg.norm(eyes - mouth, axis=-1)
    found = np.isfinite(distances) & (distances >= rule.shortest)
    squares = np.full((len(landmarks), 3), (0.5, 0.5, 1.0), np.float32)
    for clip in np.flatnonzero(found.any(axis=1)):
        side = (1 + 2 * rule.margin) * SIDES_PER_EYE_TO_MOUTH * np.median(distances[clip, found[clip]])
        centre = np.median((eyes + mouth)[clip, found[clip]] / 2, axis=0)
        squares[clip] = (centre[0], centre[1] - rule.rise * side, side)
    return squares


def make_batch(
    faces: FaceSet,
    squares: np.ndarray,
    indices: np.ndarray,
    size: int,
    augmentation: FaceAugmentation | None = None,
    random: np.random.Generator | None = None,
) -> FaceBatch:
    """Cuts clips to `size` x `size` pixels around the face, changed at random where an augmentation is given.

    Args:
        faces: where the clips come from.
        squares: (N, 3) of `face_squares`.
        indices: (B,) positions of the clips.
        size: side S of the cut frames in pixels.
        augmentation: None: every clip as it is.
        random: where the changes are drawn from.

    Returns:
        The batch on the device of the pictures.
    """
    count, device = len(indices), faces.pictures.device
    centres, sides = squares[indices, :2].astype(np.float64), squares[indices, 2].astype(np.float64)
    angles, mirror, aspect = np.zeros(count), np.ones(count), np.ones(count)
    if augmentation is not None:
        assert random is not None
        sides = sides * np.exp(random.uniform(math.log(augmentation.smallest), math.log(augmentation.largest), count))
        centres = centres + random.uniform(-augmentation.shift, augmentation.shift, (count, 2)) * sides[:, None]
        angles = np.radians(random.uniform(-augmentation.degrees, augmentation.degrees, count))
        mirror = np.where(random.random(count) < 0.5, -1.0, 1.0)
        aspect = np.exp(random.uniform(-augmentation.aspect, augmentation.aspect, count))
    cosine, sine = np.cos(angles), np.sin(angles)
    # (B, 2, 2): from the cut, with the origin in its centre and its side as unit, to the picture in its own side.
    turns = np.stack(
        [np.stack([cosine * mirror * aspect, -sine], -1), np.stack([sine * mirror * aspect, cosine], -1)], 1
    )
    turns *= sides[:, None, None]
    # (B, 2, 3): the same between places from -1 to 1, as `affine_grid` takes it.
    places = np.concatenate([turns, 2 * centres[:, :, None] - 1], axis=2).astype(np.float32)
    grid = functional.affine_grid(torch.from_numpy(places).to(device), [count, 1, size, size], align_corners=False)
    # (B, T, 3, P, P) -> (B, T * 3, P, P): all frames of a clip take their pixels from the same places.
    pixels = faces.pictures[torch.from_numpy(indices).to(device)].flatten(1, 2).float()
    pixels = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False).div_(255)
    pixels = pixels.unflatten(1, faces.pictures.shape[1:3])
    if augmentation is not None and random is not None:
        chosen = np.flatnonzero(random.random(count) < augmentation.tone)
        others = random.integers(len(faces), size=count)
        pixels[chosen] = change_tone(pixels[chosen], faces.tones[indices[chosen]], faces.tones[others[chosen]])
        pixels = _change_light(_erase(pixels, augmentation, random), augmentation, random)
    boxes, landmarks = _map_labels(faces, indices, centres, turns, mirror)
    return FaceBatch(
        pixel_values=pixels.sub_(PIXEL_MEAN).div_(PIXEL_STD),
        labels=torch.from_numpy(faces.labels[indices]).long().to(device),
        targets=torch.from_numpy(faces.targets[indices]).to(device),
        face_boxes=torch.from_numpy(boxes).to(device),
        face_landmarks=torch.from_numpy(landmarks).to(device),
        face_found=torch.from_numpy(np.isfinite(boxes).all(axis=-1)).to(device),
    )


def _map_labels(
    faces: FaceSet, indices: np.ndarray, centres: np.ndarray, turns: np.ndarray, mirror: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (B, T, 4) and points (B, T, 5, 2) in the cut. A turned box keeps its centre and its size."""
    inverse = np.linalg.inv(turns)
    points = faces.face_landmarks[indices].astype(np.float64)
    # (B, T, 5, 2) x (B, 2, 2) -> (B, T, 5, 2)
    landmarks = np.einsum("btpc,bdc->btpd", points - centres[:, None, None], inverse) + 0.5
    mirrored = landmarks[:, :, list(MIRRORED_LANDMARK_ORDER)]
    landmarks = np.where((mirror < 0)[:, None, None, None], mirrored, landmarks)
    boxes = faces.face_boxes[indices].astype(np.float64)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    middles = np.einsum("btc,bdc->btd", middles - centres[:, None], inverse) + 0.5
    # How many sides of the cut one side of the picture is, along width and height.
    scales = 1 / np.linalg.norm(turns, axis=1)
    halves = (boxes[..., 2:] - boxes[..., :2]) / 2 * scales[:, None]
    return (
        np.concatenate([middles - halves, middles + halves], axis=-1).astype(np.float32),
        landmarks.astype(np.float32),
    )


def change_tone(pixels: torch.Tensor, own: np.ndarray, wanted: np.ndarray) -> torch.Tensor:
    """Clips with other tones: all grey values go by the curve from a clip's own quantiles to the wanted ones.

    Args:
        pixels: (B, T, 3, S, S) from 0 to 1.
        own: (B, `TONE_KNOTS`) of `measure_tones`.
        wanted: likewise.
    """
    levels = np.linspace(0, 1, 256)
    # Quantiles of even areas are equal; a curve needs knots that rise.
    rising = own + 1e-6 * np.arange(TONE_KNOTS)
    curves = np.array([np.interp(levels, *knots) for knots in zip(rising, wanted, strict=True)], np.float32)
    places = pixels.mul(255).round_().long().flatten(1)
    # (B, 256) -> (B, T * 3 * S * S) -> (B, T, 3, S, S)
    return torch.from_numpy(curves.reshape(-1, len(levels))).to(pixels.device).gather(1, places).view_as(pixels)


def _erase(pixels: torch.Tensor, augmentation: FaceAugmentation, random: np.random.Generator) -> torch.Tensor:
    """Fills one rectangle of some clips (B, T, 3, S, S) with one grey value."""
    count, size = len(pixels), pixels.shape[-1]
    erased = random.random(count) < augmentation.erase
    extents = random.uniform(0.12, 0.35, (2, count)) * size
    starts = random.uniform(0, 1, (2, count)) * (size - extents)
    numbers = np.concatenate([starts, starts + extents, erased[None], random.random((1, count))]).astype(np.float32)
    top, left, bottom, right, chosen, grey = torch.from_numpy(numbers).to(pixels.device)[..., None, None]
    line = torch.arange(size, device=pixels.device) + 0.5
    rows, columns = line[:, None], line[None, :]
    # (B, S, S) -> (B, 1, 1, S, S)
    inside = (rows > top) & (rows < bottom) & (columns > left) & (columns < right) & (chosen > 0)
    return torch.where(inside[:, None, None], grey[:, None, None], pixels)


def _change_light(pixels: torch.Tensor, augmentation: FaceAugmentation, random: np.random.Generator) -> torch.Tensor:
    count, size = len(pixels), pixels.shape[-1]

    def draw(reach: float, *shape: int) -> torch.Tensor:
        # (B, *shape) -> (B, 1, *shape): the same for all frames
        drawn = random.uniform(-reach, reach, (count, 1, *shape)).astype(np.float32)
        return torch.from_numpy(drawn).to(pixels.device)

    grey = torch.from_numpy((random.random((count, 1, 1, 1, 1)) < augmentation.grey).astype(np.float32))
    pixels = torch.lerp(pixels, pixels.mean(dim=2, keepdim=True), grey.to(pixels.device))
    gain = torch.exp(draw(augmentation.contrast, 1, 1, 1) + draw(augmentation.tint, 3, 1, 1))
    slope = torch.linspace(-1, 1, size, device=pixels.device)
    light = draw(augmentation.light, 1, 1, 1) + draw(augmentation.light, 1, 1, 1) * slope
    light = light + draw(augmentation.light, 1, 1, 1) * slope[:, None]
    return pixels.sub_(0.5).mul_(gain).add_(light + 0.5).clamp_(0, 1)
