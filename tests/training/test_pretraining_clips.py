"""Unlabelled videos: which are read, which frames, crops and masks are drawn, and that it can all be repeated."""

import shutil
from pathlib import Path

import pytest
import torch

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.hub_dataset.loading.protocols import resolve_protocol
from mtcae_dfer.masked_tubelets import partition_regions
from mtcae_dfer.training.pretraining import clips as pretraining_clips
from mtcae_dfer.training.pretraining.clips import (
    UnlabelledClips,
    VideoEntry,
    ViewConfig,
    count_short_videos,
    draw_multi_scale_crop,
    index_videos,
    open_videos,
    warn_of_other_folds,
    window_indices,
)

SCALES = (1.0, 0.875, 0.75, 0.66)


def make_view(**changes: object) -> ViewConfig:
    values = {"size": (32, 32), "num_frames": 4, "token_grid": (2, 4, 4), "mask_region": (1, 2, 4), "mask_ratio": 0.75}
    return ViewConfig(**(values | changes))


@pytest.fixture
def clips(small_corpus: Path, tmp_path: Path) -> UnlabelledClips:
    videos = open_videos(str(small_corpus / "videos"))
    entries = index_videos(videos, tmp_path / "videos.jsonl", "videos")
    return UnlabelledClips(videos, entries, make_view(frame_stride=2, crop_scales=SCALES), seed=3)


def test_a_window_starts_at_random_and_keeps_its_stride() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = [window_indices(40, 4, 8, generator) for _ in range(300)]
    assert all(b - a == 8 for window in windows for a, b in zip(window, window[1:], strict=False))
    assert {window[0] for window in windows} == set(range(16))  # 40 frames leave room for 16 starts of 25 frames


def test_a_video_shorter_than_its_window_repeats_its_last_frame() -> None:
    assert window_indices(10, 6, 3, torch.Generator()) == [0, 3, 6, 9, 9, 9]
    entries = [VideoEntry(0, "short", 10), VideoEntry(1, "long", 16)]
    assert count_short_videos(entries, make_view(num_frames=6, frame_stride=3)) == 1


def test_without_a_stride_the_whole_video_is_seen() -> None:
    assert window_indices(31, 4, None, torch.Generator()) == [0, 10, 20, 30]


def test_crops_have_the_recipes_sides_and_places() -> None:
    generator = torch.Generator().manual_seed(0)
    crops = [draw_multi_scale_crop(160, 160, SCALES, generator) for _ in range(4000)]
    sides = [160, 140, 120, 105]
    pairs = {(height, width) for _, _, height, width in crops}
    steps = range(len(sides))
    assert pairs == {(sides[i], sides[j]) for i in steps for j in steps if abs(i - j) <= 1}
    places = {(top, left) for top, left, height, width in crops if (height, width) == (120, 120)}
    quarters = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)}
    assert places == {(10 * down, 10 * across) for down, across in quarters}


def test_a_clip_is_decided_by_seed_epoch_and_video(clips: UnlabelledClips) -> None:
    first = clips[2]
    assert first["frames"].shape == (4, 3, 32, 32) and first["frames"].dtype == torch.uint8
    again = clips[2]
    assert torch.equal(first["frames"], again["frames"])
    assert torch.equal(first["bool_masked_pos"], again["bool_masked_pos"])
    clips.set_epoch(1)
    assert not torch.equal(first["bool_masked_pos"], clips[2]["bool_masked_pos"])


def test_held_out_clips_never_change(clips: UnlabelledClips) -> None:
    fixed = UnlabelledClips(clips.videos, clips.entries, clips.view, fixed=True)
    first = fixed[1]
    fixed.set_epoch(5)
    assert all(torch.equal(first[name], fixed[1][name]) for name in first)


def test_masks_leave_every_region_the_same_number_of_visible_tokens(clips: UnlabelledClips) -> None:
    masks = torch.stack([clips[index]["bool_masked_pos"] for index in range(len(clips))])
    visible = partition_regions(~masks.unsqueeze(-1), clips.view.token_grid, clips.view.mask_region).sum(dim=(2, 3))
    assert (visible == 2).all()  # 8 places, 6 of them masked


def test_the_crop_box_is_cut_out_before_resizing(small_corpus: Path, clips: UnlabelledClips) -> None:
    from mtcae_dfer.video_reading import read_clip, resize_frames

    box = (0.25, 0.0, 0.75, 0.5)
    cut = UnlabelledClips(clips.videos, clips.entries, make_view(crop_box=box), fixed=True)
    whole = read_clip(small_corpus / "videos" / cut.names[0], num_frames=4).frames  # 224 x 224
    assert torch.equal(cut[0]["frames"], resize_frames(whole[..., 0:112, 56:168], (32, 32)))


