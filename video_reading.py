"""Reading a video file: probe it, sample it, decode it, resize it — and nothing else.

Everything that turns a file into frames goes through `read_clip`: labelling, training and prediction therefore see the
very same pictures. One pass over the packets counts the frames (container headers are not trusted: FLV and Matroska say
0), a second, streaming pass decodes up to the last wanted frame and converts only the wanted ones to RGB. Of H.264, it
passes over the packets that no wanted frame depends on, where it is certain that this changes nothing.
"""

import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from typing import BinaryIO

import av
import numpy as np
import torch
from av.bitstream import BitStreamFilterContext, bitstream_filters_available
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from torchvision.transforms.v2 import functional as transforms

VideoSource = str | os.PathLike | bytes | BinaryIO

# A FLV or Matroska file that ends this much before the duration in its header is taken for a truncated one.
TRUNCATION_TOLERANCE_SECONDS = 0.5

# MP4 and its kin list all packets, with the times at which their frames are shown: none can be missing unnoticed, as in
# a damaged Matroska, FLV or MPEG-TS file. AVI knows no such times.
INDEXED_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"

# FFmpeg's AV_FIELD_PROGRESSIVE: every packet holds a whole frame, not a field of one.
PROGRESSIVE = 1

# ITU-T H.264, table 7-1: types of NAL units.
H264_SLICE, H264_IDR_SLICE, H264_SEI, H264_DELIMITER, H264_FILLER = 1, 5, 6, 9, 12
H264_PARAMETER_SETS = frozenset({7, 8})
H264_KNOWN = frozenset({H264_SLICE, H264_IDR_SLICE, H264_SEI, H264_DELIMITER, H264_FILLER}) | H264_PARAMETER_SETS

# FFmpeg's filter that takes headers apart and puts them together again, unchanged unless told otherwise.
H264_PARSER = "h264_metadata"

# What a packet of H.264 holds; 0 is a picture that no other one refers to.
REFERENCE, FRESH_START, PARAMETERS = 1, 2, 4

# Frames per second where neither the container nor the codec says anything.
FALLBACK_FRAME_RATE = 25


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
        source: path (str or path-like), the file's bytes, or a binary file object (read from its beginning).

    Raises:
        VideoReadingError: the source is no readable video; the message says why, in one line.
        TypeError: the source is none of the above.
    """
    video = _ReopenableVideo.from_source(source)
    packets = _count_packets(video)
    if packets.frame_count > 0:
        with _open_stream(video, single_thread=True) as (container, stream):
            for frame in _DecodedFrames(container, stream):
                return _describe(video, packets, frame)
    raise VideoReadingError(_no_frame_message(video, packets))


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
        source: path (str or path-like), the file's bytes, or a binary file object (read from its beginning; one that
            cannot seek is first read into memory, compressed as it is).
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
    reading, readable = _decode_wanted(video, packets, wanted, size), packets.frame_count
    if not reading.is_complete(wanted):
        reading = _decode_frames(video, packets, wanted, size, to_the_end=True)
        readable = reading.frame_count
        wanted = _wanted_of_damaged(video, packets, readable, wanted, resample=frame_indices is None)
        if not reading.pictures.keys() >= set(wanted):
            reading = _decode_frames(video, packets, wanted, size, to_the_end=True)
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

    Raises:
        VideoReadingError: the source is no readable video; while iterating, no frame decodes.
        TypeError: the source is no path, bytes or binary file object.
    """

    def __init__(self, source: VideoSource) -> None:
        self._video = _ReopenableVideo.from_source(source)
        self._packets = _count_packets(self._video)
        if self._packets.frame_count == 0:
            raise VideoReadingError(_no_frame_message(self._video, self._packets))
        self.times = _announced_times(self._packets)
        with _open_stream(self._video, single_thread=True) as (container, stream):
            first = next(iter(_DecodedFrames(container, stream)), None)
            if first is None:
                raise VideoReadingError(_no_frame_message(self._video, self._packets))
            self.info = _describe(self._video, self._packets, first)

    def __iter__(self) -> Iterator["StreamedFrame"]:
        with _open_stream(self._video) as (container, stream):
            begin = _announced_begin(self._packets)
            for count, frame in enumerate(_DecodedFrames(container, stream)):
                seconds = _frame_seconds(frame, count, self._packets)
                begin = seconds if begin is None else begin
                # Counting would go wrong behind frames that do not decode.
                index = _announced_index(self.times, seconds - begin)
                yield StreamedFrame(index, seconds - begin, frame, self.info)


