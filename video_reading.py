"""Reading a video file: probe it, sample it, decode it, resize it — and nothing else.

Everything that turns a file into frames goes through `read_clip`: labelling, training and prediction therefore see the
very same pictures. One pass over the packets counts the frames (container headers are not trusted: FLV and Matroska say
0), a second, streaming pass decodes up to the last wanted frame and converts only the wanted ones to RGB. Of H.264, it
passes over the packets that no wanted frame depends on, where it is certain that this changes nothing.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer, Type
from av.stream import Disposition
from av.video.stream import VideoStream
from torchvision.transforms.v2 import functional as transforms

from .git_lfs import GIT_LFS_HEAD
from .video_packets import FrameClock, PacketCount, Packets, announced_index, count_packets

VideoSource = str | os.PathLike | bytes | BinaryIO | Mapping[str, Any]

NOT_FETCHED = "is a Git LFS pointer, not the video itself: run `git lfs pull`"
LAST_SIDE_DATA = 127  # far beyond the kinds of side data that FFmpeg 8 has


class VideoReadingError(ValueError):
    """A video cannot be read. The message is one line for the user: what is wrong, with which file, what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video stream without reading all of its pictures."""

    name: str  # path as given, "<bytes>", or the file object's name ("<file object>" where it has none)
    width: int  # pixels, after rotation
    height: int  # pixels, after rotation
    rotation: int  # degrees clockwise (0, 90, 180, 270) by which the stored pictures are turned to stand upright
    frame_count: int  # frames for display, counted by demuxing packets
    duration: float  # seconds, from the first frame's begin to the last frame's end
    frame_rate: float  # frames per second, averaged over the stream


@dataclass(frozen=True)
class SampledClip:
    """The sampled frames of one video."""

    frames: torch.Tensor  # uint8 (T, 3, H, W), RGB
    frame_indices: list[int]  # T indices of the frames in display order, sorted; a short video repeats some
    timestamps: list[float]  # T times in seconds, relative to the video's first frame
    info: VideoInfo  # of the whole video; of a damaged one, frame_count counts the frames that decode
    warning: str | None  # one line where only a part of the video could be read, else None


def probe_video(source: VideoSource) -> VideoInfo:
    """Describe a video: demux all its packets, decode its first frame.

    Args:
        source: path (str or path-like), the file's bytes, a binary file object (read from its beginning), or a row's
            video as `datasets` gives it undecoded, {"bytes", "path"}.

    Raises:
        VideoReadingError: the source is no readable video; the message says why, in one line.
        TypeError: the source is none of the above.
    """
    video = _ReopenableVideo.from_source(source)
    return _describe_first_frame(video, _count_packets(video))


def uniform_frame_indices(frame_count: int, num_frames: int) -> list[int]:
    """Spread `num_frames` indices evenly over a clip, first and last frame included.

    Index i is i * (frame_count - 1) / (num_frames - 1), rounded, halves upwards. A clip shorter than `num_frames`
    repeats frames. A single frame is taken from the middle.

    Args:
        frame_count: number of frames in the clip, at least 1.
        num_frames: number of indices wanted, at least 1.

    Returns:
        Sorted list of `num_frames` indices in [0, frame_count - 1].

    Raises:
        ValueError: one of the numbers is below 1.
    """
    if frame_count < 1 or num_frames < 1:
        raise ValueError(f"frame_count={frame_count} and num_frames={num_frames} must both be at least 1")
    if num_frames == 1:
        return [(frame_count - 1) // 2]
    last, gaps = frame_count - 1, num_frames - 1
    # Integer arithmetic, floor(position * last / gaps + 1/2): halves fall the same way on every machine.
    return [(2 * position * last + gaps) // (2 * gaps) for position in range(num_frames)]


def read_clip(
    source: VideoSource,
    num_frames: int = 16,
    size: tuple[int, int] | None = None,
    frame_indices: Sequence[int] | None = None,
) -> SampledClip:
    """Sample a video's frames, as upright RGB pictures.

    Memory is bounded by the sampled frames: each is resized as soon as it is decoded, and all others are dropped.

    Args:
        source: path (str or path-like), the file's bytes, a binary file object (read from its beginning; one that
            cannot seek is first read into memory, compressed as it is), or a row's video as `datasets` gives it
            undecoded, {"bytes", "path"}: the path is read where there are no bytes.
        num_frames: number of frames to spread over the whole video (see `uniform_frame_indices`).
        size: (height, width) of the result in pixels; None keeps the video's own size.
        frame_indices: exact frames to take instead (display order, repeats allowed, returned sorted); `num_frames` is
            then not used.

    Returns:
        The sampled clip. Where a damaged video yields fewer frames than it promises, sampling is spread over the frames
        that do decode, and `warning` says so.

    Raises:
        VideoReadingError: the source is no readable video, no frame decodes, or one of `frame_indices` does not exist
            or does not decode; the message says so in one line.
        TypeError: the source is none of the above.
        ValueError: `frame_indices` is empty, or `num_frames` is below 1.
    """
    video = _ReopenableVideo.from_source(source)
    packets = _count_packets(video)
    wanted = _wanted_indices(video, packets, num_frames, frame_indices)
    # The packets that the wanted frames need; all up to the last one where that is not known or goes wrong.
    needed = packets.dependencies.packets_for(wanted)
    reading = None if needed is None else _decode_frames(video, packets, wanted, size, needed=needed)
    if reading is None or not reading.is_complete(wanted):
        reading = _decode_frames(video, packets, wanted, size)
    readable = packets.frame_count
    if not reading.is_complete(wanted):
        reading = _decode_frames(video, packets, wanted, size, to_the_end=True)
        readable = reading.frame_count
        if readable > 0 and frame_indices is None:
            wanted = uniform_frame_indices(readable, len(wanted))
        elif readable > 0:
            _check_indices_exist(video, wanted, readable)
        if not reading.pictures.keys() >= set(wanted):
            reading = _decode_frames(video, packets, wanted, size, to_the_end=True)
    if reading.info is None:
        raise VideoReadingError(_no_frame_message(video, packets))
    return SampledClip(
        # T × (3, H, W) -> (T, 3, H, W)
        frames=torch.stack([reading.pictures[index] for index in wanted]),
        frame_indices=wanted,
        timestamps=[reading.seconds[index] for index in wanted],
        info=replace(reading.info, frame_count=readable),
        warning=_damage_warning(video, packets, readable, reading.has_gap),
    )


class FrameStream:
    """All frames of a video in display order, decoded once, one at a time.

    Attributes:
        info: what is known of the video before decoding it.
        times: seconds of the frames by index, relative to the first one, as the packets announce them: of a variable
            frame rate too. Some 40 bytes a frame are all that grows with the length of the video.
        warning: known behind the last frame: one line where only a part of the video could be read, else None.

    Raises:
        VideoReadingError: the source is no readable video; while iterating, no frame decodes.
        TypeError: the source is no path, bytes or binary file object.
    """

    def __init__(self, source: VideoSource) -> None:
        self._video = _ReopenableVideo.from_source(source)
        self._packets = _count_packets(self._video)
        self.info = _describe_first_frame(self._video, self._packets)
        self.times = self._packets.announced_times()
        self.warning: str | None = None

    def __iter__(self) -> Iterator["StreamedFrame"]:
        with _open_stream(self._video) as (container, stream):
            clock, frames = FrameClock(self._packets), _DecodedFrames(self._video, container, stream)
            for frame in frames:
                stored, seconds = clock.tell(frame)
                # Counting would go wrong behind frames that do not decode.
                yield StreamedFrame(announced_index(self.times, seconds), seconds, stored, frame, self.info)
        self.warning = _damage_warning(self._video, self._packets, clock.count, frames.has_gap)


@dataclass(frozen=True)
class StreamedFrame:
    """One decoded frame, not yet converted to a picture."""

    index: int  # of the frame in display order
    time: float  # seconds from the video's first frame
    stream_time: float  # seconds in the file's own count, which its sound shares
    decoded: av.VideoFrame
    info: VideoInfo

    def picture(self) -> torch.Tensor:
        """The upright RGB picture, uint8 (3, height, width) of the video's size.

        Raises:
            VideoReadingError: the frame cannot be converted.
        """
        with _errors_named_after(f"'{self.info.name}'"):
            upright = _upright_picture(self.decoded)
        return resize_frames(upright, (self.info.height, self.info.width))


def resize_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Squash frames to a size: the one resize of this repository (bilinear with antialiasing).

    Args:
        frames: uint8 (..., 3, H, W).
        size: (height, width) in pixels.

    Returns:
        uint8 (..., 3, height, width).
    """
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    leading = frames.shape[:-3]
    # (..., 3, H, W) -> (N, 3, H, W); one memory layout, so that a file's frames and an array's are computed alike
    flat = frames.reshape(-1, *frames.shape[-3:])
    # Copied by numpy on the CPU: torch would wake its threads for a picture, which costs more than the copy.
    flat = torch.from_numpy(np.ascontiguousarray(flat.numpy())) if flat.device.type == "cpu" else flat.contiguous()
    flat = transforms.resize(flat, list(size), interpolation=transforms.InterpolationMode.BILINEAR, antialias=True)
    # (N, 3, height, width) -> (..., 3, height, width)
    return flat.reshape(*leading, *flat.shape[-3:])


