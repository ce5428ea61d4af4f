"""Long videos with several people → a timeline of expressions: the pipeline `facial-expression-timeline`.

    frames, decoded once ─► sampled frames ─► faces (MTCNN) ─► tracks of people ─► a clip per person and window
         one clip ─► square crop (or the whole frame) ─► model ─► scores, averaged where windows overlap

Memory holds the sampled frames of one window, a batch of clips, and the result.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import chain, count, pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Pipeline

from .face_detection import FaceDetector
from .face_geometry import box_intersection_over_union, boxes_from_pixels, boxes_to_pixels, points_to_pixels
from .processing_mtcae import is_frame, square_around, stack_frames, to_rgb
from .video_reading import (
    FrameStream,
    VideoInfo,
    VideoReadingError,
    VideoSource,
    probe_video,
    resize_frames,
    uniform_frame_indices,
)

PEOPLE = ("all", "single")

LONGEST_SIDE = 1920  # pixels; larger frames are kept and cropped at this size, so that memory stays bounded
DETECTOR_FACE = 24.0  # pixels that the smallest wanted face has in the picture that MTCNN searches
DETECTION_BATCH = 8  # frames that MTCNN searches at once
WAITING_FRAMES = 24  # kept frames after which some are searched
SEARCH_INTERVAL = 1.0  # seconds between two frames at most that MTCNN searches as a whole. Between two that show the
FOLLOW_INTERVAL = 0.3  # same faces it follows them in frames so far apart; the faces of the others are filled in.
SAME_OVERLAP = 0.6  # The same: as many, and each with this intersection over union
BEGIN_CONFIDENCE = 0.95  # a track begins with a face this sure; it goes on with any that MTCNN reports
CONFIRMING_FACES = 3  # a track with fewer faces is taken for a false alarm
MIN_OVERLAP = 0.2  # intersection over union of a face with the place where its track expects it
MAX_STEP = 0.6  # or else: distance of their centres, in sides of the face
MAX_GROWTH = 1.6  # and ratio of their sides
TRACKING_INTERVAL = 0.15  # seconds between two kept frames at most: people move on between windows' samples
MAX_PAUSE = 1.0  # seconds without a face after which a track has ended
THUMBNAIL = (18, 32)  # rows and columns in which frames are compared for cuts
CUT_DIFFERENCE = 0.09  # mean difference of gray values (0–1) between two frames that may be a cut …
CUT_CONTRAST = 3.0  # … if it is this many times the usual difference
SINGLE_SIZE = (224, 224)  # what MTCNN searches in single-person mode: the size that it labels training frames in


@dataclass(frozen=True)
class TimelineOptions:
    """What can be chosen for each call."""

    top_k: int | None = None  # how many expressions to keep per window; all by default
    people: str = "all"  # "all": every person's crop is scored; "single": the whole frame, as in the paper
    window_seconds: float = 2.0  # length of the clips that the model sees
    hop_seconds: float | None = None  # from one window's begin to the next one's; half a window by default
    average_windows: bool = True  # average overlapping windows into spans of one hop; False reports each window
    smoothing: float = 0.0  # weight of the past in an exponential average of a person's scores, 0 (none) to below 1
    min_face: float | None = None  # side of the smallest face in source pixels; 1/16 of the shorter side by default
    margin: float = 0.25  # added on every side of a person's faces, as a share of their longer side
    batch_size: int = 4  # clips that the model sees at once
    fps: float | None = None  # frames per second of arrays, which carry no times
    compile: bool = False  # torch.compile the model: pays after some dozens of batches
    int8: bool = False  # quantise a copy of the model to 8 bits; needs torchao

    def __post_init__(self) -> None:
        if self.people not in PEOPLE:
            raise ValueError(f"people={self.people!r}: must be one of {', '.join(PEOPLE)}")
        for name in ("window_seconds", "hop_seconds", "min_face", "fps", "batch_size", "top_k"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise ValueError(f"{name}={value!r}: must be a number above 0")
        for name in ("batch_size", "top_k"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), int):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be a whole number")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing}: must be at least 0 and below 1")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin={self.margin}: must not be negative")

    @property
    def hop(self) -> float:
        """Seconds from one window's begin to the next one's."""
        return self.hop_seconds or self.window_seconds / 2


@dataclass
class _Seen:
    """A sampled frame."""

    index: int  # in display order
    time: float  # seconds
    picture: torch.Tensor  # uint8 (3, H, W)
    searched: bool = False
    faces: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict
    )  # track key -> box (4,), points (5, 2)


@dataclass(frozen=True)
class _Found:
    """The faces of a searched frame, in source pixels."""

    frame: _Seen
    boxes: np.ndarray  # (N, 4)
    landmarks: np.ndarray  # (N, 5, 2)
    confidence: np.ndarray  # (N,)
    thumbnail: torch.Tensor  # gray values 0–1 (1, 1, rows, columns) of the whole frame


@dataclass
class _Track:
    """One person while in view: the faces linked over the frames."""

    key: int
    begin: float  # seconds of the first face
    end: float  # seconds of the last one
    box: np.ndarray  # (4,) pixels of the searched picture
    velocity: np.ndarray  # (2,) pixels a second
    face_count: int = 1

    def expected_box(self, seconds: float) -> np.ndarray:
        """Where the face should be by now (4,), if it keeps its course."""
        return self.box + np.tile(self.velocity * (seconds - self.end), 2)


@dataclass
class _ScoredClip:
    """What is known of one person in one window. Boxes and points in source pixels, NaN where the face is not found."""

    track: int
    start: float
    end: float
    times: np.ndarray  # (T,)
    boxes: np.ndarray  # float32 (T, 4)
    landmarks: np.ndarray  # float32 (T, 5, 2)
    found: np.ndarray  # bool (T,)
    scores: np.ndarray | None = None  # (K,)


class FacialExpressionTimelinePipeline(Pipeline):
    """A video's people over time: for every track its windows with expression scores, boxes and points.

    `pipe(video, **options)` takes a path, bytes, a binary file object, an array (T, H, W, C) or list of frames with
    `fps`, a list (or iterator) of videos, or an iterator of live frames — arrays (H, W, C) or pairs (seconds, array).
    The options are the fields of `TimelineOptions`; `progress`, a function, hears the share done from 0 to 1.

    Returns:
        One video: {"duration", "fps", "width", "height", "people": [{"track", "start", "end", "windows": [{"start",
        "end", "face_coverage", "scores": {name: probability} or None, "frames": [{"time", "box", "landmarks"}]}]}]},
        times in seconds, boxes (x1, y1, x2, y2) and points (x, y) in pixels of the upright video. `frames` are the
        sampled frames with a face; `scores` is None where a window has none. With people="all" boxes and points are
        MTCNN's, which the tracks are made of; with "single" the model's own, None where it has no such task.
        Many videos: an iterator of such results as they come; of a video that fails, {"video", "error": {"code",
        "message"}}. Live frames: an iterator of {"start", "end", "latency", "people": [{"track", "window"}]}, one for
        each window as soon as the first frame behind it arrives; `latency` is the seconds spent after that frame.

    Raises:
        VideoReadingError: a single video cannot be read.
        ValueError: an option or an array does not fit. TypeError: no such option, or no kind of video.
    """

    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_processor = False
    _load_video_processor = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if "expression" not in [task.name for task in self.model.config.task_descriptions]:
            raise ValueError("this model predicts no expression: the timeline needs one that does")
        self._variants: dict[tuple[bool, bool], torch.nn.Module] = {}  # by int8 and compile
        self.model.eval()

    def _sanitize_parameters(self, progress: Callable[[float], None] | None = None, **given: Any) -> tuple[dict, ...]:
        names = {entry.name for entry in fields(TimelineOptions)}
        unknown = sorted(set(given) - names)
        if unknown:
            raise TypeError(f"the timeline has no option {', '.join(unknown)}; it takes {', '.join(sorted(names))}")
        TimelineOptions(**given)
        return ({} if progress is None else {"progress": progress}), given, {}

    def __call__(self, videos: Any, **given: Any) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """See the class."""
        own, options, _ = self._sanitize_parameters(**given)
        progress = {**self._preprocess_params, **own}.get("progress", _ignore)
        defaults = {"batch_size": self._batch_size} if self._batch_size else {}
        options = TimelineOptions(**{**defaults, **self._forward_params, **options})
        if isinstance(videos, Iterator) and not hasattr(videos, "read"):
            return self._iterate(videos, options, progress)
        if isinstance(videos, Sequence) and not isinstance(videos, (str, bytes)) and not _is_one_video(videos):
            return self._each(videos, options, progress)
        return self.timeline(videos, options, progress)

    def preprocess(self, video: Any, **options: Any) -> dict[str, Any]:
        """Part of the base class's contract; windows are prepared while the video is decoded."""
        return {"video": video}

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        return self.timeline(inputs["video"], TimelineOptions(**options), _ignore)

    def postprocess(self, result: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Part of the base class's contract; the timeline is complete already."""
        return result

    @staticmethod
    def probe(video: VideoSource) -> VideoInfo:
        """Size, duration and frame rate of a video file, for limits; raises VideoReadingError as the pipeline does."""
        return probe_video(video)

    def timeline(self, video: Any, options: TimelineOptions, progress: Callable[[float], None]) -> dict[str, Any]:
        """The timeline of one video (see the class)."""
        if _is_one_video(video):
            source = _ArrayFrames(video, options.fps)
        else:
            source = FrameStream(video)
        info, duration = source.info, source.info.duration
        plan = _Plan(source.times, duration, options, self.model.config.num_frames)
        reading = _Reading(self, plan, options, (info.width, info.height), min(CONFIRMING_FACES, len(plan.wanted)))
        seen_any = False
        for frame in source:
            seen_any = True
            if frame.index in plan.wanted:
                reading.take(frame.index, frame.time, frame.picture())
                progress(min(frame.time / duration, 1.0))
        if not seen_any:
            raise VideoReadingError(f"{info.name} is damaged: none of its frames can be decoded; copy it again")
        reading.finish()
        progress(1.0)
        people = _people(reading, duration, options, self._names())
        size = {"width": info.width, "height": info.height}
        return {"duration": round(duration, 3), "fps": round(info.frame_rate, 3), **size, "people": people}

    def _each(self, videos: Iterable[Any], options: TimelineOptions, progress: Callable) -> Iterator[dict[str, Any]]:
        for video in videos:
            try:
                yield self.timeline(video, options, progress)
            except (VideoReadingError, ValueError, TypeError) as error:
                code = "unreadable_video" if isinstance(error, VideoReadingError) else "bad_input"
                message = " ".join(str(error).split())
                yield {"video": _name_of(video), "error": {"code": code, "message": message}}

    def _iterate(self, items: Iterator[Any], options: TimelineOptions, progress: Callable) -> Iterator[dict[str, Any]]:
        """Live frames or videos, whichever the first item is."""
        first = next(items, None)
        if first is None:
            return
        live = is_frame(first) or (isinstance(first, tuple) and len(first) == 2 and is_frame(first[1]))
        items = chain([first], items)
        yield from self._watch(items, options) if live else self._each(items, options, progress)

    def _watch(self, frames: Iterable[Any], options: TimelineOptions) -> Iterator[dict[str, Any]]:
        """Live frames: every window as soon as it is over."""
        reading, begin, last_time = None, None, -math.inf
        for index, frame in enumerate(frames):
            arrival = time.perf_counter()
            seconds, picture = frame if isinstance(frame, tuple) else _timed(index, frame, options.fps)
            picture = to_rgb(stack_frames([picture]), None)[0]
            if reading is None:
                begin, size = seconds, (picture.shape[-1], picture.shape[-2])
                plan = _Plan(None, None, options, self.model.config.num_frames)
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
        people = [
            {
                "track": numbers[clip.track],
                "window": _keep_top(_window([clip], clip.start, clip.end, self._names()), options.top_k),
            }
            for clip in clips
            if clip.track in numbers
        ]
        latency = round(time.perf_counter() - arrival, 4)
        return {"start": round(span[0], 3), "end": round(span[1], 3), "latency": latency, "people": people}

    def _names(self) -> list[str]:
        names = {int(index): name for index, name in self.model.config.id2label.items()}
        return [names[index] for index in range(len(names))]

    def _variant(self, int8: bool, compiled: bool) -> torch.nn.Module:
        """The model as it is, or quantised, or compiled; each is made once."""
        if not int8 and not compiled:
            return self.model
        if (int8, compiled) not in self._variants:
            if compiled:
                variant = torch.compile(self._variant(int8, False))
            else:
                variant = copy.deepcopy(self.model)
                quantise_linear_layers(variant)
            self._variants[int8, compiled] = variant
        return self._variants[int8, compiled]

    @torch.inference_mode()
    def predict(self, pixel_values: torch.Tensor, options: TimelineOptions) -> dict[str, torch.Tensor | None]:
        """Clips (B, T, 3, H, W) -> the model's output, float32 on the CPU."""
        model = self._variant(options.int8, options.compile)
        output = model(pixel_values.to(device=self.model.device, dtype=self.model.dtype))
        names = ("logits", "face_boxes", "face_landmarks")
        return {name: None if output[name] is None else output[name].float().cpu() for name in names if name in output}


def quantise_linear_layers(model: torch.nn.Module) -> None:
    """Weights of all linear layers but the task heads' to 8 bits, in place; activations are quantised as they come.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ImportError("8 bits need torchao, which is not installed: pip install torchao", name="torchao") from error
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=_is_quantised)


def _is_quantised(module: torch.nn.Module, name: str) -> bool:
    return isinstance(module, torch.nn.Linear) and not name.startswith("heads.")


class _Plan:
    """Windows, and the frames that the model sees of each."""

    def __init__(self, times: np.ndarray | None, duration: float | None, options: TimelineOptions, frames: int) -> None:
        self.num_frames, self.options, self.times = frames, options, times
        self.spans = _window_spans(duration, options)
        self.wanted: set[int] = set()
        self.chosen: dict[tuple[float, float], list[int]] = {}
        if times is not None:
            self.spans = list(self.spans)
            self.chosen = {span: self._spread(span) for span in self.spans}
            self.wanted = {index for indices in self.chosen.values() for index in indices}
            self.spans = iter(self.spans)
            if options.people == "all":
                self.wanted |= set(_fill_gaps(times, self.wanted))

    def _spread(self, span: tuple[float, float]) -> list[int]:
        # Half a millisecond: times are rounded in some containers.
        first, end = np.searchsorted(self.times, [span[0] - 5e-4, span[1] - 5e-4])
        if end <= first:
            return []
        return [int(first) + index for index in uniform_frame_indices(int(end - first), self.num_frames)]

    def frames(self, span: tuple[float, float], seen: Sequence[_Seen]) -> list[_Seen]:
        """The T frames that stand for a window, of those seen; where one did not decode, its neighbour."""
        within = [frame for frame in seen if span[0] - 5e-4 <= frame.time < span[1] - 5e-4]
        if not within:
            return []
        if self.times is None:
            return [within[index] for index in uniform_frame_indices(len(within), self.num_frames)]
        return [min(within, key=lambda frame: abs(frame.index - index)) for index in self.chosen[span]]


class _Reading:
    """The state while a video's frames pass by."""

    def __init__(
        self,
        pipe: FacialExpressionTimelinePipeline,
        plan: _Plan,
        options: TimelineOptions,
        size: tuple[int, int],
        confirming_faces: int,
    ) -> None:
        self.plan, self.options, self.size = plan, options, size
        self.single = options.people == "single"
        processor = pipe.video_processor
        self.input_size = (processor.size["height"], processor.size["width"])
        self.kept_size = self._kept_size()
        self.seen: deque[_Seen] = deque()
        self.tracker = _Tracker(confirming_faces)
        self.clips: list[_ScoredClip] = []
        self.scorer = _Scorer(pipe, options, size)
        self.span = next(plan.spans, None)
        self.found: _Found | None = None  # of the frame searched last
        self.spacing = 0.04
        self.searched_size, self.detector = self._detection(options.min_face or max(20.0, min(size) / 16))

    @property
    def numbers(self) -> dict[int, int]:
        """Number of each reported track by its key."""
        return {0: 1} if self.single else self.tracker.numbers

    def take(self, index: int, seconds: float, picture: torch.Tensor) -> list[tuple[float, float]]:
        """Takes a frame; returns the windows that it ended."""
        ended = []
        while self.span is not None and seconds >= self.span[1] - 5e-4:
            self._close(self.span)
            ended.append(self.span)
            self.span = next(self.plan.spans, None)
        self._keep(index, seconds, picture)
        return ended

    def _keep(self, index: int, seconds: float, picture: torch.Tensor) -> None:
        spacing = seconds - self.seen[-1].time if self.seen else math.inf
        # Live frames come faster than the model wants them; of files only wanted frames get here.
        if self.plan.times is None and spacing < self.options.window_seconds / (2 * self.plan.num_frames):
            return
        self.spacing = min(spacing, MAX_PAUSE)
        self.seen.append(_Seen(index, seconds, resize_frames(picture, self.kept_size)))
        waiting = [frame for frame in self.seen if not frame.searched]
        if len(waiting) >= WAITING_FRAMES:
            # Not only when the window is over: live results would wait for it.
            self._search(waiting, ended=False)

    def finish(self) -> list[tuple[float, float]]:
        """Closes the windows that are still open at the end of the video."""
        ended = []
        if self.plan.times is None and self.seen:
            # Of live frames the end is known only now: one last window up to it.
            end = self.seen[-1].time + self.spacing
            fresh = self.span[0] < end and (self.span[0] == 0 or end > self.span[1] - self.options.hop + 1e-6)
            if fresh:
                ended.append((max(0.0, end - self.options.window_seconds), end))
        elif self.plan.times is not None:
            while self.span is not None:
                ended.append(self.span)
                self.span = next(self.plan.spans, None)
        for span in ended:
            self._close(span)
        self.scorer.flush()
        return ended

    def _kept_size(self) -> tuple[int, int]:
        """(height, width) of the kept frames: the model's input in single-person mode, else LONGEST_SIDE at most."""
        if self.single:
            return self.input_size
        width, height = self.size
        scale = min(1.0, LONGEST_SIDE / max(width, height))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _detection(self, min_face: float) -> tuple[tuple[int, int], FaceDetector]:
        """(height, width) in which frames are searched for faces of that many source pixels and more, and MTCNN."""
        if self.single:
            return SINGLE_SIZE, _detector(56.0, True)
        width, height = self.size
        scale = min(1.0, DETECTOR_FACE / min_face)
        # A little below the wanted size: MTCNN's pyramid has coarse rungs.
        detector = _detector(max(12.0, 0.85 * min_face * scale), False)
        return (max(1, round(height * scale)), max(1, round(width * scale))), detector

    def _close(self, span: tuple[float, float]) -> None:
        """Finds the faces of a window's frames and hands its clips to the model; frames of the past are dropped."""
        waiting = [frame for frame in self.seen if not frame.searched and frame.time < span[1] - 5e-4]
        self._search(waiting, ended=True)
        frames = self.plan.frames(span, self.seen)
        tracks = [None] if self.single else self.tracker.between(span[0], span[1])
        for track in tracks if frames else []:
            self.clips.extend(self._clip(track, span, frames))
        # The last window may begin one hop before the next one would.
        while self.seen and self.seen[0].time < span[0] - 5e-4:
            self.seen.popleft()

    def _search(self, frames: list[_Seen], ended: bool) -> None:
        """Finds the faces of waiting frames; the last ones wait for a frame behind them, unless a window `ended`."""
        last = self.found.frame.time if self.found else -math.inf
        found = self._find(_due(frames, last, SEARCH_INTERVAL, ended))
        found = self._look_between(found, frames, FOLLOW_INTERVAL, follow=True)
        found = self._look_between(found, frames, 0.0, follow=False)
        for now in found:
            self._link(now)
            if self.found is not None:
                self._fill_in(self.found.frame, now.frame, frames)
            self.found = now

    def _look_between(self, found: list[_Found], frames: list[_Seen], interval: float, follow: bool) -> list[_Found]:
        """Adds frames `interval` apart between those found: searched where the faces differ, else followed or none."""
        more, unsure = [], []
        for before, after in pairwise([*([self.found] if self.found else []), *found]):
            between = [frame for frame in frames if before.frame.time < frame.time <= after.frame.time]
            due = _due(between, before.frame.time, interval, ended=False)
            if not _show_the_same(before, after):
                unsure += due
            elif follow and due:
                followed = self._follow(before, after, due)
                kept = [_show_the_same(before, now) for now in followed]
                more += [now for now, same in zip(followed, kept, strict=True) if same]
                unsure += [now.frame for now, same in zip(followed, kept, strict=True) if not same]
        return sorted([*found, *more, *self._find(unsure)], key=lambda each: each.frame.index)

    def _find(self, frames: list[_Seen]) -> list[_Found]:
        find = self._find_one if self.single else self._find_people
        starts = range(0, len(frames), DETECTION_BATCH)
        return [found for start in starts for found in find(frames[start : start + DETECTION_BATCH])]

    def _find_one(self, frames: list[_Seen]) -> Iterator[_Found]:
        pictures = self._searched_pictures(frames)
        faces = self.detector.detect(pictures)
        for index, frame in enumerate(frames):
            # (1, 4) where there is a face, else (0, 4)
            here = slice(index, index + int(faces.face_found[index]))
            yield self._found(frame, faces.boxes[here], faces.landmarks[here], faces.confidence[here], pictures[index])

    def _find_people(self, frames: list[_Seen]) -> Iterator[_Found]:
        pictures = self._searched_pictures(frames)
        for frame, picture, faces in zip(frames, pictures, self.detector.detect_all(pictures), strict=True):
            yield self._found(frame, faces.boxes, faces.landmarks, faces.confidence, picture)

    def _follow(self, before: _Found, after: _Found, frames: list[_Seen]) -> list[_Found]:
        """What frames between two searched ones show near the straight ways of the faces from one to the other."""
        pictures = self._searched_pictures(frames)
        places = [_between(before, after, frame.time) for frame in frames]
        places = [boxes_from_pixels(torch.from_numpy(place), *self.size) for place in places]
        faces = self.detector.follow(pictures, places)
        return [
            self._found(frame, near.boxes, near.landmarks, near.confidence, picture)
            for frame, near, picture in zip(frames, faces, pictures, strict=True)
        ]

    def _searched_pictures(self, frames: list[_Seen]) -> torch.Tensor:
        """uint8 (N, 3, h, w) of the size in which MTCNN looks at them."""
        return torch.stack([resize_frames(frame.picture, self.searched_size) for frame in frames])

    def _found(
        self,
        frame: _Seen,
        boxes: torch.Tensor,
        landmarks: torch.Tensor,
        confidence: torch.Tensor,
        picture: torch.Tensor,
    ) -> _Found:
        boxes, landmarks = boxes_to_pixels(boxes, *self.size), points_to_pixels(landmarks, *self.size)
        return _Found(frame, boxes.numpy(), landmarks.numpy(), confidence.numpy(), _thumbnail(picture))

    def _link(self, found: _Found) -> None:
        """Hands a frame's faces to their tracks."""
        frame = found.frame
        if self.single:
            keys: list[int | None] = [0] * len(found.boxes)
        else:
            keys = self.tracker.update(frame.time, found.boxes, found.confidence, found.thumbnail)
        frame.searched = True
        for key, box, points in zip(keys, found.boxes, found.landmarks, strict=True):
            if key is not None:
                frame.faces[key] = (box, points)

    def _fill_in(self, before: _Seen, after: _Seen, frames: list[_Seen]) -> None:
        """Faces of frames between two searched ones: on the straight way from one to the other."""
        for frame in frames:
            if frame.searched or not before.time < frame.time < after.time:
                continue
            share = (frame.time - before.time) / (after.time - before.time)
            for key in before.faces.keys() & after.faces.keys():
                pairs = zip(before.faces[key], after.faces[key], strict=True)
                box, points = ((1 - share) * first + share * second for first, second in pairs)
                frame.faces[key] = (box, points)
                self.tracker.count_face(key)
            frame.searched = True

    def _clip(self, track: _Track | None, span: tuple[float, float], frames: list[_Seen]) -> Iterator[_ScoredClip]:
        """One person's clip in a window, on its way to the model if it shows the face at all."""
        key, start, end = 0, *span
        if track is not None:
            # A track that goes on will end later than its last face so far.
            last = math.inf if self.tracker.goes_on(track) else track.end
            key, start, end = track.key, max(span[0], track.begin), min(span[1], last)
            # The person's own frames, spread anew: those before a cut show somebody else.
            members = [frame for frame in frames if track.begin <= frame.time <= track.end]
            if not members:
                return
            frames = [members[index] for index in uniform_frame_indices(len(members), self.plan.num_frames)]
        clip = _describe_clip(key, start, end, frames)
        if clip.found.any():
            self.scorer.add(clip, [frame.picture for frame in frames], self.single)
        yield clip


class _Scorer:
    """Collects clips to batches, and writes the model's answers into them."""

    def __init__(self, pipe: FacialExpressionTimelinePipeline, options: TimelineOptions, size: tuple[int, int]) -> None:
        self.pipe, self.options, self.size = pipe, options, size
        self.waiting: list[tuple[_ScoredClip, torch.Tensor, bool]] = []

    def add(self, clip: _ScoredClip, pictures: list[torch.Tensor], single: bool) -> None:
        """Takes a clip with its T pictures uint8 (3, H, W); the whole frame is scored where `single`."""
        pixel_values = self.pipe.video_processor(
            [torch.stack(pictures if single else self._crop(clip, pictures))],
            do_sample_frames=False,
            do_face_crop=False,
            input_data_format="channels_first",
        )["pixel_values"]
        self.waiting.append((clip, pixel_values[0], single))
        if len(self.waiting) >= self.options.batch_size:
            self.flush()

    def _crop(self, clip: _ScoredClip, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        """The square around a person's faces with a margin, cut and resized as by the processor's own face crop."""
        boxes = clip.boxes[clip.found] / np.tile(self.size, 2)
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        left, top, side = square_around(box, self.options.margin, pictures[0].shape[-1], pictures[0].shape[-2])
        processor = self.pipe.video_processor
        size = (processor.size["height"], processor.size["width"])
        return [resize_frames(picture[:, top : top + side, left : left + side], size) for picture in pictures]

    def flush(self) -> None:
        """Scores the clips that wait."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        output = self.pipe.predict(torch.stack([pixels for _, pixels, _ in waiting]), self.options)
        for position, (clip, _, single) in enumerate(waiting):
            clip.scores = output["logits"][position].softmax(dim=-1).numpy()
            if single:
                self._take_predicted_faces(clip, output, position)

    def _take_predicted_faces(
        self, clip: _ScoredClip, output: Mapping[str, torch.Tensor | None], position: int
    ) -> None:
        boxes, landmarks = output.get("face_boxes"), output.get("face_landmarks")
        clip.boxes[:], clip.landmarks[:] = np.nan, np.nan
        if boxes is not None:
            clip.boxes[:] = boxes_to_pixels(boxes[position], *self.size).numpy()
        if landmarks is not None:
            clip.landmarks[:] = points_to_pixels(landmarks[position], *self.size).numpy()


class _Tracker:
    """Links faces over the frames by overlap with the place where their track expects them; cuts end all tracks."""

    def __init__(self, confirming_faces: int) -> None:
        self.confirming_faces = confirming_faces
        self.active: list[_Track] = []
        self.recent: list[_Track] = []  # all that a window still to come may show
        self.numbers: dict[int, int] = {}
        self.spans: dict[int, tuple[float, float]] = {}  # of the confirmed tracks, by key
        self.keys = count(1)
        self.cuts = _CutFinder()

    def update(
        self, seconds: float, boxes: np.ndarray, confidence: np.ndarray, thumbnail: torch.Tensor
    ) -> list[int | None]:
        """Takes the faces of the next frame, boxes (N, 4) in pixels; returns the key of each one's track, if any."""
        if self.cuts.is_cut(thumbnail):
            self.active = []
        self.active = [track for track in self.active if seconds - track.end <= MAX_PAUSE]
        keys: list[int | None] = [None] * len(boxes)
        for track, face in self._link(seconds, boxes):
            self._extend(track, boxes[face], seconds)
            keys[face] = track.key
        for face in range(len(boxes)):
            if keys[face] is None and confidence[face] >= BEGIN_CONFIDENCE:
                track = _Track(next(self.keys), seconds, seconds, boxes[face], np.zeros(2))
                self.active.append(track)
                self.recent.append(track)
                self._confirm(track)
                keys[face] = track.key
        return keys

    def _link(self, seconds: float, boxes: np.ndarray) -> list[tuple[_Track, int]]:
        """Pairs (track, index of its face)."""
        places = [track.expected_box(seconds) for track in self.active]
        links = [(self.active[track], face) for track, face in _match(places, boxes)]
        # Somebody who was lost for some frames may have stopped or turned: looked for where last seen, too.
        lost = [track for track in self.active if seconds - track.end > TRACKING_INTERVAL]
        lost = [track for track in lost if all(track is not linked for linked, _ in links)]
        free = sorted(set(range(len(boxes))) - {face for _, face in links})
        pairs = _match([track.box for track in lost], boxes[free])
        return links + [(lost[track], free[face]) for track, face in pairs]

    def count_face(self, key: int) -> None:
        """Counts a face between two that were linked."""
        for track in self.active:
            if track.key == key:
                track.face_count += 1
                self._confirm(track)

    def goes_on(self, track: _Track) -> bool:
        """Whether the track may still get faces."""
        return any(track is active for active in self.active)

    def _extend(self, track: _Track, box: np.ndarray, seconds: float) -> None:
        elapsed = seconds - track.end
        if elapsed > 0:
            centre, before = (box[:2] + box[2:]) / 2, (track.box[:2] + track.box[2:]) / 2
            # Half of the old course: single boxes jitter.
            track.velocity = 0.5 * track.velocity + 0.5 * (centre - before) / elapsed
        track.box, track.end = box, seconds
        track.face_count += 1
        self._confirm(track)

    def _confirm(self, track: _Track) -> None:
        if track.face_count >= self.confirming_faces:
            self.numbers.setdefault(track.key, len(self.numbers) + 1)
            self.spans[track.key] = (track.begin, track.end)

    def between(self, start: float, end: float) -> list[_Track]:
        """The tracks seen between two times; those that ended before are forgotten."""
        self.recent = [track for track in self.recent if track.end >= start - 5e-4]
        return [track for track in self.recent if track.begin < end]


def _thumbnail(picture: torch.Tensor) -> torch.Tensor:
    """uint8 (3, H, W) -> gray values 0–1 (1, 1, rows, columns)."""
    gray = picture.float().mean(dim=0)[None, None] / 255  # (1, 1, H, W)
    return functional.interpolate(gray, THUMBNAIL, mode="area")


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of two thumbnails' gray values, 0–1."""
    return float((one - other).abs().mean())


class _CutFinder:
    """Tells a cut from motion: the picture changes a lot, and much more than it did between the frames before."""

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None
        self.differences: deque[float] = deque(maxlen=8)

    def is_cut(self, thumbnail: torch.Tensor) -> bool:
        """Whether a cut lies between the picture before and this one."""
        last, self.last = self.last, thumbnail
        if last is None:
            return False
        difference = _difference(thumbnail, last)
        usual = float(np.median(self.differences)) if self.differences else 0.0
        if difference >= CUT_DIFFERENCE and difference >= CUT_CONTRAST * usual:
            return True
        self.differences.append(difference)
        return False


class _ArrayFrames:
    """An array's frames, with the times that its frame rate gives them."""

    def __init__(self, video: Any, frame_rate: float | None) -> None:
        if frame_rate is None:
            raise ValueError("a video array carries no times: give fps, its frames per second")
        self.frames = stack_frames(video)
        if len(self.frames) == 0:
            raise ValueError("a video without frames: its first axis is empty")
        first = to_rgb(self.frames[:1], None)
        self.times = np.arange(len(self.frames)) / frame_rate
        duration = len(self.frames) / frame_rate
        self.info = _ArrayInfo("<array>", first.shape[-1], first.shape[-2], duration, float(frame_rate))

    def __iter__(self) -> Iterator["_ArrayFrame"]:
        for index, seconds in enumerate(self.times.tolist()):
            yield _ArrayFrame(index, seconds, self.frames)


@dataclass(frozen=True)
class _ArrayInfo:
    name: str
    width: int
    height: int
    duration: float
    frame_rate: float


@dataclass(frozen=True)
class _ArrayFrame:
    index: int
    time: float
    frames: torch.Tensor

    def picture(self) -> torch.Tensor:
        return to_rgb(self.frames[self.index : self.index + 1], None)[0]


@lru_cache(maxsize=4)
def _detector(min_face: float, search_small_faces: bool) -> FaceDetector:
    """One detector for all videos: its weights are read once."""
    return FaceDetector(min_face=min_face, search_small_faces=search_small_faces)


def _ignore(share: float) -> None:
    """Hears the progress where nobody listens."""


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
    return str(getattr(video, "name", video))


def _timed(index: int, frame: Any, frame_rate: float | None) -> tuple[float, Any]:
    if frame_rate is None:
        raise ValueError("live frames carry no times: give fps, or pairs (seconds, frame)")
    return index / frame_rate, frame


def _window_spans(duration: float | None, options: TimelineOptions) -> Iterator[tuple[float, float]]:
    """(start, end) of the windows in seconds; the last one ends with the video, so that none is cut short."""
    window, hop = options.window_seconds, options.hop
    for position in count():
        start = position * hop
        if duration is None or start + window <= duration + 1e-6:
            yield start, start + window
            continue
        covered = start - hop + window if position else 0.0
        if covered < duration - 1e-3 and start < duration:
            # With gaps between windows the last one begins where it should.
            yield (max(0.0, duration - window) if hop <= window else start), duration + 1e-3
        return


def _fill_gaps(times: np.ndarray, wanted: Iterable[int]) -> Iterator[int]:
    """Indices of frames to be searched besides the wanted ones, so that no pause of a second or less hides a step."""
    last = -math.inf
    for index in sorted(wanted):
        while TRACKING_INTERVAL < times[index] - last <= MAX_PAUSE:
            between = int(np.searchsorted(times, last + TRACKING_INTERVAL, side="right")) - 1
            if times[between] <= last:
                break
            yield between
            last = times[between]
        last = times[index]


def _due(frames: Sequence[_Seen], last: float, interval: float, ended: bool) -> list[_Seen]:
    """The frames to be searched, no further apart than `interval` where there are such; `last`: seconds."""
    due = []
    for frame, behind in pairwise([*frames, None]):
        if ended if behind is None else behind.time > last + interval:
            due.append(frame)
            last = frame.time
    return due


def _show_the_same(one: _Found, other: _Found) -> bool:
    """Whether two frames show as many faces at nearly the same places, in one scene."""
    if len(one.boxes) != len(other.boxes) or _difference(one.thumbnail, other.thumbnail) >= CUT_DIFFERENCE:
        return False
    pairs = _match(list(one.boxes), other.boxes)
    overlaps = [box_intersection_over_union(one.boxes[first], other.boxes[second]) for first, second in pairs]
    return sum(overlap >= SAME_OVERLAP for overlap in overlaps) == len(one.boxes)


def _between(before: _Found, after: _Found, seconds: float) -> np.ndarray:
    """Where the faces are by then, (N, 4) in source pixels, each on the straight way from one frame to the other."""
    share = (seconds - before.frame.time) / (after.frame.time - before.frame.time)
    pairs = _match(list(before.boxes), after.boxes)
    ways = [(1 - share) * before.boxes[first] + share * after.boxes[second] for first, second in pairs]
    return np.array(ways, dtype=np.float32).reshape(-1, 4)


def _match(expected: list[np.ndarray], boxes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (track, face), the best ones first, each track and face once."""
    if not expected or not len(boxes):
        return []
    tracks = np.stack(expected)
    overlap = box_intersection_over_union(tracks[:, None], boxes[None])  # (tracks, faces)
    sides = [np.sqrt(np.prod(np.maximum(group[:, 2:] - group[:, :2], 1.0), axis=1)) for group in (tracks, boxes)]
    side = np.sqrt(sides[0][:, None] * sides[1][None])
    growth = np.exp(np.abs(np.log(sides[0][:, None] / sides[1][None])))
    centres = [(group[:, :2] + group[:, 2:]) / 2 for group in (tracks, boxes)]
    step = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1) / side
    possible = (overlap >= MIN_OVERLAP) | ((step <= MAX_STEP) & (growth <= MAX_GROWTH))
    merit = np.where(possible, overlap - 0.01 * step, -np.inf)
    pairs, used_tracks, used_faces = [], set(), set()
    for flat in np.argsort(-merit, axis=None, kind="stable").tolist():
        track, face = divmod(flat, len(boxes))
        if np.isfinite(merit[track, face]) and track not in used_tracks and face not in used_faces:
            pairs.append((track, face))
            used_tracks.add(track)
            used_faces.add(face)
    return pairs


def _describe_clip(key: int, start: float, end: float, frames: Sequence[_Seen]) -> _ScoredClip:
    unknown = (np.full(4, np.nan), np.full((5, 2), np.nan))
    faces = [frame.faces.get(key, unknown) for frame in frames]
    return _ScoredClip(
        track=key,
        start=start,
        end=end,
        times=np.array([frame.time for frame in frames]),
        boxes=np.stack([box for box, _ in faces]).astype(np.float32),
        landmarks=np.stack([points for _, points in faces]).astype(np.float32),
        found=np.array([key in frame.faces for frame in frames]),
    )


def _people(reading: _Reading, duration: float, options: TimelineOptions, names: Sequence[str]) -> list[dict[str, Any]]:
    """The result's tracks, in the order in which they came into view."""
    clips: dict[int, list[_ScoredClip]] = {}
    for clip in reading.clips:
        clips.setdefault(clip.track, []).append(clip)
    spans = {0: (0.0, duration)} if reading.single else reading.tracker.spans
    return [
        {
            "track": number,
            "start": round(spans[key][0], 3),
            "end": round(spans[key][1], 3),
            "windows": _windows(clips.get(key, []), spans[key], options, names),
        }
        for key, number in reading.numbers.items()
    ]


def _windows(
    clips: list[_ScoredClip], span: tuple[float, float], options: TimelineOptions, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A person's windows, overlapping ones averaged into spans of one hop."""
    if not options.average_windows or options.hop >= options.window_seconds:
        groups = [([clip], clip.start, min(clip.end, span[1])) for clip in clips]
    else:
        groups = list(_overlaps(clips, span, options.hop))
    windows = [_window(group, start, end, names) for group, start, end in groups]
    return [_keep_top(window, options.top_k) for window in _smooth(windows, options.smoothing)]


def _overlaps(
    clips: list[_ScoredClip], span: tuple[float, float], hop: float
) -> Iterator[tuple[list[_ScoredClip], float, float]]:
    """(clips, start, end) of the spans of one hop, with the clips that cover each one's middle."""
    first = 0
    for position in range(int(span[0] / hop + 1e-6), math.ceil(span[1] / hop - 1e-6) or 1):
        start, end = max(position * hop, span[0]), min((position + 1) * hop, span[1])
        middle = (start + end) / 2
        while first < len(clips) and clips[first].end < middle:
            first += 1
        # Clips come in the order of their begin: those of one moment stand together.
        covering = []
        for clip in clips[first:]:
            if clip.start > middle:
                break
            covering.append(clip)
        covering = [clip for clip in covering if clip.end >= middle]
        if covering:
            yield covering, start, end


def _window(clips: Sequence[_ScoredClip], start: float, end: float, names: Sequence[str]) -> dict[str, Any]:
    """One window of the result: the average of the clips that cover it, and their frames within it."""
    faces: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {}
    looked_at = set()
    for clip in clips:
        for position in np.flatnonzero((clip.times >= start - 5e-4) & (clip.times <= end + 5e-4)).tolist():
            seconds = float(clip.times[position])
            looked_at.add(seconds)
            if clip.found[position]:
                faces.setdefault(seconds, []).append((clip.boxes[position], clip.landmarks[position]))
    scored = [clip.scores for clip in clips if clip.scores is not None] if faces else []
    scores = dict(zip(names, np.mean(scored, axis=0).tolist(), strict=True)) if scored else None
    return {
        "start": round(start, 3),
        "end": round(end, 3),
        "face_coverage": round(len(faces) / len(looked_at), 3) if looked_at else 0.0,
        "scores": scores,
        "frames": [_frame(seconds, faces[seconds]) for seconds in sorted(faces)],
    }


def _frame(seconds: float, faces: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    box, landmarks = (np.mean([face[part] for face in faces], axis=0) for part in (0, 1))
    return {"time": round(seconds, 4), "box": _numbers(box), "landmarks": _numbers(landmarks)}


def _numbers(values: np.ndarray) -> list[Any] | None:
    return None if np.isnan(values).any() else np.round(values.astype(np.float64), 1).tolist()


def _smooth(windows: list[dict[str, Any]], weight: float) -> Iterator[dict[str, Any]]:
    """Exponential average over a person's windows; a window without a face begins it anew."""
    past: dict[str, float] | None = None
    for window in windows:
        scores = window["scores"]
        if scores is not None and past is not None and weight > 0:
            scores = {name: weight * past[name] + (1 - weight) * score for name, score in scores.items()}
        past = scores
        yield {**window, "scores": scores}


def _keep_top(window: dict[str, Any], top_k: int | None) -> dict[str, Any]:
    """The most probable expressions first, and no more than `top_k` of them."""
    if window["scores"] is None:
        return window
    ranked = sorted(window["scores"].items(), key=lambda entry: -entry[1])
    return {**window, "scores": dict(ranked[:top_k])}


__all__ = ["FacialExpressionTimelinePipeline", "TimelineOptions"]
