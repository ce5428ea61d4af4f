"""Reading files: which frames come back, how they stand, when they were shown, and what is refused."""

import gc
import inspect
import io
import itertools
import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mtcae_dfer import video_packets, video_reading
from mtcae_dfer.video_reading import (
    FrameStream,
    VideoReadingError,
    probe_video,
    read_clip,
    resize_frames,
    uniform_frame_indices,
)
from tests.support import video_files as files

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="real sample clips are not here")


def numbers_of(clip: video_reading.SampledClip) -> list[int]:
    return [files.read_number(frame) for frame in clip.frames]


def decode_all(path: Path) -> list[np.ndarray]:
    """PyAV's own plain loop."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# Sampling


@pytest.mark.parametrize(
    ("frame_count", "expected"),
    [
        (1, [0] * 16),
        (2, [0] * 8 + [1] * 8),
        (15, [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14]),
        (16, list(range(16))),
        (17, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]),
        (1000, [0, 67, 133, 200, 266, 333, 400, 466, 533, 599, 666, 733, 799, 866, 932, 999]),
    ],
)
def test_sixteen_frames_are_spread_from_the_first_to_the_last(frame_count: int, expected: list[int]) -> None:
    assert uniform_frame_indices(frame_count, 16) == expected


def test_indices_are_the_nearest_to_exact_fractions() -> None:
    for frame_count, num_frames in itertools.product(range(1, 60), range(2, 20)):
        indices = uniform_frame_indices(frame_count, num_frames)
        exact = [Fraction(position * (frame_count - 1), num_frames - 1) for position in range(num_frames)]
        assert (len(indices), indices[0], indices[-1]) == (num_frames, 0, frame_count - 1)
        assert all(abs(index - place) <= Fraction(1, 2) for index, place in zip(indices, exact, strict=True))


def test_a_single_frame_is_the_middle_one() -> None:
    assert uniform_frame_indices(9, 1) == [4]


@pytest.mark.parametrize("arguments", [(0, 16), (5, 0)])
def test_nothing_to_sample_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        uniform_frame_indices(*arguments)


# Containers, pixel formats, times


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.flv", "flv"), ("a.ts", "libx264"), ("a.avi", "mpeg4")],
)
def test_every_container_yields_the_sampled_frames(tmp_path: Path, name: str, codec: str) -> None:
    path = files.write_numbered_video(tmp_path / name, 40, codec=codec, with_audio=name != "a.avi")
    clip = read_clip(path)
    assert clip.frame_indices == uniform_frame_indices(40, 16)
    assert numbers_of(clip) == clip.frame_indices
    assert clip.timestamps == pytest.approx([index / 25 for index in clip.frame_indices], abs=1e-3)
    assert (clip.info.width, clip.info.height, clip.info.rotation, clip.info.frame_count) == (80, 48, 0, 40)
    assert clip.info.duration == pytest.approx(1.6, abs=2e-3)
    assert clip.info.frame_rate == pytest.approx(25, abs=0.05)
    assert clip.warning is None
    assert probe_video(path) == clip.info


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.flv", "flv")])
def test_frames_are_counted_where_the_header_says_none(tmp_path: Path, name: str, codec: str) -> None:
    path = files.write_numbered_video(tmp_path / name, 33, codec=codec)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert probe_video(path).frame_count == 33


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv444p16le", "gray", "gray10le", "bgr0"])
@pytest.mark.parametrize("size", [(48, 80), (47, 81)], ids=["even", "odd"])
def test_every_pixel_format_and_size_becomes_rgb(tmp_path: Path, pixel_format: str, size: tuple[int, int]) -> None:
    path = files.write_numbered_video(
        tmp_path / "a.mkv", 20, *size, codec="ffv1", pixel_format=pixel_format, options={"strict": "experimental"}
    )
    clip = read_clip(path)
    assert clip.frames.shape == (16, 3, *size)
    assert clip.frames.dtype == torch.uint8
    assert numbers_of(clip) == clip.frame_indices
    # The stripes are drawn in the gray levels 40 and 220.
    assert set(clip.frames.unique().tolist()) <= {*range(37, 44), *range(217, 224)}


def test_ten_bit_h264_is_read(tmp_path: Path) -> None:
    clip = read_clip(files.write_numbered_video(tmp_path / "a.mp4", 20, pixel_format="yuv420p10le"))
    assert numbers_of(clip) == clip.frame_indices


def test_a_lossless_file_gives_back_its_very_pictures(tmp_path: Path) -> None:
    frames = files.noisy_frames(16, 33, 47)
    clip = read_clip(files.write_lossless_video(tmp_path / "a.mkv", frames))
    assert torch.equal(clip.frames, torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_variable_frame_rate_keeps_each_frames_own_time(tmp_path: Path, name: str) -> None:
    milliseconds = [500 + 10 * index**2 for index in range(20)]
    path = files.write_numbered_video(tmp_path / name, 20, milliseconds=milliseconds)
    clip = read_clip(path, num_frames=5)
    assert clip.frame_indices == [0, 5, 10, 14, 19]
    assert clip.timestamps == pytest.approx([0, 0.25, 1.0, 1.96, 3.61], abs=1e-3)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_reordered_frames_that_lie_far_apart_are_no_second_recording(tmp_path: Path, name: str) -> None:
    milliseconds = [700 * index + 9 * index**2 for index in range(16)]
    options = {"bf": "3", "b-adapt": "0", "b-pyramid": "normal"}
    path = files.write_numbered_video(tmp_path / name, 16, milliseconds=milliseconds, options=options)
    clip = read_clip(path)
    assert numbers_of(clip) == list(range(16))
    assert clip.timestamps == pytest.approx([time / 1000 for time in milliseconds], abs=1e-3)
    assert FrameStream(path).times == pytest.approx(np.array(milliseconds) / 1000, abs=1e-3)


def test_a_single_frame_is_repeated(tmp_path: Path) -> None:
    clip = read_clip(files.write_numbered_video(tmp_path / "a.mp4", 1))
    assert clip.frame_indices == [0] * 16
    assert clip.frames.shape == (16, 3, 48, 80)
    assert clip.timestamps == [0.0] * 16


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 40, options={"g": "10"})
    clip = read_clip(files.skip_first_frames(path, 7))
    assert clip.info.frame_count == 33
    assert numbers_of(clip) == [7 + index for index in clip.frame_indices]
    assert clip.timestamps[0] == 0
    assert clip.warning is None


def test_vp8_frames_that_are_never_shown_do_not_count(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.webm", 20, codec="libvpx")
    clip = read_clip(files.hide_vp8_frames(path, [10]))
    assert clip.info.frame_count == 19
    assert numbers_of(clip) == [index + (index >= 10) for index in clip.frame_indices]
    assert clip.warning is None


def test_a_stream_that_changes_its_size_comes_in_the_first_size(tmp_path: Path) -> None:
    small = files.write_numbered_video(tmp_path / "small.ts", 8)
    large = files.write_numbered_video(tmp_path / "large.ts", 8, 96, 160)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    clip = read_clip(joined)
    assert clip.frames.shape == (16, 3, 48, 80)
    assert numbers_of(clip) == [*range(8), *range(8)]


def test_tags_in_an_unknown_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mkv", 3, metadata={"title": "TITLE OF THE CLIP"})
    path.write_bytes(path.read_bytes().replace(b"TITLE OF THE CLIP", b"TITLE \xe9\xff THE CLIP"))
    assert read_clip(path).info.frame_count == 3


# Rotation


def test_the_display_matrix_is_undone(tmp_path: Path) -> None:
    frames = files.noisy_frames(3)
    stored = np.stack(decode_all(files.write_video(tmp_path / "stored.mp4", frames)))
    for degrees, mirrored in itertools.product([0, 90, 180, 270], [False, True]):
        path = tmp_path / f"{degrees}_{mirrored}.mp4"
        files.rotate_track(files.write_video(path, frames), degrees, mirrored)
        expected = stored[:, :, ::-1] if mirrored else stored
        # numpy turns counterclockwise.
        expected = np.rot90(expected, k=-degrees // 90, axes=(1, 2))
        clip = read_clip(path, num_frames=3)
        assert np.array_equal(clip.frames.permute(0, 2, 3, 1).numpy(), expected), (degrees, mirrored)
        size = (80, 48) if degrees in (0, 180) else (48, 80)
        assert (clip.info.width, clip.info.height) == size
        assert (probe_video(path).width, probe_video(path).height) == size


def test_a_quarter_turn_clockwise_takes_the_upper_left_corner_to_the_upper_right(tmp_path: Path) -> None:
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:16, :16] = (250, 20, 20)
    path = files.rotate_track(files.write_video(tmp_path / "a.mp4", [picture] * 2), 90)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90  # FFmpeg counts counterclockwise
    clip = read_clip(path)
    assert clip.info.rotation == 90
    red = clip.frames[0, 0] > 128
    assert clip.frames.shape[-2:] == (80, 48)
    assert red[:14, -14:].all() and not red[20:].any() and not red[:, :28].any()


# Sources


class Unseekable(io.RawIOBase):
    """A stream that can be read once, like a pipe."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        return self.content.readinto(buffer)


