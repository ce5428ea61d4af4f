"""MTFormer, MNC and MTL-ER as structures, against literal statements, and what their losses do."""

import math
from pathlib import Path

import pytest
import torch

from mtcae_dfer import MTCAEForMultiTaskVideo
from mtcae_dfer.modeling_structure_mnc import (
    LANDMARK_RADIUS,
    SMALLEST_SIDE,
    box_origin_and_size,
    draw_landmark_mask,
    points_from_box,
    warp_regions,
)
from mtcae_dfer.modeling_structure_mtformer import CrossTaskContrast, UncertaintyWeights
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.tiny_models import CLASSES, FRAMES, random_clips, random_labels, tiny_config, tiny_model

TASKS = ["face_box", "face_landmarks", "expression"]
RIVALS = ["mtformer", "mnc", "mtl_er"]


def rival_model(structure: str, **overrides) -> MTCAEForMultiTaskVideo:
    """A random model; MTL-ER's heads divide the width among them."""
    width = {"decoder_hidden_size": 24} if structure == "mtl_er" else {}
    return tiny_model(structure=structure, **width, **overrides)


def random_tokens(seed: int = 3) -> torch.Tensor:
    """F (1, 8, 24) of the tiny encoder's grid 2 x 2 x 2."""
    return torch.randn(1, 8, 24, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------------
# MTFormer, literally: one token and one head at a time


def literal_norm(vector: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    mean = vector.mean()
    return (vector - mean) / math.sqrt(((vector - mean) ** 2).mean() + norm.eps) * norm.weight + norm.bias


def literal_dense(vector: torch.Tensor, dense: torch.nn.Linear) -> torch.Tensor:
    return dense.weight @ vector + dense.bias


def literal_gelu(vector: torch.Tensor) -> torch.Tensor:
    return 0.5 * vector * (1 + torch.erf(vector / math.sqrt(2)))


def literal_map(tokens: list, values: list, attention, head_dim: int) -> list[torch.Tensor]:
    """The attention map that `tokens` make among themselves, applied to `values`."""
    moved = []
    for asking in tokens:
        query, heads = literal_dense(asking, attention.query), []
        for start in range(0, len(query), head_dim):
            head = slice(start, start + head_dim)
            keys = [literal_dense(token, attention.key)[head] for token in tokens]
            scores = [math.exp(float(query[head] @ key) / math.sqrt(head_dim)) for key in keys]
            parts = [literal_dense(value, attention.value)[head] for value in values]
            heads.append(sum(score / sum(scores) * part for score, part in zip(scores, parts, strict=True)))
        moved.append(literal_dense(torch.cat(heads), attention.output))
    return moved


def literal_mlp(token: torch.Tensor, layer) -> torch.Tensor:
    hidden = literal_gelu(literal_dense(literal_norm(token, layer.norm_mlp), layer.mlp.dense_in))
    return token + literal_dense(hidden, layer.mlp.dense_out)


def literal_transform(vector: torch.Tensor, transform) -> torch.Tensor:
    return literal_dense(literal_gelu(literal_dense(vector, transform[0])), transform[2])


def literal_self_layer(tokens: list, layer, head_dim: int) -> list[torch.Tensor]:
    normed = [literal_norm(token, layer.norm_attention) for token in tokens]
    moved = literal_map(normed, normed, layer.attention, head_dim)
    return [literal_mlp(token + update, layer) for token, update in zip(tokens, moved, strict=True)]


def literal_cross_layer(tokens: list, others: list[list], layer, head_dim: int) -> list[torch.Tensor]:
    own = [literal_norm(token, layer.norm_attention) for token in tokens]
    messages = [
        [literal_transform(token, layer.own_transform) for token in literal_map(own, own, layer.attention, head_dim)]
    ]
    for other, transform in zip(others, layer.other_transforms, strict=True):
        theirs = [literal_norm(token, layer.norm_attention) for token in other]
        moved = literal_map(theirs, own, layer.attention, head_dim)
        messages.append([literal_transform(token, transform) for token in moved])
    fused = [literal_transform(torch.cat(parts), layer.fusion) for parts in zip(*messages, strict=True)]
    return [literal_mlp(token + update, layer) for token, update in zip(tokens, fused, strict=True)]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_mtformer_equals_a_literal_statement(implementation: str) -> None:
    model = tiny_model(structure="mtformer").double()
    model.set_attn_implementation(implementation)
    structure, head_dim, encoded = model.structure, model.config.decoder_head_dim, random_tokens()
    tokens = [literal_dense(token, structure.dense) for token in encoded[0]]
    for layer in structure.shared_layers:
        tokens = literal_self_layer(tokens, layer, head_dim)
    own = {}
    for name in TASKS:
        own[name] = tokens
        for layer in structure.self_layers[name]:
            own[name] = literal_self_layer(own[name], layer, head_dim)
    actual = structure(encoded)
    for name in TASKS:
        expected = own[name]
        for layer in structure.cross_layers[name]:
            # The others enter every block as their own blocks left them.
            expected = literal_cross_layer(expected, [own[other] for other in TASKS if other != name], layer, head_dim)
        torch.testing.assert_close(actual[name][0], torch.stack(expected), atol=1e-6, rtol=1e-6)


def test_mtformers_other_tasks_share_the_channels() -> None:
    layer = tiny_model(structure="mtformer").structure.cross_layers["expression"][0]
    assert [transform[2].out_features for transform in layer.other_transforms] == [10, 10]
    assert layer.own_transform[0].out_features == 60 and layer.fusion[0].in_features == 40


@torch.no_grad()
def test_mtformer_hands_out_every_tasks_maps() -> None:
    model = tiny_model(structure="mtformer")
    model.set_attn_implementation("eager")
    maps = model(random_clips(), output_attentions=True).cross_attentions
    # 2 shared blocks, 3 x 2 of the tasks, 3 x 2 that look through 3 maps each
    assert len(maps) == 2 + 6 + 18 and maps[0].shape == (2, 3, 8, 8)


# ---------------------------------------------------------------------------------------------------------------
# MNC


def literal_warp(features: torch.Tensor, box: list[float]) -> torch.Tensor:
    """Sum over all cells of F(u, v) max(0, 1 - |x - u|) max(0, 1 - |y - v|), at the middles of the box's cells."""
    channels, rows, columns = features.shape
    warped = torch.zeros_like(features)
    for row in range(rows):
        for column in range(columns):
            x = (box[0] + (column + 0.5) / columns * (box[2] - box[0])) * columns - 0.5
            y = (box[1] + (row + 0.5) / rows * (box[3] - box[1])) * rows - 0.5
            for v in range(rows):
                for u in range(columns):
                    weight = max(0.0, 1 - abs(x - u)) * max(0.0, 1 - abs(y - v))
                    warped[:, row, column] += weight * features[:, v, u]
    return warped


@pytest.mark.parametrize(
    "box", [[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.7, 0.9], [-0.3, 0.4, 0.5, 1.4], [0.5, 0.5, 0.6, 0.6]]
)
def test_the_warp_equals_its_formula(box: list[float]) -> None:
    features = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    warped = warp_regions(features[None], torch.tensor([box]))
    torch.testing.assert_close(warped[0], literal_warp(features, box), atol=1e-5, rtol=1e-5)


def test_the_whole_frame_is_no_warp_and_gradients_reach_the_box() -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp_regions(features, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)), features)
    boxes = torch.tensor([[0.2, 0.2, 0.7, 0.8]] * 2, requires_grad=True)
    warp_regions(features, boxes).square().sum().backward()
    assert (boxes.grad.abs() > 0).all()


