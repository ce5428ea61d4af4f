"""Reading clips: this repository's reader against decoding everything, and against transformers' own processor.

    python benchmarks/reading.py [--rounds 5] [--samples FOLDER]

All contestants turn a video file into 16 frames of 224×224 pixels. "Decode and resize all" is how the field's published
code prepares clips: every frame is decoded, converted and resized, then 16 are taken. Times are for a clip of 4 seconds
of 1280×720 H.264 (and a recording of RAVDESS, where present); rounds of the contestants alternate, the table shows each
one's median. Memory is the growth of a fresh process's peak while it reads a video of 640×360; the long videos repeat
the packets of a short one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from results_file import keep_table

from mtcae_dfer.video_reading import read_clip, resize_frames, uniform_frame_indices

SIZE = (224, 224)
NUM_FRAMES = 16
FRAME_RATE = 25
LOOP_SECONDS = 10
SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
REAL_CLIP = "01-01-08-02-02-02-01.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each contestant (default: 5)")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder of real clips, where present")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder, "drawn.mp4"), 4 * FRAME_RATE, 720, 1280)
        lines = speed_table("4 seconds of 1280×720 H.264, drawn", clip, arguments.rounds)
        if (arguments.samples / REAL_CLIP).is_file():
            lines += speed_table("A recording of RAVDESS", arguments.samples / REAL_CLIP, arguments.rounds)
        loop = write_clip(Path(folder, "loop.mp4"), LOOP_SECONDS * FRAME_RATE, 360, 640)
        lines += memory_table(loop, Path(folder))
    print("\n".join(lines))
    print(f"kept in {keep_table('reading', 'Reading clips', lines)}")


def read_sampled(file: Path) -> torch.Tensor:
    """This repository's reader."""
    return read_clip(file, NUM_FRAMES, SIZE).frames


def decode_sampled(file: Path) -> None:
    """The same at the video's own size, and nothing is handed on: what a process of a pool does by decoding alone."""
    read_clip(file, NUM_FRAMES)


def read_everything(file: Path) -> torch.Tensor:
    """Decodes, converts and resizes all frames, then takes 16."""
    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "AUTO"
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = [resize_frames(torch.from_numpy(picture).permute(2, 0, 1), SIZE) for picture in pictures]
    return torch.stack(frames)[uniform_frame_indices(len(frames), NUM_FRAMES)]


def read_with_transformers(file: Path) -> torch.Tensor:
    """transformers' own way: load_video on PyAV, then the video processor of VideoMAE, without its normalisation."""
    from transformers import VideoMAEVideoProcessor
    from transformers.video_utils import load_video

    size = {"height": SIZE[0], "width": SIZE[1]}
    processor = VideoMAEVideoProcessor(size=size, do_center_crop=False, do_rescale=False, do_normalize=False)
    frames, _ = load_video(str(file), num_frames=NUM_FRAMES, backend="pyav")
    return processor([frames], return_tensors="pt", do_sample_frames=False)["pixel_values"][0]


CONTESTANTS: dict[str, Callable[[Path], torch.Tensor]] = {
    "decode and resize all": read_everything,
    "transformers' video processor on PyAV": read_with_transformers,
    "this reader": read_sampled,
}


def speed_table(title: str, file: Path, rounds: int) -> list[str]:
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for name, read in CONTESTANTS.items():
        assert read(file).shape == (NUM_FRAMES, 3, *SIZE), name  # warms, too
    for _ in range(rounds):
        for name, read in CONTESTANTS.items():
            begin = time.perf_counter()
            read(file)
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    slowest = medians["decode and resize all"]
    lines = [f"## {title}, {rounds} rounds", "", "| | ms per clip | throughput, decode all = 1 |", "|---|---:|---:|"]
    return [*lines, *(f"| {name} | {t * 1e3:.0f} | {slowest / t:.1f} |" for name, t in medians.items()), ""]


def memory_table(loop: Path, folder: Path) -> list[str]:
    one = repeat_clip(loop, folder / "1.mp4", 60 // LOOP_SECONDS)
    ten = repeat_clip(loop, folder / "10.mp4", 600 // LOOP_SECONDS)
    measured = [(name, one, "1 minute") for name in CONTESTANTS] + [("this reader", ten, "10 minutes")]
    lines = ["## Peak memory beyond that of the loaded libraries", "", "| | video | MiB |", "|---|---|---:|"]
    return [*lines, *(f"| {name} | {length} | {peak_memory(name, file):.0f} |" for name, file, length in measured)]


def peak_memory(name: str, file: Path) -> float:
    """MiB by which the peak of a fresh process grows while it reads a file; a short clip is read before."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_memory, args=(theirs, name, file), daemon=True)
    process.start()
    theirs.close()
    grown = ours.recv()
    process.join()
    return grown


def _measure_memory(pipe: multiprocessing.connection.Connection, name: str, file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        CONTESTANTS[name](write_clip(Path(folder, "short.mp4"), 2 * NUM_FRAMES, 64, 64))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident_kibibytes("VmRSS")
    CONTESTANTS[name](file)
    pipe.send((_resident_kibibytes("VmHWM") - before) / 1024)


def _resident_kibibytes(field: str) -> int:
    """A line of Linux's account of this process's memory: VmRSS as it is, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def write_clip(file: Path, frame_count: int, height: int, width: int) -> Path:
    """Encodes a moving pattern with grain, about as hard to decode as a recording."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in moving_pattern(frame_count, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def moving_pattern(frame_count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """RGB pictures uint8 (H, W, 3)."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 216, (height // 16 + 2, width // 16 + 2, 3)).repeat(16, axis=0).repeat(16, axis=1)
    grain = random.integers(-12, 13, (height, width, 1))
    for index in range(frame_count):
        part = coarse[index % 16 : index % 16 + height, (2 * index) % 16 : (2 * index) % 16 + width]
        yield (part + np.roll(grain, 7 * index, axis=1)).astype(np.uint8)


def repeat_clip(loop: Path, file: Path, times: int) -> Path:
    """A video that shows another one several times over, without encoding it again."""
    with av.open(str(file), "w") as target:
        stream = None
        for number in range(times):
            with av.open(str(loop)) as source:
                original = source.streams.video[0]
                stream = stream or target.add_stream_from_template(original)
                shift = round(number * LOOP_SECONDS / original.time_base)
                for packet in source.demux(original):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        target.mux(packet)
    return file


if __name__ == "__main__":
    main()
