"""Every GPU measurement of this repository in one go, within ten minutes.

    python benchmarks/gpu.py                            # all parts on the first GPU
    python benchmarks/gpu.py --skip timeline processes
    python benchmarks/gpu.py --device cpu --size tiny --repeats 1     # a rehearsal; its figures mean nothing

- steps: training steps of the paper's model beside the encoder as a classifier, with model FLOP utilisation, in
  float32, bf16, bf16 compiled, with checkpointing, from cached features; SDPA takes its flash kernel where it can. It
  is `training_step.py` with this command's size, batch and repeats.
- detector: frames/s of this repository's face detector and of facenet-pytorch's, in turns on the same drawn clips.
- clips: clips/s of the paper's model in bf16, alone and with decoding and the processor.
- timeline: a drawn video through the timeline pipeline, seconds of video for each second of work.
- processes: clips/s of a training step of two processes over one, by DDP and by FSDP2, the same number of clips for
  each process; needs two GPUs.

A part that cannot run here says why and is left out, and so is one that would begin after --minutes. Every part keeps a
table of its own.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
import training_step
from results_file import RESULTS, keep_table
from torch import nn

from mtcae_dfer.face_detection import FaceDetector
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, load_model
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.video_reading import read_clip

WRAPPERS = ("DDP", "FSDP2")


class PartLeftOut(Exception):
    """A part cannot run here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How the parts measure."""

    device: str
    size: str  # paper, small or tiny, as in training_step.py
    batch: int
    repeats: int
    clips: int  # drawn clips for detector, clips and timeline
    compiles: bool
    videos: Path  # folder of the drawn clips

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def seconds_of(call: Callable[[], Any], settings: Settings) -> float:
    """Time of one call, until the device is done."""
    settings.wait()
    start = time.perf_counter()
    call()
    settings.wait()
    return time.perf_counter() - start


def take_turns(calls: dict[str, Callable[[], Any]], settings: Settings) -> dict[str, float]:
    """Median seconds of each call, all of them in turns, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(settings.repeats + 1):
        for name, call in calls.items():
            seconds = seconds_of(call, settings)
            if repeat:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def cascade(settings: Settings) -> MTCAEForMultiTaskVideo:
    """The paper's cascade at head width 64, or its smaller relative."""
    model = training_step.build_model(training_step.Candidate("cascade", "", head_dim=64), settings.size)
    assert isinstance(model, MTCAEForMultiTaskVideo)
    return model


# ------------------------------------------------------------------------------------------------------ the parts


def measure_steps(settings: Settings) -> list[str]:
    """Training steps in every mode, one model on the device at a time."""
    candidates = training_step.build_candidates(settings.compiles)
    for candidate in candidates:
        training_step.prepare(candidate, settings.size, settings.batch, settings.device)
        for _ in range(settings.repeats + 1):
            training_step.time_step(candidate, settings.device, time.perf_counter)
        del candidate.times[0]  # compiles, or fills caches
        candidate.step = None
        if settings.on_gpu:
            torch.cuda.empty_cache()
    peaks = {bf16: training_step.measure_peak(settings.device, bf16, time.perf_counter) for bf16 in (False, True)}
    head = f"Model size `{settings.size}`, {settings.batch} clips a step, median of {settings.repeats}."
    return [head, "", *training_step.format_rows(candidates, settings.batch, peaks)]


