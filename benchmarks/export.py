"""Exported graphs against eager PyTorch: latency, size, and on a data set's test clips how often labels agree.

    python benchmarks/export.py --model runs/tiny --dataset runs/synthetic/dataset

All variants take turns within every repeat, so that a busy machine slows all of them; each time is the median. Without
--model a cascade with random weights over a ViT-S encoder (16 x 224 x 224) is measured, without agreement.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from results_file import keep_table

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.inference.models import load_model
from mtcae_dfer.pipeline_mtcae import quantise_linear_layers
from mtcae_dfer.release.export import (
    ExportGraph,
    example_clips,
    export_model,
    open_onnx,
    open_torch_export,
)

Runner = Callable[[np.ndarray], list[np.ndarray]]
SMALL_ENCODER = {
    "model_type": "videomae",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "use_mean_pooling": False,
}


@dataclass
class Variant:
    """One way to run the model."""

    name: str
    run: Runner
    megabytes: float
    times: dict[int, list[float]] = field(default_factory=dict)  # seconds a call, by number of clips


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model folder (default: random weights over a ViT-S encoder)")
    parser.add_argument("--dataset", help="data set on whose test clips the labels are compared")
    parser.add_argument("--fold", help="fold of the data set (default: its first)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="clips in a call (default: 1 8)")
    parser.add_argument("--repeats", type=int, default=15, help="measured calls of each variant (default: 15)")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes to start")
    parser.add_argument("--name", default="export", help="name of the kept table (default: export)")
    return parser.parse_args()


def make_random_model(folder: Path) -> str:
    """Saves a cascade over a ViT-S encoder, untrained."""
    torch.manual_seed(0)
    sizes = {"decoder_hidden_size": 384, "decoder_num_attention_heads": 6, "decoder_head_dim": 64}
    MTCAEForMultiTaskVideo(MTCAEConfig(encoder_config=dict(SMALL_ENCODER), **sizes)).save_pretrained(folder)
    MTCAEVideoProcessor().save_pretrained(folder)
    return str(folder)


def in_pytorch(model: MTCAEForMultiTaskVideo, compiled: bool = False) -> Runner:
    """The model itself as a function on arrays."""
    graph = ExportGraph(model).eval()
    graph = torch.compile(graph) if compiled else graph

    def run(clips: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in graph(torch.from_numpy(clips))]

    return run


def make_variants(name: str, folder: Path, compiled: bool) -> list[Variant]:
    """Eager PyTorch first, which the others are compared with."""
    model, _ = load_model(name)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    quantised = copy.deepcopy(model)
    quantise_linear_layers(quantised)
    variants = [
        Variant("PyTorch eager, fp32", in_pytorch(model), 4 * size),
        Variant("PyTorch eager, bf16", in_pytorch(copy.deepcopy(model).bfloat16()), 2 * size),
        Variant("PyTorch eager, int8 (torchao)", in_pytorch(quantised), size),
    ]
    if compiled:
        variants += [Variant("torch.compile, fp32", in_pytorch(copy.deepcopy(model), True), 4 * size)]
        variants += [Variant("torch.compile, int8 (torchao)", in_pytorch(copy.deepcopy(quantised), True), size)]
    for format, dtype in (("torch-export", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8")):
        output = folder / f"{format}-{dtype}"
        export_model(name, output, format, dtype)
        (file,) = output.glob("model.*")
        opener = open_onnx if format == "onnx" else open_torch_export
        title = "ONNX Runtime" if format == "onnx" else "torch.export"
        variants.append(Variant(f"{title}, {dtype}", opener(file), file.stat().st_size / 1e6))
    return variants


def measure(variants: list[Variant], clips: np.ndarray, batch: int, repeats: int) -> None:
    """Times `repeats` calls of every variant in turns, after two that are not counted."""
    for repeat in range(-2, repeats):
        for variant in variants:
            # The threads of the variant before go on for a moment, and those of this one have to wake up.
            variant.run(clips[:batch])
            start = time.perf_counter()
            variant.run(clips[:batch])
            if repeat >= 0:
                variant.times.setdefault(batch, []).append(time.perf_counter() - start)


def test_clips(dataset: str, fold: str | None, name: str) -> np.ndarray:
    """pixel_values of all test clips of a fold, (clips, T, 3, H, W)."""
    from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
    from mtcae_dfer.training.data.clip_dataset import ClipDataset
    from mtcae_dfer.training.evaluation.predictions import normalise

    _, processor = load_model(name)
    size = (processor.size["height"], processor.size["width"])
    clips = ClipDataset(load_multitask_dataset(dataset, fold)["test"], size)
    frames = torch.stack([clips[index]["frames"] for index in range(len(clips))])
    return normalise(processor, frames).numpy()


def agreement(variant: Variant, reference: Variant, clips: np.ndarray) -> tuple[float, float]:
    """Share of clips with the same most probable expression, and the largest difference of a box edge."""
    same, edge = 0, 0.0
    for start in range(0, len(clips), 16):
        ours, theirs = variant.run(clips[start : start + 16]), reference.run(clips[start : start + 16])
        same += int((ours[-1].argmax(-1) == theirs[-1].argmax(-1)).sum())
        edge = max(edge, float(np.abs(ours[0] - theirs[0]).max()))
    return same / len(clips), edge


def make_table(variants: list[Variant], batches: list[int], clips: np.ndarray | None) -> list[str]:
    """Markdown rows: milliseconds a clip, ratio to eager PyTorch, agreement."""
    columns = [f"ms a clip, {batch} at once" for batch in batches]
    head = ["variant", "MB", *(title for column in columns for title in (column, "ratio"))]
    head += ["same label", "largest box difference"] if clips is not None else []
    rows = [head, ["---"] * len(head)]
    for variant in variants:
        cells = [variant.name, f"{variant.megabytes:.1f}"]
        for batch in batches:
            time_a_clip, baseline = (statistics.median(each.times[batch]) / batch for each in (variant, variants[0]))
            cells += [f"{1000 * time_a_clip:.2f}", f"{time_a_clip / baseline:.2f}"]
        if clips is not None:
            same, edge = agreement(variant, variants[0], clips)
            cells += [f"{same:.1%}", f"{edge:.4f}"]
        rows.append(cells)
    return ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        name = arguments.model or make_random_model(folder / "model")
        variants = make_variants(name, folder, arguments.compile)
        noise = example_clips(*load_model(name), max(arguments.batches)).numpy()
        for batch in arguments.batches:
            measure(variants, noise, batch, arguments.repeats)
        clips = test_clips(arguments.dataset, arguments.fold, name) if arguments.dataset else None
        lines = make_table(variants, arguments.batches, clips)
    lines += ["", f"Medians of {arguments.repeats} calls in turns; ratio: time over that of eager fp32 PyTorch."]
    if clips is not None:
        lines += [f"Labels and boxes compared with eager fp32 PyTorch on {len(clips)} test clips of unseen subjects."]
    print("\n".join(lines))
    print(f"kept in {keep_table(arguments.name, 'Exported graphs against eager PyTorch', lines)}")


if __name__ == "__main__":
    main()
