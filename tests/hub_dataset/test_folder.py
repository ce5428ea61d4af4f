"""Reading any folder of videos: class folders, tables, subjects, and every way in which they can be wrong."""

import csv
from pathlib import Path

import pytest

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, UNKNOWN_SUBJECT, DatasetError, order_class_names
from mtcae_dfer.hub_dataset.corpora.folder import read_folder


def make_tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
    return folder


def make_table(file: Path, *rows: tuple[str, ...]) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return file


HEADER = ("path", "expression", "subject")


# -- class folders


def test_clips_come_sorted_with_the_class_of_their_folder(tmp_path):
    make_tree(tmp_path, "sadness/b.mp4", "happiness/a.mkv", "happiness/deep/er/c.FLV", "sadness/a b é.webm")
    clips = read_folder(tmp_path)
    assert [(clip.name, clip.expression) for clip in clips] == [
        ("happiness/a.mkv", "happiness"),
        ("happiness/deep/er/c.FLV", "happiness"),
        ("sadness/a b é.webm", "sadness"),
        ("sadness/b.mp4", "sadness"),
    ]
    assert all(clip.path.is_file() and clip.subject == UNKNOWN_SUBJECT for clip in clips)


def test_hidden_files_other_files_and_videos_outside_of_class_folders_are_left_out(tmp_path):
    make_tree(tmp_path, "fear/a.mp4", "fear/notes.txt", "fear/.b.mp4", ".cache/c.mp4", "d.mp4", "fear/.x/e.mp4")
    assert [clip.name for clip in read_folder(tmp_path)] == ["fear/a.mp4"]


@pytest.mark.parametrize("names", [(), ("a.mp4", "b.mp4"), ("fear/a.txt",)])
def test_a_folder_without_classes_of_videos_is_refused(tmp_path, names):
    with pytest.raises(DatasetError, match="expected class_name/clip.mp4"):
        read_folder(make_tree(tmp_path, *names))


def test_a_class_that_is_not_among_the_given_ones_is_refused_with_its_file(tmp_path):
    make_tree(tmp_path, "fear/a.mp4", "calm/b.mp4")
    with pytest.raises(DatasetError, match=r"calm/b\.mp4: expression 'calm' is unknown; known are fear, anger"):
        read_folder(tmp_path, class_names=("fear", "anger"))


def test_a_misspelt_class_beside_the_usual_ones_is_refused_and_a_whole_set_of_others_is_not(tmp_path):
    make_tree(tmp_path / "mixed", "fear/a.mp4", "hapiness/b.mp4")
    with pytest.raises(DatasetError, match=r"'hapiness' is unknown; known are neutral, .*contempt; for other classes"):
        read_folder(tmp_path / "mixed")
    assert len(read_folder(make_tree(tmp_path / "own", "bored/a.mp4", "awake/b.mp4"))) == 2
    assert len(read_folder(tmp_path / "mixed", class_names=("fear", "hapiness"))) == 2


def test_a_source_that_is_no_folder_and_no_table_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="neither a folder nor a .csv"):
        read_folder(make_tree(tmp_path, "clip.mp4") / "clip.mp4")


# -- subjects


@pytest.mark.parametrize("pattern", [r"^(\d{4})_", r"(?P<subject>\d{4})_(DFA)"])
def test_subjects_come_from_a_pattern_in_the_file_name(tmp_path, pattern):
    make_tree(tmp_path, "anger/1001_DFA_ANG.mp4", "fear/2002/1044_DFA_FEA.mp4")
    assert [clip.subject for clip in read_folder(tmp_path, subject_pattern=pattern)] == ["1001", "1044"]


@pytest.mark.parametrize(
    ("pattern", "message"), [(r"^(\d+)", "finds no subject in the clip 'fear/x.mp4'"), ("(", "no reg"), ("x", "group")]
)
def test_a_pattern_that_does_not_work_is_refused(tmp_path, pattern, message):
    make_tree(tmp_path, "fear/x.mp4")
    with pytest.raises(DatasetError, match=message):
        read_folder(tmp_path, subject_pattern=pattern)


def test_subjects_come_from_a_table_by_path_or_file_name(tmp_path):
    make_tree(tmp_path / "clips", "fear/a.mp4", "anger/a.mp4", "fear/b.mp4")
    table = make_table(
        tmp_path / "s.csv",
        ("subject", "path"),
        ("P1", "fear/a.mp4"),
        ("P2", "anger/a.mp4"),
        ("P3", "b.mp4"),
        ("P4", "z"),
    )
    clips = read_folder(tmp_path / "clips", subjects_csv=table)
    assert {clip.name: clip.subject for clip in clips} == {"anger/a.mp4": "P2", "fear/a.mp4": "P1", "fear/b.mp4": "P3"}


def test_a_clip_without_a_subject_in_the_table_is_refused(tmp_path):
    make_tree(tmp_path / "clips", "fear/a.mp4")
    with pytest.raises(DatasetError, match=r"s\.csv has no row for the clip 'fear/a\.mp4'"):
        read_folder(tmp_path / "clips", subjects_csv=make_table(tmp_path / "s.csv", ("path", "subject")))
    with pytest.raises(DatasetError, match=r"s\.csv, row 2 has no subject"):
        table = make_table(tmp_path / "s.csv", ("path", "subject"), ("fear/a.mp4", " "))
        read_folder(tmp_path / "clips", subjects_csv=table)