def test_all_sources_give_the_same_clip(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 20)
    content = path.read_bytes()
    expected = read_clip(str(path))
    read_already = io.BytesIO(content)
    read_already.read()
    with path.open("rb") as opened:
        sources = [path, content, bytearray(content), read_already, Unseekable(content), opened]
        names = [str(path), "<bytes>", "<bytes>", "<file object>", "<file object>", str(path)]
        for source, name in zip(sources, names, strict=True):
            clip = read_clip(source)
            assert torch.equal(clip.frames, expected.frames)
            assert clip.timestamps == expected.timestamps
            assert clip.info.name == name
        assert not opened.closed
        assert torch.equal(read_clip(opened).frames, expected.frames)


def test_a_name_that_looks_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_numbered_video(tmp_path / "a.mp4", 3).rename(tmp_path / "concat:a.mp4")
    assert read_clip("concat:a.mp4").info.frame_count == 3


def test_something_else_than_a_video_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="path, bytes or a binary file object, not int"):
        read_clip(7)
    text = files.write_text_as_video(tmp_path / "a.txt")
    with text.open() as opened, pytest.raises(TypeError, match="mode 'rb'"):
        read_clip(opened)


# Prescribed frames, early end, threads


def test_prescribed_frames_are_returned_sorted_with_their_repeats(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 30)
    clip = read_clip(path, frame_indices=[20, 3, 3, 29])
    assert clip.frame_indices == [3, 3, 20, 29]
    assert numbers_of(clip) == [3, 3, 20, 29]


