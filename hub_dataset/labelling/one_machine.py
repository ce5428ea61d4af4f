"""Face labels for clips: found on exactly the frames that the model gets.

Every clip is read, resized and searched for faces on its own, on one thread, so its labels do not depend on how many
processes share the work or on which other clips are labelled with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mtcae_dfer.hub_dataset.clips import Clip, ClipLabels, LabelledClip, OptionError
from mtcae_dfer.hub_dataset.files import hash_file
from mtcae_dfer.hub_dataset.workers import check_device, one_thread, worker_pool

if TYPE_CHECKING:
    from mtcae_dfer.face_detection import FaceDetector
    from mtcae_dfer.video_reading import SampledClip, VideoSource

SMALLEST_FACE = 12  # pixels: what the first of MTCNN's networks sees
LONGEST_GAP = 3  # sampled frames; over a longer gap a face does not move on a straight line
CLIPS_AHEAD = 8  # clips handed out per worker before the first of them must be finished


@dataclass(frozen=True)
class LabellingOptions:
    """How clips are labelled."""

    num_frames: int = field(default=16, metadata={"help": "Frames per clip, spread evenly over the whole clip."})
    height: int = field(default=224, metadata={"help": "Height to which frames are squashed, in pixels."})
    width: int = field(default=224, metadata={"help": "Width to which frames are squashed, in pixels."})
    min_face: float = field(default=56.0, metadata={"help": "Side of the smallest face to look for first, in pixels."})
    face_policy: str = field(default="track", metadata={"help": "Which face is labelled: track, largest or central."})
    interpolate_gaps: int = field(
        default=0, metadata={"help": "Longest run of frames without a face to fill from its neighbours, 0 to 3."}
    )
    device: str = field(default="cpu", metadata={"help": "Where the face detector runs."})

    def __post_init__(self) -> None:
        for name, least in {"num_frames": 1, "height": 1, "width": 1, "min_face": SMALLEST_FACE}.items():
            if not getattr(self, name) >= least:
                raise OptionError(name, getattr(self, name), f"must be at least {least}")
        if not 0 <= self.interpolate_gaps <= LONGEST_GAP:
            raise OptionError("interpolate_gaps", self.interpolate_gaps, f"must lie between 0 and {LONGEST_GAP} frames")

    def make_detector(self) -> FaceDetector:
        """Loads the face detector.

        Raises:
            ImportError: facenet-pytorch is not installed.
            ValueError: the device is not here, or there is no such policy.
        """
        from mtcae_dfer.face_detection import FaceDetector

        check_device(self.device)
        return FaceDetector(device=self.device, min_face=self.min_face, policy=self.face_policy)


def label_clip(
    source: VideoSource,
    detector: FaceDetector,
    num_frames: int = 16,
    size: tuple[int, int] = (224, 224),
    interpolate_gaps: int = 0,
) -> ClipLabels:
    """Labels the faces of one clip, on the frames that a model with this `num_frames` and `size` gets.

    Args:
        source: path, bytes or binary file object of a video.
        detector: the face detector.
        num_frames: number of frames spread over the whole clip.
        size: (height, width) to which the frames are squashed before the search, in pixels.
        interpolate_gaps: see `fill_short_gaps`.

    Raises:
        VideoReadingError: the video cannot be read; the message says why in one line.
    """
    from mtcae_dfer.video_reading import read_clip

    return label_frames(read_clip(source, num_frames=num_frames, size=size), detector, interpolate_gaps)


def label_frames(clip: SampledClip, detector: FaceDetector, interpolate_gaps: int = 0) -> ClipLabels:
    """Labels the faces of frames that are read already; arguments as of `label_clip`."""
    faces = detector.detect(clip.frames)
    labels = ClipLabels(
        frame_indices=np.asarray(clip.frame_indices, dtype=np.int64),
        face_boxes=faces.boxes.numpy(),
        face_landmarks=faces.landmarks.numpy(),
        face_found=faces.face_found.numpy(),
        face_confidence=faces.confidence.numpy(),
        face_count=faces.face_count.numpy(),
        face_interpolated=np.zeros(len(clip.frame_indices), dtype=bool),
        warning=clip.warning,
    )
    return fill_short_gaps(labels, interpolate_gaps)


def fill_short_gaps(labels: ClipLabels, longest: int) -> ClipLabels:
    """Gives frames between two faces a box and points on the straight line between them, and flags these frames.

    Args:
        labels: of one clip.
        longest: longest gap to fill, in labelled frames; longer ones, and gaps at the clip's ends, stay as they are.
    """
    from mtcae_dfer.face_geometry import on_the_straight_way

    boxes, landmarks = labels.face_boxes.copy(), labels.face_landmarks.copy()
    found, interpolated = labels.face_found.copy(), labels.face_interpolated.copy()
    known = labels.face_found.nonzero()[0]
    for before, after in zip(known[:-1], known[1:], strict=True):
        if not 1 < after - before <= longest + 1:
            continue
        begin, end = labels.frame_indices[before], labels.frame_indices[after]
        for position in range(before + 1, after):
            # By the frames' place in the video; a video shorter than the sample repeats frames.
            share = np.float32((labels.frame_indices[position] - begin) / max(1, end - begin))
            for values in (boxes, landmarks):
                values[position] = on_the_straight_way(values[before], values[after], share)
        found[before + 1 : after] = interpolated[before + 1 : after] = True
    return replace(labels, face_boxes=boxes, face_landmarks=landmarks, face_found=found, face_interpolated=interpolated)


def label_clips(
    clips: Sequence[Clip], options: LabellingOptions | None = None, workers: int = 1
) -> Iterator[LabelledClip]:
    """Labels clips, in their order. A clip that cannot be read yields its failure and does not stop the others.

    With `workers` above 1, fresh processes read and search clips side by side.

    Raises:
        DatasetError: a worker process died.
        ValueError, ImportError: the face detector cannot be made with these options.
    """
    options = options or LabellingOptions()
    workers = min(workers, len(clips))
    if workers <= 1:
        detector = options.make_detector()
        for clip in clips:
            with one_thread():
                labelled = _label_file(clip, detector, options)
            yield labelled
        return
    options.make_detector()  # says here, in one line, what every worker would stumble over
    with worker_pool(workers, "labelling", _start_worker, (options,)) as executor:
        waiting: deque[Future[LabelledClip]] = deque()
        for clip in clips:
            waiting.append(executor.submit(_label_in_worker, clip))
            if len(waiting) >= workers * CLIPS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _label_file(clip: Clip, detector: FaceDetector, options: LabellingOptions) -> LabelledClip:
    from mtcae_dfer.video_reading import VideoReadingError, read_clip

    try:
        sampled = read_clip(clip.path, num_frames=options.num_frames, size=(options.height, options.width))
        digest, byte_count = hash_file(clip.path)
    except VideoReadingError as error:
        # Named as the data set does: where the corpus lay on the builder's machine is nobody's business.
        return LabelledClip(None, str(error).replace(str(clip.path), clip.name), "", 0)
    except OSError as error:
        return LabelledClip(None, f"{clip.name} cannot be read: {error.strerror or error}.", "", 0)
    labels = label_frames(sampled, detector, options.interpolate_gaps)
    if labels.warning is not None:
        labels.warning = labels.warning.replace(str(clip.path), clip.name)
    return LabelledClip(labels, None, digest, byte_count)


class ClipLabeller:
    """One worker: a face detector on one thread. Makes the same labels wherever it runs."""

    def __init__(self, options: LabellingOptions):
        import torch

        torch.set_num_threads(1)
        self.options = options
        self.detector = options.make_detector()

    def __call__(self, clip: Clip) -> LabelledClip:
        return _label_file(clip, self.detector, self.options)


_worker_state: dict[str, ClipLabeller] = {}


def _start_worker(options: LabellingOptions) -> None:
    _worker_state["labeller"] = ClipLabeller(options)


def _label_in_worker(clip: Clip) -> LabelledClip:
    return _worker_state["labeller"](clip)