@dataclass(frozen=True)
class StreamedFrame:
    """One decoded frame, not yet converted to a picture."""

    index: int  # of the frame in display order
    time: float  # seconds from the video's first frame
    decoded: av.VideoFrame
    info: VideoInfo

    @property
    def stream_time(self) -> float:
        """Seconds in the file's own count, which its sound shares; `time` where the frame carries none."""
        if self.decoded.pts is None or not self.decoded.time_base:
            return self.time
        return float(self.decoded.pts * self.decoded.time_base)

    def picture(self) -> torch.Tensor:
        """The upright RGB picture, uint8 (3, height, width) of the video's size."""
        return resize_frames(_upright_picture(self.decoded), (self.info.height, self.info.width))


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
    flat = _contiguous(frames.reshape(-1, *frames.shape[-3:]))
    flat = transforms.resize(flat, list(size), interpolation=transforms.InterpolationMode.BILINEAR, antialias=True)
    # (N, 3, height, width) -> (..., 3, height, width)
    return flat.reshape(*leading, *flat.shape[-3:])


def _contiguous(frames: torch.Tensor) -> torch.Tensor:
    """Copied by numpy on the CPU: torch would wake its threads for a picture, which costs more than the copy."""
    if frames.device.type != "cpu":
        return frames.contiguous()
    return torch.from_numpy(np.ascontiguousarray(frames.numpy()))


@dataclass(frozen=True)
class _ReopenableVideo:
    """A video that can be opened more than once: a path, or a seekable file object."""

    name: str  # for VideoInfo
    label: str  # for messages
    target: str | BinaryIO

    @classmethod
    def from_source(cls, source: VideoSource) -> "_ReopenableVideo":
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls._from_bytes("<bytes>", bytes(source))
        if hasattr(source, "read"):
            return cls._from_file_object(source)
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
        # The prefix keeps FFmpeg from reading a name such as "concat:a.mp4" as a protocol.
        return cls(path, f"'{path}'", f"file:{os.path.abspath(path)}")

    @classmethod
    def _from_bytes(cls, name: str, content: bytes) -> "_ReopenableVideo":
        if not content:
            raise VideoReadingError(f"{name} is empty (0 bytes): give the content of a whole video file")
        return cls(name, name, BytesIO(content))

    @classmethod
    def _from_file_object(cls, file: BinaryIO) -> "_ReopenableVideo":
        name = getattr(file, "name", None)
        name = name if isinstance(name, str) else "<file object>"
        can_seek = hasattr(file, "seekable") and file.seekable()
        # Counting and decoding are two passes: what cannot be rewound is kept in memory, compressed as it is.
        head = (file.seek(0), file.read(1))[1] if can_seek else file.read()
        if isinstance(head, str):
            raise TypeError(f"{name} is open in text mode: open it with mode 'rb'")
        return cls(name, name, file) if can_seek and head else cls._from_bytes(name, head)


@dataclass(frozen=True)
class _PacketCount:
    """What one pass over the packets found."""

    frame_count: int  # packets of the video stream that hold a frame for display
    missing: int  # frames that the header promises beyond them
    missing_is_estimated: bool  # the header gives a duration only
    duration: float  # seconds, from the first frame's begin to the last frame's end
    frame_rate: float  # frames per second
    times: array  # seconds of the packets that hold a frame and have a time, in the file's order
    dependencies: "_Dependencies"


