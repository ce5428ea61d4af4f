"""The model against a literal statement of the paper's Algorithm 1, and everything that training relies on."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForVideoClassification
from transformers.models.videomae.modeling_videomae import VideoMAELayer

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo
from mtcae_dfer.modeling_structures import MTCAEDecoderLayer
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.tiny_models import CLASSES, FRAMES, ONE_LAYER, random_clips, random_labels, tiny_config, tiny_model

STRUCTURES = [
    ("single_task", "vit"),
    ("non_fully_shared", "mlp"),
    ("non_fully_shared", "vit"),
    ("fully_shared", "mlp"),
    ("fully_shared", "vit"),
    ("cascaded", "vit"),
]
STRUCTURES_OF_TABLE_1 = ("single_task", "non_fully_shared", "fully_shared", "cascaded")
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
    projected = [literal_dense(token, decoder.dense) for token in encoded] if hasattr(decoder, "dense") else None
    tokens = projected if query is None else query
    if config.decoder_type == "vit":
        memory = [literal_norm(token, decoder.norm_memory) for token in projected]  # once, for all steps
    for step in range(config.decoder_num_layers):
        layer = decoder.layers[0 if config.share_decoder_layers else step]
        refined = []
        for token in tokens:
            if config.decoder_type == "vit":
                asked = literal_norm(token, layer.norm_query)
                token = literal_attention(asked, memory, layer.cross_attention, config.decoder_head_dim) + token
            hidden = literal_dense(literal_norm(token, layer.norm_mlp), layer.mlp.dense_in)
            activated = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            refined.append(literal_dense(activated, layer.mlp.dense_out) + token)
        tokens = refined
    return tokens


def assert_tokens_equal(actual: torch.Tensor, literal: list[torch.Tensor]) -> None:
    torch.testing.assert_close(actual[0], torch.stack(literal), atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_the_cascade_equals_a_literal_statement_of_algorithm_1(shared: bool, implementation: str) -> None:
    model = tiny_model(share_decoder_layers=shared, decoder_num_layers=3).double()
    model.set_attn_implementation(implementation)
    assert model.config.decoder_hidden_size % model.config.decoder_num_attention_heads != 0
    clips = random_clips(1).double()
    encoded = model.encoder(clips).last_hidden_state
    actual = model.structure(encoded)
    tokens = None
    for name, decoder in model.structure.decoders.items():
        tokens = literal_decoder(tokens, encoded[0], decoder, model.config)
        assert_tokens_equal(actual[name], tokens)
    pooled = sum(literal_norm(token, model.heads["expression"].norm) for token in tokens) / len(tokens)
    assert torch.allclose(model(clips).logits[0], literal_dense(pooled, model.heads["expression"].output), atol=1e-5)


@pytest.mark.parametrize("decoder_type", ["mlp", "vit"])
@torch.no_grad()
def test_the_other_structures_equal_a_literal_statement(decoder_type: str) -> None:
    apart, joint = (tiny_model(structure=name, decoder_type=decoder_type) for name in STRUCTURES_OF_TABLE_1[1:3])
    encoded = torch.randn(1, 8, 24, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    for name, tokens in apart.double().structure(encoded).items():
        assert_tokens_equal(tokens, literal_decoder(None, encoded[0], apart.structure.decoders[name], apart.config))
    shared = literal_decoder(None, encoded[0], joint.double().structure.shared_decoder, joint.config)
    for name, tokens in joint.structure(encoded).items():
        assert_tokens_equal(tokens, literal_decoder(shared, encoded[0], joint.structure.decoders[name], joint.config))


@torch.no_grad()
def test_the_memory_is_computed_once_for_the_whole_recursion() -> None:
    model = tiny_model(decoder_num_layers=4)
    calls: list[torch.nn.Module] = []
    for decoder in model.structure.decoders.values():
        for module in (decoder.dense, decoder.norm_memory):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    model(random_clips())
    assert len(calls) == len(set(calls)) == 2 * 3


def test_sharing_the_recursion_leaves_one_layer_per_decoder() -> None:
    assert len(tiny_model(share_decoder_layers=True).structure.decoders["expression"].layers) == 1


# ---------------------------------------------------------------------------------------------------------------
# Structures, tasks, sizes

TASK_NAMES = ["face_box", "face_landmarks", "expression"]


@pytest.mark.parametrize(
    ("structure", "influenced"),
    [
        ("non_fully_shared", {"face_box": ["face_box"], "face_landmarks": ["face_landmarks"]}),
        ("fully_shared", {"face_box": ["face_box"], "face_landmarks": ["face_landmarks"]}),
        ("cascaded", {"face_box": TASK_NAMES, "face_landmarks": TASK_NAMES[1:]}),
    ],
)
@torch.no_grad()
def test_a_decoder_reaches_the_tasks_after_it_only_in_the_cascade(structure: str, influenced: dict) -> None:
    model = tiny_model(structure=structure)
    before = model(random_clips()).task_outputs
    for changed, expected in (influenced | {"expression": ["expression"]}).items():
        weight = model.structure.decoders[changed].layers[0].mlp.dense_in.weight
        original = weight.clone()
        weight.add_(1.0)
        after = model(random_clips()).task_outputs
        weight.copy_(original)
        assert [name for name in TASK_NAMES if not torch.equal(before[name], after[name])] == expected


@torch.no_grad()
def test_poolings_that_keep_time_read_a_frame_from_its_own_tubelet() -> None:
    tokens = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))  # 2 tubelets x 2 rows x 2 columns
    changed = tokens.clone()
    changed[:, 4:] = torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(1))
    for pooling, frames in {"mean": [0, 1, 2, 3], "time": [2, 3], "time_and_place": [2, 3]}.items():
        head = tiny_model(pooling=pooling).heads["face_landmarks"]
        difference = (head(tokens) - head(changed)).abs().amax(dim=(0, 2, 3))
        assert difference.nonzero().flatten().tolist() == frames, pooling


@torch.no_grad()
def test_pooling_by_time_and_place_equals_a_literal_statement() -> None:
    head = tiny_model(pooling="time_and_place", pooling_maps=3).heads["face_box"]
    tokens = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    normed = [literal_norm(token, head.norm) for token in tokens]
    frames = []
    for tubelet in range(2):
        places = normed[4 * tubelet : 4 * tubelet + 4]
        maps = [
            sum(weight * token for weight, token in zip(row, places, strict=True)) for row in head.pool.place_weight
        ]
        frames += literal_dense(torch.cat(maps), head.output).split(4)  # the tubelet's frames one after the other
    torch.testing.assert_close(head(tokens[None])[0], torch.stack(frames), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_task_may_have_its_own_pooling() -> None:
    tasks = tiny_config().tasks
    model = tiny_model(tasks=[tasks[0] | {"pooling": "time_and_place"}, tasks[2]], pooling="mean")
    assert [head.pool.pooling for head in model.heads.values()] == ["time_and_place", "mean"]
    assert model(random_clips()).face_boxes.shape == (2, FRAMES, 4)


@torch.no_grad()
def test_frames_need_not_be_square() -> None:
    encoder = tiny_config().encoder_config.to_dict() | {"image_size": [32, 64]}
    model = tiny_model(encoder_config=encoder, pooling="time_and_place")
    assert model.config.token_grid == (2, 2, 4)
    assert model(torch.randn(1, FRAMES, 3, 32, 64)).face_landmarks.shape == (1, FRAMES, 5, 2)


def test_fresh_weights_have_the_documented_spread() -> None:
    torch.manual_seed(0)
    model = MTCAEForMultiTaskVideo(
        tiny_config(decoder_hidden_size=64, initializer_range=0.05, pooling="time_and_place")
    )
    for name, parameter in [*model.structure.named_parameters(), *model.heads.named_parameters()]:
        if name.endswith("bias"):
            assert parameter.abs().sum() == 0, name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            spread = 4**-0.5 if name.endswith("place_weight") else 0.05
            assert parameter.std().item() == pytest.approx(spread, rel=0.3), name


@pytest.mark.parametrize(("structure", "decoder_type"), STRUCTURES)
@pytest.mark.parametrize("pooling", ["mean", "time", "time_and_place"])
def test_every_weight_of_every_structure_is_trained(structure: str, decoder_type: str, pooling: str) -> None:
    model = model_of(structure, decoder_type, pooling=pooling).train()
    outputs = model(random_clips(), **random_labels())
    outputs.loss.backward()
    assert outputs.logits.shape == (2, CLASSES)
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    # A softmax over keys does not change when one vector is added to all keys.
    assert [name for name in without if not name.endswith("cross_attention.key.bias")] == []


def test_outputs_have_the_documented_shapes() -> None:
    outputs = tiny_model()(random_clips(3), **random_labels(3))
    assert outputs.logits.shape == (3, CLASSES)
    assert outputs.face_boxes.shape == (3, FRAMES, 4)
    assert outputs.face_landmarks.shape == (3, FRAMES, 5, 2)
    assert list(outputs.task_outputs) == list(outputs.task_losses) == TASK_NAMES
    assert outputs.loss.shape == () and outputs.loss.dtype == torch.float32


@torch.no_grad()
def test_without_labels_there_is_no_loss_and_with_some_only_theirs() -> None:
    model, labels = tiny_model(), random_labels()
    assert model(random_clips()).loss is None and model(random_clips()).task_losses is None
    outputs = model(random_clips(), labels=labels["labels"], face_found=labels["face_found"])
    assert list(outputs.task_losses) == ["expression"]
    assert torch.equal(outputs.loss, 1.5 * outputs.task_losses["expression"])


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
    assert reordered(random_clips(), **random_labels()).task_losses.keys() == {"expression", "face_box"}
    faces = tiny_model(tasks=tasks[:2])(random_clips())
    assert faces.logits is None and faces.face_boxes.shape == (2, FRAMES, 4)


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


def test_a_users_own_labels_may_be_unknown_in_part() -> None:
    masks = {"gaze": "seen", "age": "asked", "action_units": "seen", "speaking": "seen"}
    model = tiny_model(tasks=[task | {"mask_key": masks[task["name"]]} for task in USERS_TASKS])
    units = torch.randint(0, 2, (2, FRAMES, 12)).float()
    units[0, :, 3:] = float("nan")
    speaking = torch.randint(0, 3, (2, FRAMES))
    speaking[1, 2] = -100
    age = torch.tensor([[30.0], [60.0]])
    seen = torch.tensor([[True, True, False, True], [True] * 4])
    targets = {"age": age, "action_units": units, "speaking": speaking, "gaze": torch.rand(2, FRAMES, 2)}
    outputs = model(random_clips(), **targets, seen=seen, asked=torch.tensor([False, True]))
    predicted = outputs.task_outputs
    known = seen[:, :, None] & ~units.isnan()
    expected = torch.nn.BCEWithLogitsLoss()(predicted["action_units"][known], units[known])
    assert torch.allclose(outputs.task_losses["action_units"], expected, atol=1e-6)
    spoken = seen & (speaking >= 0)
    expected = torch.nn.CrossEntropyLoss()(predicted["speaking"][spoken], speaking[spoken])
    assert torch.allclose(outputs.task_losses["speaking"], expected, atol=1e-6)
    assert torch.allclose(outputs.task_losses["age"], (predicted["age"][1] - 60).abs().mean(), atol=1e-5)
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mse", torch.nn.MSELoss()), ("l1", torch.nn.L1Loss()), ("smooth_l1", torch.nn.SmoothL1Loss())],
)
@torch.no_grad()
def test_regression_losses_are_torchs_own(loss: str, expected: torch.nn.Module) -> None:
    model = tiny_model(tasks=[{"name": "age", "output_shape": [3], "loss": loss, "weight": 2}])
    age = 3 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    outputs = model(random_clips(), age=age)
    assert torch.allclose(outputs.loss, 2 * expected(outputs.task_outputs["age"], age), atol=1e-5)


def test_the_documented_example_of_a_users_task_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = [block for block in blocks if "import MTCAEConfig" in block]
    names: dict[str, object] = {}
    with torch.device("meta"):
        exec(example, names)
    assert list(names["model"].heads) == ["face_box", "face_landmarks", "action_units", "expression"]


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
    assert all(torch.isfinite(gradient).all() for gradient in first[1])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


def test_a_batch_without_any_face_trains_the_expression_alone() -> None:
    model, labels = tiny_model(), random_labels()
    labels["face_found"][:] = False
    labels["face_boxes"][:] = float("nan")
    labels["face_landmarks"][:] = float("nan")
    outputs = model(random_clips(), **labels)
    outputs.loss.backward()
    assert torch.allclose(outputs.loss, 1.5 * outputs.task_losses["expression"])
    assert outputs.task_losses["face_box"] == outputs.task_losses["face_landmarks"] == 0
    for name, is_trained in {"face_box": False, "face_landmarks": False, "expression": True}.items():
        assert all((parameter.grad.abs().sum() > 0) == is_trained for parameter in model.heads[name].parameters())
    # In the cascade the expression trains the decoders before its own, and the encoder.
    assert model.structure.decoders["face_box"].dense.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_batch_without_any_label_has_a_loss_of_zero_and_no_nan() -> None:
    model, labels = tiny_model(), random_labels()
    labels["face_found"][:] = False
    labels["labels"][:] = -100
    loss, found = gradients(model, labels)
    assert loss == 0 and all(gradient.abs().sum() == 0 for gradient in found)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
@torch.no_grad()
def test_class_ids_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    labels = random_labels()["labels"]
    model = tiny_model()
    assert model(random_clips(), labels=labels.to(dtype)).loss == model(random_clips(), labels=labels).loss


def test_unknown_expressions_are_left_out_of_the_mean() -> None:
    labels = random_labels()
    known = tiny_model()(random_clips()[:1], labels=labels["labels"][:1]).loss
    labels["labels"][1] = -100
    assert torch.allclose(tiny_model()(random_clips(), labels=labels["labels"]).loss, known, atol=1e-6)


@pytest.mark.parametrize(
    ("clips", "labels", "error", "told"),
    [
        (random_clips(), {"labels": torch.tensor([0, 7])}, ValueError, r"labels holds \[7\]: class ids .* 0 to 6"),
        (
            random_clips(),
            {"labels": torch.tensor([-1, 0])},
            ValueError,
            r"labels holds \[-1\]: .* -100 marks an unknown",
        ),
        (
            random_clips(),
            {"labels": torch.tensor([0.0, 1.0])},
            ValueError,
            "labels is torch.float32.* whole numbers",
        ),
        (
            random_clips(),
            {"face_boxes": torch.zeros(2, 4)},
            ValueError,
            r"face_boxes has shape \(2, 4\); .* \(2, 4, 4\)",
        ),
        (
            random_clips(),
            {"face_boxes": torch.zeros(2, 4, 4), "face_found": torch.ones(2)},
            ValueError,
            r"face_found has shape \(2,\); task face_box takes \(2, 4\)",
        ),
        (random_clips()[0], {}, ValueError, "this model takes .*4 frames"),
        (torch.zeros(2, FRAMES, 3, 48, 48), {}, ValueError, r"Input image size \(48\*48\) doesn't match model"),
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


@pytest.mark.parametrize(("structure", "decoder_type"), STRUCTURES)
@torch.no_grad()
def test_eager_and_sdpa_agree(structure: str, decoder_type: str) -> None:
    model = model_of(structure, decoder_type)
    results = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        results.append(model(random_clips()))
    for name, value in results[0].task_outputs.items():
        assert torch.allclose(value, results[1].task_outputs[name], atol=1e-5)


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
def test_states_can_be_asked_for_by_the_config() -> None:
    model = tiny_model(attn_implementation="eager", output_attentions=True, output_hidden_states=True)
    outputs = model(random_clips())
    assert [len(outputs[name]) for name in ("hidden_states", "attentions", "cross_attentions")] == [3, 2, 6]
    assert model(random_clips(), output_hidden_states=False).hidden_states is None


@torch.no_grad()
def test_a_tuple_holds_the_same_values() -> None:
    model = tiny_model()
    named = model(random_clips(), **random_labels(), output_hidden_states=True)
    values = model(random_clips(), **random_labels(), output_hidden_states=True, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(named)
    for value, expected in zip(values, named.values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"decoder_type": "mlp", "structure": "fully_shared"}])
def test_gradient_checkpointing_changes_no_gradient(options: dict) -> None:
    model = tiny_model(**options).train()
    loss, plain = gradients(model, random_labels())
    checkpoint_activations(model)
    runs: Counter[torch.nn.Module] = Counter()
    layers = [module for module in model.modules() if isinstance(module, MTCAEDecoderLayer | VideoMAELayer)]
    norms = [next(part for part in layer.modules() if isinstance(part, torch.nn.LayerNorm)) for layer in layers]
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, *_: runs.update([module]))
    again, checkpointed = gradients(model, random_labels())
    # Once forwards, and once more backwards, because nothing inside was kept.
    assert runs == dict.fromkeys(norms, 2) and len(layers) == (2 + 8 if options else 2 + 6)
    assert torch.allclose(loss, again)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_float32_losses(precision: torch.dtype) -> None:
    model = tiny_model().train()
    with torch.no_grad():
        exact = model(random_clips(), **random_labels()).task_losses
    with torch.autocast("cpu", dtype=precision):
        outputs = model(random_clips(), **random_labels())
    for name, loss in outputs.task_losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.1)
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_encoder_and_decoders_are_of_one_type(tmp_path: Path) -> None:
    encoder = tiny_config().encoder_config.to_dict() | {"dtype": "float16"}
    model = tiny_model(encoder_config=encoder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in again.parameters()} == {dtype}


def test_a_model_in_half_precision_trains() -> None:
    model = tiny_model().bfloat16()
    outputs = model(random_clips().bfloat16(), **random_labels())
    assert outputs.logits.dtype == torch.bfloat16 and outputs.loss.dtype == torch.float32
    outputs.loss.backward()


@pytest.mark.parametrize(("structure", "decoder_type"), [("cascaded", "vit"), ("fully_shared", "mlp")])
def test_the_forward_pass_is_one_graph(structure: str, decoder_type: str) -> None:
    torch._dynamo.reset()
    # The trace of one layer of each kind is the trace of them all; every further one costs a second.
    model = model_of(structure, decoder_type, pooling="time_and_place", encoder_config=ONE_LAYER, decoder_num_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(random_clips()).logits, model(random_clips()).logits, atol=1e-6)
    compiled(random_clips(), **random_labels()).loss.backward()


def test_dropout_works_in_training_alone() -> None:
    for name in ("decoder_dropout", "decoder_attention_dropout"):
        model = tiny_model(**{name: 0.5})
        first, second = (model(random_clips()).logits for _ in range(2))
        assert torch.equal(first, second)
        model.train()
        first, second = (model(random_clips()).logits for _ in range(2))
        assert not torch.allclose(first, second), name


def test_a_frozen_encoder_takes_no_gradient_and_stays_in_evaluation_mode() -> None:
    model = tiny_model()
    model.freeze_encoder()
    model.train()
    assert not model.encoder.training and model.structure.training
    model(random_clips(), **random_labels()).loss.backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    model.encoder.requires_grad_(True)
    assert model.train().encoder.training


OUTPUTS = ("logits", "face_boxes", "face_landmarks")


@pytest.mark.parametrize(("structure", "decoder_type"), STRUCTURES)
@torch.no_grad()
def test_a_saved_model_predicts_the_same(tmp_path: Path, structure: str, decoder_type: str) -> None:
    model = model_of(structure, decoder_type, pooling="time_and_place")
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".py", ".safetensors"}
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    predicted, expected = again(random_clips()).task_outputs, model(random_clips()).task_outputs
    assert all(torch.equal(predicted[name], value) for name, value in expected.items())


@torch.no_grad()
def test_the_auto_classes_know_the_installed_package(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForVideoClassification):
        for options in ({}, {"trust_remote_code": True}):
            again = auto_class.from_pretrained(tmp_path, **options)
            assert type(again) is MTCAEForMultiTaskVideo and type(again.config) is MTCAEConfig
            assert all(torch.equal(again(random_clips())[name], model(random_clips())[name]) for name in OUTPUTS)


@torch.no_grad()
def test_weights_that_a_checkpoint_lacks_start_afresh(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    changed = {"structure": "fully_shared", "pooling": "time_and_place"}
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **changed)
    assert again.structure.shared_decoder.dense.weight.std() == pytest.approx(0.02, rel=0.2)
    assert again.heads["face_box"].pool.place_weight.std() == pytest.approx(0.5, rel=0.4)
    assert all(torch.isfinite(value).all() for value in again(random_clips()).task_outputs.values())


def test_a_model_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        model = MTCAEForMultiTaskVideo(tiny_config(pooling="time_and_place"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.state_dict().keys() == tiny_model(pooling="time_and_place").state_dict().keys()


@torch.no_grad()
def test_every_clip_of_a_batch_is_predicted_by_itself() -> None:
    model, clips = tiny_model(), random_clips(3)
    together = model(clips)
    for index in range(3):
        alone = model(clips[index : index + 1])
        assert all(torch.allclose(alone[name][0], together[name][index], atol=1e-5) for name in OUTPUTS)


def test_the_temperature_divides_the_scores_of_the_expression_alone() -> None:
    warm = tiny_model().eval()
    clips = random_clips(2)
    before = warm(clips)
    warm.config.temperature = 2.5
    after = warm(clips)
    torch.testing.assert_close(after.logits, before.logits / 2.5)
    torch.testing.assert_close(after.face_boxes, before.face_boxes)
    with pytest.raises(ValueError, match="temperature=0"):
        tiny_config(temperature=0)