@pytest.mark.parametrize("index", [30, -1])
def test_a_prescribed_frame_that_does_not_exist_is_refused(tmp_path: Path, index: int) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 30)
    with pytest.raises(VideoReadingError, match=f"a.mp4' has 30 readable frames, but frame {index} was asked for"):
        read_clip(path, frame_indices=[0, index])
    with pytest.raises(ValueError, match="frame_indices is empty"):
        read_clip(path, frame_indices=[])


def test_decoding_stops_after_the_last_wanted_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 400, options={"bf": "0"})
    decoded = []
    original = video_reading._DecodedFrames.__iter__
    monkeypatch.setattr(
        video_reading._DecodedFrames, "__iter__", lambda self: (decoded.append(1) or f for f in original(self))
    )
    read_clip(path, frame_indices=[2, 9])
    assert len(decoded) == 10


def test_several_threads_decode_what_one_thread_decodes(tmp_path: Path) -> None:
    path = files.write_video(tmp_path / "a.mp4", files.noisy_frames(60, 96, 160))
    video = video_reading._ReopenableVideo.from_source(path)
    packets = video_reading._count_packets(video)
    wanted = list(range(60))
    alone = video_reading._decode_frames(video, packets, wanted, None, to_the_end=True)
    for _ in range(3):
        together = video_reading._decode_frames(video, packets, wanted, None)
        assert all(torch.equal(together.pictures[index], alone.pictures[index]) for index in wanted)


# Packets that no wanted frame needs