class _Dependencies:
    """Which packets a decoder needs for some of a video's frames; decoding the others is most of the work.

    A packet is dispensable where no other frame refers to its own, or where all those that might do so are dispensable
    themselves: they end at the next picture with which decoding starts afresh. This is known of H.264 alone, from the
    headers of its units, and only of files in which everything is regular: whatever is unusual (damage, interlacing,
    missing or repeated times) has all packets decoded.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        context = stream.codec_context
        header = bytes(context.extradata or b"")
        # ISO/IEC 14496-15, section 5.3.3.1: behind a 1, the fifth byte tells how many bytes hold the length of a unit.
        self._length_bytes = (header[4] & 3) + 1 if header[:1] == b"\x01" and len(header) > 4 else None
        # PyAV below 18 tells only whether frames are reordered, not over how many places.
        self._decoder_depth = getattr(context, "reorder_depth", int(context.has_b_frames))
        self._is_regular = (
            context.name == "h264"
            and container.format.name == INDEXED_FORMAT
            and getattr(context, "field_order", None) == PROGRESSIVE
            and H264_PARSER in bitstream_filters_available
        )
        self._parser = BitStreamFilterContext(H264_PARSER, stream) if self._is_regular else None
        self._roles, self._times = array("b"), array("q")  # of the packets, in the file's order; times in ticks
        self._ordered, self._shown = array("q"), array("q")  # times of all packets and of the shown frames, ascending
        self._depth = 0  # most packets that come before one whose frame is shown before theirs

    def take(self, packet: av.Packet, is_shown: bool) -> None:
        """Takes note of the next packet, which is empty afterwards."""
        if not self._is_regular or packet.size == 0:
            return
        role, time = _h264_role(packet, self._length_bytes), packet.pts
        unusual = time is None or packet.is_corrupt or packet.has_sidedata("new_extradata")
        if role is None or unusual or not self._place(time) or not self._parses(packet):
            self._is_regular = False
            return
        self._roles.append(role)
        self._times.append(time)
        if is_shown:
            self._shown.insert(bisect_left(self._shown, time), time)

    def _parses(self, packet: av.Packet) -> bool:
        """Whether all headers in a packet make sense to FFmpeg; a decoder might refuse it else."""
        try:
            self._parser.filter(packet)
        except av.error.FFmpegError:
            return False
        return True

    def _place(self, time: int) -> bool:
        """Puts a time into the order of showing; False where it is there already."""
        place = bisect_left(self._ordered, time)
        if place < len(self._ordered) and self._ordered[place] == time:
            return False
        self._depth = max(self._depth, len(self._ordered) - place)
        self._ordered.insert(place, time)
        return True

    def packets_for(self, wanted: Sequence[int]) -> frozenset[int] | None:
        """Times, in ticks, of the packets that yield the first frame and the wanted ones; None: decode all packets."""
        if not self._is_certain():
            return None
        # The first frame tells the video's size.
        targets = {self._shown[index] for index in (0, *wanted)}
        needed, leads_to_target = set(), False
        for time, role in zip(reversed(self._times), reversed(self._roles), strict=True):
            leads_to_target = leads_to_target or time in targets
            # Sizes and other parameters hold beyond the picture that they come with.
            if time in targets or role & PARAMETERS or (leads_to_target and role & REFERENCE):
                needed.add(time)
            leads_to_target = leads_to_target and not role & FRESH_START
        return frozenset(needed)

    def _is_certain(self) -> bool:
        """Whether the file is regular, and its times order the frames as the decoder does."""
        starts_fresh = self._is_regular and len(self._roles) > 0 and bool(self._roles[0] & FRESH_START)
        # Over too many places, the decoder would lose frames; over none, the times might be those of decoding.
        return starts_fresh and self._depth <= self._decoder_depth and (self._depth > 0) == (self._decoder_depth > 0)


def _h264_role(packet: av.Packet, length_bytes: int | None) -> int | None:
    """What a packet holds: 0, or a sum of REFERENCE, FRESH_START and PARAMETERS; None where that is not certain."""
    headers = _h264_unit_headers(memoryview(packet), length_bytes)
    # ITU-T H.264, section 7.3.1: a bit that is 0, two that tell whether others refer to the picture, five of the type.
    types = {header & 0x1F for header in headers}
    slices = types & {H264_SLICE, H264_IDR_SLICE}
    is_reference = {header & 0x60 > 0 for header in headers if header & 0x1F in slices}
    if (
        len(slices) != 1
        or len(is_reference) != 1
        or not types <= H264_KNOWN
        or any(header & 0x80 for header in headers)
    ):
        return None
    role = REFERENCE * is_reference.pop() | FRESH_START * (H264_IDR_SLICE in slices)
    return role | PARAMETERS * bool(types & H264_PARAMETER_SETS)


def _h264_unit_headers(content: memoryview, length_bytes: int | None) -> list[int]:
    """The first byte of every unit in a packet; none where the units do not fill the packet."""
    headers, position = [], 0
    if length_bytes is None:
        # Every unit stands behind the bytes 0, 0, 1.
        parts = bytes(content).split(b"\0\0\1")
        return [part[0] for part in parts[1:]] if not parts[0].strip(b"\0") and all(parts[1:]) else []
    while position < len(content):
        begin = position + length_bytes
        position = begin + int.from_bytes(content[position:begin], "big")
        if position == begin or position > len(content):
            return []
        headers.append(content[begin])
    return headers


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


class _Packets:
    """Iterate over a container's packets up to its end, or up to the place from where it can be read no further."""

    def __init__(self, container: InputContainer, *streams: VideoStream) -> None:
        self.demuxed = container.demux(*streams)
        self.broke_off = False

    def __iter__(self) -> Iterator[av.Packet]:
        try:
            yield from self.demuxed
        except av.error.FFmpegError:
            self.broke_off = True


