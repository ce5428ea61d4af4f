"""The model against a literal statement of the paper's Algorithm 1, and everything that training relies on."""

import math

import pytest
import torch
from tiny_models import CLASSES, FRAMES, random_clips, random_labels, tiny_config, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo

STRUCTURES = [
    ("single_task", "vit"),
    ("non_fully_shared", "mlp"),
    ("non_fully_shared", "vit"),
    ("fully_shared", "mlp"),
    ("fully_shared", "vit"),
    ("cascaded", "vit"),
]
EXPRESSION_ALONE = [{"name": "expression", "kind": "classification", "weight": 1.5, "label_key": "labels"}]


def model_of(structure: str, decoder_type: str, **overrides) -> MTCAEForMultiTaskVideo:
    tasks = {"tasks": EXPRESSION_ALONE} if structure == "single_task" else {}
    return tiny_model(structure=structure, decoder_type=decoder_type, **tasks, **overrides)


# ---------------------------------------------------------------------------------------------------------------
# Algorithm 1, literally


def literal_norm(vector: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    mean = vector.mean()
    deviation = math.sqrt(((vector - mean) ** 2).mean() + norm.eps)
    return (vector - mean) / deviation * norm.weight + norm.bias


def literal_dense(vector: torch.Tensor, dense: torch.nn.Linear) -> torch.Tensor:
    return dense.weight @ vector + dense.bias


def literal_attention(query: torch.Tensor, memory: list[torch.Tensor], attention, head_dim: int) -> torch.Tensor:
    asked = literal_dense(query, attention.query)
    keys = [literal_dense(token, attention.key) for token in memory]
    values = [literal_dense(token, attention.value) for token in memory]
    heads = []
    for start in range(0, len(asked), head_dim):
        head = slice(start, start + head_dim)
        scores = [math.exp(float(asked[head] @ key[head]) / math.sqrt(head_dim)) for key in keys]
        heads.append(sum(score / sum(scores) * value[head] for score, value in zip(scores, values, strict=True)))
    return literal_dense(torch.cat(heads), attention.output)


def literal_decoder(query: list[torch.Tensor] | None, encoded: torch.Tensor, decoder, config) -> list[torch.Tensor]:
    projected = [literal_dense(token, decoder.dense) for token in encoded]
    memory = [literal_norm(token, decoder.norm_memory) for token in projected]  # once, for all steps
    tokens = projected if query is None else query
    for step in range(config.decoder_num_layers):
        layer = decoder.layers[0 if config.share_decoder_layers else step]
        refined = []
        for token in tokens:
            asked = literal_norm(token, layer.norm_query)
            token = literal_attention(asked, memory, layer.cross_attention, config.decoder_head_dim) + token
            hidden = literal_dense(literal_norm(token, layer.norm_mlp), layer.mlp.dense_in)
            activated = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            refined.append(literal_dense(activated, layer.mlp.dense_out) + token)
        tokens = refined
    return tokens


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_the_cascade_equals_a_literal_statement_of_algorithm_1(shared: bool) -> None:
    model = tiny_model(share_decoder_layers=shared).double()
    clips = random_clips(1).double()
    encoded = model.encoder(clips).last_hidden_state
    actual = model.structure(encoded)
    tokens = None
    for name, decoder in model.structure.decoders.items():
        tokens = literal_decoder(tokens, encoded[0], decoder, model.config)
        assert torch.allclose(actual[name][0], torch.stack(tokens), atol=1e-5)
    pooled = sum(literal_norm(token, model.heads["expression"].norm) for token in tokens) / len(tokens)
    assert torch.allclose(model(clips).logits[0], literal_dense(pooled, model.heads["expression"].output), atol=1e-5)


def test_sharing_the_recursion_leaves_one_layer_per_decoder() -> None:
    assert len(tiny_model(share_decoder_layers=True).structure.decoders["expression"].layers) == 1


# ---------------------------------------------------------------------------------------------------------------
# Structures, tasks, sizes


@pytest.mark.parametrize(("structure", "decoder_type"), STRUCTURES)
@pytest.mark.parametrize("pooling", ["mean", "time", "time_and_place"])
def test_every_weight_of_every_structure_is_trained(structure: str, decoder_type: str, pooling: str) -> None:
    model = model_of(structure, decoder_type, pooling=pooling).train()
    outputs = model(random_clips(), **random_labels())
    outputs.loss.backward()
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    # A softmax over keys does not change when one vector is added to all keys.
    assert [name for name in without if not name.endswith("cross_attention.key.bias")] == []


def test_outputs_have_the_documented_shapes() -> None:
    outputs = tiny_model()(random_clips(3), **random_labels(3))
    assert outputs.logits.shape == (3, CLASSES)
    assert outputs.face_boxes.shape == (3, FRAMES, 4)
    assert outputs.face_landmarks.shape == (3, FRAMES, 5, 2)
    assert set(outputs.task_outputs) == set(outputs.task_losses) == {"face_box", "face_landmarks", "expression"}


@pytest.mark.parametrize(("head_dim", "millions", "gigas"), [(512, 384.3, 836), (64, 343.0, 672)])
def test_the_paper_model_has_the_papers_size(head_dim: int, millions: float, gigas: float) -> None:
    with torch.device("meta"):
        model = MTCAEForMultiTaskVideo(MTCAEConfig(decoder_head_dim=head_dim))
    table = model.encoder.embeddings.position_embeddings
    model.encoder.embeddings.position_embeddings = table.to("meta")
    assert sum(p.numel() for p in model.encoder.parameters()) / 1e6 == pytest.approx(303.9, abs=0.05)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 16, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gigas, abs=0.5)


