"""The embedded default data: a corpus of drawn faces acting expressions, made offline from a seed.

OUT/videos/<expression>/S01_<expression>_T1.mp4   H.264 clips, one folder per class
OUT/videos/clips.csv                              path relative to videos/, expression, subject
OUT/ground_truth.parquet                          what was drawn: action units, valence, arousal, boxes, points
OUT/corpus.json                                   the resolved configuration; written last
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from tqdm import tqdm

from mtcae_dfer.hub_dataset.files import plain_values, replacing, write_json
from mtcae_dfer.hub_dataset.synthetic.acting import (
    ClipTruth,
    SyntheticCorpusConfig,
    clip_path,
    clip_truth,
    draw_clip,
)
from mtcae_dfer.hub_dataset.synthetic.anatomy import ACTION_UNITS
from mtcae_dfer.hub_dataset.workers import available_processors, check_engine, worker_pool

# One thread and nothing that looks ahead: with its look-ahead, libx264 encodes the same frames to different bytes from
# one call to the next, even on one thread.
REPEATABLE_ENCODING = "threads=1:rc-lookahead=0:mbtree=0:b-adapt=0:weightp=0:scenecut=0"
DRAWING_VERSION = 1  # grows whenever the same seed draws other frames
SERIES = ("expression_strength", "speech_opening", "valence", "arousal")  # one number for each frame


def encode_clip(frames: np.ndarray, frame_rate: int, compression: int) -> bytes:
    """H.264 in MP4 from frames (F, H, W, 3) uint8 RGB; the same frames always give the same bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": str(compression), "x264-params": REPEATABLE_ENCODING}
        stream = container.add_stream("libx264", rate=frame_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------
# The corpus on disk


def make_synthetic_corpus(
    output_dir: str | os.PathLike,
    config: SyntheticCorpusConfig = SyntheticCorpusConfig(),  # noqa: B008  (frozen)
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the corpus and returns its folder. Finished clips of an interrupted call are kept.

    A complete folder of the same configuration is returned at once. With `workers` above 1, clips are drawn in fresh
    processes.

    Args:
        output_dir: folder of the corpus; made where it does not exist.
        config: what to draw.
        workers: number of processes; None takes as many as there are processors.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the folder holds another corpus, or videos that are not a corpus of this module; no workers.
    """
    folder = Path(output_dir)
    check_engine("processes", None, workers)
    _claim_folder(folder, config)
    jobs = list(product(range(1, config.subjects + 1), config.expressions, range(1, config.takes + 1)))
    missing = [job for job in jobs if not (folder / "videos" / clip_path(*job)).exists()]
    complete = (folder / "corpus.json").exists() and (folder / "ground_truth.parquet").exists()
    if complete and not missing and (folder / "videos" / "clips.csv").exists():
        return folder
    for expression in config.expressions:
        (folder / "videos" / expression).mkdir(parents=True, exist_ok=True)
    for leftover in (folder / "videos").rglob(".*.partial*"):  # of a call that was killed while writing
        leftover.unlink()
    with tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc="Drawing clips", unit="clip", disable=not progress
    ) as bar:
        workers = min(workers or available_processors(), max(1, len(missing)))
        write = partial(_write_clip, folder / "videos", config)
        if workers == 1:
            for job in missing:
                write(job)
                bar.update()
        else:
            with worker_pool(workers, "drawing", cv2.setNumThreads, (1,)) as executor:
                for _ in executor.map(write, missing, chunksize=4):
                    bar.update()
    truths = [clip_truth(config, *job) for job in jobs]
    clip_list = folder / "videos" / "clips.csv"
    with replacing(clip_list) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "expression", "subject"))
        writer.writerows((truth.path, truth.expression, truth.subject) for truth in truths)
    _write_ground_truth(folder / "ground_truth.parquet", truths)
    write_json(folder / "corpus.json", _config_values(config))
    (folder / "corpus.partial.json").unlink(missing_ok=True)
    return folder


def load_ground_truth(corpus_dir: str | os.PathLike) -> dict[str, ClipTruth]:
    """What was drawn, by path relative to the corpus's videos folder ("happiness/S01_happiness_T1.mp4").

    Raises:
        FileNotFoundError: the folder holds no finished corpus.
    """
    file = Path(corpus_dir) / "ground_truth.parquet"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: make the corpus first with make_synthetic_corpus.")
    return {
        row["path"]: ClipTruth(
            path=row["path"],
            expression=row["expression"],
            subject=row["subject"],
            take=row["take"],
            **{
                name: np.asarray(row[name], dtype=np.float32)
                for name in ("action_units", *SERIES, "face_boxes", "face_landmarks")
            },
        )
        for row in parquet.read_table(file).to_pylist()
    }


def _config_values(config: SyntheticCorpusConfig) -> dict[str, Any]:
    """What the corpus's JSON file tells, in JSON's types."""
    return plain_values({"drawing_version": DRAWING_VERSION, **asdict(config)})


def _claim_folder(folder: Path, config: SyntheticCorpusConfig) -> None:
    """Notes the configuration in an empty folder; refuses a folder that holds anything else."""
    begun, finished = folder / "corpus.partial.json", folder / "corpus.json"
    noted = next((file for file in (finished, begun) if file.exists()), None)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, but the corpus needs a folder: choose another path.")
    if noted is not None:
        try:
            there = json.loads(noted.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{noted} is not readable as JSON: delete {folder} or choose another folder.") from error
        wanted = _config_values(config)
        names = [name for name in sorted(set(there) | set(wanted)) if there.get(name) != wanted.get(name)]
        if names:
            told = ", ".join(f"{name} {there.get(name)!r} instead of {wanted.get(name)!r}" for name in names)
            raise ValueError(f"{folder} holds a corpus with another configuration ({told}): choose another folder.")
    elif (folder / "videos").exists():
        raise ValueError(f"{folder}/videos exists but was not drawn by this module: choose another folder.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(begun, _config_values(config))


def _write_clip(videos: Path, config: SyntheticCorpusConfig, job: tuple[int, str, int]) -> None:
    clip = draw_clip(config, *job)
    with replacing(videos / clip.truth.path) as temporary:
        temporary.write_bytes(encode_clip(clip.frames, config.frame_rate, clip.scene.compression))


def _write_ground_truth(file: Path, truths: list[ClipTruth]) -> None:
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("expression", pa.string()),
            ("subject", pa.string()),
            ("take", pa.int32()),
            ("frame_count", pa.int32()),
            ("action_units", pa.list_(pa.list_(pa.float32(), len(ACTION_UNITS)))),
            *((name, pa.list_(pa.float32())) for name in SERIES),
            ("face_boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("face_landmarks", pa.list_(pa.list_(pa.list_(pa.float32(), 2), 5))),
        ],
        metadata={"action_units": json.dumps(ACTION_UNITS)},
    )
    rows = [{**plain_values(vars(truth)), "frame_count": len(truth.valence)} for truth in truths]
    with replacing(file) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
