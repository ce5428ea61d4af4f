"""Face labelling: this repository's detector against facenet-pytorch called frame by frame, in one run.

    python benchmarks/labelling.py [--clips 16] [--rounds 3] [--samples FOLDER] [--device cuda]

All contestants get the same 16 frames of 224×224 pixels, already in memory. The reference is what users write,
`MTCNN(keep_all=True).detect(frame, landmarks=True)` with its defaults, torch on all processors. Rows with "processes"
are one process of one thread per processor, for the reference too: on small networks threads cost more than they bring,
and on a busy machine much more. Rounds of the contestants alternate; the table shows each one's median. Agreement is
measured on the frames where the reference finds a face with probability 0.9 or more, against its largest face; truth is
what was drawn (synthetic clips). The tables are kept in benchmarks/results/labelling.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reading import decode_sampled
from results_file import keep_table

from mtcae_dfer.face_detection import FaceDetections, FaceDetector
from mtcae_dfer.face_geometry import box_intersection_over_union
from mtcae_dfer.hub_dataset.clips import Clip
from mtcae_dfer.hub_dataset.labelling.one_machine import label_clips
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig, draw_clip
from mtcae_dfer.hub_dataset.synthetic.corpus import encode_clip
from mtcae_dfer.hub_dataset.workers import available_processors, worker_pool
from mtcae_dfer.video_reading import read_clip

SIZE = (224, 224)
NUM_FRAMES = 16
SURE = 0.9
DECODING_GOAL = 1.3  # time from files to labels / time of decoding alone, at most
SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
REPEATS = 8
ONE_FACE_PATTERNS = ("1001_*.flv", "0*.mp4")  # the samples that show one large face


@dataclass
class BenchClip:
    """Frames of a clip, and where known its drawn truth."""

    name: str
    frames: torch.Tensor  # uint8 (16, 3, 224, 224)
    boxes: np.ndarray | None = None  # (16, 4)
    points: np.ndarray | None = None  # (16, 5, 2)


@dataclass
class Contestant:
    """One way of labelling clips."""

    name: str
    seconds: Callable[[], float]  # time for all clips, once
    labels: Callable[[], list[FaceDetections]] | None  # for the agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16, help="drawn clips (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of each contestant (default: 3)")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder of real clips, where present")
    told = "detectors on frames in memory; whole files to labels (default: both)"
    parser.add_argument("--only", nargs="+", choices=("detectors", "files"), default=["detectors", "files"], help=told)
    parser.add_argument("--device", default="cpu", help="device of the single-process contestants (default: cpu)")
    arguments = parser.parse_args()
    lines: list[str] = []
    real = real_clips(arguments.samples)
    if "detectors" in arguments.only:
        lines += report("Drawn clips", drawn_clips(arguments.clips), arguments.rounds, arguments.device)
        if real:
            lines += report("Real clips (one large face each)", real, arguments.rounds, arguments.device)
    if "files" in arguments.only and real:
        lines += build_rates(arguments.samples, arguments.rounds)
    name = "labelling" if arguments.device == "cpu" else "labelling_cuda"
    name += "" if "detectors" in arguments.only else "_files"
    print(f"kept in {keep_table(name, 'Face labelling against facenet-pytorch', lines, arguments.device)}")


def drawn_clips(count: int) -> list[BenchClip]:
    """Clips of different people with different expressions, encoded and decoded again."""
    config = SyntheticCorpusConfig()
    clips = []
    for number in range(count):
        expression = config.expressions[number % len(config.expressions)]
        clip = draw_clip(config, number % config.subjects + 1, expression, 1)
        video = encode_clip(clip.frames, config.frame_rate, clip.scene.compression)
        sampled = read_clip(video, NUM_FRAMES, SIZE)
        boxes, points = (values[sampled.frame_indices] for values in (clip.truth.face_boxes, clip.truth.face_landmarks))
        clips.append(BenchClip(clip.truth.path, sampled.frames, boxes, points))
    return clips


def real_clips(folder: Path) -> list[BenchClip]:
    files = sorted(file for pattern in ONE_FACE_PATTERNS for file in folder.glob(pattern))
    return [BenchClip(file.name, read_clip(file, NUM_FRAMES, SIZE).frames) for file in files]


def report(title: str, clips: Sequence[BenchClip], rounds: int, device: str) -> list[str]:
    """Prints the tables of one set of clips; returns their lines."""
    processors = available_processors()
    heading = f"## {title}: {len(clips)} clips of {NUM_FRAMES} frames, {processors} processors, {rounds} rounds"
    with WorkerPool(clips, processors, Reference) as reference_pool, WorkerPool(clips, processors, Detector) as pool:
        contestants = [
            in_this_process("facenet-pytorch, frame by frame", Reference(device), clips),
            Contestant(f"facenet-pytorch, frame by frame, {processors} processes", reference_pool.seconds, None),
            in_this_process("this detector, every rung (min_face 20)", Detector(device, min_face=20), clips),
            in_this_process("this detector, defaults", Detector(device), clips),
            Contestant(f"this detector, defaults, {processors} processes", pool.seconds, None),
        ]
        times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
        for _ in range(rounds):
            for contestant in contestants:
                times[contestant.name].append(contestant.seconds())
    lines = [heading, "", *speed_table(times, len(clips)), "", *agreement_table(contestants, clips), ""]
    print("\n".join(["", *lines]))
    return lines


def build_rates(folder: Path, rounds: int) -> list[str]:
    """How many files per second a build on all processors reads, hashes and labels; prints and returns the lines.

    Labelling and decoding take turns, since a shared machine changes its speed within a minute; the ratio is the median
    of the rounds' ratios, with the smallest and the largest.
    """
    workers = available_processors()
    told = f"{workers} processes, each file read {REPEATS} times, medians of {rounds} rounds in turns"
    lines = [f"## From video files to labels, {told}", ""]
    head = (
        "| files | clips per second | hours for a million clips | decoding alone, clips per second | time / decoding |"
    )
    lines += [f"{head} goal |", "|---|---:|---:|---:|---:|---:|"]
    for pattern in ONE_FACE_PATTERNS:
        files = [file for file in sorted(folder.glob(pattern)) for _ in range(REPEATS)]
        clips = [Clip(file, "", "", f"{number}") for number, file in enumerate(files)]
        rates, alone = [], []
        for _ in range(rounds):
            results = label_clips(clips, workers=workers)
            next(results)  # the processes have started
            begin = time.perf_counter()
            arrived = [time.perf_counter() - begin for _ in results]
            rates.append(len(arrived) / arrived[-1])  # without the end of the processes, as when decoding alone
            alone.append(decoding_rate(files, workers))
        rate, ratios = statistics.median(rates), [other / own for own, other in zip(rates, alone, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        told = f"{statistics.median(alone):.1f} | {spread} | {DECODING_GOAL}"
        lines.append(f"| {pattern} | {rate:.1f} | {1e6 / rate / 3600:.1f} | {told} |")
    print("\n".join(lines))
    return lines


def decoding_rate(files: Sequence[Path], workers: int) -> float:
    """Files a second that so many processes read and decode to the frames which are labelled, and nothing else."""
    with worker_pool(workers, "decoding", torch.set_num_threads, (1,)) as executor:
        list(executor.map(decode_sampled, files[:workers]))  # the processes have started
        begin = time.perf_counter()
        list(executor.map(decode_sampled, files))
        return len(files) / (time.perf_counter() - begin)


class Reference:
    """facenet-pytorch, frame by frame, with its defaults."""

    def __init__(self, device: str = "cpu"):
        from facenet_pytorch import MTCNN

        self.network = MTCNN(keep_all=True, device=torch.device(device))

    def label(self, frames: torch.Tensor) -> FaceDetections:
        pictures = frames.permute(0, 2, 3, 1).numpy()
        return as_detections([self.network.detect(picture, landmarks=True) for picture in pictures])


class Detector:
    """This repository's detector."""

    def __init__(self, device: str = "cpu", **options: float):
        self.detector = FaceDetector(device=device, **options)

    def label(self, frames: torch.Tensor) -> FaceDetections:
        return self.detector.detect(frames)


