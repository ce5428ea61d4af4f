"""The configuration: the paper by default, and every wrong value refused with its field, value and rule."""

import json
from pathlib import Path

import pytest
from tiny_models import tiny_config

from mtcae_dfer import MTCAEConfig, TaskDescription

ROOT = Path(__file__).parents[1]


def test_the_defaults_are_the_paper() -> None:
    config = MTCAEConfig()
    encoder = config.encoder_config
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads) == (1024, 24, 16)
    assert (config.num_frames, config.image_size, config.token_grid) == (16, (224, 224), (8, 14, 14))
    assert (config.decoder_hidden_size, config.decoder_num_layers) == (512, 5)
    assert (config.decoder_num_attention_heads, config.decoder_head_dim) == (3, 512)
    assert (config.structure, config.decoder_type, config.pooling) == ("cascaded", "vit", "mean")
    told = [(task.name, task.loss, task.weight, task.output_shape) for task in config.task_descriptions]
    assert told == [
        ("face_box", "mse", 0.5, [4]),
        ("face_landmarks", "mse", 0.5, [5, 2]),
        ("expression", "cross_entropy", 1.5, [7]),
    ]


def test_the_config_at_the_root_is_the_paper() -> None:
    stored, paper = json.loads((ROOT / "config.json").read_text()), MTCAEConfig()
    assert stored["auto_map"]["AutoModelForVideoClassification"] == "modeling_mtcae.MTCAEForMultiTaskVideo"
    assert MTCAEConfig.from_dict(stored).to_dict() == paper.to_dict() | {"architectures": stored["architectures"]}


def test_a_config_survives_json(tmp_path: Path) -> None:
    tasks = [TaskDescription("valence", output_shape=[1]), TaskDescription("expression", kind="classification")]
    config = tiny_config(tasks=tasks, structure="fully_shared", id2label={0: "calm", 1: "angry"})
    config.save_pretrained(tmp_path)
    again = MTCAEConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.task_descriptions == config.task_descriptions
    assert again.label2id == {"calm": 0, "angry": 1}


def test_the_class_list_sizes_the_expression_task() -> None:
    assert tiny_config(num_labels=6).expression_task.output_shape == [6]
    assert tiny_config(id2label={0: "a", 1: "b", 2: "c"}).expression_task.output_shape == [3]


REGRESSION = {"name": "gaze", "output_shape": [2]}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"structure": "spiral"}, "structure='spiral': must be one of single_task"),
        ({"decoder_type": "cnn"}, "decoder_type='cnn': must be 'vit' or 'mlp'"),
        ({"pooling": "max"}, "pooling='max': must be one of mean"),
        ({"decoder_head_dim": 0}, "decoder_head_dim=0: must be greater than 0"),
        ({"decoder_dropout": 1.0}, "decoder_dropout=1.0: must be at least 0 and less than 1"),
        ({"decoder_type": "mlp"}, "decoder_type='mlp': a cascade needs 'vit'"),
        ({"structure": "single_task"}, "single_task takes one task"),
        ({"tasks": []}, "tasks=.*: must hold at least one task"),
        ({"tasks": [REGRESSION, REGRESSION]}, "tasks=.*: must hold every name once"),
        ({"tasks": [REGRESSION | {"name": "a b"}]}, "tasks.name='a b': must be a Python identifier"),
        ({"tasks": [REGRESSION | {"name": "keys"}]}, "tasks.name='keys': is the name of a dict method"),
        ({"tasks": [REGRESSION | {"kind": "ranking"}]}, "tasks.gaze.kind='ranking': must be one of"),
        ({"tasks": [REGRESSION | {"loss": "cross_entropy"}]}, "tasks.gaze.loss='cross_entropy': must be one of mse"),
        ({"tasks": [REGRESSION | {"weight": -1.0}]}, "tasks.gaze.weight=-1.0: must be at least 0"),
        ({"tasks": [{"name": "gaze"}]}, "tasks.gaze.output_shape=.*: must not be empty"),
        ({"tasks": [REGRESSION | {"wieght": 1.0}]}, "tasks.gaze=.*wieght.*: are no fields of a task description"),
        ({"encoder_config": {"image_size": 32}}, "encoder_config=.*: must name its model_type"),
        (
            {"encoder_config": {"model_type": "videomae", "image_size": 100}},
            r"encoder_config.image_size \(height\)=100: must be a multiple of 16",
        ),
        (
            {"encoder_config": {"model_type": "videomae", "num_frames": 15}},
            "encoder_config.num_frames=15: must be a multiple of 2",
        ),
        (
            {"tasks": [{"name": "expression", "kind": "classification", "output_shape": [3]}]},
            r"tasks.expression.output_shape=\[3\]: must equal the 7 classes of id2label",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(values: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_config(**values)


def test_a_value_of_the_wrong_type_is_named() -> None:
    with pytest.raises(Exception, match="decoder_num_layers"):
        tiny_config(decoder_num_layers="five")
