"""Faces in the frames of a clip: MTCNN's three networks over all frames at once, one face chosen per frame.

The networks and their weights are facenet-pytorch's. The cascade around them is written for short clips:

    frames (T, 3, H, W) ─► running pixel sums ─► pyramid ─► PNet ─► 24×24 crops ─► RNet ─► 48×48 crops ─► ONet
                            (T, H+1, W+1, 3)     8 rungs    boxes                  boxes                  boxes, points

Every area average that the cascade needs (the pyramid and all crops) is four look-ups in one table of running sums, and
the networks run in channels-last memory format. The pyramid's rungs are those of facenet-pytorch's defaults, so a face
is seen alike; rungs for faces smaller than `min_face` are looked at only in frames where no face is found for sure.

Most of the reference's time goes into looking at one face many times: ten windows per face reach RNet and four ONet,
whose most confident answer is kept. The first search keeps a face's best window only, by stricter limits of overlap;
the search with the complete pyramid has the reference's limits and finds its very boxes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import floor, log

import numpy as np
import torch
from torchvision.ops import batched_nms

from .face_geometry import (
    best_pairs,
    box_intersection_over_union,
    boxes_from_pixels,
    boxes_to_pixels,
    points_from_pixels,
)

FACE_POLICIES = ("track", "largest", "central")

# What a model learns from unless a data set is built otherwise: frames of this height and width, and the side in pixels
# of the smallest face that is looked for first.
LABELLED_SIZE, LABELLED_MIN_FACE = (224, 224), 56.0

# facenet-pytorch's defaults: the smallest face of its pyramid in pixels, the step between two rungs of the pyramid, and
# the probabilities that a candidate must reach in the three stages.
REFERENCE_MIN_FACE = 20.0
PYRAMID_STEP = 0.709
STAGE_THRESHOLDS = (0.6, 0.7, 0.7)
# Overlap (intersection over union) above which the less probable of two windows is dropped before RNet and before ONet:
# facenet-pytorch's, and those of the first search, chosen by agreement with facenet-pytorch and with drawn truth.
REFERENCE_OVERLAPS = (0.7, 0.7)
FIRST_OVERLAPS = (0.3, 0.5)

SURE_CONFIDENCE = 0.9  # frames without a face of this confidence are looked at again with the complete pyramid
TRACK_MIN_OVERLAP = 0.3  # two boxes of one track overlap at least this much (intersection over union)
FRAMES_AT_ONCE = 32  # bounds the memory of long clips
# Crop pixels that the networks see at once: on a CPU as many as leave the layers' outputs in its cache.
CROP_PIXELS_AT_ONCE = {"cpu": 8 * 48 * 48}
CROP_PIXELS_AT_ONCE_ELSEWHERE = 1024 * 48 * 48

_CELL = 12  # PNet sees windows of 12×12 pixels, two pixels apart
_CELL_STRIDE = 2


@dataclass
class FaceDetections:
    """One face per frame. Coordinates are divided by the frame's width and height and lie in [0, 1]."""

    boxes: torch.Tensor  # float32 (T, 4): x1, y1, x2, y2; NaN where no face is found
    landmarks: torch.Tensor  # float32 (T, 5, 2): viewer's left eye, right eye, nose, mouth corners; NaN where none
    confidence: torch.Tensor  # float32 (T,): probability that this is a face; 0 where none
    face_found: torch.Tensor  # bool (T,)
    face_count: torch.Tensor  # int64 (T,): all faces of the frame, the chosen one among them


@dataclass
class _Faces:
    """N faces of a stack of frames, in pixels."""

    frame_index: torch.Tensor  # int64 (N,)
    boxes: torch.Tensor  # float32 (N, 4)
    confidence: torch.Tensor  # float32 (N,)
    landmarks: torch.Tensor  # float32 (N, 5, 2)

    def __getitem__(self, selection: torch.Tensor) -> "_Faces":
        return _Faces(*(getattr(self, field.name)[selection] for field in fields(self)))


