"""Readers of published corpora: labels, attributes, counts of the release, and what can be wrong in a folder.

The files are empty: a reader looks at names and tables alone.
"""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mtcae_dfer.hub_dataset.building.card import render_card
from mtcae_dfer.hub_dataset.building.report import BuildReport
from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, DatasetError
from mtcae_dfer.hub_dataset.corpora.crema_d import read_crema_d
from mtcae_dfer.hub_dataset.corpora.listed import DFEW, FERV39K, MAFW
from mtcae_dfer.hub_dataset.corpora.mead import read_mead
from mtcae_dfer.hub_dataset.corpora.ravdess import read_ravdess
from mtcae_dfer.hub_dataset.corpora.registry import CORPORA, find_corpus
from mtcae_dfer.hub_dataset.folds import OFFICIAL_CORPORA, SPLIT_KINDS, divided_units, make_protocol, split_kinds
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from tests.support.look_alike_corpora import (
    make_crema_d_like,
    make_dfew_like,
    make_ferv39k_like,
    make_mafw_like,
    make_mead_like,
    make_ravdess_like,
)

RAVDESS_CLASSES = ("neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise")


def classes_of(reading) -> dict[str, int]:
    return dict(Counter(clip.expression for clip in reading.clips))


def clip_named(reading, name: str):
    (clip,) = [clip for clip in reading.clips if clip.name == name]
    return clip


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


# -- RAVDESS


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory) -> Path:
    """The whole release: speech and song, with and without sound."""
    folder = tmp_path_factory.mktemp("ravdess")
    return make_ravdess_like(folder, modalities=("01", "02"), channels=("01", "02"))


def test_ravdess_has_the_papers_1440_clips_in_seven_classes_of_24_actors(ravdess):
    reading = read_ravdess(ravdess)
    assert len(reading.clips) == 1440 and reading.class_names == RAVDESS_CLASSES
    assert classes_of(reading) == {"neutral": 288} | dict.fromkeys(RAVDESS_CLASSES[1:], 192)
    assert Counter(clip.subject for clip in reading.clips) == {f"{actor:02d}": 60 for actor in range(1, 25)}
    assert not (reading.missing or reading.extra or reading.repeated or reading.not_understood or reading.counts)


def test_ravdess_with_eight_classes_keeps_calm_apart(ravdess):
    reading = read_ravdess(ravdess, class_count=8)
    assert reading.class_names == ("neutral", "calm", *RAVDESS_CLASSES[1:])
    assert classes_of(reading) == {"neutral": 96} | dict.fromkeys(reading.class_names[1:], 192)
    assert not reading.counts and "calm is a class of its own" in reading.label_source


def test_ravdess_songs_lack_two_classes_and_one_actor(ravdess):
    reading = read_ravdess(ravdess, channel="song")
    assert len(reading.clips) == 1012  # 23 actors × (4 neutral + 5 × 8)
    assert reading.class_names == ("neutral", "happiness", "sadness", "anger", "fear")
    assert "18" not in {clip.subject for clip in reading.clips} and not reading.missing


def test_ravdess_never_counts_one_recording_twice(ravdess):
    for modality, first in (("video-only", "02"), ("audio-visual", "01"), ("either", "02")):
        reading = read_ravdess(ravdess, modality=modality)
        stems = [Path(clip.name).stem for clip in reading.clips]
        assert len({stem[3:] for stem in stems}) == len(stems) == 1440
        assert {stem[:2] for stem in stems} == {first} and not reading.repeated


def test_ravdess_takes_the_file_with_sound_where_there_is_no_other(tmp_path):
    make_ravdess_like(tmp_path, actors=("01", "02"), modalities=("01", "02"))
    (tmp_path / "Actor_01" / "02-01-05-02-01-02-01.mp4").unlink()
    reading = read_ravdess(tmp_path, modality="either")
    assert clip_named(reading, "Actor_01/01-01-05-02-01-02-01.mp4").expression == "anger"
    assert len(reading.clips) == 120 and not any("05-02-01-02" in line for line in reading.missing)


def test_a_ravdess_file_name_tells_everything(ravdess):
    clip = clip_named(read_ravdess(ravdess), "Actor_12/02-01-02-02-01-02-12.mp4")
    assert (clip.expression, clip.subject) == ("neutral", "12")
    assert clip.attributes == {
        "modality": "video-only",
        "channel": "speech",
        "emotion": "calm",
        "intensity": "strong",
        "statement": "Kids are talking by the door",
        "repetition": "02",
        "sex": "female",
    }
    assert clip_named(read_ravdess(ravdess), "Actor_11/02-01-08-01-02-01-11.mp4").attributes["sex"] == "male"


