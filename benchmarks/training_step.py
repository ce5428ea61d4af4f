"""Time and memory of training steps: presets in several precisions and modes, beside the encoder as a classifier.

    python benchmarks/training_step.py                       # the paper's model on a GPU, a smaller one on a CPU
    python benchmarks/training_step.py --size small --batch 2 --repeats 5
    python benchmarks/training_step.py --size paper --batch 1 --repeats 3 --models classifier finetune

The small model keeps the paper's proportions: a quarter of all widths and of the tokens (frames of 112 pixels), the
same layers, and so 1/64 of the multiply-adds everywhere.
All models take turns within every repeat, so that a busy machine slows all of them; each time is the median, and each
ratio the median of the repeats' own ratios, which stand below the table. With OMP_NUM_THREADS=1, `--processor-time`
counts the time that the one thread was at work, which leaves out what other jobs on the machine took.
Model FLOP utilisation: 3 x 2 x multiply-adds of the forward pass (2 x for what a frozen encoder does not learn), over
the time and the device's peak; on a CPU, over the rate of a large matrix product in the same precision.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from results_file import keep_table
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.experiments.operations import count_operations
from mtcae_dfer.modeling_encoders import PAPER_ENCODER, encode_clips
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.running import checkpoint_activations

# Peak of dense products in bfloat16, FLOP/s; float32 by TF32 is half of it.
GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
# What differs from the paper's model, and the decoders' width.
SIZES = {
    "paper": ({}, 512),
    "small": ({"image_size": 112, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}, 128),
    # To try the benchmark itself: its figures mean nothing.
    "tiny": (
        {
            "image_size": 32,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        32,
    ),
}
TARGET_RATIO = 1.25
CLASSIFIER = "VideoMAE classifier"
ENCODING, CACHED = "frozen_encoder, encoding", "frozen_encoder, cached features"


@dataclass
class Candidate:
    """One way to make a step. Times are seconds a step."""

    model_name: str
    mode: str
    head_dim: int | None = None  # of the decoders; None: the classifier
    attention: str = "sdpa"
    bf16: bool = False
    compiled: bool = False
    checkpointing: bool = False
    frozen: bool = False
    cached: bool = False
    step: Callable[[], None] | None = None
    flops: float = 0.0
    memory: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


def build_candidates(compiles: bool, models: Sequence[str] = (), wanted_modes: Sequence[str] = ()) -> list[Candidate]:
    """The classifier and the presets in every mode, or those whose names hold one of the words and are of the modes."""
    modes = [
        ("eager fp32", {"attention": "eager"}),
        ("sdpa fp32", {}),
        ("sdpa bf16", {"bf16": True}),
        ("sdpa bf16, checkpointing", {"bf16": True, "checkpointing": True}),
    ]
    modes += [("sdpa bf16, compiled", {"bf16": True, "compiled": True})] if compiles else []
    kinds = [(CLASSIFIER, None), ("finetune (head width 64)", 64), ("paper (head width 512)", 512)]
    candidates = [Candidate(name, mode, head, **options) for name, head in kinds for mode, options in modes]
    frozen = {"frozen": True}
    candidates.append(Candidate(ENCODING, "sdpa fp32", 64, **frozen))
    candidates.append(Candidate(CACHED, "sdpa fp32", 64, **frozen, cached=True))
    return [
        entry
        for entry in candidates
        if (not models or any(word in entry.model_name for word in models))
        and (not wanted_modes or entry.mode in wanted_modes)
    ]


def build_model(candidate: Candidate, size: str) -> nn.Module:
    """A fresh model of a candidate."""
    changes, width = SIZES[size]
    encoder = dict(PAPER_ENCODER) | changes
    if candidate.head_dim is None:
        config = VideoMAEConfig(**{name: value for name, value in encoder.items() if name != "model_type"})
        model: nn.Module = VideoMAEForVideoClassification(config)
    else:
        head_dim = candidate.head_dim * width // 512
        model = MTCAEForMultiTaskVideo(
            MTCAEConfig(encoder_config=encoder, decoder_hidden_size=width, decoder_head_dim=head_dim)
        )
    model.set_attn_implementation(candidate.attention)
    if candidate.checkpointing:
        checkpoint_activations(model)
    if candidate.frozen:
        model.freeze_encoder()
    return model


def make_inputs(candidate: Candidate, model: nn.Module, batch: int, device: str) -> dict[str, torch.Tensor]:
    """A random batch with labels."""
    config = model.config if candidate.head_dim is None else model.config.encoder_config
    side, frames = config.image_size, config.num_frames
    inputs = {"labels": torch.zeros(batch, dtype=torch.long)}
    if candidate.head_dim is not None:
        inputs |= {"face_boxes": torch.rand(batch, frames, 4), "face_landmarks": torch.rand(batch, frames, 5, 2)}
        inputs |= {"face_found": torch.ones(batch, frames, dtype=torch.bool)}
    if candidate.cached:
        tokens = torch.Size(model.config.token_grid).numel()
        inputs |= {"encoded_clips": torch.randn(batch, tokens, config.hidden_size)}
    else:
        inputs |= {"pixel_values": torch.randn(batch, frames, 3, side, side)}
    return {name: value.to(device) for name, value in inputs.items()}


def prepare(candidate: Candidate, size: str, batch: int, device: str) -> None:
    """Builds the candidate's step, and measures its memory and multiply-adds."""
    torch.manual_seed(0)
    model = build_model(candidate, size).to(device).train()
    inputs = make_inputs(candidate, model, batch, device)
    candidate.flops = count_training_flops(candidate, model, inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    stepped = torch.compile(model) if candidate.compiled else model

    def step() -> None:
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=candidate.bf16):
            loss = stepped(**inputs).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    candidate.step = step
    candidate.memory = measure_memory(step, device)


