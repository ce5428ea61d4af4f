"""A video's packets: how many frames they hold and when, and which of them a wanted frame needs (H.264).

One pass over the packets, without decoding, tells the number of frames (container headers are not trusted: FLV and
Matroska say 0) and their times. Of H.264 it also tells which packets a decoder may pass over, where it is certain that
this changes no wanted frame: decoding the others is most of the work.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext, bitstream_filters_available
from av.container import InputContainer
from av.video.stream import VideoStream

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

# Frames by which H.264 and its kin store a picture ahead of its time, at most.
MOST_REORDERED = 17

# Frames per second where neither the container nor the codec says anything.
FALLBACK_FRAME_RATE = 25


class Packets:
    """Iterates over a container's packets up to its end, or up to the place from where it can be read no further."""

    def __init__(self, container: InputContainer, *streams: VideoStream) -> None:
        self.demuxed = container.demux(*streams)
        self.broke_off = False

    def __iter__(self) -> Iterator[av.Packet]:
        try:
            yield from self.demuxed
        except av.error.FFmpegError:
            self.broke_off = True


@dataclass(frozen=True)
class PacketCount:
    """What one pass over a video's packets found."""

    frame_count: int  # packets of the video stream that hold a frame for display
    missing: int  # frames that the header promises beyond them
    missing_is_estimated: bool  # the header gives a duration only
    duration: float  # seconds, from the first frame's begin to the last frame's end
    frame_rate: float  # frames per second
    times: np.ndarray  # seconds (M,), ascending, of the packets that hold a frame and have a time
    in_decoding_order: bool  # packets carry each other's times: the container stores no display times
    dependencies: "PacketDependencies"

    def announced_times(self) -> np.ndarray:
        """Seconds (N,) of the frames in display order, relative to the first; evenly spread where packets have none."""
        if len(self.times) < self.frame_count:
            return np.arange(self.frame_count) / self.frame_rate
        return self.times - self.times[0]


class FrameClock:
    """Tells the times of a video's frames, as they come out of the decoder: always rising ones.

    Where the container stores times in decoding order (AVI, ASF, MP4 as some programs write it) the frames carry each
    other's; counting tells which is whose. Recordings that were put one behind the other count from zero again.
    """

    def __init__(self, packets: PacketCount) -> None:
        self.packets, self.count, self.last = packets, 0, -math.inf
        # Seconds of the first frame in the file's own count, decodable or not; unknown where packets carry no times.
        has_times = 0 < len(packets.times) == packets.frame_count
        self.begin: float | None = float(packets.times[0]) if has_times else None

    def tell(self, frame: av.VideoFrame) -> tuple[float, float]:
        """Seconds of the next frame in the file's own count, and from the video's first frame on."""
        count, frame_duration = self.count, 1 / self.packets.frame_rate
        self.count += 1
        if self.packets.in_decoding_order and count < len(self.packets.times):
            stored = float(self.packets.times[count])
        elif frame.pts is not None and frame.time_base:
            stored = float(frame.pts * frame.time_base)
        else:
            stored = count * frame_duration
        if self.begin is None:
            self.begin = stored
        seconds = stored - self.begin
        if seconds <= self.last:
            self.begin -= self.last + frame_duration - seconds
            seconds = self.last + frame_duration
        self.last = seconds
        return stored, seconds


