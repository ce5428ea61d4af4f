"""LGI-Former: published sizes, a literal second statement of the block, masked pre-training, use under the cascade."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    VideoMAEConfig,
    VideoMAEForPreTraining,
)
from transformers.initialization import no_init_weights

import mtcae_dfer  # noqa: F401  registers the classes with the Auto* classes
from mtcae_dfer.configuration_lgi_former import LGIFormerConfig
from mtcae_dfer.configuration_mtcae import MTCAEConfig, TaskDescription, paper_tasks
from mtcae_dfer.masked_tubelets import merge_regions, partition_regions, reconstruction_targets, stratified_tube_mask
from mtcae_dfer.modeling_layers import Residual
from mtcae_dfer.modeling_lgi_former import LGIFormerForPreTraining, LGIFormerForVideoClassification, LGIFormerModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.running import checkpoint_activations
from tests.support.kinds_of_models import LGI_FORMER

TINY_TASKS = {"decoder_hidden_size": 16, "decoder_num_layers": 2, "decoder_head_dim": 8}


def build_tiny(model_class: type = LGIFormerModel, **fields: object) -> torch.nn.Module:
    """A tiny model whose weights are all random, biases and norms included."""
    torch.manual_seed(0)
    model = model_class(LGIFormerConfig(**(LGI_FORMER | fields))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def draw_clips(batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 8, 3, 48, 32, generator=torch.Generator().manual_seed(1))


def draw_mask(batch_size: int = 2) -> torch.Tensor:
    return stratified_tube_mask((4, 6, 4), (2, 2, 2), 0.75, batch_size, torch.Generator().manual_seed(2))


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_giga_multiply_adds(model: torch.nn.Module, *inputs: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    # The counter counts a multiplication and an addition apart.
    return counter.get_total_flops() / 2e9


# ---------------------------------------------------------------------------------------------- published sizes


@pytest.mark.parametrize(
    ("num_labels", "expected"), [(6, 84_877_830), (7, 84_878_343), (8, 84_878_856), (11, 84_880_395)]
)
def test_classifier_has_the_published_number_of_parameters(num_labels: int, expected: int) -> None:
    with torch.device("meta"):
        model = LGIFormerForVideoClassification(LGIFormerConfig(num_labels=num_labels))
    assert count_parameters(model) == expected


def test_pre_training_model_has_the_published_number_of_parameters_in_every_part() -> None:
    with torch.device("meta"):
        model = LGIFormerForPreTraining(LGIFormerConfig())
    decoder_parts = (model.decoder_layers, model.decoder_norm, model.decoder_head)
    assert count_parameters(model) == 92_760_192
    assert count_parameters(model.lgi_former) == 84_874_752
    assert sum(count_parameters(part) for part in decoder_parts) == 7_688_448
    assert count_parameters(model.encoder_to_decoder) == 196_608
    assert model.mask_token.numel() == 384
    assert count_parameters(model.lgi_former.layers[0]) == 5_255_168


@pytest.mark.parametrize(
    ("region_size", "expected"),
    [((2, 5, 10), 49.65), ((2, 5, 5), 49.71), ((2, 2, 10), 49.93), ((4, 5, 10), 50.61), ((8, 10, 10), 58.21)],
)
def test_encoder_needs_the_published_multiply_adds(region_size: tuple[int, int, int], expected: float) -> None:
    with torch.device("meta"):
        model = LGIFormerModel(LGIFormerConfig(region_size=region_size))
        count = count_giga_multiply_adds(model, torch.empty(1, 16, 3, 160, 160))
    assert count == pytest.approx(expected, rel=2e-3)


def test_classifier_saves_the_dead_work_of_its_last_block() -> None:
    with torch.device("meta"):
        model = LGIFormerForVideoClassification(LGIFormerConfig())
        count = count_giga_multiply_adds(model, torch.empty(1, 16, 3, 160, 160))
    # 2.1 G are dead by the published account; queries and outputs of local tokens within regions come on top.
    assert 46 < count < 49.65 - 2.1


@pytest.mark.parametrize(("image_size", "region_size", "regions"), [(224, (2, 7, 14), 8), (112, (2, 7, 7), 4)])
def test_other_image_sizes_take_other_regions(image_size: int, region_size: tuple, regions: int) -> None:
    config = LGIFormerConfig(image_size=image_size, region_size=region_size)
    with torch.device("meta"):
        output = LGIFormerModel(config)(torch.empty(1, 16, 3, image_size, image_size))
    assert output.last_hidden_state.shape == (1, config.num_tokens, 512)
    assert output.representative_tokens.shape == (1, regions, 512)


# ------------------------------------------------------------------------- the literal second statement


def literal_norm(x: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + 1e-6).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def literal_attention(q: torch.Tensor, c: torch.Tensor, weights: dict, name: str, heads: int) -> torch.Tensor:
    """One sequence (n, D) on a context (k, D), head by head."""
    queries = torch.einsum("nd,ed->ne", q, weights[f"{name}.query.weight"]) + weights[f"{name}.query.bias"]
    keys = torch.einsum("nd,ed->ne", c, weights[f"{name}.key.weight"])
    values = torch.einsum("nd,ed->ne", c, weights[f"{name}.value.weight"]) + weights[f"{name}.value.bias"]
    width = q.shape[1] // heads
    attended = torch.zeros_like(queries)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.einsum("nd,kd->nk", queries[:, part], keys[:, part]) / width**0.5
        exponentials = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        attended[:, part] = exponentials / exponentials.sum(dim=1, keepdim=True) @ values[:, part]
    return attended @ weights[f"{name}.output.weight"].T + weights[f"{name}.output.bias"]


def literal_mlp(x: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    hidden = x @ weights[f"{name}.dense_in.weight"].T + weights[f"{name}.dense_in.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ weights[f"{name}.dense_out.weight"].T + weights[f"{name}.dense_out.bias"]


def literal_positions(num_positions: int, width: int) -> torch.Tensor:
    table = torch.zeros(num_positions, width, dtype=torch.float64)
    for position, channel in itertools.product(range(num_positions), range(width)):
        angle = torch.tensor(position / 10000 ** (2 * (channel // 2) / width), dtype=torch.float64)
        table[position, channel] = torch.sin(angle) if channel % 2 == 0 else torch.cos(angle)
    return table


def literal_tokens(clip: torch.Tensor, weights: dict, prefix: str = "") -> dict[tuple[int, int, int], torch.Tensor]:
    """Tokens of one clip (T, 3, H, W) by their place (t, h, w), before any block."""
    kernel = weights[f"{prefix}embedding.projection.weight"]
    bias = weights[f"{prefix}embedding.projection.bias"]
    positions = literal_positions(4 * 6 * 4, kernel.shape[0]).to(clip.dtype)
    tokens = {}
    for index, (t, h, w) in enumerate(itertools.product(range(4), range(6), range(4))):
        cube = clip[2 * t : 2 * t + 2, :, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
        tokens[t, h, w] = torch.einsum("tcyx,dctyx->d", cube, kernel) + bias + positions[index]
    return tokens


def literal_encoder(clip: torch.Tensor, weights: dict, visible: set | None = None, prefix: str = "") -> tuple:
    """One clip through all blocks: local tokens by place, and representatives by region, both as dicts."""
    local = literal_tokens(clip, weights, prefix)
    local = {place: token for place, token in local.items() if visible is None or place in visible}
    regions = list(itertools.product(range(2), range(3), range(2)))
    places_of = {
        region: [p for p in sorted(local) if (p[0] // 2, p[1] // 2, p[2] // 2) == region] for region in regions
    }
    representative = dict(zip(regions, weights[f"{prefix}representative_tokens"], strict=True))
    for depth in range(3):
        block = f"{prefix}layers.{depth}"
        for region in regions:
            together = torch.stack([representative[region], *(local[place] for place in places_of[region])])
            normed = literal_norm(together, weights, f"{block}.norm_region")
            together = together + literal_attention(normed, normed, weights, f"{block}.region_attention", 3)
            representative[region] = together[0]
            local.update(zip(places_of[region], together[1:], strict=True))
        among = torch.stack([representative[region] for region in regions])
        normed = literal_norm(among, weights, f"{block}.norm_representatives")
        among = among + literal_attention(normed, normed, weights, f"{block}.representative_attention", 3)
        context = literal_norm(among, weights, f"{block}.norm_interaction_context")
        for place, token in list(local.items()):
            query = literal_norm(token[None], weights, f"{block}.norm_interaction_query")
            token = token + literal_attention(query, context, weights, f"{block}.interaction_attention", 3)[0]
            local[place] = token + literal_mlp(
                literal_norm(token, weights, f"{block}.norm_mlp"), weights, f"{block}.mlp"
            )
        among = among + literal_mlp(literal_norm(among, weights, f"{block}.norm_mlp"), weights, f"{block}.mlp")
        representative = dict(zip(regions, among, strict=True))
    return local, representative


@pytest.mark.parametrize("masked", [False, True])
def test_encoder_equals_a_literal_second_statement(masked: bool) -> None:
    model = build_tiny(final_norm=False)
    clips, mask = draw_clips(), draw_mask() if masked else None
    with torch.no_grad():
        output = model(clips, mask)
        for clip in range(2):
            places = list(itertools.product(range(4), range(6), range(4)))
            visible = {p for p, hidden in zip(places, mask[clip], strict=True) if not hidden} if masked else None
            local, representative = literal_encoder(clips[clip], model.state_dict(), visible)
            expected = torch.stack([local[place] for place in sorted(local)])
            torch.testing.assert_close(output.last_hidden_state[clip], expected, atol=1e-5, rtol=1e-5)
            expected = torch.stack(list(representative.values()))
            torch.testing.assert_close(output.representative_tokens[clip], expected, atol=1e-5, rtol=1e-5)


def test_final_norm_is_over_the_local_tokens_alone() -> None:
    model = build_tiny()
    bare = LGIFormerModel(LGIFormerConfig(**LGI_FORMER, final_norm=False)).eval()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("norm.")})
    with torch.no_grad():
        output, unnormed = model(draw_clips()), bare(draw_clips())
    expected = literal_norm(unnormed.last_hidden_state, model.state_dict(), "norm")
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(output.representative_tokens, unnormed.representative_tokens)


def test_classifier_equals_a_literal_second_statement() -> None:
    model = build_tiny(LGIFormerForVideoClassification)
    weights = model.state_dict()
    with torch.no_grad():
        logits = model(draw_clips()).logits
        _, representative = literal_encoder(draw_clips()[1], weights, prefix="lgi_former.")
        pooled = sum(representative.values()) / 12
        expected = (
            literal_norm(pooled, weights, "fc_norm") @ weights["classifier.weight"].T + weights["classifier.bias"]
        )
    torch.testing.assert_close(logits[1], expected, atol=1e-5, rtol=1e-5)


def test_pre_training_equals_a_literal_second_statement() -> None:
    model = build_tiny(LGIFormerForPreTraining)
    clips, mask, weights = draw_clips(), draw_mask(), model.state_dict()
    places = list(itertools.product(range(4), range(6), range(4)))
    positions = literal_positions(96, 16).float()
    with torch.no_grad():
        logits = model(clips, mask).logits
        visible = {place for place, hidden in zip(places, mask[1], strict=True) if not hidden}
        local, _ = literal_encoder(clips[1], weights, visible, prefix="lgi_former.")
        sequence = []
        for index, place in enumerate(places):
            if place in visible:
                token = literal_norm(local[place], weights, "lgi_former.norm")
                sequence.append(weights["encoder_to_decoder.weight"] @ token + positions[index])
        sequence += [weights["mask_token"][0, 0] + positions[index] for index in mask[1].nonzero()[:, 0]]
        tokens = torch.stack(sequence)
        for depth in range(2):
            block = f"decoder_layers.{depth}"
            normed = literal_norm(tokens, weights, f"{block}.norm_attention")
            tokens = tokens + literal_attention(normed, normed, weights, f"{block}.attention", 2)
            tokens = tokens + literal_mlp(literal_norm(tokens, weights, f"{block}.norm_mlp"), weights, f"{block}.mlp")
        tokens = literal_norm(tokens, weights, "decoder_norm")[len(visible) :]
        expected = tokens @ weights["decoder_head.weight"].T + weights["decoder_head.bias"]
    torch.testing.assert_close(logits[1], expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ regions and dead work


@pytest.mark.parametrize(
    ("grid", "region"), [((4, 6, 4), (2, 2, 2)), ((3, 5, 7), (1, 5, 1)), ((2, 9, 4), (2, 3, 4)), ((1, 1, 1), (1, 1, 1))]
)
def test_regions_hold_their_own_tokens_and_merge_back(grid: tuple, region: tuple) -> None:
    places = torch.tensor(list(itertools.product(*(range(size) for size in grid))))[None]
    regions = partition_regions(places, grid, region)
    for number, first in enumerate(
        itertools.product(*(range(0, size, step) for size, step in zip(grid, region, strict=True)))
    ):
        inside = itertools.product(*(range(begin, begin + step) for begin, step in zip(first, region, strict=True)))
        assert regions[0, number].tolist() == [list(place) for place in inside]
    assert torch.equal(merge_regions(regions, grid, region), places)


def test_skipping_dead_work_changes_no_representative_token() -> None:
    model = build_tiny()
    with torch.no_grad():
        complete, skipped = model(draw_clips()), model(draw_clips(), representatives_only=True)
    torch.testing.assert_close(skipped.representative_tokens, complete.representative_tokens, atol=1e-6, rtol=1e-6)
    assert skipped.last_hidden_state is None


def test_skipping_dead_work_changes_no_gradient() -> None:
    model = build_tiny()
    gradients = []
    for representatives_only in (False, True):
        model.zero_grad()
        model(draw_clips(), representatives_only=representatives_only).representative_tokens.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    dead = {name for name, gradient in gradients[0].items() if not gradient.any()}
    assert dead == gradients[0].keys() - gradients[1].keys()
    assert all(name.startswith("layers.2.") and "interaction" in name for name in dead)
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], atol=1e-4, rtol=1e-4)


def test_classifier_trains_every_weight_that_asks_for_a_gradient() -> None:
    model = build_tiny(LGIFormerForVideoClassification).train()
    model(draw_clips(), labels=torch.tensor([0, 4])).loss.backward()
    untrained = {name for name, p in model.named_parameters() if p.grad is None}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert untrained == frozen
    assert all(name.startswith("lgi_former.layers.2.") and "interaction" in name for name in frozen)


def test_classifier_records_complete_hidden_states_when_asked() -> None:
    model = build_tiny(LGIFormerForVideoClassification)
    with torch.no_grad():
        output = model(draw_clips(), output_hidden_states=True)
        expected = model.lgi_former(draw_clips()).last_hidden_state
        torch.testing.assert_close(output.logits, model(draw_clips()).logits, atol=1e-6, rtol=1e-6)
    assert torch.equal(output.hidden_states[-1], expected)


def test_drop_path_falls_on_whole_entries_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = Residual(dropout=0.0, drop_path_rate=0.25).train()(torch.ones(4000, 2, 3))
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)


def test_drop_path_falls_on_regions_within_and_on_clips_across(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny(drop_path_rate=0.5).train()
    seen = []
    monkeypatch.setattr(Residual, "forward", lambda self, update: seen.append((self.keep, update.shape[0])) or update)
    model(draw_clips())
    assert [entries for _, entries in seen] == [24, 2, 2, 24] * 3
    assert [keep for keep, _ in seen[::4]] == [1.0, 0.75, 0.5]


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"region_size": [2, 4, 2]}, r"region_size=\[2, 4, 2\].*along height take one of \[1, 2, 3, 6\]"),
        ({"region_size": [2, 2]}, "region_size"),
        ({"image_size": 50}, r"image_size \(height\)=50: must be a multiple of 8"),
        ({"num_frames": 7}, "num_frames=7: must be a multiple of 2"),
        ({"hidden_size": 25}, "hidden_size=25: must be a multiple of its 3 heads"),
        ({"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ({"reconstruction_target": "colours"}, "reconstruction_target='colours'"),
        ({"reconstruction_target": "pixels", "motion_loss_weight": 0.5}, "motion_loss_weight=0.5"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LGIFormerConfig(**(LGI_FORMER | fields))


def test_a_mask_with_unequal_regions_is_refused() -> None:
    mask = draw_mask()
    mask[1, mask[1].nonzero()[0]] = False
    with pytest.raises(ValueError, match="regions of clip 1 .* every region of every clip must keep the same number"):
        build_tiny(LGIFormerForPreTraining)(draw_clips(), mask)


def test_a_mask_with_equal_regions_but_unequal_clips_is_refused() -> None:
    mask = torch.cat([draw_mask(1), stratified_tube_mask((4, 6, 4), (2, 2, 2), 0.5)])
    with pytest.raises(ValueError, match="regions of clip 1"):
        build_tiny()(draw_clips(), mask)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_mask_without_visible_or_without_masked_tokens_is_refused(hidden: bool) -> None:
    with pytest.raises(ValueError, match="bool_masked_pos"):
        build_tiny(LGIFormerForPreTraining)(draw_clips(), torch.full((2, 96), hidden))


def test_a_mask_or_clip_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bool_masked_pos has shape \(2, 95\).*\(clips, 96\)"):
        build_tiny()(draw_clips(), draw_mask()[:, :95])
    with pytest.raises(ValueError, match=r"\(2, 7, 3, 48, 32\); this model takes \(clips, 8 frames"):
        build_tiny()(draw_clips()[:, :7])


def test_motion_needs_two_frames_in_a_tubelet() -> None:
    with pytest.raises(ValueError, match="tubelet_size=1"):
        build_tiny(LGIFormerForPreTraining, tubelet_size=1)


# ------------------------------------------------------------------------------------------- masks and targets


def test_stratified_mask_is_a_tube_with_equal_counts_in_every_region() -> None:
    mask = stratified_tube_mask((8, 10, 10), (2, 5, 10), 0.9, 6, torch.Generator().manual_seed(0))
    grid = mask.reshape(6, 8, 10, 10)
    assert (grid == grid[:, :1]).all()
    assert grid[:, 0, :5].sum(dim=(1, 2)).tolist() == [45] * 6
    assert grid[:, 0, 5:].sum(dim=(1, 2)).tolist() == [45] * 6
    assert len({tuple(clip) for clip in mask.tolist()}) == 6
    again = stratified_tube_mask((8, 10, 10), (2, 5, 10), 0.9, 6, torch.Generator().manual_seed(0))
    assert torch.equal(mask, again)


def test_stratified_mask_reaches_every_place() -> None:
    mask = stratified_tube_mask((1, 6, 4), (1, 2, 2), 0.75, 2000, torch.Generator().manual_seed(0))
    assert (mask.float().mean(dim=0) - 0.75).abs().max() < 0.05


@pytest.mark.parametrize(
    ("region", "ratio", "message"), [((2, 4, 2), 0.5, "region_size"), ((2, 2, 2), 1.0, "mask_ratio")]
)
def test_stratified_mask_names_what_is_wrong(region: tuple, ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_tube_mask((4, 6, 4), region, ratio)


def literal_target(clip: torch.Tensor, t: int, h: int, w: int, motion: bool) -> torch.Tensor:
    """The target of one token of one clip (T, 3, H, W), value by value."""
    target = torch.zeros(2, 8, 8, 3, dtype=torch.float64)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        cube = clip[2 * t : 2 * t + 2, channel, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8].double() * std + mean
        values = cube.flatten().tolist()
        average = sum(values) / len(values)
        deviation = (sum((value - average) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        for frame, row, column in itertools.product(range(2), range(8), range(8)):
            value = (cube[frame, row, column] - average) / (deviation + 1e-6)
            if motion and frame == 1:
                value = (cube[1, row, column] - cube[0, row, column]) / (deviation + 1e-6)
            target[frame, row, column, channel] = value
    return target.flatten().float()


@pytest.mark.parametrize("kind", ["appearance_and_motion", "pixels"])
def test_targets_equal_a_slow_literal_statement(kind: str) -> None:
    clips = draw_clips()
    targets = reconstruction_targets(clips, 2, (8, 8), kind)
    for index, place in ((0, (0, 0, 0)), (27, (1, 0, 3)), (95, (3, 5, 3))):
        expected = literal_target(clips[1], *place, motion=kind == "appearance_and_motion")
        torch.testing.assert_close(targets[1, index], expected, atol=1e-5, rtol=1e-5)


def test_mask_and_pixel_target_are_those_of_videomae() -> None:
    """transformers' own pre-training model takes the plain tube mask, and its loss is that of our target."""
    sizes = {
        name: value for name, value in LGI_FORMER.items() if name not in ("region_size", "mask_ratio", "image_size")
    }
    model = VideoMAEForPreTraining(VideoMAEConfig(**sizes, image_size=32)).eval()
    clips = draw_clips()[..., :32, :]
    mask = stratified_tube_mask((4, 4, 4), (4, 4, 4), 0.9, 2)
    assert mask.reshape(2, 4, 16).sum(dim=2).eq(14).all()
    output = model(clips, bool_masked_pos=mask)
    targets = reconstruction_targets(clips, 2, (8, 8), "pixels")[mask].reshape(output.logits.shape)
    assert output.loss.item() == pytest.approx((output.logits - targets).square().mean().item(), rel=1e-5)


