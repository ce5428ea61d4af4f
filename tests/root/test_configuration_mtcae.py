"""The configuration: the paper by default, and every wrong value refused with its field, value and rule."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, TaskDescription
from mtcae_dfer.configuration_mtcae import paper_tasks
from tests.support.tiny_models import ENCODER, tiny_config, tiny_encoder_config

ROOT = Path(__file__).parents[2]


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


def test_the_config_at_the_root_names_its_classes_and_pipeline() -> None:
    stored = json.loads((ROOT / "config.json").read_text())
    assert stored["auto_map"] == {
        "AutoConfig": "configuration_mtcae.MTCAEConfig",
        "AutoModel": "modeling_mtcae.MTCAEForMultiTaskVideo",
        "AutoModelForVideoClassification": "modeling_mtcae.MTCAEForMultiTaskVideo",
    }
    (pipeline,) = stored["custom_pipelines"].values()
    assert (ROOT / f"{pipeline['impl'].split('.')[0]}.py").is_file()
    config = MTCAEConfig.from_pretrained(ROOT)
    assert [task.name for task in config.task_descriptions] == ["face_box", "face_landmarks", "expression"]
    assert config.structure == "cascaded" and config.encoder_config.model_type == "frame_backbone"
    assert config.temperature > 0 and config.id2label == MTCAEConfig().id2label


def test_a_config_survives_json(tmp_path: Path) -> None:
    tasks = [
        TaskDescription("valence", per="frame", output_shape=[1], loss="l1", weight=0, pooling="time"),
        TaskDescription("expression", kind="classification", label_key="labels"),
        TaskDescription("units", kind="multi_label", output_shape=[2], mask_key="seen", output_names=["AU1", "AU2"]),
    ]
    config = tiny_config(
        encoder_config=ENCODER | {"image_size": [32, 48], "hidden_dropout_prob": 0.1},
        tasks=tasks,
        structure="fully_shared",
        decoder_type="mlp",
        decoder_mlp_ratio=2,
        id2label={0: "calm", 1: "angry"},
    )
    config.save_pretrained(tmp_path)
    for again in (MTCAEConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(again, MTCAEConfig)
        assert again.to_dict() == config.to_dict() | {"_name_or_path": again._name_or_path}
        assert again.task_descriptions == config.task_descriptions
        assert again.encoder_config.image_size == [32, 48] and again.token_grid == (2, 2, 3)
        assert again.label2id == {"calm": 0, "angry": 1}


def test_two_equal_configs_are_equal_and_a_changed_one_is_not() -> None:
    assert tiny_config() == tiny_config()
    assert tiny_config() != tiny_config(decoder_num_layers=3)
    assert MTCAEConfig.from_dict(tiny_config().to_dict()).to_dict() == tiny_config().to_dict()


def test_the_encoder_comes_as_a_dict_or_as_a_config() -> None:
    from_dict, from_config = tiny_config(), tiny_config(encoder_config=tiny_encoder_config())
    assert from_dict.encoder_config.to_dict() == from_config.encoder_config.to_dict()
    assert from_config.num_frames == 4 and from_config.tubelet_size == 2 and from_config.patch_size == (16, 16)


def test_descriptions_come_as_dicts_or_as_objects_and_are_kept_as_dicts() -> None:
    config = tiny_config(tasks=[{"name": "gaze", "output_shape": (2,)}, TaskDescription("age", output_shape=[1])])
    assert [task["name"] for task in config.tasks] == ["gaze", "age"]
    assert all(isinstance(task, dict) for task in config.tasks)
    gaze = config.task_descriptions[0]
    assert (gaze.kind, gaze.per, gaze.loss, gaze.label_key, gaze.weight) == ("regression", "clip", "mse", "gaze", 1.0)


def test_a_given_config_is_not_changed() -> None:
    encoder, tasks = dict(ENCODER), [{"name": "gaze", "output_shape": [2]}]
    tiny_config(encoder_config=encoder, tasks=tasks)
    assert encoder == ENCODER and tasks == [{"name": "gaze", "output_shape": [2]}]


def test_class_names_stand_in_the_order_of_their_scores() -> None:
    config = tiny_config(
        id2label={
            "10": "k",
            "2": "c",
            **{str(number): f"n{number}" for number in (9, 8, 7, 6, 5, 4, 3)},
            1: "b",
            0: "a",
        }
    )
    assert config.class_names == ["a", "b", "c", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "k"]
    assert tiny_config().class_names[:2] == ["neutral", "happiness"]


def test_the_class_list_sizes_the_expression_task() -> None:
    assert tiny_config(num_labels=6).expression_task.output_shape == [6]
    assert tiny_config(id2label={0: "a", 1: "b", 2: "c"}).expression_task.output_shape == [3]
    assert tiny_config(id2label={"0": "a", "1": "b"}).id2label == {0: "a", 1: "b"}


def test_the_class_list_can_change_while_loading(tmp_path: Path) -> None:
    MTCAEForMultiTaskVideo(tiny_config()).save_pretrained(tmp_path)
    for labels in ({"num_labels": 2}, {"id2label": {0: "calm", 1: "angry"}}, {"id2label": {"0": "calm", "1": "angry"}}):
        model = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **labels)
        assert model.heads["expression"].output.out_features == model.config.num_labels == 2
        assert model.config.label2id == {name: index for index, name in model.config.id2label.items()}


def test_a_wrong_value_given_while_loading_is_refused(tmp_path: Path) -> None:
    MTCAEForMultiTaskVideo(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="structure='spiral': must be one of"):
        MTCAEForMultiTaskVideo.from_pretrained(tmp_path, structure="spiral")


def test_an_unknown_name_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tiny_config(decoder_layers=3)
    assert caplog.messages == ["MTCAEConfig has no field decoder_layers: kept, but without any effect."]


def test_what_transformers_hands_over_is_not_called_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MTCAEForMultiTaskVideo(tiny_config(attn_implementation="eager")).save_pretrained(tmp_path)
    MTCAEForMultiTaskVideo.from_pretrained(
        tmp_path, attn_implementation="sdpa", dtype=torch.bfloat16, num_labels=7, output_hidden_states=True
    )
    MTCAEForMultiTaskVideo._from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.float32)
    assert caplog.messages == []


REGRESSION = {"name": "gaze", "output_shape": [2]}
EXPRESSION = {"name": "expression", "kind": "classification"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"structure": "spiral"}, "structure='spiral': must be one of single_task"),
        ({"decoder_type": "cnn"}, "decoder_type='cnn': must be 'vit' or 'mlp'"),
        ({"pooling": "max"}, "pooling='max': must be one of mean"),
        *(
            ({name: 0}, f"{name}=0: must be greater than 0")
            for name in (
                *("decoder_hidden_size", "decoder_num_layers", "decoder_num_attention_heads", "decoder_head_dim"),
                *("decoder_mlp_ratio", "pooling_maps", "layer_norm_eps"),
            )
        ),
        ({"decoder_num_layers": -2}, "decoder_num_layers=-2: must be greater than 0"),
        ({"decoder_mlp_ratio": 0.01}, "decoder_mlp_ratio=0.01: leaves the MLP no hidden channel"),
        ({"decoder_attention_dropout": -0.1}, "decoder_attention_dropout=-0.1: must be at least 0 and less than 1"),
        ({"initializer_range": float("nan")}, "initializer_range=nan: must be at least 0 and less than 1"),
        ({"decoder_hidden_act": "gleu"}, "decoder_hidden_act='gleu': is no activation of transformers"),
        ({"id2label": {0: "calm", 1: "calm"}}, "id2label=.*: must hold every name once"),
        ({"id2label": {1: "calm", 2: "angry"}}, "id2label=.*: must number its names 0, 1, 2"),
        ({"num_frames": 8}, "num_frames=8: is the encoder's; set it in encoder_config"),
        ({"image_size": 64}, "image_size=64: is the encoder's; set it in encoder_config"),
        ({"decoder_dropout": 1.0}, "decoder_dropout=1.0: must be at least 0 and less than 1"),
        ({"decoder_type": "mlp"}, "decoder_type='mlp': a cascade needs 'vit'"),
        ({"structure": "single_task"}, "single_task takes one task"),
        ({"tasks": []}, "tasks=.*: must hold at least one task"),
        ({"tasks": [REGRESSION, REGRESSION]}, "tasks=.*: must hold every name once"),
        ({"tasks": [REGRESSION | {"name": "a b"}]}, "tasks.name='a b': must be a Python identifier"),
        ({"tasks": [REGRESSION | {"name": "class"}]}, "tasks.name='class': must be a Python identifier"),
        ({"tasks": [REGRESSION | {"name": 3}]}, "tasks.name=3: must be a Python identifier"),
        ({"tasks": [REGRESSION | {"name": "keys"}]}, "tasks.name='keys': is the name of an attribute"),
        ({"tasks": [REGRESSION | {"name": "train"}]}, "tasks.name='train': is the name of an attribute"),
        ({"tasks": ["expression"]}, "tasks='expression': every entry must be a task description with a name"),
        ({"tasks": [{"output_shape": [2]}]}, "tasks=.*: every entry must be a task description with a name"),
        ({"tasks": [REGRESSION | {"per": "video"}]}, "tasks.gaze.per='video': must be one of clip, frame"),
        ({"tasks": [REGRESSION | {"pooling": "max"}]}, "tasks.gaze.pooling='max': must be one of mean"),
        ({"tasks": [REGRESSION | {"output_shape": 2}]}, "tasks.gaze.output_shape=2: must be a list of positive whole"),
        ({"tasks": [REGRESSION | {"output_shape": [0]}]}, r"tasks.gaze.output_shape=\[0\]: must be a list of positive"),
        ({"tasks": [REGRESSION | {"output_shape": [1.5]}]}, r"tasks.gaze.output_shape=\[1.5\]: must be a list of pos"),
        (
            {"tasks": [{"name": "mood", "kind": "classification", "output_shape": [2, 3]}]},
            r"tasks.mood.output_shape=\[2, 3\]: must be \[classes\]",
        ),
        ({"tasks": [REGRESSION | {"weight": "heavy"}]}, "tasks.gaze.weight='heavy': must be a finite number"),
        ({"tasks": [REGRESSION | {"weight": float("nan")}]}, "tasks.gaze.weight=nan: must be a finite number"),
        ({"tasks": [REGRESSION | {"output_names": ["x"]}]}, "tasks.gaze.output_names=.*: must name the 2 outputs"),
        ({"tasks": [REGRESSION | {"label_key": "pixel_values"}]}, "tasks.gaze.label_key='pixel_values': is another"),
        ({"tasks": [REGRESSION | {"mask_key": "output_attentions"}]}, "tasks.gaze.mask_key='output_attentions': is"),
        ({"tasks": [REGRESSION | {"mask_key": "gaze"}]}, "tasks.gaze.mask_key='gaze': must differ from label_key"),
        ({"tasks": [REGRESSION | {"kind": "ranking"}]}, "tasks.gaze.kind='ranking': must be one of"),
        ({"tasks": [REGRESSION | {"loss": "cross_entropy"}]}, "tasks.gaze.loss='cross_entropy': must be one of mse"),
        ({"tasks": [REGRESSION | {"weight": -1.0}]}, "tasks.gaze.weight=-1.0: must be a finite number, at least 0"),
        ({"tasks": [{"name": "gaze"}]}, "tasks.gaze.output_shape=.*: must not be empty"),
        ({"tasks": [REGRESSION | {"wieght": 1.0}]}, "tasks.gaze=.*wieght.*: are no fields of a task description"),
        ({"encoder_config": {"model_type": "videomea"}}, "encoder_config.model_type='videomea': is unknown"),
        (
            {"encoder_config": {"model_type": "bert"}},
            "encoder_config.model_type='bert': .* no num_frames",
        ),
        ({"encoder_config": {"model_type": "mtcae"}}, "encoder_config.model_type='mtcae': is a whole model"),
        ({"encoder_config": ENCODER | {"patch_size": 0}}, r"encoder_config.image_size \(height\)=32: must be greater"),
        ({"encoder_config": {"image_size": 32}}, "encoder_config=.*: must name its model_type"),
        (
            {"encoder_config": {"model_type": "videomae", "image_size": 100}},
            r"encoder_config.image_size \(height\)=100: must be a multiple of 16",
        ),
        (
            {"encoder_config": {"model_type": "videomae", "num_frames": 15}},
            "encoder_config.num_frames=15: must be a multiple of 2",
        ),
        ({"tasks": [EXPRESSION | {"output_shape": [3]}]}, r"tasks.expression.output_shape=\[3\]: must equal the 7 cl"),
        ({"tasks": [EXPRESSION | {"per": "frame"}]}, "tasks.expression.per='frame': must be clip"),
        (
            {"tasks": [EXPRESSION | {"kind": "regression", "output_shape": [7]}]},
            "tasks.expression.kind='regression': must be classification",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(values: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_config(**values)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"decoder_num_layers": "five"}, "expected int, got str"),
        ({"decoder_head_dim": 2.5}, "expected int, got float"),
        ({"decoder_dropout": "0.1"}, "expected float, got str"),
        ({"share_decoder_layers": "yes"}, "expected bool, got str"),
        ({"tasks": "expression"}, "expected list, got str"),
        ({"encoder_config": 3}, "expected dict, got int"),
        ({"structure": None}, "expected str, got NoneType"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_rule(values: dict, rule: str) -> None:
    with pytest.raises(StrictDataclassFieldValidationError) as refused:
        tiny_config(**values)
    ((name, value),) = values.items()
    assert name in str(refused.value) and rule in str(refused.value) and f"(value: {value!r})" in str(refused.value)


def test_whole_numbers_serve_where_fractions_may_stand() -> None:
    config = tiny_config(decoder_mlp_ratio=2, decoder_dropout=0, decoder_attention_dropout=0, initializer_range=0)
    assert MTCAEForMultiTaskVideo(config).structure.decoders["expression"].layers[0].mlp.dense_in.out_features == 40


@pytest.mark.parametrize("name", ["face_box", "face_landmarks", "expression"])
def test_the_papers_tasks_can_be_taken_one_by_one(name: str) -> None:
    task = next(task for task in paper_tasks() if task.name == name)
    assert [known.name for known in tiny_config(tasks=[task], structure="single_task").task_descriptions] == [name]
