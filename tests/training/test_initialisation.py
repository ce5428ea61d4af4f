"""The data-dependent start of the patch embedding, and the models that `--model` names."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.arguments import ModelArguments
from mtcae_dfer.training.data.clip_dataset import FaceCropConfig
from mtcae_dfer.training.initialisation import (
    build_model,
    pretrained_source,
    read_encoder_overrides,
    whiten_patch_embedding,
)
from mtcae_dfer.training.running import make_processor
from tests.support.image_models import IMAGE_MODELS
from tests.support.tiny_models import random_clips, tiny_config, tiny_model


def embed(model: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """Tokens (B * N, D) before positions are added."""
    return model.encoder.embeddings.patch_embeddings(clips).flatten(0, 1)


@torch.no_grad()
def test_whitened_channels_have_equal_variance_and_do_not_correlate() -> None:
    # Clips whose tubelets differ in colour far more than in anything else.
    clips = 0.1 * random_clips(64) + 5 * torch.randn(64, 1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    model = tiny_model()
    whiten_patch_embedding(model, clips, temporal_orders=0, floor=0.0)
    tokens = embed(model, clips)
    assert torch.allclose(tokens.mean(0), torch.zeros(24), atol=1e-3)
    assert torch.allclose(tokens.T @ tokens / len(tokens), torch.eye(24), atol=0.02)


@torch.no_grad()
def test_temporal_components_do_not_see_what_stands_still() -> None:
    moving = random_clips(64)
    model = tiny_model()
    whiten_patch_embedding(model, moving, temporal_orders=1)
    weight = model.encoder.embeddings.patch_embeddings.projection.weight.flatten(3).sum(2).flatten(1)
    # A third of the channels, whatever their rotation, answers to differences over time alone.
    assert torch.linalg.matrix_rank(weight, tol=1e-4) == 16


@torch.no_grad()
def test_the_start_does_not_know_in_which_order_clips_are_added_up() -> None:
    # Another number of threads adds the same numbers up in another order; so do the same clips in another order.
    clips, starts = random_clips(64), []
    for ordered in (clips, clips.flip(0)):
        model = tiny_model()
        torch.manual_seed(0)  # of the rotation
        whiten_patch_embedding(model, ordered, temporal_orders=1)
        starts.append(model.encoder.embeddings.patch_embeddings.projection.weight)
    assert torch.allclose(starts[0], starts[1], rtol=0, atol=1e-6 * float(starts[0].abs().max()))


def test_a_fresh_model_has_the_data_sets_classes() -> None:
    config = {"encoder_config": tiny_model().config.encoder_config, "decoder_head_dim": 8, "decoder_num_layers": 1}
    model = build_model(ModelArguments(model="tiny", model_config=config), ["calm", "angry"])
    assert model.config.id2label == {0: "calm", 1: "angry"}


def test_a_trained_model_keeps_its_weights_and_gets_a_fresh_head_for_other_classes(tmp_path: Path) -> None:
    trained = tiny_model()
    trained.save_pretrained(tmp_path)
    model = build_model(ModelArguments(model=str(tmp_path)), ["calm", "angry"])
    assert model.heads["expression"].output.out_features == 2
    assert torch.equal(model.heads["face_box"].output.weight, trained.heads["face_box"].output.weight)


def test_the_structure_of_a_trained_model_cannot_be_changed(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a trained model's pooling cannot be changed"):
        build_model(ModelArguments(model=str(tmp_path), pooling="time"), ["calm", "angry"])


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="--model nowhere: neither a preset"):
        build_model(ModelArguments(model="nowhere"), ["calm"])


def test_colours_are_normalised_as_the_pre_trained_models_own_processor_does(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**IMAGE_MODELS["vit"])).save_pretrained(tmp_path / "vit")
    arguments = ModelArguments(model="tiny", encoder=str(tmp_path / "vit"))
    assert pretrained_source(ModelArguments(model="tiny")) is None
    assert pretrained_source(ModelArguments(model="folder/of/a/model")) == "folder/of/a/model"
    plain = make_processor(tiny_config(), source=pretrained_source(arguments))
    assert plain.image_mean == make_processor(tiny_config()).image_mean  # beside no processor: ImageNet's
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "vit")
    processor = make_processor(tiny_config(), source=pretrained_source(arguments))
    assert (*processor.image_mean, *processor.image_std) == (0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    model = build_model(arguments, ["calm", "angry"])
    assert model.config.encoder_config.model_type == "frame_backbone" and model.config.image_size == (64, 64)


def test_who_starts_from_a_model_of_cropped_faces_is_told_how_it_crops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MTCAEVideoProcessor(do_face_crop=True, face_crop_margin=0.02, face_crop_rise=0.1).save_pretrained(tmp_path)
    make_processor(tiny_config(), FaceCropConfig(margin=0.02, rise=0.1), str(tmp_path))
    assert not caplog.messages
    told = (
        f"{tmp_path} has learned from frames that are cropped to the face: --face_crop true --face_crop_margin 0.02 "
        "--face_crop_rise 0.1 crops as it does."
    )
    for other in (None, FaceCropConfig()):
        caplog.clear()
        make_processor(tiny_config(), other, str(tmp_path))
        assert caplog.messages == [told]
    MTCAEVideoProcessor().save_pretrained(tmp_path)
    caplog.clear()
    make_processor(tiny_config(), None, str(tmp_path))
    assert not caplog.messages


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
FRAME_ENCODERS = {
    "vit": SMALL | {"intermediate_size": 32},
    "dinov2": SMALL | {"mlp_ratio": 2},
    "siglip_vision_model": SMALL | {"intermediate_size": 32},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}


@pytest.mark.parametrize("kind", FRAME_ENCODERS)
def test_every_trained_weight_of_an_image_model_over_frames_gets_a_gradient(kind: str) -> None:
    frames = {"model_type": kind, **FRAME_ENCODERS[kind]}
    encoder = {"model_type": "vo_lstm", "image_size": 32, "num_frames": 4, "hidden_size": 16}
    config = {"encoder_config": encoder | {"frame_encoder_config": frames}, "structure": "single_task"}
    tasks = [{"name": "expression", "kind": "classification", "label_key": "labels"}]
    model = build_model(ModelArguments(model="tiny", model_config=config | {"tasks": tasks}), ["a", "b"])
    model.train()(pixel_values=torch.randn(2, 4, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert all(name.startswith("encoder.frame_encoder") for name in frozen) and (kind != "vit" or frozen)


def test_fields_of_the_encoder_are_read_from_words() -> None:
    assert read_encoder_overrides("num_frames=8, image_size=[96,128]") == {"num_frames": 8, "image_size": [96, 128]}
    assert read_encoder_overrides("drop_path_rate=0.1,hidden_act=relu") == {"drop_path_rate": 0.1, "hidden_act": "relu"}
    assert read_encoder_overrides("") == {}


@pytest.mark.parametrize("text", ["num_frames", "=8", "num_frames=", "a=[1", "8=num_frames", "num frames=8"])
def test_words_that_are_no_fields_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be FIELD=VALUE"):
        read_encoder_overrides(text)


def test_fields_of_an_encoder_need_an_encoder() -> None:
    with pytest.raises(ValueError, match="--encoder_overrides num_frames=8: needs --encoder"):
        build_model(ModelArguments(encoder_overrides="num_frames=8"), ["a", "b"])
