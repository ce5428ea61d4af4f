"""The windows of a timeline: what can be chosen, where they lie, which frames stand for each, what is told of each.

times of the frames ─► spans of seconds ─► T frames each ─► a scored clip per person ─► averaged where they overlap
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from numbers import Integral, Real
from typing import Any

import numpy as np

from .people_tracking import ROUNDING, SeenFrame, frames_between
from .video_reading import uniform_frame_indices

PEOPLE = ("all", "single")

SHORT_SECONDS = 0.5  # a window that rests on less of a face is called short: its scores are not to be relied on


@dataclass(frozen=True)
class TimelineOptions:
    """What can be chosen for each call."""

    top_k: int | None = None  # how many expressions to keep per window; all by default
    people: str = "all"  # "all": every person's crop is scored; "single": one, shown as the processor does
    window_seconds: float = 2.0  # length of the clips that the model sees
    hop_seconds: float | None = None  # from one window's begin to the next one's; half a window by default
    average_windows: bool = True  # average overlapping windows into spans of one hop; False reports each window
    smoothing: float = 0.0  # weight of the past in an exponential average of a person's scores, 0 (none) to below 1
    min_seconds: float = 0.0  # windows that rest on fewer seconds of face are left out
    min_face: float | None = None  # side of the smallest face in source pixels; 1/16 of the shorter side by default
    margin: float | None = None  # added on every side of a face, as a share of its size; the processor's by default
    batch_size: int = 4  # clips that the model sees at once
    fps: float | None = None  # frames per second of arrays, which carry no times
    compile: bool = False  # torch.compile the model: pays after some dozens of batches
    int8: bool = False  # quantise a copy of the model to 8 bits; needs torchao

    def __post_init__(self) -> None:
        if not (isinstance(self.people, str) and self.people in PEOPLE):
            raise ValueError(f"people={self.people!r}: must be one of {', '.join(PEOPLE)}")
        for name in ("average_windows", "compile", "int8"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be true or false")
        for name in ("window_seconds", "batch_size", "hop_seconds", "min_face", "fps", "top_k"):
            value = getattr(self, name)
            if value is None and name not in ("window_seconds", "batch_size"):
                continue
            if not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name}={value!r}: must be a number above 0")
            if name in ("batch_size", "top_k") and not isinstance(value, Integral):
                raise ValueError(f"{name}={value!r}: must be a whole number")
        if not (_is_number(self.min_seconds) and 0 <= self.min_seconds < math.inf):
            raise ValueError(f"min_seconds={self.min_seconds!r}: must be a number that is not negative")
        if not (_is_number(self.smoothing) and 0 <= self.smoothing < 1):
            raise ValueError(f"smoothing={self.smoothing!r}: must be at least 0 and below 1")
        if self.margin is not None and not (_is_number(self.margin) and 0 <= self.margin < math.inf):
            raise ValueError(f"margin={self.margin!r}: must be a number that is not negative")

    @property
    def hop(self) -> float:
        """Seconds from one window's begin to the next one's."""
        return self.hop_seconds or self.window_seconds / 2


def _is_number(value: Any) -> bool:
    """Whether it is one, which true and false are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


class WindowPlan:
    """Windows, and the frames that the model sees of each.

    Args:
        times: seconds (N,) of the video's frames; None for live frames, whose times are not known before.
        duration: seconds of the video; None for live frames.
        options: of the call.
        num_frames: T, how many frames the model sees of a window.

    Attributes:
        spans: (start, end) of the windows to come, in seconds.
        wanted: indices of all frames that are looked at; empty for live frames.
    """

    def __init__(
        self, times: np.ndarray | None, duration: float | None, options: TimelineOptions, num_frames: int
    ) -> None:
        self.num_frames, self.options, self.times = num_frames, options, times
        self.spans = _window_spans(duration, options)
        self.wanted: set[int] = set()
        self.chosen: dict[tuple[float, float], list[int]] = {}
        if times is not None:
            for span in self.spans:
                first, end = np.searchsorted(times, [span[0] - ROUNDING, span[1] - ROUNDING]).tolist()
                indices = uniform_frame_indices(end - first, num_frames) if end > first else []
                self.chosen[span] = [first + index for index in indices]
            self.spans = iter(list(self.chosen))
            self.wanted = {index for indices in self.chosen.values() for index in indices}
            if options.people == "all":
                self.wanted |= set(frames_between(times, self.wanted))

    def frames(self, span: tuple[float, float], seen: Sequence[SeenFrame]) -> list[SeenFrame]:
        """The T frames that stand for a window, of those seen; where one did not decode, its neighbour."""
        within = [frame for frame in seen if span[0] - ROUNDING <= frame.time < span[1] - ROUNDING]
        if not within:
            return []
        if self.times is None:
            return [within[index] for index in uniform_frame_indices(len(within), self.num_frames)]
        return [min(within, key=lambda frame: abs(frame.index - index)) for index in self.chosen[span]]


def _window_spans(duration: float | None, options: TimelineOptions) -> Iterator[tuple[float, float]]:
    """(start, end) of the windows in seconds; the last one ends with the video, whatever the gaps are."""
    window, hop = options.window_seconds, options.hop
    for position in count():
        start = position * hop
        if duration is None or start + window <= duration + 1e-6:
            yield start, start + window
            continue
        covered = start - hop + window if position else 0.0
        if covered < duration - 1e-3:
            yield max(0.0, duration - window), duration + 1e-3
        return


