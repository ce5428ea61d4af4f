"""LGI-Former against VideoMAE-Base on 16 x 160 x 160 clips: time, memory, parameters and multiply-adds in one run.

    python benchmarks/encoders.py --batch 2 --repeats 7
    python benchmarks/encoders.py --every --keep     # every kind of docs/encoders.md at a common small size
    python benchmarks/encoders.py --released         # their sizes as released; nothing is timed

The models take turns within every repeat, so that a busy machine slows all of them; each time is the median. With
`--keep` the tables are written into `benchmarks/results`, too. The aim of the first line is a time ratio of at most
0.75 forward and 0.80 forward and backward; multiply-adds stand at 0.615 for all tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from results_file import keep_table, machine, versions
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from mtcae_dfer.configuration_lgi_former import LGIFormerConfig
from mtcae_dfer.experiments.operations import count_operations
from mtcae_dfer.modeling_encoders import build_encoder, build_encoder_config, describe_clips, encode_clips
from mtcae_dfer.modeling_lgi_former import LGIFormerForVideoClassification, LGIFormerModel

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


VIT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 8, "image_size": 256}
# Encoders as their best known checkpoints have them: the config's fields, the default's where they are left out.
RELEASED: dict[str, dict[str, Any]] = {
    "VideoMAE ViT-B": {"model_type": "videomae"},
    "VideoMAE ViT-L, MARLIN ViT-L": {"model_type": "videomae", **VIT_LARGE, "intermediate_size": 4096},
    "S4D ViT-B": {"model_type": "videomae", "image_size": 160},
    "MAE-DFER": {"model_type": "lgi_former"},
    "SVFAP": {"model_type": "tpsbt"},
    "V-JEPA 2 ViT-L": {"model_type": "vjepa2", "num_frames": 16},
    "ViViT-B": {"model_type": "vivit"},
    "TimeSformer-B": {"model_type": "timesformer"},
    "VideoPrism-B": {"model_type": "videoprism_vision_model"},
    "DINOv2 ViT-S/14": {"model_type": "frame_backbone"},
    "DINOv3 ViT-B/16": {
        "backbone_config": {
            "model_type": "dinov3_vit",
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "num_register_tokens": 4,
        }
    },
    "ViT-B/16": {"backbone_config": {"model_type": "vit"}},
    "SigLIP ViT-B/16": {"backbone_config": {"model_type": "siglip_vision_model"}},
    "ConvNeXt V2-T": {"backbone_config": {"model_type": "convnextv2"}},
    "DINOv3 ConvNeXt-T": {"backbone_config": {"model_type": "dinov3_convnext"}},
    "Swin V2-T": {"backbone_config": {"model_type": "swinv2", **SWIN_TINY}, "image_size": 256},
    "ResNet-50": {"backbone_config": {"model_type": "resnet"}},
    "MobileNet V2": {"backbone_config": {"model_type": "mobilenet_v2"}},
}
# One width and depth for all transformers, on 16 x 112 x 112; convolutional and pyramid models as released.
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
SMALL_CLIPS = {"image_size": 112, "num_frames": 16}
SMALL_PATCHES = SMALL | {"image_size": 112, "patch_size": 16}
SMALL_DINOV2 = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
SMALL_PYRAMID = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "stage_depths": [6, 4, 2]}
SMALL_PRISM = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "tubelet_size": [1, 16, 16]}
EVERY: dict[str, dict[str, Any]] = {
    "VideoMAE": {"model_type": "videomae", **SMALL, **SMALL_CLIPS, "use_mean_pooling": False},
    "V-JEPA 2": {"model_type": "vjepa2", **SMALL, **SMALL_CLIPS},
    "ViViT": {"model_type": "vivit", **SMALL, **SMALL_CLIPS},
    "TimeSformer": {"model_type": "timesformer", **SMALL, **SMALL_CLIPS},
    "VideoPrism": {
        "model_type": "videoprism_vision_model",
        **SMALL_PRISM,
        **SMALL_CLIPS,
        "num_spatial_layers": 8,
        "num_temporal_layers": 4,
    },
    "LGI-Former (MAE-DFER)": {"model_type": "lgi_former", **SMALL, **SMALL_CLIPS, "region_size": [2, 7, 7]},
    "TPSBT (SVFAP)": {"model_type": "tpsbt", **SMALL_PYRAMID, **SMALL_CLIPS},
    "DINOv2": {
        "backbone_config": {"model_type": "dinov2", **SMALL_DINOV2, "image_size": 112, "patch_size": 14},
        **SMALL_CLIPS,
    },
    "DINOv3 ViT": {
        "backbone_config": {"model_type": "dinov3_vit", **SMALL_PATCHES, "num_register_tokens": 4},
        **SMALL_CLIPS,
    },
    "ViT": {"backbone_config": {"model_type": "vit", **SMALL_PATCHES}, **SMALL_CLIPS},
    "SigLIP": {"backbone_config": {"model_type": "siglip_vision_model", **SMALL_PATCHES}, **SMALL_CLIPS},
    "ConvNeXt V2-T": {"backbone_config": {"model_type": "convnextv2"}, **SMALL_CLIPS},
    "DINOv3 ConvNeXt-T": {"backbone_config": {"model_type": "dinov3_convnext"}, **SMALL_CLIPS},
    "Swin V2-T": {
        "backbone_config": {"model_type": "swinv2", **SWIN_TINY, "window_size": 7, "image_size": 112},
        **SMALL_CLIPS,
    },
    "ResNet-50": {"backbone_config": {"model_type": "resnet"}, **SMALL_CLIPS},
    "MobileNet V2": {"backbone_config": {"model_type": "mobilenet_v2"}, **SMALL_CLIPS},
}
# Where `--keep` writes, by what is measured.
RESULT_NAMES = {"every": "encoders", "lgi_former": "encoders_lgi_former"}
TITLES = {
    "every": "Encoders at one small size against VideoMAE",
    "lgi_former": "LGI-Former against VideoMAE-Base",
}


class Tokens(nn.Module):
    """An encoder by its config's fields, as it stands under the cascade."""

    def __init__(self, described: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = build_encoder(build_encoder_config({"model_type": "frame_backbone"} | described))

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor]:
        """(B, T, 3, H, W) -> tokens (B, N, D), the only output."""
        return (encode_clips(self.encoder, clips).last_hidden_state,)


