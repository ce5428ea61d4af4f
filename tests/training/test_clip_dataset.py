"""Clips as a model sees them: crops to the face with their labels, and batches that are no other than their clips."""

from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as transforms

from mtcae_dfer.face_crop import face_crop
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from mtcae_dfer.hub_dataset.schema import labels_from_row
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import ClipDataset, FaceCropConfig, change_batch
from mtcae_dfer.video_reading import read_clip

STRONG = AugmentationConfig(largest_rotation=10.0, saturation=0.2, erasing_probability=0.5)


@pytest.fixture(scope="module")
def rows(small_dataset: Path) -> datasets.Dataset:
    return load_multitask_dataset(str(small_dataset))["train"]


@pytest.mark.parametrize("config", [FaceCropConfig(margin=0.25), FaceCropConfig(margin=0.0, rise=0.1)])
def test_frames_and_labels_of_a_crop_are_those_of_the_square_around_the_face(
    rows: datasets.Dataset, config: FaceCropConfig
) -> None:
    clips = ClipDataset(rows, (32, 32), crop=config)
    for index, row in enumerate(rows):
        labels, frames = labels_from_row(row), read_clip(clip_bytes(row), frame_indices=row["frame_indices"]).frames
        height, width = frames.shape[-2:]
        crop = face_crop(
            labels.face_boxes, labels.face_landmarks, (height, width), margin=config.margin, rise=config.rise
        )
        for frame, (left, top, right, bottom) in enumerate(crop.windows.tolist()):
            assert right - left == bottom - top
            cut = transforms.resize(frames[frame][:, top:bottom, left:right], [32, 32], antialias=True)
            assert (clips[index]["frames"][frame].int() - cut.int()).abs().max() <= 1
            x = (labels.face_landmarks[frame, 0, 0] * width - left) / (right - left)
            y2 = (labels.face_boxes[frame, 3] * height - top) / (bottom - top)
            assert clips[index]["face_landmarks"][frame, 0, 0] == pytest.approx(x, abs=1e-5)
            assert clips[index]["face_boxes"][frame, 3] == pytest.approx(y2, abs=1e-5)


def test_a_clip_without_a_face_stays_whole_and_is_counted(rows: datasets.Dataset) -> None:
    def lose_face(row: dict, index: int) -> dict:
        nothing = float("nan")
        lost = {"face_boxes": [[nothing] * 4] * 16, "face_landmarks": [[[nothing] * 2] * 5] * 16}
        return {**lost, "face_found": [False] * 16} if index == 0 else {}

    clips = ClipDataset(rows.map(lose_face, with_indices=True), (32, 32), crop=FaceCropConfig())
    assert clips.clips_without_face == 1
    assert torch.equal(clips[0]["frames"], ClipDataset(rows, (32, 32))[0]["frames"])
    assert clips[0]["face_boxes"].isnan().all()


def test_a_batch_changes_its_clips_as_in_whatever_company(rows: datasets.Dataset) -> None:
    for kept in (True, False):
        clips = ClipDataset(rows, (32, 32), STRONG, seed=3, keep_frames=kept)
        for epoch in (0, 4):
            clips.set_epoch(epoch)
            together = change_batch(default_collate([clips[1], clips[0]]), clips.changes([1, 0]))
            for place, index in enumerate((1, 0)):
                alone = change_batch(default_collate([clips[index]]), clips.changes([index]))
                view = clips.views([(index, epoch + 1)])
                assert alone.keys() == together.keys() == view.keys()
                assert all(torch.equal(alone[name][0], together[name][place]) for name in alone)
                assert all(torch.equal(alone[name], view[name]) for name in alone)
            # The loader gives the clip as it is; its changes wait for the device of the model.
            assert torch.equal(clips[0]["frames"], ClipDataset(rows, (32, 32))[0]["frames"])
            assert not torch.equal(clips[0]["frames"], clips.views([(0, epoch + 1)])["frames"][0])
        assert torch.equal(clips[0]["frames"], clips.views([(0, 0)])["frames"][0])