def test_a_box_without_area_gets_the_smallest_side_around_its_middle() -> None:
    origin, size = box_origin_and_size(torch.tensor([0.5, 0.6, 0.5, 0.2]))
    torch.testing.assert_close(size, torch.tensor([SMALLEST_SIDE, SMALLEST_SIDE]))
    torch.testing.assert_close(origin, torch.tensor([0.5, 0.4]) - SMALLEST_SIDE / 2)


def test_points_in_a_box_are_points_of_the_frame() -> None:
    points = points_from_box(torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([0.2, 0.4, 0.6, 0.8]))
    torch.testing.assert_close(points, torch.tensor([[0.2, 0.4], [0.6, 0.6]]))


def test_the_mask_is_a_spot_at_every_landmark() -> None:
    points = [[0.25, 0.5], [0.9, 0.1]]
    mask = draw_landmark_mask(torch.tensor([points]), rows=4, columns=6)
    for row in range(4):
        for column in range(6):
            distances = [(column + 0.5 - 6 * x) ** 2 + (row + 0.5 - 4 * y) ** 2 for x, y in points]
            expected = max(math.exp(-distance / (2 * LANDMARK_RADIUS**2)) for distance in distances)
            assert float(mask[0, 0, row, column]) == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_mnc_looks_inside_the_box_that_it_found() -> None:
    model = tiny_model(structure="mnc").double()
    structure, heads, encoded = model.structure, model.heads, random_tokens()
    tokens, predictions = structure.predict(encoded, heads)
    # The grid is 2 x 2 x 2: two tubelets of two frames.
    maps = (encoded @ structure.dense.weight.T + structure.dense.bias)[0].reshape(2, 2, 2, 20).permute(0, 3, 1, 2)
    boxes = heads["face_box"](tokens["face_box"]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(predictions["face_box"], boxes)
    of_tubelets = [boxes[0, frames].mean(dim=0) for frames in (slice(0, 2), slice(2, 4))]
    sides = [box_origin_and_size(box) for box in of_tubelets]
    safe = [torch.cat([origin, origin + size]).tolist() for origin, size in sides]
    regions = torch.stack([literal_warp(features, box) for features, box in zip(maps, safe, strict=True)])
    seen = torch.relu(structure.landmark_convolution(regions)).permute(0, 2, 3, 1).reshape(1, 8, 20)
    torch.testing.assert_close(tokens["face_landmarks"], seen, atol=1e-4, rtol=1e-4)
    points = heads["face_landmarks"](tokens["face_landmarks"])
    torch.testing.assert_close(predictions["face_landmarks"], points_from_box(points, boxes))
    masks = draw_landmark_mask(points[0].reshape(2, 2, 5, 2).mean(dim=1), 2, 2)
    flat, masked = ((maps.permute(0, 2, 3, 1).reshape(1, 8, 20)) for maps in (regions, regions * masks))
    recognition = structure.recognition["expression"]
    both = torch.cat([recognition.box_path(flat), recognition.mask_path(masked)], dim=-1)
    torch.testing.assert_close(tokens["expression"], recognition.fusion(both), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("task", "stages"), [("expression", ("box", "landmark")), ("face_landmarks", ("box",))])
def test_a_later_loss_of_mnc_reaches_the_predictions_before(task: str, stages: tuple[str, ...]) -> None:
    model = tiny_model(structure="mnc")
    model(random_clips()).task_outputs[task].sum().backward()
    heads = {"box": model.heads["face_box"], "landmark": model.heads["face_landmarks"]}
    for stage in stages:
        assert heads[stage].output.weight.grad.abs().sum() > 0
    if task == "face_landmarks":
        assert all(parameter.grad is None for parameter in model.heads["expression"].parameters())


# ---------------------------------------------------------------------------------------------------------------
# MTL-ER; its temporal encoders and heads have their tests in test_mtl_er.py


@torch.no_grad()
def test_mtl_ers_last_task_reads_what_the_others_know() -> None:
    structure, encoded = rival_model("mtl_er").structure.double(), random_tokens()
    # The grid is 2 x 2 x 2: each of two steps is the normed mean of four tokens.
    steps = [literal_norm(encoded[0, step : step + 4].mean(dim=0), structure.norm) for step in (0, 4)]
    shared, _ = structure.shared(torch.stack(steps)[None], None, None)
    known, outputs = [shared], structure(encoded)
    for name in TASKS:
        branch = structure.branches[name]
        states, _ = branch.private(shared if name != "expression" else torch.cat(known, dim=-1), None, None)
        known.append(branch.hidden(states))
        # All four places of a step say the same.
        torch.testing.assert_close(outputs[name], known[-1][:, [0, 0, 0, 0, 1, 1, 1, 1]])
    assert structure.branches["expression"].private.output_size == 24 + 2 * 8


def test_a_loss_of_mtl_ers_last_task_stops_before_the_others() -> None:
    model = rival_model("mtl_er")
    model(random_clips(), labels=random_labels()["labels"]).loss.backward()
    for name in ("face_box", "face_landmarks"):
        assert all(weight.grad is None for weight in model.structure.branches[name].parameters())
    assert model.structure.shared.projection.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------------------
# All


@pytest.mark.parametrize("structure", RIVALS)
@pytest.mark.parametrize("pooling", ["mean", "time", "time_and_place"])
def test_every_weight_learns_and_shapes_are_those_of_the_cascade(structure: str, pooling: str) -> None:
    model = rival_model(structure, pooling=pooling).train()
    outputs = model(random_clips(), **random_labels())
    outputs.loss.backward()
    assert outputs.logits.shape == (2, CLASSES) and outputs.face_boxes.shape == (2, FRAMES, 4)
    assert outputs.face_landmarks.shape == (2, FRAMES, 5, 2) and list(outputs.task_losses) == TASKS
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not idle


@pytest.mark.parametrize("structure", RIVALS)
def test_frames_without_a_face_reach_neither_loss_nor_gradient(structure: str) -> None:
    model, labels = rival_model(structure), random_labels()
    labels["face_found"][0, 1] = False
    gradients = []
    for unknown in (0.5, float("nan")):
        labels["face_boxes"][0, 1], labels["face_landmarks"][0, 1] = unknown, unknown
        model.zero_grad()
        loss = model(random_clips(), **labels).loss
        loss.backward()
        gradients.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("structure", RIVALS)
@torch.no_grad()
def test_what_is_saved_comes_back(structure: str, tmp_path: Path) -> None:
    model = rival_model(structure, uncertainty_weighting=True, contrastive_weight=0.5)
    model.save_pretrained(tmp_path)
    again, report = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    first, second = (one(random_clips(), **random_labels()) for one in (model, again))
    assert torch.equal(first.logits, second.logits) and torch.equal(first.loss, second.loss)


@pytest.mark.parametrize("structure", RIVALS)
def test_half_precision_runs(structure: str) -> None:
    model = rival_model(structure).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(random_clips(), **random_labels()).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("structure", RIVALS)
def test_checkpointed_layers_give_the_same_gradients(structure: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = rival_model(structure).train()
        if checkpointing:
            checkpoint_activations(model)
        model(random_clips(), **random_labels()).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_users_own_task_stands_in_any_place_that_the_structure_allows() -> None:
    tasks = tiny_config().tasks
    units = {"name": "action_units", "kind": "multi_label", "per": "frame", "output_shape": [12]}
    first, third = [units, *tasks], [*tasks[:2], units, tasks[2]]
    for structure, ordered in (("mtformer", first), ("mnc", third), ("mtl_er", first)):
        outputs = rival_model(structure, tasks=ordered)(random_clips())
        assert outputs.task_outputs["action_units"].shape == (2, FRAMES, 12)
        assert list(outputs.task_outputs) == [task["name"] for task in ordered]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"structure": "mtformer", "tasks": ["expression"]}, "mtformer needs two tasks at least"),
        ({"structure": "mnc", "tasks": ["face_box", "expression"]}, "mnc needs face_box .* and face_landmarks"),
        ({"structure": "mnc", "tasks": ["face_landmarks", "face_box", "expression"]}, "mnc needs face_box"),
        ({"structure": "mtformer", "decoder_type": "mlp"}, "decoder_type='mlp': mtformer has no decoders"),
        ({"structure": "mnc", "share_decoder_layers": True}, "share_decoder_layers=True: mnc has no decoders"),
        ({"contrastive_weight": -1.0}, "contrastive_weight=-1.0: must be a finite number"),
        ({"structure": "single_task", "tasks": ["expression"], "contrastive_weight": 1.0}, "needs two tasks"),
        ({"structure": "mtl_er"}, "decoder_hidden_size=20: must be .* x decoder_head_dim .24. for mtl_er"),
        ({"structure": "mtl_er", "decoder_type": "mlp"}, "decoder_type='mlp': mtl_er has no decoders"),
        ({"structure": "mtlformer"}, "must be one of single_task, .*, mtformer, mnc, mtl_er"),
    ],
)
def test_what_a_structure_cannot_use_is_refused(changes: dict, told: str) -> None:
    by_name = {task["name"]: task for task in tiny_config().tasks}
    if "tasks" in changes:
        changes = changes | {"tasks": [by_name[name] for name in changes["tasks"]]}
    with pytest.raises(ValueError, match=told):
        tiny_config(**changes)