def test_targets_of_still_tubelets_have_no_motion_and_no_nan() -> None:
    still = draw_clips()[:, :1].repeat(1, 8, 1, 1, 1)
    targets = reconstruction_targets(still, 2, (8, 8))
    assert targets[..., : 8 * 8 * 3].any()
    assert not targets[..., 8 * 8 * 3 :].any()
    assert reconstruction_targets(torch.zeros(1, 8, 3, 48, 32), 2, (8, 8)).abs().max() < 1e-3


def test_losses_are_means_over_the_masked_tokens() -> None:
    clips, mask = draw_clips(), draw_mask()
    output = build_tiny(LGIFormerForPreTraining)(clips, mask)
    errors = (output.logits - reconstruction_targets(clips, 2, (8, 8))[mask].reshape(output.logits.shape)) ** 2
    assert output.appearance_loss.item() == pytest.approx(errors[..., :192].mean().item(), rel=1e-5)
    assert output.motion_loss.item() == pytest.approx(errors[..., 192:].mean().item(), rel=1e-5)
    assert output.loss.item() == pytest.approx(errors.mean().item(), rel=1e-5)
    halves = (output.appearance_loss + output.motion_loss) / 2
    assert output.loss.item() == pytest.approx(halves.item(), rel=1e-5)
    weighted = build_tiny(LGIFormerForPreTraining, motion_loss_weight=0.75)(clips, mask)
    expected = 0.25 * output.appearance_loss + 0.75 * output.motion_loss
    assert weighted.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pixel_target_reports_no_motion() -> None:
    output = build_tiny(LGIFormerForPreTraining, reconstruction_target="pixels")(draw_clips(), draw_mask())
    assert output.motion_loss is None
    assert output.loss == output.appearance_loss


