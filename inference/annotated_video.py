"""A timeline drawn onto its video: boxes, points, numbers and scores, with the video's own times and sound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from mtcae_dfer.face_geometry import on_the_straight_way
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.video_reading import FrameStream, open_container, resize_frames

# Told apart by people who do not see red and green as two colours.
PERSON_COLOURS = ("#ff9f1c", "#2ec4f1", "#e15fed", "#ffe14d", "#4dd599", "#ff6b6b", "#a29bfe", "#c9ced3")
LONGEST_BRIDGE = 0.5  # seconds between two sampled frames across which a box is drawn in between
SHOWN_EXPRESSIONS = 3  # bars beside a box
CLOCK = 90_000  # ticks a second: holds the times of every usual frame rate, and of variable ones
# A label's cost is the share of it that lies on other labels, more on faces, and these for what is liked less.
FACE_COST, SHORT_COST, SIDE_COST, STAY_GAIN = 4.0, 0.1, 0.01, 0.1
HEADROOM = 0.4  # kept free around other people's faces where possible, as a share of the face's sides

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class Look:
    """How large an annotated video and its letters are."""

    least_side: int = 1  # pixels of the shorter side at least: smaller videos are enlarged before they are drawn on
    letters: float = 1 / 38  # height of the letters as a share of the shorter side


@dataclass(frozen=True)
class Shown:
    """What is drawn of one person in one frame."""

    track: int
    box: list[float] | None
    landmarks: list[list[float]] | None
    scores: dict[str, float] | None
    is_short: bool = False  # the scores rest on too little of a face


@dataclass(frozen=True)
class LabelText:
    """The rows of a label with their bars, and the room that it takes in pixels."""

    rows: tuple[str, ...]
    bars: tuple[float, ...]  # length of each row's bar as a share of the width; none where it is empty
    width: float
    height: float


def write_overlay(
    video: str, result: dict[str, Any], output: Path, progress: bool = True, look: Look | None = None
) -> Path:
    """Writes the upright video with boxes, points, track numbers and expression bars, its own times and its sound.

    The pictures are H.264 and the sound is AAC, in MP4; a side of an odd number of pixels loses one.

    Args:
        video: path of the file that the result is of.
        result: of the pipeline.
        output: written under a temporary name first; must not be the video itself.
        progress: show a bar on standard error.
        look: sizes; the video's own and small letters by default.

    Raises:
        ValueError: output and video are one file, or the output is no .mp4.
        VideoReadingError: the video cannot be read.
    """
    if output.suffix.lower() != ".mp4":
        raise ValueError(f"{output}: the annotated video is an MP4 file; give a name that ends in .mp4")
    if output.exists() and output.samefile(video):
        raise ValueError(f"{output} is the video itself: give the annotated video another name")
    frames = FrameStream(video)
    painter = Painter(result, look or Look())
    with replacing(output) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        width, height = painter.enlarged(frames.info.width, frames.info.height)
        rate = Fraction(frames.info.frame_rate).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate or 25)
        # H.264's usual pixel format stores colours for squares of 2 × 2 pixels.
        stream.width, stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        # On processors with AVX-512, libx264's macroblock tree reads memory that nobody wrote: bytes would differ from
        # call to call.
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
        sound = _Sound(video, container)
        for frame in tqdm(frames, "overlay", total=len(frames.times), unit="frame", disable=not progress):
            picture = painter.paint(frame.picture(), frame.time)
            picture = resize_frames(picture, (stream.height, stream.width))
            sound.write_until(frame.time, frame.stream_time)
            coded = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            coded.pts, coded.time_base = round(frame.time * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(coded))
        container.mux(stream.encode(None))
        sound.finish()
    return output


class _Sound:
    """The first sound track of a video, written alongside its pictures."""

    def __init__(self, video: str, output: Any) -> None:
        self.output = output
        self.stream: Any = None
        self.frames = self._decode(video)
        self.next_frame = next(self.frames, None)
        if self.next_frame is not None:
            rate = self.next_frame.sample_rate
            layout = "mono" if self.next_frame.layout.nb_channels == 1 else "stereo"
            self.stream = output.add_stream("aac", rate=rate if rate in (32000, 44100, 48000) else 48000, layout=layout)
            self.resampler = av.AudioResampler("fltp", layout, self.stream.rate)
        self.begin = 0.0

    @staticmethod
    def _decode(video: str) -> Iterator[Any]:
        with open_container(f"file:{Path(video).absolute()}") as container:
            if not container.streams.audio:
                return
            for packet in container.demux(container.streams.audio[0]):
                try:
                    yield from (frame for frame in packet.decode() if frame.pts is not None)
                except av.error.FFmpegError:
                    continue  # a damaged stretch of sound is no reason to lose the pictures

    def write_until(self, seconds: float, stream_time: float) -> None:
        """Writes the sound up to a picture, given the picture's time in the result and in its file."""
        self.begin = stream_time - seconds
        while self.next_frame is not None and self.next_frame.time <= stream_time:
            self._write(self.next_frame)
            self.next_frame = next(self.frames, None)

    def _write(self, frame: Any) -> None:
        # Sound before the first picture would have a negative time.
        if frame.time < self.begin - 1e-3:
            return
        frame.pts = round((frame.time - self.begin) / frame.time_base)
        for part in self.resampler.resample(frame):
            self.output.mux(self.stream.encode(part))

    def finish(self) -> None:
        """Writes what is left."""
        if self.stream is None:
            return
        while self.next_frame is not None:
            self._write(self.next_frame)
            self.next_frame = next(self.frames, None)
        for part in self.resampler.resample(None):
            self.output.mux(self.stream.encode(part))
        self.output.mux(self.stream.encode(None))


