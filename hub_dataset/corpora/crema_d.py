"""Reader for CREMA-D: VideoFlash/1001_IEO_ANG_HI.flv, as its repository has it.

A file's name is actor_sentence_emotion_level. Two tables of the repository are read where they are there:
processedResults/summaryTable.csv (what the crowd perceived; also the list of all recordings) and VideoDemographics.csv.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path, PurePosixPath

from mtcae_dfer.hub_dataset.clips import EXPRESSIONS, Clip, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_rows
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

EXPECTED = "CREMA-D's videos, such as VideoFlash/1001_DFA_ANG_XX.flv"
SUMMARY_TABLE = "processedResults/summaryTable.csv"
DEMOGRAPHICS_TABLE = "VideoDemographics.csv"

CLASSES = EXPRESSIONS[:6]  # positions are class ids
EMOTIONS = {"NEU": "neutral", "HAP": "happiness", "SAD": "sadness", "ANG": "anger", "FEA": "fear", "DIS": "disgust"}
EMOTION_OF_VOTE = {code[0]: expression for code, expression in EMOTIONS.items()}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
SENTENCE_WITH_LEVELS = "IEO"
ACTORS = tuple(str(actor) for actor in range(1001, 1092))

LABEL_CHOICES = ("intended", "perceived")
# Which raters' majority counts as perceived: those who saw the face without its voice, as a video model does.
PERCEIVED_COLUMN = "FaceVote"

# Twenty recordings of the full grid were never released; this is how many, by range of actors and expression.
NEVER_RELEASED = (
    ("1001", "1018", {"neutral": 3} | dict.fromkeys(CLASSES[1:], 2)),
    ("1019", "1036", {"neutral": 1} | dict.fromkeys(CLASSES[1:], 1)),
    ("1073", "1091", {"neutral": 1}),
)

_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")


def read_crema_d(source: str | os.PathLike, labels: str = "intended") -> CorpusReading:
    """Reads CREMA-D.

    Args:
        source: the repository's folder, with VideoFlash in it.
        labels: "intended": the acted emotion, in the file name; "perceived": the emotion that most raters saw in the
            face alone (column FaceVote of processedResults/summaryTable.csv). Ties have no single label: such
            recordings are left out and listed.

    Returns:
        Clips whose subject is the actor's number, "1001" to "1091", and whose attributes are sentence, level, intended,
        perceived (one or several expressions with "/" between them; where the table is there), and age, sex, race and
        ethnicity (where VideoDemographics.csv is there).

    Raises:
        DatasetError: an option is unknown, the folder does not hold this corpus, or a table is wanted and not there or
            damaged.
    """
    choose("labels", labels, LABEL_CHOICES)
    folder = Path(source)
    names = corpus_videos(folder, EXPECTED)
    votes: dict[str, str] = {}  # what the crowd perceived in each recording's face, such as "A" or, in a tie, "A:D"
    if (folder / SUMMARY_TABLE).is_file():
        rows = read_rows(folder / SUMMARY_TABLE, ("FileName", PERCEIVED_COLUMN))
        votes = {row["FileName"]: row[PERCEIVED_COLUMN] for _, row in rows}
    demographics: dict[str, dict[str, str]] = {}  # of each actor
    if (folder / DEMOGRAPHICS_TABLE).is_file():
        columns = ("Age", "Sex", "Race", "Ethnicity")
        rows = read_rows(folder / DEMOGRAPHICS_TABLE, ("ActorID", *columns))
        demographics = {row["ActorID"]: {column.lower(): row[column] for column in columns} for _, row in rows}
    if labels == "perceived" and not votes:
        raise DatasetError(f"{folder / SUMMARY_TABLE}: perceived labels need this table, found none.")
    understood, not_understood = parse_names(names, lambda name: _parse(folder, name, votes, demographics))
    if not understood:
        refuse_other_corpus(folder, EXPECTED, names)
    clips, repeated = keep_one_per_recording(understood, lambda clip: clip.path.stem)
    # All recordings of the release: those that the table lists, or else the grid less what was never released.
    listed = [match for match in map(_NAME.fullmatch, sorted(votes)) if match]
    release = [Recording(match[0], EMOTIONS.get(match[3], match[3]), match[1]) for match in listed]
    if not votes:
        release = _grid_without_unreleased(set(clips))
    chosen, without_label = list(clips.values()), []
    label_source = "CREMA-D. Labels are the intended (acted) emotions that the file names give."
    if labels == "perceived":
        seen = [(clip, clip.attributes.get("perceived", "not in the table")) for clip in chosen]
        chosen = [replace(clip, expression=perceived) for clip, perceived in seen if perceived in CLASSES]
        without_label = [f"{clip.name}: {told or 'an empty vote'}" for clip, told in seen if told not in CLASSES]
        label_source = (
            "CREMA-D. Labels are the crowd-perceived emotions: the majority of the raters who saw the face without its "
            f"voice ({PERCEIVED_COLUMN} of {SUMMARY_TABLE}); recordings with a tie are left out."
        )
    no_demographics = f"no {DEMOGRAPHICS_TABLE}: clips have no age, sex, race and ethnicity"
    return CorpusReading(
        clips=tuple(sorted(chosen, key=lambda clip: clip.name)),
        class_names=CLASSES,
        label_source=label_source,
        missing=missing_recordings(release, clips),
        extra=extra_recordings(release, clips),
        repeated=repeated,
        not_understood=not_understood,
        without_label=tuple(sorted(without_label)),
        # The release's counts are those of the intended emotion, whichever label is chosen.
        counts=count_differences(release, [(clip.expression, clip.subject) for clip in clips.values()], CLASSES),
        notes=() if demographics else (no_demographics,),
    )


def _parse(
    folder: Path, name: str, votes: Mapping[str, str], demographics: Mapping[str, Mapping[str, str]]
) -> Clip | str:
    """The clip with its intended label, or the reason why its name is not understood."""
    match = _NAME.fullmatch(PurePosixPath(name).stem)
    if match is None:
        return "not actor_sentence_emotion_level"
    actor, sentence, emotion, level = match.groups()
    for field, code, known in (
        ("sentence", sentence, SENTENCES),
        ("emotion", emotion, EMOTIONS),
        ("level", level, LEVELS),
    ):
        if code not in known:
            return f"{field} {code} is unknown"
    attributes = {"sentence": sentence, "level": LEVELS[level], "intended": EMOTIONS[emotion]}
    if match[0] in votes:
        # A tie has several letters; an unknown one stays as it is.
        attributes["perceived"] = "/".join(EMOTION_OF_VOTE.get(letter, letter) for letter in votes[match[0]].split(":"))
    attributes |= demographics.get(actor, {})
    return Clip(folder / name, EMOTIONS[emotion], actor, name, attributes)


# ---------------------------------------------------------------------------------------------------------------
# The official release


def _grid_without_unreleased(present: set[str]) -> list[Recording]:
    """The full grid, without as many absent recordings of a cell as the release lacks there.

    Every actor speaks every sentence in every emotion; one sentence in three levels, except for neutral. Which twenty
    recordings the release lacks, only the table tells. A cell (range of actors, expression) that lacks no more than the
    release does is complete; in any other cell all absent recordings are suspects and stay.
    """
    grid = []
    for actor, sentence, emotion in product(ACTORS, SENTENCES, EMOTIONS):
        levelled = sentence == SENTENCE_WITH_LEVELS and emotion != "NEU"
        for level in ("LO", "MD", "HI") if levelled else ("XX",):
            grid.append(Recording(f"{actor}_{sentence}_{emotion}_{level}", EMOTIONS[emotion], actor))
    absent: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in grid:
        if recording.key not in present and recording.key.endswith("XX"):
            ranges = (first for first, last, _ in NEVER_RELEASED if first <= recording.subject <= last)
            absent[next(ranges, ""), recording.expression].append(recording)
    counts_of_range = {first: counts for first, _, counts in NEVER_RELEASED}
    never_released = {
        recording
        for (first, expression), recordings in absent.items()
        if len(recordings) <= counts_of_range.get(first, {}).get(expression, 0)
        for recording in recordings
    }
    return [recording for recording in grid if recording not in never_released]
