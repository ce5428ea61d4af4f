"""Heads that find points by heat maps, against a literal statement; attention pooling; decoders that start at zero."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEModel
from transformers.modeling_outputs import BaseModelOutput

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo
from mtcae_dfer.configuration_mtcae import STRUCTURES
from mtcae_dfer.modeling_encoders import ENCODERS, Encoder
from mtcae_dfer.modeling_heads import MTCAEHeatMapHead, build_head
from mtcae_dfer.modeling_layers import ZeroStartLinear
from mtcae_dfer.modeling_structure_mnc import SMALLEST_SIDE
from mtcae_dfer.task_losses import heat_map_loss
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.tiny_models import (
    ENCODER,
    EXPRESSION_TASK,
    FRAMES,
    ONE_LAYER,
    random_clips,
    random_labels,
    randomise,
    tiny_config,
    tiny_model,
)

BOX_TASK = {"name": "face_box", "per": "frame", "output_shape": [4], "label_key": "face_boxes"}
POINT_TASK = {"name": "face_landmarks", "per": "frame", "output_shape": [5, 2]}


def face_tasks(weight: float = 0.0, **fields) -> list[dict]:
    """The paper's tasks, the first two with heat maps."""
    added = {"pooling": "heat_map", "mask_key": "face_found", "heat_map_weight": weight} | fields
    return [BOX_TASK | added, POINT_TASK | added, dict(EXPRESSION_TASK)]


def heat_map_model(weight: float = 0.0, **overrides) -> MTCAEForMultiTaskVideo:
    if overrides.get("structure") == "mtl_er":
        overrides |= {"decoder_hidden_size": 24}
    return tiny_model(tasks=face_tasks(weight), **overrides)


def literal_points(tokens: torch.Tensor, head: MTCAEHeatMapHead, grid: tuple[int, int, int], points: int) -> list:
    """[frame][point] -> (x, y): softmax by hand, then the mean place, one token after the other."""
    tubelets, rows, columns = grid
    frames_per_tubelet = head.score.out_features // points
    num_maps = frames_per_tubelet * points
    found = []
    for tubelet in range(tubelets):
        places = [(row, column) for row in range(rows) for column in range(columns)]
        normed, scores, offsets = [], [], []
        for row, column in places:
            token = tokens[(tubelet * rows + row) * columns + column]
            centred = token - token.mean()
            scaled = centred / (centred.square().mean() + head.norm.eps).sqrt()
            normed.append(scaled * head.norm.weight + head.norm.bias)
            scores.append([float(head.score.weight[i] @ normed[-1] + head.score.bias[i]) for i in range(num_maps)])
            offsets.append(
                [float(head.offset.weight[i] @ normed[-1] + head.offset.bias[i]) for i in range(2 * num_maps)]
            )
        for frame in range(frames_per_tubelet):
            of_frame = []
            for point in range(points):
                number = frame * points + point
                exponentials = [math.exp(score[number]) for score in scores]
                x = y = 0.0
                for place, (row, column) in enumerate(places):
                    share = exponentials[place] / sum(exponentials)
                    x += share * (column + 0.5 + offsets[place][number]) / columns
                    y += share * (row + 0.5 + offsets[place][num_maps + number]) / rows
                of_frame.append((x, y))
            found.append(of_frame)
    return found


