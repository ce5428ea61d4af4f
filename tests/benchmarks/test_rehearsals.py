"""Benchmarks that are run on a quiet machine work: tried here with tiny sizes, without a look at their times."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import label_noise
import labelling
import loading
import numpy as np
import pytest
import tones
import torch

from mtcae_dfer.face_detection import FaceDetector
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.data.faces import FaceSet, measure_tones
from mtcae_dfer.training.data.frame_cache import FrameCacheConfig
from tests.support.video_files import write_numbered_video


def test_the_loader_is_timed_with_and_without_a_cache(small_dataset: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "LOADER_SIZE", (32, 32))
    rows = load_multitask_dataset(small_dataset)["train"]
    lines = loading.loader_table(rows, FrameCacheConfig(tmp_path, "measured"), batches=1)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| decoded anew", "| of a cache"] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / "measured-32x32"]


def test_operations_of_encoder_and_decoders_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # By its file: a room of the package has the same name.
    file = Path(__file__).parents[2] / "benchmarks" / "inference.py"
    spec = importlib.util.spec_from_file_location("inference_benchmark", file)
    inference = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, inference)
    spec.loader.exec_module(inference)
    tiny = {"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setitem(inference.ENCODERS, "tiny", tiny)
    monkeypatch.setitem(inference.DECODERS, "tiny", {"decoder_hidden_size": 32, "decoder_head_dim": 16})
    lines = inference.measure_operations(None, argparse.Namespace(sizes=["tiny"], repeats=1))
    assert lines[2] == "| operation | encoder: calls, ms, share | decoders and heads: calls, ms, share |"
    assert any(line.startswith("| `aten::addmm` |") for line in lines)


def test_labelling_is_held_against_decoding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_numbered_video(tmp_path / "0.mp4", 20)
    monkeypatch.setattr(labelling, "ONE_FACE_PATTERNS", ("0*.mp4",))
    monkeypatch.setattr(labelling, "REPEATS", 3)
    (row,) = labelling.build_rates(tmp_path, rounds=2)[4:]
    pattern, rate, _, alone, ratio, goal = row.strip("| ").split(" | ")
    assert (pattern, goal) == ("0*.mp4", "1.3")
    median, smallest, largest = map(float, re.fullmatch(r"([\d.]+) \(([\d.]+)–([\d.]+)\)", ratio).groups())
    assert float(alone) > 0 and float(rate) > 0 and 0 < smallest <= median <= largest


def test_labels_are_held_against_the_mirrored_pictures(small_dataset: Path) -> None:
    rows = load_multitask_dataset(small_dataset)["train"]
    (row,) = label_noise.compare_mirrored(rows, 2, seed=0, detector=FaceDetector())[2:]
    labelled, found, overlap, mean, median = (float(cell.strip(" %")) for cell in row.strip("| ").split("|"))
    assert 0 < found <= labelled and 80 < overlap < 100 and 0 < median < 15 and 0 < mean < 15


def test_stills_get_the_tones_of_another_set() -> None:
    def faces(low: int, high: int, count: int) -> FaceSet:
        grey = np.random.default_rng(low).integers(low, high, (count, 1, 1, 64, 64))
        pictures = torch.from_numpy(grey.repeat(3, axis=2).astype(np.uint8))
        unlike = np.zeros(count)  # labels and places do not matter here
        return FaceSet(pictures, unlike, unlike, unlike, unlike, unlike, unlike, measure_tones(pictures))

    even, dull = faces(0, 256, 5), faces(90, 150, 3)
    toned = tones.with_tones_of(even, dull, seed=0)
    measured = measure_tones(toned.pictures)
    np.testing.assert_allclose(measured, toned.tones, atol=0.01)
    assert toned.pictures.min() >= 89 and toned.pictures.max() <= 150
    assert all(any(np.array_equal(tone, other) for other in dull.tones) for tone in toned.tones)