@dataclass(frozen=True)
class _ReopenableVideo:
    """A video that can be opened more than once: a path, or a seekable file object."""

    name: str  # for VideoInfo
    label: str  # for messages
    target: str | BinaryIO

    @classmethod
    def from_source(cls, source: VideoSource) -> "_ReopenableVideo":
        if isinstance(source, Mapping):
            # As `datasets` gives it undecoded: {"bytes": … or None, "path": … or None}.
            if not source or not source.keys() <= {"bytes", "path"}:
                problem = f'a video of a data set is {{"bytes": …, "path": …}}, but this has the keys {list(source)}'
                raise TypeError(problem + (": give row['video']" if "video" in source else ""))
            if source.get("bytes") is not None:
                return cls._from_bytes(source.get("path") or "<bytes>", source["bytes"])
            if source.get("path") is None:
                raise VideoReadingError('a video of a data set has neither "bytes" nor "path": leave that row out')
            return cls._from_path(os.fspath(source["path"]))
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls._from_bytes("<bytes>", bytes(source))
        if hasattr(source, "read"):
            return cls._from_file_object(cast(BinaryIO, source))
        if isinstance(source, (str, os.PathLike)):
            return cls._from_path(os.fsdecode(os.fspath(source)))
        raise TypeError(f"a video is a path, bytes or a binary file object, not {type(source).__name__}")

    @classmethod
    def _from_path(cls, path: str) -> "_ReopenableVideo":
        if path.startswith(("http://", "https://")):
            raise VideoReadingError(f"'{path}' is an address, not a file: download the video and give its path")
        if os.path.isdir(path):
            raise VideoReadingError(f"'{path}' is a directory, not a video file: give the path of one file inside it")
        if not os.path.exists(path):
            raise VideoReadingError(f"'{path}' does not exist: check the path")
        if not os.path.isfile(path):
            raise VideoReadingError(f"'{path}' is not a regular file: save the video to disk and give its path")
        if os.path.getsize(path) == 0:
            raise VideoReadingError(f"'{path}' is empty (0 bytes): copy or download the video again")
        with open(path, "rb") as file:
            if file.read(len(GIT_LFS_HEAD)) == GIT_LFS_HEAD:
                raise VideoReadingError(f"'{path}' {NOT_FETCHED} in its folder")
        # The prefix keeps FFmpeg from reading a name such as "concat:a.mp4" as a protocol.
        return cls(path, f"'{path}'", f"file:{os.path.abspath(path)}")

    @classmethod
    def _from_bytes(cls, name: str, content: bytes) -> "_ReopenableVideo":
        if not content:
            raise VideoReadingError(f"{name} is empty (0 bytes): give the content of a whole video file")
        if content.startswith(GIT_LFS_HEAD):
            raise VideoReadingError(f"{name} {NOT_FETCHED} where it comes from")
        return cls(name, name, BytesIO(content))

    @classmethod
    def _from_file_object(cls, file: BinaryIO) -> "_ReopenableVideo":
        name = getattr(file, "name", None)
        name = name if isinstance(name, str) else "<file object>"
        can_seek = hasattr(file, "seekable") and file.seekable()
        # Counting and decoding are two passes: what cannot be rewound is kept in memory, compressed as it is.
        head = (file.seek(0), file.read(len(GIT_LFS_HEAD)))[1] if can_seek else file.read()
        if isinstance(head, str):
            raise TypeError(f"{name} is open in text mode: open it with mode 'rb'")
        return cls(name, name, file) if can_seek and head not in (b"", GIT_LFS_HEAD) else cls._from_bytes(name, head)


