"""Augmentation: one draw for the whole clip, and labels that stay on the pixels they belong to."""

import numpy as np
import pytest
import torch

from mtcae_dfer.training.augmentation import AugmentationConfig, LabelledFrames, augment, crop, draw_crop_box, flip

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
