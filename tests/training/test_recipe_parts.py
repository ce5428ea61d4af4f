"""The parts of a recipe against numbers computed by hand: optimiser, average, losses, order of clips, drop path."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader

from mtcae_dfer.configuration_mtcae import TaskDescription, paper_tasks
from mtcae_dfer.hub_dataset.votes import vote_shares
from mtcae_dfer.modeling_encoders import build_encoder, build_encoder_config, encode_clips
from mtcae_dfer.training.arguments import OptimisationArguments
from mtcae_dfer.training.data.mixture import MixtureSampler
from mtcae_dfer.training.data.sampling import EpochSampler
from mtcae_dfer.training.drop_path import set_drop_path
from mtcae_dfer.training.losses import TrainingLoss, balanced_class_weights
from mtcae_dfer.training.optimisation import (
    WeightAverage,
    encoder_blocks,
    layer_scales,
    make_optimiser,
    make_schedule,
    peak_learning_rate,
    step_optimiser,
)
from mtcae_dfer.training.running import make_accelerator
from tests.support.image_models import IMAGE_MODELS, describe_image_model
from tests.support.tiny_models import random_clips, random_labels, randomise, tiny_model
from tests.support.video_encoders import VIDEO_ENCODERS


def test_layer_decay_is_computed_by_hand_for_two_blocks() -> None:
    scales = layer_scales(tiny_model(), 0.5)
    # D = 2: embedding 0.5 ^ 3, first block 0.5 ^ 2, second block 0.5 ^ 1; the encoder's final norm learns like a head.
    found = {
        part: {scale for name, scale in scales.items() if part in name} for part in ("embeddings", "layer.0", "layer.1")
    }
    assert found == {"embeddings": {0.125}, "layer.0": {0.25}, "layer.1": {0.5}}
    assert not any(name.startswith(("structure", "heads")) for name in scales)


def test_every_trained_weight_is_in_one_group_and_only_matrices_decay() -> None:
    model = tiny_model()
    model.encoder.get_input_embeddings().requires_grad_(False)
    options = OptimisationArguments(learning_rate=1e-2, weight_decay=0.1)
    further = [torch.nn.Parameter(torch.zeros(3, 3))]
    optimiser = make_optimiser(model, options, layer_decay=0.5, further=further)
    grouped = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in [*model.parameters(), *further] if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)
    for group in optimiser.param_groups:
        decays = {parameter.ndim > 1 and id(parameter) != id(further[0]) for parameter in group["params"]}
        assert decays == {group["weight_decay"] > 0}
    assert max(group["lr"] for group in optimiser.param_groups) == 1e-2


def test_the_learning_rate_follows_the_clips_of_a_step() -> None:
    options = OptimisationArguments(
        learning_rate=1e-3, per_device_train_batch_size=8, gradient_accumulation_steps=4, scale_learning_rate=True
    )
    assert peak_learning_rate(options, processes=2) == pytest.approx(1e-3 * 64 / 256)
    assert peak_learning_rate(dataclasses.replace(options, scale_learning_rate=False), 2) == 1e-3


def test_warm_up_rises_from_zero_and_cosine_ends_at_zero() -> None:
    options = OptimisationArguments(
        learning_rate=1.0, warmup_epochs=1.0, num_train_epochs=3, lr_scheduler_type="cosine"
    )
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimiser, options, steps_per_epoch=2)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates[:3] == [0.0, 0.5, 1.0] and rates[4] == pytest.approx(0.5)
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)


def test_the_weights_move_only_where_gradients_are_complete_and_did_not_overflow() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # what fp16 has on an accelerator
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    model, optimiser = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    moved, weights = [], []
    for gradient in ([3.0, 4.0], [3.0, 4.0], [math.inf, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.6]):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.tensor([gradient])).sum())
            moved.append(step_optimiser(accelerator, model, optimiser, max_grad_norm=1.0))
        weights.append(model.weight.flatten().tolist())
    # Two batches a step, each with half its gradient: (3, 4) is clipped to (0.6, 0.8), infinity skipped, (0, 0.3) kept.
    assert moved == [False, True, False, False, False, True]
    after_one, after_two = [-0.6, -0.8], [-0.6, -1.1]
    for found, expected in zip(weights, [[0.0, 0.0], *[after_one] * 4, after_two], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    accelerator.free_memory()


def test_the_average_of_weights_is_computed_by_hand_and_leaves_the_weights_alone() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage([weight], decay=0.9)
    for value in (1.0, 2.0):
        weight.data.fill_(value)
        average.update()
    # Decays 2/11 and 3/12: 0 * 2/11 + 1 * 9/11 = 9/11, then 9/11 * 1/4 + 2 * 3/4.
    expected = 9 / 11 / 4 + 1.5
    with average.in_place():
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == 2.0
    other = WeightAverage([torch.nn.Parameter(torch.zeros(1))], decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 2 and other.averages[0].item() == pytest.approx(expected)
    average.keep()
    assert weight.item() == pytest.approx(expected)


def test_statistics_of_a_normalisation_are_averaged_where_asked_and_counts_are_not() -> None:
    norm = torch.nn.BatchNorm1d(1)
    average = WeightAverage(norm.parameters(), 0.9, norm.buffers())
    norm(torch.tensor([[10.0], [10.0]]))  # the running mean goes from 0 to 1
    average.update()
    average.keep()
    assert norm.running_mean.item() == pytest.approx(9 / 11) and norm.num_batches_tracked == 1


def test_balanced_class_weights_give_every_class_the_same_share() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = balanced_class_weights(labels, 4)
    assert weights.tolist() == [0.5, 1.5, 0.75, 1.0]
    assert [float(weights[labels][labels == label].sum()) for label in range(3)] == [1.5, 1.5, 1.5]


def test_fixed_weights_without_options_are_the_models_own_loss() -> None:
    model, labels = tiny_model(), random_labels()
    outputs = model(pixel_values=random_clips(), **labels)
    loss, losses = TrainingLoss(model.tasks)(outputs, labels["labels"])
    assert torch.allclose(loss, outputs.loss) and losses.keys() == outputs.task_losses.keys()


def test_smoothing_and_class_weights_change_the_expression_as_torch_has_it() -> None:
    model, labels = tiny_model(), random_labels()
    outputs = model(pixel_values=random_clips(), **labels)
    weights = torch.linspace(0.5, 2.0, 7)
    _, losses = TrainingLoss(model.tasks, weights, label_smoothing=0.2)(outputs, labels["labels"])
    shares = torch.full((2, 7), 0.2 / 7)
    shares[range(2), labels["labels"]] += 0.8
    by_hand = -(shares * weights * functional.log_softmax(outputs.logits, -1)).sum(-1).mean()
    assert torch.allclose(losses["expression"], by_hand)
    assert losses["face_box"] is outputs.task_losses["face_box"]


def test_votes_of_raters_are_a_share_of_the_target_where_there_are_enough() -> None:
    model, labels = tiny_model(), random_labels()
    outputs = model(pixel_values=random_clips(), **labels)
    counts = np.array([[3, 1, 0, 0, 0, 0, 4], [0, 2, 2, 0, 0, 0, 0]], np.float32)  # eight raters, and four
    votes = torch.from_numpy(vote_shares(counts))
    loss = TrainingLoss(model.tasks, vote_share=0.25)
    _, losses = loss(outputs, labels["labels"], votes=votes)
    shares = torch.zeros(2, 7)
    shares[range(2), labels["labels"]] = torch.tensor([0.75, 1.0])
    shares[0] += 0.25 * torch.tensor(counts[0]) / 8
    log_probabilities = functional.log_softmax(outputs.logits, -1)
    assert torch.allclose(losses["expression"], -(shares * log_probabilities).sum(-1).mean())
    # A clip without a label stays out, whatever raters saw.
    _, losses = loss(outputs, torch.tensor([-100, int(labels["labels"][1])]), votes=votes)
    assert torch.allclose(losses["expression"], -(shares[1] * log_probabilities[1]).sum())


def test_learned_weights_reach_the_minimum_that_calculus_gives() -> None:
    # d/ds of exp(-s) L / 2 + s / 2 is zero at exp(s) = L; for classification, of exp(-s) L + s / 2 at exp(s) = 2 L.
    tasks = [TaskDescription("face_box", output_shape=[4]), TaskDescription("expression", kind="classification")]
    loss = TrainingLoss(tasks, uncertainty=True)

    class Outputs:
        loss = torch.tensor(0.25 + 1.5)
        task_losses = {"face_box": torch.tensor(0.25), "expression": torch.tensor(1.5)}

    optimiser = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        loss(Outputs, torch.zeros(1))[0].backward()
        optimiser.step()
    minimum = {name: value.exp().item() for name, value in loss.log_variances.items()}
    assert minimum == pytest.approx({"face_box": 0.25, "expression": 2 * 1.5}, rel=1e-2)


def test_what_the_model_adds_to_its_task_losses_is_trained_with_every_recipe() -> None:
    torch.manual_seed(0)
    model = tiny_model(uncertainty_weighting=True, contrastive_weight=2.0).train()
    labels = random_labels()
    outputs = model(pixel_values=random_clips(), **labels)
    join = model.uncertainty
    assert TrainingLoss(model.tasks, model_combination=join)(outputs, labels["labels"])[0] is outputs.loss
    weights = {task.name: task.weight for task in model.tasks}
    contrast = outputs.loss - join({name: weights[name] * loss for name, loss in outputs.task_losses.items()})
    smoothed, losses = TrainingLoss(model.tasks, label_smoothing=0.2, model_combination=join)(outputs, labels["labels"])
    expected = join({name: weights[name] * loss for name, loss in losses.items()}) + contrast
    assert torch.allclose(smoothed, expected) and contrast.abs() > 0.1
    smoothed.backward()
    assert model.uncertainty.log_variances.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in model.contrast.parameters())


def test_a_task_of_weight_zero_stays_out_of_the_learned_weights() -> None:
    tasks = [dataclasses.replace(task, weight=0.0) if task.name == "face_box" else task for task in paper_tasks()]
    assert set(TrainingLoss(tasks, uncertainty=True).log_variances) == {"face_landmarks", "expression"}


def test_an_epochs_order_holds_every_clip_once_and_goes_on_where_it_stopped() -> None:
    sampler = EpochSampler(torch.zeros(11, dtype=torch.long), seed=3)
    sampler.begin(2)
    whole = list(sampler)
    assert sorted(whole) == list(range(11))
    sampler.begin(2, done=4)
    assert list(sampler) == whole[4:] and len(sampler) == 11
    sampler.begin(3)
    assert list(sampler) != whole


@pytest.mark.parametrize("kind", ["epoch", "mixture"])
def test_neighbouring_seeds_share_no_order(kind: str) -> None:
    part_of = torch.zeros(40, dtype=torch.long)
    orders = []
    for seed in range(3):
        if kind == "epoch":
            sampler: EpochSampler | MixtureSampler = EpochSampler(part_of, seed)
        else:
            sampler = MixtureSampler(torch.arange(40) // 20, [0.5], batch_size=4, seed=seed)
        for epoch in range(4):
            sampler.begin(epoch)
            orders.append(tuple(sampler))
    assert len(set(orders)) == 3 * 4


def test_neighbouring_seeds_share_no_order_of_shuffled_loaders(tmp_path: Path) -> None:
    orders = []
    for seed in range(3):
        options = OptimisationArguments(output_dir=str(tmp_path), seed=seed)
        loader = make_accelerator(options).prepare(DataLoader(torch.arange(40), shuffle=True))
        for epoch in range(4):
            loader.set_epoch(epoch)
            orders.append(tuple(int(batch) for batch in loader))
    assert len(set(orders)) == 3 * 4


def test_balanced_orders_hold_every_class_equally_often_and_small_classes_evenly() -> None:
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 5)
    sampler = EpochSampler(labels, balanced=True)
    drawn = torch.tensor(list(sampler))
    assert torch.bincount(labels[drawn]).tolist() == [10, 10, 10]
    assert torch.bincount(drawn, minlength=30)[20:].tolist() == [2] * 10


def test_two_processes_get_equally_many_batches() -> None:
    sampler = EpochSampler(torch.zeros(10, dtype=torch.long), round_to=8)
    assert len(sampler) == len(list(sampler)) == 16
    assert len(list(BatchSampler(sampler, 4, drop_last=False))) == 4


def test_drop_path_leaves_out_updates_of_whole_clips_and_keeps_their_mean() -> None:
    encoder = tiny_model().encoder
    set_drop_path(encoder, 0.5)
    first, last = encoder_blocks(encoder)
    tokens = torch.randn(400, 3, 24, generator=torch.Generator().manual_seed(0))
    plain = last.eval()(tokens)
    assert torch.equal(first.train()(tokens), first.eval()(tokens))  # the first block drops nothing
    torch.manual_seed(0)
    dropped = last.train()(tokens)
    untouched = (dropped == tokens).all(dim=(1, 2)).float().mean()
    assert 0.15 < untouched < 0.35  # both updates are left out in a quarter of the clips
    updates = last.attention(last.layernorm_before(tokens))
    last.eval()
    full = last.attention(last.layernorm_before(tokens))
    kept = (updates != 0).any(dim=(1, 2))
    assert torch.allclose(updates[kept], 2 * full[kept], atol=1e-5) and 0.4 < kept.float().mean() < 0.6
    assert torch.equal(last(tokens), plain)


def build_encoders() -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    """Every kind of encoder in its toy size, with clips for it."""
    for model_type, fields in VIDEO_ENCODERS.items():
        yield (
            model_type,
            build_encoder(build_encoder_config({"model_type": model_type, **fields})),
            torch.randn(2, 4, 3, 64, 64),
        )
    for model_type in IMAGE_MODELS:
        # A layer that changes the size has no update to leave out: two layers a stage, where one alone does that.
        deeper = {"depths": [2, 2, 2, 2]} if model_type in ("regnet", "resnet") else {}
        described = {"backbone_config": describe_image_model(model_type, **deeper), "image_size": 64, "num_frames": 2}
        config = build_encoder_config({"model_type": "frame_backbone", "num_temporal_layers": 1, **described})
        yield model_type, build_encoder(config), torch.randn(2, 2, 3, 64, 64)


@torch.no_grad()
def test_the_fine_tuning_recipe_goes_with_every_encoder() -> None:
    torch.manual_seed(0)
    for name, encoder, clips in build_encoders():
        plain = encode_clips(encoder.eval(), clips).last_hidden_state
        whole = torch.nn.Module()
        whole.encoder, whole.head = encoder, torch.nn.Linear(2, 2)
        scales = layer_scales(whole, 0.5)
        blocks = len(encoder_blocks(encoder))
        embedding = [weight for weight, _ in encoder.named_parameters() if "embed" in weight or "stem" in weight]
        # Each of them learns twice as fast as the one before; what comes before them slower than the first.
        assert set(scales.values()) == {0.5**depth for depth in range(1, blocks + 1 + bool(embedding))}, name
        assert {scales[f"encoder.{weight}"] for weight in embedding} <= {0.5 ** (blocks + 1)}, name
        assert embedding or name == "dinov3_convnext"  # whose first stage embeds
        set_drop_path(encoder, 0.5)
        assert torch.equal(encode_clips(encoder.eval(), clips).last_hidden_state, plain), name
        for module in encoder.modules():  # so that what is drawn is what is left out
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        freeze_statistics(encoder.train())
        assert any(not torch.equal(encode_clips(encoder, clips).last_hidden_state, plain) for _ in range(8)), name


def freeze_statistics(encoder: torch.nn.Module) -> None:
    """Batch norms as in evaluation."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def test_a_block_without_a_place_for_drop_path_loses_its_whole_update() -> None:
    config = build_encoder_config({"model_type": "vivit", **VIDEO_ENCODERS["vivit"]})
    encoder = randomise(build_encoder(config))
    set_drop_path(encoder, 0.5)
    first, last = encoder_blocks(encoder)
    tokens = torch.randn(400, 3, 48, generator=torch.Generator().manual_seed(0))
    update = last.eval()(tokens) - tokens
    assert torch.equal(first.train()(tokens), first.eval()(tokens))  # the first block drops nothing
    torch.manual_seed(0)
    dropped = last.train()(tokens) - tokens
    kept = (dropped != 0).any(dim=(1, 2))
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[kept], 2 * update[kept], atol=1e-4, rtol=1e-4)
