"""Frames read once: the pixels of decoding anew, for all processes; nothing made otherwise, damaged or half is used."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.data import frame_cache
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import ClipDataset, FaceCropConfig
from mtcae_dfer.training.data.frame_cache import FrameCacheConfig, FrameCacheError

SIZE = (32, 48)


@pytest.fixture()
def rows(small_dataset: Path):
    return load_multitask_dataset(small_dataset)["train"]


def cached(rows, folder: Path, size: tuple[int, int] = SIZE, **options) -> ClipDataset:
    return ClipDataset(rows, size, cache=FrameCacheConfig(folder, "small set"), **options)


def refuse_to_read(*_) -> None:
    pytest.fail("a video was opened")


@pytest.mark.parametrize("crop", [None, FaceCropConfig(margin=0.1)])
def test_frames_of_a_cache_are_those_of_decoding_anew(rows, tmp_path: Path, monkeypatch, crop) -> None:
    anew = ClipDataset(rows, SIZE, AugmentationConfig(), seed=3, crop=crop)
    expected = anew.views([(1, 1), (0, 2)])
    cached(rows, tmp_path, crop=crop)
    for opened in ("read_clip", "probe_video"):
        monkeypatch.setattr(f"mtcae_dfer.training.data.clip_dataset.{opened}", refuse_to_read)
    again = cached(rows, tmp_path, augmentation=AugmentationConfig(), seed=3, crop=crop)
    found = again.views([(1, 1), (0, 2)])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].nan_to_num(9), value.nan_to_num(9)), name
    name = "small_set-32x48" + ("" if crop is None else "-margin0.1-rise0")
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


def test_loading_processes_map_the_files_and_carry_no_pixels(rows, tmp_path: Path) -> None:
    clips = cached(rows, tmp_path)
    expected = [clips[index]["frames"] for index in range(len(clips))]
    assert len(pickle.dumps(clips.frames)) < 20_000 < expected[0].nbytes
    loader = DataLoader(clips, 1, num_workers=2, multiprocessing_context="spawn")
    assert all(torch.equal(batch["frames"][0], frames) for batch, frames in zip(loader, expected, strict=True))


def test_what_was_stopped_goes_on_and_another_split_adds_its_clips(
    small_dataset: Path, rows, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(frame_cache, "SHARD_BYTES", 1)  # one clip a shard
    write, written = frame_cache.FrameCache._write_shard, []

    def stop_after_one(*arguments) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    monkeypatch.setattr(frame_cache.FrameCache, "_write_shard", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        cached(rows, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "small_set-32x48"
    (folder / "0001.npy").write_bytes(b"half a file")  # of a process that was killed before it told of it
    before = (folder / "0000.npy").stat().st_mtime_ns
    anew = ClipDataset(rows, SIZE)
    clips = cached(rows, tmp_path)
    assert all(torch.equal(clips[index]["frames"], anew[index]["frames"]) for index in range(len(rows)))
    assert (folder / "0000.npy").stat().st_mtime_ns == before
    others = load_multitask_dataset(small_dataset)["test"]
    assert torch.equal(cached(others, tmp_path)[0]["frames"], ClipDataset(others, SIZE)[0]["frames"])
    assert sorted(file.name for file in folder.glob("*.npy")) == ["0000.npy", "0001.npy", "0002.npy"]


def test_a_full_disk_leaves_nothing_that_is_trusted(rows, tmp_path: Path, monkeypatch) -> None:
    save = np.save

    def save_half(stream, frames) -> None:
        save(stream, frames[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(frame_cache.np, "save", save_half)
    with pytest.raises(FrameCacheError, match="the disk is full; make room and start again"):
        cached(rows, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "small_set-32x48"
    assert sorted(file.name for file in folder.iterdir()) == [".writing", "cache.json"]
    assert torch.equal(cached(rows, tmp_path)[0]["frames"], ClipDataset(rows, SIZE)[0]["frames"])
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(FrameCacheError, match="needs 0.0 GB for 2 clips, and the disk has 0.0 GB"):
        cached(rows, tmp_path, size=(16, 16))


def test_a_changed_pixel_is_found_and_named(rows, tmp_path: Path) -> None:
    cached(rows, tmp_path)
    file = tmp_path / "small_set-32x48" / "0000.npy"
    frames = np.load(file)
    frames[1, 0, 0, 0, 0] ^= 1
    np.save(file, frames)
    clips = cached(rows, tmp_path)
    clips[0]
    with pytest.raises(FrameCacheError, match=rf"0000.npy: is damaged \(checksum of {clips.names[1]}\)"):
        clips[1]


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("sha256", "0" * 64, "was made of another data set: the video of"),
        ("frame_indices", [0], "was made with another sampling: of"),
        ("window", "f" * 16, "was made with other face labels: those of"),
    ],
)
def test_frames_of_other_clips_are_refused(rows, tmp_path: Path, entry: str, value, told: str) -> None:
    cached(rows, tmp_path)
    shard = tmp_path / "small_set-32x48" / "0000.json"
    clips = json.loads(shard.read_text())
    shard.write_text(json.dumps([clip | {entry: value} for clip in clips]))
    with pytest.raises(FrameCacheError, match=told):
        cached(rows, tmp_path)


def test_frames_of_another_size_are_refused(rows, tmp_path: Path) -> None:
    cached(rows, tmp_path)
    (tmp_path / "small_set-32x48").rename(tmp_path / "small_set-64x64")
    with pytest.raises(FrameCacheError, match=r"was made for size \[32, 48\], and now it is \[64, 64\]"):
        cached(rows, tmp_path, size=(64, 64))


def test_a_folder_that_cannot_be_written_serves_what_it_holds(rows, tmp_path: Path) -> None:
    folder = tmp_path / "read only"
    expected = int(cached(rows, folder, size=(32, 32))[0]["frames"].sum())
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        (folder / "proof").touch()
    except OSError:
        assert int(cached(rows, folder, size=(32, 32))[0]["frames"].sum()) == expected
        with pytest.raises(FrameCacheError, match="lacks 2 of 2 clips and cannot be written"):
            cached(rows, folder, size=(16, 16))
    else:
        pytest.skip("this user may write everywhere")


def test_a_place_that_is_no_folder_is_one_line(rows, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(FrameCacheError, match="lacks 2 of 2 clips and cannot be written"):
        cached(rows, tmp_path / "a file")


def test_the_command_makes_what_a_run_trains_from(small_dataset: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    folder = tmp_path / "frames"
    assert main(["dataset", "cache-frames", str(small_dataset), str(folder), "--size", "64"]) == 0
    assert "6 clips, 0.00 GB of frames, checked" in capsys.readouterr().out
    assert main(["dataset", "cache-frames", str(small_dataset), str(folder), "--size", "0"]) == 2
    from mtcae_dfer.training.run import main as train

    monkeypatch.setattr("mtcae_dfer.training.data.clip_dataset.read_clip", refuse_to_read)
    words = ["--dataset", str(small_dataset), "--num_train_epochs", "1", "--frame_cache", str(folder)]
    assert train([*words, "--output_dir", str(tmp_path / "cached")]) == 0
    monkeypatch.undo()
    full = ["--frame_cache", str(tmp_path / "none"), "--frame_cache_gb", "0", "--cache_frames_gb", "0"]
    assert train([*words[:-2], "--output_dir", str(tmp_path / "anew"), *full]) == 0
    assert not (tmp_path / "none").exists()  # beyond the budget, every clip is decoded anew
    losses = [
        json.loads((tmp_path / run / "report.json").read_text())["history"][0]["train_loss"]
        for run in ("cached", "anew")
    ]
    assert losses[0] == losses[1]


def test_two_processes_that_ask_at_once_write_once(small_dataset: Path, tmp_path: Path) -> None:
    words = ["dataset", "cache-frames", str(small_dataset), str(tmp_path / "frames"), "--size", "32"]
    program = [sys.executable, "-m", "mtcae_dfer.commands.command_line", *words]
    processes = [subprocess.Popen(program, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (folder,) = (tmp_path / "frames").iterdir()
    told = [clip["name"] for file in folder.glob("[0-9]*.json") for clip in json.loads(file.read_text())]
    assert len(told) == len(set(told)) == 6
