"""Whose face is where in a video: a search for faces over time, and the tracks of people that it makes.

frames ─► MTCNN in the whole picture, once a second ─► near the same faces in between ─► straight ways in between
                          └─ where the faces differ: in every frame ─┘                         │
                                     tracks of people, ended by cuts ◄─────────────────────────┘
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, pairwise

import numpy as np
import torch
from torch.nn import functional

from .face_detection import LABELLED_MIN_FACE, LABELLED_SIZE, FaceDetections, FaceDetector
from .face_geometry import (
    best_pairs,
    box_intersection_over_union,
    boxes_from_pixels,
    boxes_to_pixels,
    on_the_straight_way,
    points_to_pixels,
)
from .video_reading import resize_frames

DETECTOR_FACE = 24.0  # pixels that the smallest wanted face has in the picture that MTCNN searches
DETECTION_BATCH = 8  # frames that MTCNN searches at once
SEARCH_INTERVAL = 1.0  # seconds between two frames at most that MTCNN searches as a whole. Between two that show the
FOLLOW_INTERVAL = 0.3  # same faces it follows them in frames so far apart; the faces of the others are filled in.
SAME_OVERLAP = 0.6  # The same: as many, and each with this intersection over union
BEGIN_CONFIDENCE = 0.95  # a track begins with a face this sure; it goes on with any that MTCNN reports
MIN_OVERLAP = 0.2  # intersection over union of a face with the place where its track expects it
MAX_STEP = 0.6  # or else: distance of their centres, in sides of the face
MAX_GROWTH = 1.6  # and ratio of their sides
ROUNDING = 5e-4  # seconds: times are rounded in some containers
TRACKING_INTERVAL = 0.15  # seconds between two searched frames at most: people move on between windows' samples
MAX_PAUSE = 1.0  # seconds without a face after which a track has ended
THUMBNAIL = (18, 32)  # rows and columns in which frames are compared for cuts
CUT_DIFFERENCE = 0.09  # mean difference of gray values (0–1) between two frames that may be a cut …
CUT_CONTRAST = 3.0  # … if it is this many times the usual difference
CONFIRMING_FACES = 3  # a track with fewer faces is taken for a false alarm
SMALLEST_PERSON = 12  # of a single clip, faces are looked for whose side is this part of the frame's shorter side


@dataclass
class SeenFrame:
    """A frame in which faces are looked for."""

    index: int  # in display order
    time: float  # seconds
    picture: torch.Tensor  # uint8 (3, H, W)
    searched: bool = False
    faces: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict
    )  # track key -> box (4,), points (5, 2), in source pixels


@dataclass(frozen=True)
class _Found:
    """The faces of a searched frame, in source pixels."""

    frame: SeenFrame
    boxes: np.ndarray  # (N, 4)
    landmarks: np.ndarray  # (N, 5, 2)
    confidence: np.ndarray  # (N,)
    thumbnail: torch.Tensor  # gray values 0–1 (1, 1, rows, columns) of the whole frame

    def shows_the_same(self, other: "_Found") -> bool:
        """Whether two frames show as many faces at nearly the same places, in one scene."""
        is_cut = thumbnail_difference(self.thumbnail, other.thumbnail) >= CUT_DIFFERENCE
        if len(self.boxes) != len(other.boxes) or is_cut:
            return False
        pairs = _match(self.boxes, other.boxes)
        overlaps = [box_intersection_over_union(self.boxes[one], other.boxes[two]) for one, two in pairs]
        return sum(overlap >= SAME_OVERLAP for overlap in overlaps) == len(self.boxes)


class FaceSearch:
    """Finds the faces of a video's frames, which come in their order, and hands them to the tracks of people.

    Args:
        size: (width, height) of the video in pixels.
        single: one person per video, found as training frames are labelled; its track has the key 0.
        min_face: side of the smallest face to look for, in source pixels; not used for a single person.
        confirming_faces: a track with fewer faces is taken for a false alarm.
    """

    def __init__(self, size: tuple[int, int], single: bool, min_face: float, confirming_faces: int) -> None:
        self.size, self.single = size, single
        self.tracker, self.cuts = Tracker(confirming_faces), CutFinder()
        self.last: _Found | None = None  # of the frame searched last
        if single:
            self.searched_size, self.detector = LABELLED_SIZE, _detector(LABELLED_MIN_FACE, True)
            return
        self.searched_size, self.detector = _search_settings(size, min_face)

    def search(self, frames: list[SeenFrame], ended: bool) -> None:
        """Finds the faces of waiting frames; the last ones wait for a frame behind them, unless a window `ended`."""
        last = self.last.frame.time if self.last else -math.inf
        found = self._find(_due(frames, last, SEARCH_INTERVAL, ended))
        found = self._look_between(found, frames, FOLLOW_INTERVAL, follow=True)
        found = self._look_between(found, frames, 0.0, follow=False)
        for each in found:
            self._link(each)
            if self.last is not None:
                self._fill_in(self.last.frame, each.frame, frames)
            self.last = each

    def _look_between(
        self, found: list[_Found], frames: list[SeenFrame], interval: float, follow: bool
    ) -> list[_Found]:
        """Adds frames `interval` apart between those found: searched where the faces differ, else followed or none."""
        more: list[_Found] = []
        unsure: list[SeenFrame] = []
        for before, after in pairwise([*([self.last] if self.last else []), *found]):
            between = [frame for frame in frames if before.frame.time < frame.time <= after.frame.time]
            due = _due(between, before.frame.time, interval, ended=False)
            if not before.shows_the_same(after):
                unsure += due
            elif follow and due:
                for followed in self._follow(before, after, due):
                    if before.shows_the_same(followed):
                        more.append(followed)
                    else:
                        unsure.append(followed.frame)
        return sorted([*found, *more, *self._find(unsure)], key=lambda each: each.frame.index)

    def _find(self, frames: list[SeenFrame]) -> list[_Found]:
        """Faces of frames that are searched as a whole."""
        found: list[_Found] = []
        for start in range(0, len(frames), DETECTION_BATCH):
            batch = frames[start : start + DETECTION_BATCH]
            found += self._look_at(batch, self._one_face_each if self.single else self.detector.detect_all)
        return found

    def _one_face_each(self, pictures: torch.Tensor) -> list[FaceDetections]:
        """The one face of each picture, as `FaceDetector.detect_all` gives all of them."""
        faces = self.detector.detect(pictures)
        # (1, …) where there is a face, else (0, …)
        parts = [slice(index, index + int(found)) for index, found in enumerate(faces.face_found)]
        return [
            FaceDetections(
                boxes=faces.boxes[part],
                landmarks=faces.landmarks[part],
                confidence=faces.confidence[part],
                face_found=faces.face_found[part],
                face_count=faces.face_count[part],
            )
            for part in parts
        ]

    def _follow(self, before: _Found, after: _Found, frames: list[SeenFrame]) -> list[_Found]:
        """What frames between two searched ones show near the straight ways of the faces from one to the other."""
        pairs = _match(before.boxes, after.boxes)
        expected = []
        for frame in frames:
            share = (frame.time - before.frame.time) / (after.frame.time - before.frame.time)
            ways = [on_the_straight_way(before.boxes[one], after.boxes[two], share) for one, two in pairs]
            boxes = torch.from_numpy(np.array(ways, dtype=np.float32).reshape(-1, 4))
            expected.append(boxes_from_pixels(boxes, *self.size))
        return self._look_at(frames, lambda pictures: self.detector.follow(pictures, expected))

    def _look_at(self, frames: list[SeenFrame], find: Callable[[torch.Tensor], list[FaceDetections]]) -> list[_Found]:
        """What `find` finds in the frames, in the size in which MTCNN looks at them: uint8 (N, 3, h, w)."""
        pictures = torch.stack([resize_frames(frame.picture, self.searched_size) for frame in frames])
        found = []
        for frame, faces, picture in zip(frames, find(pictures), pictures, strict=True):
            boxes, landmarks = boxes_to_pixels(faces.boxes, *self.size), points_to_pixels(faces.landmarks, *self.size)
            thumbnail = thumbnail_of(picture)
            found.append(_Found(frame, boxes.numpy(), landmarks.numpy(), faces.confidence.numpy(), thumbnail))
        return found

    def _link(self, found: _Found) -> None:
        """Hands a frame's faces to their tracks."""
        frame = found.frame
        if self.single:
            keys: list[int | None] = [0] * len(found.boxes)
        else:
            keys = self.tracker.link(frame.time, found.boxes, found.confidence, self.cuts.is_cut(found.thumbnail))
        frame.searched = True
        for key, box, points in zip(keys, found.boxes, found.landmarks, strict=True):
            if key is not None:
                frame.faces[key] = (box, points)

    def _fill_in(self, before: SeenFrame, after: SeenFrame, frames: list[SeenFrame]) -> None:
        """Faces of frames between two searched ones: on the straight way from one to the other."""
        for frame in frames:
            if frame.searched or not before.time < frame.time < after.time:
                continue
            share = (frame.time - before.time) / (after.time - before.time)
            for key in before.faces.keys() & after.faces.keys():
                pairs = zip(before.faces[key], after.faces[key], strict=True)
                box, points = (on_the_straight_way(first, second, share) for first, second in pairs)
                frame.faces[key] = (box, points)
                self.tracker.count_face(key)
            frame.searched = True


