"""Who answers for the videos of a study: processes of this machine that share one model, or actors of a Ray cluster.

Every video is answered on its own, on one thread, so that an answer does not depend on who shares the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.multiprocessing  # noqa: F401  # teaches multiprocessing to hand tensors over by their shared memory
from tqdm import tqdm

from mtcae_dfer.face_detection import FaceDetector
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.hub_dataset.ray_cluster import RayPlan, map_on_ray
from mtcae_dfer.hub_dataset.workers import check_engine, one_thread, worker_pool
from mtcae_dfer.inference.answers import ENDINGS, MADE, AnswerFolder, PlannedVideo, StudyOptions
from mtcae_dfer.inference.clips import draw_predicted_clip, predict_file
from mtcae_dfer.inference.timeline_files import draw_timeline, write_csv
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.video_reading import VideoReadingError

if TYPE_CHECKING:
    import pyarrow as pa

VIDEOS_PER_TASK = 4
# A process imports torch for five seconds before its first answer: what one answers in that time for small videos.
CLIPS_WORTH_A_WORKER, TIMELINES_WORTH_A_WORKER = 40, 6

Outcome = tuple[str, str | None]  # a video's name, and why there is no answer


@dataclass(frozen=True)
class Crew:
    """Who shares the work."""

    engine: str = "processes"  # or "ray"
    # None: one per processor where there is work enough; with another device one, on a cluster one per accelerator
    workers: int | None = None
    ray_address: str | None = None  # of a running cluster; None starts one here

    def __post_init__(self) -> None:
        check_engine(self.engine, self.ray_address)
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers}: must be at least 1")


def answer_study(
    videos: Sequence[PlannedVideo],
    answers: AnswerFolder,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    crew: Crew,
    progress: bool = True,
) -> dict[str, str]:
    """Answers for the videos that have no answer yet, and writes the tables of all.

    Args:
        videos: of `plan_study`.
        answers: the folder, which others must not write to meanwhile.
        model: in evaluation mode.
        processor: makes its input.
        crew: who shares the work.
        progress: show a bar with the remaining time on standard error.

    Returns:
        Why a video has no answer, by its name.

    Raises:
        DatasetError: a worker died, or the cluster is not there.
        FloatingPointError: the model's scores are no numbers.
        OSError: an answer cannot be written.
    """
    waiting = [video for video in videos if not answers.is_answered(video)]
    failures = {}
    answer = _answer_on_ray if crew.engine == "ray" else _answer_here
    done = len(videos) - len(waiting)
    with tqdm(total=len(videos), initial=done, desc="videos", unit="video", disable=not progress) as bar:
        for name, failure in answer(waiting, answers, model, processor, crew):
            if failure is not None:
                failures[name] = failure
            bar.update()
    answers.write_tables(videos, failures)
    return failures


class VideoAnswerer:
    """One worker: a model on one thread. Writes the same files wherever it runs."""

    def __init__(self, answers: AnswerFolder, model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor) -> None:
        options = answers.options
        self.answers, self.model, self.processor = answers, model, processor
        self.model.to(options.device)  # type: ignore[arg-type]  # transformers loses nn.Module's signature
        self.pipe = None
        if options.timelines:
            self.pipe = FacialExpressionTimelinePipeline(
                model=model, video_processor=processor, device=torch.device(options.device)
            )
        self.detector = FaceDetector(device=options.device) if options.verify_face else None

    def __call__(self, video: PlannedVideo) -> Outcome:
        """Writes the files of a video that are not there yet.

        Raises:
            FloatingPointError: the model's scores are no numbers.
            OSError: a file cannot be written, or one that is not the video cannot be read.
            RuntimeError: a fault of the device or the model, which other videos would meet as well.
        """
        answer = self.answers.read(video)
        if answer is None:
            made, told = self.answers.made_of(video), self._read_and_predict(video)
            # What an answer of other options left must not stand beside a new one.
            for file in (video.answer, *map(video.beside, ENDINGS)):
                file.unlink(missing_ok=True)
            if isinstance(told, str):
                return video.name, told
            answer = {"video": video.name, MADE: made, **told}
            os.makedirs(os.path.dirname(video.place), exist_ok=True)
            write_json(video.answer, answer)
        try:
            for kind in self.answers.options.also:
                if not video.beside(kind).is_file():
                    self._write(kind, video, answer)
        except VideoReadingError as error:
            return video.name, _told_of(video, str(error))
        return video.name, None

    def _read_and_predict(self, video: PlannedVideo) -> dict[str, Any] | str:
        """The answer, or why there is none: what is wrong with the video. A fault of model or device is raised."""
        options = self.answers.options
        try:
            if self.pipe is not None:
                told = cast("dict[str, Any]", self.pipe(video.path, **options.pipeline, top_k=options.top_k))
            else:
                told = predict_file(video.path, self.model, self.processor, options.top_k, self.detector)
                told.pop("clip")
        except VideoReadingError as error:
            return _told_of(video, str(error))
        if "error" in told:
            return _told_of(video, told["error"]["message"])
        # The warning of a damaged video names it by its path here; the answer is the same on every machine.
        return told | {"warning": told["warning"] and _told_of(video, told["warning"])}

    def _write(self, kind: str, video: PlannedVideo, answer: dict[str, Any]) -> None:
        file, options = video.beside(kind), self.answers.options
        if kind == "csv":
            write_csv({video.name: answer}, file, options.per_frame, self.answers.expressions)
        elif kind == "timeline":
            draw_timeline(answer, file)
        elif kind == "overlay":
            from mtcae_dfer.inference.annotated_video import write_overlay

            write_overlay(video.path, answer, file, progress=False)
        else:
            shown = answer | {"clip": video.path}
            if options.timelines:  # the picture shows one clip of the video, which a timeline says nothing of
                shown = predict_file(video.path, self.model, self.processor, options.top_k)
                if "error" in shown:
                    raise VideoReadingError(shown["error"]["message"])
            draw_predicted_clip(shown, self.processor.num_frames, file, options.device)


def _told_of(video: PlannedVideo, message: str) -> str:
    """A message in one line that calls the video by its name."""
    return " ".join(message.replace(video.path, video.name).split())


# ------------------------------------------------------------------------------------------- on this machine


def _answer_here(
    videos: Sequence[PlannedVideo],
    answers: AnswerFolder,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    crew: Crew,
) -> Iterator[Outcome]:
    """The videos' outcomes as they come."""
    workers = min(crew.workers or usual_workers(answers.options, len(videos)), len(videos))
    if workers > 1 or answers.options.device == "cpu":
        share_weights(model.cpu())
    if workers <= 1:
        answerer = VideoAnswerer(answers, model, processor)
        for video in videos:
            with one_thread():
                outcome = answerer(video)
            yield outcome
        return
    with worker_pool(workers, "predicting", _start_worker, (answers, model, processor)) as executor:
        for future in as_completed([executor.submit(_answer_in_worker, video) for video in videos]):
            yield future.result()


