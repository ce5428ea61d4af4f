"""Long videos with several people → a timeline of expressions: the pipeline `facial-expression-timeline`.

    frames, decoded once ─► sampled frames ─► faces (MTCNN) ─► tracks of people ─► a clip per person and window
         one clip ─► face crop (or the whole frame) ─► model ─► scores, averaged where windows overlap

Memory holds the sampled frames of one window, a batch of clips, and the result.
"""

import copy
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import logging

from .face_crop import FaceCrop, face_crop
from .face_geometry import boxes_to_pixels, map_from_crop, points_to_pixels
from .people_tracking import CONFIRMING_FACES, MAX_PAUSE, ROUNDING, FaceSearch, SeenFrame, Track
from .processing_mtcae import is_frame, is_list_of_videos, stack_frames, to_rgb
from .timeline_windows import (
    ScoredClip,
    TimelineOptions,
    WindowPlan,
    keep_top,
    person_windows,
    window_of_clips,
)
from .video_reading import (
    FrameStream,
    VideoInfo,
    VideoReadingError,
    VideoSource,
    probe_video,
    resize_frames,
    uniform_frame_indices,
)

logger = logging.get_logger(__name__)

LONGEST_SIDE = 1920  # pixels; larger frames are kept and cropped at this size, so that memory stays bounded
WAITING_FRAMES = 24  # kept frames after which some are searched
NO_NUMBERS = "the model's scores are not numbers (NaN): its weights are damaged, or overflow in their type; take others"

Progress = Callable[[float], None]  # hears the share done, from 0 to 1