def count_packets(container: InputContainer, stream: VideoStream) -> PacketCount:
    """Counts the frames of a freshly opened video by demuxing, and compares with what its header promises.

    Args:
        container: at its beginning; at its end, or where it can be read no further, afterwards.
        stream: the video stream of it.
    """
    shown = hidden = 0
    begin, end, file_end = math.inf, -math.inf, -math.inf
    times = array("d")
    frame_duration = 1 / float(stream.average_rate or stream.guessed_rate or FALLBACK_FRAME_RATE)
    # Recordings that were put one behind the other count from the start again: seconds that are added from there on.
    restart, longest_step_back, last_decoded = 0.0, max(1.0, MOST_REORDERED * frame_duration), -math.inf
    dependencies = PacketDependencies(container, stream)
    packets = Packets(container)
    for packet in packets:
        packet_begin, packet_end = _packet_span(packet, frame_duration)
        if packet.stream_index == stream.index:
            # By the times of decoding where they are told: those of display go back and forth, and far at a low rate.
            stored, before = packet_begin, end
            if packet.dts is not None and packet.time_base:
                stored, before = float(packet.dts * packet.time_base), last_decoded
            if stored + restart < before - longest_step_back:
                restart = end - packet_begin
            if packet.dts is not None:
                last_decoded = stored + restart
        packet_begin, packet_end = packet_begin + restart, packet_end + restart
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
    as_stored = np.frombuffer(times)
    return PacketCount(
        frame_count=shown,
        missing=missing,
        missing_is_estimated=is_estimated,
        duration=duration,
        frame_rate=shown / duration if shown else 1 / frame_duration,
        times=np.sort(as_stored),
        # A decoder that reorders frames, and times that rise in the order of decoding.
        in_decoding_order=bool(stream.codec_context.has_b_frames) and bool((np.diff(as_stored) > 0).all()),
        dependencies=dependencies,
    )


def announced_index(times: np.ndarray, seconds: float) -> int:
    """The frame whose announced time, of `times` (N,) as of `PacketCount.announced_times`, is closest."""
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
        promised = float(((stream.start_time or 0) + stream.duration) * (stream.time_base or Fraction(0)))
        found, tolerance = end, frame_duration / 2
    elif container.duration and container.format.name in ("matroska,webm", "flv"):
        # Only these two write the duration into their header; for others FFmpeg guesses it from what is there.
        promised, found, tolerance = container.duration / av.time_base, file_end, TRUNCATION_TOLERANCE_SECONDS
    else:
        return 0.0
    return promised - found if math.isfinite(found) and promised - found > tolerance else 0.0


class PacketDependencies:
    """Which packets a decoder needs for some of a video's frames.

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
        is_candidate = (
            context.name == "h264"
            and container.format.name == INDEXED_FORMAT
            and getattr(context, "field_order", None) == PROGRESSIVE
            and H264_PARSER in bitstream_filters_available
        )
        # None where something is not regular, parameters that make no sense to FFmpeg among it.
        self._parser: BitStreamFilterContext | None = None
        if is_candidate:
            with suppress(av.error.FFmpegError):
                self._parser = BitStreamFilterContext(H264_PARSER, stream)
        self._roles, self._times = array("b"), array("q")  # of the packets, in the file's order; times in ticks
        self._ordered, self._shown = array("q"), array("q")  # times of all packets and of the shown frames, ascending
        self._depth = 0  # most packets that come before one whose frame is shown before theirs

    def take(self, packet: av.Packet, is_shown: bool) -> None:
        """Takes note of the next packet, which is empty afterwards."""
        if self._parser is None or packet.size == 0:
            return
        role, time = _h264_role(packet, self._length_bytes), packet.pts
        if role is None or time is None or packet.is_corrupt or packet.has_sidedata("new_extradata"):
            self._parser = None
            return
        place = bisect_left(self._ordered, time)
        is_repeated = place < len(self._ordered) and self._ordered[place] == time
        if is_repeated or not _parses(packet, self._parser):
            self._parser = None
            return
        self._depth = max(self._depth, len(self._ordered) - place)
        self._ordered.insert(place, time)
        self._roles.append(role)
        self._times.append(time)
        if is_shown:
            self._shown.insert(bisect_left(self._shown, time), time)

    def packets_for(self, wanted: Sequence[int]) -> frozenset[int] | None:
        """Times, in ticks, of the packets that yield the first frame and the wanted ones; None: decode all packets."""
        # Regular files alone, and only where their times order the frames as the decoder does.
        starts_fresh = self._parser is not None and len(self._roles) > 0 and bool(self._roles[0] & FRESH_START)
        # Over too many places, the decoder would lose frames; over none, the times might be those of decoding.
        fits = self._depth <= self._decoder_depth and (self._depth > 0) == (self._decoder_depth > 0)
        if not (starts_fresh and fits):
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


def _parses(packet: av.Packet, parser: BitStreamFilterContext) -> bool:
    """Whether all headers in a packet make sense to FFmpeg; a decoder might refuse it else."""
    try:
        parser.filter(packet)
    except av.error.FFmpegError:
        return False
    return True


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