def test_masked_colours_reach_the_prediction_only_as_targets() -> None:
    model = build_tiny(LGIFormerForPreTraining)
    clips, mask = draw_clips(1), draw_mask(1)
    hidden = mask.reshape(1, 4, 6, 4)
    hidden = hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3).unsqueeze(2)
    with torch.no_grad():
        seen = model(clips, mask).logits
        repainted = model(torch.where(hidden, torch.randn_like(clips), clips), mask).logits
    torch.testing.assert_close(seen, repainted)


def test_released_order_moves_half_of_the_visible_positions() -> None:
    """At MAE-DFER's size the middle two groups of five in every twenty visible tokens are swapped."""
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    sizes |= {f"decoder_{name}": value for name, value in sizes.items()}
    with torch.device("meta"):
        model = LGIFormerForPreTraining(LGIFormerConfig(**sizes, released_decoder_order=True))
    mask = stratified_tube_mask((8, 10, 10), (2, 5, 10), 0.9)
    # Which visible token, counted in raster order, meets each of the decoder's positions.
    released = model.lgi_former.order_visible_tokens(mask)[0].argsort().argsort()
    groups = released.reshape(4, 4, 5) // 5 - 4 * torch.arange(4).reshape(4, 1, 1)
    assert (groups == torch.tensor([0, 2, 1, 3]).reshape(1, 4, 1)).all()
    assert (released != torch.arange(80)).float().mean() == 0.5


