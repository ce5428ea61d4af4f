"""What an answer costs: one clip, a long video, and the first answer of a fresh process.

    python benchmarks/inference.py                        # everything, on two cores in about half an hour
    python benchmarks/inference.py --only clip --sizes demonstration small --name inference_small

- Clip: a file to its scores, boxes and points, against the stock path of transformers (load_video on PyAV, VideoMAE's
  processor, VideoMAEForVideoClassification over the same encoder). Both take turns; the quotient of the multiply-adds
  says what part of the difference the two further tasks are.
- Timeline: five minutes of 1280x720 through the pipeline, every person cropped, against the single-clip path with its
  face crop called for one window after the other: on the video itself, whose frames it reads from the beginning every
  time, and on windows that somebody had cut into files. The single calls are timed at evenly spread windows, and their
  mean is multiplied by the number of windows. Peak memory is that of a fresh process beyond the loaded libraries.
- Agreement: the timeline's windows against single-clip predictions of the same spans, whole frames and people.
- Operations: where the forward pass of encoder and decoders spends its time, for those who look for more.
- Start: a fresh process up to the printed answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from checkouts import CHECKOUT, checkout_root, importing
from reading import FRAME_RATE, LOOP_SECONDS, SAMPLES, _resident_kibibytes, repeat_clip
from results_file import keep_table
from transformers import VideoMAEForVideoClassification, VideoMAEVideoProcessor
from transformers.video_utils import load_video

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.experiments.operations import count_operations
from mtcae_dfer.face_geometry import box_intersection_over_union
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, load_model
from mtcae_dfer.modeling_encoders import PAPER_ENCODER
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.video_reading import FrameStream, read_clip, resize_frames, uniform_frame_indices

HEIGHT, WIDTH = 720, 1280
CLIP_SECONDS = 4
WINDOW, HOP = 2.0, 1.0  # the pipeline's defaults, in seconds
SHARED_ASPECTS = {"use_mean_pooling": False, "num_frames": 16, "tubelet_size": 2, "patch_size": 16}
# VideoMAE-Small, VideoMAE-Base and the paper's VideoMAE-Large; the decoders' heads have a width of 64.
ENCODERS = {
    "small": {"image_size": 224, "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"image_size": 224, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "base_3": {"image_size": 224, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "paper": {},
    "paper_512": {},
}
DECODERS = {
    # A smaller encoder takes smaller decoders: the paper's quotient of widths, 512 to 1024, is kept.
    "small": {"decoder_hidden_size": 192, "decoder_head_dim": 64},
    "base": {"decoder_hidden_size": 384, "decoder_head_dim": 64},
    # The paper's 5 decoder layers stand on 24 of the encoder.
    "base_3": {"decoder_hidden_size": 384, "decoder_head_dim": 64, "decoder_num_layers": 3},
    "paper": {"decoder_hidden_size": 512, "decoder_head_dim": 64},
    "paper_512": {"decoder_hidden_size": 512, "decoder_head_dim": 512},
}
# Time over that of the stock path, at most.
CLIP_GOALS = {"paper": 1.10, "paper_512": 1.15}
TIMELINE_GOAL, MEMORY_GOAL, START_GOAL = 1.6, 1.10, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)")
    sizes = ("demonstration", *ENCODERS)
    parser.add_argument(
        "--sizes", nargs="+", choices=sizes, default=["demonstration", "base", "base_3", "paper", "paper_512"]
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured calls of each contestant (default: 5)")
    parser.add_argument("--windows", type=int, default=6, help="single windows that are timed (default: 6)")
    told = "of the timelines; the first is timed, memory is that of all (default: 5 20)"
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 20], help=told)
    told = "root of another checkout, whose start is timed beside this one's"
    parser.add_argument("--against", type=checkout_root, help=told)
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder of real clips, where present")
    parser.add_argument("--name", default="inference", help="name of the kept table (default: inference)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        material = Material.make(Path(folder), arguments.samples)
        lines = [f"Videos: {material.told}.", ""]
        for part in arguments.only:
            lines += PARTS[part](material, arguments)
    print("\n".join(lines))
    print(f"kept in {keep_table(arguments.name, 'From a video to its answer', lines)}")


# ------------------------------------------------------------------------------------------------------- material


@dataclass(frozen=True)
class Material:
    """The videos, 1280x720 H.264."""

    folder: Path
    told: str  # what they show
    loop: Path  # LOOP_SECONDS
    clip: Path  # CLIP_SECONDS
    window: Path  # one WINDOW

    @classmethod
    def make(cls, folder: Path, samples: Path) -> Material:
        """Concatenates real clips where there are any, else drawn ones."""
        names = ("01-01-08-02-02-02-01.mp4", "1001_DFA_HAP_XX.flv", "02-01-01-01-02-01-01.mp4", "1001_DFA_ANG_XX.flv")
        files = [samples / name for name in names if (samples / name).is_file()]
        told = f"{len(files)} real clips (RAVDESS, CREMA-D) one after the other, over and over"
        if not files:
            config = SyntheticCorpusConfig(subjects=2, takes=1, seed=7)
            corpus = make_synthetic_corpus(folder / "drawn", config, workers=1, progress=False)
            files = sorted((corpus / "videos").rglob("*.mp4"))
            told = f"{len(files)} drawn clips one after the other, over and over"
        loop = write_video(folder / "loop.mp4", files, LOOP_SECONDS * FRAME_RATE)
        clip = write_video(folder / "clip.mp4", files, CLIP_SECONDS * FRAME_RATE)
        window = write_video(folder / "window.mp4", files, round(WINDOW * FRAME_RATE))
        return cls(folder, told, loop, clip, window)

    def minutes(self, count: int) -> Path:
        """A video of so many minutes."""
        file = self.folder / f"{count}.mp4"
        return file if file.is_file() else repeat_clip(self.loop, file, 60 * count // LOOP_SECONDS)


def write_video(file: Path, clips: list[Path], frame_count: int) -> Path:
    """Encodes the clips one after the other at 1280x720, over and over up to a number of frames."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        pictures = _pictures(clips)
        for _ in range(frame_count):
            picture = next(pictures).permute(1, 2, 0).contiguous().numpy()  # (3, H, W) -> (H, W, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def _pictures(clips: list[Path]) -> Iterator[torch.Tensor]:
    """uint8 (3, HEIGHT, WIDTH), the clips' own proportions kept on a gray ground."""
    while True:
        for clip in clips:
            for frame in FrameStream(clip):
                picture = frame.picture()
                scale = min(HEIGHT / picture.shape[1], WIDTH / picture.shape[2])
                height, width = round(picture.shape[1] * scale), round(picture.shape[2] * scale)
                canvas = torch.full((3, HEIGHT, WIDTH), 100, dtype=torch.uint8)
                left = (WIDTH - width) // 2
                canvas[:, :height, left : left + width] = resize_frames(picture, (height, width))
                yield canvas