@dataclass(frozen=True)
class _Reading:
    """What one decoding pass found."""

    pictures: dict[int, torch.Tensor]  # frame index -> uint8 (3, H, W), for the wanted indices that decode
    seconds: dict[int, float]  # frame index -> time in seconds, relative to the first frame
    frame_count: int  # frames seen; all that decode only after reading to the end
    damaged: bool  # FFmpeg refused at least one packet, or a frame has not the time that its packet announced
    has_gap: bool  # frames followed after a refused packet
    info: VideoInfo | None  # None where nothing decodes

    def is_complete(self, wanted: Sequence[int]) -> bool:
        return not self.damaged and self.pictures.keys() >= set(wanted)


class _DecodedFrames:
    """Iterate over the frames that decode, passing over the packets that FFmpeg refuses and remembering that it did.

    `needed`: times of the packets to decode (see `PacketDependencies`), None for all.
    """

    def __init__(
        self,
        video: _ReopenableVideo,
        container: InputContainer,
        stream: VideoStream,
        needed: Collection[int] | None = None,
    ) -> None:
        self.video = video
        self.packets = Packets(container, stream)
        self.stream = stream
        self.needed = needed
        self.refused_packet = False
        self.has_gap = False

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets if self.needed is None else self._needed_packets(self.needed):
            with _errors_named_after(self.video.label):
                frames = self._decode(packet)
            # The empty packet at the end only hands out frames that were decoded before.
            self.has_gap = self.has_gap or (self.refused_packet and packet.size > 0 and len(frames) > 0)
            yield from frames

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.FFmpegError:
            self.refused_packet = True
            return []

    def _needed_packets(self, needed: Collection[int]) -> Iterator[av.Packet]:
        left = len(needed)
        for packet in self.packets:
            if packet.pts in needed:
                yield packet
                left -= 1
            if left == 0:
                break
        # As at the end of a file, an empty packet has the decoder hand out what it still holds back.
        end = av.Packet()
        end.stream, end.time_base = self.stream, self.stream.time_base or Fraction(1, av.time_base)
        yield end