def test_released_order_reaches_the_decoder_and_is_off_by_default() -> None:
    clips, mask = draw_clips(), draw_mask()
    with torch.no_grad():
        raster = build_tiny(LGIFormerForPreTraining)(clips, mask).logits
        released = build_tiny(LGIFormerForPreTraining, released_decoder_order=True)(clips, mask).logits
    assert (raster - released).abs().max() > 1e-3


def test_pre_training_lowers_its_loss() -> None:
    torch.manual_seed(0)
    model = LGIFormerForPreTraining(LGIFormerConfig(**LGI_FORMER)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    # A wave that moves with time: appearance and motion can both be told from what is visible.
    rows, columns = torch.arange(48).reshape(48, 1), torch.arange(32)
    wave = torch.stack([torch.sin((rows + columns + 2 * frame) / 5) for frame in range(8)])
    clips, mask = wave.reshape(1, 8, 1, 48, 32).repeat(2, 1, 3, 1, 1), draw_mask()
    first = model(clips, mask)
    for _ in range(60):
        loss = model(clips, mask).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = model(clips, mask)
    assert last.appearance_loss < 0.8 * first.appearance_loss
    assert last.motion_loss < 0.8 * first.motion_loss


# --------------------------------------------------------------------------------- as a transformers model


def test_eager_and_sdpa_agree() -> None:
    model = build_tiny(LGIFormerForPreTraining)
    outputs = []
    with torch.no_grad():
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            outputs.append(model(draw_clips(), draw_mask()).logits)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_hidden_states_and_attentions_are_recorded_in_raster_order() -> None:
    model = build_tiny()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(
            draw_clips(),
            output_hidden_states=True,
            output_attentions=True,
            output_representative_attentions=True,
            output_interaction_attentions=True,
        )
        torch.testing.assert_close(output.hidden_states[0], model.embedding(draw_clips()))
        torch.testing.assert_close(model.norm(output.hidden_states[-1]), output.last_hidden_state)
    assert [state.shape for state in output.hidden_states] == [(2, 96, 24)] * 4
    assert [weights.shape for weights in output.attentions] == [(24, 3, 9, 9)] * 3
    assert [weights.shape for weights in output.representative_attentions] == [(2, 3, 12, 12)] * 3
    assert [weights.shape for weights in output.interaction_attentions] == [(2, 3, 96, 12)] * 3
    without = model(draw_clips())
    assert without.hidden_states is None and without.attentions is None


def test_tuple_output_holds_the_same_tensors() -> None:
    model = build_tiny(LGIFormerForVideoClassification)
    with torch.no_grad():
        as_tuple = model(draw_clips(), return_dict=False)
        assert torch.equal(as_tuple[0], model(draw_clips()).logits)
        model.lgi_former.config.return_dict = False
        local, representatives = model.lgi_former(draw_clips())
    assert local.shape == (2, 96, 24) and representatives.shape == (2, 12, 24)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = build_tiny(LGIFormerForPreTraining).train()
    model(draw_clips(), draw_mask()).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    checkpoint_activations(model)
    assert all(layer.gradient_checkpointing for layer in [*model.lgi_former.layers, *model.decoder_layers])
    model(draw_clips(), draw_mask()).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("auto_class", "model_class"),
    [
        (AutoModel, LGIFormerModel),
        (AutoModelForVideoClassification, LGIFormerForVideoClassification),
        (AutoModelForPreTraining, LGIFormerForPreTraining),
    ],
)
def test_auto_classes_reload_every_weight_and_the_position_table(auto_class: type, model_class: type, tmp_path) -> None:
    model = build_tiny(model_class)
    model.save_pretrained(tmp_path)
    reloaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(reloaded) is model_class
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not any("table" in name for name in model.state_dict())
    for (name, value), (_, again) in zip(
        [*model.named_parameters(), *model.named_buffers()],
        [*reloaded.named_parameters(), *reloaded.named_buffers()],
        strict=True,
    ):
        assert torch.equal(value, again), name
        assert value.requires_grad == again.requires_grad, name