def test_ravdess_findings_have_names(tmp_path):
    make_ravdess_like(tmp_path / "Video_Speech", actors=[f"{actor:02d}" for actor in range(1, 24)])
    folder = tmp_path / "Video_Speech"
    (folder / "Actor_05" / "02-01-03-02-01-01-05.mp4").unlink()
    touch(folder / "Actor_05" / "02-01-03-02-01-03-05.mp4")  # a third repetition
    shutil.copy(folder / "Actor_06" / "02-01-03-01-01-01-06.mp4", folder / "Actor_05")  # another actor's
    shutil.copytree(folder / "Actor_07", tmp_path / "copy" / "Actor_07")
    touch(folder / "Actor_08" / "holiday.mp4")
    touch(folder / "Actor_08" / "02-01-09-01-01-01-08.mp4")
    reading = read_ravdess(tmp_path)
    assert reading.missing == ("all 60 recordings of subject 24", "02-01-03-02-01-01-05")
    assert reading.extra == ("02-01-03-02-01-03-05",)
    name = "Actor_07/02-01-01-01-01-01-07.mp4"
    assert reading.repeated[0] == f"copy/{name}: the same recording as Video_Speech/{name}"
    assert len(reading.repeated) == 60
    assert reading.not_understood == (
        "Video_Speech/Actor_05/02-01-03-01-01-01-06.mp4: stands in the folder Actor_05, but names actor 06",
        "Video_Speech/Actor_08/02-01-09-01-01-01-08.mp4: emotion 09 is unknown",
        "Video_Speech/Actor_08/holiday.mp4: not seven numbers of two digits",
    )
    assert "class neutral: 276 of 288" in reading.counts and "subject 24: 0 of 60" in reading.counts
    assert len(reading.clips) == 23 * 60


# -- CREMA-D

CREMA_D_UNRELEASED = [  # as many as the release lacks of each range of actors and each emotion, which ones is made up
    *(f"1001_{sentence}_NEU_XX" for sentence in ("TIE", "IOM", "IWW")),
    *(f"1002_{sentence}_{code}_XX" for sentence in ("TIE", "IOM") for code in ("ANG", "DIS", "FEA", "HAP", "SAD")),
    *(f"1020_TIE_{code}_XX" for code in ("ANG", "DIS", "FEA", "HAP", "SAD", "NEU")),
    "1090_TIE_NEU_XX",
]


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory) -> Path:
    """The whole release: the grid of actors, sentences and emotions without twenty recordings."""
    folder = make_crema_d_like(tmp_path_factory.mktemp("crema_d"))
    for name in CREMA_D_UNRELEASED:
        (folder / "VideoFlash" / f"{name}.flv").unlink()
    table = folder / "processedResults" / "summaryTable.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if line.split(",")[1] not in CREMA_D_UNRELEASED))
    return folder


def test_crema_d_has_7442_clips_in_six_classes_of_91_actors(crema_d):
    reading = read_crema_d(crema_d)
    assert len(reading.clips) == 7442 and len({clip.subject for clip in reading.clips}) == 91
    assert classes_of(reading) == {
        "neutral": 1087,
        **dict.fromkeys(("happiness", "sadness", "anger", "fear", "disgust"), 1271),
    }
    assert reading.class_names == ("neutral", "happiness", "sadness", "anger", "fear", "disgust")
    assert not (reading.missing or reading.extra or reading.counts or reading.notes)
    assert "intended" in reading.label_source


def test_crema_d_without_its_table_still_knows_how_many_recordings_there_are(crema_d, tmp_path):
    shutil.copytree(crema_d / "VideoFlash", tmp_path / "VideoFlash")
    reading = read_crema_d(tmp_path)
    assert len(reading.clips) == 7442 and not reading.missing and not reading.counts
    assert "perceived" not in reading.clips[0].attributes and "VideoDemographics.csv" in reading.notes[0]
    (tmp_path / "VideoFlash" / "1050_TIE_ANG_XX.flv").unlink()
    reading = read_crema_d(tmp_path)
    assert reading.missing == ("1050_TIE_ANG_XX",)
    assert reading.counts == ("class anger: 1270 of 1271", "subject 1050: 81 of 82")


