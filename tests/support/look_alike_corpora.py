"""Folders that look like the published corpora, with real names, containers and sizes, made of drawn faces.

For the tests, and for rehearsals from the command line:

    python tests/look_alike_corpora.py ravdess OUT --actors 6 --frames 40

With `frames=0` the files are empty: enough for a reader, which looks at names alone.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from mtcae_dfer.hub_dataset.corpora import crema_d, mead, ravdess
from mtcae_dfer.hub_dataset.corpora.listed import DFEW, FERV39K
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig, draw_clip
from tests.support.video_files import write_video

NTSC = Fraction(30000, 1001)
H264 = {"codec": "libx264", "options": {"preset": "ultrafast", "crf": "30"}}
FLV1 = {"codec": "flv", "options": {"qscale": "6"}}

# Numbers of each person's takes of an expression, in the order in which they are first asked for.
_TAKES: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)


def draw_frames(subject: str, expression: str, take: str, count: int, width: int, height: int) -> list[np.ndarray]:
    """Frames uint8 (height, width, 3) of a drawn face in the middle of a plain wall, the same for the same words."""
    drawable = expression if expression in mead.CLASSES else "neutral"
    takes = _TAKES[subject, drawable]
    number = takes.setdefault(f"{expression} {take}", len(takes) + 1)
    square = np.stack(_draw_square(subject, drawable, number, count))
    canvas = np.empty((count, height, width, 3), dtype=np.uint8)
    canvas[:] = square[:1, :1, :1]  # the wall's colour
    left = (width - height) // 2
    for frame, face in zip(canvas, square, strict=True):
        frame[:, left : left + height] = cv2.resize(face, (height, height), interpolation=cv2.INTER_LINEAR)
    return list(canvas)


@lru_cache(maxsize=8)  # both files of a performance show the same frames
def _draw_square(subject: str, expression: str, take: int, count: int) -> tuple[np.ndarray, ...]:
    config = SyntheticCorpusConfig(
        subjects=999, takes=99, expressions=mead.CLASSES, min_frames=count, max_frames=count, seed=1
    )
    number = int("".join(character for character in subject if character.isdigit()))
    number += 500 * subject.startswith("W")  # MEAD has an M009 and a W009
    return tuple(draw_clip(config, number % 999 + 1, expression, take).frames)


def _write(path: Path, frames: int, subject: str, expression: str, take: str, size: tuple[int, int], **how) -> None:
    """Writes one clip of a width and height; an empty file where it has no frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames == 0:
        path.touch()
    else:
        write_video(path, draw_frames(subject, expression, take, frames, *size), **how)