# ---------------------------------------------------------------------------------------------------------------
# MTFormer's losses


@torch.no_grad()
def test_the_contrast_equals_a_literal_statement() -> None:
    torch.manual_seed(0)
    contrast = CrossTaskContrast(TASKS, 6).double()
    tokens = {name: torch.randn(3, 4, 6, dtype=torch.double) for name in TASKS}
    vectors = {}
    for name in TASKS:
        projected = [contrast.projections[name](clip.mean(dim=0)) for clip in tokens[name]]
        vectors[name] = [vector / vector.norm() for vector in projected]
    expected = 0.0
    for one in TASKS:
        for other in TASKS:
            for clip in range(3) if one != other else ():
                likeness = [math.exp(float(vectors[one][clip] @ vector) / 0.07) for vector in vectors[other]]
                expected -= math.log(likeness[clip] / sum(likeness)) / 3
    assert float(contrast(tokens)) == pytest.approx(expected, rel=1e-5)


def test_the_contrast_counts_in_training_alone() -> None:
    plain, contrasted = (tiny_model(contrastive_weight=weight) for weight in (0.0, 2.0))
    contrasted.load_state_dict(plain.state_dict(), strict=False)
    arguments = {"pixel_values": random_clips(), **random_labels()}
    assert torch.equal(plain(**arguments).loss, contrasted(**arguments).loss)
    assert contrasted.train()(**arguments).loss > plain.train()(**arguments).loss
    contrasted(**arguments).loss.backward()
    assert all(weight.grad is not None for weight in contrasted.contrast.parameters())


def test_uncertainty_weights_are_the_papers_formula() -> None:
    tasks = tiny_model().tasks
    weights = UncertaintyWeights(tasks)
    with torch.no_grad():
        weights.log_variances.copy_(torch.tensor([0.4, -0.2, 1.0]))
    total = weights({"face_box": torch.tensor(2.0), "expression": torch.tensor(3.0)})
    box, expression = 2.0 / (2 * math.exp(0.4)) + 0.4 / 2, 3.0 / math.exp(1.0) + 1.0 / 2
    assert total.item() == pytest.approx(box + expression)
    total.backward()
    # A task without labels in the batch keeps its variance.
    assert weights.log_variances.grad[1] == 0 and weights.log_variances.grad[0] == pytest.approx(0.5 - math.exp(-0.4))


def test_variances_start_at_one() -> None:
    model = MTCAEForMultiTaskVideo(tiny_config(uncertainty_weighting=True))
    assert torch.equal(model.uncertainty.log_variances, torch.zeros(3))
