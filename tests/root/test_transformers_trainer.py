"""What transformers' Trainer, pipelines and accelerate ask of the model classes, with their default arguments."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel, Trainer, TrainingArguments
from transformers.pipelines.pt_utils import PipelineIterator

from mtcae_dfer import (
    LGIFormerConfig,
    LGIFormerForVideoClassification,
    LGIFormerModel,
    MTCAEForMultiTaskVideo,
    TPSBTConfig,
    TPSBTForVideoClassification,
    VOLSTMConfig,
    VOLSTMModel,
)
from tests.support.tiny_models import FRAMES, SIDE, random_clips, random_labels, randomise, tiny_config, tiny_model

DEMONSTRATION = Path(__file__).parents[2] / "demonstration_model"
CLASSES = 3
SIZES = {"image_size": SIDE, "num_frames": FRAMES, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}


def mtcae() -> MTCAEForMultiTaskVideo:
    return tiny_model(id2label=dict(enumerate("abc")))


def lgi_former() -> LGIFormerForVideoClassification:
    config = LGIFormerConfig(**SIZES, num_hidden_layers=2, region_size=[2, 1, 1], num_labels=CLASSES)
    torch.manual_seed(0)
    return randomise(LGIFormerForVideoClassification(config)).eval()


def tpsbt() -> TPSBTForVideoClassification:
    config = TPSBTConfig(**SIZES, stage_depths=[1, 1], bottleneck_hidden_size=8, num_labels=CLASSES)
    torch.manual_seed(0)
    return randomise(TPSBTForVideoClassification(config)).eval()


MODELS = [mtcae, lgi_former, tpsbt]


def clips(count: int = 8) -> list[dict[str, torch.Tensor]]:
    return [
        {"pixel_values": clip, "labels": torch.tensor(number % CLASSES)}
        for number, clip in enumerate(random_clips(count))
    ]


def trainer_of(model: PreTrainedModel, folder: Path, **options) -> Trainer:
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True, disable_tqdm=True, **options)
    return Trainer(model, arguments, train_dataset=clips(), eval_dataset=clips())


@pytest.mark.parametrize("make", MODELS)
def test_training_evaluation_and_prediction_run_with_default_arguments(make: Callable, tmp_path: Path) -> None:
    model = make()
    with torch.no_grad():
        expected = model(torch.stack([clip["pixel_values"] for clip in clips()]))
    trainer = trainer_of(model, tmp_path, max_steps=1, save_strategy="no", learning_rate=0.0)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    predictions = trainer.predict(clips()).predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    torch.testing.assert_close(torch.tensor(logits), expected.logits, atol=1e-5, rtol=1e-4)
    # The Trainer writes into the model's config; the model and what it saves stay usable.
    trainer.save_model(str(tmp_path / "saved"))
    for usable in (trainer.model.eval(), type(model).from_pretrained(tmp_path / "saved")):
        torch.testing.assert_close(usable(random_clips(8)).logits, expected.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", MODELS)
def test_accumulated_steps_have_the_loss_of_a_plain_loop(make: Callable, tmp_path: Path) -> None:
    model = make()
    batch = {name: torch.stack([clip[name] for clip in clips()]) for name in ("pixel_values", "labels")}
    with torch.no_grad():
        expected = model(**batch).loss.item()
    options = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "learning_rate": 0.0}
    trainer = trainer_of(model, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_a_resumed_run_and_the_best_model_keep_every_weight(tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "save_strategy": "epoch"}
    with torch.enable_grad():
        first = trainer_of(mtcae(), tmp_path, num_train_epochs=1, **options)
        first.train()
    trained = {name: value.clone() for name, value in first.model.state_dict().items()}
    again = mtcae()
    with torch.enable_grad():
        trainer_of(again, tmp_path, num_train_epochs=1, **options).train(resume_from_checkpoint=True)
    # All epochs are done, so that the weights are those of the checkpoint.
    for name, value in again.state_dict().items():
        assert torch.equal(value, trained[name]), name
    assert any("query.bias" in name for name in trained)


def older_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As VideoMAE's files hold them: q_bias and v_bias beside the attention's weights."""
    renamed = {"attention.attention.query.bias": "attention.attention.q_bias"}
    renamed |= {"attention.attention.value.bias": "attention.attention.v_bias"}
    found = {}
    for name, value in weights.items():
        for new, old in renamed.items():
            name = name.replace(new, old)
        found[name] = value
    return found


def test_both_names_of_the_biases_load_by_a_state_dict() -> None:
    weights = tiny_model(seed=1).state_dict()
    assert older_names(weights).keys() != weights.keys()
    for given in (weights, older_names(weights)):
        model = tiny_model(seed=2)
        report = model.load_state_dict(given)
        assert not report.missing_keys and not report.unexpected_keys
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert any(name.endswith("q_bias") for name in older_names(weights))  # what was given is left as it was


@torch.no_grad()
def test_files_hold_the_modules_names_and_older_files_load(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    save_file(older_names(weights), tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, report = MTCAEForMultiTaskVideo.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())


def test_accelerate_leaves_no_weight_on_the_meta_device(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with init_empty_weights(include_buffers=False):
        empty = MTCAEForMultiTaskVideo(tiny_config())
    loaded = load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"})
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "given", [{"num_labels": 3}, {"id2label": {0: "calm", 1: "pain"}, "label2id": {"calm": 0, "pain": 1}}]
)
def test_a_trained_folder_takes_other_classes(given: dict) -> None:
    model = AutoModel.from_pretrained(DEMONSTRATION, ignore_mismatched_sizes=True, **given)
    expected = given.get("num_labels", 2)
    assert model.config.num_labels == model.heads["expression"].output.out_features == expected
    assert list(model.config.id2label.values()) == list(given.get("id2label", model.config.id2label).values())


@torch.no_grad()
def test_pipelines_take_a_batch_of_outputs_apart() -> None:
    outputs = tiny_model()(random_clips(3))
    items = list(PipelineIterator([outputs], lambda item: item, {}, loader_batch_size=3))
    assert len(items) == 3
    for number, item in enumerate(items):
        torch.testing.assert_close(item["logits"], outputs.logits[number : number + 1])
        torch.testing.assert_close(item["face_boxes"], outputs.face_boxes[number : number + 1])


@pytest.mark.parametrize("structure", ["cascaded", "mtformer"])
def test_what_transformers_adds_to_the_arguments_is_no_label(structure: str) -> None:
    model = tiny_model(structure=structure)
    model.config.use_cache = True
    plain = model(random_clips(), **random_labels()).loss
    assert torch.equal(model(random_clips(), **random_labels(), num_items_in_batch=2).loss, plain)
    with pytest.raises(TypeError, match="use_cash: no task of this model"):
        model(random_clips(), use_cash=True)


def test_hidden_states_carry_a_gradient() -> None:
    frame_encoder = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    recurrent = VOLSTMConfig(frame_encoder_config=frame_encoder, image_size=SIDE, num_frames=FRAMES, hidden_size=12)
    regions = LGIFormerConfig(**SIZES, num_hidden_layers=2, region_size=[2, 1, 1])
    for model, states in ((LGIFormerModel(regions), 3), (VOLSTMModel(recurrent), 2), (tiny_model().encoder, 3)):
        outputs = model(random_clips(), output_hidden_states=True)
        assert len(outputs.hidden_states) == states
        for state in outputs.hidden_states:
            state.retain_grad()
        outputs.last_hidden_state.sum().backward()
        assert all(state.grad is not None for state in outputs.hidden_states[:-1]), type(model).__name__
