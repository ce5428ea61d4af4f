"""Reader for RAVDESS: Actor_01/02-01-06-01-02-01-12.mp4, as its archive unpacks.

A file's name is modality-channel-emotion-intensity-statement-repetition-actor, in two digits each. Every performance is
published twice: with sound (modality 01) and without (02).
"""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path, PurePosixPath

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, Clip
from mtcae_dfer.hub_dataset.corpora.reading import (
    CorpusReading,
    Recording,
    choose,
    corpus_videos,
    count_differences,
    extra_recordings,
    keep_one_per_recording,
    missing_recordings,
    parse_names,
    refuse_other_corpus,
)

EXPECTED = "RAVDESS's videos, such as Actor_01/02-01-01-01-01-01-01.mp4"

# Positions are class ids.
SEVEN_CLASSES = EXPRESSIONS[:7]
EIGHT_CLASSES = ("neutral", "calm", *EXPRESSIONS[1:7])
CLASSES_OF_COUNT = {7: SEVEN_CLASSES, 8: EIGHT_CLASSES}

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
MODALITIES = {"01": "audio-visual", "02": "video-only"}
CHANNELS = {"01": "speech", "02": "song"}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
REPETITIONS = ("01", "02")
ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))

# Songs are sung without disgust and surprise, and actor 18 did not sing.
EMOTIONS_OF_CHANNEL = {"speech": tuple(EMOTIONS), "song": ("01", "02", "03", "04", "05", "06")}
ACTORS_OF_CHANNEL = {"speech": ACTORS, "song": tuple(actor for actor in ACTORS if actor != "18")}

MODALITY_CHOICES = ("video-only", "audio-visual", "either")
CHANNEL_CHOICES = ("speech", "song")

_NAME = re.compile(r"\d\d(-\d\d){6}")
_ACTOR_FOLDER = re.compile(r"Actor_(\d\d)")


def read_ravdess(
    source: str | os.PathLike, class_count: int = 7, modality: str = "video-only", channel: str = "speech"
) -> CorpusReading:
    """Reads RAVDESS.

    Args:
        source: the folder above Actor_01 … Actor_24; further folders in between, as of the archives, do not matter.
        class_count: 7: calm counts as neutral, as in the paper; 8: calm is a class of its own.
        modality: "video-only" or "audio-visual" files, or "either": one file per performance, without sound where both
            are there.
        channel: "speech" or "song". Songs have two classes fewer.

    Returns:
        Clips whose subject is the actor's number, "01" to "24", and whose attributes are emotion (before merging),
        modality, channel, intensity, statement, repetition and sex.

    Raises:
        DatasetError: an option is unknown, or the folder does not hold this corpus.
    """
    choose("class_count", class_count, tuple(CLASSES_OF_COUNT))
    choose("modality", modality, MODALITY_CHOICES)
    choose("channel", channel, CHANNEL_CHOICES)
    names = corpus_videos(source, EXPECTED)
    understood, not_understood = parse_names(names, lambda name: _parse(Path(source), name, class_count))
    if not understood:
        refuse_other_corpus(source, EXPECTED, names)
    wanted = [
        clip
        for clip in understood
        if clip.attributes["channel"] == channel and modality in (clip.attributes["modality"], "either")
    ]
    if not wanted:
        refuse_other_corpus(source, f"{modality} {channel} recordings of RAVDESS", names)
    # Files without sound come first, so that they are the ones kept of a performance that is there twice.
    wanted.sort(key=lambda clip: (clip.attributes["modality"] != "video-only", clip.name))
    passed_over = len(understood) - len(wanted)
    # Where both kinds of files count, the name of the file without sound stands for the performance.
    clips, repeated = keep_one_per_recording(
        wanted, lambda clip: f"02{clip.path.stem[2:]}" if modality == "either" else clip.path.stem
    )
    if modality == "either":  # the release has each performance under two names: that is no repeat
        pairs = [line.split(": the same recording as ") for line in repeated]
        repeated = tuple(
            ": the same recording as ".join(pair)
            for pair in pairs
            if PurePosixPath(pair[0]).stem == PurePosixPath(pair[1]).stem
        )
    head = f"{'01' if modality == 'audio-visual' else '02'}-{'01' if channel == 'speech' else '02'}"
    grid = product(ACTORS_OF_CHANNEL[channel], EMOTIONS_OF_CHANNEL[channel], INTENSITIES, STATEMENTS, REPETITIONS)
    release = [
        Recording("-".join((head, emotion, *take, actor)), _expression(emotion, class_count), actor)
        for actor, emotion, *take in grid
        if not (EMOTIONS[emotion] == "neutral" and INTENSITIES[take[0]] == "strong")  # there is no strong neutral
    ]
    sung = {_expression(emotion, class_count) for emotion in EMOTIONS_OF_CHANNEL[channel]}
    class_names = tuple(name for name in CLASSES_OF_COUNT[class_count] if name in sung)
    kind = "one file per performance, video-only where it is there" if modality == "either" else f"{modality} files"
    calm = "calm counts as neutral" if class_count == 7 else "calm is a class of its own"
    return CorpusReading(
        clips=tuple(sorted(clips.values(), key=lambda clip: clip.name)),
        class_names=class_names,
        label_source=f"RAVDESS, {channel}, {kind}. Labels are the acted emotions that the file names give; {calm}.",
        missing=missing_recordings(release, clips),
        extra=extra_recordings(release, clips),
        repeated=repeated,
        not_understood=not_understood,
        counts=count_differences(release, [(clip.expression, clip.subject) for clip in clips.values()], class_names),
        notes=(f"{passed_over} videos are not {channel}, {modality}: passed over",) if passed_over else (),
    )


def _parse(folder: Path, name: str, class_count: int) -> Clip | str:
    """The clip, or the reason why its name is not understood."""
    stem = PurePosixPath(name).stem
    if not _NAME.fullmatch(stem):
        return "not seven numbers of two digits"
    modality, channel, emotion, intensity, statement, repetition, actor = stem.split("-")
    fields = {
        "modality": (modality, MODALITIES),
        "channel": (channel, CHANNELS),
        "emotion": (emotion, EMOTIONS),
        "intensity": (intensity, INTENSITIES),
        "statement": (statement, STATEMENTS),
    }
    for field, (code, meanings) in fields.items():
        if code not in meanings:
            return f"{field} {code} is unknown"
    folder_name = PurePosixPath(name).parent.name
    match = _ACTOR_FOLDER.fullmatch(folder_name)
    if match and match[1] != actor:
        return f"stands in the folder {folder_name}, but names actor {actor}"
    attributes = {field: meanings[code] for field, (code, meanings) in fields.items()}
    attributes |= {"repetition": repetition, "sex": "male" if int(actor) % 2 else "female"}
    return Clip(folder / name, _expression(emotion, class_count), actor, name, attributes)


def _expression(emotion: str, class_count: int) -> str:
    name = EMOTIONS[emotion]
    return "neutral" if name == "calm" and class_count == 7 else name