def test_crema_d_labels_are_intended_or_perceived_as_chosen(tmp_path):
    votes = {"1001_DFA_ANG_XX": "D", "1001_DFA_DIS_XX": "A:D", "1001_DFA_FEA_XX": ""}
    make_crema_d_like(tmp_path, actors=("1001", "1002"), sentences=("DFA",), votes=votes)
    name = "VideoFlash/1001_DFA_ANG_XX.flv"
    intended, perceived = read_crema_d(tmp_path), read_crema_d(tmp_path, labels="perceived")
    assert clip_named(intended, name).expression == "anger" and clip_named(perceived, name).expression == "disgust"
    for reading in (intended, perceived):
        attributes = clip_named(reading, name).attributes
        assert (attributes["intended"], attributes["perceived"]) == ("anger", "disgust")
    assert len(intended.clips) == 12 and len(perceived.clips) == 10
    assert perceived.without_label == (
        "VideoFlash/1001_DFA_DIS_XX.flv: anger/disgust",
        "VideoFlash/1001_DFA_FEA_XX.flv: an empty vote",
    )
    assert "crowd-perceived" in perceived.label_source and "FaceVote" in perceived.label_source


def test_a_crema_d_file_name_and_its_tables_tell_everything(crema_d):
    clip = clip_named(read_crema_d(crema_d), "VideoFlash/1030_IEO_SAD_MD.flv")
    assert (clip.expression, clip.subject) == ("sadness", "1030")
    assert clip.attributes == {
        "sentence": "IEO",
        "level": "medium",
        "intended": "sadness",
        "perceived": "sadness",
        "age": "50",
        "sex": "Male",
        "race": "Caucasian",
        "ethnicity": "Not Hispanic",
    }


def test_crema_d_names_that_do_not_parse_are_listed(tmp_path):
    make_crema_d_like(tmp_path, actors=("1001",), sentences=("DFA",))
    for name in ("1001_DFA_BOR_XX", "1001_ABC_ANG_XX", "1001_DFA_ANG_YY", "1001-DFA"):
        touch(tmp_path / "VideoFlash" / f"{name}.flv")
    assert read_crema_d(tmp_path).not_understood == (
        "VideoFlash/1001-DFA.flv: not actor_sentence_emotion_level",
        "VideoFlash/1001_ABC_ANG_XX.flv: sentence ABC is unknown",
        "VideoFlash/1001_DFA_ANG_YY.flv: level YY is unknown",
        "VideoFlash/1001_DFA_BOR_XX.flv: emotion BOR is unknown",
    )


def test_perceived_labels_need_the_table(tmp_path):
    make_crema_d_like(tmp_path, actors=("1001",), sentences=("DFA",))
    (tmp_path / "processedResults" / "summaryTable.csv").unlink()
    with pytest.raises(DatasetError, match=r"summaryTable.csv: perceived labels need this table"):
        read_crema_d(tmp_path, labels="perceived")


# -- MEAD


def test_mead_is_read_from_the_front_unless_told_otherwise(tmp_path):
    make_mead_like(tmp_path, actors=("M003", "W009"), views=("front", "left_60"), clips_per_folder=2)
    reading = read_mead(tmp_path)
    assert len(reading.clips) == 2 * 2 * (1 + 7 * 3)
    assert {clip.attributes["view"] for clip in reading.clips} == {"front"}
    assert reading.class_names == (*RAVDESS_CLASSES, "contempt")
    assert reading.notes == ("88 videos are of other views or levels: passed over",)
    assert "views: front" in reading.label_source
    both = read_mead(tmp_path, views=("front", "left_60"))
    assert len(both.clips) == 176 and {clip.subject for clip in both.clips} == {"M003", "W009"}


def test_mead_levels_can_be_chosen(tmp_path):
    make_mead_like(tmp_path, actors=("M003",))
    assert len(read_mead(tmp_path, levels=(3,)).clips) == 7  # neutral has level 1 only
    assert len(read_mead(tmp_path, levels=(1, 3)).clips) == 15


def test_a_mead_path_tells_everything(tmp_path):
    make_mead_like(tmp_path / "MEAD part 0", actors=("W009",))
    clip = clip_named(read_mead(tmp_path), "MEAD part 0/W009/video/front/surprised/level_2/001.mp4")
    assert (clip.expression, clip.subject) == ("surprise", "W009")
    assert clip.attributes == {
        "emotion": "surprised",
        "view": "front",
        "level": "2",
        "number": "001",
        "sex": "female",
    }


