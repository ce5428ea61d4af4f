"""Explanations: whose attention is drawn, where on the frame, and what is shown beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtcae_dfer.inference.explain import Explanation, draw_explanation, read_attention, read_heat_maps
from mtcae_dfer.inference.models import ModelError
from mtcae_dfer.inference.pictures import PREDICTED
from tests.support.tiny_models import EXPRESSION_TASK, FRAMES, random_clips, tiny_model


def test_attention_maps_are_the_last_layers_average_and_sum_to_one() -> None:
    model, clips = tiny_model(), random_clips(1)
    before = model.config._attn_implementation
    outputs, attention = read_attention(model, clips)
    maps = {name: heads.mean(dim=0) for name, heads in attention.items()}
    assert list(maps) == [task.name for task in model.config.task_descriptions]
    assert float(outputs.logits[0].softmax(dim=-1).sum()) == pytest.approx(1.0, abs=1e-5)
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    last = model(clips, output_attentions=True).cross_attentions[-1]
    expected = last.mean(dim=(0, 1, 2)).view(2, 2, 2)  # tubelets, rows, columns
    assert torch.allclose(maps["expression"][::2] + maps["expression"][1::2], expected, atol=1e-6)
    assert all(float(attention.sum()) == pytest.approx(1.0, abs=1e-5) for attention in maps.values())


def test_every_head_has_a_map_of_its_own_that_sums_to_one() -> None:
    model, clips = tiny_model(), random_clips(1)
    outputs, attention = read_attention(model, clips)
    assert list(attention) == ["face_box", "face_landmarks", "expression"]
    assert {tuple(maps.shape) for maps in attention.values()} == {(3, FRAMES, 2, 2)}
    for maps in attention.values():
        assert maps.sum(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert read_heat_maps(model, outputs) == {}


def test_heat_maps_are_those_of_the_tasks_that_have_some() -> None:
    boxes = {"name": "face_box", "per": "frame", "output_shape": [4], "pooling": "heat_map", "label_key": "face_boxes"}
    expression = {"name": "expression", "kind": "classification", "label_key": "labels"}
    model = tiny_model(tasks=[boxes, expression])
    outputs, _ = read_attention(model, random_clips(1))
    (name, maps), *others = read_heat_maps(model, outputs).items()
    assert name == "face_box" and others == [] and maps.shape == (FRAMES, 2, 2)
    assert maps.sum(dim=(1, 2)).tolist() == pytest.approx([1.0] * FRAMES, abs=1e-4)


def test_a_structure_without_a_decoder_for_every_task_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be explained"):
        read_attention(tiny_model(structure="single_task", tasks=[EXPRESSION_TASK]), random_clips(1))


def share_of(picture: Path, colour: tuple[int, ...], nearly: int = 6) -> float:
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    return float((np.abs(pixels - colour).max(axis=-1) < nearly).mean())


def test_what_the_model_does_not_see_is_pale_and_answers_stand_beside_the_attention(tmp_path: Path) -> None:
    frames = torch.full((FRAMES, 3, 60, 80), 96, dtype=torch.uint8)
    attention = {"face_box": torch.zeros(3, FRAMES, 2, 2), "expression": torch.zeros(3, FRAMES, 2, 2)}
    boxes = torch.tensor([10.0, 10.0, 50.0, 50.0]).expand(FRAMES, 4)
    times = [0.0, 0.1, 0.2, 0.3]
    orange = tuple(int(PREDICTED[start : start + 2], 16) for start in (1, 3, 5))
    pale = (round(255 - 0.25 * (255 - 96)),) * 3
    whole, half = tmp_path / "whole.png", tmp_path / "half.png"
    draw_explanation(frames, Explanation(attention, {}, {"joy": 1.0}, boxes), times, whole)
    draw_explanation(frames, Explanation(attention, {}, {"joy": 1.0}, seen=(0.5, 0.0, 1.0, 1.0)), times, half)
    assert share_of(whole, pale) < 0.01 and share_of(half, pale) > 0.1
    assert share_of(whole, orange, 70) > 0.001 > share_of(half, orange, 70)
    assert Image.open(whole).size == Image.open(half).size


def test_what_the_model_sees_is_drawn_large() -> None:
    """In the frame's proportions, with room around it, and never beyond the frame."""
    seen = [(0.4, 0.3, 0.6, 0.6), (0.5, 0.3, 0.7, 0.6)]
    left, top, side = Explanation({}, {}, {"joy": 1.0}, seen=seen).view()
    assert side == pytest.approx(1.4 * 0.3)
    assert (left + side / 2, top + side / 2) == pytest.approx((0.55, 0.45))
    assert Explanation({}, {}, {"joy": 1.0}, seen=(0.0, 0.0, 0.2, 0.2)).view() == pytest.approx((0.0, 0.0, 0.28))
    assert Explanation({}, {}, {"joy": 1.0}).view() == pytest.approx((0.0, 0.0, 1.0))
