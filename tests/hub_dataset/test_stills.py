"""Stills as a corpus: layouts, pictures of every kind, copies across splits, camera paths, data sets built of them."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset
from PIL import Image
from pyarrow import parquet

from mtcae_dfer.commands.command_line import parse_command
from mtcae_dfer.hub_dataset.clips import CameraPath, ClipLabels, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.corpora.ravdess import read_ravdess
from mtcae_dfer.hub_dataset.folds import make_protocol
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, labels_from_row
from mtcae_dfer.hub_dataset.stills.camera_path import draw_camera_path, film, move_labels
from mtcae_dfer.hub_dataset.stills.pictures import PictureError, PictureOptions, fingerprint, prepare_picture
from mtcae_dfer.hub_dataset.stills.preparing import StillsOptions, prepare_stills
from mtcae_dfer.hub_dataset.stills.sources import StillsReading, read_stills
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig, draw_clip
from mtcae_dfer.video_reading import read_clip

REAL_FACES = Path(__file__).parents[3] / "shared" / "real_faces"
CONFIG = SyntheticCorpusConfig(
    subjects=3, takes=1, expressions=("happiness", "sadness"), frame_size=192, min_frames=4, max_frames=4
)
RULE = PictureOptions()


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Picture (192, 192, 3), box (4,) and points (5, 2) of three people in two expressions."""
    clips = {
        (subject, name): draw_clip(CONFIG, subject, name, 1) for subject in (1, 2, 3) for name in CONFIG.expressions
    }
    return {
        key: (clip.frames[2], clip.truth.face_boxes[2], clip.truth.face_landmarks[2]) for key, clip in clips.items()
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def write_table(file: Path, rows: Sequence[Sequence[str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def told(source) -> list[tuple[str, str, str, str]]:
    return [(still.name, still.expression, still.subject, still.split) for still in source.stills]


def run_command(*words: str) -> int:
    options = parse_command("dataset", ["build", "stills", *words, "--workers", "1"])
    return options.run(options)


# -- layouts


def test_class_folders_with_and_without_folders_of_splits(tmp_path):
    picture = encoded(noise(20, 20, 3))
    for name in ("Happy/a.jpg", "sad/deep/b.png", "notes.png"):
        write(tmp_path / "plain" / name, picture)
    assert told(read_stills(tmp_path / "plain")) == [
        ("Happy/a.jpg", "happiness", "unknown", ""),
        ("sad/deep/b.png", "sadness", "unknown", ""),
    ]
    for name in ("Training/angry/p1_a.jpg", "PublicTest/angry/p2_b.jpg", "PrivateTest/neutral/p3_c.jpg"):
        write(tmp_path / "split" / name, picture)
    assert told(read_stills(tmp_path / "split")) == [
        ("PrivateTest/neutral/p3_c.jpg", "neutral", "unknown", "test"),
        ("PublicTest/angry/p2_b.jpg", "anger", "unknown", "validation"),
        ("Training/angry/p1_a.jpg", "anger", "unknown", "train"),
    ]


def test_names_of_classes_can_be_given_and_a_likely_slip_is_refused(tmp_path):
    for name in ("joy/a.png", "fear/b.png"):
        write(tmp_path / name, encoded(noise(20, 20)))
    with pytest.raises(DatasetError, match="joy/a.png: expression 'joy' is unknown; known are neutral"):
        read_stills(tmp_path)
    renamed = read_stills(tmp_path, StillsReading(spellings={"joy": "happiness"}))
    assert [still.expression for still in renamed.stills] == ["fear", "happiness"]
    kept = read_stills(tmp_path, StillsReading(class_names=("joy", "fear")))
    assert [still.expression for still in kept.stills] == ["fear", "joy"]


def test_a_table_tells_subject_split_and_attributes(tmp_path):
    table = write_table(
        tmp_path / "list.csv",
        [
            ("path", "expression", "subject", "split", "age"),
            ("a/1.png", "happy", "P1", "train", "30"),
            ("a/2.png", "fear", "P2", "val", "40"),
            ("a/3.png", "fear", "P3", "test", "50"),
        ],
    )
    source = read_stills(table)
    assert told(source)[1] == ("a/2.png", "fear", "P2", "validation") and source.stills[2].attributes == {"age": "50"}
    write_table(table, [("path", "expression", "split"), ("a.png", "fear", "someday")])
    with pytest.raises(DatasetError, match="row 2: split 'someday' is unknown: write train, validation, test"):
        read_stills(table)
    write_table(table, [("path", "expression"), ("../a.png", "fear")])
    with pytest.raises(DatasetError, match="row 2: the path '../a.png' leaves the folder"):
        read_stills(table)
    write_table(table, [("path", "expression"), ("a.png", "fear"), ("a.png", "fear")])
    with pytest.raises(DatasetError, match="has 2 stills of the name 'a.png'"):
        read_stills(table)


@pytest.mark.parametrize("header", [("emotion", "pixels", "Usage"), ("emotion", " Usage", " pixels")])
def test_the_csv_file_of_fer2013(tmp_path, header):
    grey = noise(48, 48)
    cells = {"emotion": "3", "pixels": " ".join(map(str, grey.ravel())), "Usage": "PublicTest"}
    table = write_table(tmp_path / "fer2013.csv", [header, [cells[name.strip()] for name in header]])
    source = read_stills(table)
    assert told(source) == [("PublicTest_00000.png", "happiness", "unknown", "validation")]
    (content,) = source.contents()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), grey)
    cells["pixels"] = "1 2 3"
    write_table(table, [header, [cells[name.strip()] for name in header]])
    with pytest.raises(DatasetError, match="row 2: pixels are not 48 × 48 numbers"):
        list(read_stills(table).contents())


def test_the_votes_of_fer_plus_stand_beside_fer2013s_rows(tmp_path):
    pixels = " ".join(["7"] * 48 * 48)
    rows = [("0", pixels, "Training"), ("3", pixels, "Training"), ("6", pixels, "PrivateTest")]
    table = write_table(tmp_path / "fer2013.csv", [("emotion", "pixels", "Usage"), *rows])
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF".split(",")
    votes = [
        ["Training", "fer0000000.png", 4, 0, 0, 1, 3, 2, 0, 0, 0, 0],
        ["Training", "", 0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
        ["PrivateTest", "fer0000002.png", 9, 0, 0, 0, 0, 0, 0, 0, 1, 0],
    ]
    file = write_table(tmp_path / "fer2013new.csv", [header, *votes])
    found = read_stills(table, StillsReading(votes=file)).stills
    assert [still.attributes["votes"] for still in found] == [
        "neutral 4, sadness 1, anger 3, disgust 2",
        "NF 10",
        "neutral 9, unknown 1",
    ]
    write_table(file, [header, *votes[:2]])
    with pytest.raises(DatasetError, match="row 4 is of PrivateTest, and there .*new.csv has no row: both files must"):
        read_stills(table, StillsReading(votes=file))
    write_table(file, [header, *votes, votes[2]])
    with pytest.raises(DatasetError, match="new.csv has 4 rows, and .* 3: they must be the same"):
        read_stills(table, StillsReading(votes=file))
    write_table(file, [header, ["Training", "", *["x"] * 10]])
    with pytest.raises(DatasetError, match="row 2: votes must be whole numbers"):
        read_stills(table, StillsReading(votes=file))
    write(tmp_path / "folder" / "anger" / "1.png", encoded(noise(20, 20)))
    with pytest.raises(DatasetError, match="new.csv holds votes by the rows of FER2013's CSV file .*folder is none"):
        read_stills(tmp_path / "folder", StillsReading(votes=file))
    own = write_table(
        tmp_path / "own.csv", [("path", "expression", "votes"), ("folder/anger/1.png", "anger", "fear 9")]
    )
    assert read_stills(own).stills[0].attributes == {"votes": "fear 9"}
    with pytest.raises(DatasetError, match="new.csv holds votes by the rows of FER2013's CSV file .*own.csv is none"):
        read_stills(own, StillsReading(votes=file))


def test_a_parquet_file_with_bytes_or_with_the_hubs_pictures(tmp_path):
    contents = [encoded(noise(20, 20, seed=seed)) for seed in range(2)]
    columns = {"name": ["a", "b"], "expression": ["anger", "neutral"], "split": ["train", "test"], "image": contents}
    parquet.write_table(pa.table(columns), tmp_path / "stills.parquet")
    source = read_stills(tmp_path / "stills.parquet")
    assert told(source) == [("a", "anger", "unknown", "train"), ("b", "neutral", "unknown", "test")]
    assert list(source.contents()) == contents
    columns = {"subject": ["X", "Y"], "expression": ["anger", "neutral"]}
    columns["image"] = [{"bytes": content, "path": None} for content in contents]
    write(tmp_path / "folder" / "README.md", b"")
    parquet.write_table(pa.table(columns), tmp_path / "folder" / "part.parquet")
    source = read_stills(tmp_path / "folder")
    assert [still.subject for still in source.stills] == ["X", "Y"] and list(source.contents()) == contents
    columns = {"name": ["a.jpg", "a.jpg"], "expression": ["anger", "neutral"], "image": contents}
    parquet.write_table(pa.table(columns), tmp_path / "stills.parquet")
    assert [still.name for still in read_stills(tmp_path / "stills.parquet").stills] == ["a.jpg", "a-2.jpg"]
    parquet.write_table(pa.table({"image": contents}), tmp_path / "stills.parquet")
    with pytest.raises(DatasetError, match="has no column 'expression'"):
        read_stills(tmp_path / "stills.parquet")


def test_raf_dbs_list_finds_aligned_pictures_first_and_tells_what_is_missing(tmp_path):
    basic = tmp_path / "RAF-DB" / "basic"
    lines = "train_00001.jpg 5\ntrain_00002.jpg 4\ntest_0001.jpg 7\ntest_0002.jpg 1\n"
    write(basic / "EmoLabel" / "list_patition_label.txt", lines.encode())
    for name in ("aligned/train_00001_aligned.jpg", "original/train_00001.jpg", "original/train_00002.jpg"):
        write(basic / "Image" / name, name.encode())
    write(basic / "Image/aligned/test_0001_aligned.jpg", b"test")
    source = read_stills(tmp_path / "RAF-DB")
    assert told(source) == [
        ("train_00001.jpg", "sadness", "unknown", "train"),
        ("train_00002.jpg", "happiness", "unknown", "train"),
        ("test_0001.jpg", "neutral", "unknown", "test"),
    ]
    assert [path.parent.name for path in source.contents()] == ["aligned", "original", "aligned"]
    assert set(source.left_out) == {"test_0002.jpg"}


def test_affect_nets_lists_leave_out_pictures_without_an_expression(tmp_path):
    header = ("subDirectory_filePath", "face_x", "expression", "valence", "arousal")
    write_table(
        tmp_path / "training.csv", [header, ("1/a.jpg", "0", "7", "-0.5", "0.25"), ("1/b.jpg", "0", "10", "-2", "-2")]
    )
    write_table(tmp_path / "validation.csv", [header, ("2/c.jpg", "0", "4", "0", "0"), ("2/d.jpg", "0", "0", "0", "0")])
    for name in ("1/a.jpg", "1/b.jpg", "2/c.jpg"):
        write(tmp_path / "Manually_Annotated_Images" / name, b"")
    source = read_stills(tmp_path)
    assert told(source) == [("1/a.jpg", "contempt", "unknown", "train"), ("2/c.jpg", "fear", "unknown", "validation")]
    assert source.stills[0].attributes == {"valence": "-0.5", "arousal": "0.25"}
    assert source.left_out == {"1/b.jpg": "without one of the eight expressions", "2/d.jpg": "no such picture"}


def test_videos_and_pictures_are_told_apart_in_one_line(tmp_path):
    write(tmp_path / "videos" / "fear" / "a.mp4", b"")
    write(tmp_path / "stills" / "fear" / "a.png", b"")
    with pytest.raises(DatasetError, match="holds 1 videos and no pictures: use `mtcae dataset build folder`"):
        read_stills(tmp_path / "videos")
    with pytest.raises(DatasetError, match="is a video, not a source of stills"):
        read_stills(tmp_path / "videos" / "fear" / "a.mp4")
    for read in (read_folder, read_ravdess):
        with pytest.raises(DatasetError, match="1 pictures and no videos.*mtcae dataset build stills") as error:
            read(tmp_path / "stills")
        assert "\n" not in str(error.value)


# -- pictures


def test_small_pictures_are_enlarged_large_ones_reduced_and_the_others_kept_as_they_are():
    small, large, fitting = noise(48, 60), noise(900, 1800, 3), noise(170, 300, 3)
    enlarged = prepare_picture(encoded(small), RULE)
    assert enlarged.image.size == (200, 160) and enlarged.suffix == ".png"
    wanted = Image.fromarray(small).resize((200, 160), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(enlarged.image), np.asarray(wanted))
    assert prepare_picture(encoded(large), RULE).image.size == (640, 320)
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg")):
        content = encoded(fitting, kind)
        kept = prepare_picture(content, RULE)
        assert kept.content == content and kept.suffix == suffix


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [(48, 48), (161, 203)])
def test_the_video_reader_reads_the_very_pixels(channels, size):
    picture = prepare_picture(encoded(noise(*size, *channels)), RULE)
    read = read_clip(picture.content, num_frames=1)
    assert read.info.frame_count == 1 and read.warning is None
    np.testing.assert_array_equal(read.frames[0].permute(1, 2, 0).numpy(), np.asarray(picture.image.convert("RGB")))


def test_pictures_of_every_kind_become_rgb_or_grey_and_upright():
    red = np.zeros((200, 200, 3), np.uint8)
    red[:, :, 0] = 200
    red[:100, :, :] = (0, 90, 0)  # a green upper half

    def pixel(content: bytes, x: int, y: int) -> tuple[int, ...]:
        return prepare_picture(content, RULE).image.convert("RGB").getpixel((x, y))

    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side: a quarter turn clockwise stands it upright
    content = encoded(red, "JPEG", exif=turned, quality=95)
    assert prepare_picture(content, RULE).suffix == ".png"
    assert np.allclose(pixel(content, 150, 100), (0, 90, 0), atol=6)  # the upper half is the right half now
    assert np.allclose(pixel(content, 50, 100), (200, 0, 0), atol=6)
    print_colours = encoded(Image.fromarray(red).convert("CMYK"), "JPEG", quality=95)
    assert np.allclose(pixel(print_colours, 100, 150), (200, 0, 0), atol=8)
    see_through = np.dstack([red, np.full((200, 200), 255, np.uint8)])
    see_through[150:, :, 3] = 0
    assert pixel(encoded(see_through), 100, 180) == (255, 255, 255) and pixel(encoded(see_through), 100, 50) == (
        0,
        90,
        0,
    )
    assert pixel(encoded(Image.fromarray(red).convert("P")), 100, 150)[0] > 150
    deep = np.full((200, 200), 0x8080, np.uint16)
    assert pixel(encoded(deep), 5, 5) == (128, 128, 128)
    grey_with_alpha = Image.merge("LA", [Image.new("L", (200, 200), 60), Image.new("L", (200, 200), 255)])
    assert pixel(encoded(grey_with_alpha), 5, 5) == (60, 60, 60)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as a picture"),
        (b"thesis.docx", "cannot be read as a picture"),
        (encoded(noise(200, 200, 3))[:9000], "cannot be read as a picture"),
        (encoded(noise(1, 1, 3)), "has 1x1 pixels: too small"),
        (
            encoded(Image.new("L", (60, 60)), "GIF", save_all=True, append_images=[Image.new("L", (60, 60), 200)]),
            "holds 2 pictures",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (encoded(Image.new("1", (20000, 6000))), "has more than 89478485 pixels: reduce it"),
    ],
    ids=["empty", "text", "cut", "one pixel", "animated", "pointer", "huge"],
)
def test_a_picture_that_cannot_be_used_says_why_in_one_line(content, reason):
    with pytest.raises(PictureError, match=reason) as error:
        prepare_picture(content, RULE)
    assert "\n" not in str(error.value)


# -- copies


def test_a_fingerprint_is_the_same_for_other_sizes_light_and_compression_and_differs_between_people(drawn):
    faces = [Image.fromarray(picture) for picture, _, _ in drawn.values()]
    for face in faces:
        other = Image.open(io.BytesIO(encoded(face.resize((96, 96)), "JPEG", quality=60)))
        brighter = other.point(lambda value: min(255, value * 1.2))
        for copy in (other, brighter, other.convert("L")):
            assert (fingerprint(face) != fingerprint(copy)).sum() <= 32
    prints = np.stack([fingerprint(face) for face in faces[::2]])  # one of each person
    distances = (prints[:, None] != prints[None]).sum(axis=-1)
    assert (distances[~np.eye(len(prints), dtype=bool)] > 32).all()


def test_training_pictures_with_a_copy_in_another_split_are_left_out_and_named(tmp_path, drawn):
    faces = [Image.fromarray(picture) for picture, _, _ in drawn.values()]
    copy = faces[0].resize((100, 100))
    files = {"train/fear/copy.jpg": copy, "test/fear/a.png": faces[0], "validation/fear/b.jpg": copy}
    files |= {"train/fear/c.png": faces[2], "train/anger/c again.png": faces[2]}
    for name, face in files.items():
        write(tmp_path / "in" / name, encoded(face, "JPEG" if name.endswith("jpg") else "PNG"))
    clips, findings = prepare_stills(read_stills(tmp_path / "in"), tmp_path / "out", progress=False)
    assert set(findings.left_out) == {"train/fear/copy.jpg"} and set(findings.remarks) == {"validation/fear/b.jpg"}
    assert "the same photograph as test/fear/a.png of the test pictures" in findings.remarks["validation/fear/b.jpg"]
    assert {clip.name: clip.part for clip in clips} == {
        name: name.split("/")[0] for name in files if name != "train/fear/copy.jpg"
    }


# -- splits


def test_without_validation_pictures_some_are_drawn_from_the_training_pictures(tmp_path):
    for number in range(30):
        split = "test" if number < 6 else "train"
        write(tmp_path / "in" / split / "fear" / f"{number}.png", encoded(noise(40, 40, seed=number)))
    clips, _ = prepare_stills(read_stills(tmp_path / "in"), tmp_path / "out", progress=False)
    protocol = make_protocol([clip.part for clip in clips], "given")
    assert protocol.name == "the source's own split (validation: 17% of the training clips, drawn by seed 0)"
    (fold,) = protocol.folds
    for clip in clips:
        assert (fold.split_of(clip.part) == "test") == clip.name.startswith("test/")
    assert fold.validation and fold.train


def test_a_source_without_splits_asks_for_other_ones():
    with pytest.raises(
        DatasetError, match="does not tell which of its clips train and which test: choose other splits"
    ):
        make_protocol(["", ""], "given")


# -- camera paths


def test_the_middle_frame_is_the_still_and_the_same_name_gives_the_same_path():
    path = draw_camera_path("a.png", 0, 16, 1.5)
    again, other = draw_camera_path("a.png", 0, 16, 1.5), draw_camera_path("b.png", 0, 16, 1.5)
    np.testing.assert_array_equal(path.matrices, again.matrices)
    assert not np.array_equal(path.matrices, other.matrices)
    np.testing.assert_allclose(path.matrices[7], [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    picture = noise(40, 60, 3)
    np.testing.assert_array_equal(film(picture, path)[7], picture)


def test_points_and_boxes_move_with_the_pixels():
    height, width = 120, 200
    picture = np.zeros((height, width, 3), np.uint8)
    centre = np.array([130.5, 45.5])  # of a disc, in pixels from the picture's corner
    y, x = np.mgrid[0:height, 0:width] + 0.5
    picture[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 36] = 200
    still = ClipLabels(
        frame_indices=np.zeros(1, np.int64),
        face_boxes=np.array(
            [[(centre[0] - 6) / width, (centre[1] - 6) / height, (centre[0] + 6) / width, (centre[1] + 6) / height]],
            np.float32,
        ),
        face_landmarks=np.tile((centre / (width, height)).astype(np.float32), (1, 5, 1)),
        face_found=np.ones(1, bool),
        face_confidence=np.ones(1, np.float32),
        face_count=np.ones(1, np.int64),
        face_interpolated=np.zeros(1, bool),
    )
    path = draw_camera_path("a.png", 3, 9, width / height)
    moved, frames = move_labels(still, path), film(picture, path)
    assert moved.frame_indices.tolist() == list(range(9)) and moved.face_landmarks.shape == (9, 5, 2)
    travelled = []
    for frame, points, box in zip(frames, moved.face_landmarks, moved.face_boxes, strict=True):
        weight = frame[..., 0].astype(float)
        seen = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        assert np.abs(points * (width, height) - seen).max() < 0.3
        x1, y1, x2, y2 = box * (width, height, width, height)
        bright = (weight > 100).nonzero()
        assert x1 - 1 < bright[1].min() and bright[1].max() + 1 < x2 + 1 and y1 - 1 < bright[0].min() < y2
        travelled.append(seen)
    assert np.ptp(travelled, axis=0).max() > 2  # the camera does move


def test_light_follows_the_path():
    path = CameraPath(np.tile(np.eye(2, 3), (2, 1, 1)), np.array([1.0, 0.5]))
    frames = film(np.full((20, 20, 3), 100, np.uint8), path)
    assert frames[0].mean() == 100 and frames[1].mean() == 50


def test_a_path_of_one_frame_is_refused():
    with pytest.raises(DatasetError, match="camera_frames=1: must be 0, or at least 2"):
        StillsOptions(camera_frames=1)


# -- data sets


def write_drawn(drawn, folder: Path) -> None:
    """Each person of `drawn` in a split of its own."""
    for (subject, expression), (picture, _, _) in drawn.items():
        split = ("train", "validation", "test")[subject - 1]
        write(folder / split / expression / f"S{subject}.png", encoded(picture))


def test_a_built_data_set_of_stills_loads_and_its_labels_lie_on_the_faces(tmp_path, drawn, capsys):
    write_drawn(drawn, tmp_path / "in")
    write(tmp_path / "in/train/sadness/broken.jpg", b"nothing")
    words = (str(tmp_path / "in"), str(tmp_path / "out"), "--subject-pattern", r"(S\d|broken)", "--license", "mit")
    assert run_command(*words) == 0
    assert "broken.jpg: cannot be read as a picture" in capsys.readouterr().err
    splits = load_dataset(str(tmp_path / "out"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "validation": 2, "test": 2}
    for rows in splits.values():
        for row in rows:
            expression = rows.features["expression"].int2str(row["expression"])
            picture, box, points = drawn[int(row["subject"][1]), expression]
            (frame,) = read_clip(clip_bytes(row), frame_indices=row["frame_indices"]).frames
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), picture)
            labels = labels_from_row(row)
            assert labels.face_boxes.shape == (1, 4) and labels.face_found.all()
            assert np.abs(labels.face_landmarks[0] - points).max() < 0.08
            assert np.abs(labels.face_boxes[0] - box).max() < 0.15
    report = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert report["protocol"]["name"] == "the source's own splits"
    assert [failure["name"] for failure in report["failures"]] == ["train/sadness/broken.jpg"]
    before = (tmp_path / "out" / "build_report.json").stat().st_mtime_ns
    assert run_command(*words) == 0  # a finished data set is returned at once
    assert (tmp_path / "out" / "build_report.json").stat().st_mtime_ns == before


def test_a_built_data_set_of_filmed_stills_has_labels_for_every_frame(tmp_path, drawn):
    write_drawn({key: value for key, value in drawn.items() if key[1] == "happiness"}, tmp_path / "in")
    assert run_command(str(tmp_path / "in"), str(tmp_path / "out"), "--camera-path", "5") == 0
    (row,) = load_dataset(str(tmp_path / "out"))["train"]
    picture, _, points = drawn[1, "happiness"]
    clip = read_clip(clip_bytes(row), frame_indices=row["frame_indices"])
    assert row["frame_indices"] == [0, 1, 2, 3, 4] and clip.info.frame_count == 5
    middle = clip.frames[2].permute(1, 2, 0).numpy().astype(float)
    assert np.abs(middle - picture).mean() < 4  # compressed
    labels = labels_from_row(row)
    assert labels.face_boxes.shape == (5, 4) and np.abs(labels.face_landmarks[2] - points).max() < 0.08
    assert np.abs(labels.face_landmarks - labels.face_landmarks[2]).max() > 0.01


def test_fifty_real_stills(tmp_path):
    file = REAL_FACES / "fer2013.parquet"
    if not file.is_file():
        pytest.skip("../shared/real_faces is not there")
    table = parquet.read_table(file)
    training = np.flatnonzero(np.array(table["split"].to_pylist()) == "train")[:50]
    parquet.write_table(table.take(training), tmp_path / "fifty.parquet")
    assert run_command(str(tmp_path / "fifty.parquet"), str(tmp_path / "out"), "--splits", "none") == 0
    rows = load_dataset(str(tmp_path / "out"))["train"]
    assert len(rows) == 50
    assert np.mean([row["face_found"][0] for row in rows]) > 0.7
    contents = dict(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True))
    for row in list(rows)[:5]:
        wanted = Image.open(io.BytesIO(contents[row["name"]])).resize((160, 160), Image.Resampling.BICUBIC)
        (frame,) = read_clip(clip_bytes(row), num_frames=1).frames
        np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), np.asarray(wanted.convert("RGB")))
