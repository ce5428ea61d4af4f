"""Augmentation: one draw for the whole clip, and labels that stay on the pixels they belong to."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from mtcae_dfer.training.data.augmentation import (
    AugmentationConfig,
    ClipChange,
    LabelledFrames,
    change_clips,
    change_frames,
    draw_change,
    draw_crop_box,
    draw_rectangle,
    erase,
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


def change_clip(clip: LabelledFrames, change: ClipChange) -> LabelledFrames:
    """One clip alone after its change."""
    batch = LabelledFrames(clip.frames[None], clip.face_boxes[None], clip.face_landmarks[None])
    changed = change_clips(batch, [change])
    return LabelledFrames(changed.frames[0], changed.face_boxes[0], changed.face_landmarks[0])


def augment(clip: LabelledFrames, config: AugmentationConfig, generator: torch.Generator) -> LabelledFrames:
    """One clip alone after a change that is drawn."""
    return change_clip(clip, draw_change(config, generator))


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
    mirrored = change_clip(clip_with_spot(0), ClipChange(flipped=True))
    # The spot was the left eye; mirrored, it is where the right eye's label says.
    assert np.allclose(find_spot(mirrored.frames[0]), mirrored.face_landmarks[0, 1].tolist(), atol=0.5 / SIDE)
    assert mirrored.face_landmarks[0, 0, 0] < mirrored.face_landmarks[0, 1, 0]
    assert mirrored.face_landmarks[0, 3, 0] < mirrored.face_landmarks[0, 4, 0]
    assert torch.allclose(mirrored.face_boxes[0], torch.tensor([0.3, 0.3, 0.75, 0.8]))


def test_a_crop_is_computed_by_hand() -> None:
    cropped = change_clip(clip_with_spot(), ClipChange(crop_box=(0.25, 0.25, 0.75, 0.75)))
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
    turned = change_clip(clip_with_disc(), ClipChange(degrees=degrees))
    assert np.allclose(lit_box(turned.frames[1]), turned.face_boxes[1].tolist(), atol=1.5 / 64)


@pytest.mark.parametrize("degrees", [-20.0, 15.0])
def test_rotated_landmarks_stay_on_their_pixels(degrees: float) -> None:
    for number in range(5):
        turned = change_clip(clip_with_spot(number), ClipChange(degrees=degrees))
        assert np.allclose(find_spot(turned.frames[0]), turned.face_landmarks[0, number].tolist(), atol=0.3 / SIDE)


def test_a_quarter_turn_is_computed_by_hand() -> None:
    turned = change_clip(clip_with_spot(), ClipChange(degrees=90.0))
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
    erased = frames.clone()
    erase(erased, draw_rectangle(0.2, torch.Generator().manual_seed(4)))
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


def some_clips(count: int) -> LabelledFrames:
    """Clips of smooth noise in frames that are not square."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, FRAMES * 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic").clamp(0, 1)
    frames = (255 * smooth).to(torch.uint8).unflatten(1, (FRAMES, 3))
    boxes = torch.rand(count, FRAMES, 4, generator=generator)
    return LabelledFrames(frames, boxes, torch.rand(count, FRAMES, 5, 2, generator=generator))


def test_every_clip_of_a_batch_is_changed_as_if_it_were_alone(monkeypatch) -> None:
    strong = AugmentationConfig(largest_rotation=20.0, saturation=0.4, hue=0.1, erasing_probability=0.5)
    clips = some_clips(6)
    changes = [draw_change(strong, torch.Generator().manual_seed(seed)) for seed in range(5)] + [ClipChange()]
    together = change_clips(clips, changes)
    monkeypatch.setattr("mtcae_dfer.training.data.augmentation.VALUES_AT_A_TIME", 4 * clips.frames[0].numel())
    in_two_parts = change_clips(clips, changes)
    for number, change in enumerate(changes):
        clip = LabelledFrames(clips.frames[number], clips.face_boxes[number], clips.face_landmarks[number])
        alone = change_clip(clip, change)
        for batch in (together, in_two_parts):
            assert torch.equal(batch.frames[number], alone.frames)
            assert torch.equal(batch.face_boxes[number], alone.face_boxes)
            assert torch.equal(batch.face_landmarks[number], alone.face_landmarks)
    assert torch.equal(together.frames[5], clips.frames[5])  # the change that does nothing


def test_frames_are_changed_where_they_lie() -> None:
    strong = AugmentationConfig(largest_rotation=20.0, saturation=0.4, hue=0.1, erasing_probability=1.0)
    changes = [draw_change(strong, torch.Generator().manual_seed(seed)) for seed in range(3)]
    # The meta device computes nothing, and refuses tensors that lie elsewhere.
    changed = change_frames(some_clips(3).frames.to("meta"), changes)
    assert changed.device.type == "meta" and changed.shape == (3, FRAMES, 3, 48, 64)


def test_a_crop_is_torchvisions_but_for_its_edges() -> None:
    clips = some_clips(1)
    # Whole pixels: rows 6 to 42, columns 16 to 56.
    changed = change_clips(clips, [ClipChange(crop_box=(16 / 64, 6 / 48, 56 / 64, 42 / 48))])
    expected = transforms.resized_crop(clips.frames, 6, 16, 36, 40, [48, 64], antialias=True)
    difference = (changed.frames.int() - expected.int()).abs()
    assert difference[..., 2:-2, 2:-2].max() <= 1 and difference.max() < 40


@pytest.mark.parametrize(
    ("change", "by_torchvision"),
    [
        (ClipChange(brightness=1.3), lambda frames: transforms.adjust_brightness(frames, 1.3)),
        (ClipChange(contrast=0.6), lambda frames: transforms.adjust_contrast(frames, 0.6)),
        (ClipChange(saturation=1.7), lambda frames: transforms.adjust_saturation(frames, 1.7)),
        (ClipChange(hue=-0.2), lambda frames: transforms.adjust_hue(frames, -0.2)),
    ],
)
def test_colours_change_as_torchvision_changes_them(change: ClipChange, by_torchvision: Callable) -> None:
    clips = some_clips(1)
    changed = change_clips(clips, [change]).frames
    assert (changed.int() - by_torchvision(clips.frames).int()).abs().max() <= 2
