"""Contact sheets: which clips are on them, and that boxes lie where the labels say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtcae_dfer.hub_dataset.building.build import sort_out
from mtcae_dfer.hub_dataset.building.contact_sheets import FOUND, INTERPOLATED, MISSING, draw_contact_sheets, draw_sheet
from mtcae_dfer.hub_dataset.clips import Clip, LabelledClip
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions, label_clips
from tests.support.small_data import SMALL_EXPRESSIONS
from tests.support.video_files import write_numbered_video

OPTIONS = LabellingOptions(num_frames=4)


@pytest.fixture(scope="module")
def labelled(small_corpus) -> tuple[list[Clip], list[LabelledClip]]:
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS)[:3]
    return clips, list(label_clips(clips, OPTIONS))


def pixels_of(picture: Image.Image, colour: str) -> np.ndarray:
    """Positions (N, 2), x and y, of the pixels of exactly this colour."""
    wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    rows, columns = (np.asarray(picture) == wanted).all(axis=-1).nonzero()
    return np.stack([columns, rows], axis=1)


def test_a_built_data_set_has_a_sheet_for_every_class_that_opens(small_dataset):
    sheets = sorted((small_dataset / "contact_sheets").iterdir())
    names = [sheet.name for sheet in sheets if sheet.name[0].isdigit()]
    assert names == ["0-neutral.png", "1-happiness.png"]
    for sheet in sheets:
        with Image.open(sheet) as picture:
            assert picture.width >= 8 * 100 and len(pixels_of(picture.convert("RGB"), FOUND)) > 500


def test_boxes_are_drawn_where_the_labels_say(labelled):
    clips, results = labelled
    picture = draw_sheet([(clips[0], results[0].labels)])
    drawn = pixels_of(picture, FOUND)
    first = drawn[(drawn[:, 0] < 128) & (drawn[:, 1] < 18 + 110)]  # the first frame, above its number
    box = results[0].labels.face_boxes[0] * 128
    assert abs(first[:, 0].min() - box[0]) <= 2 and abs(first[:, 0].max() - box[2]) <= 2
    assert abs(first[:, 1].min() - 18 - box[1]) <= 2


def test_interpolated_and_missing_faces_are_told_apart(labelled):
    clips, results = labelled
    labels = results[0].labels
    found, interpolated = labels.face_found.copy(), labels.face_interpolated.copy()
    interpolated[1], found[2] = True, False
    labels = dataclasses.replace(labels, face_found=found, face_interpolated=interpolated)
    picture = draw_sheet([(clips[0], labels)])
    frame_width = picture.width // 4
    for colour, frame in ((INTERPOLATED, 1), (MISSING, 2)):
        assert set(pixels_of(picture, colour)[:, 0] // frame_width) == {frame}


def test_clips_with_the_fewest_faces_come_first_on_a_sheet_of_their_own(labelled, tmp_path):
    clips, results = labelled
    video = tmp_path / "nobody ü.mp4"
    write_numbered_video(video, 6)
    nobody = Clip(video, "neutral", "S09", video.name)
    everything = [*clips, nobody]
    built, _ = sort_out(everything, [*results, *label_clips([nobody], OPTIONS)])
    files = draw_contact_sheets(built, SMALL_EXPRESSIONS, tmp_path / "sheets", progress=False)
    assert files[-1] == tmp_path / "sheets" / "fewest-faces.png"
    with Image.open(files[-1]) as picture:
        assert len(pixels_of(picture, MISSING)) > 0 and len(pixels_of(picture, FOUND)) == 0


def test_the_same_labels_give_the_same_bytes_and_unread_clips_are_left_out(labelled, tmp_path):
    clips, results = labelled
    bad = LabelledClip(None, "cannot be read", "", 0)
    drawings = []
    for name, pairs in (("one", (clips, results)), ("two", ([*clips, clips[0]], [*results, bad]))):
        files = draw_contact_sheets(sort_out(*pairs)[0], SMALL_EXPRESSIONS, tmp_path / name, progress=False)
        drawings.append({file.name: Path(file).read_bytes() for file in files})
    assert drawings[0] == drawings[1] and drawings[0]