def test_mead_findings_have_names(tmp_path):
    make_mead_like(tmp_path, actors=("M003",))
    shutil.rmtree(tmp_path / "M003/video/front/sad/level_2")
    touch(tmp_path / "M003/video/front/neutral/level_2/001.mp4")
    touch(tmp_path / "M003/video/front/bored/level_1/001.mp4")
    touch(tmp_path / "M003/video/behind/sad/level_1/001.mp4")
    touch(tmp_path / "M003/front/001.mp4")
    reading = read_mead(tmp_path)
    assert "all clips of M003/video/front/sad/level_2" in reading.missing
    assert "all clips of subject W009" in reading.missing
    assert reading.extra == ("M003/video/front/neutral/level_2",)
    assert reading.not_understood == (
        "M003/front/001.mp4: not ACTOR/video/VIEW/EMOTION/level_N/NNN.mp4",
        "M003/video/behind/sad/level_1/001.mp4: view behind is unknown",
        "M003/video/front/bored/level_1/001.mp4: emotion bored is unknown",
    )
    assert "subjects: 1 of 48" in reading.counts
    assert "class sadness: 2, where the paper uses 884" in reading.counts


# -- corpora with official lists

DFEW_LABELS = {number: str(number % 7 + 1) for number in range(1, 71)}


def test_dfew_takes_labels_and_folds_from_its_lists(tmp_path):
    make_dfew_like(tmp_path, DFEW_LABELS, unlisted=2)
    (tmp_path / "Clip/original/5.mp4").unlink()
    touch(tmp_path / "Clip/original/notes.mp4")
    reading = DFEW.read(tmp_path)
    assert len(reading.clips) == 69 and {clip.subject for clip in reading.clips} == {UNKNOWN_SUBJECT}
    clip = clip_named(reading, "Clip/original/2.mp4")
    assert (clip.expression, clip.attributes) == ("neutral", {"key": "00002"})  # official label 3
    assert clip.part.startswith("fold_2/")  # the second list tests it
    assert reading.missing == ("00005",) and reading.not_understood == ("Clip/original/notes.mp4: not a number",)
    assert reading.not_listed == ("Clip/original/90001.mp4", "Clip/original/90002.mp4")
    assert "lists of fold_1: 56 and 14 clips of 9356 and 2341" in reading.counts
    assert "class disgust: 9 of 145" in reading.counts


def test_ferv39k_takes_labels_and_its_one_split_from_its_lists(tmp_path):
    keys = [f"{scene}/{label}/{number:04d}" for scene in ("Action", "Crime") for label in ("Happy", "Fear")
            for number in range(20)]  # fmt: skip
    make_ferv39k_like(tmp_path, keys)
    touch(tmp_path / "2_ClipsforFaceCrop/Action/Bored/0001.mp4")
    touch(tmp_path / "2_ClipsforFaceCrop/Action/Happy/0999.mp4")
    reading = FERV39K.read(tmp_path)
    clip = clip_named(reading, "2_ClipsforFaceCrop/Crime/Fear/0007.mp4")
    assert clip.expression == "fear" and clip.attributes == {"key": "Crime/Fear/0007", "scene": "Crime"}
    assert len(reading.clips) == 80 and reading.not_listed == ("2_ClipsforFaceCrop/Action/Happy/0999.mp4",)
    assert reading.not_understood == ("2_ClipsforFaceCrop/Action/Bored/0001.mp4: not SCENE/EXPRESSION/NUMBER",)
    protocol = make_protocol(divided_units(reading.clips, "official"), "official", corpus="ferv39k")
    assert protocol.name == "ferv39k's official split (validation: 17% of the training clips, drawn by seed 0)"
    tested = [clip.attributes["key"] for clip in reading.clips if clip.part in protocol.folds[0].test]
    assert sorted(tested) == sorted(keys[::5])


def test_mafw_has_eleven_classes(tmp_path):
    names = [*RAVDESS_CLASSES, "contempt", "anxiety", "helplessness", "disappointment"]
    make_mafw_like(tmp_path, {f"{number:05d}": names[number % 11] for number in range(1, 56)})
    reading = MAFW.read(tmp_path)
    assert reading.class_names == tuple(names) and set(classes_of(reading).values()) == {5}
    assert clip_named(reading, "data/clips/00008.mp4").expression == "anxiety"
    assert clip_named(reading, "data/clips/00008.mp4").part.startswith("fold_3/")


