"""Whatever wrote a folder: it holds a processor, knows its pipeline and carries the modules of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, Trainer, TrainingArguments
from transformers import pipeline as make_pipeline

from mtcae_dfer import (
    LGIFormerConfig,
    LGIFormerForVideoClassification,
    MTCAEVideoProcessor,
    TPSBTConfig,
    TPSBTForVideoClassification,
)
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from tests.support.tiny_models import EXPRESSION_TASK, FRAMES, SIDE, random_clips, tiny_model

TASK = "facial-expression-timeline"
FRAME_CLASSIFIERS = {
    LGIFormerForVideoClassification: LGIFormerConfig(
        image_size=[48, 32],
        patch_size=8,
        num_frames=8,
        region_size=[2, 2, 2],
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        num_labels=5,
    ),
    TPSBTForVideoClassification: TPSBTConfig(
        image_size=[48, 32],
        patch_size=8,
        num_frames=8,
        hidden_size=24,
        stage_depths=[1, 1, 1],
        num_bottleneck_tokens=2,
        bottleneck_hidden_size=6,
        num_attention_heads=3,
        intermediate_size=40,
        num_labels=5,
    ),
}


def grey_video() -> np.ndarray:
    return np.full((30, 64, 64, 3), 90, np.uint8)


def write_with_trainer(folder: Path) -> None:
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[])
    Trainer(tiny_model(), arguments).save_model(str(folder))


def write_from_a_loaded_model(folder: Path) -> None:
    tiny_model().save_pretrained(folder / "first")
    AutoModel.from_pretrained(folder / "first").save_pretrained(folder)


def write_with_the_pipeline(folder: Path) -> None:
    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    FacialExpressionTimelinePipeline(model=tiny_model(), video_processor=processor).save_pretrained(folder)


@pytest.mark.parametrize("write", [write_with_trainer, write_from_a_loaded_model, write_with_the_pipeline])
def test_every_saved_folder_makes_timelines(tmp_path: Path, write) -> None:
    write(tmp_path)
    (entry,) = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"].values()
    assert entry["impl"] == "pipeline_mtcae.FacialExpressionTimelinePipeline"
    assert (tmp_path / "pipeline_mtcae.py").is_file() and (tmp_path / "people_tracking.py").is_file()
    # The package is installed here, and registers the task: no trust in the folder's code is asked for.
    for task in (None, TASK):
        pipe = make_pipeline(task, model=str(tmp_path), device="cpu")
        assert type(pipe) is FacialExpressionTimelinePipeline and pipe.task == TASK
    assert pipe(grey_video(), fps=25)["people"] == []


@pytest.mark.parametrize("name", [".", "demonstration_model"])
def test_the_models_of_the_repository_make_timelines_without_a_name_of_the_task(name: str) -> None:
    pipe = make_pipeline(model=str(Path(__file__).parents[2] / name), device="cpu")
    assert type(pipe) is FacialExpressionTimelinePipeline and pipe.task == TASK


def test_a_model_without_an_expression_announces_no_timeline(tmp_path: Path) -> None:
    boxes = {"name": "face_box", "per": "frame", "output_shape": [4], "label_key": "face_boxes"}
    tiny_model(tasks=[boxes]).save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


def test_the_stock_pipeline_goes_to_a_folder_and_back(tmp_path: Path) -> None:
    tiny_model(tasks=[EXPRESSION_TASK]).save_pretrained(tmp_path / "first")
    first = make_pipeline("video-classification", model=str(tmp_path / "first"))
    first.save_pretrained(tmp_path / "second")
    second = make_pipeline("video-classification", model=str(tmp_path / "second"))
    assert first(grey_video()) == second(grey_video())


def test_a_model_keeps_the_processor_that_it_was_loaded_with(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "first")
    size = {"height": SIDE, "width": SIDE}
    chosen = MTCAEVideoProcessor(size=size, num_frames=FRAMES, do_face_crop=True, face_crop_margin=0.4)
    chosen.save_pretrained(tmp_path / "first")
    AutoModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = AutoVideoProcessor.from_pretrained(tmp_path / "second")
    assert again.do_face_crop and again.face_crop_margin == 0.4


def test_a_processor_in_the_folder_stays(tmp_path: Path) -> None:
    MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES, do_face_crop=True).save_pretrained(
        tmp_path
    )
    tiny_model().save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).do_face_crop


@pytest.mark.parametrize("model_class", FRAME_CLASSIFIERS)
def test_classifiers_of_frames_save_a_processor_of_their_size(tmp_path: Path, model_class: type) -> None:
    model_class(FRAME_CLASSIFIERS[model_class]).eval().save_pretrained(tmp_path)
    processor = AutoVideoProcessor.from_pretrained(tmp_path)
    assert (processor.num_frames, dict(processor.size)) == (8, {"height": 48, "width": 32})
    model = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert model(**processor(grey_video())).logits.shape == (1, model.config.num_labels)


def test_a_pipeline_without_a_processor_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="has no video processor"):
        FacialExpressionTimelinePipeline(model=tiny_model())


def test_where_nobody_is_found_all_expressions_score_alike() -> None:
    clips, model = random_clips(2), tiny_model()
    with torch.no_grad():
        plain = model(clips).logits
        known = model(clips, person_found=torch.tensor([True, False])).logits
    assert torch.equal(known[0], plain[0]) and plain[1].std() > 0
    assert known[1].softmax(-1).tolist() == pytest.approx([1 / 7] * 7)
