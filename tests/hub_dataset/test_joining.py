"""Labels without videos: what is in them, how they find their videos again, what is said of those they do not find."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.loading.joining import VideoMatchError, match_videos
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from tests.support.small_data import SMALL_EXPRESSIONS

OPTIONS = BuildOptions(class_names=SMALL_EXPRESSIONS, embed_videos=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture(scope="module")
def labels(small_corpus, tmp_path_factory) -> Path:
    """Labels of the small corpus, without its videos."""
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS)
    folder = tmp_path_factory.mktemp("labels") / "labels only"
    build_dataset(clips, folder, OPTIONS, workers=1, progress=False)
    return folder


@pytest.fixture()
def videos(small_corpus, tmp_path) -> Path:
    """A user's own copy of the corpus."""
    return Path(shutil.copytree(small_corpus / "videos", tmp_path / "my copy ü"))


def all_rows(splits) -> list[dict]:
    return sorted((row for rows in splits.values() for row in rows), key=lambda row: row["name"])


def test_labels_hold_no_video_and_say_so_when_one_is_asked_for(labels):
    rows = all_rows(load_multitask_dataset(labels))
    assert len(rows) == 6 and "video" not in rows[0]
    assert sum(file.stat().st_size for file in labels.glob("data/*")) < 100_000
    with pytest.raises(DatasetError, match="without its video: load the labels with videos=FOLDER"):
        clip_bytes(rows[0])
    assert "load_multitask_dataset(FOLDER, videos=" in (labels / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("streaming", [False, True])
def test_joined_rows_are_those_of_the_data_set_with_videos(labels, videos, small_dataset, streaming):
    joined = load_multitask_dataset(labels, streaming=streaming, videos=videos, progress=False)
    for one, two in zip(all_rows(joined), all_rows(load_multitask_dataset(small_dataset)), strict=True):
        assert clip_bytes(one) == clip_bytes(two)
        for name in one.keys() - {"video"}:
            assert json.dumps(one[name]) == json.dumps(two[name])  # in JSON NaN equals NaN


def test_a_differently_unpacked_copy_is_found_by_the_last_name(labels, videos, tmp_path):
    flat = tmp_path / "flat" / "part 1"
    flat.mkdir(parents=True)
    for file in videos.rglob("*.mp4"):
        file.rename(flat / file.name)
    assert len(all_rows(load_multitask_dataset(labels, videos=flat.parent, progress=False))) == 6


def test_missing_and_different_videos_are_listed_and_can_be_left_out(labels, videos, capsys):
    files = sorted(videos.rglob("*.mp4"))
    gone, changed = (file.relative_to(videos).as_posix() for file in files[:2])
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes() + b"x")
    with pytest.raises(
        VideoMatchError, match="4 of 6 labelled videos; 1 missing: .*; 1 with other content: "
    ) as raised:
        load_multitask_dataset(labels, videos=videos, progress=False)
    assert raised.value.match.missing == [gone] and raised.value.match.different == [changed]
    assert "\n" not in str(raised.value)
    kept = all_rows(load_multitask_dataset(labels, videos=videos, incomplete=True, progress=False))
    assert len(kept) == 4 and not {gone, changed} & {row["name"] for row in kept}
    assert main(["dataset", "check", str(labels), str(videos)]) == 1
    told = capsys.readouterr().out
    assert f"missing: {gone}" in told and f"other content: {changed}" in told


def test_other_clips_videos_of_the_same_last_name_are_no_changed_copies(tmp_path):
    # W009's labelled video is not there; one from another side, which has no labels, is.
    for clip in (
        f"{place}/happy/level_1/001.mp4" for place in ("M003/video/front", "M005/video/front", "W009/video/top")
    ):
        (tmp_path / "unpacked" / clip).parent.mkdir(parents=True)
        (tmp_path / "unpacked" / clip).write_text(clip)
    hashes = {
        f"{actor}/video/front/happy/level_1/001.mp4": hashlib.sha256(
            f"{actor}/video/front/happy/level_1/001.mp4".encode()
        ).hexdigest()
        for actor in ("M003", "M005", "W009")
    }
    for folder in (tmp_path, tmp_path / "unpacked"):
        match = match_videos(hashes, folder, progress=False)
        assert [name[:4] for name in match.found] == ["M003", "M005"]
        assert [name[:4] for name in match.missing] == ["W009"] and not match.different
    (tmp_path / "unpacked" / "M005/video/front/happy/level_1/001.mp4").write_text("another take")
    assert [name[:4] for name in match_videos(hashes, tmp_path / "unpacked", progress=False).different] == ["M005"]


def test_the_check_command_is_content_with_a_complete_copy(labels, videos, capsys):
    assert main(["dataset", "check", str(labels), str(videos)]) == 0
    assert "6 videos are there with the labelled content, 0 are missing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "a/../../secret.mp4", "..\\secret.mp4"])
def test_names_that_lead_out_of_the_folder_are_refused(videos, name):
    (videos.parent / "secret.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match="outside of the corpus's folder"):
        match_videos({name: "0" * 64}, videos, progress=False)


def test_a_folder_that_is_not_there_and_a_data_set_with_videos_are_refused(labels, small_dataset, videos, tmp_path):
    with pytest.raises(DatasetError, match="is no folder"):
        load_multitask_dataset(labels, videos=tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds its videos"):
        load_multitask_dataset(small_dataset, videos=videos)


def test_labels_and_videos_do_not_mix_in_one_folder(small_corpus, labels):
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS)
    with pytest.raises(DatasetError, match="embed_videos False instead of True"):
        build_dataset(clips, labels, dataclasses.replace(OPTIONS, embed_videos=True), workers=1, progress=False)