def usual_workers(options: StudyOptions, videos: int) -> int:
    """How many processes answer for so many videos where nobody says it: one more only where its start pays."""
    if options.device != "cpu":
        return 1
    worth = TIMELINES_WORTH_A_WORKER if options.timelines else CLIPS_WORTH_A_WORKER
    return max(1, min(os.cpu_count() or 1, videos // worth))


def share_weights(model: torch.nn.Module) -> None:
    """Moves all weights and buffers of a model on the CPU into one block of shared memory, in place.

    Processes that are handed the model then read the same memory. One block, because every shared tensor of its own
    would cost each process a file descriptor. Every tensor begins at a multiple of 64 bytes: matrix products round
    otherwise where memory is aligned otherwise, and a file's weights lie as its header lets them.
    """
    distinct = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values()
    aligned = [-(-tensor.numel() * tensor.element_size() // 64) * 64 for tensor in distinct]
    block, start = torch.empty(sum(aligned), dtype=torch.uint8).share_memory_(), 0
    with torch.no_grad():
        for tensor, length in zip(distinct, aligned, strict=True):
            place = block[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor)
            tensor.data = place
            start += length


_worker_state: dict[str, VideoAnswerer] = {}


def _start_worker(answers: AnswerFolder, model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor) -> None:
    torch.set_num_threads(1)
    _worker_state["answerer"] = VideoAnswerer(answers, model, processor)


def _answer_in_worker(video: PlannedVideo) -> Outcome:
    return _worker_state["answerer"](video)


# ------------------------------------------------------------------------------------------- on a Ray cluster


def _answer_on_ray(
    videos: Sequence[PlannedVideo],
    answers: AnswerFolder,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    crew: Crew,
) -> Iterator[Outcome]:
    """The same by actors that hold the model; paths travel, and every actor writes the answers of its videos."""
    device = answers.options.device
    plan = RayPlan("Predicting", VIDEOS_PER_TASK, crew.workers, crew.ray_address, device, in_order=False)
    separate_weights(model.cpu())
    for row in map_on_ray([asdict(video) for video in videos], RayAnswerer, (answers, model, processor), plan):
        yield row["name"], cast("str | None", row["failure"])


def separate_weights(model: torch.nn.Module) -> None:
    """Gives every weight and buffer of a model on the CPU memory of its own, in place.

    A tensor travels to other machines with all of the memory that it is a part of; there it is aligned as everywhere.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.detach().clone()


class RayAnswerer:
    """A worker of the cluster: answers for the videos of one task."""

    def __init__(self, answers: AnswerFolder, model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor) -> None:
        torch.set_num_threads(1)
        self.answer = VideoAnswerer(answers, model, processor)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Answers for the videos of a batch with the columns of `PlannedVideo`; returns the outcomes."""
        import pyarrow as pa

        columns = zip(batch["path"], batch["name"], batch["place"], strict=True)
        outcomes = [self.answer(PlannedVideo(*map(str, words))) for words in columns]
        schema = pa.schema([("name", pa.string()), ("failure", pa.string())])
        return pa.Table.from_pylist([{"name": name, "failure": failure} for name, failure in outcomes], schema=schema)
