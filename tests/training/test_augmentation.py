"""Augmentation: one draw for the whole clip, and labels that stay on the pixels they belong to."""

import numpy as np
import pytest
import torch

from mtcae_dfer.training.data.augmentation import (
    AugmentationConfig,
    LabelledFrames,
    augment,
    crop,
    draw_crop_box,
    erase,
    flip,
    rotate,
)

SIDE = 64
FRAMES = 3
SPOTS = ((0.3, 0.4), (0.65, 0.4), (0.5, 0.55), (0.35, 0.7), (0.6, 0.7))


def clip_with_spot(number: int = 0) -> LabelledFrames:
    """A bright spot on black at one of the landmarks, so that the pixels alone tell where that landmark went."""
    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    x, y = SPOTS[number]
    glow = torch.exp(-((columns - x * SIDE) ** 2 + (rows - y * SIDE) ** 2) / (2 * 1.5**2))
    frames = (255 * glow).to(torch.uint8).expand(FRAMES, 3, SIDE, SIDE).clone()
    landmarks = torch.tensor(SPOTS).expand(FRAMES, 5, 2).clone()
    boxes = torch.tensor([0.25, 0.3, 0.7, 0.8]).expand(FRAMES, 4).clone()
    return LabelledFrames(frames, boxes, landmarks)


def find_spot(frame: torch.Tensor) -> tuple[float, float]:
    """Centre of mass (x, y) of a frame's light, divided by the frame's size."""
    light = frame.float().sum(0)
    centres = torch.arange(SIDE) + 0.5
    x, y = (light * centres.view(1, -1)).sum(), (light * centres.view(-1, 1)).sum()
    return float(x / light.sum() / SIDE), float(y / light.sum() / SIDE)


@pytest.mark.parametrize("seed", range(12))
def test_landmarks_stay_on_their_pixels(seed: int) -> None:
    config = AugmentationConfig(flip_probability=0.0, brightness=0.0, contrast=0.0)
    checked = 0
    for number in range(5):
        changed = augment(clip_with_spot(number), config, torch.Generator().manual_seed(seed))
        x, y = changed.face_landmarks[1, number].tolist()
        if 0.1 < x < 0.9 and 0.1 < y < 0.9:  # a spot that is cut has its centre of mass elsewhere
            assert np.allclose(find_spot(changed.frames[1]), (x, y), atol=0.3 / SIDE)
            checked += 1
    assert checked >= 3


def test_a_flip_mirrors_pixels_and_swaps_left_and_right() -> None:
    mirrored = flip(clip_with_spot(0))
    # The spot was the left eye; mirrored, it is where the right eye's label says.
    assert np.allclose(find_spot(mirrored.frames[0]), mirrored.face_landmarks[0, 1].tolist(), atol=0.5 / SIDE)
    assert mirrored.face_landmarks[0, 0, 0] < mirrored.face_landmarks[0, 1, 0]
    assert mirrored.face_landmarks[0, 3, 0] < mirrored.face_landmarks[0, 4, 0]
    assert torch.allclose(mirrored.face_boxes[0], torch.tensor([0.3, 0.3, 0.75, 0.8]))


def test_a_crop_is_computed_by_hand() -> None:
    cropped = crop(clip_with_spot(), (0.25, 0.25, 0.75, 0.75))
    # The crop is half the frame, so distances double: (0.5 - 0.25) / 0.5 = 0.5 and (0.55 - 0.25) / 0.5 = 0.6.
    assert torch.allclose(cropped.face_landmarks[0, 2], torch.tensor([0.5, 0.6]), atol=1e-6)
    assert torch.allclose(cropped.face_boxes[0], torch.tensor([0.0, 0.1, 0.9, 1.1]), atol=1e-6)


def test_every_frame_of_a_clip_gets_the_same_change() -> None:
    changed = augment(clip_with_spot(), AugmentationConfig(), torch.Generator().manual_seed(3))
    assert torch.equal(changed.frames[0], changed.frames[2])
    assert torch.equal(changed.face_landmarks[0], changed.face_landmarks[2])


