"""LGI-Former against VideoMAE-Base on 16 x 160 x 160 clips: time, memory, parameters and multiply-adds in one run.

    python benchmarks/encoders.py --batch 2 --repeats 7

The models take turns within every repeat, so that a busy machine slows all of them; each time is the median. The aim
is a time ratio of at most 0.75 forward and 0.80 forward and backward; multiply-adds stand at 0.615 for all tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from mtcae_dfer.configuration_lgi_former import LGIFormerConfig
from mtcae_dfer.modeling_lgi_former import LGIFormerForVideoClassification, LGIFormerModel

CLIP_SHAPE = (16, 3, 160, 160)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Candidate:
    """One model under measurement. Times are seconds a step."""

    name: str
    build: Callable[[], nn.Module]
    baseline: str | None = None  # name of the candidate that it is compared with
    parameters: int = 0
    giga_multiply_adds: float = 0.0
    memory: int = 0  # bytes at the peak of a training step; on a CPU, bytes kept for the backward pass
    forward_times: list[float] = field(default_factory=list)
    training_times: list[float] = field(default_factory=list)


def build_candidates() -> list[Candidate]:
    """The encoders with all tokens, as under the cascade, and the classifiers, as in MAE-DFER."""
    videomae = VideoMAEConfig(image_size=160, num_labels=7, layer_norm_eps=1e-6)
    lgi_former = LGIFormerConfig(num_labels=7)
    return [
        Candidate("VideoMAE-Base encoder", lambda: VideoMAEModel(videomae)),
        Candidate("LGI-Former encoder", lambda: LGIFormerModel(lgi_former), "VideoMAE-Base encoder"),
        Candidate("VideoMAE-Base classifier", lambda: VideoMAEForVideoClassification(videomae)),
        Candidate(
            "LGI-Former classifier", lambda: LGIFormerForVideoClassification(lgi_former), "VideoMAE-Base classifier"
        ),
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2, help="clips in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each model (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default: %(default)s")
    return parser.parse_args()


def measure_size(candidate: Candidate) -> None:
    """Counts parameters and multiply-adds of one clip, without memory or arithmetic."""
    with torch.device("meta"):
        model = candidate.build().eval()
        candidate.parameters = sum(parameter.numel() for parameter in model.parameters())
        with FlopCounterMode(display=False) as counter:
            run_forward(model, torch.empty(1, *CLIP_SHAPE))
    # The counter counts a multiplication and an addition apart.
    candidate.giga_multiply_adds = counter.get_total_flops() / 2e9


def run_forward(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """The model's first output: tokens of an encoder, scores of a classifier."""
    return model(clips)[0]


def run_training_step(model: nn.Module, clips: torch.Tensor) -> None:
    """Forward and backward, without an optimizer."""
    model.zero_grad(set_to_none=True)
    run_forward(model, clips).float().square().mean().backward()


def measure_seconds(step: Callable[[], object], device: torch.device) -> float:
    """Wall time of one step, until the device has finished it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure_memory(model: nn.Module, clips: torch.Tensor) -> int:
    """Peak bytes of a training step on a GPU; on a CPU, the bytes that its forward keeps for the backward pass."""
    if clips.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clips.device)
        run_training_step(model, clips)
        return torch.cuda.max_memory_allocated(clips.device)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run_forward(model, clips)
    return sum(kept.values())


def measure(candidates: list[Candidate], arguments: argparse.Namespace) -> None:
    """Fills every candidate's times and memory. On a GPU each model is alone there while its memory is measured."""
    device, dtype = torch.device(arguments.device), PRECISIONS[arguments.precision]
    clips = torch.randn(arguments.batch, *CLIP_SHAPE, device=device, dtype=dtype)
    for candidate in candidates:
        model = candidate.build().to(device, dtype).train()
        candidate.memory = measure_memory(model, clips)
        del model
    models = [candidate.build().to(device, dtype).train() for candidate in candidates]
    for repeat in range(-1, arguments.repeats):
        for candidate, model in zip(candidates, models, strict=True):
            with torch.no_grad():
                forward = measure_seconds(lambda model=model: run_forward(model, clips), device)
            training = measure_seconds(lambda model=model: run_training_step(model, clips), device)
            model.zero_grad(set_to_none=True)
            # The first turn only warms up.
            if repeat >= 0:
                candidate.forward_times.append(forward)
                candidate.training_times.append(training)


def print_table(candidates: list[Candidate], arguments: argparse.Namespace) -> None:
    """Absolute figures of every model, then each model's ratios to its baseline."""
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(
        f"{arguments.device} ({name}), {arguments.precision}, {arguments.batch} clips of 16 x 160 x 160, median of "
        f"{arguments.repeats}, PyTorch {torch.__version__}\n"
    )
    memory_title = "peak MiB" if arguments.device.startswith("cuda") else "kept MiB"
    print("| model | parameters | G multiply-adds a clip | forward ms | forward + backward ms | " + memory_title + " |")
    print("|---|---:|---:|---:|---:|---:|")
    by_name = {candidate.name: candidate for candidate in candidates}
    for candidate in candidates:
        forward, training = statistics.median(candidate.forward_times), statistics.median(candidate.training_times)
        print(
            f"| {candidate.name} | {candidate.parameters:,} | {candidate.giga_multiply_adds:.2f} | {forward * 1e3:.1f} "
            f"| {training * 1e3:.1f} | {candidate.memory / 2**20:.0f} |"
        )
    print("\n| ratio to the baseline | parameters | multiply-adds | forward | forward + backward | memory |")
    print("|---|---:|---:|---:|---:|---:|")
    for candidate in candidates:
        if candidate.baseline is not None:
            print_ratios(candidate, by_name[candidate.baseline])


def print_ratios(candidate: Candidate, baseline: Candidate) -> None:
    """One row: the candidate's figures divided by its baseline's."""
    median = statistics.median
    ratios = [
        candidate.parameters / baseline.parameters,
        candidate.giga_multiply_adds / baseline.giga_multiply_adds,
        median(candidate.forward_times) / median(baseline.forward_times),
        median(candidate.training_times) / median(baseline.training_times),
        candidate.memory / baseline.memory,
    ]
    print(f"| {candidate.name} / {baseline.name} | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    candidates = build_candidates()
    for candidate in candidates:
        measure_size(candidate)
    measure(candidates, arguments)
    print_table(candidates, arguments)


if __name__ == "__main__":
    main()