class FaceDetector:
    """MTCNN for the frames of a clip.

    Args:
        device: where the networks run.
        min_face: side of the smallest face to look for first, in pixels of the given frames. The default suits frames
            of 224×224 pixels with one person in them. A frame in which no face of confidence 0.9 is found is searched
            again for faces from 20 pixels on (`search_small_faces`). With 20 there is one search, as facenet-pytorch's.
        policy: which face of a frame is returned. "track": boxes are linked over the frames, and the linked face seen
            in most frames is taken (the larger one among equals); "largest": the largest of each frame; "central": the
            one closest to the centre of each frame. The other faces are counted in `face_count`.
        search_small_faces: whether to search again with the complete pyramid.

    Raises:
        ImportError: facenet-pytorch is not installed.
        ValueError: `min_face` or `policy` is out of range.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        min_face: float = LABELLED_MIN_FACE,
        policy: str = "track",
        search_small_faces: bool = True,
    ):
        if policy not in FACE_POLICIES:
            raise ValueError(f"policy={policy!r} must be one of {', '.join(FACE_POLICIES)}")
        if not min_face >= _CELL:
            raise ValueError(f"min_face={min_face} must be at least {_CELL} pixels")
        self.device = torch.device(device)
        self.min_face = float(min_face)
        self.policy = policy
        self.search_small_faces = search_small_faces
        self._overlaps = FIRST_OVERLAPS if self.min_face > REFERENCE_MIN_FACE else REFERENCE_OVERLAPS
        self._cascade = _Cascade(self.device)

    def detect(self, frames: torch.Tensor) -> FaceDetections:
        """Finds one face in each frame of a clip.

        Args:
            frames: uint8 (T, 3, H, W), RGB, consecutive samples of one clip.

        Returns:
            Detections of the T frames, on the CPU.

        Raises:
            ValueError: `frames` has another shape or type.
        """
        _check_frames(frames)
        faces, count, width, height = self._find_all(frames), len(frames), frames.shape[-1], frames.shape[-2]
        chosen = _choose_faces(faces, count, self.policy, width, height)
        indices, at = list(chosen.values()), list(chosen.keys())
        detections = FaceDetections(
            boxes=torch.full((count, 4), torch.nan),
            landmarks=torch.full((count, 5, 2), torch.nan),
            confidence=torch.zeros(count),
            face_found=torch.zeros(count, dtype=torch.bool),
            face_count=torch.bincount(faces.frame_index, minlength=count),
        )
        detections.boxes[at] = boxes_from_pixels(faces.boxes[indices], width, height).clamp(0, 1)
        detections.landmarks[at] = points_from_pixels(faces.landmarks[indices], width, height).clamp(0, 1)
        detections.confidence[at] = faces.confidence[indices]
        detections.face_found[at] = True
        return detections

    def detect_all(self, frames: torch.Tensor) -> list[FaceDetections]:
        """Finds all faces in each frame of a clip.

        Args:
            frames: uint8 (T, 3, H, W), RGB.

        Returns:
            For each of the T frames its N faces, sorted by falling confidence: the axis T of `FaceDetections` then
            counts the faces of the one frame. N may be 0.

        Raises:
            ValueError: `frames` has another shape or type.
        """
        _check_frames(frames)
        faces, width, height = self._find_all(frames), frames.shape[-1], frames.shape[-2]
        return [_all_of_frame(faces[faces.frame_index == frame], width, height) for frame in range(len(frames))]

    @torch.inference_mode()
    def follow(self, frames: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[FaceDetections]:
        """Finds the faces near the places where they are expected, without searching the rest of the frames.

        Args:
            frames: uint8 (T, 3, H, W), RGB.
            boxes: for each of the T frames the expected faces, float32 (N, 4), x1, y1, x2, y2 in [0, 1]; N may be 0.

        Returns:
            As `detect_all`; an expected face that is not there is missing.

        Raises:
            ValueError: `frames` has another shape or type, or `boxes` another length.
        """
        _check_frames(frames)
        if len(boxes) != len(frames):
            raise ValueError(f"expected faces for {len(boxes)} frames, but {len(frames)} frames")
        height, width = frames.shape[-2:]
        frame_index = torch.repeat_interleave(torch.tensor([len(part) for part in boxes], dtype=torch.long))
        expected = boxes_to_pixels(torch.cat([*boxes, torch.zeros(0, 4)]), width, height)
        sums, squares = _PixelSums(frames.to(self.device)), _square(expected.to(self.device))
        faces = self._cascade.sort_out(sums, frame_index.to(self.device), squares, self._overlaps[1])
        return [_all_of_frame(faces[faces.frame_index == frame], width, height) for frame in range(len(frames))]

    @torch.inference_mode()
    def _find_all(self, frames: torch.Tensor) -> _Faces:
        """All faces of all frames; frames without a sure face are searched with the complete pyramid."""
        parts = [_Faces(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 5, 2))]
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            stack = frames[start : start + FRAMES_AT_ONCE].to(self.device)
            faces = self._cascade.find(stack, self.min_face, self._overlaps)
            sure = torch.zeros(len(stack), dtype=torch.bool)
            sure[faces.frame_index[faces.confidence >= SURE_CONFIDENCE]] = True
            unsure = (~sure).nonzero()[:, 0]
            if self.search_small_faces and self.min_face > REFERENCE_MIN_FACE and len(unsure) > 0:
                again = self._cascade.find(stack[unsure.to(stack.device)], REFERENCE_MIN_FACE, REFERENCE_OVERLAPS)
                again.frame_index = unsure[again.frame_index]
                faces = _join([faces[sure[faces.frame_index]], again])
            faces.frame_index = faces.frame_index + start
            parts.append(faces)
        return _join(parts)


class _Cascade:
    """PNet proposes boxes, RNet sorts them out, ONet finishes them and adds the points."""

    def __init__(self, device: torch.device):
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise ImportError(
                "Finding faces needs facenet-pytorch, which is not installed: pip install facenet-pytorch==2.5.3"
            ) from error
        detector = MTCNN()
        self.device = device
        self.proposal, self.refinement, self.output = (
            network.to(device=device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
            for network in (detector.pnet, detector.rnet, detector.onet)
        )

    def find(self, frames: torch.Tensor, min_face: float, overlaps: tuple[float, float]) -> _Faces:
        """Faces of frames uint8 (T, 3, H, W); on the CPU, sorted by frame and falling confidence.

        `overlaps` are the limits before RNet and before ONet.
        """
        sums = _PixelSums(frames)
        frame_index, boxes = self._propose(sums, min_face, overlaps[0])
        return self.sort_out(sums, frame_index, boxes, overlaps[1])

    def sort_out(self, sums: "_PixelSums", frame_index: torch.Tensor, boxes: torch.Tensor, overlap: float) -> _Faces:
        """Second and third stage: the faces among square candidates (N, 4) of the frames `frame_index` (N,)."""
        # RNet: the candidates that it takes for faces, their boxes moved and made square again.
        frame_index, boxes, crops = _cut(sums, frame_index, boxes, 24)
        offsets, probability = _run_in_chunks(self.refinement, crops, (4, 2))
        passed = (probability[:, 1] > STAGE_THRESHOLDS[1]).nonzero()[:, 0]
        kept = passed[batched_nms(boxes[passed], probability[passed, 1], frame_index[passed], overlap)]
        # ONet: final boxes, probabilities and points.
        frame_index, boxes, crops = _cut(sums, frame_index[kept], _square(_move(boxes[kept], offsets[kept])), 48)
        offsets, points, probability = _run_in_chunks(self.output, crops, (4, 10, 2))
        passed = (probability[:, 1] > STAGE_THRESHOLDS[2]).nonzero()[:, 0]
        boxes, points = boxes[passed], points[passed]
        # (N, 10): five x, then five y, as shares of the box -> (N, 5, 2) pixels
        landmarks = points.view(-1, 2, 5).transpose(1, 2)
        landmarks = landmarks * (boxes[:, None, 2:] - boxes[:, None, :2] + 1) + boxes[:, None, :2] - 1
        faces = _Faces(
            frame_index[passed].cpu(),
            _move(boxes, offsets[passed]).cpu(),
            probability[passed, 1].cpu(),
            landmarks.cpu(),
        )
        return faces[_suppress_nested(faces, 0.7)]

    def _propose(self, sums: "_PixelSums", min_face: float, overlap: float) -> tuple[torch.Tensor, torch.Tensor]:
        """First stage: frame index (N,) and square boxes (N, 4) of candidates."""
        device = self.device
        frame_index = [torch.zeros(0, dtype=torch.long, device=device)]  # a tiny frame has no rungs at all
        boxes, scores, offsets = ([torch.zeros(0, *width, device=device)] for width in ((4,), (), (4,)))
        for scale in _pyramid_scales(sums.height, sums.width, min_face):
            pictures = sums.resized(int(sums.height * scale + 1), int(sums.width * scale + 1))
            regression, probability = self.proposal(pictures)  # (T, 4, h, w), (T, 2, h, w)
            probability = probability[:, 1]
            frame, row, column = (probability >= STAGE_THRESHOLDS[0]).nonzero(as_tuple=True)
            score = probability[frame, row, column]
            corner = torch.stack([column, row], dim=1).float() * _CELL_STRIDE
            window = torch.cat([((corner + 1) / scale).floor(), ((corner + _CELL) / scale).floor()], dim=1)
            kept = batched_nms(window, score, frame, 0.5)
            frame_index.append(frame[kept])
            boxes.append(window[kept])
            scores.append(score[kept])
            offsets.append(regression[frame, :, row, column][kept])
        frames, windows = torch.cat(frame_index), torch.cat(boxes)
        kept = batched_nms(windows, torch.cat(scores), frames, overlap)
        return frames[kept], _square(_move(windows[kept], torch.cat(offsets)[kept], inclusive=False))


class _PixelSums:
    """Running sums over rows and columns of a stack of frames, from which any area average is four look-ups.

    The table holds the part of the frames that was asked for so far: the whole frames for the pyramid, and no more than
    the surroundings of the faces where they are followed.

    Args:
        frames: uint8 (T, 3, H, W).
    """

    def __init__(self, frames: torch.Tensor):
        self.frames = frames.permute(0, 2, 3, 1)  # (T, H, W, 3)
        self.height, self.width = frames.shape[-2:]
        self.left, self.top, self.right, self.bottom = 0, 0, 0, 0  # pixels of the table's part, the last two exclusive
        self.table = torch.zeros(len(frames), 1, 1, 3, dtype=torch.int32, device=frames.device)

    def resized(self, height: int, width: int) -> torch.Tensor:
        """All frames, area-averaged to (T, 3, height, width) and scaled for the networks; channels last."""
        self._cover(0, 0, self.width, self.height)
        size = torch.tensor([self.height, self.width], device=self.table.device)[:, None]  # (2, 1)
        top, bottom = (pixels[0] for pixels in _bins(torch.zeros_like(size[0]), size[0], height))
        left, right = (pixels[0] for pixels in _bins(torch.zeros_like(size[1]), size[1], width))
        sums = self.table.new_empty(len(self.table), height, width, 3)
        for table, picture in zip(self.table, sums, strict=True):  # what is read of one frame fits a CPU's cache
            rows = table.index_select(0, bottom).sub_(table.index_select(0, top))  # (h, W+1, 3)
            torch.sub(rows.index_select(1, right), rows.index_select(1, left), out=picture)
        return _network_input(sums, (bottom - top)[:, None] * (right - left))

    def crops(self, frame_index: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """Crops (N, 3, size, size), area-averaged from whole-pixel boxes `corners` (N, 4), x2 and y2 exclusive."""
        if len(corners) > 0:
            self._cover(*corners[:, :2].amin(dim=0).tolist(), *corners[:, 2:].amax(dim=0).tolist())
        left, right = _bins(corners[:, 0] - self.left, corners[:, 2] - self.left, size)
        top, bottom = _bins(corners[:, 1] - self.top, corners[:, 3] - self.top, size)
        _, row_count, column_count, channels = self.table.shape
        pixels = self.table.view(-1, channels)  # (T * (h+1) * (w+1), 3)
        rows = frame_index[:, None] * row_count
        top_row, bottom_row = (rows + top) * column_count, (rows + bottom) * column_count

        def look_up(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            return pixels.index_select(0, (row[:, :, None] + column[:, None, :]).view(-1))

        sums = look_up(bottom_row, right)
        sums.sub_(look_up(top_row, right)).sub_(look_up(bottom_row, left)).add_(look_up(top_row, left))
        area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        return _network_input(sums.view(len(corners), size, size, channels), area)

    def _cover(self, left: int, top: int, right: int, bottom: int) -> None:
        """Makes the table of a part of the frames, with room for boxes that move, where it does not hold it yet."""
        if self.left <= left and self.top <= top and right <= self.right and bottom <= self.bottom:
            return
        room = max(right - left, bottom - top) // 4
        self.left, self.top = max(0, left - room), max(0, top - room)
        self.right, self.bottom = min(self.width, right + room), min(self.height, bottom + room)
        part = self.frames[:, self.top : self.bottom, self.left : self.right]
        self.table = _running_sums(part)


def _running_sums(pictures: torch.Tensor) -> torch.Tensor:
    """Sums over all pixels above and to the left, int32 (T, h+1, w+1, 3), of pictures uint8 (T, h, w, 3).

    Whole numbers: every area average comes out exact, whatever the order of the sums (and a table that runs over 2^31
    still gives the right differences).
    """
    count, height, width, channels = pictures.shape
    table = torch.empty(count, height + 1, width + 1, channels, dtype=torch.int32, device=pictures.device)
    table[:, 0] = 0
    table[:, :, 0] = 0
    if table.device.type != "cpu":
        torch.cumsum(pictures, dim=2, dtype=torch.int32, out=table[:, 1:, 1:])
        return table.cumsum_(dim=1)
    # On a processor torch.cumsum goes down one column after the other, through memory in leaps: seven times the time.
    for sums, picture in zip(table.numpy(), pictures.numpy(), strict=True):
        np.cumsum(picture, axis=1, dtype=np.int32, out=sums[1:, 1:])
        for above, row in pairwise(sums.reshape(height + 1, -1)):  # (h+1, (w+1) * 3)
            np.add(row, above, out=row)
    return table


def _check_frames(frames: torch.Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 (T, 3, H, W), got {frames.dtype} {tuple(frames.shape)}")


def _pyramid_scales(height: int, width: int, min_face: float) -> Iterator[float]:
    """Scales of the pyramid: the rungs of facenet-pytorch's default, from the one that fits `min_face` on.

    The 1 % of tolerance lets min_face=56 mean the rung of 56.1 pixels.
    """
    rung = floor(log(min_face * 1.01 / REFERENCE_MIN_FACE) / -log(PYRAMID_STEP))
    scale = _CELL / REFERENCE_MIN_FACE * PYRAMID_STEP**rung
    while min(height, width) * scale >= _CELL:
        yield scale
        scale *= PYRAMID_STEP


def _bins(start: torch.Tensor, end: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First pixel and end pixel, (N, count) each, of `count` even bins over N stretches of pixels [start, end).

    Broken pixels count as whole.
    """
    step = torch.arange(count + 1, device=start.device) * (end - start)[:, None]
    return start[:, None] + step[:, :-1] // count, start[:, None] + (step[:, 1:] + count - 1) // count