def measure_detector(settings: Settings) -> list[str]:
    """Frames/s of two MTCNNs on the same frames."""
    from facenet_pytorch import MTCNN

    frames = [read_clip(file, num_frames=16).frames for file in drawn_clips(settings)]
    ours, theirs = FaceDetector(device=settings.device), MTCNN(keep_all=True, device=torch.device(settings.device))
    pictures = [clip.permute(0, 2, 3, 1).numpy() for clip in frames]  # (T, 3, H, W) -> (T, H, W, 3)
    calls: dict[str, Callable[[], Any]] = {
        "this repository": lambda: [ours.detect(clip) for clip in frames],
        "facenet-pytorch": lambda: [theirs.detect(picture, landmarks=True) for clip in pictures for picture in clip],
    }
    count = sum(len(clip) for clip in frames)
    seconds = take_turns(calls, settings)
    rows = [f"| {name} | {count / value:.1f} |" for name, value in seconds.items()]
    ratio = seconds["facenet-pytorch"] / seconds["this repository"]
    height, width = frames[0].shape[-2:]
    told = f"{ratio:.1f} times as fast, on {count} drawn frames of {width}x{height}."
    return ["| detector | frames/s |", "|---|---:|", *rows, "", told]


def measure_clips(settings: Settings) -> list[str]:
    """Clips/s of the model alone in bf16, and from files."""
    model = cascade(settings).to(settings.device).eval()
    height, width = model.config.image_size
    num_frames = model.config.num_frames
    processor = MTCAEVideoProcessor(size={"height": height, "width": width}, num_frames=num_frames)
    files = [str(file) for file in drawn_clips(settings)][: settings.batch]
    ready = torch.randn(len(files), num_frames, 3, height, width, device=settings.device)

    @torch.inference_mode()
    def predict(pixel_values: torch.Tensor) -> None:
        with torch.autocast(settings.device.split(":")[0], dtype=torch.bfloat16):
            model(pixel_values)

    def from_files() -> None:
        predict(processor(files)["pixel_values"].to(settings.device))

    seconds = take_turns({"the model alone": lambda: predict(ready), "from files": from_files}, settings)
    rows = [f"| {name} | {len(files) / value:.1f} |" for name, value in seconds.items()]
    return [f"bf16, {len(files)} clips at once.", "", "| | clips/s |", "|---|---:|", *rows]


def measure_timeline(settings: Settings) -> list[str]:
    """Every person of a video over time, by the demonstration model."""
    model, processor = load_model(str(DEMONSTRATION_MODEL))
    pipeline = FacialExpressionTimelinePipeline(model=model, video_processor=processor, device=settings.device)
    file = drawn_clips(settings)[0]
    duration = read_clip(file, num_frames=2).info.duration
    seconds = take_turns({"timeline": lambda: pipeline(str(file))}, settings)["timeline"]
    return [
        f"A drawn video of {duration:.1f} s: {seconds:.2f} s, {duration / seconds:.1f} seconds of video a second "
        "(decoding on the processor, face search and model on the device)."
    ]


def measure_processes(settings: Settings) -> list[str]:
    """A step of two processes against one, with the same clips for each process."""
    if settings.on_gpu and torch.cuda.device_count() < 2:
        raise PartLeftOut(f"two GPUs are needed, and there is {torch.cuda.device_count()}")
    alone = step_seconds("none", settings, settings.device)
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"tcp://localhost:{free.getsockname()[1]}"
        file = Path(folder) / "seconds.json"
        torch.multiprocessing.spawn(in_process, (settings, address, file), nprocs=2)
        together: dict[str, float] = json.loads(file.read_text())
    rows = ["| | clips/s | over one process |", "|---|---:|---:|", f"| one process | {settings.batch / alone:.2f} | |"]
    for wrapper, seconds in together.items():
        rows.append(f"| two, {wrapper} | {2 * settings.batch / seconds:.2f} | {2 * alone / seconds:.2f} |")
    return [f"Cascade of size `{settings.size}`, {settings.batch} clips for each process, bf16.", "", *rows]


def in_process(rank: int, settings: Settings, address: str, file: Path) -> None:
    """One of two processes; the first writes down the seconds of a step with each wrapper."""
    device = f"cuda:{rank}" if settings.on_gpu else "cpu"
    if settings.on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if settings.on_gpu else "gloo", address, world_size=2, rank=rank)
    seconds = {wrapper: step_seconds(wrapper, settings, device) for wrapper in WRAPPERS}
    if rank == 0:
        file.write_text(json.dumps(seconds))
    torch.distributed.destroy_process_group()