def test_the_generator_alone_decides() -> None:
    first, again, other = (
        augment(clip_with_spot(), AugmentationConfig(), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, other.frames)


def test_unknown_labels_stay_unknown() -> None:
    clip = clip_with_spot()
    clip.face_boxes[1], clip.face_landmarks[1] = float("nan"), float("nan")
    changed = augment(clip, AugmentationConfig(), torch.Generator().manual_seed(0))
    assert changed.face_boxes[1].isnan().all() and changed.face_landmarks[1].isnan().all()
    assert not changed.face_boxes[0].isnan().any()


def test_crop_boxes_lie_inside_the_frame_and_keep_their_size() -> None:
    config = AugmentationConfig(smallest_crop=0.7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        left, top, right, bottom = draw_crop_box(config, generator)
        assert 0 <= left < right <= 1 + 1e-9 and 0 <= top < bottom <= 1 + 1e-9
        assert 0.7 / 1.1**0.5 - 1e-6 <= right - left <= 1 and 0.7 / 1.1**0.5 - 1e-6 <= bottom - top <= 1


def clip_with_disc(width: int = 96, height: int = 64) -> LabelledFrames:
    """A bright disc on black with its bounding box: turning leaves a disc's bounding box its size."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    inside = ((columns - 60) ** 2 + (rows - 26) ** 2).sqrt() < 12
    frames = (255 * inside).to(torch.uint8).expand(FRAMES, 3, height, width).clone()
    box = torch.tensor([48 / width, 14 / height, 72 / width, 38 / height]).expand(FRAMES, 4).clone()
    return LabelledFrames(frames, box, torch.tensor(SPOTS).expand(FRAMES, 5, 2).clone())


def lit_box(frame: torch.Tensor) -> list[float]:
    """The box (x1, y1, x2, y2) around a frame's bright pixels, divided by the frame's size."""
    lit = frame[0] > 127
    columns, rows = lit.any(0).nonzero().flatten(), lit.any(1).nonzero().flatten()
    height, width = lit.shape
    edges = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    return [float(edge) for edge in edges]


@pytest.mark.parametrize("degrees", [-30.0, -7.0, 12.0, 25.0])
def test_a_rotated_box_stays_around_the_drawn_disc_in_a_frame_that_is_not_square(degrees: float) -> None:
    turned = rotate(clip_with_disc(), degrees)
    assert np.allclose(lit_box(turned.frames[1]), turned.face_boxes[1].tolist(), atol=1.5 / 64)


@pytest.mark.parametrize("degrees", [-20.0, 15.0])
def test_rotated_landmarks_stay_on_their_pixels(degrees: float) -> None:
    for number in range(5):
        turned = rotate(clip_with_spot(number), degrees)
        assert np.allclose(find_spot(turned.frames[0]), turned.face_landmarks[0, number].tolist(), atol=0.3 / SIDE)


def test_a_quarter_turn_is_computed_by_hand() -> None:
    turned = rotate(clip_with_spot(), 90.0)
    # Counter-clockwise, the right edge comes to the top: (x, y) -> (y, 1 - x), so (0.3, 0.4) -> (0.4, 0.7).
    assert torch.allclose(turned.face_landmarks[0, 0], torch.tensor([0.4, 0.7]), atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_all_changes_together_keep_labels_on_their_pixels(seed: int) -> None:
    config = AugmentationConfig(
        flip_probability=0.5, brightness=0.0, contrast=0.0, largest_rotation=15.0, saturation=0.3, hue=0.05
    )
    checked = 0
    for number in range(5):
        changed = augment(clip_with_spot(number), config, torch.Generator().manual_seed(seed))
        found = find_spot(changed.frames[1])
        distances = (changed.face_landmarks[1] - torch.tensor(found)).norm(dim=-1)
        if 0.1 < min(found) and max(found) < 0.9:
            # Where a flip swapped the names, the spot's label is that of its mirrored partner.
            assert distances.min() < 0.5 / SIDE
            assert int(distances.argmin()) in {number, (1, 0, 2, 4, 3)[number]}
            checked += 1
    assert checked >= 2


def test_erasing_covers_the_same_rectangle_of_every_frame_and_nothing_else() -> None:
    frames = clip_with_disc().frames
    erased = erase(frames, 0.2, torch.Generator().manual_seed(4))
    changed = (erased != frames).any(dim=1)  # (T, H, W)
    assert torch.equal(changed[0], changed[1]) and changed.any()
    rows, columns = changed[0].any(1).nonzero().flatten(), changed[0].any(0).nonzero().flatten()
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) / changed[0].numel()
    assert 0.01 < area < 0.23
    inside = changed[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.float().mean() > 0.9  # noise may meet the old value by chance


def test_options_that_are_off_leave_the_other_draws_as_they_are() -> None:
    plain = augment(clip_with_spot(), AugmentationConfig(), torch.Generator().manual_seed(9))
    erased = augment(clip_with_spot(), AugmentationConfig(erasing_probability=1.0), torch.Generator().manual_seed(9))
    assert torch.equal(plain.face_boxes, erased.face_boxes) and not torch.equal(plain.frames, erased.frames)
