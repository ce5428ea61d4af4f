"""`mtcae predict --output-dir`: whoever shares the work, and however often it is stopped, the same answers."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.workers import worker_pool
from mtcae_dfer.inference.answering import separate_weights, share_weights, usual_workers
from mtcae_dfer.inference.answers import ENDINGS, StudyOptions
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, load_model
from tests.support.video_files import write_text_as_video

MODEL = ["--model", str(DEMONSTRATION_MODEL)]
TIMELINES = ["--each", "csv", "overlay", "timeline", "--people", "single", "--window-seconds", "0.5"]


@pytest.fixture(scope="module")
def videos(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five videos, one of them in a folder of its own, and one that is none."""
    folder = tmp_path_factory.mktemp("study") / "videos"
    clips = sorted((small_corpus / "videos").rglob("*.mp4"))[:5]
    (folder / "wave 1").mkdir(parents=True)
    for number, clip in enumerate(clips):
        shutil.copy(clip, folder / ("wave 1" if number == 0 else "") / f"clip {number}.mp4")
    write_text_as_video(folder / "broken.mp4")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def many(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty videos, and four files that are none: enough to be stopped among them."""
    folder = tmp_path_factory.mktemp("studies") / "many"
    for copy in range(4):
        shutil.copytree(videos, folder / f"{copy}")
    return folder


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes for them that nobody stops."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    assert main(["predict", str(many), "--output-dir", str(folder), *MODEL, "--workers", "1"]) == 1
    return files_of(folder)


def study(videos: Path, output: Path, *words: str) -> int:
    return main(["predict", str(videos), "--output-dir", str(output), *MODEL, *words])


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_all_kinds_of_files_can_be_asked_for_at_once(videos: Path, tmp_path: Path) -> None:
    """A picture shows one clip of a video, whatever the video's own answer is."""
    clip, output = videos / "clip 1.mp4", tmp_path / "out"
    assert study(clip, output, "--workers", "1", "--each", "csv", "overlay", "timeline", "picture") == 0
    made = {name for name in files_of(output) if name.startswith("clip 1.mp4")}
    assert made == {f"clip 1.mp4{ending}" for ending in (".json", *ENDINGS.values())}
    assert study(clip, tmp_path / "alone", "--workers", "1", "--each", "picture") == 0
    picture = f"clip 1.mp4{ENDINGS['picture']}"
    assert files_of(output)[picture] == files_of(tmp_path / "alone")[picture]


def test_every_video_has_a_file_and_all_stand_in_one_table(videos: Path, tmp_path: Path, capsys) -> None:
    assert study(videos, tmp_path / "out", "--workers", "1") == 1
    told = capsys.readouterr()
    assert "5 of 6 videos have an answer" in told.out
    errors = [line for line in told.err.splitlines() if "broken.mp4" in line or "could not" in line]
    assert errors[0] == "1 of 6 videos could not be read (failures.csv):" and len(errors) == 2
    names = sorted(["wave 1/clip 0.mp4", *(f"clip {number}.mp4" for number in range(1, 5))])
    expected = {f"{name}.json" for name in names} | {"all.csv", "failures.csv", "study.json"}
    assert set(files_of(tmp_path / "out")) == expected
    rows = list(csv.DictReader((tmp_path / "out" / "all.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == names
    for row in rows:
        answer = json.loads((tmp_path / "out" / f"{row['file']}.json").read_text())
        assert answer["video"] == row["file"]
        best = max(answer["expression"], key=answer["expression"].get)
        assert (row["expression"], float(row["probability"])) == (best, round(answer["expression"][best], 4))
    ((file, error),) = [row.values() for row in csv.DictReader((tmp_path / "out" / "failures.csv").open())]
    assert file == "broken.mp4" and str(videos) not in error


def test_two_processes_write_what_one_writes(videos: Path, tmp_path: Path) -> None:
    assert study(videos, tmp_path / "one", "--workers", "1", *TIMELINES) == 1
    assert study(videos, tmp_path / "two", "--workers", "2", *TIMELINES) == 1
    one = files_of(tmp_path / "one")
    assert len(one) == 5 * 4 + 3 and one["clip 1.mp4.overlay.mp4"]
    assert files_of(tmp_path / "two") == one


def test_a_second_process_starts_where_there_is_work_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    clips, timelines = (StudyOptions(device="cpu", timelines=kind) for kind in (False, True))
    assert [usual_workers(clips, count) for count in (1, 79, 80, 1000)] == [1, 1, 2, 4]
    assert [usual_workers(timelines, count) for count in (1, 11, 12, 1000)] == [1, 1, 2, 4]
    assert usual_workers(StudyOptions(device="cuda"), 1000) == 1


def test_the_answer_is_that_of_a_single_prediction(videos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(videos)
    assert main(["predict", "clip 1.mp4", "--output-dir", str(tmp_path / "out"), *MODEL]) == 0
    assert main(["predict", "clip 1.mp4", "--json", str(tmp_path / "one.json"), *MODEL]) == 0
    (alone,) = json.loads((tmp_path / "one.json").read_text())
    answer = json.loads((tmp_path / "out" / "clip 1.mp4.json").read_text())
    assert answer["expression"] == pytest.approx(alone["expression"], abs=1e-5)
    assert answer["timestamps"] == alone["timestamps"] and set(answer) - {"video", "made"} == set(alone) - {"clip"}


def kill_when_it_has_begun(words: list[str], output: Path) -> dict[str, int]:
    """Runs the command until its first answer stands there; returns the times of the answers it left."""
    program = [sys.executable, "-m", "mtcae_dfer.commands.command_line", "predict", *words]
    with subprocess.Popen(program, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        try:
            while not list(output.rglob("clip*.json")):
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    return {str(file): file.stat().st_mtime_ns for file in output.rglob("clip*.json")}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_study_goes_on_and_keeps_what_is_there(
    many: Path, whole: dict[str, bytes], tmp_path: Path, workers: str
) -> None:
    output = tmp_path / "out"
    words = [str(many), "--output-dir", str(output), *MODEL, "--workers", workers]
    left = kill_when_it_has_begun(words, output)
    assert 1 <= len(left) < 20 and not (output / "all.csv").exists()
    assert main(["predict", *words]) == 1
    assert all(os.stat(file).st_mtime_ns == changed for file, changed in left.items())
    assert files_of(output) == whole


def test_only_what_is_missing_cut_short_or_of_a_changed_video_is_made_anew(videos: Path, tmp_path: Path) -> None:
    own, output = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, own)
    (own / "broken.mp4").unlink()
    assert study(own, output, "--workers", "1") == 0
    before = files_of(output)
    (output / "clip 1.mp4.json").write_bytes(before["clip 1.mp4.json"][:100])
    (output / "clip 2.mp4.json").unlink()
    shutil.copy(own / "clip 4.mp4", own / "clip 3.mp4")
    kept = output / "clip 4.mp4.json"
    changed = kept.stat().st_mtime_ns
    assert study(own, output, "--workers", "1") == 0
    after = files_of(output)
    assert kept.stat().st_mtime_ns == changed
    assert {name for name in before if before[name] != after[name]} == {"clip 3.mp4.json", "all.csv"}
    scores = [json.loads(after[f"clip {number}.mp4.json"])["expression"] for number in (3, 4)]
    assert scores[0] == scores[1]


def test_answers_of_other_options_or_another_model_are_refused_or_made_anew(
    videos: Path, tmp_path: Path, capsys
) -> None:
    clip, output = videos / "clip 1.mp4", tmp_path / "out"
    assert study(clip, output, "--workers", "1", "--each", "csv") == 0
    assert study(clip, output, "--workers", "1", "--each", "csv", "--window-seconds", "0.5") == 2
    told = capsys.readouterr().err
    assert "pipeline {} -> {'window_seconds': 0.5}" in told and "--recompute" in told
    assert study(clip, output, "--workers", "1", "--each", "csv", "--window-seconds", "0.5", "--recompute") == 0
    assert len(list(csv.DictReader((output / "all.csv").open()))) > 1
    model, processor = load_model(str(DEMONSTRATION_MODEL))
    with torch.no_grad():
        next(iter(model.heads["expression"].parameters())).mul_(2)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    words = ["predict", str(clip), "--output-dir", str(output), "--model", str(tmp_path / "model"), "--workers", "1"]
    assert main([*words, "--each", "csv", "--window-seconds", "0.5"]) == 2
    assert "made otherwise (model " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["a", "b", "--output-dir", "out"],
            "b/clip.mp4: its answer would be out/clip.mp4.json, and so would that of a",
        ),
        (["all", "--output-dir", "out", "--each", "csv"], "all: its answer would be out/all.csv, and so would the stu"),
        (["*.avi", "--output-dir", "out"], "*.avi: stands for no video"),
        (["a", "--output-dir", "a"], "--output-dir a: is the folder of the videos itself"),
        (["a", "--output-dir", "all"], "--output-dir all: is a file"),
        (["a", "--output-dir", "nowhere/out"], "there is no folder"),
        (["a", "--output-dir", "/proc/out"], "--output-dir /proc/out: cannot be written, /proc takes no files"),
        (["a", "--output-dir", "b"], "--output-dir b: holds other files than a study's answers"),
        (["a", "--output-dir", "out", "--csv", "x.csv"], "--csv: writes one file; with --output-dir, --each says"),
        (["a", "--output-dir", "out", "--verify-face", "--each", "csv"], "--verify-face: not for a timeline"),
        (["a", "--output-dir", "out", "--workers", "0"], "--workers 0: must be at least 1"),
        (["a", "--output-dir", "out", "--ray-address", "auto"], "A Ray address was given, but not the engine 'ray'"),
        (["a", "--workers", "2"], "--workers: is for --output-dir OUT"),
        (["a", "--engine", "ray"], "--engine: is for --output-dir OUT"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_the_work(words, told, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "clip.mp4").write_bytes(b"a film")
    Path("all").write_bytes(b"a film")
    assert main(["predict", *words, *MODEL]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mtcae: error:")]
    assert len(lines) == 1 and told in lines[0]
    assert not Path("out").exists()


def test_annotated_videos_of_an_earlier_call_are_no_inputs(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos / "wave 1", tmp_path / "videos")
    words = ["--workers", "1", "--each", "overlay"]
    for _ in range(2):
        assert study(tmp_path / "videos", tmp_path / "videos" / "answers", *words) == 0
    names = sorted(file.name for file in (tmp_path / "videos" / "answers").iterdir())
    assert names == ["all.csv", "clip 0.mp4.json", "clip 0.mp4.overlay.mp4", "study.json"]


def _fill_first_weight(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(7.0)


def test_processes_read_one_memory_of_weights() -> None:
    model, _ = load_model(str(DEMONSTRATION_MODEL))
    clip = torch.rand(1, 16, 3, 64, 64)
    with torch.inference_mode():
        before = model(clip).logits
        share_weights(model)
        torch.testing.assert_close(model(clip).logits, before)
    assert len({tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}) == 1
    with worker_pool(1, "filling", _fill_first_weight, (model,)) as executor:
        executor.submit(len, ()).result()  # the process has started
    assert bool((next(model.parameters()) == 7.0).all())


def test_a_model_travels_once() -> None:
    model, _ = load_model(str(DEMONSTRATION_MODEL))
    share_weights(model)
    separate_weights(model)
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert weights < len(pickle.dumps(model)) < 1.5 * weights


def test_a_cluster_of_two_workers_goes_on_after_a_kill_with_the_same_answers(
    many: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    output = tmp_path / "out"
    words = [str(many), "--output-dir", str(output), *MODEL]
    left = kill_when_it_has_begun([*words, "--engine", "ray", "--workers", "2"], output)
    assert 1 <= len(left) < 20 and not (output / "all.csv").exists()
    assert main(["predict", *words, "--engine", "ray", "--workers", "2"]) == 1
    assert all(os.stat(file).st_mtime_ns == changed for file, changed in left.items())
    assert files_of(output) == whole