@dataclass
class Candidate:
    """One model under measurement. Times are seconds a step."""

    name: str
    build: Callable[[], nn.Module]
    clip_shape: tuple[int, int, int, int] = (16, 3, 160, 160)  # T, C, H, W
    baseline: str | None = None  # name of the candidate that it is compared with
    parameters: int = 0
    tokens: str = ""  # t x h x w, where it is an encoder's
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
        Candidate("LGI-Former encoder", lambda: LGIFormerModel(lgi_former), baseline="VideoMAE-Base encoder"),
        Candidate("VideoMAE-Base classifier", lambda: VideoMAEForVideoClassification(videomae)),
        Candidate(
            "LGI-Former classifier",
            lambda: LGIFormerForVideoClassification(lgi_former),
            baseline="VideoMAE-Base classifier",
        ),
    ]


def describe_candidates(described: dict[str, dict[str, Any]], baseline: str | None) -> list[Candidate]:
    """Encoders by their configs' fields, each on the clips that it takes."""
    candidates = []
    for name, fields in described.items():
        shape = describe_clips(build_encoder_config({"model_type": "frame_backbone"} | fields))
        clips = (shape.num_frames, 3, *shape.image_size)
        compared = None if name == baseline else baseline
        candidates.append(Candidate(name, lambda fields=fields: Tokens(fields), clips, compared))
    return candidates