def _network_input(sums: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Sums (N, h, w, 3) over areas (h, w) or (N, h, w) -> averages scaled to about [-1, 1], (N, 3, h, w)."""
    return sums.float().div_(area[..., None]).sub_(127.5).div_(128).permute(0, 3, 1, 2)


def _cut(
    sums: _PixelSums, frame_index: torch.Tensor, boxes: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crops of the boxes' visible parts; boxes without one are dropped.

    MTCNN's boxes count pixels from 1 and include the last one: pixels x1 - 1 to x2 in the usual count.
    """
    corners = boxes.trunc().long()
    corners[:, :2] = corners[:, :2].clamp(min=1) - 1
    corners[:, 2].clamp_(max=sums.width)
    corners[:, 3].clamp_(max=sums.height)
    visible = (corners[:, 2:] > corners[:, :2]).all(dim=1).nonzero()[:, 0]
    frame_index, boxes = frame_index[visible], boxes[visible]
    return frame_index, boxes, sums.crops(frame_index, corners[visible], size)


def _run_in_chunks(
    network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], crops: torch.Tensor, widths: tuple[int, ...]
) -> list[torch.Tensor]:
    """Runs a network whose outputs are (N, width) over crops (N, 3, h, w), N may be 0."""
    if len(crops) == 0:
        return [crops.new_zeros(0, width) for width in widths]
    pixels = CROP_PIXELS_AT_ONCE.get(crops.device.type, CROP_PIXELS_AT_ONCE_ELSEWHERE)
    chunks = crops.split(max(1, pixels // (crops.shape[-1] * crops.shape[-2])))
    return [torch.cat(parts) for parts in zip(*(network(chunk) for chunk in chunks), strict=True)]


def _move(boxes: torch.Tensor, offsets: torch.Tensor, inclusive: bool = True) -> torch.Tensor:
    """Moves the edges of boxes (N, 4) by offsets (N, 4) given as shares of their width and height."""
    extent = boxes[:, 2:] - boxes[:, :2] + (1 if inclusive else 0)
    return boxes + offsets * extent.repeat(1, 2)


def _square(boxes: torch.Tensor) -> torch.Tensor:
    """The squares of the longer side around the centres of boxes (N, 4)."""
    extent = boxes[:, 2:] - boxes[:, :2]
    side = extent.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + extent * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)


def _suppress_nested(faces: _Faces, threshold: float) -> torch.Tensor:
    """Indices of the faces that stay when each one removes those of lower confidence that it covers.

    Overlap is measured against the smaller box, so that a box within another one goes too. The rest is sorted by frame
    and falling confidence.
    """
    order = torch.argsort(faces.confidence, descending=True, stable=True)
    order = order[torch.argsort(faces.frame_index[order], stable=True)]
    boxes, frame = faces.boxes[order], faces.frame_index[order]
    extent = boxes[:, 2:] - boxes[:, :2] + 1
    shared = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - torch.maximum(
        boxes[:, None, :2], boxes[None, :, :2]
    )
    shared = (shared + 1).clamp(min=0).prod(dim=-1)  # (N, N)
    smaller = torch.minimum(extent.prod(dim=1)[:, None], extent.prod(dim=1)[None, :])
    covers = ((shared > threshold * smaller) & (frame[:, None] == frame[None, :])).tolist()
    kept: list[int] = []
    for candidate in range(len(order)):
        if not any(covers[stronger][candidate] for stronger in kept):
            kept.append(candidate)
    return order[torch.tensor(kept, dtype=torch.long)]


def _join(parts: list[_Faces]) -> _Faces:
    return _Faces(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(_Faces)))