class FacialExpressionTimelinePipeline(Pipeline):
    """A video's people over time: for every track its windows with expression scores, boxes and points.

    `pipe(video, **options)` takes a path, bytes, a binary file object, a row's video {"bytes", "path"}, an array
    (T, H, W, C) or list of frames with `fps`, a list (or iterator, or column of a data set) of videos, or an iterator
    of live frames — arrays (H, W, C) or pairs (seconds, array).
    The options are the fields of `TimelineOptions`; `progress`, a function, hears the share done from 0 to 1.

    Returns:
        One video: {"duration", "fps", "width", "height", "people": [{"track", "start", "end", "windows": [{"start",
        "end", "face_coverage", "face_frames", "face_seconds", "short", "scores": {name: probability} or None, "frames":
        [{"time", "box", "landmarks"}]}]}], "left_out", "warning"}, times in seconds, boxes (x1, y1, x2, y2) and points
        (x, y) in pixels of the upright video. `frames` are the sampled frames with a face; `scores` is None where a
        window has none. The scores rest on `face_frames` frames and `face_seconds` seconds of face; `short` says that
        these are less than half a second. With people="all" boxes and points are MTCNN's, which the tracks are made of;
        with "single" the model's own, None where it has no such task. `left_out` counts the people of whom
        `min_seconds` leaves no window; `warning` is one line where only a part of the video could be read, else None.
        Many videos: an iterator of such results as they come; of a video that fails, {"video", "error": {"code",
        "message"}}. Live frames: an iterator of {"start", "end", "latency", "people": [{"track", "window"}],
        "left_out"}, one for each window as soon as the first frame behind it arrives; `latency` is the seconds spent
        after that frame.

    Raises:
        VideoReadingError: a single video cannot be read.
        FloatingPointError: the model's scores are no numbers.
        ValueError: an option or an array does not fit. TypeError: no such option, or no kind of video.
    """

    _load_tokenizer = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_video_processor = True  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if self.video_processor is None:
            raise ValueError(
                f"{self.model.config.name_or_path or 'this model'} has no video processor "
                "(video_preprocessor_config.json): save an MTCAEVideoProcessor beside it, or give video_processor"
            )
        if "expression" not in [task.name for task in self.model.config.task_descriptions]:
            raise ValueError("this model predicts no expression: the timeline needs one that does")
        self._variants: dict[tuple[bool, bool], Any] = {}  # by int8 and compile
        self.model.eval()

    def _sanitize_parameters(self, progress: Progress | None = None, **given: Any) -> tuple[dict, ...]:
        names = {entry.name for entry in fields(TimelineOptions)}
        unknown = sorted(set(given) - names)
        if unknown:
            raise TypeError(f"the timeline has no option {', '.join(unknown)}; it takes {', '.join(sorted(names))}")
        TimelineOptions(**given)
        return ({} if progress is None else {"progress": progress}), given, {}

    def __call__(  # type: ignore[override]
        self, videos: Any, **given: Any
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """See the class."""
        own, options, _ = self._sanitize_parameters(**given)
        progress = {**self._preprocess_params, **own}.get("progress")
        defaults = {"batch_size": self._batch_size} if self._batch_size else {}
        chosen = TimelineOptions(**{**defaults, **self._forward_params, **options})
        if isinstance(videos, Iterator) and not hasattr(videos, "read"):
            return self._iterate(videos, chosen, progress)
        if is_list_of_videos(videos) and not _is_one_video(videos):
            return self._each((videos[index] for index in range(len(videos))), chosen, progress)
        return self.timeline(videos, chosen, progress)

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        """Part of the base class's contract; windows are prepared while the video is decoded."""
        return {"video": input_}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        return self.timeline(input_tensors["video"], TimelineOptions(**options))

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Part of the base class's contract; the timeline is complete already."""
        return model_outputs

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """As transformers does it, with the video processor, which that forgets."""
        processor: Any = self.video_processor
        processor.save_pretrained(save_directory)
        super().save_pretrained(save_directory, **options)

    @staticmethod
    def probe(video: VideoSource) -> VideoInfo:
        """Size, duration and frame rate of a video file, for limits; raises VideoReadingError as the pipeline does."""
        return probe_video(video)

    def timeline(self, video: Any, options: TimelineOptions, progress: Progress | None = None) -> dict[str, Any]:
        """The timeline of one video (see the class)."""
        if _is_one_video(video):
            return self._timeline(_ArrayFrames(video, options.fps), options, progress)
        with reading_errors_of(video):
            return self._timeline(FrameStream(video), options, progress)

    def _timeline(
        self, source: "_ArrayFrames | FrameStream", options: TimelineOptions, progress: Progress | None
    ) -> dict[str, Any]:
        info, duration = source.info, source.info.duration
        plan = WindowPlan(source.times, duration, options, self.model.config.num_frames)
        reading = _Reading(self, plan, options, (info.width, info.height), min(CONFIRMING_FACES, len(plan.wanted)))
        seen_any = False
        for frame in source:
            seen_any = True
            if frame.index in plan.wanted:
                reading.take(frame.index, frame.time, frame.picture())
                if progress is not None:
                    progress(min(frame.time / duration, 1.0))
        if not seen_any:
            raise VideoReadingError(f"{info.name} is damaged: none of its frames can be decoded; copy it again")
        reading.finish()
        if progress is not None:
            progress(1.0)
        if source.warning is not None:
            logger.warning(source.warning)
        return {
            "duration": round(duration, 3),
            "fps": round(info.frame_rate, 3),
            "width": info.width,
            "height": info.height,
            **self._people(reading, duration, options),
            "warning": source.warning,
        }

    def _people(self, reading: "_Reading", duration: float, options: TimelineOptions) -> dict[str, Any]:
        """The result's tracks, in the order in which they came into view, and how many `min_seconds` left out."""
        clips: dict[int, list[ScoredClip]] = {}
        for clip in reading.clips:
            clips.setdefault(clip.track, []).append(clip)
        spans = {0: (0.0, duration)} if reading.single else reading.search.tracker.spans
        people: list[dict[str, Any]] = []
        left_out = 0
        for key, number in reading.numbers.items():
            start, end = spans[key]
            windows = person_windows(clips.get(key, []), spans[key], options, self.model.config.class_names)
            if windows or not options.min_seconds:
                people.append({"track": number, "start": round(start, 3), "end": round(end, 3), "windows": windows})
            elif any(clip.found.any() for clip in clips.get(key, [])):
                left_out += 1
        return {"people": people, "left_out": left_out}

    def _each(
        self, videos: Iterable[Any], options: TimelineOptions, progress: Progress | None
    ) -> Iterator[dict[str, Any]]:
        for video in videos:
            try:
                yield self.timeline(video, options, progress)
            except (ValueError, TypeError, FloatingPointError) as error:
                yield {"video": _name_of(video), "error": describe_failure(error)}

    def _iterate(
        self, items: Iterator[Any], options: TimelineOptions, progress: Progress | None
    ) -> Iterator[dict[str, Any]]:
        """Live frames or videos, whichever the first item is."""
        first = next(items, None)
        if first is None:
            return
        live = is_frame(first) or (isinstance(first, tuple) and len(first) == 2 and is_frame(first[1]))
        items = chain([first], items)
        yield from self._watch(items, options) if live else self._each(items, options, progress)

    def _watch(self, frames: Iterable[Any], options: TimelineOptions) -> Iterator[dict[str, Any]]:
        """Live frames: every window as soon as it is over."""
        reading, begin, last_time = None, 0.0, -math.inf
        for index, frame in enumerate(frames):
            arrival = time.perf_counter()
            if isinstance(frame, tuple):
                seconds, picture = frame
            elif options.fps is not None:
                seconds, picture = index / options.fps, frame
            else:
                raise ValueError("live frames carry no times: give fps, or pairs (seconds, frame)")
            picture = to_rgb(stack_frames([picture]), None)[0]
            if reading is None:
                begin, size = seconds, (picture.shape[-1], picture.shape[-2])
                plan = WindowPlan(None, None, options, self.model.config.num_frames)
                reading = _Reading(self, plan, options, size, CONFIRMING_FACES)
            if seconds <= last_time:
                raise ValueError(f"live frame {index} has time {seconds}, not later than the one before, {last_time}")
            if (picture.shape[-1], picture.shape[-2]) != reading.size:
                raise ValueError(f"live frame {index} is {tuple(picture.shape[1:])}, unlike the first one")
            last_time = seconds
            for window in reading.take(index, seconds - begin, picture):
                yield self._live_result(reading, window, options, arrival)
        if reading is not None:
            arrival = time.perf_counter()
            for window in reading.finish():
                yield self._live_result(reading, window, options, arrival)

    def _live_result(
        self, reading: "_Reading", span: tuple[float, float], options: TimelineOptions, arrival: float
    ) -> dict[str, Any]:
        reading.scorer.flush()
        clips, reading.clips = reading.clips, []
        numbers = reading.numbers
        people, left_out = [], 0
        for clip in clips:
            if clip.track not in numbers:
                continue
            window = window_of_clips([clip], clip.start, clip.end, self.model.config.class_names)
            if window["face_seconds"] >= options.min_seconds:
                people.append({"track": numbers[clip.track], "window": keep_top(window, options.top_k)})
            else:
                left_out += 1
        latency = round(time.perf_counter() - arrival, 4)
        result = {"start": round(span[0], 3), "end": round(span[1], 3), "latency": latency, "people": people}
        return result | {"left_out": left_out}

    def _variant(self, int8: bool, compiled: bool) -> Any:
        """The model as it is, or quantised, or compiled, or both; each is made once."""
        if not int8 and not compiled:
            return self.model
        if (int8, compiled) not in self._variants:
            if compiled:
                self._variants[int8, compiled] = torch.compile(self._variant(int8, False))
            else:
                self._variants[int8, compiled] = copy.deepcopy(self.model)
                quantise_linear_layers(self._variants[int8, compiled])
        return self._variants[int8, compiled]

    @torch.inference_mode()
    def score_clips(self, pixel_values: torch.Tensor, options: TimelineOptions) -> dict[str, Any]:
        """Clips (B, T, 3, H, W) -> the model's output, float32 on the CPU; None where it predicts no such thing.

        Raises:
            FloatingPointError: the scores are no numbers.
        """
        model = self._variant(options.int8, options.compile)
        # Of a crop, boxes and points are the detector's: nobody reads the model's.
        asked = None if options.people == "single" else ["expression"]
        output = model(pixel_values.to(device=self.model.device, dtype=self.model.dtype), tasks=asked)
        names = ("logits", "face_boxes", "face_landmarks")
        answer = {name: None if output.get(name) is None else output[name].float().cpu() for name in names}
        if not output["logits"].isfinite().all():
            raise FloatingPointError(NO_NUMBERS)
        return answer


@contextmanager
def reading_errors_of(video: Any) -> Iterator[None]:
    """Makes an error of this video of what keeps its file from being read: its permissions, a drive that is gone.

    Raises:
        VideoReadingError: instead of an OSError of this file, or of none: a failed read names no file. Those of other
            files, such as the weights of a network, are raised as they are.
    """
    try:
        yield
    except OSError as error:
        name = _name_of(video)
        if error.filename not in (None, name):
            raise
        advice = "check its permissions and its drive, or copy it again"
        raise VideoReadingError(f"'{name}' cannot be read ({error.strerror or error}): {advice}") from error


def describe_failure(error: Exception) -> dict[str, str]:
    """Why a video has no timeline or no scores, for JSON: {"code", "message"}, the message in one line."""
    code = "unreadable_video" if isinstance(error, VideoReadingError) else "bad_input"
    code = "bad_scores" if isinstance(error, FloatingPointError) else code
    return {"code": code, "message": " ".join(str(error).split())}


def quantise_linear_layers(model: torch.nn.Module) -> None:
    """Weights of all linear layers but the task heads' to 8 bits, in place; activations are quantised as they come.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ImportError("8 bits need torchao, which is not installed: pip install torchao", name="torchao") from error
    quantize_(
        model,
        Int8DynamicActivationInt8WeightConfig(),
        filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and not name.startswith("heads."),
    )


class _Reading:
    """The state while a video's frames pass by."""

    def __init__(
        self,
        pipe: FacialExpressionTimelinePipeline,
        plan: WindowPlan,
        options: TimelineOptions,
        size: tuple[int, int],
        confirming_faces: int,
    ) -> None:
        self.plan, self.options, self.size = plan, options, size
        self.single = options.people == "single"
        self.clips: list[ScoredClip] = []
        self.scorer = _Scorer(pipe, options, size)
        scale = min(1.0, LONGEST_SIDE / max(size))
        as_they_come = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
        self.kept_size = as_they_come if self.scorer.crops else self.scorer.input_size  # (height, width)
        self.search = FaceSearch(size, self.single, options.min_face or max(20.0, min(size) / 16), confirming_faces)
        self.seen: deque[SeenFrame] = deque()
        self.span = next(plan.spans, None)
        self.spacing = 0.04

    @property
    def numbers(self) -> dict[int, int]:
        """Number of each reported track by its key."""
        return {0: 1} if self.single else self.search.tracker.numbers

    def take(self, index: int, seconds: float, picture: torch.Tensor) -> list[tuple[float, float]]:
        """Takes a frame; returns the windows that it ended."""
        ended = []
        while self.span is not None and seconds >= self.span[1] - ROUNDING:
            self._close(self.span)
            ended.append(self.span)
            self.span = next(self.plan.spans, None)
        spacing = seconds - self.seen[-1].time if self.seen else math.inf
        # Live frames come faster than the model wants them; of files only wanted frames get here.
        if self.plan.times is None and spacing < self.options.window_seconds / (2 * self.plan.num_frames):
            return ended
        self.spacing = min(spacing, MAX_PAUSE)
        self.seen.append(SeenFrame(index, seconds, resize_frames(picture, self.kept_size)))
        waiting = [frame for frame in self.seen if not frame.searched]
        if len(waiting) >= WAITING_FRAMES:
            # Not only when the window is over: live results would wait for it.
            self.search.search(waiting, ended=False)
        return ended

    def finish(self) -> list[tuple[float, float]]:
        """Closes the windows that are still open at the end of the video."""
        ended = []
        if self.plan.times is not None:
            while self.span is not None:
                ended.append(self.span)
                self.span = next(self.plan.spans, None)
        elif self.seen and self.span is not None:
            # Of live frames the end is known only now: one last window up to it.
            end = self.seen[-1].time + self.spacing
            if self.span[0] == 0 or end > self.span[1] - self.options.hop + 1e-6:
                ended.append((max(0.0, end - self.options.window_seconds), end))
        for span in ended:
            self._close(span)
        self.scorer.flush()
        return ended

    def _close(self, span: tuple[float, float]) -> None:
        """Finds the faces of a window's frames and hands its clips to the model; frames of the past are dropped."""
        waiting = [frame for frame in self.seen if not frame.searched and frame.time < span[1] - ROUNDING]
        self.search.search(waiting, ended=True)
        frames = self.plan.frames(span, self.seen)
        tracks = [None] if self.single else self.search.tracker.between(span[0], span[1])
        if frames:
            self.clips += [clip for track in tracks for clip in self._clip(track, span, frames)]
        # The last window may begin one hop before the next one would.
        while self.seen and self.seen[0].time < span[0] - ROUNDING:
            self.seen.popleft()

    def _clip(self, track: Track | None, span: tuple[float, float], frames: list[SeenFrame]) -> Iterator[ScoredClip]:
        """One person's clip in a window, on its way to the model if it shows the face at all."""
        key, start, end = 0, *span
        if track is not None:
            # A track that goes on will end later than its last face so far.
            goes_on = any(track is active for active in self.search.tracker.active)
            last = math.inf if goes_on else track.end
            key, start, end = track.key, max(span[0], track.begin), min(span[1], last)
            # The person's own frames, spread anew: those before a cut show somebody else.
            members = [frame for frame in frames if track.begin <= frame.time <= track.end]
            if not members:
                return
            frames = [members[index] for index in uniform_frame_indices(len(members), self.plan.num_frames)]
        clip = ScoredClip.of_person(key, start, end, frames)
        if clip.found.any():
            self.scorer.add(clip, [frame.picture for frame in frames])
        yield clip


@dataclass(frozen=True)
class _WaitingClip:
    """A clip on its way to the model."""

    clip: ScoredClip
    pixel_values: torch.Tensor  # (T, 3, H, W)
    crop: FaceCrop | None  # what the model sees of the frames; None: all


class _Scorer:
    """Collects clips to batches, and writes the model's answers into them.

    Every person's clip is cropped to the face. A single person's is where the processor crops clips to the face.
    """

    def __init__(self, pipe: FacialExpressionTimelinePipeline, options: TimelineOptions, size: tuple[int, int]) -> None:
        self.pipe, self.options, self.size = pipe, options, size
        processor: Any = pipe.video_processor  # this repository's, or the copy of it in a saved folder
        self.processor = processor
        self.input_size: tuple[int, int] = (processor.size["height"], processor.size["width"])
        self.single = options.people == "single"
        self.crops = not self.single or processor.do_face_crop
        self.margin = processor.face_crop_margin if options.margin is None else options.margin
        self.waiting: list[_WaitingClip] = []

    def add(self, clip: ScoredClip, pictures: list[torch.Tensor]) -> None:
        """Takes a clip that shows a face in some frames, with its T pictures uint8 (3, H, W)."""
        crop = None
        if self.crops:
            boxes, landmarks = clip.boxes / np.tile(self.size, 2), clip.landmarks / np.array(self.size)
            frame_size, rise = (pictures[0].shape[-2], pictures[0].shape[-1]), self.processor.face_crop_rise
            crop = face_crop(boxes, landmarks, frame_size, self.margin, rise=rise)
        # Cut before the frames are put together: several whole pictures in one take longer than all that follows.
        pixel_values = self.processor(
            [torch.stack(pictures) if crop is None else crop.cut(pictures, self.input_size)],
            do_sample_frames=False,
            do_face_crop=False,
            input_data_format="channels_first",
        )["pixel_values"]
        self.waiting.append(_WaitingClip(clip, pixel_values[0], crop))
        if len(self.waiting) >= self.options.batch_size:
            self.flush()

    def flush(self) -> None:
        """Scores the clips that wait."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        output = self.pipe.score_clips(torch.stack([each.pixel_values for each in waiting]), self.options)
        for position, each in enumerate(waiting):
            each.clip.scores = output["logits"][position].softmax(dim=-1).numpy()
            if not self.single:
                continue
            # The model's own faces; what it does not predict is not known.
            count, boxes, points = len(each.clip.times), output["face_boxes"], output["face_landmarks"]
            boxes = torch.full((count, 4), math.nan) if boxes is None else boxes[position]
            points = torch.full((count, 5, 2), math.nan) if points is None else points[position]
            if each.crop is not None:
                boxes, points = map_from_crop(boxes, points, torch.from_numpy(each.crop.boxes))
            each.clip.boxes[:] = boxes_to_pixels(boxes, *self.size).numpy()
            each.clip.landmarks[:] = points_to_pixels(points, *self.size).numpy()


class _ArrayFrames:
    """An array's frames, with the times that its frame rate gives them."""

    warning = None  # an array is whole

    def __init__(self, video: Any, frame_rate: float | None) -> None:
        if frame_rate is None:
            raise ValueError("a video array carries no times: give fps, its frames per second")
        self.frames = stack_frames(video)
        if len(self.frames) == 0:
            raise ValueError("a video without frames: its first axis is empty")
        count, first = len(self.frames), to_rgb(self.frames[:1], None)
        self.times = np.arange(count) / frame_rate
        self.info = VideoInfo(
            name="<array>",
            width=first.shape[-1],
            height=first.shape[-2],
            rotation=0,
            frame_count=count,
            duration=count / frame_rate,
            frame_rate=float(frame_rate),
        )

    def __iter__(self) -> Iterator["_ArrayFrame"]:
        for index, seconds in enumerate(self.times.tolist()):
            yield _ArrayFrame(index, seconds, self.frames)


@dataclass(frozen=True)
class _ArrayFrame:
    index: int
    time: float
    frames: torch.Tensor

    def picture(self) -> torch.Tensor:
        return to_rgb(self.frames[self.index : self.index + 1], None)[0]


def _is_one_video(video: Any) -> bool:
    """Whether this is an array of frames or a list of them."""
    if isinstance(video, (np.ndarray, torch.Tensor)):
        return True
    return isinstance(video, (list, tuple)) and len(video) > 0 and all(is_frame(item) for item in video)


def _name_of(video: Any) -> str:
    if isinstance(video, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(video, (np.ndarray, torch.Tensor, list, tuple)):
        return "<array>"
    if isinstance(video, Mapping):
        return str(video.get("path") or "<bytes>")
    return str(getattr(video, "name", video))


__all__ = ["FacialExpressionTimelinePipeline", "TimelineOptions"]