@contextmanager
def _errors_named_after(label: str) -> Iterator[None]:
    """Whatever one clip makes PyAV raise becomes an error that names the clip."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise VideoReadingError(
            f"{label} cannot be decoded ({reason}): convert it, for example to H.264 in MP4, or leave it out"
        ) from error


def open_container(target: str | BinaryIO) -> InputContainer:
    """`av.open` for reading, with any release of PyAV: bytes in tags and play lists that reach out do no harm.

    Raises:
        av.error.FFmpegError: FFmpeg cannot open it.
        OSError: there is no such file.
    """
    # A play list posing as a video must not reach the network. Given as `options`, the list of protocols would crash
    # PyAV below 18 with FLV, whose streams come up only while it is read.
    options = {"protocol_whitelist": "file"}
    try:
        # A tag in an unknown encoding is no reason to refuse a clip.
        return av.open(target, "r", metadata_errors="replace", container_options=options)
    except TypeError as error:
        if "metadata_errors" not in str(error):
            raise
        # PyAV from 19 on keeps undecodable bytes of tags by itself and has no such argument.
        return av.open(target, "r", container_options=options)


@contextmanager
def _open_stream(video: _ReopenableVideo, single_thread: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video at its beginning; what FFmpeg cannot open becomes a VideoReadingError."""
    if not isinstance(video.target, str):
        video.target.seek(0)
    try:
        container = open_container(video.target)
    except Exception as error:  # FFmpeg's refusals, and whatever PyAV stumbles over: they are this clip's error
        # FFmpeg's words on one line, without error numbers and file names.
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise VideoReadingError(
            f"{video.label} cannot be opened as a video ({reason}): "
            "it is damaged, cut off or no video; copy or export it again"
        ) from error
    with container:
        yield container, _find_video_stream(video, container, single_thread)