def step_seconds(wrapper: str, settings: Settings, device: str) -> float:
    """Median seconds of a training step in bf16, in this process or together with the others."""
    torch.manual_seed(0)
    model = cascade(settings).to(device).train()
    candidate = training_step.Candidate("cascade", "", head_dim=64)
    inputs = training_step.make_inputs(candidate, model, settings.batch, device)
    wrapped = wrap(model, wrapper, settings)
    optimiser = torch.optim.AdamW(wrapped.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = wrapped(**inputs).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return take_turns({"step": step}, replace(settings, device=device))["step"]


def wrap(model: MTCAEForMultiTaskVideo, wrapper: str, settings: Settings) -> nn.Module:
    """The model as several processes train it; "none": as it is."""
    if wrapper == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    if wrapper == "FSDP2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cuda" if settings.on_gpu else "cpu", (2,))
        whole = set(model._no_split_modules or ())
        for module in model.modules():
            if type(module).__name__ in whole:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def drawn_clips(settings: Settings) -> list[Path]:
    """Clips of drawn people, made once for all parts."""
    config = SyntheticCorpusConfig(subjects=settings.clips, takes=1, expressions=("happiness",), seed=11)
    corpus = make_synthetic_corpus(settings.videos, config, progress=False)
    return sorted((corpus / "videos").rglob("*.mp4"))


# ------------------------------------------------------------------------------------------------------ the command

PARTS: dict[str, tuple[str, Callable[[Settings], list[str]]]] = {
    "steps": ("Training steps", measure_steps),
    "detector": ("Face detection", measure_detector),
    "clips": ("From a clip to its answer", measure_clips),
    "timeline": ("A video over time", measure_timeline),
    "processes": ("Two processes", measure_processes),
}


def measure(parts: Sequence[str], settings: Settings, minutes: float, folder: Path) -> int:
    """Runs the parts and keeps their tables; returns how many failed."""
    begin, failed = time.perf_counter(), 0
    name = settings.device.split(":")[0] + ("" if settings.size == "paper" else f"_{settings.size}")
    for part in parts:
        title, work = PARTS[part]
        if time.perf_counter() - begin > 60 * minutes:
            print(f"{part}: left out, {minutes:g} minutes are over", flush=True)
            continue
        start = time.perf_counter()
        try:
            lines = work(settings)
        except PartLeftOut as reason:
            print(f"{part}: left out, {reason}", flush=True)
            continue
        except Exception:  # one part must not cost the others' figures: a machine with a GPU is lent by the minute
            failed += 1
            print(f"{part}: failed", file=sys.stderr)
            traceback.print_exc()
            continue
        print(f"## {title} ({time.perf_counter() - start:.0f} s)", "", *lines, "", sep="\n")
        print(f"kept in {keep_table(f'gpu_{part}_{name}', title, lines, settings.device, folder)}", flush=True)
    return failed


def main() -> int:
    """Runs the command line; returns the exit status: 1 where a part failed."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[], help="parts to leave out")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="default: %(default)s")
    parser.add_argument("--size", choices=tuple(training_step.SIZES), default="paper" if on_gpu else "small")
    parser.add_argument("--batch", type=int, default=16 if on_gpu else 2, help="clips in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured calls of each (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=16, help="drawn clips (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9, help="after which no part is begun (default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled modes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables (default: %(default)s)")
    parsed = parser.parse_args()
    if parsed.device.startswith("cuda") and not on_gpu:
        parser.error(f"--device {parsed.device}: torch finds no GPU here")
    torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            device=parsed.device,
            size=parsed.size,
            batch=parsed.batch,
            repeats=parsed.repeats,
            clips=parsed.clips,
            compiles=not parsed.no_compile,
            videos=Path(folder) / "drawn",
        )
        parts = [part for part in parsed.only if part not in parsed.skip]
        return 1 if measure(parts, settings, parsed.minutes, parsed.results) else 0


if __name__ == "__main__":
    sys.exit(main())