@pytest.mark.parametrize("tubelet_size", [1, 2, 16])
@pytest.mark.parametrize("image_size", [[32, 32], [48, 32], [16, 64]])
@torch.no_grad()
def test_a_point_is_the_expected_place_under_a_softmax_over_the_tokens(tubelet_size: int, image_size: list) -> None:
    sizes = {"num_frames": 16, "tubelet_size": tubelet_size, "image_size": image_size}
    config = tiny_config(encoder_config=ENCODER | sizes, tasks=[POINT_TASK | {"pooling": "heat_map"}])
    torch.manual_seed(0)
    head = randomise(build_head(config, config.task_descriptions[0], size=6)).double()
    tokens = torch.randn(math.prod(config.token_grid), 6, dtype=torch.double)
    expected = torch.tensor(literal_points(tokens, head, config.token_grid, points=5))
    assert head(tokens[None]).shape == (1, 16, 5, 2)
    torch.testing.assert_close(head(tokens[None])[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_box_is_its_two_corners() -> None:
    config = tiny_config(tasks=[BOX_TASK | {"pooling": "heat_map"}])
    torch.manual_seed(0)
    head = randomise(build_head(config, config.task_descriptions[0], size=6)).double()
    tokens = torch.randn(8, 6, dtype=torch.double)
    corners = literal_points(tokens, head, config.token_grid, points=2)
    expected = torch.tensor([[x1, y1, x2, y2] for (x1, y1), (x2, y2) in corners])
    torch.testing.assert_close(head(tokens[None])[0], expected, atol=1e-5, rtol=0)


def test_offsets_start_at_zero_so_that_a_fresh_point_lies_among_the_centres() -> None:
    model = MTCAEForMultiTaskVideo(tiny_config(tasks=face_tasks()))
    for name in ("face_box", "face_landmarks"):
        assert model.heads[name].offset.weight.abs().sum() == 0 < model.heads[name].score.weight.abs().sum()
    points = model(random_clips()).face_landmarks
    assert points.min() > 0.25 and points.max() < 0.75  # the outermost centres of a 2 x 2 grid


def test_the_loss_of_maps_equals_a_hand_computed_one() -> None:
    # A grid of one row and two columns; the point lies at the first cell's centre, one cell from the second's.
    probabilities = torch.tensor([0.8, 0.2])
    log_maps = probabilities.log().expand(1, 3, 1, 2).clone().requires_grad_()
    points = torch.tensor([[[[0.25, 0.5]], [[float("nan"), 0.5]], [[0.9, 0.5]]]])
    mask = torch.tensor([[True, True, False]])
    other = math.exp(-1 / (2 * 0.7**2))
    share = 1 / (1 + other)
    expected = -share * math.log(0.8) - (1 - share) * math.log(0.2)
    loss = heat_map_loss(log_maps, points, (1, 2), 0.7, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert log_maps.grad[0, 1:].abs().sum() == 0 and torch.isfinite(log_maps.grad).all()


def test_a_labelled_point_outside_the_frame_asks_for_the_cells_nearest_to_it() -> None:
    log_maps = torch.tensor([0.7, 0.3]).log().expand(1, 1, 1, 2)
    loss = heat_map_loss(log_maps, torch.tensor([[[[-40.0, 0.5]]]]), (1, 2), 0.7)
    assert loss.item() == pytest.approx(-math.log(0.7), rel=1e-4)


def test_without_any_known_point_the_loss_of_maps_is_zero() -> None:
    log_maps = torch.zeros(1, 2, 1, 4, requires_grad=True)
    loss = heat_map_loss(log_maps, torch.full((1, 2, 1, 2), float("nan")), (2, 2), 0.7)
    loss.backward()
    assert loss == 0 and log_maps.grad.abs().sum() == 0


def test_the_maps_loss_is_a_part_of_the_tasks_loss_and_told_apart() -> None:
    clips, labels = random_clips(), random_labels()
    plain = heat_map_model()(clips, **labels)
    outputs = heat_map_model(weight=0.3)(clips, **labels, output_heat_maps=True)
    assert plain.heat_map_losses is None and list(outputs.heat_map_losses) == ["face_box", "face_landmarks"]
    for name, loss in outputs.heat_map_losses.items():
        assert outputs.task_losses[name].item() == pytest.approx(
            plain.task_losses[name].item() + 0.3 * loss.item(), rel=1e-5
        )
    weights = {"face_box": 1.0, "face_landmarks": 1.0, "expression": 1.0}
    total = sum(weights[name] * loss for name, loss in outputs.task_losses.items())
    assert outputs.loss.item() == pytest.approx(total.item(), rel=1e-5)
    # A cross-entropy is at least the entropy of its target: for maps that are the target, it is that entropy.
    maps = outputs.heat_maps[1].detach()
    assert maps.shape == (2, FRAMES, 5, 2, 2)
    literal = []
    for clip in range(2):
        for frame in range(FRAMES):
            for point in range(5):
                x, y = labels["face_landmarks"][clip, frame, point].tolist()
                weight = {
                    (row, column): math.exp(-((column + 0.5 - 2 * x) ** 2 + (row + 0.5 - 2 * y) ** 2) / (2 * 0.49))
                    for row in range(2)
                    for column in range(2)
                }
                shares = {place: value / sum(weight.values()) for place, value in weight.items()}
                literal.append(
                    -sum(share * math.log(maps[clip, frame, point][place]) for place, share in shares.items())
                )
    expected = sum(literal) / len(literal)
    assert outputs.heat_map_losses["face_landmarks"].item() == pytest.approx(expected, rel=1e-4)


def test_frames_without_a_face_give_the_maps_no_gradient() -> None:
    model, labels = heat_map_model(weight=1.0), random_labels()
    labels["face_found"][:] = False
    model(random_clips(), **labels).loss.backward()
    for name in ("face_box", "face_landmarks"):
        assert all(parameter.grad.abs().sum() == 0 for parameter in model.heads[name].parameters())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_finds_points_and_its_gradient_reaches_every_weight(structure: str) -> None:
    overrides = {"structure": structure}
    tasks = face_tasks(weight=0.5)
    if structure == "single_task":
        tasks = [POINT_TASK | {"pooling": "heat_map", "heat_map_weight": 0.5}]
    if structure == "mtl_er":
        overrides |= {"decoder_hidden_size": 24}
    model = tiny_model(tasks=tasks, **overrides).train()
    used = {key for task in model.tasks for key in (task.label_key, task.mask_key)}
    labels = {key: value for key, value in random_labels().items() if key in used}
    outputs = model(random_clips(), **labels, output_heat_maps=True)
    assert outputs.face_landmarks.shape == (2, FRAMES, 5, 2)
    for maps in outputs.heat_maps:
        torch.testing.assert_close(maps.sum(dim=(-2, -1)), torch.ones(maps.shape[:3]))
    outputs.loss.backward()
    # The tokens of mtl_er are the same at all places, and so is every score: no map can prefer one.
    flat = ("heads.face_box.score", "heads.face_landmarks.score") if structure == "mtl_er" else ()
    silent = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert [name for name in silent if not name.startswith(flat) and "key.bias" not in name] == []


@torch.no_grad()
def test_in_mnc_the_landmarks_maps_cover_the_predicted_box() -> None:
    model, labels = heat_map_model(weight=1.0, structure="mnc"), random_labels()
    outputs = model(random_clips(), **labels, output_heat_maps=True)
    box_head, point_head = model.heads["face_box"], model.heads["face_landmarks"]
    tokens, predictions = model.structure.predict(model.encoder(random_clips()).last_hidden_state, model.heads)
    torch.testing.assert_close(predictions["face_box"], box_head(tokens["face_box"]))
    inside = point_head(tokens["face_landmarks"])
    losses = []
    for clip in range(2):
        for frame in range(FRAMES):
            x1, y1, x2, y2 = outputs.face_boxes[clip, frame].tolist()
            width, height = max(x2 - x1, SMALLEST_SIDE), max(y2 - y1, SMALLEST_SIDE)
            left, top = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
            for point in range(5):
                x, y = inside[clip, frame, point].tolist()
                expected = torch.tensor([left + x * width, top + y * height])
                torch.testing.assert_close(outputs.face_landmarks[clip, frame, point], expected, atol=1e-5, rtol=1e-4)
                x, y = labels["face_landmarks"][clip, frame, point].tolist()
                relative = torch.tensor([[[[(x - left) / width, (y - top) / height]]]])
                log_maps = outputs.heat_maps[1][clip, frame, point].log().flatten().reshape(1, 1, 1, 4)
                losses.append(float(heat_map_loss(log_maps, relative, (2, 2), 0.7)))
    assert outputs.heat_map_losses["face_landmarks"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_half_precision_moves_no_point_by_a_hundredth_of_the_frame() -> None:
    model = heat_map_model(weight=0.3).train()
    exact = model(random_clips(), **random_labels())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(random_clips(), **random_labels())
    assert outputs.face_landmarks.dtype == torch.float32 and outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    halved = model.bfloat16()(random_clips().bfloat16(), **random_labels(), output_heat_maps=True)
    halved.loss.backward()
    sums = halved.heat_maps[0].sum(dim=(-2, -1))
    torch.testing.assert_close(sums, torch.ones_like(sums))  # in float32, whatever the weights are


def test_gradient_checkpointing_changes_no_gradient_of_heat_maps() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = heat_map_model(weight=0.3).train()
        if checkpointing:
            checkpoint_activations(model)
        model(random_clips(), **random_labels()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("structure", ["cascaded", "mnc"])
def test_heat_maps_stay_in_one_graph(structure: str) -> None:
    torch._dynamo.reset()
    model = heat_map_model(weight=0.3, structure=structure, encoder_config=ONE_LAYER, decoder_num_layers=1)
    clips, labels = random_clips(), random_labels()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clips, **labels).loss, model(clips, **labels).loss)
    maps = compiled(clips, output_heat_maps=True).heat_maps
    torch.testing.assert_close(maps, model(clips, output_heat_maps=True).heat_maps)


@torch.no_grad()
def test_a_saved_model_keeps_its_maps(tmp_path: Path) -> None:
    model = heat_map_model(weight=0.3)
    model.save_pretrained(tmp_path)
    again = MTCAEForMultiTaskVideo.from_pretrained(tmp_path)
    expected, outputs = (one(random_clips(), output_heat_maps=True) for one in (model, again))
    torch.testing.assert_close(outputs.heat_maps, expected.heat_maps)
    assert again.tasks[0].heat_map_weight == 0.3 and again.tasks[0].heat_map_deviation == 0.7


def test_maps_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="output_heat_maps=True: no task of this model has the pooling 'heat_map'"):
        tiny_model()(random_clips(), output_heat_maps=True)


@torch.no_grad()
def test_shorter_clips_give_fewer_frames() -> None:
    model = heat_map_model()
    encoded = model.encoder(random_clips()).last_hidden_state
    whole, half = model(encoded_clips=encoded), model(encoded_clips=encoded[:, :4])
    assert half.face_landmarks.shape == (2, FRAMES // 2, 5, 2) and half.logits.shape == whole.logits.shape
    with pytest.raises(ValueError, match="pooling of face_box, face_landmarks gives 4 at once"):
        tiny_model()(encoded_clips=encoded[:, :4])
    for tokens in (encoded[:, :3], torch.cat([encoded, encoded], dim=1), encoded[:, :0]):
        with pytest.raises(ValueError, match=r"takes 2 x 2 of each of at most 2 tubelets"):
            model(encoded_clips=tokens)


@pytest.mark.parametrize("structure", ["mnc", "mtl_er", "mtformer", "fully_shared"])
@torch.no_grad()
def test_every_structure_takes_shorter_clips(structure: str) -> None:
    model = heat_map_model(structure=structure)
    encoded = model.encoder(random_clips()).last_hidden_state
    assert model(encoded_clips=encoded[:, :4]).face_boxes.shape == (2, FRAMES // 2, 4)


@torch.no_grad()
def test_pixels_of_shorter_clips_need_an_encoder_that_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = heat_map_model()
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 32, 32\); this model takes \(clips, 4 frames"):
        model(random_clips()[:, :2])
    monkeypatch.setitem(ENCODERS, "videomae", Encoder(takes_fewer_frames=True))
    encoded = BaseModelOutput(last_hidden_state=torch.zeros(2, 4, 24))
    monkeypatch.setattr(VideoMAEModel, "forward", lambda *arguments, **options: encoded)
    assert model(random_clips()[:, :2]).face_boxes.shape == (2, 2, 4)
    with pytest.raises(ValueError, match="3 frames; a shorter clip must have a multiple of 2"):
        model(random_clips()[:, :3])
    with pytest.raises(ValueError, match="at most 4 frames"):
        model(torch.zeros(1, 5, 3, 32, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tiny_config(tasks=[EXPRESSION_TASK | {"pooling": "heat_map"}]),
            r"^tasks.expression.pooling='heat_map': .*not a classification per clip of \[7\]; take one of mean, time",
        ),
        (lambda: tiny_config(pooling="heat_map"), r"^tasks.expression.pooling='heat_map': finds points of every frame"),
        (
            lambda: tiny_config(tasks=[BOX_TASK | {"per": "clip", "pooling": "heat_map"}]),
            r"^tasks.face_box.pooling='heat_map': .*not a regression per clip",
        ),
        (
            lambda: tiny_config(tasks=[POINT_TASK | {"output_shape": [5, 3], "pooling": "heat_map"}]),
            r"^tasks.face_landmarks.pooling='heat_map': .*\[4\] \(a box\) or \[points, 2\].* of \[5, 3\]",
        ),
        (
            lambda: tiny_config(tasks=face_tasks(), encoder_config=ENCODER | {"patch_size": 32}),
            r"^tasks.face_box.pooling='heat_map': .*grid 1 x 1\); take one of mean, time, time_and_place, attention$",
        ),
        (
            lambda: tiny_config(tasks=[BOX_TASK | {"heat_map_weight": 0.3}]),
            r"^tasks.face_box.heat_map_weight=0.3: weighs heat maps, which need pooling 'heat_map'$",
        ),
        (
            lambda: tiny_config(tasks=face_tasks(heat_map_deviation=0.0)),
            r"^tasks.face_box.heat_map_deviation=0.0: must be greater than 0$",
        ),
        (
            lambda: tiny_config(tasks=face_tasks(weight=-1.0)),
            r"^tasks.face_box.heat_map_weight=-1.0: must be a finite number, at least 0$",
        ),
    ],
)
def test_heat_maps_where_they_mean_nothing_are_refused(make: Callable[[], MTCAEConfig], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@torch.no_grad()
def test_attention_pooling_equals_a_literal_statement() -> None:
    config = tiny_config(tasks=[EXPRESSION_TASK | {"pooling": "attention"}], pooling_maps=3)
    torch.manual_seed(0)
    head = randomise(build_head(config, config.task_descriptions[0], size=6)).double()
    tokens = torch.randn(8, 6, dtype=torch.double)
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + head.norm.eps).sqrt()
    normed = normed * head.norm.weight + head.norm.bias
    pooled = []
    for query in head.pool.queries:
        exponentials = [math.exp(float(query @ token)) for token in normed]
        pooled.append(sum(e / sum(exponentials) * token for e, token in zip(exponentials, normed, strict=True)))
    expected = head.output.weight @ torch.cat(pooled) + head.output.bias
    torch.testing.assert_close(head(tokens[None])[0], expected, atol=1e-5, rtol=1e-5)


def test_attention_pooling_trains_its_queries() -> None:
    model = MTCAEForMultiTaskVideo(tiny_config(pooling="attention", initializer_range=0.05)).train()
    queries = [model.heads[name].pool.queries for name in model.heads]
    assert all(0.02 < weight.detach().std().item() < 0.1 for weight in queries)
    model(random_clips(), **random_labels()).loss.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in queries)


@pytest.mark.parametrize("structure", ["non_fully_shared", "fully_shared", "cascaded", "mtformer"])
def test_decoders_that_start_at_zero_hand_on_what_they_get(structure: str) -> None:
    torch.manual_seed(0)
    model = MTCAEForMultiTaskVideo(tiny_config(structure=structure, decoder_zero_start=True)).train()
    encoded = model.encoder(random_clips()).last_hidden_state
    projections = [module for name, module in model.structure.named_modules() if name.endswith("dense")]
    projections = projections if structure == "non_fully_shared" else projections[:1] * 3
    for projection, tokens in zip(projections, model.structure(encoded).values(), strict=True):
        torch.testing.assert_close(tokens, projection(encoded))
    model(random_clips(), **random_labels()).loss.backward()
    zeros = [module.weight for module in model.structure.modules() if isinstance(module, ZeroStartLinear)]
    assert zeros and all(weight.abs().sum() == 0 < weight.grad.abs().sum() for weight in zeros)


def test_decoders_start_as_they_always_did_by_default() -> None:
    model = MTCAEForMultiTaskVideo(tiny_config())
    layer = model.structure.decoders["face_box"].layers[0]
    assert layer.cross_attention.output.weight.abs().sum() > 0 and layer.mlp.dense_out.weight.abs().sum() > 0


# What a config.json of November 2026, before heat maps, held, besides the encoder's.
EARLIER_FIELDS = {
    "architectures",
    "decoder_attention_dropout",
    "decoder_dropout",
    "decoder_head_dim",
    "decoder_hidden_act",
    "decoder_hidden_size",
    "decoder_mlp_ratio",
    "decoder_num_attention_heads",
    "decoder_num_layers",
    "decoder_type",
    "dtype",
    "encoder_config",
    "id2label",
    "initializer_range",
    "label2id",
    "layer_norm_eps",
    "model_type",
    "pooling",
    "pooling_maps",
    "share_decoder_layers",
    "structure",
    "tasks",
}
EARLIER_TASK_FIELDS = {"kind", "label_key", "loss", "mask_key", "name", "output_shape", "per", "pooling", "weight"}


@torch.no_grad()
def test_a_folder_of_an_earlier_version_loads_unchanged(tmp_path: Path) -> None:
    saved = tiny_model()
    saved.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    fields = {name: value for name, value in json.loads(file.read_text()).items() if name in EARLIER_FIELDS}
    fields["tasks"] = [
        {name: value for name, value in task.items() if name in EARLIER_TASK_FIELDS} for task in fields["tasks"]
    ]
    file.write_text(json.dumps(fields))
    model, report = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.decoder_zero_start is False and model.config.temperature == 1
    assert all(task.heat_map_weight == 0 and task.pooling != "heat_map" for task in model.tasks)
    clips = random_clips()
    assert torch.equal(model(clips).logits, saved(clips).logits)
    assert torch.equal(model(clips).face_landmarks, saved(clips).face_landmarks)