def print_sizes(candidates: list[Candidate]) -> None:
    """What a clip of the released size costs."""
    print("| encoder | clip | tokens | parameters | G multiply-adds a clip |")
    print("|---|---:|---:|---:|---:|")
    for candidate in candidates:
        frames, _, height, width = candidate.clip_shape
        print(
            f"| {candidate.name} | {frames} x {height} x {width} | {candidate.tokens} "
            f"| {candidate.parameters / 1e6:.1f} M | {candidate.giga_multiply_adds:.0f} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2, help="clips in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each model (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="write the tables into benchmarks/results, too")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--every", action="store_true", help="every encoder at a common small size, 16 x 112 x 112")
    group.add_argument("--released", action="store_true", help="sizes of the released encoders; nothing is timed")
    return parser.parse_args()


def measure_size(candidate: Candidate) -> None:
    """Counts parameters and multiply-adds of one clip, without memory or arithmetic."""
    with torch.device("meta"):
        model = candidate.build().eval()
        candidate.parameters = sum(parameter.numel() for parameter in model.parameters())
        with count_operations() as counter:
            run_forward(model, torch.empty(1, *candidate.clip_shape))
    if isinstance(model, Tokens):
        candidate.tokens = " x ".join(map(str, describe_clips(model.encoder.config).token_grid))
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
    clips = torch.randn(arguments.batch, *candidates[0].clip_shape, device=device, dtype=dtype)
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


def make_tables(candidates: list[Candidate], arguments: argparse.Namespace) -> list[str]:
    """Absolute figures of every model, then each model's ratios to its baseline, in Markdown."""
    frames, _, height, width = candidates[0].clip_shape
    memory = "peak MiB" if arguments.device.startswith("cuda") else "kept MiB"
    lines = [
        f"{arguments.precision}, {arguments.batch} clips of {frames} x {height} x {width} a step, the models in turns, "
        f"median of {arguments.repeats}; a training step is forward and backward.",
        "",
        "| model | tokens | parameters | G multiply-adds a clip | forward clips/s | training step clips/s | "
        f"{memory} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    by_name = {candidate.name: candidate for candidate in candidates}
    for candidate in candidates:
        forward, training = (
            arguments.batch / statistics.median(times) for times in (candidate.forward_times, candidate.training_times)
        )
        lines.append(
            f"| {candidate.name} | {candidate.tokens} | {candidate.parameters:,} | {candidate.giga_multiply_adds:.2f} "
            f"| {forward:.2f} | {training:.2f} | {candidate.memory / 2**20:.0f} |"
        )
    lines += [
        "",
        "| ratio to the baseline | parameters | multiply-adds | forward time | training step time | forward clips/s "
        "| training step clips/s | memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        ratios_to(candidate, by_name[candidate.baseline]) for candidate in candidates if candidate.baseline is not None
    ]
    return lines


def ratios_to(candidate: Candidate, baseline: Candidate) -> str:
    """One row: the candidate's figures divided by its baseline's."""
    median = statistics.median
    forward = median(candidate.forward_times) / median(baseline.forward_times)
    training = median(candidate.training_times) / median(baseline.training_times)
    ratios = [
        candidate.parameters / baseline.parameters,
        candidate.giga_multiply_adds / baseline.giga_multiply_adds,
        forward,
        training,
        1 / forward,
        1 / training,
        candidate.memory / baseline.memory,
    ]
    return f"| {candidate.name} / {baseline.name} | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |"


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.released:
        candidates = describe_candidates(RELEASED, None)
    else:
        candidates = describe_candidates(EVERY, "VideoMAE") if arguments.every else build_candidates()
    for candidate in candidates:
        measure_size(candidate)
    if arguments.released:
        return print_sizes(candidates)
    measure(candidates, arguments)
    lines = make_tables(candidates, arguments)
    print(f"{machine(arguments.device)}; {versions()}\n", *lines, sep="\n")
    if arguments.keep:
        kind = "every" if arguments.every else "lgi_former"
        print(f"kept in {keep_table(RESULT_NAMES[kind], TITLES[kind], lines, arguments.device)}")


if __name__ == "__main__":
    main()