def in_this_process(name: str, labeller: Reference | Detector, clips: Sequence[BenchClip]) -> Contestant:
    def label_all() -> list[FaceDetections]:
        return [labeller.label(clip.frames) for clip in clips]

    return Contestant(name, timed(label_all), label_all)


def as_detections(frames: Sequence[tuple]) -> FaceDetections:
    """The largest face of each frame, which facenet-pytorch puts first."""
    count = len(frames)
    boxes, points = torch.full((count, 4), torch.nan), torch.full((count, 5, 2), torch.nan)
    confidence, face_count = torch.zeros(count), torch.zeros(count, dtype=torch.long)
    for index, (found_boxes, probabilities, found_points) in enumerate(frames):
        if found_boxes is not None:
            boxes[index] = torch.from_numpy(np.asarray(found_boxes[0], dtype=np.float32)) / SIZE[0]
            points[index] = torch.from_numpy(np.asarray(found_points[0], dtype=np.float32)) / SIZE[0]
            confidence[index], face_count[index] = float(probabilities[0]), len(found_boxes)
    return FaceDetections(boxes.clamp(0, 1), points.clamp(0, 1), confidence, face_count > 0, face_count)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    work()  # warm

    def seconds() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return seconds


class WorkerPool:
    """Processes of one thread each that share the clips, as `label_clips` does."""

    def __init__(self, clips: Sequence[BenchClip], count: int, labeller: type):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for number in range(count):
            ours, theirs = context.Pipe()
            share = [clip.frames.numpy() for clip in clips[number::count]]
            process = context.Process(target=serve_rounds, args=(theirs, share, labeller), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()  # ready

    def seconds(self) -> float:
        begin = time.perf_counter()
        for pipe in self.pipes:
            pipe.send("go")
        for pipe in self.pipes:
            pipe.recv()
        return time.perf_counter() - begin

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send("stop")
            process.join()


def serve_rounds(pipe: multiprocessing.connection.Connection, share: list[np.ndarray], labeller_type: type) -> None:
    torch.set_num_threads(1)
    labeller = labeller_type()
    clips = [torch.from_numpy(frames) for frames in share]
    for frames in clips[:2]:
        labeller.label(frames)
    pipe.send("ready")
    while pipe.recv() == "go":
        for frames in clips:
            labeller.label(frames)
        pipe.send("done")


def speed_table(times: dict[str, list[float]], clip_count: int) -> list[str]:
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    one, many = list(medians.values())[:2]
    head = "| | ms per clip | frames per second | throughput, reference = 1 | reference with processes = 1 |"
    lines = [head, "|---|---:|---:|---:|---:|"]
    for name, seconds in medians.items():
        rate = clip_count * NUM_FRAMES / seconds
        numbers = f"{seconds / clip_count * 1e3:.1f} | {rate:.0f} | {one / seconds:.1f} | {many / seconds:.1f}"
        lines.append(f"| {name} | {numbers} |")
    return lines


def agreement_table(contestants: Sequence[Contestant], clips: Sequence[BenchClip]) -> list[str]:
    labels = {contestant.name: contestant.labels() for contestant in contestants if contestant.labels is not None}
    reference = next(iter(labels.values()))
    with_truth = clips[0].boxes is not None
    head = "| | found, of the reference's sure frames | IoU | lowest IoU of a clip | landmark distance / box diagonal |"
    lines = [head + " IoU with truth | landmark error / true diagonal |" * with_truth]
    lines.append("|---|---:|---:|---:|---:|" + "---:|---:|" * with_truth)
    for name, found in labels.items():
        share, overlap, distance = agreement(found, reference)
        lowest = min(agreement([one], [other])[1] for one, other in zip(found, reference, strict=True))
        line = f"| {name} | {share:.2%} | {overlap:.4f} | {lowest:.4f} | {distance:.2%} |"
        lines.append(line + (" {:.4f} | {:.3%} |".format(*truth_errors(found, clips)) if with_truth else ""))
    return lines


def agreement(found: Sequence[FaceDetections], reference: Sequence[FaceDetections]) -> tuple[float, float, float]:
    """Share of the reference's sure frames with a face, mean overlap of boxes, mean distance of points per diagonal."""
    ours, theirs = stacked(found), stacked(reference)
    sure = theirs.confidence >= SURE
    both = sure & ours.face_found
    overlap = box_intersection_over_union(ours.boxes[both], theirs.boxes[both])
    distance = landmark_distance(ours.landmarks[both], theirs.landmarks[both], theirs.boxes[both])
    return float(both.sum() / sure.sum()), float(overlap.mean()), float(distance.mean())


def truth_errors(found: Sequence[FaceDetections], clips: Sequence[BenchClip]) -> tuple[float, float]:
    """Mean overlap with the drawn boxes, and mean distance from the drawn points per true diagonal."""
    ours = stacked(found)
    boxes = torch.from_numpy(np.concatenate([clip.boxes for clip in clips])).float()
    points = torch.from_numpy(np.concatenate([clip.points for clip in clips])).float()
    seen = ours.face_found
    overlap = box_intersection_over_union(ours.boxes[seen], boxes[seen])
    return float(overlap.mean()), float(landmark_distance(ours.landmarks[seen], points[seen], boxes[seen]).mean())


def landmark_distance(one: torch.Tensor, two: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Mean distance of five points (N, 5, 2) as a share of the diagonals of boxes (N, 4); frames are square."""
    return (one - two).norm(dim=-1).mean(dim=-1) / (boxes[:, 2:] - boxes[:, :2]).norm(dim=-1)


def stacked(clips: Sequence[FaceDetections]) -> FaceDetections:
    """Detections of several clips as those of one long one."""
    names = ("boxes", "landmarks", "confidence", "face_found", "face_count")
    return FaceDetections(*(torch.cat([getattr(clip, name) for clip in clips]) for name in names))


if __name__ == "__main__":
    main()
