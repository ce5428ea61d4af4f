"""Loading by the Auto classes and the pipeline where the package is not installed: from a folder, and by a Hub id."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from tests.support.kinds_of_models import KINDS
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_files import noisy_frames, write_video

ROOT = Path(__file__).parents[2]
CHECKS_FILE = Path(__file__).parents[1] / "support" / "fresh_process_checks.py"
CHECK_NAMES = re.findall(r"^def (check_\w+)", CHECKS_FILE.read_text(), flags=re.MULTILINE)
HUB_ID, REVISION = "org/mtcae-dfer", "0123456789abcdef0123456789abcdef01234567"

MODULES = {
    "configuration_common.py",
    "configuration_frame_backbone.py",
    "configuration_lgi_former.py",
    "configuration_mtcae.py",
    "configuration_mtl_er.py",
    "configuration_resnext3d.py",
    "configuration_tpsbt.py",
    "configuration_vo_lstm.py",
    "face_crop.py",
    "face_detection.py",
    "face_geometry.py",
    "git_lfs.py",
    "image_backbones.py",
    "masked_tubelets.py",
    "modeling_encoders.py",
    "modeling_frame_backbone.py",
    "modeling_heads.py",
    "modeling_layers.py",
    "modeling_lgi_former.py",
    "modeling_mtcae.py",
    "modeling_mtl_er.py",
    "modeling_resnext3d.py",
    "modeling_structure_mnc.py",
    "modeling_structure_mtformer.py",
    "modeling_structure_mtl_er.py",
    "modeling_structures.py",
    "modeling_tpsbt.py",
    "modeling_vo_lstm.py",
    "people_tracking.py",
    "pipeline_mtcae.py",
    "processing_mtcae.py",
    "saved_folders.py",
    "task_losses.py",
    "timeline_windows.py",
    "video_packets.py",
    "video_reading.py",
    "weight_files.py",
}
DATA_FILES = {"config.json", "model.safetensors", "video_preprocessor_config.json"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model and processor. Its name is no Python identifier."""
    folder = tmp_path_factory.mktemp("saved") / "my-model.v1"
    tiny_model(id2label=dict(enumerate("abcde"))).save_pretrained(folder)
    MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES).save_pretrained(folder)
    return folder


def lay_out_hub_cache(folder: Path, home: Path) -> None:
    """Puts a folder where huggingface_hub keeps the downloaded files of a repository."""
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)


@torch.no_grad()
def write_expectations(saved: Path, work: Path) -> None:
    """What this process, which has the package, predicts for a clip."""
    clip = write_video(work / "clip.mp4", noisy_frames(10))
    model = MTCAEForMultiTaskVideo.from_pretrained(saved)
    pixel_values = MTCAEVideoProcessor.from_pretrained(saved)(clip)["pixel_values"]
    output = model(pixel_values)
    published = MTCAEForMultiTaskVideo.from_pretrained(ROOT)
    root_clip = torch.randn(1, published.config.num_frames, 3, *published.config.image_size)
    expected = {name: output[name] for name in ("logits", "face_boxes", "face_landmarks")} | {
        "pixel_values": pixel_values,
        "config": model.config.to_json_string(),
        "names": model.config.id2label,
        "files": sorted(MODULES | DATA_FILES),
        "root_config": MTCAEConfig.from_pretrained(ROOT).to_json_string(),
        "root_clip": root_clip,
        "root_logits": published(root_clip).logits,
    }
    torch.save(expected, work / "expected.pt")


@torch.no_grad()
def save_every_kind(work: Path) -> None:
    """Folders of all other kinds of models with what they give here, and one of a processor alone."""
    expected = {}
    for name, kind in KINDS.items():
        model, inputs = kind.build(), kind.inputs()
        model.save_pretrained(work / "kinds" / name)
        expected[name] = (kind.auto_class, inputs, kind.output, getattr(model(*inputs), kind.output))
    torch.save(expected, work / "kinds.pt")
    MTCAEVideoProcessor(num_frames=4).save_pretrained(work / "saved-processor.v1")


def start_checks(source: str, saved: Path, work: Path) -> subprocess.Popen:
    """Runs the checks in a process that finds neither the package, nor a network, nor an earlier module cache."""
    work.mkdir()
    write_expectations(saved, work)
    if source == str(saved):
        save_every_kind(work)
    if source == HUB_ID:
        lay_out_hub_cache(saved, work / "home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = kept | {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", str(CHECKS_FILE), source, str(ROOT), str(work)]
    return subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def faults(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str | None]]:
    """What the checks found, from the folder and by the Hub id; both processes run at the same time."""
    work = tmp_path_factory.mktemp("work")
    processes = {  # the one that waits for less first
        "hub_id": start_checks(HUB_ID, saved, work / "hub_id"),
        "folder": start_checks(str(saved), saved, work / "folder"),
    }
    found = {}
    for name, process in processes.items():
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        found[name] = json.loads(printed.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECK_NAMES)
@pytest.mark.parametrize("source", ["folder", "hub_id"])
def test_a_fresh_process_without_the_package(source: str, check: str, faults: dict) -> None:
    fault = faults[source][check]
    assert fault is None, fault


@pytest.mark.parametrize("check", [*KINDS, "pre_trained_weights_go_into_a_cascade", "a_processor_alone_loads"])
def test_a_fresh_process_without_the_package_loads_every_kind(check: str, faults: dict) -> None:
    fault = faults["folder"][check]
    assert fault is None, fault


def test_a_saved_folder_holds_all_it_needs(saved: Path) -> None:
    files = {path.name for path in saved.iterdir()}
    assert MODULES | DATA_FILES == files
    imported = {
        name
        for module in MODULES
        for name in re.findall(r"^from \.(\w+) import", (saved / module).read_text(), flags=re.MULTILINE)
    }
    assert {f"{name}.py" for name in imported} <= files
