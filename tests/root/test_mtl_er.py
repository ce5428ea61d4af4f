"""MTL-ER: configuration, frameworks, masking, chunks, feedback, save and reload."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from mtcae_dfer import MTLERConfig, MTLERForAffectiveBehavior
from mtcae_dfer.configuration_mtl_er import TASKS
from mtcae_dfer.modeling_mtl_er import MTLERPrediction, average_predictions, smooth_over_time
from tests.support.kinds_of_models import MTL_ER

CHANNELS, FRAMES = MTL_ER["input_size"], 9
SIZES = MTL_ER | {"initializer_range": 0.3}
ENCODERS = ("transformer", "lstm", "gru")
FRAMEWORKS = ("share_encoder", "share_bottom", "share_bottom_feedback")


def tiny_mtl_er(seed: int = 0, **fields: Any) -> MTLERForAffectiveBehavior:
    torch.manual_seed(seed)
    return MTLERForAffectiveBehavior(MTLERConfig(**(SIZES | fields))).eval()


def random_features(videos: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(videos, frames, CHANNELS, generator=torch.Generator().manual_seed(1))


def random_affect(videos: int = 2, frames: int = FRAMES, seed: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "valence": torch.rand(videos, frames, generator=generator) * 2 - 1,
        "arousal": torch.rand(videos, frames, generator=generator) * 2 - 1,
        "expression": torch.randint(0, 8, (videos, frames), generator=generator),
        "action_units": torch.randint(0, 2, (videos, frames, 12), generator=generator),
    }


@pytest.mark.parametrize("encoder_type", ENCODERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("feedback_kind", ["hidden_state", "label_embedding"])
def test_every_weight_takes_a_gradient_and_comes_back_after_saving(
    encoder_type: str, framework: str, feedback_kind: str, tmp_path: Path
) -> None:
    model = tiny_mtl_er(encoder_type=encoder_type, framework=framework, feedback_kind=feedback_kind)
    output = model(random_features(), **random_affect())
    output.loss.backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not lacking
    assert output.valence.shape == (2, FRAMES) and output.action_unit_logits.shape == (2, FRAMES, 12)
    weights = {"valence": 12, "arousal": 12, "expression": 0.35, "action_units": 1}
    total = sum(weights[task] * loss for task, loss in output.task_losses.items())
    torch.testing.assert_close(output.loss, total)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert json.loads(again.config.to_json_string()) == json.loads(model.config.to_json_string())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    torch.testing.assert_close(again(random_features()).arousal, model(random_features()).arousal)


def test_losses_are_their_literal_statements() -> None:
    model, labels = tiny_mtl_er(), random_affect()
    labels["valence"][0, 3], labels["expression"][1, 2], labels["action_units"][0, 1, 4] = -5, -1, -1
    with torch.no_grad():
        output = model(random_features(), **labels)
    squares, entropies, crosses = [], [], []
    for video in range(2):
        for frame in range(FRAMES):
            if labels["valence"][video, frame] != -5:
                squares.append((output.valence[video, frame] - labels["valence"][video, frame]) ** 2)
            if labels["expression"][video, frame] != -1:
                scores = output.expression_logits[video, frame]
                entropies.append(scores.exp().sum().log() - scores[labels["expression"][video, frame]])
            for unit in range(12):
                present = labels["action_units"][video, frame, unit]
                if present != -1:
                    probability = 1 / (1 + (-output.action_unit_logits[video, frame, unit]).exp())
                    crosses.append(-(probability if present else 1 - probability).log())
    for task, values in (("valence", squares), ("expression", entropies), ("action_units", crosses)):
        torch.testing.assert_close(output.task_losses[task], torch.stack(values).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("valence_arousal_loss", ["mse", "ccc"])
def test_missing_labels_reach_neither_loss_nor_gradient(valence_arousal_loss: str) -> None:
    model, labels = tiny_mtl_er(valence_arousal_loss=valence_arousal_loss), random_affect(1)
    for name, missing in (("valence", -5), ("arousal", -5), ("expression", -1), ("action_units", -1)):
        labels[name][:, 5:] = missing
    handed = {}
    for task in TASKS:
        layer = model.branches[task].head.output
        layer.register_forward_hook(lambda _, __, output, task=task: handed.update({task: output}))
    loss = model(random_features(1), **labels).loss
    for gradient in torch.autograd.grad(loss, [handed[task] for task in TASKS]):
        assert gradient[:, :5].abs().sum() > 0
        assert torch.equal(gradient[:, 5:], torch.zeros_like(gradient[:, 5:]))


@pytest.mark.parametrize("valence_arousal_loss", ["mse", "ccc"])
@pytest.mark.parametrize("task", TASKS)
def test_a_batch_without_labels_of_a_task_trains_the_others(task: str, valence_arousal_loss: str) -> None:
    model, labels = tiny_mtl_er(valence_arousal_loss=valence_arousal_loss), random_affect()
    labels[task] = torch.full_like(labels[task], -5 if task in ("valence", "arousal") else -1)
    output = model(random_features(), **labels)
    output.loss.backward()
    assert output.task_losses[task] == 0 and output.loss > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert all(not parameter.grad.any() for parameter in model.branches[task].head.output.parameters())


def test_padding_changes_nothing_for_the_frames_that_are_there() -> None:
    features = random_features(1)
    for encoder_type in ENCODERS:
        model = tiny_mtl_er(encoder_type=encoder_type)
        padded = torch.cat([features, torch.full((1, 4, CHANNELS), 7.0)], dim=1)
        mask = torch.arange(FRAMES + 4)[None] < FRAMES
        expected, found = model(features), model(padded, attention_mask=mask)
        torch.testing.assert_close(found.arousal[:, :FRAMES], expected.arousal, rtol=1e-4, atol=1e-5)


def test_a_video_that_ended_before_the_chunk_gives_numbers() -> None:
    mask = torch.tensor([[True] * FRAMES, [False] * FRAMES])
    output = tiny_mtl_er()(random_features(), attention_mask=mask, **random_affect())
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("encoder_type", ["lstm", "gru"])
def test_carried_state_makes_chunks_one_pass(encoder_type: str) -> None:
    model, features = tiny_mtl_er(encoder_type=encoder_type), random_features(2, 20)
    whole = model(features)
    first = model(features[:, :6])
    second = model(features[:, 6:], state=first.state)
    torch.testing.assert_close(second.valence, whole.valence[:, 6:], rtol=1e-4, atol=1e-5)
    assert not any(part.requires_grad for parts in first.state.values() for part in parts)
    torch.testing.assert_close(model.predict(features).valence, whole.valence, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5, 6, 7, 14, 20])
def test_overlapping_chunks_are_averaged_as_a_slow_loop_does(length: int) -> None:
    model, features = tiny_mtl_er(), random_features(1, length)
    chunk, stride = 6, 4
    gathered: list[list[torch.Tensor]] = [[] for _ in range(length)]
    start = 0
    while True:
        end = min(start + chunk, length)
        begin = max(0, end - chunk)
        with torch.no_grad():
            probabilities = model(features[:, begin:end]).expression_logits[0].softmax(-1)
        for frame in range(begin, end):
            gathered[frame].append(probabilities[frame - begin])
        if end == length:
            break
        start += stride
    expected = torch.stack([sum(values) / len(values) for values in gathered])
    torch.testing.assert_close(model.predict(features).expression_probabilities[0], expected)


def test_consecutive_chunks_follow_each_other_as_released() -> None:
    model, features = tiny_mtl_er(chunk_merge="consecutive"), random_features(1, 14)
    with torch.no_grad():
        parts = [model(features[:, start : start + 6]).valence for start in (0, 6, 12)]
    torch.testing.assert_close(model.predict(features).valence, torch.cat(parts, dim=1))


def test_feedback_passes_no_gradient_into_its_sources() -> None:
    for feedback_kind in ("hidden_state", "label_embedding"):
        model = tiny_mtl_er(feedback_kind=feedback_kind)
        output = model(random_features(), arousal=random_affect()["arousal"])
        output.loss.backward()
        assert all(parameter.grad is None for parameter in model.branches["valence"].parameters())
        assert any(parameter.grad.any() for parameter in model.shared.parameters() if parameter.grad is not None)


def test_the_target_sees_what_its_sources_know() -> None:
    model, features = tiny_mtl_er(), random_features()
    before = model(features)
    with torch.no_grad():
        model.branches["valence"].head.hidden[1].bias.add_(5.0)
    after = model(features)
    assert not torch.allclose(before.arousal, after.arousal)
    assert torch.equal(before.expression_logits, after.expression_logits)


def test_label_embeddings_see_true_labels_in_training_only() -> None:
    model = tiny_mtl_er(feedback_kind="label_embedding", encoder_dropout=0.0, head_dropout=0.0)
    features, labels = random_features(), random_affect()
    other = labels | {"valence": -labels["valence"]}
    torch.testing.assert_close(model(features, **labels).arousal, model(features, **other).arousal)
    model.train()
    for share, same in ((1.0, False), (0.0, True)):
        model.true_label_share = share
        first, second = model(features, **labels).arousal, model(features, **other).arousal
        assert torch.allclose(first, second) == same


def test_missing_true_labels_become_zeros_in_the_embedding() -> None:
    model = tiny_mtl_er(feedback_kind="label_embedding").label_embeddings
    taught = torch.ones(1, dtype=torch.bool)
    for task, outputs, missing in (("valence", 1, -5.0), ("action_units", 12, -1)):
        labels = torch.full((1, 1, 12) if task == "action_units" else (1, 1), missing)
        assert not model[task](torch.randn(1, 1, outputs), labels, taught).any()


def test_the_released_sizes() -> None:
    config = MTLERConfig()
    assert config.num_shared_layers == 1 and config.task_order == ["valence", "action_units", "arousal", "expression"]
    assert config.branch_size("arousal") == 1024 + 2 * 256 and config.branch_size("expression") == 1024
    with torch.device("meta"):
        model = MTLERForAffectiveBehavior(config)
    assert model.branches["arousal"].private.layers[0].self_attn.num_heads == 24
    assert model.branches["arousal"].head.hidden[1].in_features == 1536


def test_sources_may_be_targets_themselves_in_any_order() -> None:
    model = tiny_mtl_er(
        dependencies={"valence": ["arousal"], "arousal": ["expression"], "expression": ["action_units"]}
    )
    assert model.config.task_order == ["action_units", "expression", "arousal", "valence"]
    assert model(random_features()).valence.shape == (2, FRAMES)


def test_without_shared_layers_the_branches_read_the_features() -> None:
    model = tiny_mtl_er(num_private_layers=2, framework="share_bottom", num_attention_heads=8)
    assert model.shared is None and model.branches["valence"].private.output_size == CHANNELS


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"dependencies": {"arousal": ["valence"], "valence": ["arousal"]}}, "arousal needs valence needs arousal"),
        (
            {"dependencies": {"expression": ["valence"], "valence": ["arousal"], "arousal": ["expression"]}},
            "expression needs valence needs arousal needs expression",
        ),
        ({"dependencies": {"arousal": ["arousal"]}}, "arousal needs arousal"),
        ({"dependencies": {"arousal": ["smile"]}}, "are no tasks here"),
        ({"action_units": [1, 2, 99]}, "are no action units"),
        ({"action_units": ["AU1"]}, "are no action units"),
        ({"tasks": ["valence", "mood"]}, "are no tasks here"),
        ({"tasks": ["arousal"], "dependencies": {"arousal": ["valence"]}}, "are no tasks here"),
        ({"encoder_type": "rnn"}, "must be one of transformer, lstm, gru"),
        ({"num_private_layers": 3}, "must be between 1 and num_layers (2)"),
        ({"chunk_overlap": 6}, "less than chunk_length (6)"),
        ({"head_sizes": [16, 10]}, "the private encoder of arousal is 52 wide"),
        ({"loss_weights": {"valence": -1}}, "loss_weights.valence=-1"),
        ({"expression_weights": [1.0]}, "must be 8 finite numbers"),
    ],
)
def test_wrong_fields_are_refused_with_their_rule(fields: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:
        MTLERConfig(**(SIZES | fields))
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (torch.zeros(1, 0, CHANNELS), {}, "at least 1 frame"),
        (torch.zeros(1, 3, CHANNELS + 1), {}, "12 channels"),
        (torch.full((1, 3, CHANNELS), torch.nan), {}, "no finite numbers"),
        (torch.zeros(1, 3, CHANNELS), {"valence": torch.tensor([[0.0, 1.5, 0.0]])}, "valence holds [1.5]"),
        (torch.zeros(1, 3, CHANNELS), {"arousal": torch.tensor([[0.0, torch.nan, 0.0]])}, "arousal holds [nan]"),
        (torch.zeros(1, 3, CHANNELS), {"expression": torch.tensor([[0, 8, -1]])}, "expression holds [8]"),
        (torch.zeros(1, 3, CHANNELS), {"action_units": torch.full((1, 3, 12), 2)}, "action_units holds [2]"),
        (torch.zeros(1, 3, CHANNELS), {"valence": torch.zeros(1, 4)}, "valence has shape (1, 4)"),
        (torch.zeros(1, 3, CHANNELS), {"attention_mask": torch.ones(1, 4)}, "attention_mask has shape (1, 4)"),
    ],
)
def test_wrong_inputs_are_refused(features: torch.Tensor, labels: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:
        tiny_mtl_er()(features, **labels)
    assert told in str(error.value)


def test_padding_may_hold_what_is_no_number() -> None:
    features, mask = random_features(1), torch.arange(FRAMES)[None] < 5
    features[:, 5:] = torch.nan
    assert torch.isfinite(tiny_mtl_er()(features, attention_mask=mask).valence).all()


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_one_frame_is_a_sequence(encoder_type: str) -> None:
    model = tiny_mtl_er(encoder_type=encoder_type, valence_arousal_loss="ccc")
    output = model(random_features(1, 1), **random_affect(1, 1))
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.task_losses["valence"] == 0  # one frame has no variance
    assert model.predict(random_features(1, 1)).arousal.shape == (1, 1)


def test_an_ensemble_is_the_mean() -> None:
    one = MTLERPrediction(valence=torch.tensor([[0.2, 0.4]]))
    two = MTLERPrediction(valence=torch.tensor([[0.4, 0.0]]))
    torch.testing.assert_close(average_predictions([one, two]).valence, torch.tensor([[0.3, 0.2]]))
    with pytest.raises(ValueError, match="same tasks and frames"):
        average_predictions([one, MTLERPrediction(arousal=torch.zeros(1, 2))])
    with pytest.raises(ValueError, match="at least one model"):
        average_predictions([])


@pytest.mark.parametrize("half_width", [0, 1, 3, 40])
def test_smoothing_is_a_moving_average_of_the_frames_that_there_are(half_width: int) -> None:
    values = torch.randn(11, generator=torch.Generator().manual_seed(0))
    expected = [
        sum(values[t].item() for t in range(frame - half_width, frame + half_width + 1) if 0 <= t < 11)
        / sum(1 for t in range(frame - half_width, frame + half_width + 1) if 0 <= t < 11)
        for frame in range(11)
    ]
    torch.testing.assert_close(smooth_over_time(values, half_width), torch.tensor(expected), rtol=1e-5, atol=1e-6)
