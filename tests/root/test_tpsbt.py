"""TPSBT: published sizes, use as a transformers model and under the cascade. Its numbers are compared with a literal
statement of the released model in test_checkpoint_conversion."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForVideoClassification

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.configuration_tpsbt import TPSBTConfig
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.modeling_tpsbt import TPSBTForVideoClassification, TPSBTModel
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.kinds_of_models import TPSBT

TINY_TASKS = {"decoder_hidden_size": 16, "decoder_num_layers": 1, "decoder_head_dim": 8}


def build_tiny(model_class: type = TPSBTModel) -> torch.nn.Module:
    torch.manual_seed(0)
    model = model_class(TPSBTConfig(**TPSBT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def draw_clips() -> torch.Tensor:
    return torch.randn(2, 8, 3, 24, 16, generator=torch.Generator().manual_seed(1))


def test_classifier_has_the_published_parameters_and_multiply_adds() -> None:
    with torch.device("meta"):
        model = TPSBTForVideoClassification(TPSBTConfig(num_labels=7))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 16, 3, 160, 160))
    assert sum(parameter.numel() for parameter in model.parameters()) == 77_635_351
    # The counter counts a multiplication and an addition apart.
    assert counter.get_total_flops() / 2e9 == pytest.approx(43.54, rel=2e-3)


def test_tokens_cover_the_shortened_grid() -> None:
    model = build_tiny()
    assert model.config.embedded_grid == (4, 3, 2) and model.config.token_grid == (1, 3, 2)
    assert model(draw_clips()).last_hidden_state.shape == (2, 6, 24)


def test_hidden_states_and_attentions_come_from_every_block() -> None:
    model = build_tiny()
    model.set_attn_implementation("eager")
    output = model(draw_clips(), output_hidden_states=True, output_attentions=True)
    # first stage: 24 tokens; second: 2 tubelets x 2 bottleneck tokens, then 12 tokens; third: 2, then 6
    lengths = [24, 24, 24, 4, 4, 12, 2, 6]
    assert [state.shape[1] for state in output.hidden_states] == lengths
    assert [weights.shape for weights in output.attentions] == [(2, 3, length, length) for length in lengths[1:]]


def test_eager_and_sdpa_agree_and_checkpointing_changes_no_gradient() -> None:
    model = build_tiny(TPSBTForVideoClassification).train()
    gradients = []
    for implementation, checkpointing in (("eager", False), ("sdpa", False), ("sdpa", True)):
        model.set_attn_implementation(implementation)
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        model(draw_clips(), labels=torch.tensor([0, 4])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradients[2][name], gradients[1][name], atol=1e-6, rtol=1e-4)


def test_compiles_without_graph_breaks() -> None:
    model = build_tiny()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(draw_clips())
        torch.testing.assert_close(compiled.last_hidden_state, model(draw_clips()).last_hidden_state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 12}, "num_frames=12: its 6 tubelets must be a multiple of 4"),
        ({"image_size": 20}, r"image_size \(height\)=20: must be a multiple of 8"),
        ({"stage_depths": []}, r"stage_depths=\[\]"),
        ({"stage_depths": [2, 0]}, r"stage_depths=\[2, 0\]"),
        ({"hidden_size": 25}, "hidden_size=25: must be a multiple of its 3 heads"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TPSBTConfig(**(TPSBT | fields))


def test_cascade_predicts_every_frame_from_the_shortened_grid() -> None:
    config = MTCAEConfig(encoder_config={"model_type": "tpsbt", **TPSBT}, pooling="time_and_place", **TINY_TASKS)
    model = MTCAEForMultiTaskVideo(config)
    labels = {
        "face_boxes": torch.rand(2, 8, 4),
        "face_landmarks": torch.rand(2, 8, 5, 2),
        "labels": torch.tensor([0, 6]),
    }
    output = model(draw_clips(), **labels)
    output.loss.backward()
    assert (config.token_grid, config.tubelet_size) == ((1, 3, 2), 8)
    assert output.face_boxes.shape == (2, 8, 4) and output.logits.shape == (2, 7)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_saved_folders_load_with_the_package(tmp_path) -> None:
    classifier = build_tiny(TPSBTForVideoClassification)
    classifier.save_pretrained(tmp_path / "classifier")
    cascade = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "classifier", **TINY_TASKS).eval()
    cascade.save_pretrained(tmp_path / "cascade")
    with torch.no_grad():
        reloaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "classifier").eval()
        assert type(reloaded) is TPSBTForVideoClassification
        assert torch.equal(reloaded(draw_clips()).logits, classifier(draw_clips()).logits)
        encoder = AutoModel.from_pretrained(tmp_path / "classifier").eval()
        tokens = cascade.encoder(draw_clips()).last_hidden_state
        assert torch.equal(encoder(draw_clips()).last_hidden_state, tokens)
