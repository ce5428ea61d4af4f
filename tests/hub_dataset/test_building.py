"""Built data sets: what load_dataset opens, splits, the report, bad clips, interruption, folders that are not free."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import load_dataset

from mtcae_dfer.commands.command_line import parse_command
from mtcae_dfer.hub_dataset.building import build as building
from mtcae_dfer.hub_dataset.building import parquet_files
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset, sort_out
from mtcae_dfer.hub_dataset.building.parquet_files import cut_by_size
from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import BuiltClip, Clip, ClipLabels, DatasetError, LabelledClip
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.folds import make_protocol
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions, label_clips
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, labels_from_row, load_multitask_dataset, protocol_name
from mtcae_dfer.hub_dataset.schema import labels_from_rows
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.video_reading import read_clip
from tests.support.video_files import write_numbered_video, write_text_as_video

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
CONFIG = SyntheticCorpusConfig(
    subjects=4, takes=1, expressions=("happiness", "sadness"), frame_size=128, min_frames=8, max_frames=10
)
FEW_FRAMES = LabellingOptions(num_frames=4, height=160, width=160)
OPTIONS = BuildOptions(dataset_name="drawn", license="apache-2.0", labelling=FEW_FRAMES)


def build(clips, output, options=OPTIONS):
    return build_dataset(clips, output, options, workers=1, progress=False)


def files_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    corpus = make_synthetic_corpus(tmp_path_factory.mktemp("corpus"), CONFIG, workers=1, progress=False)
    return read_folder(corpus / "videos" / "clips.csv")


@pytest.fixture(scope="module")
def built(clips, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "drawn"
    build(clips, output)
    return output


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


# -- what is in it


def test_load_dataset_opens_the_folder_with_splits_by_subject(built, clips):
    splits = load_dataset(str(built))
    subjects = {split: set(rows["subject"]) for split, rows in splits.items()}
    assert {split: len(found) for split, found in subjects.items()} == {"train": 2, "validation": 1, "test": 1}
    assert len(set.union(*subjects.values())) == 4
    assert sorted(name for rows in splits.values() for name in rows["name"]) == [clip.name for clip in clips]
    assert splits["train"].features["expression"].names == ["happiness", "sadness"]


def test_labels_of_many_rows_are_those_of_each_row(built):
    rows = load_dataset(str(built))["train"]
    together = labels_from_rows(rows)
    assert together["face_landmarks"].shape == (len(rows), 4, 5, 2) and together["face_found"].dtype == bool
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(together["frame_indices"][position], row["frame_indices"])
        np.testing.assert_allclose(together["face_boxes"][position], np.array(row["face_boxes"]), rtol=1e-6)
        np.testing.assert_array_equal(together["face_found"][position], row["face_found"])
    assert list(labels_from_rows(rows, ["face_boxes"])) == ["face_boxes"]


def test_rows_hold_the_untouched_video_and_the_labels_of_its_frames(built, clips):
    by_name = {clip.name: clip for clip in clips}
    labels_by_name = dict(zip(by_name, label_clips(clips, FEW_FRAMES), strict=True))
    for rows in load_dataset(str(built)).values():
        for row in rows:
            clip, expected = by_name[row["name"]], labels_by_name[row["name"]].labels
            assert clip_bytes(row) == clip.path.read_bytes()
            assert hashlib.sha256(clip_bytes(row)).hexdigest() == row["sha256"]
            assert rows.features["expression"].names[row["expression"]] == clip.expression
            assert row["subject"] == clip.subject
            found = labels_from_row(row)
            for field in (
                "frame_indices",
                "face_boxes",
                "face_landmarks",
                "face_found",
                "face_confidence",
                "face_count",
            ):
                np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
                assert getattr(found, field).dtype == getattr(expected, field).dtype


def test_numpy_format_and_streaming_give_the_same_rows(built):
    plain = load_dataset(str(built))["test"]
    for other in (plain.with_format("numpy"), load_dataset(str(built), streaming=True)["test"]):
        for one, two in zip(plain, other, strict=True):
            np.testing.assert_array_equal(labels_from_row(one).face_boxes, labels_from_row(two).face_boxes)
            assert clip_bytes(one) == clip_bytes(two)
            read_clip(clip_bytes(two), frame_indices=labels_from_row(two).frame_indices.tolist())


def test_a_fresh_process_loads_it_offline(built, tmp_path):
    code = (
        "import sys; from datasets import load_dataset; rows = load_dataset(sys.argv[1])['train'];"
        "print(len(rows), len(rows[0]['face_boxes']), 'torch' in sys.modules)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(built)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[:2] == ["4", "4"]


def test_a_rebuilt_folder_is_not_served_from_the_old_cache(clips, tmp_path):
    build(clips[:4], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    assert len(load_dataset(str(tmp_path / "out"))["train"]) == 4
    shutil.rmtree(tmp_path / "out")
    build(clips[:5], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    assert len(load_dataset(str(tmp_path / "out"))["train"]) == 5


def test_the_card_has_a_valid_head_and_tells_protocol_counts_and_coverage(built):
    _, head, text = (built / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "apache-2.0" and head["task_categories"] == ["video-classification"]
    assert [split["split"] for split in head["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert "subject-independent holdout (seed 0: 2/1/1 subjects)" in text
    assert "| happiness | 4 | 100.0% |" in text and "| S01 | 2 | 100.0% |" in text
    assert "| default | test | 1 | 2 | 1 | 1 |" in text


def test_the_report_is_stored_and_read_back(built):
    report = read_build_report(built)
    assert (report.clip_count, report.failures, report.warnings, report.face_coverage) == (8, [], [], 1.0)
    assert report.class_names == ["happiness", "sadness"] and report.class_counts == {"happiness": 4, "sadness": 4}
    assert report.fold_counts["default"]["train"] == {"happiness": 2, "sadness": 2}
    assert protocol_name(built) == report.protocol["name"] == "subject-independent holdout (seed 0: 2/1/1 subjects)"
    assert str(built.parent) not in (built / "build_report.json").read_text()


# -- protocols


def test_folds_are_configurations_of_the_same_files(clips, tmp_path):
    build(clips, tmp_path / "out", dataclasses.replace(OPTIONS, splits="folds", num_folds=4))
    tested = []
    for fold in range(1, 5):
        splits = load_multitask_dataset(tmp_path / "out", f"fold_{fold}")
        subjects = [set(rows["subject"]) for rows in splits.values()]
        assert sum(len(found) for found in subjects) == len(set.union(*subjects)) == 4
        tested += splits["test"]["name"]
    assert sorted(tested) == [clip.name for clip in clips]
    assert len(list((tmp_path / "out" / "data").iterdir())) == 4  # no clip is stored twice
    assert set(load_dataset(str(tmp_path / "out"))["test"]["subject"]) == set(
        load_multitask_dataset(tmp_path / "out")["test"]["subject"]
    )
    assert protocol_name(tmp_path / "out", "fold_2") == "subject-independent 4-fold (seed 0), fold_2"
    with pytest.raises(DatasetError, match="no fold 'fold_9': its protocol has fold_1"):
        load_multitask_dataset(tmp_path / "out", "fold_9")


def test_clips_of_one_subject_build_without_splits_only(clips, tmp_path):
    alone = [clip for clip in clips if clip.subject == "S01"]
    with pytest.raises(DatasetError, match=r"1 subject\(s\) \(S01\) cannot be divided .*or choose none"):
        build(alone, tmp_path / "out")
    assert not any(tmp_path.iterdir())
    report = build(alone, tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    assert report.protocol["name"] == "no split (training clips only)"
    assert list(load_dataset(str(tmp_path / "out"))) == ["train"]


def test_unknown_subjects_cannot_be_split(clips, tmp_path):
    unknown = [dataclasses.replace(clip, subject="unknown") for clip in clips]
    with pytest.raises(DatasetError, match="8 clips have no known subject"):
        build(unknown, tmp_path / "out")


def test_class_names_may_hold_classes_without_clips(clips, tmp_path):
    options = dataclasses.replace(OPTIONS, class_names=("anger", "sadness", "happiness"), splits="none")
    assert build(clips[:2], tmp_path / "out", options).class_counts["anger"] == 0
    rows = load_dataset(str(tmp_path / "out"))["train"]
    assert [rows.features["expression"].int2str(row["expression"]) for row in rows] == [c.expression for c in clips[:2]]


# -- bad clips


def test_one_bad_clip_is_reported_and_the_others_are_built(clips, tmp_path):
    bad = Clip(write_text_as_video(tmp_path / "text.mp4"), "sadness", "S01", "sadness/text.mp4")
    faceless = Clip(write_numbered_video(tmp_path / "stripes.mp4", 6), "sadness", "S01", "sadness/stripes.mp4")
    report = build([*clips, bad, faceless], tmp_path / "out")
    assert report.clip_count == 9
    assert [failure["name"] for failure in report.failures] == ["sadness/text.mp4"]
    assert "\n" not in report.failures[0]["reason"] and str(tmp_path) not in report.failures[0]["reason"]
    assert read_build_report(tmp_path / "out").failures == report.failures
    assert "sadness/text.mp4" in (tmp_path / "out" / "README.md").read_text()
    row = next(row for row in load_dataset(str(tmp_path / "out"))["train"] if row["name"] == "sadness/stripes.mp4")
    assert not any(row["face_found"]) and np.isnan(labels_from_row(row).face_boxes).all()
    assert report.face_coverage == pytest.approx(8 / 9)


def test_a_subject_without_a_readable_clip_stands_in_no_fold(clips, tmp_path):
    bad = Clip(write_text_as_video(tmp_path / "text.mp4"), "sadness", "S99", "sadness/text.mp4")
    options = dataclasses.replace(OPTIONS, splits="leave-one-subject-out")
    report = build([*clips, bad], tmp_path / "out", options)
    assert report.clip_count == 8 and len(report.failures) == 1
    folds = report.protocol["folds"]
    assert len(folds) == 4
    divided = {subject for fold in folds for split in ("train", "validation", "test") for subject in fold[split]}
    assert divided == {clip.subject for clip in clips}
    # The same call finds it finished.
    assert build([*clips, bad], tmp_path / "out", options) == report


def test_a_holdout_whose_validation_subject_has_no_readable_clip_says_so(clips, tmp_path):
    kept = ["S01", "S02", "S03"]
    (lost,) = make_protocol(kept).folds[0].validation
    source = [clip for clip in clips if clip.subject in kept]
    gone = [dataclasses.replace(clip, path=tmp_path / "gone.mp4") if clip.subject == lost else clip for clip in source]
    report = build(gone, tmp_path / "out")
    assert report.protocol["name"] == (
        "subject-independent holdout (seed 0: 1/0/1 subjects), 1 subject(s) without readable clips left out"
    )
    assert report.warnings == [{"name": "default", "reason": "no subject of its validation split has a readable clip"}]
    assert set(load_dataset(str(tmp_path / "out"))) == {"train", "test"}


def test_when_no_clip_can_be_read_nothing_is_left_behind(clips, tmp_path):
    bad = write_text_as_video(tmp_path / "text.mp4")
    with pytest.raises(DatasetError, match="None of 3 clips could be read; the first: .*0.mp4"):
        gone = [Clip(bad, "sadness", f"S{number}", f"sadness/{number}.mp4") for number in range(3)]
        build(gone, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("labelling", "crew", "message"),
    [
        ({"device": "nonsense"}, {}, "device='nonsense': cannot be used here"),
        ({"face_policy": "first"}, {}, "policy='first' must be one of"),
        ({}, {"workers": 0}, "workers=0: must be at least 1"),
        ({}, {"engine": "threads"}, "Engine 'threads' is unknown"),
    ],
)
def test_what_cannot_label_is_refused_before_anything_is_written(clips, tmp_path, labelling, crew, message):
    options = dataclasses.replace(OPTIONS, labelling=dataclasses.replace(FEW_FRAMES, **labelling))
    with pytest.raises(ValueError, match=message):
        build_dataset(clips, tmp_path / "out", options, progress=False, **crew)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 2])
def test_no_clips_and_clips_of_the_same_name_are_refused(clips, tmp_path, number):
    with pytest.raises(DatasetError, match="no clips" if number == 0 else "same name"):
        build(clips[:1] * number, tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))


# -- folders and repetition


def test_the_same_build_gives_the_same_bytes_whatever_the_order_of_the_clips(clips, built, tmp_path):
    build(list(reversed(clips)), tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(built)


def test_a_finished_data_set_is_returned_as_it_is(clips, built, monkeypatch):
    monkeypatch.setattr(building, "label_clips", None)
    assert build(clips, built) == read_build_report(built)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dataclasses.replace(OPTIONS, splits="none"), "protocol"),
        (
            dataclasses.replace(OPTIONS, labelling=dataclasses.replace(FEW_FRAMES, min_face=60.0)),
            "min_face 56.0 instead",
        ),
    ],
)
def test_another_data_set_in_the_folder_is_refused_and_kept(clips, built, options, message):
    before = files_of(built)
    with pytest.raises(DatasetError, match=f"holds another data set .*{message}") as error:
        build(clips, built, options)
    assert "\n" not in str(error.value) and files_of(built) == before


@pytest.mark.parametrize(
    ("version", "remedy"), [(2, "build it again with `mtcae dataset build`"), (99, "install a newer release, or build")]
)
def test_a_data_set_of_another_format_is_called_that(clips, built, tmp_path, version, remedy):
    told = json.loads((built / "build_report.json").read_text())
    told["options"]["format_version"] = version
    (tmp_path / "build_report.json").write_text(json.dumps(told | {"a_field_of_its_own": 1}))
    for use in (read_build_report, load_multitask_dataset, lambda folder: build(clips, folder)):
        with pytest.raises(DatasetError, match=f"was built with format {version}, and .* reads 3: {remedy}") as error:
            use(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"options": {"format_version": 3}}', "\udcff"])
def test_a_damaged_report_is_called_damaged(tmp_path, content):
    (tmp_path / "build_report.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match="build_report.json is damaged"):
        read_build_report(tmp_path)


def test_a_folder_with_other_things_and_a_file_are_refused_and_kept(clips, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="choose another folder"):
        build(clips, tmp_path)
    with pytest.raises(DatasetError, match="choose another folder"):
        build(clips, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("module", "step"),
    [(building, "write_labels"), (parquet_files, "row_from_clip"), (building, "draw_contact_sheets")],
    ids=["labels", "rows", "pictures"],
)
def test_a_full_disk_is_one_clear_line_and_no_label_is_lost(clips, built, tmp_path, monkeypatch, module, step):
    """Wherever the disk runs full, the next call goes on from the finished labels and ends with the same bytes."""
    monkeypatch.setattr(building, "CLIPS_PER_LABEL_SHARD", 2)
    original, calls = getattr(module, step), []

    def write_until_full(*arguments, **options):
        calls.append(1)
        if len(calls) == (3 if step == "write_labels" else 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **options)

    monkeypatch.setattr(module, step, write_until_full)
    with pytest.raises(DatasetError, match="No space left on device.: mend that and start again; finished labels are"):
        build(clips, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    finished = len(list((tmp_path / ".out.building" / "labels").iterdir()))
    assert finished == (2 if step == "write_labels" else len(clips) // 2)
    labelled = []
    monkeypatch.setattr(module, step, original)
    monkeypatch.setattr(
        building, "label_clips", lambda wanted, *rest: labelled.extend(wanted) or label_clips(wanted, *rest)
    )
    build(clips, tmp_path / "out")
    assert len(labelled) == len(clips) - 2 * finished
    assert files_of(tmp_path / "out") == files_of(built)


def test_a_clip_without_a_face_is_kept_and_told(clips, tmp_path):
    nobody = write_numbered_video(tmp_path / "nobody.mp4", 8)
    options = dataclasses.replace(OPTIONS, splits="none")
    report = build([*clips[:2], Clip(nobody, "sadness", "S09", "nobody.mp4")], tmp_path / "out", options)
    assert report.clips_without_face == ["nobody.mp4"] and report.clip_count == 3
    assert report.subject_coverage["S09"] == 0 and report.face_coverage == pytest.approx(2 / 3)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "No labelled frame of these 1 clips shows a face:\n\n- nobody.mp4" in card and "| S09 | 1 | 0.0% |" in card
    rows = load_multitask_dataset(tmp_path / "out")["train"]
    (row,) = (row for row in rows if row["name"] == "nobody.mp4")
    assert not any(row["face_found"]) and np.isnan(labels_from_row(row).face_boxes).all()


def test_an_empty_folder_is_filled(clips, tmp_path):
    (tmp_path / "out").mkdir()
    build(clips[:2], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "build_report.json",
        "contact_sheets",
        "data",
    ]


def test_an_unwritable_place_is_one_clear_line(clips, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written or read") as error:
        build(clips, tmp_path / "file" / "out")
    assert "\n" not in str(error.value)


# -- interruption


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(clips, built, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "CLIPS_PER_LABEL_SHARD", 2)
    labelled = []

    def stop_after(count):
        def label(wanted, options, workers):
            for clip, result in zip(wanted, label_clips(wanted, options, workers), strict=True):
                if count is not None and len(labelled) == count:
                    raise KeyboardInterrupt
                labelled.append(clip.name)
                yield result

        return label

    for count in (3, 6):
        monkeypatch.setattr(building, "label_clips", stop_after(count))
        with pytest.raises(KeyboardInterrupt):
            build(clips, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(building, "label_clips", stop_after(None))
    build(clips, tmp_path / "out")
    assert len(labelled) == len(clips) + 2  # each interruption lost the one clip of its unfinished shard
    assert files_of(tmp_path / "out") == files_of(built)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(clips, built, tmp_path, monkeypatch):
    """SIGKILL, twice: in the middle of labelling and in the middle of writing Parquet."""
    script = tmp_path / "build.py"
    script.write_text(
        "import os, signal, sys\n"
        "from mtcae_dfer.hub_dataset.building import build as building, parquet_files\n"
        "from mtcae_dfer.hub_dataset.corpora.folder import read_folder\n"
        "from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions\n"
        "building.CLIPS_PER_LABEL_SHARD = 2\n"
        "name, count = sys.argv[3], int(sys.argv[4])\n"
        "module = building if hasattr(building, name) else parquet_files\n"
        "original, calls = getattr(module, name), []\n"
        "def killing(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) > count:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(*arguments)\n"
        "setattr(module, name, killing)\n"
        "options = building.BuildOptions(dataset_name='drawn', license='apache-2.0',\n"
        "    labelling=LabellingOptions(num_frames=4, height=160, width=160))\n"
        "building.build_dataset(read_folder(sys.argv[1]), sys.argv[2], options, workers=1, progress=False)\n"
    )
    table = clips[0].path.parents[1] / "clips.csv"
    for step, count in (("write_labels", 2), ("row_from_clip", len(clips) - 1)):
        command = [sys.executable, str(script), str(table), str(tmp_path / "out"), step, str(count)]
        assert subprocess.run(command, cwd=tmp_path).returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(building, "CLIPS_PER_LABEL_SHARD", 2)
    monkeypatch.setattr(building, "label_clips", lambda wanted, *_: iter(wanted))  # nothing is left to label
    build(clips, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(built)


def test_an_unfinished_build_with_other_options_is_refused_and_kept(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "write_groups", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(clips[:2], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    before = files_of(tmp_path)
    with pytest.raises(
        DatasetError, match="unfinished build with other options .license 'apache-2.0' instead of 'mit'"
    ):
        build(clips[:2], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none", license="mit"))
    assert files_of(tmp_path) == before


def test_a_video_that_changes_during_the_build_is_noticed(clips, tmp_path, monkeypatch):
    copy = tmp_path / "copy.mp4"
    shutil.copy(clips[0].path, copy)
    original = building.write_groups

    def change_first(*arguments):
        copy.write_bytes(copy.read_bytes() + b"x")
        return original(*arguments)

    monkeypatch.setattr(building, "write_groups", change_first)
    with pytest.raises(DatasetError, match="copy.mp4 has changed since it was labelled"):
        changing = [Clip(copy, "sadness", "S01", "copy.mp4")]
        build(changing, tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))


# -- sizes of files and row groups


def test_files_and_row_groups_stay_within_their_limits():
    def cut(sizes: list[int], byte_limit: int, count_limit: int) -> list[list[int]]:
        """Runs of sizes out of clips of these sizes."""
        clips = [BuiltClip(Clip(Path(), "", "", str(size)), None, "", size) for size in sizes]
        return [[clip.byte_count for clip in run] for run in cut_by_size(clips, byte_limit, count_limit)]

    assert cut([5, 5, 6], 10, 9) == [[5, 5], [6]]
    assert cut([50, 5, 4], 10, 9) == [[50], [5, 4]]
    assert cut([1, 2, 3], 10, 2) == [[1, 2], [3]]
    assert cut([], 10, 2) == []


def test_a_split_larger_than_one_file_is_written_into_several(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "BYTES_PER_FILE", 1)
    build(clips[:3], tmp_path / "out", dataclasses.replace(OPTIONS, splits="none"))
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00003-*.parquet"))) == 3
    assert load_dataset(str(tmp_path / "out"))["train"]["name"][:] == [clip.name for clip in clips[:3]]


# -- command line


def run_command(*words: str) -> int:
    options = parse_command("dataset", ["build", *words])
    return options.run(options)


def test_the_folder_command_builds_and_a_bad_clip_makes_its_exit_status_non_zero(clips, tmp_path, capsys):
    source = tmp_path / "faces"
    for clip in clips:
        (source / clip.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip.path, source / clip.name)
    words = ("--subject-pattern", r"^(S\d+)", "--num-frames", "3", "--size", "160", "--workers", "1")
    assert run_command("folder", str(source), str(tmp_path / "good"), *words) == 0
    assert "subject-independent holdout" in capsys.readouterr().out
    write_text_as_video(source / "happiness" / "S01_bad.mp4")
    assert run_command("folder", str(source), str(tmp_path / "bad"), *words) == 1
    assert "S01_bad.mp4" in capsys.readouterr().err
    assert json.loads((tmp_path / "bad" / "build_report.json").read_text())["clip_count"] == 8


def test_the_synthetic_command_builds_a_corpus_of_its_own(tmp_path, monkeypatch):
    import mtcae_dfer.hub_dataset.synthetic.acting as acting

    def small(**options):
        return dataclasses.replace(CONFIG, **options)

    monkeypatch.setattr(acting, "SyntheticCorpusConfig", small)
    words = ("--subjects", "3", "--takes", "1", "--num-frames", "2", "--size", "160", "--workers", "1")
    assert run_command("synthetic", str(tmp_path / "out"), *words) == 0
    assert {split: len(rows) for split, rows in load_dataset(str(tmp_path / "out")).items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }


# -- real clips


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample clips are not here")
def test_six_real_clips_of_one_actor_build_from_a_table(tmp_path):
    names = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    rows = ["path,expression,subject"]
    for code, expression in names.items():
        shutil.copy(SAMPLES / f"1001_DFA_{code}_XX.flv", tmp_path)
        rows.append(f"1001_DFA_{code}_XX.flv,{expression},1001")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    report = build(read_folder(tmp_path / "clips.csv"), tmp_path / "out", BuildOptions(splits="none"))
    assert (report.clip_count, report.face_coverage) == (6, 1.0)
    rows = load_dataset(str(tmp_path / "out"))["train"]
    assert rows.features["expression"].names == ["neutral", "happiness", "sadness", "anger", "fear", "disgust"]
    assert np.asarray(rows["face_boxes"]).shape == (6, 16, 4)


def test_streaming_opens_the_folder_offline_row_by_row(built, tmp_path):
    """In a fresh process without network and without a cache."""
    code = (
        "import sys\n"
        "from datasets import load_dataset\n"
        "rows = load_dataset(sys.argv[1], split='train', streaming=True)\n"
        "assert all(row['video']['bytes'] and len(row['face_found']) == 4 for row in rows)\n"
        "print(sum(1 for _ in rows))\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", code, str(built)], env=os.environ | offline, cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) == len(load_multitask_dataset(built)["train"])


def test_an_official_split_keeps_its_copies_and_other_clips_are_kept_once():
    nobody = np.zeros(1, bool)
    labels = ClipLabels(
        np.zeros(1, int),
        np.full((1, 4), np.nan),
        np.full((1, 5, 2), np.nan),
        nobody,
        np.zeros(1),
        np.zeros(1, int),
        nobody,
    )
    same = LabelledClip(labels, None, "digest", 10)
    official = [Clip(Path("a"), "fear", "x", name=name, part="test") for name in ("a", "b")]
    built, failures = sort_out(official, [same, same])
    assert [entry.clip.name for entry in built] == ["a", "b"] and not failures
    built, failures = sort_out([dataclasses.replace(clip, part="") for clip in official], [same, same])
    assert [entry.clip.name for entry in built] == ["a"] and failures == {"b": "the same file as a: keep one of them."}