def _count_packets(video: _ReopenableVideo) -> PacketCount:
    with _open_stream(video) as (container, stream), _errors_named_after(video.label):
        return count_packets(container, stream)


def _find_video_stream(video: _ReopenableVideo, container: InputContainer, single_thread: bool) -> VideoStream:
    # The cover picture of a music file is a "video stream" too.
    cover = Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
        found = f"only {' and '.join(kinds)}" if kinds else "no stream at all"
        raise VideoReadingError(f"{video.label} has no video stream ({found}): give a file with moving pictures")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoReadingError(f"{video.label} uses a video codec that cannot be decoded: convert it to H.264")
    if single_thread:
        stream.thread_count = 1
    else:
        stream.thread_type = "AUTO"
    return stream


def _wanted_indices(
    video: _ReopenableVideo, packets: PacketCount, num_frames: int, frame_indices: Sequence[int] | None
) -> list[int]:
    if packets.frame_count == 0:
        raise VideoReadingError(_no_frame_message(video, packets))
    if frame_indices is None:
        return uniform_frame_indices(packets.frame_count, num_frames)
    wanted = sorted(int(index) for index in frame_indices)
    if not wanted:
        raise ValueError("frame_indices is empty: give at least one frame index, or None to sample num_frames frames")
    _check_indices_exist(video, wanted, packets.frame_count)
    return wanted


def _check_indices_exist(video: _ReopenableVideo, wanted: Sequence[int], frame_count: int) -> None:
    outside = [index for index in wanted if not 0 <= index < frame_count]
    if outside:
        raise VideoReadingError(
            f"{video.label} has {frame_count} readable frames, but frame {outside[0]} was asked for: "
            f"indices run from 0 to {frame_count - 1}"
        )


def _decode_frames(
    video: _ReopenableVideo,
    packets: PacketCount,
    wanted: Sequence[int],
    size: tuple[int, int] | None,
    to_the_end: bool = False,
    needed: Collection[int] | None = None,
) -> _Reading:
    """Decode a video and keep the wanted frames, resized.

    Stops after the last wanted frame, or reads on to count all frames that decode. That count runs on one thread: with
    several, a refused packet takes a number of good frames with it that depends on the number of processor cores.
    Where all packets are decoded, the frames are counted; of the `needed` ones, each is known by its announced time.
    """
    pictures, seconds, info, frame_count, as_announced = {}, {}, None, 0, True
    keep = frozenset(wanted)
    times = None if needed is None else packets.announced_times()
    all_frames = to_the_end or needed is not None
    with _open_stream(video, single_thread=to_the_end) as (container, stream):
        if needed is not None:
            # FFmpeg patches a damaged picture up with the one decoded before, which may have been passed over here.
            stream.codec_context.options = {"err_detect": "explode"}
        frames, clock = _DecodedFrames(video, container, stream, needed), FrameClock(packets)
        for count, frame in enumerate(islice(frames, None if all_frames else wanted[-1] + 1)):
            frame_count = count + 1
            info = info or _describe(video, packets, frame)
            _, time = clock.tell(frame)
            index = count if times is None else announced_index(times, time)
            as_announced = as_announced and (times is None or (times[index] == time and not frame.is_corrupt))
            if index in keep:
                with _errors_named_after(video.label):
                    upright = _upright_picture(frame)
                # A stream may change its size on the way; without a size asked for, the first frame's counts.
                pictures[index] = resize_frames(upright, size or (info.height, info.width))
                seconds[index] = time
    damaged = frames.refused_packet or frames.packets.broke_off or not as_announced
    return _Reading(pictures, seconds, frame_count, damaged, frames.has_gap, info)