@dataclass
class ScoredClip:
    """What is known of one person in one window. Boxes and points in source pixels, NaN where the face is not found."""

    track: int
    start: float
    end: float
    times: np.ndarray  # (T,)
    boxes: np.ndarray  # float32 (T, 4)
    landmarks: np.ndarray  # float32 (T, 5, 2)
    found: np.ndarray  # bool (T,)
    scores: np.ndarray | None = None  # (K,)

    @classmethod
    def of_person(cls, key: int, start: float, end: float, frames: Sequence[SeenFrame]) -> "ScoredClip":
        """The clip, not yet scored, of the track `key` in T frames."""
        unknown = (np.full(4, np.nan), np.full((5, 2), np.nan))
        faces = [frame.faces.get(key, unknown) for frame in frames]
        return cls(
            track=key,
            start=start,
            end=end,
            times=np.array([frame.time for frame in frames]),
            boxes=np.stack([box for box, _ in faces]).astype(np.float32),
            landmarks=np.stack([points for _, points in faces]).astype(np.float32),
            found=np.array([key in frame.faces for frame in frames]),
        )


def person_windows(
    clips: Sequence[ScoredClip], span: tuple[float, float], options: TimelineOptions, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A person's windows, overlapping ones averaged into spans of one hop.

    Args:
        clips: of the person, in the order of their begin.
        span: (begin, end) of the person's time in view, in seconds.
        options: of the call.
        names: of the K expressions.
    """
    if not options.average_windows or options.hop >= options.window_seconds:
        groups = [([clip], clip.start, min(clip.end, span[1])) for clip in clips]
    else:
        groups = list(_overlaps(clips, span, options.hop))
    windows = [window_of_clips(group, start, end, names) for group, start, end in groups]
    windows = [window for window in windows if window["face_seconds"] >= options.min_seconds]
    # An exponential average over the person's windows; a window without a face begins it anew.
    past: dict[str, float] | None = None
    for window in windows:
        scores, weight = window["scores"], options.smoothing
        if scores is not None and past is not None and weight > 0:
            scores = {name: weight * past[name] + (1 - weight) * score for name, score in scores.items()}
        window["scores"] = past = scores
    return [keep_top(window, options.top_k) for window in windows]


def _overlaps(
    clips: Sequence[ScoredClip], span: tuple[float, float], hop: float
) -> Iterator[tuple[list[ScoredClip], float, float]]:
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


def window_of_clips(clips: Sequence[ScoredClip], start: float, end: float, names: Sequence[str]) -> dict[str, Any]:
    """One window of the result: the average of the clips that cover it, on how much of a face these rest, and their
    frames within it.
    """
    faces: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {}
    looked_at = set()
    for clip in clips:
        for position in np.flatnonzero((clip.times >= start - ROUNDING) & (clip.times <= end + ROUNDING)).tolist():
            seconds = float(clip.times[position])
            looked_at.add(seconds)
            if clip.found[position]:
                faces.setdefault(seconds, []).append((clip.boxes[position], clip.landmarks[position]))
    scored = [clip.scores for clip in clips if clip.scores is not None] if faces else []
    scores = dict(zip(names, np.mean(scored, axis=0).tolist(), strict=True)) if scored else None
    seen = {float(seconds) for clip in clips for seconds in clip.times[clip.found]}
    face_seconds = seconds_of_face(clips) if scores is not None else 0.0
    frames = []
    for seconds in sorted(faces):
        means = [np.mean(values, axis=0).astype(np.float64) for values in zip(*faces[seconds], strict=True)]
        box, landmarks = (None if np.isnan(values).any() else np.round(values, 1).tolist() for values in means)
        frames.append({"time": round(seconds, 4), "box": box, "landmarks": landmarks})
    return {
        "start": round(start, 3),
        "end": round(end, 3),
        "face_coverage": round(len(faces) / len(looked_at), 3) if looked_at else 0.0,
        "face_frames": len(seen) if scores is not None else 0,
        "face_seconds": round(face_seconds, 3),
        "short": 0 < face_seconds < SHORT_SECONDS,
        "scores": scores,
        "frames": frames,
    }


def seconds_of_face(clips: Sequence[ScoredClip]) -> float:
    """How long a face was in sight: all moments that the frames in which it was found stand for, each counted once.

    A frame stands for the time until the next one. A clip may end later than the person whose frames it holds was seen;
    so its length says nothing.
    """
    stretches = []
    for clip in clips:
        times = np.unique(clip.times)
        gap = float(np.diff(times).mean()) if len(times) > 1 else (clip.end - clip.start) / len(clip.times)
        found = np.unique(clip.times[clip.found]).tolist()
        stretches += [(seconds, min(seconds + gap, clip.end)) for seconds in found]
    total, reached = 0.0, -math.inf
    for begin, end in sorted(stretches):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def keep_top(window: dict[str, Any], top_k: int | None) -> dict[str, Any]:
    """The most probable expressions first, and no more than `top_k` of them."""
    if window["scores"] is None:
        return window
    ranked = sorted(window["scores"].items(), key=lambda entry: -entry[1])
    return {**window, "scores": dict(ranked[:top_k])}