class Painter:
    """Draws a result onto the frames of its video, which come in their order: labels keep their side of a face.

    Args:
        result: of the pipeline.
        look: sizes.
    """

    def __init__(self, result: dict[str, Any], look: Look | None = None) -> None:
        import matplotlib

        look = look or Look()
        self.scale = max(1.0, look.least_side / min(result["width"], result["height"]))
        self.people = [_PersonOverTime(person, self.scale) for person in result["people"]]
        size = self.enlarged(result["width"], result["height"])
        self.line = max(1, round(min(size) / 270))
        # The font that comes with matplotlib: it knows more than ASCII, and is there on every machine.
        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        self.font = ImageFont.truetype(str(file), max(9, round(min(size) * look.letters)))
        self.places = LabelPlaces(size, 2 * self.line)
        # A frame may show somebody of whom the result does not tell (`--min-seconds`).
        self.nobody = "no face, or one seen too shortly" if result.get("left_out") else "no face found"

    def enlarged(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a frame when it is drawn on."""
        return round(width * self.scale), round(height * self.scale)

    def paint(self, picture: torch.Tensor, seconds: float) -> torch.Tensor:
        """uint8 (3, H, W) -> the same, enlarged by the scale, with what is known of that moment."""
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        image = image.resize(self.enlarged(*image.size), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(image, "RGBA")
        shown = [person for person in (each.at(seconds) for each in self.people) if person is not None]
        texts: dict[int, list[LabelText]] = {}
        boxes: dict[int, Box | None] = {}
        for person in shown:
            # In the order of preference: with bars of the highest scores, or short.
            best = sorted((person.scores or {}).items(), key=lambda entry: -entry[1])[:SHOWN_EXPRESSIONS]
            rows = [f"{name} {score:.0%}" for name, score in best]
            number = f"{person.track} (short)" if person.is_short else f"{person.track}"
            full = self._text(draw, [number, *rows], [0.0, *(score for _, score in best)])
            texts[person.track] = [full, self._text(draw, [" ".join([number, *rows[:1]])], [])]
            boxes[person.track] = None
            if person.box is not None:
                # A predicted box may have its edges the wrong way round.
                (left, right), (top, bottom) = sorted(person.box[::2]), sorted(person.box[1::2])
                boxes[person.track] = left, top, right, bottom
        for track, (text, corner) in self.places.choose(boxes, texts).items():
            self._paint_label(draw, corner, text, _colour(track))
        # Above the labels: where there is no room beside the faces, these stay visible.
        for person in shown:
            colour, box, radius = _colour(person.track), boxes[person.track], self.line + 0.5
            if box is not None:
                draw.rectangle(box, outline=colour, width=self.line)
            for x, y in person.landmarks or ():
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="black")
        if not any(person.box or person.landmarks or person.scores for person in shown):
            corner = (2.0 * self.line, 2.0 * self.line)
            self._paint_label(draw, corner, self._text(draw, [self.nobody], []), "#ffffff")
        # (H, W, 3) -> (3, H, W)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def _text(self, draw: Any, rows: list[str], bars: list[float]) -> LabelText:
        width = max(draw.textlength(row, font=self.font) for row in rows) + 4 * self.line
        return LabelText(tuple(rows), tuple(bars), width, len(rows) * 1.25 * self.font.size)

    def _paint_label(self, draw: Any, corner: tuple[float, float], text: LabelText, colour: str) -> None:
        """A number or a sentence, and below it the bars of the highest scores."""
        (x, y), row_height = corner, text.height / len(text.rows)
        draw.rectangle((x, y, x + text.width, y + text.height), fill=(0, 0, 0, 120))
        for row, share in enumerate(text.bars):
            if share > 0:
                bar = (x, y + row * row_height, x + text.width * share, y + (row + 1) * row_height - 1)
                draw.rectangle(bar, fill=colour + "90")
        for row, line in enumerate(text.rows):
            fill = colour if row == 0 else "white"
            draw.text((x + 2 * self.line, y + row * row_height), line, fill=fill, font=self.font)


def _colour(track: int) -> str:
    return PERSON_COLOURS[(track - 1) % len(PERSON_COLOURS)]


class LabelPlaces:
    """Chooses where labels stand: beside their box, on nobody's face and on no other label where there is room."""

    def __init__(self, size: tuple[int, int], gap: float) -> None:
        self.size, self.gap = size, gap  # (width, height) of the frame, and pixels between box and label
        self.last: dict[int, tuple[int, int]] = {}  # track -> text and place chosen for the frame before

    def choose(
        self, boxes: Mapping[int, Box | None], texts: Mapping[int, Sequence[LabelText]]
    ) -> dict[int, tuple[LabelText, tuple[float, float]]]:
        """Chooses for one frame.

        Args:
            boxes: track -> face in pixels, or None where only the person's scores are known.
            texts: track -> what may be written there, the preferred one first.

        Returns:
            Track -> the text, and the upper left corner of its place.
        """
        chosen, taken = {}, np.zeros((0, 4))
        for track, box in boxes.items():
            others = [face for other, face in boxes.items() if other != track and face is not None]
            faces = np.array([*others, *([] if box is None else [box])], float).reshape(-1, 4)
            # Within the room around a face a label would be taken for its own.
            sides = faces[: len(others), 2:] - faces[: len(others), :2]
            faces[: len(others)] += HEADROOM * np.concatenate([-sides, sides], axis=1)
            best = min(self._candidates(track, box, texts[track], faces, taken), key=lambda candidate: candidate[0])
            _, self.last[track], text, place = best
            chosen[track] = (text, place[:2])
            taken = np.concatenate([taken, [place]])
        return chosen

    def _candidates(
        self, track: int, box: Box | None, texts: Sequence[LabelText], faces: np.ndarray, taken: np.ndarray
    ) -> Iterator[tuple[float, tuple[int, int], LabelText, Box]]:
        """(cost, (text, place) for `last`, text, place (x1, y1, x2, y2))."""
        for shortness, text in enumerate(texts):
            corners = [(self.gap, self.gap)]  # upper left ones, in the order of preference
            if box is not None:
                x1, y1, x2, y2 = box
                right, left = x2 + self.gap, x1 - self.gap - text.width
                above, below = y1 - self.gap - text.height, y2 + self.gap
                corners = [(right, y1), (left, y1), (x1, above), (x1, below)]
                corners += [(x2 - text.width, above), (x2 - text.width, below)]
                corners += [(right, y2 - text.height), (left, y2 - text.height), (right, above), (left, above)]
            for side, (x, y) in enumerate(corners):
                x = max(0.0, min(x, self.size[0] - text.width))
                y = max(0.0, min(y, self.size[1] - text.height))
                place = (x, y, x + text.width, y + text.height)
                covered = FACE_COST * _covered(faces, place) + _covered(taken, place)
                cost = covered / (texts[0].width * texts[0].height) + SHORT_COST * shortness + SIDE_COST * side
                # Labels that jump from frame to frame cannot be read.
                choice = (shortness, side)
                yield cost - (STAY_GAIN if self.last.get(track) == choice else 0.0), choice, text, place


def _covered(others: np.ndarray, place: Box) -> float:
    """Pixels of a place that lie on other boxes (N, 4)."""
    width = np.minimum(others[:, 2], place[2]) - np.maximum(others[:, 0], place[0])
    height = np.minimum(others[:, 3], place[3]) - np.maximum(others[:, 1], place[1])
    return float((width.clip(0) * height.clip(0)).sum())


class _PersonOverTime:
    """Looks up where a person is, and with what expression, at any time."""

    def __init__(self, person: dict[str, Any], scale: float) -> None:
        self.person = person
        sampled = {frame["time"]: frame for window in person["windows"] for frame in window["frames"]}
        self.frames: list[dict[str, Any]] = []  # with box and points in pixels of the enlarged picture
        for seconds, frame in sorted(sampled.items()):
            places = {name: frame[name] and (np.array(frame[name]) * scale).tolist() for name in ("box", "landmarks")}
            self.frames.append({"time": seconds, **places})
        self.times = np.array([frame["time"] for frame in self.frames])
        self.has_places = any(frame["box"] or frame["landmarks"] for frame in self.frames)
        self.starts = np.array([window["start"] for window in person["windows"]])

    def at(self, seconds: float) -> Shown | None:
        """What to draw; None outside of the person's time in view, and while the face is lost."""
        if not self.person["start"] - 1e-3 <= seconds <= self.person["end"] + 1e-3:
            return None
        position = int(np.searchsorted(self.starts, seconds + 1e-3, side="right")) - 1
        window = self.person["windows"][position] if position >= 0 else None
        box, landmarks = self._place(seconds)
        if self.has_places and box is None and landmarks is None:
            return None
        scores, is_short = (window["scores"], window.get("short", False)) if window else (None, False)
        return Shown(self.person["track"], box, landmarks, scores, is_short)

    def _place(self, seconds: float) -> tuple[Any, Any]:
        """Box and points, between two sampled frames on the straight way from one to the other."""
        if not self.frames:
            return None, None
        after = int(np.searchsorted(self.times, seconds))
        before, after = max(after - 1, 0), min(after, len(self.frames) - 1)
        first, second = self.frames[before], self.frames[after]
        gap = second["time"] - first["time"]
        if gap > LONGEST_BRIDGE or not first["time"] - 0.1 <= seconds <= second["time"] + 0.1:
            nearest = min((first, second), key=lambda frame: abs(frame["time"] - seconds))
            return (nearest["box"], nearest["landmarks"]) if abs(nearest["time"] - seconds) <= 0.05 else (None, None)
        share = min(max((seconds - first["time"]) / gap, 0.0), 1.0) if gap else 0.0
        pairs = [(first[name], second[name]) for name in ("box", "landmarks")]
        box, landmarks = (
            None if None in (one, other) else on_the_straight_way(np.array(one), np.array(other), share).tolist()
            for one, other in pairs
        )
        return box, landmarks