@dataclass
class Track:
    """One person while in view: the faces linked over the frames."""

    key: int
    begin: float  # seconds of the first face
    end: float  # seconds of the last one
    box: np.ndarray  # (4,) pixels
    velocity: np.ndarray  # (2,) pixels a second
    face_count: int = 1


class Tracker:
    """Links faces over the frames by overlap with the place where their track expects them; cuts end all tracks.

    Attributes:
        numbers: number of each confirmed track by its key, in the order of confirmation, from 1 on.
        spans: (begin, end) of the confirmed tracks in seconds, by key.
    """

    def __init__(self, confirming_faces: int) -> None:
        self.confirming_faces = confirming_faces
        self.active: list[Track] = []
        self.recent: list[Track] = []  # all that a window still to come may show
        self.numbers: dict[int, int] = {}
        self.spans: dict[int, tuple[float, float]] = {}
        self.keys = count(1)

    def link(self, seconds: float, boxes: np.ndarray, confidence: np.ndarray, is_cut: bool) -> list[int | None]:
        """Takes the faces of the next frame, boxes (N, 4) in pixels; returns the key of each one's track, if any.

        `is_cut`: whether a cut lies before this frame.
        """
        if is_cut:
            self.active = []
        self.active = [track for track in self.active if seconds - track.end <= MAX_PAUSE]
        keys: list[int | None] = [None] * len(boxes)
        for track, face in self._link(seconds, boxes):
            elapsed, box = seconds - track.end, boxes[face]
            if elapsed > 0:
                centre, before = (box[:2] + box[2:]) / 2, (track.box[:2] + track.box[2:]) / 2
                # Half of the old course: single boxes jitter.
                track.velocity = 0.5 * track.velocity + 0.5 * (centre - before) / elapsed
            track.box, track.end = box, seconds
            track.face_count += 1
            self._confirm(track)
            keys[face] = track.key
        for face in range(len(boxes)):
            if keys[face] is None and confidence[face] >= BEGIN_CONFIDENCE:
                track = Track(next(self.keys), seconds, seconds, boxes[face], np.zeros(2))
                self.active.append(track)
                self.recent.append(track)
                self._confirm(track)
                keys[face] = track.key
        return keys

    def _link(self, seconds: float, boxes: np.ndarray) -> list[tuple[Track, int]]:
        """Pairs (track, index of its face)."""
        # Where each face should be by now, if it keeps its course.
        places = [track.box + np.tile(track.velocity * (seconds - track.end), 2) for track in self.active]
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

    def _confirm(self, track: Track) -> None:
        if track.face_count >= self.confirming_faces:
            self.numbers.setdefault(track.key, len(self.numbers) + 1)
            self.spans[track.key] = (track.begin, track.end)

    def between(self, start: float, end: float) -> list[Track]:
        """The tracks seen between two times; those that ended before are forgotten."""
        self.recent = [track for track in self.recent if track.end >= start - ROUNDING]
        return [track for track in self.recent if track.begin < end]