def test_half_precision_models_take_the_table_from_full_precision(tmp_path) -> None:
    model = build_tiny()
    model.save_pretrained(tmp_path)
    half = LGIFormerModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(half.embedding.positions.table, model.embedding.positions.table.bfloat16())
    assert half(draw_clips().bfloat16()).last_hidden_state.dtype == torch.bfloat16


def test_the_position_table_is_there_without_initialisation_and_empty_on_the_meta_device() -> None:
    config = LGIFormerConfig(**LGI_FORMER)
    with no_init_weights():
        bare = LGIFormerModel(config)
    expected = literal_positions(96, 24).float()
    torch.testing.assert_close(bare.embedding.positions.table[0], expected, atol=1e-5, rtol=0)
    with torch.device("meta"):
        model = LGIFormerModel(config)
        assert model.embedding.positions.table.is_meta
        assert model(torch.empty(1, 8, 3, 48, 32)).last_hidden_state.shape == (1, 96, 24)


def test_fresh_weights_have_the_published_spread() -> None:
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512, "num_hidden_layers": 1}
    classifier = LGIFormerForVideoClassification(LGIFormerConfig(**(LGI_FORMER | sizes)))
    layer = classifier.lgi_former.layers[0]
    assert layer.mlp.dense_in.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.region_attention.query.bias.any()
    assert classifier.lgi_former.representative_tokens.std().item() == pytest.approx(0.0176, rel=0.1)
    assert classifier.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    pre_training = LGIFormerForPreTraining(LGIFormerConfig(**(LGI_FORMER | sizes)))
    weight = pre_training.lgi_former.layers[0].mlp.dense_in.weight
    assert weight.abs().max().item() == pytest.approx((6 / 768) ** 0.5, rel=0.02)
    assert 0 < pre_training.mask_token.abs().max() <= 0.02


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_without_graph_breaks(masked: bool) -> None:
    model = build_tiny(LGIFormerForPreTraining if masked else LGIFormerForVideoClassification)
    inputs = (draw_clips(), draw_mask()) if masked else (draw_clips(),)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(*inputs)
        torch.testing.assert_close(compiled.logits, model(*inputs).logits, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- under the cascade


def build_cascade(structure: str = "cascaded", **fields: object) -> MTCAEForMultiTaskVideo:
    torch.manual_seed(0)
    tasks = [TaskDescription("expression", kind="classification", label_key="labels")]
    tasks = tasks if structure == "single_task" else paper_tasks()
    encoder_config = {"model_type": "lgi_former", **LGI_FORMER}
    config = MTCAEConfig(encoder_config=encoder_config, structure=structure, tasks=tasks, **TINY_TASKS, **fields)
    return MTCAEForMultiTaskVideo(config).eval()


@pytest.mark.parametrize(
    ("structure", "decoder_type"),
    [
        ("single_task", "vit"),
        ("non_fully_shared", "mlp"),
        ("non_fully_shared", "vit"),
        ("fully_shared", "mlp"),
        ("fully_shared", "vit"),
        ("cascaded", "vit"),
    ],
)
def test_every_structure_trains_on_its_tokens(structure: str, decoder_type: str) -> None:
    model = build_cascade(structure, decoder_type=decoder_type, pooling="time_and_place").train()
    labels = {"labels": torch.tensor([0, 6])}
    if structure != "single_task":
        labels |= {"face_boxes": torch.rand(2, 8, 4), "face_landmarks": torch.rand(2, 8, 5, 2)}
    output = model(draw_clips(), **labels)
    output.loss.backward()
    assert output.logits.shape == (2, 7)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_cascade_gets_the_encoders_tokens_in_raster_order() -> None:
    model = build_cascade()
    with torch.no_grad():
        output = model(draw_clips(), output_hidden_states=True)
        encoded = model.encoder(draw_clips()).last_hidden_state
        expected = model.heads["expression"](model.structure(encoded)["expression"])
    assert torch.equal(output.logits, expected)
    assert [state.shape for state in output.hidden_states] == [(2, 96, 24)] * 4
    assert model.config.token_grid == (4, 6, 4)


@pytest.mark.parametrize("model_class", [LGIFormerModel, LGIFormerForVideoClassification, LGIFormerForPreTraining])
def test_cascade_takes_pre_trained_weights_and_keeps_them(model_class: type, tmp_path) -> None:
    source = build_tiny(model_class)
    source.save_pretrained(tmp_path / "encoder")
    model = MTCAEForMultiTaskVideo.from_encoder_pretrained(tmp_path / "encoder", **TINY_TASKS)
    model.save_pretrained(tmp_path / "cascade")
    reloaded = AutoModel.from_pretrained(tmp_path / "cascade")
    base = source.base_model
    for candidate in (model, reloaded):
        assert candidate.encoder.state_dict().keys() == base.state_dict().keys()
        for name, value in base.state_dict().items():
            assert torch.equal(candidate.encoder.state_dict()[name], value), name
    with torch.no_grad():
        expected = base.eval()(draw_clips()).last_hidden_state
        torch.testing.assert_close(reloaded.eval().encoder(draw_clips()).last_hidden_state, expected)


def test_classifier_starts_from_pre_trained_weights_without_their_norm(tmp_path) -> None:
    source = build_tiny(LGIFormerForPreTraining)
    source.save_pretrained(tmp_path)
    model, report = LGIFormerForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert "lgi_former.norm.weight" in report["unexpected_keys"]
    assert torch.equal(model.fc_norm.weight, torch.ones(24))
    assert model.config.final_norm is False and model.config.xavier_init is False