SPARING_SPARSE = [0, 2, 41]
X264 = {
    "pyramid": "bframes=3:b-pyramid=normal",
    "open groups": "open-gop=1:keyint=12:bframes=3",
    "closed groups, slices": "keyint=10:slices=3",
    "many references": "ref=5:bframes=8:b-adapt=0:b-pyramid=strict",
    "no bidirectional frames": "bframes=0:keyint=8",
    "gradual refresh": "intra-refresh=1:bframes=2",
}
DECODED_WHOLE = {
    "interlaced": ("a.mp4", {"options": {"x264-params": "interlaced=1"}}),
    "times of decoding only": ("a.avi", {}),
    "matroska": ("a.mkv", {}),
    "flv1": ("a.flv", {"codec": "flv"}),
    "mpeg-4": ("a.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
}


@pytest.fixture(scope="module")
def lively_frames() -> list[np.ndarray]:
    """Frames with numbers, and noise that no encoder can predict."""
    pairs = zip(files.noisy_frames(42), files.numbered_frames(42), strict=True)
    return [(noise // 5 + number // 5 * 4).astype(np.uint8) for noise, number in pairs]


def read_all_packets(path: Path, **options) -> video_reading.SampledClip:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_packets.PacketDependencies, "packets_for", lambda self, wanted: None)
        return read_clip(path, **options)


def assert_reads_as_if_all_were_decoded(path: Path) -> None:
    for options in ({}, {"num_frames": 3}, {"frame_indices": SPARING_SPARSE}, {"frame_indices": [17]}):
        try:
            expected = read_all_packets(path, **options)
        except VideoReadingError as refusal:
            with pytest.raises(VideoReadingError) as same:
                read_clip(path, **options)
            assert str(same.value) == str(refusal)
            continue
        clip = read_clip(path, **options)
        assert (clip.frame_indices, clip.timestamps) == (expected.frame_indices, expected.timestamps), options
        assert (clip.info, clip.warning) == (expected.info, expected.warning), options
        assert torch.equal(clip.frames, expected.frames), options


def packets_decoded(path: Path, wanted: list[int]) -> int | None:
    """Of how many packets a reading makes use; None: of all."""
    needed = video_reading._count_packets(video_reading._ReopenableVideo.from_source(path)).dependencies
    packets = needed.packets_for(wanted)
    return None if packets is None else len(packets)


@pytest.mark.parametrize("kind", X264)
def test_passing_over_packets_changes_no_frame(tmp_path: Path, lively_frames: list[np.ndarray], kind: str) -> None:
    path = files.write_video(tmp_path / "a.mp4", lively_frames, options={"x264-params": X264[kind]})
    assert packets_decoded(path, SPARING_SPARSE) < 42
    assert_reads_as_if_all_were_decoded(path)
    assert numbers_of(read_clip(path)) == uniform_frame_indices(42, 16)
    assert numbers_of(read_clip(path, frame_indices=SPARING_SPARSE)) == SPARING_SPARSE


@pytest.mark.parametrize("kind", DECODED_WHOLE)
def test_unless_it_is_certain_all_packets_are_decoded(
    tmp_path: Path, lively_frames: list[np.ndarray], kind: str
) -> None:
    name, options = DECODED_WHOLE[kind]
    path = files.write_video(tmp_path / name, lively_frames, **options)
    assert packets_decoded(path, SPARING_SPARSE) is None
    if name != "a.avi":
        assert numbers_of(read_clip(path, frame_indices=SPARING_SPARSE)) == SPARING_SPARSE


def test_passing_over_packets_heeds_edit_lists_and_variable_frame_rates(
    tmp_path: Path, lively_frames: list[np.ndarray]
) -> None:
    edited = files.write_video(tmp_path / "edited.mp4", lively_frames, options={"g": "10"})
    files.skip_first_frames(edited, 7)
    milliseconds = [500 + 10 * index**2 for index in range(42)]
    variable = files.write_video(tmp_path / "variable.mp4", lively_frames, milliseconds=milliseconds)
    assert packets_decoded(edited, [0, 30]) < 35 and packets_decoded(variable, [0, 30]) < 42
    for path, options in ((edited, {"num_frames": 9}), (edited, {"frame_indices": [30]}), (variable, {})):
        clip, expected = read_clip(path, **options), read_all_packets(path, **options)
        assert torch.equal(clip.frames, expected.frames)
        assert (clip.timestamps, clip.info) == (expected.timestamps, expected.info)
    assert numbers_of(read_clip(edited, frame_indices=[0, 30])) == [7, 37]


@pytest.mark.parametrize("begins", ["packet", "inside", "header"])
def test_damage_is_noticed_in_packets_that_are_passed_over(
    tmp_path: Path, lively_frames: list[np.ndarray], begins: str
) -> None:
    options = {"options": {"x264-params": "bframes=3:keyint=14"}, "container_options": {"movflags": "faststart"}}
    whole = files.write_video(tmp_path / "whole.mp4", lively_frames, **options)
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    random = np.random.default_rng(0)
    skipped = {"packet": 0, "inside": 20, "header": 5}[begins]
    for position, size in packets[2::8]:
        content = bytearray(whole.read_bytes())
        length = 4 if begins == "header" else size - skipped
        content[position + skipped : position + skipped + length] = random.bytes(length)
        path = tmp_path / "damaged.mp4"
        path.write_bytes(content)
        assert_reads_as_if_all_were_decoded(path)


@pytest.mark.parametrize("place", range(0, 45))
def test_damaged_parameters_are_that_clips_failure_or_none(tmp_path: Path, place: int) -> None:
    """Those of H.264, which stand in the file's header: FFmpeg's parser refuses some that its decoder can live with."""
    path = files.write_numbered_video(tmp_path / "a.mp4", 12)
    content = bytearray(path.read_bytes())
    content[content.index(b"avcC") + 4 + place] ^= 0xFF
    path.write_bytes(content)
    assert_reads_as_if_all_were_decoded(path)


def test_whatever_a_clip_makes_the_demuxer_raise_names_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write_numbered_video(tmp_path / "odd.mp4", 5)

    def stumble(*_: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr(video_reading, "count_packets", stumble)
    for read in (read_clip, probe_video, FrameStream):
        with pytest.raises(VideoReadingError, match="odd.mp4' cannot be decoded"):
            read(path)


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.95])
def test_passing_over_packets_of_a_cut_off_file_changes_no_frame(
    tmp_path: Path, lively_frames: list[np.ndarray], fraction: float
) -> None:
    options = {"options": {"g": "10"}, "container_options": {"movflags": "faststart"}}
    path = files.write_video(tmp_path / "a.mp4", lively_frames, **options)
    assert_reads_as_if_all_were_decoded(files.cut_off(path, fraction))


def test_what_a_clip_was_sampled_at_gives_the_clip_again(tmp_path: Path, lively_frames: list[np.ndarray]) -> None:
    path = files.write_video(tmp_path / "a.mp4", lively_frames, options={"x264-params": "bframes=3:keyint=14"})
    for number in (5, 20, 33):
        damaged = tmp_path / f"{number}.mp4"
        damaged.write_bytes(path.read_bytes())
        clip = read_clip(files.damage_packets(damaged, [number]))
        again = read_clip(damaged, frame_indices=clip.frame_indices)
        assert torch.equal(again.frames, clip.frames) and again.timestamps == clip.timestamps


def test_of_a_long_video_only_the_groups_with_wanted_frames_are_decoded(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}
    path = files.write_numbered_video(tmp_path / "a.mp4", 400, options=options)
    assert packets_decoded(path, [0, 123, 399]) == 1 + 4 + 10
    assert numbers_of(read_clip(path, frame_indices=[0, 123, 399])) == [0, 123, 399]


# Resizing


def test_frames_are_squashed_to_the_size_asked_for(tmp_path: Path) -> None:
    path = files.write_video(tmp_path / "a.mp4", files.noisy_frames(5))
    native, small = read_clip(path), read_clip(path, size=(20, 30))
    assert small.frames.shape == (16, 3, 20, 30)
    assert torch.equal(small.frames, resize_frames(native.frames, (20, 30)))
    assert (small.info.width, small.info.height) == (80, 48)


def test_resizing_does_not_depend_on_batch_nor_memory_layout() -> None:
    frames = torch.from_numpy(np.stack(files.noisy_frames(4, 50, 70)))
    channels_last = frames.permute(0, 3, 1, 2)
    together = resize_frames(channels_last, (24, 32))
    assert together.shape == (4, 3, 24, 32)
    for index in range(4):
        assert torch.equal(resize_frames(channels_last[index].contiguous(), (24, 32)), together[index])
    nested = resize_frames(channels_last.unflatten(0, (2, 2)), (24, 32))
    assert torch.equal(nested.flatten(0, 1), together)


def test_resizing_averages_areas() -> None:
    # Checkers of 1 pixel become even gray under antialiasing; without it they would stay black or white.
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 200
    resized = resize_frames(checkers.to(torch.uint8).expand(3, 64, 64), (8, 8))
    assert (resized.int() - 100).abs().max() <= 2


# Damaged files


def test_a_cut_off_mp4_is_sampled_over_its_readable_part(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    options = {"container_options": {"movflags": "faststart"}, "options": {"bf": "0"}}
    files.write_video(path, files.noisy_frames(40), **options)
    whole = read_clip(path, num_frames=40)
    files.cut_off(path, 0.5)
    clip = read_clip(path)
    readable = clip.info.frame_count
    assert 16 <= readable <= 24
    assert clip.frame_indices == uniform_frame_indices(readable, 16)
    assert clip.warning == (
        f"'{path}' is damaged or cut off: only the first {readable} of 40 frames could be read; sampled from those"
    )
    assert torch.equal(clip.frames, whole.frames[clip.frame_indices])


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.flv", "flv")])
def test_a_cut_off_file_without_a_frame_count_is_noticed_by_its_duration(tmp_path: Path, name: str, codec: str) -> None:
    path = files.cut_off(files.write_video(tmp_path / name, files.noisy_frames(60), codec=codec), 0.5)
    clip = read_clip(path)
    assert clip.frame_indices[-1] == clip.info.frame_count - 1 < 45
    assert f"only the first {clip.info.frame_count} of about" in clip.warning


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.flv", "flv")])
def test_a_stream_tells_behind_its_last_frame_that_the_file_is_cut_off(tmp_path: Path, name: str, codec: str) -> None:
    path = files.write_video(tmp_path / name, files.noisy_frames(60), codec=codec)
    stream = FrameStream(path)
    assert len(list(stream)) == 60 and stream.warning is None
    stream = FrameStream(files.cut_off(path, 0.5))
    assert stream.warning is None
    count = len(list(stream))
    assert count < 45 and stream.warning == read_clip(path).warning
    assert f"only the first {count} of about" in stream.warning


def test_a_cut_off_file_is_too_short_for_prescribed_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    files.write_video(path, files.noisy_frames(40), container_options={"movflags": "faststart"})
    files.cut_off(path, 0.5)
    with pytest.raises(VideoReadingError, match="readable frames, but frame 39 was asked for"):
        read_clip(path, frame_indices=[0, 39])


def test_a_corrupt_last_packet_costs_one_frame(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 40, options={"bf": "0"})
    clip = read_clip(files.damage_packets(path, [39]))
    assert clip.frame_indices == uniform_frame_indices(39, 16)
    assert numbers_of(clip) == clip.frame_indices
    assert "only the first 39 of 40 frames" in clip.warning
    with pytest.raises(VideoReadingError, match="39 readable frames, but frame 39"):
        read_clip(path, frame_indices=[39])
    assert numbers_of(read_clip(path, frame_indices=[0, 38])) == [0, 38]


def test_a_corrupt_last_packet_of_an_flv_file_costs_at_most_one_frame(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.flv", 40, codec="flv")
    clip = read_clip(files.damage_packets(path, [39]))
    assert clip.info.frame_count >= 39
    assert numbers_of(clip) == clip.frame_indices


def test_corrupt_packets_in_the_middle_are_passed_over(tmp_path: Path) -> None:
    path = files.write_numbered_video(tmp_path / "a.mp4", 40, options={"bf": "0", "g": "1"})
    clip = read_clip(files.damage_packets(path, [20, 21]))
    assert clip.frame_indices == uniform_frame_indices(38, 16)
    assert numbers_of(clip) == [index + 2 * (index >= 20) for index in clip.frame_indices]
    assert clip.timestamps == pytest.approx([number / 25 for number in numbers_of(clip)], abs=1e-3)
    assert "only 38 of 40 frames" in clip.warning


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.flv", "flv")])
def test_garbage_behind_the_end_changes_nothing(tmp_path: Path, name: str, codec: str) -> None:
    path = files.append_garbage(files.write_numbered_video(tmp_path / name, 40, codec=codec))
    clip = read_clip(path)
    assert numbers_of(clip) == uniform_frame_indices(40, 16)
    assert clip.warning is None


# Refusals


def empty(path: Path) -> Path:
    path.touch()
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def all_packets_corrupt(path: Path) -> Path:
    return files.damage_packets(files.write_numbered_video(path, 20, options={"bf": "0"}), range(20))


def cut_off_before_the_index(path: Path) -> Path:
    return files.cut_off(files.write_numbered_video(path, 20), 0.5)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


REFUSED = {
    "missing": ("a.mp4", lambda path: path, "does not exist: check the path"),
    "directory": ("a.mp4", directory, "is a directory, not a video file"),
    "empty": ("a.mp4", empty, "is empty (0 bytes)"),
    "text": ("a.mp4", files.write_text_as_video, "cannot be opened as a video"),
    "audio only": ("a.mp4", files.write_audio_only, "has no video stream (only audio)"),
    "audio with cover picture": ("a.mp4", files.write_audio_with_cover, "has no video stream (only audio)"),
    "zero frames, avi": ("a.avi", files.write_zero_frame_video, "has a video stream without a single frame"),
    "zero frames, mp4": ("a.mp4", files.write_zero_frame_video, "has no video stream"),
    "zero frames, mkv": ("a.mkv", files.write_zero_frame_video, "cannot be opened as a video"),
    "no frame decodes": ("a.mp4", all_packets_corrupt, "none of its 20 frames can be decoded"),
    "cut off before the index": ("a.mp4", cut_off_before_the_index, "cannot be opened as a video"),
    "no regular file": ("a.mp4", pipe, "is not a regular file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_readable_video_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    name, make, expected = REFUSED[kind]
    path = make(tmp_path / name)
    for read in (read_clip, probe_video):
        with pytest.raises(VideoReadingError) as refusal:
            read(path)
        message = str(refusal.value)
        assert message.startswith(f"'{path}' ")
        assert expected in message
        assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"no video at all"], ids=["empty", "text"])
def test_bad_bytes_are_refused_without_a_path(content: bytes) -> None:
    for source, name in ((content, "<bytes>"), (io.BytesIO(content), "<file object>")):
        with pytest.raises(VideoReadingError, match=f"^{name} "):
            read_clip(source)


def test_an_address_is_refused() -> None:
    with pytest.raises(VideoReadingError, match="is an address, not a file: download"):
        read_clip("https://example.org/clip.mp4")


def test_a_play_list_under_a_videos_name_does_not_reach_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        for name in ("a.m3u8", "a.mp4"):
            path = tmp_path / name
            path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
            with path.open("rb") as opened:
                for source in (path, path.read_bytes(), opened):
                    with pytest.raises(VideoReadingError):
                        read_clip(source)
        with pytest.raises(TimeoutError):
            server.accept()


# Times


PICTURES = 30  # of 8 × 8 blocks in which H.264 finds something to refer back to


def write_reordered(path: Path, form: str) -> Path:
    """The same pictures as H.264 with pictures that refer to later ones, 25 a second."""
    frames = [np.roll(files.noisy_frames(1, 64, 64)[0], 3 * t, axis=1) for t in range(PICTURES)]
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "b-adapt": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_in_decoding_order(path: Path, raw: Path) -> Path:
    """MP4 whose times are those of decoding, as OpenCV's VideoWriter wrote it."""
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.time_base = Fraction(1, 25)
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.time_base, packet.duration = stream, Fraction(1, 25), 1
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


@pytest.mark.parametrize("form", ["matroska", "avi", "asf", "mpegts", "flv", "h264", "mp4 in decoding order"])
def test_pictures_come_in_the_order_and_at_the_times_of_display(tmp_path: Path, form: str) -> None:
    if form == "mp4 in decoding order":
        path = write_in_decoding_order(tmp_path / "a.mp4", write_reordered(tmp_path / "a.h264", "h264"))
    else:
        path = write_reordered(tmp_path / "a", form)
    frames = list(video_reading.FrameStream(path))
    assert [frame.index for frame in frames] == list(range(PICTURES))
    assert [frame.time for frame in frames] == pytest.approx([t / 25 for t in range(PICTURES)], abs=1e-3)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(frame.picture().permute(1, 2, 0).numpy(), picture)
    clip = read_clip(path)
    assert clip.timestamps == pytest.approx([index / 25 for index in clip.frame_indices], abs=1e-3)


def test_recordings_put_one_behind_the_other_go_on_in_time(tmp_path: Path) -> None:
    part = write_reordered(tmp_path / "part.ts", "mpegts").read_bytes()
    # Each recording takes 1.2 seconds; the second one's times begin where the first one's did.
    (tmp_path / "both.ts").write_bytes(part * 2)
    frames = list(video_reading.FrameStream(tmp_path / "both.ts"))
    assert [frame.index for frame in frames] == list(range(2 * PICTURES))
    assert [frame.time for frame in frames] == pytest.approx([t / 25 for t in range(2 * PICTURES)], abs=1e-3)


# What a single clip may hold


def photograph(path: Path, orientation: int) -> Path:
    """A picture with a bright corner, and Exif that says how the camera was held."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


# Exif 2.32, tag Orientation: which corner of the upright picture the stored picture's first pixel belongs to.
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, "upper left"),
        (2, "upper right"),
        (3, "lower right"),
        (4, "lower left"),
        (5, "upper left"),
        (6, "upper right"),
        (7, "lower right"),
        (8, "lower left"),
    ],
)
def test_a_camera_held_in_any_way_gives_upright_pictures(tmp_path: Path, orientation: int, corner: str) -> None:
    clip = read_clip(photograph(tmp_path / "a.jpg", orientation), 1)
    height, width = (32, 48) if orientation < 5 else (48, 32)
    assert clip.frames.shape == (1, 3, height, width)
    rows = slice(0, 8) if "upper" in corner else slice(height - 8, height)
    columns = slice(0, 8) if "left" in corner else slice(width - 8, width)
    bright = clip.frames[0, 0, rows, columns].float().mean()
    assert bright > 200 and clip.frames[0, 0].float().mean() < 30


@pytest.mark.parametrize("error", [RuntimeError("31 is not\na kind"), ValueError("odd"), OverflowError("too large")])
def test_whatever_a_clip_makes_the_decoder_raise_names_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = files.write_numbered_video(tmp_path / "odd.mp4", 5)

    def stumble(self: object, packet: object) -> None:
        raise error

    monkeypatch.setattr(video_reading._DecodedFrames, "_decode", stumble)
    for read in (read_clip, probe_video, video_reading.FrameStream):
        with pytest.raises(VideoReadingError, match="odd.mp4' cannot be decoded") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 414429\n"
    (tmp_path / "a.flv").write_bytes(pointer)
    for source in (tmp_path / "a.flv", pointer, io.BytesIO(pointer)):
        with pytest.raises(VideoReadingError, match="Git LFS pointer, .*`git lfs pull`"):
            read_clip(source)


# Memory


def test_no_frame_outlives_its_reading(tmp_path: Path) -> None:
    """A frame that waits for the garbage collector holds its pixels, the decoder and the decoder's threads."""
    video = files.write_numbered_video(tmp_path / "numbered.mp4", 20)
    turned = photograph(tmp_path / "turned.jpg", 6)
    gc.collect()
    gc.disable()
    try:
        for source in (video, turned):
            read_clip(source, 4)
        for frame in FrameStream(video):
            frame.picture()
        del frame
        # PyAV 17.0 leaves frames behind that hold nothing.
        assert [found for found in gc.get_objects() if type(found) is av.VideoFrame and found.format] == []
    finally:
        gc.enable()


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path) -> None:
    options = {"frame_rate": 10, "options": {"preset": "ultrafast"}}
    short = files.write_numbered_video(tmp_path / "short.mp4", 200, 96, 96, **options)
    for minutes in (1, 10):
        files.repeat_video(short, tmp_path / f"{minutes}.mp4", 3 * minutes)
    # Ten minutes of RGB frames would be 166 MB, of decoded frames 83 MB. A fresh process has no earlier peak.
    program = inspect.cleandoc(
        f"""
        import importlib, resource, sys, types
        # A package of this name whose __init__ is not run: it would bring all models into memory.
        package = sys.modules["root"] = types.ModuleType("root")
        package.__path__ = [{str(Path(video_reading.__file__).parent)!r}]
        module = importlib.import_module("root.video_reading")
        for minutes in (1, 10):
            clip = module.read_clip({str(tmp_path)!r} + f"/{{minutes}}.mp4", size=(224, 224))
            assert clip.info.frame_count == 600 * minutes and clip.frame_indices[-1] == 600 * minutes - 1
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    one_minute, ten_minutes = (int(line) / 1024 for line in run.stdout.split())
    assert ten_minutes - one_minute < 16, f"peak memory grew from {one_minute:.0f} to {ten_minutes:.0f} MB"


# Real clips


@needs_samples
@pytest.mark.parametrize(
    ("name", "size", "frame_count"),
    [
        ("1001_DFA_ANG_XX.flv", (480, 360), 67),
        ("01-01-08-02-02-02-01.mp4", (1280, 720), 97),  # 98 in the header, one hidden by the edit list
        ("no_face.mp4", (960, 540), 95),  # 98 in the header, three hidden by the edit list
    ],
)
def test_real_clips_are_read_to_their_last_frame(name: str, size: tuple[int, int], frame_count: int) -> None:
    frames = decode_all(SAMPLES / name)
    clip = read_clip(SAMPLES / name)
    assert clip.warning is None
    assert (clip.info.width, clip.info.height) == size
    assert clip.info.frame_count == len(frames) == frame_count
    assert clip.frame_indices == uniform_frame_indices(frame_count, 16)
    expected = np.stack([frames[index] for index in clip.frame_indices])
    assert np.array_equal(clip.frames.permute(0, 2, 3, 1).numpy(), expected)