class _DecodedFrames:
    """Iterate over the frames that decode, passing over the packets that FFmpeg refuses and remembering that it did.

    `needed`: times of the packets to decode (see `_Dependencies`), None for all.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, needed: Collection[int] | None = None) -> None:
        self.packets = _Packets(container, stream)
        self.stream = stream
        self.needed = needed
        self.refused_packet = False
        self.has_gap = False

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets if self.needed is None else self._needed_packets(self.needed):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.refused_packet = True
                continue
            # The empty packet at the end only hands out frames that were decoded before.
            self.has_gap = self.has_gap or (self.refused_packet and packet.size > 0 and len(frames) > 0)
            yield from frames

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
        end.stream, end.time_base = self.stream, self.stream.time_base
        yield end

    @property
    def damaged(self) -> bool:
        return self.refused_packet or self.packets.broke_off


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
        return av.open(target, metadata_errors="replace", container_options=options)
    except TypeError as error:
        if "metadata_errors" not in str(error):
            raise
        # PyAV from 19 on keeps undecodable bytes of tags by itself and has no such argument.
        return av.open(target, container_options=options)


@contextmanager
def _open_stream(video: _ReopenableVideo, single_thread: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video at its beginning; what FFmpeg cannot open becomes a VideoReadingError."""
    if not isinstance(video.target, str):
        video.target.seek(0)
    try:
        container = open_container(video.target)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoReadingError(
            f"{video.label} cannot be opened as a video ({_reason(error)}): "
            "it is damaged, cut off or no video; copy or export it again"
        ) from error
    with container:
        yield container, _find_video_stream(video, container, single_thread)