def test_lists_may_lie_elsewhere(tmp_path):
    make_dfew_like(tmp_path / "videos", DFEW_LABELS)
    shutil.move(tmp_path / "videos/EmoLabel_DataSplit", tmp_path / "lists here")
    with pytest.raises(DatasetError, match="found no folder EmoLabel_DataSplit .* name its folder with --lists"):
        DFEW.read(tmp_path / "videos")
    assert len(DFEW.read(tmp_path / "videos", lists=tmp_path / "lists here").clips) == 70
    with pytest.raises(DatasetError, match="found no folder"):
        DFEW.read(tmp_path / "videos", lists=tmp_path / "nowhere")


def test_folds_without_lists_are_left_out_and_told(tmp_path):
    make_dfew_like(tmp_path, DFEW_LABELS)
    for fold in (2, 3, 4, 5):
        (tmp_path / f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv").unlink()
    reading = DFEW.read(tmp_path)
    assert "lists of fold_4: none there, left out of the protocol" in reading.counts
    protocol = make_protocol(divided_units(reading.clips, "official"), "official", corpus="dfew")
    assert protocol.name.startswith("dfew's official 5 folds, only fold_1 (validation")
    assert [fold.name for fold in protocol.folds] == ["fold_1"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"test/set_1": "1,2\n2,3\n"}, "set_1.csv and the fold's other list both have the clip 00002"),
        ({"test/set_1": "1,2\n1,2\n"}, "set_1.csv, row 3: clip 00001 stands in this list twice"),
        ({"test/set_1": "1,3\n"}, "set_2.csv, row 2: clip 00001 is sadness, but neutral in another row"),
        ({"test/set_1": "1,8\n"}, "set_1.csv, row 2: label '8' is unknown; known are 1, 2, 3"),
        ({"test/set_2": "1,2\n", "train/set_2": "2,3\n"}, "set_2.csv tests a clip that another fold tests too: 00001"),
        ({"test/set_1": "7,1\n"}, "The lists of fold_1 .* lack a clip of other folds' lists: 00001"),
    ],
)
def test_contradictory_lists_are_refused_by_name(tmp_path, lists, message):
    make_dfew_like(tmp_path, {1: "2", 2: "3"}, folds=2)  # fold 1 tests clip 1, fold 2 tests clip 2
    for name, text in lists.items():
        file = name.replace("/", "(single-labeled)/") + ".csv"
        (tmp_path / "EmoLabel_DataSplit" / file).write_text("video_name,label\n" + text)
    with pytest.raises(DatasetError, match=message) as error:
        DFEW.read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_list_is_refused_with_its_line(tmp_path):
    make_mafw_like(tmp_path, {"00001": "anger", "00002": "fear"}, folds=2)
    file = tmp_path / "Train & Test Set/single/no_caption/set_1/train.txt"
    file.write_text("00002.mp4 fear\n00001.mp4\n")
    with pytest.raises(DatasetError, match=r"train.txt, line 2: expected a clip and its label, found '00001.mp4'"):
        MAFW.read(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"train.txt cannot be read as a list"):
        MAFW.read(tmp_path)


# -- all corpora


def test_a_wrong_corpus_name_lists_the_right_ones():
    with pytest.raises(
        DatasetError, match="'affectnet' is unknown: choose one of ravdess, crema-d, mead, dfew, ferv39k, mafw"
    ):
        find_corpus("affectnet")


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_of_something_else_is_refused_with_what_was_expected_and_found(name, tmp_path):
    read = CORPORA[name].read
    make_lists_of_nothing(tmp_path, name)
    with pytest.raises(DatasetError, match="expected .* found no videos"):
        read(tmp_path)
    touch(tmp_path / "my holiday" / "beach.mp4")
    with pytest.raises(
        DatasetError, match="expected .* found 1 videos with other names, such as 'my holiday/beach.mp4'"
    ):
        read(tmp_path)
    with pytest.raises(DatasetError, match="expected a folder with .* found a file"):
        read(tmp_path / "my holiday" / "beach.mp4")
    with pytest.raises(DatasetError, match="expected a folder with .* found nothing"):
        read(tmp_path / "nowhere")


def make_lists_of_nothing(folder: Path, name: str) -> None:
    """Lists without a video."""
    if name in OFFICIAL_CORPORA:
        made = folder / "made"
        {
            "dfew": lambda: make_dfew_like(made, {1: "1", 2: "2"}, folds=2),
            "ferv39k": lambda: make_ferv39k_like(made, ["Action/Happy/0001", "Action/Happy/0002"]),
            "mafw": lambda: make_mafw_like(made, {"00001": "anger", "00002": "fear"}, folds=2),
        }[name]()
        for video in list(made.rglob("*.mp4")):
            video.unlink()