class CutFinder:
    """Tells a cut from motion: the picture changes a lot, and much more than it did between the frames before."""

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None
        self.differences: deque[float] = deque(maxlen=8)

    def is_cut(self, thumbnail: torch.Tensor) -> bool:
        """Whether a cut lies between the picture before and this one."""
        last, self.last = self.last, thumbnail
        if last is None:
            return False
        difference = thumbnail_difference(thumbnail, last)
        usual = float(np.median(self.differences)) if self.differences else 0.0
        if difference >= CUT_DIFFERENCE and difference >= CUT_CONTRAST * usual:
            return True
        self.differences.append(difference)
        return False


def thumbnail_of(picture: torch.Tensor) -> torch.Tensor:
    """uint8 (3, H, W) -> gray values 0–1 (1, 1, rows, columns)."""
    gray = picture.float().mean(dim=0)[None, None] / 255  # (1, 1, H, W)
    return functional.interpolate(gray, THUMBNAIL, mode="area")


def thumbnail_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of two thumbnails' gray values, 0–1."""
    return float((one - other).abs().mean())


def frames_between(times: np.ndarray, wanted: Iterable[int]) -> Iterator[int]:
    """Frames to be searched besides the wanted ones, so that no pause of a second or less hides a step.

    Args:
        times: seconds (N,) of all frames.
        wanted: indices of frames.

    Yields:
        Indices of frames between wanted ones.
    """
    last = -math.inf
    for index in sorted(wanted):
        while TRACKING_INTERVAL < times[index] - last <= MAX_PAUSE:
            between = int(np.searchsorted(times, last + TRACKING_INTERVAL, side="right")) - 1
            if times[between] <= last:
                break
            yield between
            last = times[between]
        last = times[index]


@dataclass(frozen=True)
class ClipPerson:
    """One person in the T frames of a clip. Coordinates are divided by the frame's width and height."""

    boxes: np.ndarray  # float32 (T, 4): x1, y1, x2, y2; NaN where the person is not found
    landmarks: np.ndarray  # float32 (T, 5, 2); NaN where not found
    other_people: int = 0  # how many others were followed over the clip


