"""The model at the repository's root: it loads by every door, fits its limits, and knows real faces."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoVideoProcessor

from mtcae_dfer.face_geometry import box_intersection_over_union
from mtcae_dfer.inference.models import PUBLISHED_MODEL, load_model

STILLS = Path(__file__).parents[3] / "shared" / "real_faces" / "fer2013.parquet"


def test_it_is_small_and_loads_from_the_root_by_the_auto_classes() -> None:
    assert (PUBLISHED_MODEL / "model.safetensors").stat().st_size <= 20_000_000
    model = AutoModel.from_pretrained(PUBLISHED_MODEL)
    processor = AutoVideoProcessor.from_pretrained(PUBLISHED_MODEL)
    assert model.config.num_frames == processor.num_frames == 16
    assert processor.do_face_crop


def test_it_finds_a_drawn_face_where_mtcnn_finds_it(small_dataset: Path) -> None:
    from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset

    model, processor = load_model(str(PUBLISHED_MODEL))
    row = load_multitask_dataset(small_dataset)["test"][0]
    inputs = processor(io.BytesIO(clip_bytes(row)), return_metadata=True)
    with torch.no_grad():
        outputs = model(inputs["pixel_values"])
    torch.testing.assert_close(outputs.logits.softmax(-1).sum(), torch.tensor(1.0))
    names = model.config.id2label
    (result,) = processor.post_process_multi_task(outputs, metadata=inputs["video_metadata"], id2label=names)
    (metadata,) = inputs["video_metadata"]
    labelled = np.asarray(row["face_boxes"], np.float64) * ([metadata.width, metadata.height] * 2)
    overlap = box_intersection_over_union(np.asarray(result["face_boxes"], np.float64), labelled)
    assert np.nanmean(overlap) > 0.6


def test_it_is_right_on_most_stills_of_people_that_it_was_validated_on() -> None:
    """FER2013's PublicTest, 200 stills: a check that doors and weights fit, not a figure to quote."""
    if not STILLS.is_file():
        pytest.skip("the real stills are not here")
    from PIL import Image
    from pyarrow import parquet

    model, processor = load_model(str(PUBLISHED_MODEL))
    table = parquet.read_table(STILLS, filters=[("split", "=", "validation")]).slice(0, 200)
    right = 0
    for picture, name in zip(table["image"].to_pylist(), table["expression"].to_pylist(), strict=True):
        still = Image.open(io.BytesIO(picture)).convert("RGB").resize((160, 160), Image.Resampling.BICUBIC)
        clip = np.repeat(np.asarray(still)[None], 2, axis=0)
        with torch.no_grad():
            scores = model(processor(clip, num_frames=1)["pixel_values"]).logits
        right += model.config.id2label[int(scores.argmax())] == name
    assert right >= 110
