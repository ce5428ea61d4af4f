"""Features of a frozen encoder on the disk: those of encoding anew, written by one run at a time, by their pixels."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mtcae_dfer.configuration_common import as_height_and_width
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data import feature_cache
from mtcae_dfer.training.data.clip_dataset import ClipDataset
from mtcae_dfer.training.data.feature_cache import EncodedClips, FeatureCacheConfig, cache_features
from mtcae_dfer.training.evaluation.predictions import normalise
from mtcae_dfer.training.running import make_processor
from tests.support.tiny_models import ENCODER, tiny_model

WAIT = 240.0  # seconds until a test that hangs fails


@pytest.fixture()
def rows(small_dataset: Path) -> datasets.Dataset:
    """Two clips."""
    return load_multitask_dataset(small_dataset)["train"]


@pytest.fixture(scope="module")
def model() -> MTCAEForMultiTaskVideo:
    model = tiny_model(encoder_config=ENCODER | {"num_frames": 16})
    model.freeze_encoder()
    return model


def cached(model: MTCAEForMultiTaskVideo, rows: datasets.Dataset, folder: Path) -> EncodedClips:
    """The rows' features, encoded clip by clip where they are not in the folder."""
    clips = ClipDataset(rows, as_height_and_width(model.config.image_size))
    config = FeatureCacheConfig(folder, batch_size=1)
    return cache_features(model, make_processor(model.config), clips, config, Accelerator(cpu=True))


@torch.no_grad()
def encoded_anew(model: MTCAEForMultiTaskVideo, rows: datasets.Dataset) -> np.ndarray:
    """float32 (clips, tokens, D), without any file."""
    clips = ClipDataset(rows, as_height_and_width(model.config.image_size))
    processor = make_processor(model.config)
    pixel_values = [normalise(processor, clips[index]["frames"][None]) for index in range(len(clips))]
    return torch.cat([model.encoder(values).last_hidden_state for values in pixel_values]).numpy()


def test_a_second_run_waits_for_the_first_and_reads_what_it_wrote(
    model: MTCAEForMultiTaskVideo, rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoding_threads, found = feature_cache.encode_clips, [], []
    second = threading.Thread(target=lambda: found.append(cached(model, rows, tmp_path)))

    def encode_and_start_the_second(*arguments: torch.Tensor):
        encoding_threads.append(threading.current_thread())
        if len(encoding_threads) == 2:  # half of the features are written
            second.start()
            second.join(1.0)
            assert second.is_alive() and not found
        return encode(*arguments)

    monkeypatch.setattr(feature_cache, "encode_clips", encode_and_start_the_second)
    first = cached(model, rows, tmp_path)
    second.join(WAIT)
    assert encoding_threads == [threading.current_thread()] * 2
    for clips in (first, *found):
        np.testing.assert_allclose(clips.arrays["encoded"][:, 0], encoded_anew(model, rows), rtol=1e-5, atol=1e-5)
    assert len(found) == 1


def test_what_a_stopped_run_left_is_written_again(
    model: MTCAEForMultiTaskVideo, rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = feature_cache.encode_clips, []

    def stop_after_one(*arguments: torch.Tensor):
        encoded.append(None)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(feature_cache, "encode_clips", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        cached(model, rows, tmp_path)
    monkeypatch.undo()
    (folder,) = tmp_path.iterdir()
    # A process of the stopped run that still lives writes to the files that it opened.
    late = np.load(folder / "encoded.npy", mmap_mode="r+")
    again = cached(model, rows, tmp_path)
    late[:] = 7.0
    np.testing.assert_allclose(again.arrays["encoded"][:, 0], encoded_anew(model, rows), rtol=1e-5, atol=1e-5)


def test_other_pixels_under_the_same_names_and_labels_are_encoded_anew(
    model: MTCAEForMultiTaskVideo, rows: datasets.Dataset, tmp_path: Path
) -> None:
    cached(model, rows, tmp_path)
    first, second = rows[0], rows[1]
    swapped = [dict(first, video=second["video"], sha256=second["sha256"]), second]
    changed = datasets.Dataset.from_list(swapped, features=rows.features)
    found = cached(model, changed, tmp_path).arrays["encoded"][:, 0]
    np.testing.assert_allclose(found, encoded_anew(model, rows)[[1, 1]], rtol=1e-5, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_processes_of_one_run_write_together(
    small_dataset: Path, rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command = [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "mtcae_dfer.training.run"]
    words = ["--dataset", str(small_dataset), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    words += [
        "--freeze_encoder",
        "true",
        "--cache_features",
        "true",
        "--cache_features_dir",
        str(tmp_path / "features"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=WAIT)
    assert finished.returncode == 0, finished.stderr[-2000:]
    trained = MTCAEForMultiTaskVideo.from_pretrained(tmp_path / "run").eval()
    trained.freeze_encoder()
    expected = encoded_anew(trained, rows)
    monkeypatch.setattr(feature_cache, "encode_clips", lambda *parts: pytest.fail("a clip was encoded again"))
    found = cached(trained, rows, tmp_path / "features").arrays["encoded"][:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