def count_training_flops(candidate: Candidate, model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """FLOPs of a step: forward, and twice as much backward for what is trained."""
    with torch.no_grad(), count_operations() as counter:
        model(**inputs)
    whole = counter.get_total_flops()
    if not candidate.frozen or candidate.cached:
        return 3.0 * whole
    with torch.no_grad(), count_operations() as counter:
        encode_clips(model.encoder, inputs["pixel_values"])
    return 3.0 * whole - 2.0 * counter.get_total_flops()


def measure_memory(step: Callable[[], None], device: str) -> int:
    """Bytes at the peak of a step on a GPU; on a CPU, bytes of the tensors kept for the backward pass."""
    if device.startswith("cuda"):
        step()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def measure_peak(device: str, bf16: bool, clock: Callable[[], float]) -> float:
    """FLOP/s that count as full utilisation."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        peak = next((value for word, value in GPU_PEAKS.items() if word in name), None)
        if peak is not None:
            return peak if bf16 else peak / 2
    # A processor without bfloat16 multiplies a hundred times slower in it: small enough to end there, too.
    side = 2048 if device.startswith("cuda") else 512
    matrix = torch.randn(side, side, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    seconds = []
    for _ in range(5):
        start = clock()
        (matrix @ matrix).sum().item()
        seconds.append(clock() - start)
    return 2 * side**3 / min(seconds)


def time_step(candidate: Candidate, device: str, clock: Callable[[], float]) -> None:
    """Times one step."""
    start = clock()
    candidate.step()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    candidate.times.append(clock() - start)


def format_rows(candidates: list[Candidate], batch: int, peaks: dict[bool, float]) -> list[str]:
    """The table, and what it says about the aims."""
    rows = [
        "| model | mode | clips/s | peak memory | MFU | time / classifier | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    baselines = {entry.mode: entry for entry in candidates if entry.model_name == CLASSIFIER}
    remarks = []
    for entry in candidates:
        utilisation = entry.flops / entry.seconds / peaks[entry.bf16]
        comparable = entry.mode in baselines and not entry.frozen
        ratios = paired_ratios(entry, baselines[entry.mode]) if comparable else []
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else ""
        goal = f"{TARGET_RATIO}" if ratios and entry.head_dim == 64 else ""
        if ratios and entry.model_name != CLASSIFIER:
            remarks.append(f"- {entry.model_name}, {entry.mode}: {', '.join(f'{value:.2f}' for value in ratios)}")
        figures = f"{batch / entry.seconds:.2f} | {entry.memory / 2**20:.0f} MiB | {100 * utilisation:.0f} %"
        rows.append(f"| {entry.model_name} | {entry.mode} | {figures} | {ratio} | {goal} |")
    aim = f"The cascade at head width 64 is to take at most {TARGET_RATIO} times the classifier's step."
    told = ["Time / classifier in every repeat:", "", *remarks, ""] if remarks else []
    return [*rows, "", *told, aim, *_compare_cached(candidates)]


def paired_ratios(candidate: Candidate, baseline: Candidate) -> list[float]:
    """The candidate's time over the baseline's of the same repeat, for every repeat."""
    return [own / other for own, other in zip(candidate.times, baseline.times, strict=True)]


def _compare_cached(candidates: list[Candidate]) -> list[str]:
    by_name = {entry.model_name: entry for entry in candidates}
    if ENCODING not in by_name or CACHED not in by_name:
        return []
    encoding, cached = by_name[ENCODING], by_name[CACHED]
    return [
        f"Training from cached features is {encoding.seconds / cached.seconds:.1f} times as fast as encoding in every "
        f"step; {encoding.flops / cached.flops:.1f} times by multiply-adds. Reading and decoding the videos, which the "
        "cache saves too, is not in it."
    ]


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="paper" if on_gpu else "small")
    parser.add_argument("--batch", type=int, default=16 if on_gpu else 2, help="clips in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="measured steps of each (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="default: %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled modes")
    parser.add_argument("--models", nargs="+", default=(), help="words of the names of models to measure; empty: all")
    parser.add_argument("--modes", nargs="+", default=(), help="modes to measure; empty: all")
    parser.add_argument("--name", default=None, help="of the table; default: training_step_ and the device")
    parser.add_argument("--processor-time", action="store_true", help="time at work of the one thread, on a CPU")
    arguments = parser.parse_args()
    if arguments.processor_time and (arguments.device != "cpu" or torch.get_num_threads() > 1):
        parser.error("--processor-time: on a CPU with OMP_NUM_THREADS=1; threads that wait for one another count, too")
    clock = time.process_time if arguments.processor_time else time.perf_counter
    torch.set_float32_matmul_precision("high")
    candidates = build_candidates(not arguments.no_compile, arguments.models, arguments.modes)
    # On a GPU one model at a time: together they would not fit.
    groups = [[entry] for entry in candidates] if arguments.device.startswith("cuda") else [candidates]
    for group in groups:
        for entry in group:
            prepare(entry, arguments.size, arguments.batch, arguments.device)
            if entry.compiled:  # measuring the memory was a step, but of another graph
                entry.step()
        for _ in range(arguments.repeats):
            for entry in group:
                time_step(entry, arguments.device, clock)
        for entry in group:
            entry.step = None
    peaks = {bf16: measure_peak(arguments.device, bf16, clock) for bf16 in (False, True)}
    memory = "peak of the step" if arguments.device.startswith("cuda") else "tensors kept for the backward pass"
    head = f"Model size `{arguments.size}`, {arguments.batch} clips a step, median of {arguments.repeats}; {memory}."
    head += " Times are processor time of one thread." if arguments.processor_time else ""
    lines = [head, "", *format_rows(candidates, arguments.batch, peaks)]
    print("\n".join(lines))
    name = arguments.name or f"training_step_{arguments.device.split(':')[0]}"
    print(keep_table(name, "Training steps", lines, arguments.device))


if __name__ == "__main__":
    main()
