"""The examples run as they stand, with small settings where they would train for minutes."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, name: str, *words: str) -> str:
    """Runs an example in a folder, as a user does; returns what it prints."""
    command = [sys.executable, str(EXAMPLES / name), *words]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def test_a_video_is_predicted(small_corpus: Path, tmp_path: Path) -> None:
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    printed = run(tmp_path, "predict_a_video.py", str(clip), "--output-dir", "out")
    assert "happiness" in printed and "face_coverage" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").open(encoding="utf-8")))
    assert {row["file"] for row in rows} == {clip.name} and float(rows[0]["x2"]) > float(rows[0]["x1"])
    assert (tmp_path / "out" / "seen.mp4").stat().st_size > 0


def test_trainer_trains_tests_and_saves_a_folder_that_loads(small_dataset: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    words = ("--dataset", str(small_dataset), "--num-train-epochs", "1", "--output-dir", "out")
    printed = run(tmp_path, "train_with_trainer.py", *words)
    assert re.search(r"UAR on unseen people: \d+\.\d%; by chance 50\.0%", printed)
    assert AutoModel.from_pretrained(tmp_path / "out" / "model").config.id2label == {0: "neutral", 1: "happiness"}


def test_a_task_is_added_and_learnt(small_dataset: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    words = ("--dataset", str(small_dataset), "--num-train-epochs", "25", "--output-dir", "out")
    printed = run(tmp_path, "add_a_task.py", *words)
    losses = [float(value) for value in re.findall(r"head_tilt (\d+\.\d+)", printed)]
    assert len(losses) == 25 and losses[-1] < 0.7 * losses[0]
    assert "head tilt of unseen people: off by" in printed
    tasks = [task.name for task in AutoModel.from_pretrained(tmp_path / "out" / "model").tasks]
    assert tasks == ["face_box", "face_landmarks", "head_tilt", "expression"]


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [str(cell["outputs"]) for cell in notebook.cells if cell.cell_type == "code"]
    assert "happiness" in outputs[2] and "face_coverage" in outputs[3]
    assert "image/png" in outputs[4] and "video" in outputs[5]


def test_the_notebook_is_stored_without_outputs() -> None:
    text = (EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text and 'execution_count": null' in text and "image/png" not in text