def test_tasks_can_be_reordered_and_left_out() -> None:
    tasks = tiny_config().tasks
    reordered = tiny_model(tasks=[tasks[2], tasks[0]])
    assert list(reordered.structure.decoders) == ["expression", "face_box"]
    outputs = reordered(random_clips())
    assert outputs.logits is not None and outputs.face_landmarks is None


USERS_TASKS = [
    {"name": "gaze", "per": "frame", "output_shape": [2], "mask_key": "face_found"},
    {"name": "age", "output_shape": [1], "loss": "l1"},
    {"name": "action_units", "kind": "multi_label", "per": "frame", "output_shape": [12]},
    {"name": "speaking", "kind": "classification", "per": "frame", "output_shape": [3]},
]


def test_a_users_own_tasks_need_no_change_of_the_model() -> None:
    model = tiny_model(tasks=USERS_TASKS)
    targets = {
        "gaze": torch.rand(2, FRAMES, 2),
        "age": torch.rand(2, 1),
        "action_units": torch.randint(0, 2, (2, FRAMES, 12)).float(),
        "speaking": torch.randint(0, 3, (2, FRAMES)),
    }
    found = torch.tensor([[True, True, False, True], [False] * 4])
    outputs = model(random_clips(), face_found=found, **targets)
    predicted = outputs.task_outputs
    expected = {
        "gaze": ((predicted["gaze"] - targets["gaze"]) ** 2)[found].mean(),
        "age": (predicted["age"] - targets["age"]).abs().mean(),
        "action_units": torch.nn.BCEWithLogitsLoss()(predicted["action_units"], targets["action_units"]),
        "speaking": torch.nn.CrossEntropyLoss()(predicted["speaking"].flatten(0, 1), targets["speaking"].flatten()),
    }
    for name, loss in expected.items():
        assert torch.allclose(outputs.task_losses[name], loss, atol=1e-6)
    assert torch.allclose(outputs.loss, sum(expected.values()), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------
# Losses and masks


def test_the_loss_is_the_papers_weighted_sum() -> None:
    outputs = tiny_model()(random_clips(), **random_labels())
    labels = random_labels()
    expected = 0.5 * ((outputs.face_boxes - labels["face_boxes"]) ** 2).mean()
    expected += 0.5 * ((outputs.face_landmarks - labels["face_landmarks"]) ** 2).mean()
    expected += 1.5 * torch.nn.functional.cross_entropy(outputs.logits, labels["labels"])
    assert torch.allclose(outputs.loss, expected, atol=1e-6)


def gradients(
    model: MTCAEForMultiTaskVideo, labels: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    outputs = model(random_clips(), **labels)
    outputs.loss.backward()
    return outputs.loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("value", [7.0, float("nan"), float("inf")])
def test_labels_of_frames_without_a_face_change_nothing(value: float) -> None:
    model, labels, changed = tiny_model(), random_labels(), random_labels()
    labels["face_found"][0, 1] = changed["face_found"][0, 1] = False
    changed["face_boxes"][0, 1] = changed["face_landmarks"][0, 1] = value
    first, second = gradients(model, labels), gradients(model, changed)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


def test_nan_labels_count_as_unknown_without_a_mask() -> None:
    model, labels, masked = tiny_model(), random_labels(), random_labels()
    labels.pop("face_found")
    labels["face_boxes"][1, 2] = labels["face_landmarks"][1, 2] = float("nan")
    masked["face_found"][1, 2] = False
    first, second = gradients(model, labels), gradients(model, masked)
    assert torch.isfinite(first[0]) and torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


def test_a_batch_without_any_face_trains_the_expression_alone() -> None:
    model, labels = tiny_model(), random_labels()
    labels["face_found"][:] = False
    labels["face_boxes"][:] = float("nan")
    labels["face_landmarks"][:] = float("nan")
    outputs = model(random_clips(), **labels)
    outputs.loss.backward()
    assert torch.allclose(outputs.loss, 1.5 * outputs.task_losses["expression"])
    assert model.heads["face_box"].output.weight.grad.abs().sum() == 0
    assert model.heads["expression"].output.weight.grad.abs().sum() > 0


def test_unknown_expressions_are_left_out_of_the_mean() -> None:
    labels = random_labels()
    known = tiny_model()(random_clips()[:1], labels=labels["labels"][:1]).loss
    labels["labels"][1] = -100
    assert torch.allclose(tiny_model()(random_clips(), labels=labels["labels"]).loss, known, atol=1e-6)


@pytest.mark.parametrize(
    ("clips", "labels", "error", "told"),
    [
        (random_clips(), {"labels": torch.tensor([0, 7])}, ValueError, r"labels holds \[7\]: class ids .* 0 to 6"),
        (random_clips(), {"labels": torch.tensor([0])}, ValueError, r"labels has shape \(1,\); .* takes \(2,\)"),
        (random_clips(), {"face_boxs": torch.zeros(2)}, TypeError, "face_boxs: no task of this model"),
        (random_clips()[:, :3], {}, ValueError, "this model takes .*4 frames"),
        (random_clips(), {"output_attentions": True}, ValueError, "set_attn_implementation"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(clips, labels, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        tiny_model()(clips, **labels)


# ---------------------------------------------------------------------------------------------------------------
# What transformers and training rely on


@torch.no_grad()
def test_eager_and_sdpa_agree() -> None:
    model = tiny_model()
    results = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        results.append(model(random_clips()))
    for name in ("logits", "face_boxes", "face_landmarks"):
        assert torch.allclose(results[0][name], results[1][name], atol=1e-5)


@torch.no_grad()
def test_recorded_states_are_counted_per_layer_and_attention_sums_to_one() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    outputs = model(random_clips(), output_attentions=True, output_hidden_states=True)
    tokens = math.prod(model.config.token_grid)
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2
    assert len(outputs.cross_attentions) == 3 * model.config.decoder_num_layers
    assert outputs.cross_attentions[0].shape == (2, 3, tokens, tokens)
    assert torch.allclose(outputs.cross_attentions[-1].sum(-1), torch.ones(2, 3, tokens))


@torch.no_grad()
def test_a_tuple_holds_the_same_values() -> None:
    model = tiny_model()
    assert torch.equal(model(random_clips(), return_dict=False)[0], model(random_clips()).logits)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = tiny_model().train()
    loss, plain = gradients(model, random_labels())
    model.gradient_checkpointing_enable()
    decoder_layer = model.structure.decoders["expression"].layers[0]
    assert decoder_layer.gradient_checkpointing and model.encoder.encoder.layer[0].gradient_checkpointing
    again, checkpointed = gradients(model, random_labels())
    assert torch.allclose(loss, again)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_float32_losses(precision: torch.dtype) -> None:
    model = tiny_model().train()
    with torch.autocast("cpu", dtype=precision):
        outputs = model(random_clips(), **random_labels())
    assert outputs.loss.dtype == torch.float32
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_forward_pass_is_one_graph() -> None:
    torch._dynamo.reset()
    model = tiny_model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(random_clips()).logits, model(random_clips()).logits, atol=1e-6)
    compiled(random_clips(), **random_labels()).loss.backward()


def test_a_frozen_encoder_takes_no_gradient_and_stays_in_evaluation_mode() -> None:
    model = tiny_model()
    model.freeze_encoder()
    model.train()
    assert not model.encoder.training and model.structure.training
    model(random_clips(), **random_labels()).loss.backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


@torch.no_grad()
def test_a_saved_model_predicts_the_same(tmp_path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert torch.equal(again(random_clips()).logits, model(random_clips()).logits)