@pytest.mark.parametrize(
    ("read", "option", "value"),
    [
        (read_ravdess, "class_count", 6),
        (read_ravdess, "modality", "audio-only"),
        (read_ravdess, "channel", "shout"),
        (read_crema_d, "labels", "felt"),
        (read_mead, "views", ("behind",)),
        (read_mead, "levels", (4,)),
    ],
)
def test_unknown_options_are_refused_with_the_choices(tmp_path, read, option, value):
    with pytest.raises(DatasetError, match="is unknown: choose one of"):
        read(tmp_path, **{option: value})


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_every_corpus_tells_its_licence_and_how_to_cite_it(corpus):
    splits = {"train": {"fear": 1}, "validation": {"fear": 0}, "test": {"fear": 0}}
    report = BuildReport(
        output_dir="OUT",
        dataset_name=corpus.title,
        protocol={
            "name": "all",
            "kind": "none",
            "folds": [{"name": "default", "train": ["01"], "validation": [], "test": []}],
        },
        class_names=["fear"],
        clip_count=1,
        failures=[],
        warnings=[],
        clips_without_face=[],
        face_coverage=1.0,
        interpolated_share=0.0,
        class_counts={"fear": 1},
        class_coverage={"fear": 1.0},
        subject_counts={"01": 1},
        subject_coverage={"01": 1.0},
        fold_counts={"default": splits},
        options={"corpus": corpus.name, "embed_videos": True, "labelling": vars(LabellingOptions())},
    )
    text = render_card(report, {"default": {"train": ["data/a.parquet"]}}, corpus.license)
    assert corpus.citation in text
    assert corpus.homepage in text and corpus.license_note in text
    assert ("may NOT be passed on" in text) == (not corpus.redistribution)
    assert re.search(r"@\w+\{\w+,\n  title +=", corpus.citation) and corpus.citation.count(
        "{"
    ) == corpus.citation.count("}")


def test_which_videos_may_be_passed_on():
    assert {name: corpus.redistribution for name, corpus in CORPORA.items()} == {
        "ravdess": True,
        "crema-d": True,
        "mead": False,
        "dfew": False,
        "ferv39k": False,
        "mafw": False,
    }


def test_every_corpus_has_its_protocols():
    assert split_kinds("ravdess") == ("mtcae-dfer", "mae-dfer", *SPLIT_KINDS)
    assert split_kinds("crema-d") == ("mtcae-dfer", "mae-dfer", *SPLIT_KINDS)
    assert split_kinds("mead") == ("mtcae-dfer", *SPLIT_KINDS)
    assert split_kinds("dfew") == split_kinds("ferv39k") == split_kinds("mafw") == ("official", "none")
    assert split_kinds() == SPLIT_KINDS


def test_long_lists_of_findings_are_shortened_only_where_they_are_printed(ravdess):
    reading = read_ravdess(ravdess, class_count=8, channel="speech")
    assert list(reading.report_lines()) == ["notes (1):", "  3464 videos are not speech, video-only: passed over"]
    short = replace(reading, missing=tuple("12345"))
    assert list(short.report_lines(2))[-3:] == ["  1", "  2", "  … and 3 more"]
    assert list(short.report_lines(None))[-1] == "  5"


# -- real clips


def test_real_ravdess_files_are_two_performances(real_samples, tmp_path):
    for name in ("01-01-08-02-02-02-01.mp4", "02-01-01-01-02-01-01.mp4"):
        touch(tmp_path / "Actor_01" / name)
        shutil.copy(real_samples / name, tmp_path / "Actor_01" / name)
    reading = read_ravdess(tmp_path, modality="either")
    assert [(clip.expression, clip.attributes["modality"]) for clip in reading.clips] == [
        ("surprise", "audio-visual"),
        ("neutral", "video-only"),
    ]


def test_real_crema_d_files_are_read(real_samples):
    reading = read_crema_d(real_samples)
    assert {Path(clip.name).stem[9:12]: clip.expression for clip in reading.clips} == {
        "ANG": "anger",
        "DIS": "disgust",
        "FEA": "fear",
        "HAP": "happiness",
        "NEU": "neutral",
        "SAD": "sadness",
    }
    assert {clip.subject for clip in reading.clips} == {"1001"} and len(reading.not_understood) == 4