def _write_table(path: Path, rows: Iterable[Sequence[str]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def make_ravdess_like(
    folder: Path,
    actors: Sequence[str] = ravdess.ACTORS,
    emotions: Sequence[str] = tuple(ravdess.EMOTIONS),
    modalities: Sequence[str] = ("02",),
    channels: Sequence[str] = ("01",),
    statements: Sequence[str] = tuple(ravdess.STATEMENTS),
    repetitions: Sequence[str] = ravdess.REPETITIONS,
    intensities: Sequence[str] = tuple(ravdess.INTENSITIES),
    frames: int = 0,
) -> Path:
    """Actor_01/02-01-06-01-02-01-01.mp4: H.264, 1280×720, 29.97 frames a second, where told with a sound track."""
    grid = product(channels, emotions, intensities, statements, repetitions, actors)
    for (channel, emotion, intensity, *take, actor), modality in product(grid, modalities):
        unsung = channel == "02" and (emotion in ("07", "08") or actor == "18")
        if unsung or (emotion == "01" and intensity == "02"):
            continue
        name = "-".join((modality, channel, emotion, intensity, *take, actor))
        how = H264 | {"frame_rate": NTSC, "with_audio": modality == "01"}
        place = folder / f"Actor_{actor}" / f"{name}.mp4"
        _write(place, frames, actor, ravdess.EMOTIONS[emotion], name[3:], (1280, 720), **how)
    return folder


def make_crema_d_like(
    folder: Path,
    actors: Sequence[str] = crema_d.ACTORS,
    emotions: Sequence[str] = tuple(crema_d.EMOTIONS),
    sentences: Sequence[str] = crema_d.SENTENCES,
    votes: Mapping[str, str] | None = None,
    frames: int = 0,
) -> Path:
    """VideoFlash/1001_IEO_ANG_HI.flv: FLV1 in FLV, 480×360, 29.97 frames a second; with both tables.

    `votes`: what the crowd saw in a face, where that is not what the actor meant, such as {"1001_DFA_ANG_XX": "A:D"}.
    """
    rows = []
    for actor, sentence, emotion in product(actors, sentences, emotions):
        levelled = sentence == "IEO" and emotion != "NEU"
        for level in ("LO", "MD", "HI") if levelled else ("XX",):
            name = f"{actor}_{sentence}_{emotion}_{level}"
            place = folder / "VideoFlash" / f"{name}.flv"
            _write(place, frames, actor, crema_d.EMOTIONS[emotion], name, (480, 360), **FLV1 | {"frame_rate": NTSC})
            vote = (votes or {}).get(name, emotion[0])
            rows.append((str(len(rows) + 1), name, emotion[0], "60", vote, "70", emotion[0], "80"))
    header = ("", "FileName", "VoiceVote", "VoiceLevel", "FaceVote", "FaceLevel", "MultiModalVote", "MultiModalLevel")
    _write_table(folder / "processedResults" / "summaryTable.csv", [header, *rows])
    people = [(actor, str(20 + int(actor) % 50), "Male", "Caucasian", "Not Hispanic") for actor in actors]
    _write_table(folder / "VideoDemographics.csv", [("ActorID", "Age", "Sex", "Race", "Ethnicity"), *people])
    return folder


def make_mead_like(
    folder: Path,
    actors: Sequence[str] = mead.ACTORS,
    emotions: Sequence[str] = tuple(mead.EMOTIONS),
    views: Sequence[str] = ("front",),
    levels: Sequence[int] = mead.LEVELS,
    clips_per_folder: int = 1,
    frames: int = 0,
) -> Path:
    """M003/video/front/happy/level_1/001.mp4: H.264, 1920×1080, 30 frames a second."""
    for actor, view, emotion, level in product(actors, views, emotions, levels):
        if emotion == "neutral" and level > 1:
            continue
        place = folder / actor / "video" / view / emotion / f"level_{level}"
        for number in range(1, clips_per_folder + 1):
            take = f"{view} {level} {number}"
            how = H264 | {"frame_rate": 30}
            _write(place / f"{number:03d}.mp4", frames, actor, mead.EMOTIONS[emotion], take, (1920, 1080), **how)
    return folder


def make_dfew_like(folder: Path, labels: Mapping[int, str], folds: int = 5, unlisted: int = 0, frames: int = 0) -> Path:
    """Clip/original/1.mp4 and EmoLabel_DataSplit. `labels`: "1" to "7" of each clip; `unlisted`: further clips."""
    for number in (*labels, *range(90001, 90001 + unlisted)):
        expression = DFEW.expressions[labels.get(number, "3")]
        place = folder / "Clip" / "original" / f"{number}.mp4"
        _write(place, frames, str(number), expression, str(number), (640, 360), **H264)
    for fold, split, keys in _deal(labels, folds):
        rows = [(str(key), labels[key]) for key in keys]
        name = f"{split}(single-labeled)/set_{fold}.csv"
        _write_table(folder / "EmoLabel_DataSplit" / name, [("video_name", "label"), *rows])
    return folder


def make_ferv39k_like(folder: Path, keys: Sequence[str], frames: int = 0) -> Path:
    """2_ClipsforFaceCrop/Action/Happy/0267.mp4 and 4_setups/All_scenes, whose test list is every fifth of the keys."""
    for key in keys:
        expression = FERV39K.expressions[key.split("/")[1]]
        _write(folder / "2_ClipsforFaceCrop" / f"{key}.mp4", frames, key[-4:], expression, key, (336, 336), **H264)
    for split, rows in (("train", [key for at, key in enumerate(keys) if at % 5]), ("test", keys[::5])):
        table = [(key, key.split("/")[1]) for key in rows]
        _write_table(folder / "4_setups" / "All_scenes" / f"{split}_All.csv", table, delimiter=" ")
    return folder


def make_mafw_like(folder: Path, labels: Mapping[str, str], folds: int = 5, frames: int = 0) -> Path:
    """data/clips/00001.mp4 and Train & Test Set/single/no_caption/set_1/train.txt."""
    for key, label in labels.items():
        _write(folder / "data" / "clips" / f"{key}.mp4", frames, key, label, key, (640, 360), **H264)
    for fold, split, keys in _deal(labels, folds):
        place = folder / "Train & Test Set" / "single" / "no_caption" / f"set_{fold}" / f"{split}.txt"
        _write_table(place, [(f"{key}.mp4", labels[key]) for key in keys], delimiter=" ")
    return folder


def _deal(keys: Iterable, folds: int) -> Iterable[tuple[int, str, list]]:
    """Fold, split and clips of every list: each clip is tested by one fold and trains the others."""
    keys = list(keys)
    for fold in range(1, folds + 1):
        tested = keys[fold - 1 :: folds]
        yield fold, "test", tested
        yield fold, "train", [key for key in keys if key not in tested]


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes a corpus of some actors with clips of all their emotions."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", choices=("ravdess", "crema-d", "mead"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--actors", type=int, default=6, help="how many (default: 6)")
    parser.add_argument("--frames", type=int, default=40, help="of each clip (default: 40)")
    chosen = parser.parse_args(arguments)
    if chosen.corpus == "ravdess":
        actors = ravdess.ACTORS[: chosen.actors]
        make_ravdess_like(chosen.folder, actors, repetitions=("01",), statements=("01",), frames=chosen.frames)
    elif chosen.corpus == "crema-d":
        actors = crema_d.ACTORS[: chosen.actors]
        make_crema_d_like(chosen.folder, actors, sentences=("IEO", "DFA"), frames=chosen.frames)
    else:
        make_mead_like(chosen.folder, mead.ACTORS[: chosen.actors], levels=(1, 3), frames=chosen.frames)


if __name__ == "__main__":
    main()