def _describe_first_frame(video: _ReopenableVideo, packets: PacketCount) -> VideoInfo:
    if packets.frame_count > 0:
        with _open_stream(video, single_thread=True) as (container, stream):
            for frame in _DecodedFrames(video, container, stream):
                return _describe(video, packets, frame)
    raise VideoReadingError(_no_frame_message(video, packets))


def _describe(video: _ReopenableVideo, packets: PacketCount, frame: av.VideoFrame) -> VideoInfo:
    with _errors_named_after(video.label):
        swap_axes, flip_columns, flip_rows = _orientation(frame)
    height, width = (frame.width, frame.height) if swap_axes else (frame.height, frame.width)
    # Swapping the axes and then mirroring left to right is a quarter turn clockwise.
    rotation = (90 if flip_columns else 270) if swap_axes else (180 if flip_rows else 0)
    return VideoInfo(video.name, width, height, rotation, packets.frame_count, packets.duration, packets.frame_rate)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn a stored picture upright: (swap rows and columns, then mirror left-right, then mirror up-down).

    The display matrix takes a stored point (x, y) to (a x + c y, b x + d y) on the screen. Only multiples of a quarter
    turn and mirrorings are honoured; any other angle counts as the nearest of them.
    """
    # Not `frame.side_data`: frame and container would hold each other, and with them the decoder and its threads, until
    # the garbage collector comes by, which it does ever more seldom while pictures are gathered.
    container: Any = SideDataContainer
    try:
        side_data = container(frame)
    except ValueError:
        # FFmpeg knows more kinds of side data than PyAV has names for, Exif for one; one of them hides all others.
        _name_all_side_data()
        side_data = container(frame)
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(cast(bytes, matrix), dtype=np.int32)[:5].tolist()
    if abs(a) >= abs(b):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _name_all_side_data() -> None:
    """Gives names to the kinds of side data that PyAV's enumeration lacks, as Python's own flags do on demand."""
    for value in range(LAST_SIDE_DATA + 1):
        if value not in Type._value2member_map_:
            member: Any = object.__new__(Type)
            member._name_, member._value_ = f"KIND_{value}", value
            Type._value2member_map_[value] = member


def _upright_picture(frame: av.VideoFrame) -> torch.Tensor:
    """Convert one frame of any pixel format to an upright RGB picture, uint8 (3, H, W)."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W), a view
    swap_axes, flip_columns, flip_rows = _orientation(frame)
    if swap_axes:
        picture = picture.transpose(1, 2)  # (3, H, W) -> (3, W, H)
    flipped_axes = [axis for axis, flipped in ((1, flip_rows), (2, flip_columns)) if flipped]
    return picture.flip(flipped_axes) if flipped_axes else picture  # a flip along no axis is a slow copy


def _damage_warning(video: _ReopenableVideo, packets: PacketCount, readable: int, has_gap: bool) -> str | None:
    """One line where fewer frames decode than the file promises, else None."""
    promised = packets.frame_count + packets.missing
    if readable >= promised:
        return None
    part = f"{readable}" if has_gap else f"the first {readable}"
    whole = f"about {promised}" if packets.missing_is_estimated else f"{promised}"
    told = f"only {part} of {whole} frames could be read; sampled from those"
    return f"{video.label} is damaged or cut off: {told}"


def _no_frame_message(video: _ReopenableVideo, packets: PacketCount) -> str:
    if packets.frame_count == 0:
        return f"{video.label} has a video stream without a single frame: record or export it again"
    return (
        f"{video.label} is damaged: none of its {packets.frame_count} frames can be decoded; "
        "copy or download the video again"
    )
