"""A checkpoint that transformers wrote, through every door: training, prediction, timeline, graph, card, elsewhere."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, VJEPA2Config, VJEPA2Model

from mtcae_dfer import MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.commands.command_line import main
from mtcae_dfer.training import run
from tests.support.fresh_load import LOAD
from tests.support.image_models import VIT
from tests.support.runs import words_of
from tests.support.tiny_models import randomise
from tests.support.video_encoders import VJEPA2

OPTIONS = {
    "model": "finetune",
    "model_config": {"decoder_hidden_size": 24, "decoder_num_layers": 1, "decoder_num_attention_heads": 2},
    "decoder_head_dim": 12,
    "num_train_epochs": 1,
    "warmup_epochs": 0.0,
    "per_device_train_batch_size": 2,
    "bf16": False,  # a process keeps its first precision, and other tests train in it too
}


def write_vjepa2(folder: Path) -> None:
    VJEPA2Model(VJEPA2Config(**VJEPA2)).save_pretrained(folder)


def write_vit(folder: Path) -> None:
    """An image classifier, fine-tuned on seven expressions, as they lie on the Hub."""
    randomise(ViTForImageClassification(ViTConfig(**VIT, num_labels=7))).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


# Writer, folder, changed fields, and the encoder's line of the card's licences.
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "vjepa2": (write_vjepa2, "vjepa2-toy", "num_frames=16", "| Encoder weights: V-JEPA 2 (vjepa2-toy) | mit |"),
    "vit": (
        *(write_vit, "toy-vit-of-faces", "num_temporal_layers=1"),
        "| Starting weights: toy-vit-of-faces | unknown |",
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_training_prediction_timeline_export_card_and_remote_code(
    kind: str, small_dataset: Path, small_corpus: Path, tmp_path: Path
) -> None:
    write, name, overrides, licence = CHECKPOINTS[kind]
    write(tmp_path / name)
    trained = tmp_path / "run"
    options = OPTIONS | {"encoder": str(tmp_path / name), "encoder_overrides": overrides}
    assert run.main(words_of(small_dataset, trained, options)) == 0
    model, processor = MTCAEForMultiTaskVideo.from_pretrained(trained), MTCAEVideoProcessor.from_pretrained(trained)
    assert model.config.num_frames == processor.num_frames == 16
    assert list(processor.image_mean) == ([0.5] * 3 if kind == "vit" else [0.485, 0.456, 0.406])

    clip = next((small_corpus / "videos").rglob("*.mp4"))
    predicted, rows = tmp_path / "clip.json", tmp_path / "rows.csv"
    assert main(["predict", str(clip), "--model", str(trained), "--json", str(predicted)]) == 0
    with torch.no_grad():
        logits = model.eval()(processor(clip)["pixel_values"]).logits[0]
    best = model.config.id2label[int(logits.argmax())]
    assert best in predicted.read_text()
    assert main(["predict", str(clip), "--model", str(trained), "--csv", str(rows)]) == 0
    assert {Path(row["file"]).name for row in csv.DictReader(rows.open())} == {clip.name}

    assert main(["export", str(trained), str(tmp_path / "graph"), "--format", "torch-export"]) == 0
    differences = json.loads((tmp_path / "graph" / "export.json").read_text())["largest_difference"]
    assert set(differences) == {"face_box", "face_landmarks", "expression"}

    hub = tmp_path / "hub"
    assert main(["push", str(trained), "org/toy", "--dry-run", "--output", str(hub)]) == 0
    assert licence in (hub / "README.md").read_text()
    command = [sys.executable, "-c", LOAD, str(hub), str(clip)]
    elsewhere = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert elsewhere.returncode == 0, elsewhere.stderr
    found = json.loads(elsewhere.stdout.splitlines()[-1])
    for others in found["logits"]:
        torch.testing.assert_close(torch.tensor(others), logits)
    assert found["best"] == best