def _reason(error: Exception) -> str:
    """FFmpeg's words on one line, without error numbers and file names."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())


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


def _count_packets(video: _ReopenableVideo) -> _PacketCount:
    """Count a video's frames by demuxing, without decoding, and compare with what its header promises."""
    shown = hidden = 0
    begin, end, file_end = math.inf, -math.inf, -math.inf
    times = array("d")
    with _open_stream(video) as (container, stream):
        frame_duration = 1 / float(stream.average_rate or stream.guessed_rate or FALLBACK_FRAME_RATE)
        dependencies = _Dependencies(container, stream)
        packets = _Packets(container)
        for packet in packets:
            packet_begin, packet_end = _packet_span(packet, frame_duration)
            file_end = max(file_end, packet_end)
            if packet.stream_index != stream.index:
                continue
            if is_shown := not packet.is_discard and _holds_a_frame(packet, stream):
                shown += 1
                begin, end = min(begin, packet_begin), max(end, packet_end)
                if math.isfinite(packet_begin):
                    times.append(packet_begin)
            else:
                # The empty packets without a time that end every stream are no frames of any kind.
                hidden += packet.size > 0 or packet.dts is not None
            dependencies.take(packet, is_shown)
        shortfall = _seconds_short_of_header(container, stream, end, file_end, frame_duration)
        missing = round(shortfall / frame_duration)
        is_estimated = stream.frames == 0
        if missing > 0 and not is_estimated:
            missing = max(stream.frames - shown - hidden, 0)
    if packets.broke_off and missing == 0:
        missing, is_estimated = 1, True
    duration = end - begin if 0 < end - begin < math.inf else shown * frame_duration
    frame_rate = shown / duration if shown else 1 / frame_duration
    return _PacketCount(shown, missing, is_estimated, duration, frame_rate, times, dependencies)


def _announced_times(packets: _PacketCount) -> np.ndarray:
    """Seconds (N,) of the frames in display order, relative to the first; evenly spread where packets carry none."""
    if len(packets.times) < packets.frame_count:
        return np.arange(packets.frame_count) / packets.frame_rate
    times = np.sort(np.frombuffer(packets.times))
    return times - times[0]


def _announced_begin(packets: _PacketCount) -> float | None:
    """Seconds of the first frame in the file's own count, decodable or not; None where packets carry no times."""
    return min(packets.times) if len(packets.times) == packets.frame_count else None


def _announced_index(times: np.ndarray, seconds: float) -> int:
    """The frame whose announced time, of `times` (N,), is closest."""
    after = int(np.searchsorted(times, seconds))
    if after >= len(times):
        return len(times) - 1
    return after - 1 if after and seconds - times[after - 1] < times[after] - seconds else after


def _packet_span(packet: av.Packet, frame_duration: float) -> tuple[float, float]:
    """(begin, end) of a packet in seconds; (inf, -inf), which no minimum or maximum takes, where it has no time."""
    if packet.pts is None or not packet.time_base:
        return math.inf, -math.inf
    begin = float(packet.pts * packet.time_base)
    return begin, begin + (float(packet.duration * packet.time_base) if packet.duration else frame_duration)