def test_kept_frames_are_those_that_would_be_read(clips: UnlabelledClips) -> None:
    read, kept = (UnlabelledClips(clips.videos, clips.entries, make_view(), keep_frames=keep) for keep in (False, True))
    assert kept.frames is not None
    assert all(torch.equal(read[index]["frames"], kept[index]["frames"]) for index in range(len(read)))


def test_unreadable_videos_are_listed_and_left_out(small_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "id001" / "a"
    folder.mkdir(parents=True)
    good = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    shutil.copy(good, folder / "good.mp4")
    (folder / "bad.mp4").write_bytes(b"no video")
    videos = open_videos(str(tmp_path))
    assert videos.names == ["id001/a/bad.mp4", "id001/a/good.mp4"]
    entries = index_videos(videos, tmp_path / "videos.jsonl", str(tmp_path))
    assert [entry.name for entry in entries] == ["id001/a/good.mp4"] and 18 <= entries[0].frame_count <= 20
    lines = (tmp_path / "videos.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "id001/a/bad.mp4" in lines[0]
    (folder / "good.mp4").write_bytes(b"neither")
    with pytest.raises(DatasetError, match="none of 2 videos can be read: .*bad.mp4.*good.mp4"):
        index_videos(videos, tmp_path / "other.jsonl", str(tmp_path))


def test_a_video_that_breaks_later_is_replaced_by_the_next_one(small_corpus: Path, tmp_path: Path) -> None:
    for number, source in enumerate(sorted((small_corpus / "videos").rglob("*.mp4"))[:2]):
        shutil.copy(source, tmp_path / f"{number}.mp4")
    videos = open_videos(str(tmp_path))
    clips = UnlabelledClips(videos, index_videos(videos, tmp_path / "i.jsonl", ""), make_view(), fixed=True)
    second = clips[1]["frames"]
    (tmp_path / "0.mp4").write_bytes(b"gone")
    assert torch.equal(clips[0]["frames"], second)


def test_other_videos_than_at_the_beginning_are_refused(small_corpus: Path, tmp_path: Path) -> None:
    for source in sorted((small_corpus / "videos").rglob("*.mp4"))[:2]:
        shutil.copy(source, tmp_path)
    index = tmp_path / "videos.jsonl"
    index_videos(open_videos(str(tmp_path)), index, str(tmp_path))
    next(tmp_path.glob("*.mp4")).unlink()
    with pytest.raises(DatasetError, match="holds other videos than when the run began"):
        index_videos(open_videos(str(tmp_path)), index, str(tmp_path))


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no video \(.avi"):
        open_videos(str(tmp_path))
    with pytest.raises(DatasetError, match="is no folder"):
        open_videos(str(tmp_path / "nowhere"))


def test_of_a_data_set_only_the_training_clips_are_watched(small_dataset: Path) -> None:
    rows = load_multitask_dataset(small_dataset)
    assert open_videos(str(small_dataset)).names == list(rows["train"]["name"])
    assert set(rows["test"]["name"]).isdisjoint(rows["train"]["name"])


def test_who_finds_the_list_of_videos_does_not_write_it_again(small_corpus: Path, tmp_path: Path) -> None:
    videos, index = open_videos(str(small_corpus / "videos")), tmp_path / "videos.jsonl"
    counted, before = index_videos(videos, index, "videos"), index.stat()
    assert index_videos(videos, index, "videos") == counted
    after = index.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_of_a_fold_only_its_training_people_are_watched(small_dataset: Path) -> None:
    subject_of = {
        row["name"]: row["subject"] for rows in load_multitask_dataset(small_dataset).values() for row in rows
    }
    watched = []
    for fold in resolve_protocol(small_dataset, "folds:3").folds:
        names = open_videos(str(small_dataset), protocol="folds:3", fold=fold.name).names
        assert {subject_of[name] for name in names} == {"S01", "S02", "S03"} - {*fold.validation, *fold.test}
        watched.append(tuple(names))
    assert len(set(watched)) == 3 and set(map(len, watched)) == {2}
    assert open_videos(str(small_dataset), protocol="folds:3").names == list(watched[0])


def test_several_folds_of_which_none_is_named_are_told(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(pretraining_clips.logger, "warning", told.append)
    warn_of_other_folds(str(small_dataset), None)  # a holdout has the one fold
    assert told == []
    warn_of_other_folds(str(small_dataset), "folds:3")
    assert len(told) == 1 and "the training clips of fold_1 are watched" in told[0] and "--fold NAME" in told[0]
    assert "\n" not in told[0]


def test_a_folder_of_videos_has_no_folds(small_corpus: Path) -> None:
    for options, told in (({"fold": "fold_1"}, "--fold fold_1"), ({"protocol": "folds:3"}, "--protocol folds:3")):
        with pytest.raises(DatasetError, match=f"{told}: .* is no built data set and has no folds; leave it out"):
            open_videos(str(small_corpus / "videos"), **options)
