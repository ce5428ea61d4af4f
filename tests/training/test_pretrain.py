"""Masked pre-training on a small corpus: what it writes, that it resumes to the same weights, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from mtcae_dfer.hub_dataset.loading.protocols import load_fold
from mtcae_dfer.masked_tubelets import frames_from_targets, reconstruction_targets, restore_colours
from mtcae_dfer.training import pretrain
from mtcae_dfer.training.arguments import PRETRAINING_PRESETS, ModelArguments, parse_run_arguments
from mtcae_dfer.training.initialisation import build_model
from mtcae_dfer.training.pretrain import main
from mtcae_dfer.training.pretraining.arguments import ObjectiveArguments, parse_pretraining_arguments
from mtcae_dfer.training.pretraining.objective import build_pretraining_model, mask_region, predict_masked
from mtcae_dfer.training.pretraining.pictures import reconstruct_frames

EPOCHS = 2


def words_of(corpus: Path, output: Path, *more: str) -> list[str]:
    words = ["--videos", str(corpus / "videos"), "--output_dir", str(output), "--save_seconds", "0"]
    return [*words, "--held_out_clips", "2", "--num_train_epochs", str(EPOCHS), *more]


@pytest.fixture(scope="module")
def pretrained(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    assert main(words_of(small_corpus, folder, "--picture_epochs", "1")) == 0
    return folder


@pytest.mark.parametrize("target", ["appearance_and_motion", "pixels"])
@pytest.mark.parametrize("normalise", [True, False])
def test_targets_can_be_turned_back_into_the_frames(target: str, normalise: bool) -> None:
    pixel_values = torch.randn(2, 8, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    targets = reconstruction_targets(pixel_values, 4, (8, 4), target, normalise)
    frames = frames_from_targets(targets, pixel_values, 4, (8, 4), target, normalise)
    assert frames.shape == pixel_values.shape
    torch.testing.assert_close(frames, restore_colours(pixel_values), atol=1e-5, rtol=0)


def test_true_predictions_reconstruct_the_clip() -> None:
    generator = torch.Generator().manual_seed(1)
    # Colours in the middle of [0, 1], so that nothing is cut off.
    pixel_values = 0.2 * torch.randn(2, 4, 3, 16, 16, generator=generator)
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]]).repeat(1, 2)
    targets = reconstruction_targets(pixel_values, 2, (8, 8))
    predictions = torch.stack([targets[clip][mask[clip]] for clip in range(2)])
    parts = (pixel_values, targets, predictions, mask, 2, (8, 8), "appearance_and_motion", True)
    pictures = reconstruct_frames(*parts)
    torch.testing.assert_close(pictures.reconstructed, pictures.original, atol=1e-5, rtol=0)
    assert pictures.difference.max() < 1e-4
    grey = (pictures.masked[0, 0] == 0.5).all(dim=0)  # token 1 of clip 0 is the upper right one, and visible
    assert grey[:8, :8].all() and grey[8:].all() and not grey[:8, 8:].any()
    wrong = reconstruct_frames(pixel_values, targets, predictions + 5, *parts[3:])
    assert wrong.difference[0, :, :, :8, 8:].max() < 1e-4  # visible tokens stay as they are
    assert wrong.difference[0, :, :, :8, :8].max() > 0.1


def test_pixels_are_videomaes_own_objective() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    decoder = {f"decoder_{name}": size for name, size in sizes.items()}
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **sizes, **decoder)
    model = VideoMAEForPreTraining(config).eval()
    clips, mask = torch.randn(2, 4, 3, 16, 16), torch.tensor([[True, False, True, True] * 2] * 2)
    options = ObjectiveArguments(reconstruction_target="pixels")
    _, losses, _ = predict_masked(model, config, options, clips, mask)
    expected = model(pixel_values=clips, bool_masked_pos=mask).loss
    torch.testing.assert_close(losses["loss"], expected)
    assert "motion_loss" not in losses


def test_a_run_writes_a_model_folder_a_report_and_pictures(pretrained: Path) -> None:
    for name in ("model.safetensors", "config.json", "reconstructions-00001.png", "reconstructions-00002.png"):
        assert (pretrained / name).stat().st_size > 0
    report = json.loads((pretrained / "report.json").read_text())
    assert report["videos"]["trained_on"] == 4 and len(report["videos"]["held_out"]) == 2
    assert [record["epoch"] for record in report["history"]] == [1, 2]
    for record in report["history"]:
        assert set(record["task_losses"]) == {"appearance", "motion"}
        assert {"held_out_loss", "held_out_appearance", "held_out_motion"} <= set(record)
        weighted = 0.1 * record["task_losses"]["appearance"] + 0.9 * record["task_losses"]["motion"]
        assert record["train_loss"] == pytest.approx(weighted, rel=1e-4)  # the preset weighs motion 0.9


def test_the_result_becomes_the_encoder_of_a_preset(pretrained: Path) -> None:
    options: ModelArguments = parse_run_arguments(["--model", "tiny", "--encoder", str(pretrained)]).model
    model = build_model(options, ["neutral", "happiness"])
    weights = VideoMAEForPreTraining.from_pretrained(pretrained).videomae.state_dict()
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert weights["encoder.layer.0.attention.attention.query.bias"].abs().max() > 0
    fresh = build_model(parse_run_arguments(["--model", "tiny"]).model, ["neutral", "happiness"])
    assert fresh.config.encoder_config.hidden_size == model.config.encoder_config.hidden_size
    assert [task["name"] for task in fresh.config.tasks] == [task["name"] for task in model.config.tasks]


def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(
    pretrained: Path, small_corpus: Path, tmp_path: Path
) -> None:
    words = words_of(small_corpus, tmp_path / "run", "--picture_epochs", "1")
    command = [sys.executable, "-m", "mtcae_dfer.training.pretrain", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "run" / "checkpoints" / "epoch-00001" / "progress.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    assert main([*words, "--resume_from_checkpoint", "latest"]) == 0
    resumed, undisturbed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", pretrained))
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)


def test_lgi_former_is_pre_trained_and_taken_up_again_from_its_folder(small_corpus: Path, tmp_path: Path) -> None:
    words = words_of(small_corpus, tmp_path / "run", "--model", "tiny_lgi_former", "--num_train_epochs", "1")
    assert main(words) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == ["LGIFormerForPreTraining"]
    model = build_model(
        parse_run_arguments(["--model", "tiny_lgi_former", "--encoder", str(tmp_path / "run")]).model, ["a", "b"]
    )
    assert model.config.encoder_config.model_type == "lgi_former"
    again = build_pretraining_model(ObjectiveArguments(model=str(tmp_path / "run"), norm_pix_loss=False))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in again.state_dict().items())


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRETRAINING_PRESETS.glob("*.yaml")))
def test_presets_build_their_model(preset: str) -> None:
    options = parse_pretraining_arguments(["--model", preset]).objective
    with torch.device("meta"):
        model = build_pretraining_model(options)
    grid = (model.config.num_frames // model.config.tubelet_size, 10, 10) if preset == "mae_dfer" else (1, 8, 8)
    assert all(whole % side == 0 for whole, side in zip(grid, mask_region(model.config, options), strict=True))
    if preset == "mae_dfer":
        assert sum(parameter.numel() for parameter in model.parameters()) == 92_760_192


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model", "no-such-model"], "--model no-such-model: neither a preset"),
        (["--mask_region", "1", "3", "8"], "must be three numbers that divide the token grid (1, 8, 8)"),
        (["--mask_ratio", "1.5"], "--mask_ratio=1.5: must be in (0, 1)"),
        (["--reconstruction_target", "pixels"], "the target 'pixels' has no motion part"),
        (["--crop_box", "0.5", "0", "0.2", "1"], "must be x1 y1 x2 y2"),
        (["--held_out_clips", "6"], "6 readable videos leave none to train on"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0: must be greater than 0"),
    ],
)
def test_wrong_options_are_one_line(small_corpus: Path, tmp_path: Path, capsys, more: list[str], told: str) -> None:
    assert main(words_of(small_corpus, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pretrain.py: error:") and told in error


def test_a_mask_region_must_fit_lgi_formers_own_regions() -> None:
    options = parse_pretraining_arguments(["--model", "tiny_lgi_former", "--mask_region", "1", "8", "8"]).objective
    with pytest.raises(ValueError, match="must divide the model's own regions"):
        build_pretraining_model(options)


def test_a_resumed_run_refuses_other_options(pretrained: Path, small_corpus: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    os.symlink(pretrained / "checkpoints", tmp_path / "run" / "checkpoints")
    words = words_of(small_corpus, tmp_path / "run", "--picture_epochs", "1", "--mask_ratio", "0.5")
    assert main([*words, "--resume_from_checkpoint", "latest"]) == 2
    assert "mask_ratio 0.6 -> 0.5" in capsys.readouterr().err


def test_another_run_takes_the_folder_over(small_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "videos.jsonl").write_text('{"index": 0, "name": "gone.mp4", "frame_count": 9, "problem": ""}\n')
    (folder / "reconstructions-00009.png").write_bytes(b"old")
    words = words_of(small_corpus, folder, "--num_train_epochs", "1", "--overwrite_output_dir", "true")
    assert main(words) == 0
    assert [picture.name for picture in folder.glob("*.png")] == ["reconstructions-00001.png"]


def test_the_published_recipe_reaches_the_optimiser() -> None:
    from mtcae_dfer.training.optimisation import make_optimiser, make_schedule

    arguments = parse_pretraining_arguments(["--model", "mae_dfer"])
    tiny = parse_pretraining_arguments(["--model", "tiny_lgi_former"]).objective
    model = build_pretraining_model(tiny)
    optimiser = make_optimiser(model, arguments.optimisation)
    decays = {id(weight): group["weight_decay"] for group in optimiser.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        plain = weight.ndim == 1 or name in ("mask_token", "lgi_former.representative_tokens")
        assert decays[id(weight)] == (0.0 if plain else 0.05), name
    assert all(group["betas"] == (0.9, 0.95) for group in optimiser.param_groups)
    schedule = make_schedule(optimiser, arguments.optimisation, steps_per_epoch=1)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates[0] == 0 and rates[5] == pytest.approx(3e-4 * 160 / 256) and max(rates) == rates[5]
    assert rates[100] == pytest.approx(1e-5 * 160 / 256)


def test_a_fold_of_a_data_set_is_watched_and_a_skipped_step_leaves_the_schedule_alone(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after gradients that overflow float16: the warm-up from zero has not begun.
    monkeypatch.setattr(pretrain, "step_optimiser", lambda *parts: False)
    words = ["--videos", str(small_dataset), "--protocol", "folds:3", "--fold", "fold_3", "--held_out_clips", "1"]
    assert main([*words, "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    trained_on = list(load_fold(small_dataset, "folds:3", "fold_3")["train"]["name"])
    assert report["videos"]["trained_on"] == 1 and set(report["videos"]["held_out"]) < set(trained_on)
    assert report["history"][0]["learning_rate"] == 0.0