def _holds_a_frame(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether a packet yields a picture: it is not empty, and no VP8 reference frame that is never shown."""
    if packet.size == 0:
        return False
    # RFC 6386, section 9.1: bit 4 of a VP8 frame's first byte is its show_frame flag.
    return stream.codec_context.name not in ("vp8", "libvpx") or bool(memoryview(packet)[0] & 0x10)


def _seconds_short_of_header(
    container: InputContainer, stream: VideoStream, end: float, file_end: float, frame_duration: float
) -> float:
    """By how much a cut-off file ends before the end that its header promises, in seconds; 0 for a whole one.

    Times, not numbers of frames, are compared: an edit list may hide frames that the header counts.
    """
    if stream.frames > 0 and stream.duration:
        promised = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        found, tolerance = end, frame_duration / 2
    elif container.duration and container.format.name in ("matroska,webm", "flv"):
        # Only these two write the duration into their header; for others FFmpeg guesses it from what is there.
        promised, found, tolerance = container.duration / av.time_base, file_end, TRUNCATION_TOLERANCE_SECONDS
    else:
        return 0.0
    return promised - found if math.isfinite(found) and promised - found > tolerance else 0.0


def _wanted_indices(
    video: _ReopenableVideo, packets: _PacketCount, num_frames: int, frame_indices: Sequence[int] | None
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


def _wanted_of_damaged(
    video: _ReopenableVideo, packets: _PacketCount, readable: int, wanted: list[int], resample: bool
) -> list[int]:
    """The indices to take where only `readable` frames decode: spread anew, or refused where they were prescribed."""
    if readable == 0:
        raise VideoReadingError(_no_frame_message(video, packets))
    if resample:
        return uniform_frame_indices(readable, len(wanted))
    _check_indices_exist(video, wanted, readable)
    return wanted


def _check_indices_exist(video: _ReopenableVideo, wanted: Sequence[int], frame_count: int) -> None:
    outside = [index for index in wanted if not 0 <= index < frame_count]
    if outside:
        raise VideoReadingError(
            f"{video.label} has {frame_count} readable frames, but frame {outside[0]} was asked for: "
            f"indices run from 0 to {frame_count - 1}"
        )


def _decode_wanted(
    video: _ReopenableVideo, packets: _PacketCount, wanted: Sequence[int], size: tuple[int, int] | None
) -> _Reading:
    """Decode the packets that the wanted frames need; all up to the last one where that is not known or goes wrong."""
    needed = packets.dependencies.packets_for(wanted)
    if needed is not None:
        reading = _decode_frames(video, packets, wanted, size, needed=needed)
        if reading.is_complete(wanted):
            return reading
    return _decode_frames(video, packets, wanted, size)


def _decode_frames(
    video: _ReopenableVideo,
    packets: _PacketCount,
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
    times, begin = (None, None) if needed is None else (_announced_times(packets), _announced_begin(packets))
    all_frames = to_the_end or needed is not None
    with _open_stream(video, single_thread=to_the_end) as (container, stream):
        if needed is not None:
            # FFmpeg patches a damaged picture up with the one decoded before, which may have been passed over here.
            stream.codec_context.options = {"err_detect": "explode"}
        frames = _DecodedFrames(container, stream, needed)
        for count, frame in enumerate(islice(frames, None if all_frames else wanted[-1] + 1)):
            frame_count = count + 1
            info = info or _describe(video, packets, frame)
            time = _frame_seconds(frame, count, packets)
            begin = time if begin is None else begin
            time -= begin
            index = count if times is None else _announced_index(times, time)
            as_announced = as_announced and (times is None or (times[index] == time and not frame.is_corrupt))
            if index in keep:
                # A stream may change its size on the way; without a size asked for, the first frame's counts.
                pictures[index] = resize_frames(_upright_picture(frame), size or (info.height, info.width))
                seconds[index] = time
    damaged = frames.damaged or not as_announced
    return _Reading(pictures, seconds, frame_count, damaged, frames.has_gap, info)


def _frame_seconds(frame: av.VideoFrame, index: int, packets: _PacketCount) -> float:
    """A frame's time in its stream; from its index where the stream carries no times."""
    if frame.pts is None or not frame.time_base:
        return index / packets.frame_rate
    return float(frame.pts * frame.time_base)


def _describe(video: _ReopenableVideo, packets: _PacketCount, frame: av.VideoFrame) -> VideoInfo:
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
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(a) >= abs(b):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _upright_picture(frame: av.VideoFrame) -> torch.Tensor:
    """Convert one frame of any pixel format to an upright RGB picture, uint8 (3, H, W)."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W), a view
    swap_axes, flip_columns, flip_rows = _orientation(frame)
    if swap_axes:
        picture = picture.transpose(1, 2)  # (3, H, W) -> (3, W, H)
    flipped_axes = [axis for axis, flipped in ((1, flip_rows), (2, flip_columns)) if flipped]
    return picture.flip(flipped_axes) if flipped_axes else picture  # a flip along no axis is a slow copy


def _no_frame_message(video: _ReopenableVideo, packets: _PacketCount) -> str:
    if packets.frame_count == 0:
        return f"{video.label} has a video stream without a single frame: record or export it again"
    return (
        f"{video.label} is damaged: none of its {packets.frame_count} frames can be decoded; "
        "copy or download the video again"
    )


def _damage_warning(video: _ReopenableVideo, packets: _PacketCount, readable: int, has_gap: bool) -> str | None:
    promised = packets.frame_count + packets.missing
    if readable >= promised:
        return None
    part = f"{readable}" if has_gap else f"the first {readable}"
    whole = f"about {promised}" if packets.missing_is_estimated else f"{promised}"
    return f"{video.label} is damaged or cut off: only {part} of {whole} frames could be read; sampled from those"