def most_prominent_person(frames: torch.Tensor) -> ClipPerson | None:
    """The person of a clip who is largest for longest: the track with the greatest sum of face sizes over the frames.

    Every frame is searched for faces from a twelfth of its shorter side on. They are linked as those of a timeline are,
    but without its limit on pauses: the frames of one clip may lie any time apart.

    Args:
        frames: uint8 (T, 3, H, W), samples of one clip in their order.

    Returns:
        The person; None where no frame has a face.
    """
    count, size = len(frames), (frames.shape[-1], frames.shape[-2])
    searched_size, detector = _search_settings(size, max(20.0, min(size) / SMALLEST_PERSON))
    # Short videos and stills repeat frames, which need one search.
    searched = [t for t in range(count) if t == 0 or not torch.equal(frames[t], frames[t - 1])]
    pictures = torch.stack([resize_frames(frames[t], searched_size) for t in searched])
    found = detector.detect_all(pictures)
    thumbnails = [thumbnail_of(picture) for picture in pictures]
    changes = [0.0, *(thumbnail_difference(one, other) for one, other in pairwise(thumbnails))]
    # The frames of one clip may lie seconds apart and all differ: a cut differs more than the others do.
    cut = max(CUT_DIFFERENCE, CUT_CONTRAST * float(np.median(changes[1:]))) if len(changes) > 2 else math.inf
    tracker = Tracker(min(CONFIRMING_FACES, count))
    people: dict[int, ClipPerson] = {}  # by track key
    for t in range(count):
        picture = bisect_right(searched, t) - 1
        faces, is_cut = found[picture], t in searched and changes[picture] >= cut
        keys = tracker.link(t / count, boxes_to_pixels(faces.boxes, *size).numpy(), faces.confidence.numpy(), is_cut)
        for face, key in enumerate(keys):
            if key is not None:
                nowhere = np.full((count, 4), np.nan, np.float32), np.full((count, 5, 2), np.nan, np.float32)
                person = people.setdefault(key, ClipPerson(*nowhere))
                person.boxes[t], person.landmarks[t] = faces.boxes[face], faces.landmarks[face]
    if not people:
        return None
    # The size of a face is the side of a square as large.
    sizes = {key: np.sqrt(np.prod(person.boxes[:, 2:] - person.boxes[:, :2], axis=1)) for key, person in people.items()}
    key = max(sizes, key=lambda each: np.nansum(sizes[each]))
    return replace(people[key], other_people=len(tracker.numbers.keys() - {key}))


def _search_settings(size: tuple[int, int], min_face: float) -> tuple[tuple[int, int], FaceDetector]:
    """(height, width) in which frames of `size` are searched for faces of so many source pixels and more, and MTCNN."""
    width, height = size
    scale = min(1.0, DETECTOR_FACE / min_face)
    # A little below the wanted size: MTCNN's pyramid has coarse rungs.
    detector = _detector(max(12.0, 0.85 * min_face * scale), False)
    return (max(1, round(height * scale)), max(1, round(width * scale))), detector


@lru_cache(maxsize=4)
def _detector(min_face: float, search_small_faces: bool) -> FaceDetector:
    """One detector for all videos: its weights are read once."""
    return FaceDetector(min_face=min_face, search_small_faces=search_small_faces)


def _due(frames: Sequence[SeenFrame], last: float, interval: float, ended: bool) -> list[SeenFrame]:
    """The frames to be searched, no further apart than `interval` where there are such; `last`: seconds."""
    due = []
    for position, frame in enumerate(frames):
        is_last = position == len(frames) - 1
        if ended if is_last else frames[position + 1].time > last + interval:
            due.append(frame)
            last = frame.time
    return due


def _match(expected: Sequence[np.ndarray] | np.ndarray, boxes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (track, face), the best ones first, each track and face once; boxes (4,) of tracks, (N, 4) of faces."""
    if not len(expected) or not len(boxes):
        return []
    tracks = np.stack(list(expected))
    overlap = box_intersection_over_union(tracks[:, None], boxes[None])  # (tracks, faces)
    sides = [np.sqrt(np.prod(np.maximum(group[:, 2:] - group[:, :2], 1.0), axis=1)) for group in (tracks, boxes)]
    side = np.sqrt(sides[0][:, None] * sides[1][None])
    growth = np.exp(np.abs(np.log(sides[0][:, None] / sides[1][None])))
    centres = [(group[:, :2] + group[:, 2:]) / 2 for group in (tracks, boxes)]
    step = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1) / side
    possible = (overlap >= MIN_OVERLAP) | ((step <= MAX_STEP) & (growth <= MAX_GROWTH))
    return best_pairs(np.where(possible, overlap - 0.01 * step, -np.inf))
