"""Small video files of every odd kind, written with PyAV, for the tests.

The frames carry their number as a bar code (`numbered_frames`, `read_number`), so that a test can tell which frames it
got, whatever the codec did to the colours.
"""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

BITS = 10  # numbers up to 1023
FORMATS = {".mkv": "matroska", ".ts": "mpegts", ".m4a": "mp4"}

# ISO/IEC 14496-12, section 8.3.2: a, b and c, d of a track's matrix, which takes a stored point (x, y), y downwards, to
# (a x + c y, b x + d y) on the screen. The keys are degrees clockwise.
DISPLAY_MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def numbered_frames(count: int, height: int = 48, width: int = 80, first: int = 0) -> Iterable[np.ndarray]:
    """Frames uint8 (height, width, 3), one by one: ten vertical stripes, the highest bit of the number on the left."""
    columns = np.arange(width) * BITS // width
    for number in range(first, first + count):
        bits = np.array([(number >> (BITS - 1 - bit)) & 1 for bit in range(BITS)])
        row = np.where(bits[columns], 220, 40).astype(np.uint8)
        yield np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def read_number(frame: torch.Tensor | np.ndarray) -> int:
    """The number in a frame (3, H, W)."""
    gray = np.asarray(frame, dtype=np.float32).mean(axis=(0, 1))
    centres = ((np.arange(BITS) + 0.5) * len(gray) / BITS).astype(int)
    return int("".join("1" if gray[centre] > 130 else "0" for centre in centres), 2)


def noisy_frames(count: int, height: int = 48, width: int = 80, seed: int = 0) -> list[np.ndarray]:
    """Frames uint8 (height, width, 3) full of detail: coarse and fine noise in colour."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3))
    coarse = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    fine = random.integers(0, 256, (count, height, width, 3))
    return list(((3 * coarse + fine) // 4).astype(np.uint8))


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    frame_rate: int = 25,
    milliseconds: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    with_audio: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames (H, W, 3) into a file; the container follows from the file name.

    `milliseconds` gives every frame its own time (variable frame rate).
    """
    with av.open(str(path), "w", format=_format(path), container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        audio = container.add_stream("aac", rate=16000, layout="mono") if with_audio else None
        stream = container.add_stream(codec, rate=frame_rate, options=options or {})
        # FFmpeg's conversion to deep pixel formats on several threads now and then spoils a row of an odd width.
        stream.thread_count = 1
        for index, array in enumerate(frames):
            if index == 0:
                stream.height, stream.width, stream.pix_fmt = array.shape[0], array.shape[1], pixel_format
            if milliseconds is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            _write_silence(container, audio, seconds=1)
    return path


def write_numbered_video(path: Path, count: int, height: int = 48, width: int = 80, **options) -> Path:
    """A video whose frame i carries the number i."""
    return write_video(path, numbered_frames(count, height, width), **options)


def write_lossless_video(path: Path, frames: Iterable[np.ndarray], **options) -> Path:
    """An FFV1 video (.mkv) that decodes to exactly these RGB frames."""
    return write_video(path, frames, codec="ffv1", pixel_format="bgr0", **options)


def write_audio_only(path: Path, seconds: int = 1) -> Path:
    """A file with sound and without pictures."""
    with av.open(str(path), "w", format=_format(path)) as container:
        _write_silence(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return path


def write_audio_with_cover(path: Path) -> Path:
    """A music file (.mp4): sound, and a cover picture, which FFmpeg presents as a video stream of one frame."""
    with av.open(str(path), "w", format=_format(path)) as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 80, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value  # a plain number, for PyAV below 18
        frame = av.VideoFrame.from_ndarray(next(iter(numbered_frames(1))), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        _write_silence(container, audio, seconds=1)
    return path


def write_zero_frame_video(path: Path) -> Path:
    """A file that declares a video stream and holds no frame of it."""
    with av.open(str(path), "w", format=_format(path)) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        container.start_encoding()
    return path


def write_text_as_video(path: Path) -> Path:
    """Text under a video's name."""
    path.write_text("This is a shopping list, and no video.\n" * 20)
    return path


def repeat_video(path: Path, target: Path, times: int) -> Path:
    """A video that shows another one several times over, without encoding it again."""
    with av.open(str(target), "w") as output:
        copy = None
        for number in range(times):
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                copy = copy or output.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.dts is not None:
                        packet.pts += number * stream.duration
                        packet.dts += number * stream.duration
                        packet.stream = copy
                        output.mux(packet)
    return target


def rotate_track(path: Path, degrees: int, mirrored: bool = False) -> Path:
    """Make an MP4 file ask its player for a turn by `degrees` clockwise, after mirroring left to right if so wanted."""
    content = bytearray(path.read_bytes())
    a, b, c, d = DISPLAY_MATRICES[degrees]
    if mirrored:
        a, b = -a, -b  # x is negated first
    one = 1 << 16
    # Version 0 of the box: type, version and flags, 40 bytes of times and numbers, then nine numbers in 16.16 and 2.30.
    struct.pack_into(
        ">9i", content, content.index(b"tkhd") + 44, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    return path


def skip_first_frames(path: Path, count: int, frame_rate: int = 25) -> Path:
    """Make the edit list of an MP4 file begin its presentation `count` frames later."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        ticks = int(count / frame_rate / container.streams.video[0].time_base)
    # Version 0 of the box: type, version and flags, number of entries, then duration, media time and rate.
    position = content.index(b"elst") + 4 + 4 + 4 + 4
    duration, begin = struct.unpack_from(">Ii", content, position - 4)
    # The duration is counted in the movie's time scale, 1000 a second as PyAV writes it.
    struct.pack_into(">Ii", content, position - 4, duration - round(count / frame_rate * 1000), begin + ticks)
    path.write_bytes(content)
    return path


def cut_off(path: Path, fraction: float) -> Path:
    """Keep the first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def append_garbage(path: Path, count: int = 1000) -> Path:
    """Add random bytes behind a file's end."""
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(count))
    return path


def damage_packets(path: Path, numbers: Iterable[int]) -> Path:
    """Overwrite packets of the video stream, counted in the order of the file, with 0xFF."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size > 0]
    for number in numbers:
        position, size = packets[number]
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    return path


def hide_vp8_frames(path: Path, numbers: Iterable[int]) -> Path:
    """Clear the show_frame bit (RFC 6386, section 9.1) of packets of a VP8 file."""
    content = bytearray(path.read_bytes())
    hidden, position = set(numbers), 0
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size > 0]
    for number, packet in enumerate(packets):
        # Equal packets may stand in a file more than once: look behind the one before.
        position = content.index(packet, position)
        content[position] &= ~0x10 if number in hidden else 0xFF
        position += len(packet)
    path.write_bytes(content)
    return path


def _format(path: Path) -> str:
    return FORMATS.get(path.suffix, path.suffix[1:])


def _write_silence(container, stream, seconds: int) -> None:
    for index in range(16 * seconds):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, index * 1000, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
