"""README's way from a face-pretrained checkpoint and an archive to figures, on look-alikes with random weights."""

from pathlib import Path

import pytest
import torch

from mtcae_dfer import MTCAEVideoProcessor
from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.loading.protocols import resolve_protocol
from mtcae_dfer.training.evaluation.report import load_report
from tests.support.look_alike_corpora import make_ravdess_like
from tests.support.released_weights import draw_marlin

ACTORS = ("01", "02", "03", "04", "05")


def test_three_commands_lead_from_marlin_and_ravdess_to_a_tested_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # 4 frames of 64 x 64 pixels: 2 x 4 x 4 tokens
    torch.save(draw_marlin(positions=32), "marlin_vit_toy_ytf.encoder.pt")
    shared = {"statements": ("01",), "repetitions": ("01",), "intensities": ("01",), "frames": 4}
    make_ravdess_like(Path("RAVDESS"), ACTORS[:1], ("01", "03", "04", "05", "06", "07", "08"), **shared)
    make_ravdess_like(Path("RAVDESS"), ACTORS[1:], ("03",), **shared)
    sizes, labelling = ("--image-size", "64", "--num-frames", "4"), ("--num-frames", "4", "--size", "160")
    assert main(["convert", "marlin_vit_toy_ytf.encoder.pt", "ENCODER", *sizes]) == 0
    assert main(["dataset", "build", "ravdess", "RAVDESS", "OUT", *labelling, "--workers", "1"]) == 0
    # A fold that learns from the one actor who shows everything.
    fold = next(fold.name for fold in resolve_protocol("OUT", "mtcae-dfer").folds if ACTORS[0] in fold.train)
    data = ["--dataset", "OUT", "--protocol", "mtcae-dfer", "--output-dir", "runs/ravdess", "--fold", fold]
    model = ["--model", "finetune", "--encoder", "ENCODER", "--num_train_epochs", "1", "--decoder_num_layers", "1"]
    assert main(["cross-validate", *data, *model, "--per_device_train_batch_size", "4"]) == 0
    run = Path("runs/ravdess") / fold
    report = load_report(run / "report.json")
    assert report["protocol"].startswith("MTCAE-DFER's 5 subject-independent folds")
    assert sum(map(sum, report["test"]["confusion_matrix"])) == 1 and len(report["subjects"]["test"]) == 1
    # The colours are MARLIN's: not normalised.
    processor = MTCAEVideoProcessor.from_pretrained(run)
    assert processor.num_frames == 4 and {*processor.image_mean} == {0.0} and {*processor.image_std} == {1.0}
    assert main(["push", str(run), "org/name", "--dry-run"]) == 0
    assert "| Encoder weights: MARLIN (ENCODER) | cc-by-nc-4.0 |" in (run / "hub" / "README.md").read_text()