def test_table_and_pattern_together_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="one of them"):
        read_folder(tmp_path, subjects_csv="s.csv", subject_pattern="(.)")


# -- a table of clips


def test_a_table_names_clips_relative_to_its_own_folder_and_keeps_further_columns(tmp_path):
    table = make_table(
        tmp_path / "clips.csv", (*HEADER, "level"), ("x y/ü.mp4", "fear", "P2", "high"), ("a.mp4", "anger", "P1", "")
    )
    clips = read_folder(table)
    assert [(clip.name, clip.expression, clip.subject, clip.attributes) for clip in clips] == [
        ("a.mp4", "anger", "P1", {"level": ""}),
        ("x y/ü.mp4", "fear", "P2", {"level": "high"}),
    ]
    assert clips[1].path == tmp_path / "x y" / "ü.mp4"


def test_a_table_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "clips.csv").write_text("\ufeffpath,expression,subject\na.mp4,fear,P1\n", encoding="utf-8")
    assert read_folder(tmp_path / "clips.csv")[0].subject == "P1"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("path", "expression"), ("a.mp4", "fear")], "has no column 'subject'"),
        ([HEADER], "has no rows"),
        ([HEADER, ("a.mp4", "fear", "P1"), ("b.mp4", "fear", "")], "row 3 has no subject"),
        ([HEADER, ("a.mp4", "fear")], "row 2 has no subject"),
        ([HEADER, ("a.mp4", "", "P1")], "row 2 has no expression"),
        ([HEADER, ("", "fear", "P1")], "row 2 has no path"),
        ([HEADER, ("../a.mp4", "fear", "P1")], r"row 2: the path '\.\./a\.mp4' leaves the folder"),
        ([HEADER, ("b/../../a.mp4", "fear", "P1")], "row 2: the path .* leaves the folder"),
        ([HEADER, ("/etc/a.mp4", "fear", "P1")], "row 2: the path '/etc/a.mp4' leaves the folder"),
        ([HEADER, ("a.mp4", "fear", "P1"), ("./a.mp4", "fear", "P1")], "row 3 names 'a.mp4', which an earlier row"),
        ([HEADER, ("a.mp4", "joy", "P1")], "row 2: expression 'joy' is unknown; known are fear, anger"),
    ],
)
def test_a_wrong_table_is_refused_with_file_and_row(tmp_path, rows, message):
    table = make_table(tmp_path / "clips.csv", *rows)
    with pytest.raises(DatasetError, match=message) as error:
        read_folder(table, class_names=("fear", "anger"))
    assert str(table) in str(error.value) and "\n" not in str(error.value)


def test_linked_folders_are_read_and_circles_end(tmp_path):
    make_tree(tmp_path, "disk/fear/a.mp4", "corpus/anger/b.mp4")
    corpus = tmp_path / "corpus"
    (corpus / "fear").symlink_to(tmp_path / "disk" / "fear")
    (corpus / "anger" / "back").symlink_to(corpus)
    (corpus / "anger" / "nowhere").symlink_to(tmp_path / "gone")
    (corpus / "again").symlink_to(corpus / "anger")  # of a folder and a link to it, the folder itself counts
    clips = read_folder(corpus)
    assert [(clip.name, clip.expression) for clip in clips] == [("anger/b.mp4", "anger"), ("fear/a.mp4", "fear")]
    assert clips[1].path.exists()


def test_pointers_of_git_lfs_are_refused_by_name(tmp_path):
    make_tree(tmp_path, "fear/a.mp4", "anger/b.mp4")
    for name in ("fear/a.mp4", "anger/b.mp4"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 414429\n")
    with pytest.raises(DatasetError, match="all 2 videos, such as 'anger/b.mp4', are Git LFS pointers.*git lfs pull"):
        read_folder(tmp_path)
    (tmp_path / "fear/a.mp4").write_bytes(b"a video")
    assert len(read_folder(tmp_path)) == 2  # a single one is told when it is read


def test_a_link_that_leaves_the_tables_folder_is_refused(tmp_path):
    make_tree(tmp_path, "secret/a.mp4", "corpus/b.mp4")
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "secret")
    table = make_table(tmp_path / "corpus" / "clips.csv", HEADER, ("link/a.mp4", "fear", "P1"))
    with pytest.raises(DatasetError, match="row 2: .* leaves the folder"):
        read_folder(table)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "clips.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(DatasetError, match="not a CSV file in UTF-8"):
        read_folder(tmp_path / "clips.csv")


def test_a_missing_clip_of_a_table_is_left_to_the_build(tmp_path):
    table = make_table(tmp_path / "clips.csv", HEADER, ("gone.mp4", "fear", "P1"))
    assert not read_folder(table)[0].path.exists()


# -- class ids


def test_known_expressions_have_a_fixed_order_and_others_an_alphabetical_one():
    assert order_class_names(["surprise", "neutral", "anger", "anger"]) == ("neutral", "anger", "surprise")
    assert order_class_names(reversed(EXPRESSIONS)) == EXPRESSIONS
    assert order_class_names(["happy", "neutral", "anger"]) == ("anger", "happy", "neutral")


def test_given_class_names_are_taken_as_they_are():
    assert order_class_names(["b"], ("b", "a")) == ("b", "a")
    with pytest.raises(DatasetError, match="'c' is not among"):
        order_class_names(["c"], ("b", "a"))
    with pytest.raises(DatasetError, match="twice"):
        order_class_names(["b"], ("b", "b"))
