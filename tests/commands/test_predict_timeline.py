"""`mtcae predict` with a timeline, of one video or of a study."""

import csv
import json
import shutil
from pathlib import Path

import pandas
import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL
from mtcae_dfer.inference.studies import find_videos
from tests.support.video_files import write_numbered_video, write_text_as_video

EXPRESSIONS = json.loads((DEMONSTRATION_MODEL / "config.json").read_text())["id2label"].values()


def test_the_command_writes_everything_asked_for(small_run: Path, small_corpus: Path, tmp_path: Path, capsys) -> None:
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    names = {"--json": "out.json", "--csv": "out.csv", "--timeline": "out.png", "--overlay": "out.mp4"}
    words = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert main(["predict", str(clip), "--model", str(small_run), "--people", "single", *words]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names.values())
    result = json.loads((tmp_path / "out.json").read_text())
    assert len(result["people"]) == 1 and result["people"][0]["windows"][0]["scores"]
    assert "person 1" in capsys.readouterr().out
    picture = tmp_path / "why.png"
    assert main(["explain", str(clip), "--model", str(small_run), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def study(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos in folders of their own, one that is none, and what is no video at all."""
    folder = tmp_path_factory.mktemp("study") / "wave 1"
    for number, clip in enumerate(sorted((small_corpus / "videos").rglob("*.mp4"))[:2]):
        (folder / f"person_{number}").mkdir(parents=True)
        shutil.copy(clip, folder / f"person_{number}" / "clip.mp4")
    write_text_as_video(folder / "broken.mp4")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_a_folder_gives_one_table_and_names_the_bad_file_at_the_end(
    small_run: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    outputs = ["--csv", str(tmp_path / "all.csv"), "--json", str(tmp_path / "all.json")]
    words = ["--model", str(small_run), "--people", "single", "--window-seconds", "0.5"]
    assert main(["predict", str(study), *words, *outputs]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "broken.mp4" in line or "could not" in line]
    assert told[0] == "1 of 3 videos could not be read:" and len(told) == 2 and "broken.mp4" in told[1]
    table = pandas.read_csv(tmp_path / "all.csv")
    names = [str(study / f"person_{number}" / "clip.mp4") for number in range(2)]
    assert sorted(set(table["file"])) == names
    evidence = "face_coverage face_frames face_seconds short"
    assert list(table.columns[:11]) == f"file track start end {evidence} warning expression probability".split()
    assert (table["neutral"] + table["happiness"]).dropna().tolist() == pytest.approx(
        [1.0] * table["neutral"].count(), abs=2e-4
    )
    entries = json.loads((tmp_path / "all.json").read_text())
    assert [entry["video"] for entry in entries] == [str(study / "broken.mp4"), *names]
    assert set(entries[0]) == {"video", "error"} and "people" in entries[1]
    assert set(entries[0]["error"]) == {"code", "message"} and "broken.mp4" in entries[0]["error"]["message"]


@pytest.mark.parametrize("count", [1, 2])
def test_where_no_video_can_be_read_the_files_of_an_earlier_call_do_not_stay_untold(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = [str(write_text_as_video(tmp_path / f"{number}.mp4")) for number in range(count)]
    files = {ending: tmp_path / f"out.{ending}" for ending in ("csv", "json", "png")}
    for file in files.values():
        file.write_text("of an earlier call")
    words = [*bad, "--model", str(DEMONSTRATION_MODEL), "--csv", str(files["csv"]), "--json", str(files["json"])]
    assert main(["predict", *words, *(["--timeline", str(files["png"])] if count == 1 else [])]) == 1
    told = capsys.readouterr().err
    assert f"{count} of {count} videos could not be read" in told
    assert count > 1 or f"--timeline {files['png']}: not written" in told
    entries = json.loads(files["json"].read_text())
    for video, entry in zip(bad, entries if count > 1 else [entries], strict=True):
        assert entry["video"] == video and entry["error"]["code"] == "unreadable_video"
    (header,) = csv.reader(files["csv"].open(encoding="utf-8"))
    assert header[0] == "file" and header[-7:] == sorted(EXPRESSIONS)


@pytest.mark.parametrize("more", [[], ["--top-k", "2"], ["--per-frame"]])
def test_a_video_without_a_face_has_a_row_and_all_columns(more: list[str], tmp_path: Path) -> None:
    video, output = write_numbered_video(tmp_path / "bars.mp4", 30), tmp_path / "out.csv"
    words = ["--model", str(DEMONSTRATION_MODEL), "--csv", str(output)]
    assert main(["predict", str(video), *words, *more]) == 0
    (row,) = csv.DictReader(output.open(encoding="utf-8"))
    assert row.pop("file") == str(video) and set(row.values()) == {""}
    assert list(row)[-7:] == sorted(EXPRESSIONS)


def test_rows_can_be_frames(small_run: Path, study: Path, tmp_path: Path) -> None:
    clip, output = study / "person_0" / "clip.mp4", tmp_path / "frames.csv"
    words = ["--model", str(small_run), "--per-frame", "--csv", str(output)]
    assert main(["predict", str(clip), *words]) == 0
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times) and len(set(times)) == len(times) >= 16
    assert all(float(row["x2"]) > float(row["x1"]) and row["nose_x"] for row in rows)


def test_names_folders_and_patterns_mean_videos_each_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    first, second = "person_0/clip.mp4", "person_1/clip.mp4"
    assert find_videos(["person_0"]) == [first]
    assert find_videos(["**/clip.mp4"]) == [first, second]
    assert find_videos([second, "person_*/*.mp4", "./person_0/clip.mp4"]) == [second, first]
    assert find_videos([first, "*.avi"]) == [first, "*.avi"]  # told when it is read, and the first one is read
    Path("[odd] name.mp4").touch()
    assert find_videos(["[odd] name.mp4"]) == ["[odd] name.mp4"]
    Path("[odd] name.mp4").unlink()