def _choose_faces(faces: _Faces, frame_count: int, policy: str, width: int, height: int) -> dict[int, int]:
    """Index of the chosen face by frame; frames without one are left out."""
    area = (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(dim=1)
    if policy == "track":
        # The track that covers most frames, the one of larger mean area among equals.
        tracks = _link_tracks(faces, frame_count)
        return max(tracks, key=lambda track: (len(track), float(area[list(track.values())].mean())), default={})
    if policy == "largest":
        merit = area
    else:
        centre = (faces.boxes[:, 2:] + faces.boxes[:, :2]) / 2
        merit = -(centre - torch.tensor([width / 2, height / 2])).square().sum(dim=1)
    chosen: dict[int, int] = {}
    for face in torch.argsort(merit, stable=True).tolist():
        chosen[int(faces.frame_index[face])] = face
    return chosen


def _link_tracks(faces: _Faces, frame_count: int) -> list[dict[int, int]]:
    """Links faces over the frames: each track is a face's index by frame.

    In each frame the pairs of a track's last box and a face are taken in the order of falling overlap; faces that are
    left over begin tracks of their own. A track may pause for any number of frames.
    """
    tracks: list[dict[int, int]] = []
    for frame in range(frame_count):
        found = (faces.frame_index == frame).nonzero()[:, 0].tolist()
        last = [list(track.values())[-1] for track in tracks]
        overlap = box_intersection_over_union(faces.boxes[last][:, None], faces.boxes[found][None])  # (tracks, found)
        pairs = best_pairs(overlap.masked_fill(overlap < TRACK_MIN_OVERLAP, -torch.inf).numpy())
        for track, face in pairs:
            tracks[track][frame] = found[face]
        linked = {face for _, face in pairs}
        tracks.extend({frame: face_index} for face, face_index in enumerate(found) if face not in linked)
    return tracks


def _all_of_frame(faces: _Faces, width: int, height: int) -> FaceDetections:
    """All N faces of one frame, normalised and clipped to the frame."""
    count = len(faces.boxes)
    order = torch.argsort(faces.confidence, descending=True, stable=True)
    return FaceDetections(
        boxes=boxes_from_pixels(faces.boxes[order], width, height).clamp(0, 1),
        landmarks=points_from_pixels(faces.landmarks[order], width, height).clamp(0, 1),
        confidence=faces.confidence[order],
        face_found=torch.ones(count, dtype=torch.bool),
        face_count=torch.full((count,), count),
    )
