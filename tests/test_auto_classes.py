"""What users type: the Auto* classes and the pipeline, in a fresh process, in another folder, without the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import random_clips, tiny_model
from video_files import write_numbered_video

from mtcae_dfer import MTCAEVideoProcessor

ROOT = Path(__file__).parents[1]
WITHOUT_THE_PACKAGE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mtcae_dfer":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""
LOADS = """
import torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor, pipeline,
)
name, clip = sys.argv[1:3]
trust = {"trust_remote_code": True}
pixel_values = torch.load("clips.pt", weights_only=True)
found = {"config": AutoConfig.from_pretrained(name, **trust).model_type}
for auto_class in (AutoModel, AutoModelForVideoClassification):
    model = auto_class.from_pretrained(name, **trust).eval()
    with torch.no_grad():
        found[auto_class.__name__] = model(pixel_values).logits.tolist()
for auto_class in (AutoVideoProcessor, AutoProcessor):
    found[auto_class.__name__] = list(auto_class.from_pretrained(name, **trust)(clip)["pixel_values"].shape)
answers = pipeline("video-classification", model=name, **trust)(clip, top_k=3)
found["pipeline"] = {answer["label"]: answer["score"] for answer in answers}
model.save_pretrained("again")
AutoVideoProcessor.from_pretrained(name, **trust).save_pretrained("again")
with torch.no_grad():
    found["saved again"] = AutoModel.from_pretrained("again", **trust)(pixel_values).logits.tolist()
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model.v1"
    tiny_model().save_pretrained(folder)
    MTCAEVideoProcessor(size={"height": 32, "width": 32}, num_frames=4).save_pretrained(folder)
    return folder


def run_elsewhere(folder: Path, name: str, environment: dict[str, str], script: str = LOADS) -> dict:
    """Runs a script in an empty folder by a process that cannot import the package."""
    clip = write_numbered_video(folder / "clip.mp4", 12)
    torch.save(random_clips(), folder / "clips.pt")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE + script, name, str(clip)],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND "))


def check(found: dict) -> None:
    with torch.no_grad():
        logits = tiny_model()(random_clips()).logits
    assert found["config"] == "mtcae"
    for name in ("AutoModel", "AutoModelForVideoClassification", "saved again"):
        assert torch.allclose(torch.tensor(found[name]), logits, atol=1e-6)
    assert found["AutoVideoProcessor"] == found["AutoProcessor"] == [1, 4, 3, 32, 32]
    assert len(found["pipeline"]) == 3 and all(0 <= score <= 1 for score in found["pipeline"].values())


def test_a_saved_folder_loads_without_the_package(model_folder: Path, tmp_path: Path) -> None:
    check(run_elsewhere(tmp_path, str(model_folder), {}))


def test_the_hub_id_that_users_type_loads_from_an_offline_cache(model_folder: Path, tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "home" / "hub" / "models--org--mtcae-dfer"
    shutil.copytree(model_folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    check(run_elsewhere(tmp_path, "org/mtcae-dfer", {}))


def test_the_root_of_the_repository_is_a_model_repository(tmp_path: Path) -> None:
    script = """
from transformers import AutoConfig, AutoVideoProcessor
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print("FOUND", json.dumps([config.model_type, config.encoder_config.hidden_size, processor.num_frames]))
"""
    assert run_elsewhere(tmp_path, str(ROOT), {}, script) == ["mtcae", 1024, 16]


def test_a_saved_folder_holds_every_module_that_it_needs(model_folder: Path) -> None:
    modules = {path.name for path in model_folder.glob("*.py")}
    assert {"configuration_mtcae.py", "modeling_mtcae.py", "processing_mtcae.py", "video_reading.py"} <= modules
    assert {path.suffix for path in model_folder.iterdir()} == {".json", ".py", ".safetensors"}
