"""A folder of answers: of every video of a study one JSON file and what else is asked for, and one table of all.

A JSON file appears when it is whole, and says by what options and model, and of which state of the video, it was made.
So a study that was stopped goes on where it was, and no answer is ever taken for one of other options.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtcae_dfer.hub_dataset.files import replacing, why_not_writable, write_json
from mtcae_dfer.inference.studies import name_videos
from mtcae_dfer.inference.timeline_files import FRAME_COLUMNS, WINDOW_COLUMNS, timeline_rows, write_table
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.weight_files import digest_weights

RECORD_FILE, TABLE_FILE, FAILURES_FILE = "study.json", "all.csv", "failures.csv"
MADE = "made"  # entry of an answer that says what it was made of
# What can stand beside a video's JSON file, by its option: the ending behind the video's name.
ENDINGS = {"csv": ".csv", "overlay": ".overlay.mp4", "timeline": ".timeline.png", "picture": ".picture.png"}
CLIP_COLUMNS = ("file", "face_found", "other_people", "face_coverage", "warning", "expression", "probability")


@dataclass(frozen=True)
class StudyOptions:
    """What is asked of every video. All but `also` decides the answers."""

    timelines: bool = False  # a timeline of every video, instead of one answer for all of it
    pipeline: dict[str, Any] = field(default_factory=dict)  # options of the timelines
    top_k: int | None = None  # how many expressions an answer names; None: all
    verify_face: bool = False  # of a clip: in how many frames MTCNN finds a face
    per_frame: bool = False  # rows of a timeline's table are sampled frames, not windows
    device: str = "cpu"  # where the model runs
    also: tuple[str, ...] = ()  # of ENDINGS: what is written beside the JSON files


@dataclass(frozen=True)
class PlannedVideo:
    """A video and the place of its answer; both absolute."""

    path: str
    name: str  # in the answers: where it stands below the folder or pattern that was named
    place: str  # of the answer's files, without their endings

    @property
    def answer(self) -> Path:
        """The JSON file."""
        return Path(self.place + ".json")

    def beside(self, kind: str) -> Path:
        """A file of ENDINGS."""
        return Path(self.place + ENDINGS[kind])


@dataclass(frozen=True)
class AnswerFolder:
    """A folder of answers that are made with the same options by the same model."""

    folder: Path
    options: StudyOptions
    key: str  # of options and model; every answer holds it
    expressions: tuple[str, ...]  # names of the model's classes

    def is_answered(self, video: PlannedVideo) -> bool:
        """Whether all files of a video are there, made with these options by this model of the video as it is."""
        return self.read(video) is not None and all(video.beside(kind).is_file() for kind in self.options.also)

    def read(self, video: PlannedVideo) -> dict[str, Any] | None:
        """A video's answer; None where there is none, or one of another model, of other options or of another film."""
        try:
            answer = json.loads(video.answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or cut short
            return None
        made = answer.get(MADE) if isinstance(answer, dict) else None
        return answer if made == self.made_of(video) else None

    def made_of(self, video: PlannedVideo) -> dict[str, Any] | None:
        """What an answer of this video is made of; None where the video is not there."""
        try:
            status = os.stat(video.path)
        except OSError:
            return None
        return {"study": self.key, "video_bytes": status.st_size, "video_changed_ns": status.st_mtime_ns}

    def write_tables(self, videos: Sequence[PlannedVideo], failures: Mapping[str, str]) -> None:
        """Writes the table of all answers, and that of the videos without one."""
        columns = CLIP_COLUMNS if not self.options.timelines else FRAME_COLUMNS if self.options.per_frame else None
        names = sorted(self.expressions)
        write_table(self.folder / TABLE_FILE, [*(columns or WINDOW_COLUMNS), *names], self._rows(videos, names))
        failed = self.folder / FAILURES_FILE
        if not failures:
            failed.unlink(missing_ok=True)
            return
        with replacing(failed) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("file", "error"), *sorted(failures.items())])

    def _rows(self, videos: Sequence[PlannedVideo], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for video in sorted(videos, key=lambda video: video.name):
            answer = self.read(video)
            if answer is None:
                continue
            if self.options.timelines:
                yield from timeline_rows({video.name: answer}, self.options.per_frame, names)[1]
                continue
            scores = answer["expression"] or {}
            best = max(scores, key=scores.__getitem__, default=None)
            told = {name: answer[name] for name in CLIP_COLUMNS if name in answer}
            told |= {"file": video.name, "expression": best, "probability": scores.get(best)}
            yield told | {name: scores.get(name) for name in names}


def plan_study(names: Sequence[str], folder: Path, also: Sequence[str] = ()) -> list[PlannedVideo]:
    """The videos that names mean, each with a place of its own in the folder; looked at before any work begins.

    Videos that stand in the folder, as annotated ones of an earlier call do, are left out.

    Raises:
        ValueError: the folder cannot be written to or is itself an input, two videos would have one place, or as
            `name_videos`.
    """
    if any(os.path.realpath(name) == os.path.realpath(folder) for name in names):
        raise ValueError(f"--output-dir {folder}: is the folder of the videos itself; give another one")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir {folder}: is a file; give the name of a folder")
    standing = folder if folder.is_dir() else folder.absolute().parent
    if not standing.is_dir():
        raise ValueError(f"--output-dir {folder}: there is no folder {standing}; create it first")
    if reason := why_not_writable(standing):
        raise ValueError(
            f"--output-dir {folder}: cannot be written, {standing} takes no files ({reason}); choose another"
        )
    inside = os.path.realpath(folder) + os.sep
    videos = [video for video in name_videos(names) if not os.path.realpath(video.path).startswith(inside)]
    if not videos:
        raise ValueError(f"{' '.join(names)}: stands for no video outside of --output-dir {folder}")
    taken: dict[str, str] = {TABLE_FILE: "", FAILURES_FILE: "", RECORD_FILE: ""}
    for video in videos:
        for ending in (".json", *(ENDINGS[kind] for kind in also)):
            other = taken.setdefault(video.name + ending, video.path)
            if other != video.path:
                whose = f"that of {other}" if other else "the study's own"
                raise ValueError(
                    f"{video.path}: its answer would be {folder / (video.name + ending)}, and so would {whose}; name "
                    "the folder above both, or give each its own --output-dir"
                )
    return [
        PlannedVideo(os.path.abspath(video.path), video.name, os.path.abspath(folder / video.name)) for video in videos
    ]


def open_answers(
    folder: Path,
    options: StudyOptions,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    recompute: bool = False,
) -> AnswerFolder:
    """Opens a folder for answers, an empty one or one in which a study was stopped.

    Args:
        folder: is there.
        options: of the study.
        model: that answers.
        processor: that makes its input.
        recompute: answers of other options or of another model are made anew, instead of being refused.

    Raises:
        ValueError: the folder holds other files, or answers of other options or of another model.
    """
    asked = {name: value for name, value in asdict(options).items() if name != "also"}
    record = json.loads(json.dumps({"model": digest_model(model, processor), **asked}))
    file = folder / RECORD_FILE
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [
                f"{name} {before.get(name)} -> {record[name]}" for name in record if before[name] != record[name]
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            changed = [f"{RECORD_FILE} cannot be read"]
        if changed and not recompute:
            raise ValueError(
                f"--output-dir {folder}: holds answers that were made otherwise ({'; '.join(changed)}); repeat those "
                "options, choose another folder, or add --recompute"
            )
    elif any(folder.iterdir()):
        raise ValueError(f"--output-dir {folder}: holds other files than a study's answers; give a new folder")
    write_json(file, record)
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    return AnswerFolder(folder, options, key, tuple(model.config.class_names))


def digest_model(model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor) -> str:
    """A short digest of all that decides a model's answers: weights, config and processor."""
    digest = digest_weights(model)
    for part in (model.config.to_dict(), processor.to_dict()):
        # Where it came from, and which release wrote it, changes no answer.
        told = {name: value for name, value in part.items() if name not in ("_name_or_path", "transformers_version")}
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
