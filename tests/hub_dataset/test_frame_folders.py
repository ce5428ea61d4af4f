"""Folders of JPEG frames as video files: the same pixels, in the right order, whatever else lies there."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora.frame_folders import jpeg_size, pack_frame_folders
from mtcae_dfer.video_reading import probe_video, read_clip


def write_frames(folder: Path, count: int, height: int = 48, width: int = 64, pattern: str = "{}.jpg") -> Path:
    """Frames whose brightness is ten times their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        encoded = cv2.imencode(".jpg", np.full((height, width, 3), 10 * number, np.uint8))[1]
        (folder / pattern.format(number)).write_bytes(encoded.tobytes())
    return folder


def test_frames_keep_their_pixels_and_their_order(tmp_path):
    folder = write_frames(tmp_path / "in" / "Action" / "Happy" / "0267", 12)  # "10.jpg" comes after "9.jpg"
    report = pack_frame_folders(tmp_path / "in", tmp_path / "out", Fraction(30000, 1001), progress=False)
    video = tmp_path / "out" / "Action" / "Happy" / "0267.avi"
    assert (report.packed, report.failures) == (1, ())
    info = probe_video(video)
    assert (info.frame_count, info.width, info.height) == (12, 64, 48)
    assert info.frame_rate == pytest.approx(29.97, abs=0.01)
    frames = read_clip(video, num_frames=12).frames
    assert [int(frame.float().mean()) for frame in frames] == [10 * number for number in range(12)]
    with av.open(str(video)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert packets == [(folder / f"{number}.jpg").read_bytes() for number in range(12)]


def test_a_second_call_keeps_what_is_there_and_gives_the_same_bytes(tmp_path):
    write_frames(tmp_path / "in" / "a", 3)
    pack_frame_folders(tmp_path / "in", tmp_path / "in" / "packed", progress=False)
    video = tmp_path / "in" / "packed" / "a.avi"
    first, changed = video.read_bytes(), video.stat().st_mtime_ns
    write_frames(tmp_path / "in" / "b", 3)
    assert pack_frame_folders(tmp_path / "in", tmp_path / "in" / "packed", progress=False).packed == 2
    assert video.stat().st_mtime_ns == changed
    pack_frame_folders(tmp_path / "in", tmp_path / "again", progress=False)
    assert (tmp_path / "again" / "a.avi").read_bytes() == first


def test_a_video_follows_its_frames_and_its_rate(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        write_frames(source / name, 3)
    pack_frame_folders(source, output, progress=False)
    kept = (output / "b.avi").stat().st_mtime_ns
    (source / "a" / "3.jpg").write_bytes((source / "a" / "2.jpg").read_bytes())
    assert pack_frame_folders(source, output, progress=False).failures == ()
    assert (probe_video(output / "a.avi").frame_count, probe_video(output / "b.avi").frame_count) == (4, 3)
    assert (output / "b.avi").stat().st_mtime_ns == kept
    pack_frame_folders(source, output, Fraction(5), progress=False)
    assert [probe_video(output / f"{name}.avi").frame_rate for name in "ab"] == pytest.approx([5, 5])
    # Frames that have become unusable leave no video of the earlier ones.
    (source / "a" / "1.jpg").write_bytes(b"not a picture")
    assert pack_frame_folders(source, output, Fraction(5), progress=False).failures == ("a: 1.jpg is no JPEG picture",)
    assert sorted(file.name for file in output.iterdir()) == [".b.avi.json", "b.avi"]


def test_a_video_of_somebody_elses_is_named_and_kept(tmp_path):
    write_frames(tmp_path / "in" / "a", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.avi").write_bytes(b"years of work")
    (failure,) = pack_frame_folders(tmp_path / "in", tmp_path / "out", progress=False).failures
    assert "a.avi is there and was not packed by this command; delete it" in failure
    assert (tmp_path / "out" / "a.avi").read_bytes() == b"years of work"


@pytest.mark.parametrize("rate", ["0", "-3", "1001", "1e-9"])
def test_a_rate_that_no_video_has_is_refused_before_any_work(tmp_path, capsys, rate):
    write_frames(tmp_path / "in" / "a", 1)
    command = ["dataset", "pack-frames", str(tmp_path / "in"), str(tmp_path / "out"), f"--frame-rate={rate}"]
    assert main(command) == 2
    told = f"--frame-rate {Fraction(rate)}: must be greater than 0 and at most 1000 frames per second"
    assert capsys.readouterr().err.splitlines() == [f"mtcae: error: {told}"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", ["1/0", "fast"])
def test_a_rate_that_is_no_number_is_one_line(rate, capsys):
    with pytest.raises(SystemExit):
        main(["dataset", "pack-frames", "in", "out", "--frame-rate", rate])
    assert f"{rate} is no number, such as 25 or 30000/1001" in capsys.readouterr().err.splitlines()[-1]


def test_a_rate_of_many_digits_is_written_down_as_well_as_a_video_can(tmp_path):
    write_frames(tmp_path / "in" / "a", 3)
    pack_frame_folders(tmp_path / "in", tmp_path / "out", Fraction("29.97002997002997"), progress=False)
    assert probe_video(tmp_path / "out" / "a.avi").frame_rate == pytest.approx(29.97, abs=0.01)


def test_bad_folders_are_named_with_the_reason_and_the_rest_is_packed(tmp_path, capsys):
    write_frames(tmp_path / "in" / "good", 3, pattern="frame {}.JPG")
    write_frames(tmp_path / "in" / "mixed", 2)
    write_frames(tmp_path / "in" / "other", 1, height=32)
    (tmp_path / "in" / "other" / "0.jpg").rename(tmp_path / "in" / "mixed" / "7.jpg")
    (tmp_path / "in" / "other" / "0.jpg").write_bytes(b"not a picture")
    assert main(["dataset", "pack-frames", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "1 folders of frames" in printed.out
    assert "mixed: 7.jpg has 64x32 pixels, but 0.jpg 64x48" in printed.err
    assert "other: 0.jpg is no JPEG picture" in printed.err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".good.avi.json", "good.avi"]


def test_a_folder_without_frames_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found no folders of JPEG frames"):
        pack_frame_folders(tmp_path, tmp_path / "out")
    with pytest.raises(DatasetError, match="expected a folder with folders of JPEG frames"):
        pack_frame_folders(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x04ab", b"\x89PNG" + bytes(40)])
def test_what_is_no_jpeg_has_no_size(data):
    assert jpeg_size(data) is None


def test_a_progressive_jpeg_has_a_size():
    picture = np.zeros((30, 50, 3), np.uint8)
    assert jpeg_size(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()) == (50, 30)