# ----------------------------------------------------------------------------------------------- one clip's answer


def measure_clips(material: Material, arguments: argparse.Namespace) -> list[str]:
    """The table of a clip's way to its prediction."""
    lines = ["## A clip to its prediction", ""]
    lines += [
        "| encoder | stock path, ms | this repository, ms | time / stock | goal | expression alone / stock | "
        "multiply-adds / stock | of it reading |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for size in arguments.sizes:
        lines.append(_clip_row(size, material.clip, arguments.repeats))
    return [
        *lines,
        "",
        f"{CLIP_SECONDS} seconds of 720p; medians of {arguments.repeats} calls in turns. Expression alone: "
        "`tasks=[\"expression\"]`. Reading: decoding, resizing and normalising, this repository's over stock's. "
        "A goal below the multiply-adds over the stock path's asks for fewer than the decoders have.",
        "",
    ]


def _clip_row(size: str, clip: Path, repeats: int) -> str:
    model, processor = make_model(size)
    config = model.config.encoder_config
    classifier = VideoMAEForVideoClassification(config).eval()
    stock_processor = VideoMAEVideoProcessor(
        size={"shortest_edge": config.image_size}, crop_size={"height": config.image_size, "width": config.image_size}
    )

    def read_stock() -> torch.Tensor:
        frames, _ = load_video(str(clip), num_frames=16, backend="pyav")
        return stock_processor([frames], return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def answer_stock() -> torch.Tensor:
        return classifier(read_stock()).logits.softmax(dim=-1)

    @torch.inference_mode()
    def answer_expression() -> torch.Tensor:
        return model(processor(str(clip))["pixel_values"], tasks=["expression"]).logits.softmax(dim=-1)

    calls = {
        "stock": answer_stock,
        "ours": lambda: predict_file(str(clip), model, processor),
        "stock reading": read_stock,
        "our reading": lambda: processor(str(clip)),
        "expression": answer_expression,
    }
    times = take_turns(calls, repeats)
    work = multiply_adds(model, processor(str(clip))["pixel_values"]) / multiply_adds(classifier, read_stock())
    reading = times["our reading"] / times["stock reading"]
    name = f"{size}: {config.num_hidden_layers} layers, width {config.hidden_size}, {config.image_size} pixels; "
    name += f"decoders of {model.config.decoder_num_layers}, width {model.config.decoder_hidden_size}"
    cells = [f"{1000 * times['stock']:.0f}", f"{1000 * times['ours']:.0f}", f"{times['ours'] / times['stock']:.2f}"]
    cells += [f"{CLIP_GOALS[size]:.2f}" if size in CLIP_GOALS else "", f"{times['expression'] / times['stock']:.2f}"]
    return "| " + " | ".join([name, *cells, f"{work:.2f}", f"{reading:.2f}"]) + " |"


def measure_operations(material: Material, arguments: argparse.Namespace) -> list[str]:
    """The tables of where a forward pass spends its time, the encoder's operations beside the structure's."""
    lines = []
    for size in arguments.sizes:
        model, _ = make_model(size)
        clip = torch.zeros(1, model.config.num_frames, 3, *model.config.image_size)
        with torch.inference_mode():
            encoded = model.encoder(clip).last_hidden_state
            parts = {
                "encoder": lambda model=model, clip=clip: model.encoder(clip),
                "decoders and heads": lambda model=model, encoded=encoded: model(encoded_clips=encoded),
            }
            told = {name: operations(part, arguments.repeats) for name, part in parts.items()}
        whole = {name: sum(seconds for seconds, _ in found.values()) for name, found in told.items()}
        lines += [f"## Operations of a forward pass, {size}, {arguments.repeats} passes", ""]
        lines += ["| operation | " + " | ".join(f"{name}: calls, ms, share" for name in told) + " |", "|---|---|---|"]
        names = {
            name: max(found.get(name, (0.0, 0))[0] / whole[part] for part, found in told.items())
            for found in told.values()
            for name in found
        }
        for name in sorted(names, key=names.__getitem__, reverse=True)[:12]:
            cells = []
            for part, found in told.items():
                seconds, calls = found.get(name, (0.0, 0))
                cells.append(f"{calls}, {1000 * seconds:.1f}, {seconds / whole[part]:.1%}")
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        ratio = whole["decoders and heads"] / whole["encoder"]
        lines += [f"| all | {' | '.join(f'{1000 * seconds:.0f}' for seconds in whole.values())} |", ""]
        lines += [f"Decoders and heads take {ratio:.3f} of the encoder's time.", ""]
    return lines


def operations(call: Callable[[], Any], repeats: int) -> dict[str, tuple[float, int]]:
    """Seconds of its own and calls of every operation, a call's mean after one that is not counted."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            call()
    found = {event.key: event for event in profile.key_averages()}
    return {name: (event.self_cpu_time_total / 1e6 / repeats, event.count // repeats) for name, event in found.items()}


def make_model(size: str) -> tuple[MTCAEForMultiTaskVideo, MTCAEVideoProcessor]:
    """The demonstration model, or one with random weights over an encoder of a size."""
    if size == "demonstration":
        return load_model(str(DEMONSTRATION_MODEL))
    encoder = {"model_type": "videomae", **PAPER_ENCODER, **SHARED_ASPECTS, **ENCODERS[size]}
    encoder["intermediate_size"] = 4 * encoder["hidden_size"]
    torch.manual_seed(0)
    model = MTCAEForMultiTaskVideo(MTCAEConfig(encoder_config=encoder, **DECODERS[size])).eval()
    side = model.config.encoder_config.image_size
    return model, MTCAEVideoProcessor(size={"height": side, "width": side})


def multiply_adds(model: torch.nn.Module, pixel_values: torch.Tensor) -> float:
    """Half of the operations that PyTorch counts in a forward pass."""
    with torch.inference_mode(), count_operations() as counter:
        model(pixel_values)
    return counter.get_total_flops() / 2


def take_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-1, repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repeat >= 0:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


# ------------------------------------------------------------------------------------------------------ long videos


def measure_timelines(material: Material, arguments: argparse.Namespace) -> list[str]:
    """The tables of the timeline's time and memory, and of its agreement with single clips."""
    measured = {minutes: measure_timeline(material.minutes(minutes)) for minutes in arguments.minutes}
    longest = arguments.minutes[0]
    video, result = material.minutes(longest), measured[longest][2]
    count = round((60 * longest - WINDOW) / HOP) + 1
    model, processor = load_model(str(DEMONSTRATION_MODEL))
    spans = window_spans(60 * longest, arguments.windows)
    single = [_seconds(lambda span=span: predict_window(video, span, model, processor)) for span in spans]
    cut = take_turns({"cut": lambda: predict_cut_window(material.window, model, processor)}, arguments.repeats)["cut"]
    seconds = measured[longest][0]
    decoding = min(_seconds(lambda: decode_alone(video)) for _ in range(2))
    rows = {
        "the timeline, one call": seconds,
        "decoding all frames, and nothing else": decoding,
        "the single-clip path, window by window": count * statistics.mean(single),
        "the same on windows cut into files beforehand": count * cut,
    }
    lines = [f"## A timeline of {longest} minutes of 720p, {count} windows, demonstration model", ""]
    lines += ["| | seconds | time / timeline |", "|---|---|---|"]
    lines += [f"| {name} | {value:.0f} | {value / seconds:.1f} |" for name, value in rows.items()]
    told = f"one call of the timeline, {len(spans)} single windows, {arguments.repeats} cut ones"
    lines += ["", f"Measured: {told}. The timeline takes {seconds / decoding:.2f} times decoding alone; the goal is"]
    lines[-1] += f" {TIMELINE_GOAL}. Window by window is to take 3 times the timeline."
    lines += ["", f"| video | peak memory, MiB | / {longest} min | goal |", "|---|---|---|---|"]
    first = measured[longest][1]
    lines += [
        f"| {minutes} min | {peak:.0f} | {peak / first:.2f} | {MEMORY_GOAL:.2f} |"
        for minutes, (_, peak, _) in measured.items()
    ]
    return [*lines, "", f"{len(result['people'])} tracks were found.", ""]


def decode_alone(video: Path) -> None:
    """Decodes every frame of a video, without making a picture of any."""
    for _ in FrameStream(video):
        pass


@lru_cache
def measure_timeline(video: Path, people: str = "all") -> tuple[float, float, dict[str, Any]]:
    """Seconds, MiB beyond the loaded libraries, and the result, in a fresh process; once for each video."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_timeline, args=(theirs, video, people), daemon=True)
    process.start()
    theirs.close()
    measured = ours.recv()
    process.join()
    return measured


def _measure_timeline(pipe: multiprocessing.connection.Connection, video: Path, people: str) -> None:
    timeline = make_timeline()
    timeline(np.zeros((50, 64, 64, 3), np.uint8), fps=25)  # loads the detector's weights
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident_kibibytes("VmRSS")
    begin = time.perf_counter()
    result = timeline(str(video), people=people, average_windows=False)
    pipe.send((time.perf_counter() - begin, (_resident_kibibytes("VmHWM") - before) / 1024, result))


def make_timeline() -> FacialExpressionTimelinePipeline:
    """The pipeline over the demonstration model."""
    model, processor = load_model(str(DEMONSTRATION_MODEL))
    return FacialExpressionTimelinePipeline(model=model, video_processor=processor, device="cpu")


def window_spans(duration: float, count: int) -> list[tuple[float, float]]:
    """Some of the timeline's windows, evenly spread from the first to the last one."""
    last = int((duration - WINDOW) / HOP)
    return [(index * HOP, index * HOP + WINDOW) for index in uniform_frame_indices(last + 1, count)]


def read_window(video: Path, span: tuple[float, float], num_frames: int) -> torch.Tensor:
    """Frames (T, 3, H, W) spread over a span of a video, as somebody would read them who has only `read_clip`."""
    first, end = round(span[0] * FRAME_RATE), round(span[1] * FRAME_RATE)
    indices = [first + index for index in uniform_frame_indices(end - first, num_frames)]
    return read_clip(video, frame_indices=indices).frames


@torch.inference_mode()
def predict_window(
    video: Path, span: tuple[float, float], model: MTCAEForMultiTaskVideo, processor: Any, crop: bool = True
) -> dict[str, Any]:
    """The single-clip path on a span: its frames, the processor's face crop or the whole frame, the model."""
    frames = read_window(video, span, processor.num_frames)
    inputs = processor(
        [frames], do_sample_frames=False, do_face_crop=crop, input_data_format="channels_first", return_metadata=True
    )
    metadata = inputs.pop("video_metadata")
    (result,) = processor.post_process_multi_task(
        model(inputs["pixel_values"]), metadata=metadata, id2label=model.config.id2label
    )
    return {**result, "crop_box": metadata[0].crop_box}


@torch.inference_mode()
def predict_cut_window(file: Path, model: MTCAEForMultiTaskVideo, processor: Any) -> torch.Tensor:
    """The single-clip path on a file of one window."""
    return model(processor(str(file), do_face_crop=True)["pixel_values"]).logits.softmax(dim=-1)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# -------------------------------------------------------------------------------------------------------- agreement


def measure_agreement(material: Material, arguments: argparse.Namespace) -> list[str]:
    """The table of the timeline's windows against single-clip predictions of the same spans."""
    minutes = arguments.minutes[0]
    video, (model, processor) = material.minutes(minutes), load_model(str(DEMONSTRATION_MODEL))
    spans = window_spans(60 * minutes, arguments.windows)
    lines = [f"## Windows of {minutes} minutes against single-clip predictions of the same spans", ""]
    lines += ["| | windows | same expression | largest difference of a score |", "|---|---|---|---|"]
    for people, told in (("single", "whole frame"), ("all", "face crop, windows of one scene")):
        result = measure_timeline(video, people)[2]
        pairs = []
        for span in spans:
            single = predict_window(video, span, model, processor, crop=people == "all")
            window = find_window(result, span, single["crop_box"])
            pairs += [] if window is None else [(window["scores"], single["expression"])]
        same = sum(max(one, key=one.get) == max(two, key=two.get) for one, two in pairs)
        largest = max((abs(one[name] - two[name]) for one, two in pairs for name in one), default=float("nan"))
        lines.append(f"| {told} | {len(pairs)} | {same} | {largest:.1e} |")
    return [*lines, ""]


def find_window(
    result: dict[str, Any], span: tuple[float, float], crop_box: tuple[float, ...]
) -> dict[str, Any] | None:
    """The scored window of a span whose person the single-clip path has cropped, too."""
    scale = np.array([result["width"], result["height"]] * 2)
    for person in result["people"]:
        for window in person["windows"]:
            whole = abs(window["start"] - span[0]) < 0.01 and abs(window["end"] - span[1]) < 0.05
            if not whole or window["scores"] is None:
                continue
            boxes = np.array([frame["box"] for frame in window["frames"]]) / scale
            around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
            crop = np.array(crop_box)
            if (crop == [0, 0, 1, 1]).all() or box_intersection_over_union(around, crop) > 0.1:
                return window
    return None


# ------------------------------------------------------------------------------------------------------------ start

STOCK_PROGRAM = """
import sys, torch
from transformers import VideoMAEForVideoClassification, VideoMAEVideoProcessor
from transformers.video_utils import load_video
model = VideoMAEForVideoClassification.from_pretrained(sys.argv[1]).eval()
processor = VideoMAEVideoProcessor.from_pretrained(sys.argv[1])
frames, _ = load_video(sys.argv[2], num_frames=16, backend="pyav")
with torch.inference_mode():
    print(model(processor([frames], return_tensors="pt")["pixel_values"]).logits.softmax(dim=-1))
"""


def measure_starts(material: Material, arguments: argparse.Namespace) -> list[str]:
    """The table of fresh processes."""
    model, _ = load_model(str(DEMONSTRATION_MODEL))
    stock, side = material.folder / "stock", model.config.encoder_config.image_size
    VideoMAEForVideoClassification(model.config.encoder_config).save_pretrained(stock)
    VideoMAEVideoProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        stock
    )
    imports = "import torch, transformers.modeling_utils, transformers.video_processing_utils"
    command = "import sys; from mtcae_commands.command_line import main; sys.exit(main())"
    predict = [sys.executable, "-c", command, "predict", str(material.clip)]
    without_us = {
        "`import torch, transformers.modeling_utils`, no answer": [sys.executable, "-c", imports],
        "stock path: the demonstration model's encoder, no face search": [
            *(sys.executable, "-c", STOCK_PROGRAM, str(stock), str(material.clip))
        ],
    }
    calls = {
        "`mtcae predict CLIP`, demonstration model": [*predict, "--model", str(DEMONSTRATION_MODEL)],
        "`mtcae predict CLIP`, model for real people, face search": predict,
        "`mtcae predict CLIP --json OUT --people all` (timeline)": [
            *(*predict, "--people", "all", "--json", str(material.folder / "out.json"))
        ],
    }
    checkouts = {"": CHECKOUT} | ({", the other checkout": arguments.against} if arguments.against else {})
    with ExitStack() as stack:
        environments = {told: stack.enter_context(importing(root)) for told, root in checkouts.items()}
        programs = {name: (words, environments[""]) for name, words in without_us.items()}
        programs |= {
            name + told: (words, environment)
            for name, words in calls.items()
            for told, environment in environments.items()
        }
        # This round is not timed: it leaves compiled modules, and files in the system's cache.
        modules = {name: _count_modules(*program) for name, program in programs.items()}
        times = take_turns(
            {name: lambda program=program: _run(*program) for name, program in programs.items()}, arguments.repeats
        )
    baseline = next(iter(times.values()))
    lines = ["## A fresh process to its first answer", "", "| | seconds | time / import | modules imported |"]
    lines.append("|---|---|---|---|")
    lines += [f"| {name} | {value:.1f} | {value / baseline:.2f} | {modules[name]} |" for name, value in times.items()]
    lines += ["", f"The goal of `mtcae predict` is {START_GOAL} times the import alone."]
    return [*lines, "", f"Medians of {arguments.repeats} processes in turns; files are in the system's cache.", ""]


def _run(words: list[str], environment: dict[str, str]) -> str:
    """Runs a program as installed ones run, whose compiled modules are kept; returns its standard error."""
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stderr


def _count_modules(words: list[str], environment: dict[str, str]) -> int:
    """How many modules a program imports."""
    told = _run(words, environment | {"PYTHONPROFILEIMPORTTIME": "1"})
    return sum(line.startswith("import time:") for line in told.splitlines()) - 1  # the first line is a heading


PARTS = {
    "clip": measure_clips,
    "operations": measure_operations,
    "timeline": measure_timelines,
    "agreement": measure_agreement,
    "start": measure_starts,
}

if __name__ == "__main__":
    main()
