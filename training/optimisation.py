"""The optimiser of a run: its groups of weights, their learning rates, the schedule, and the average of the weights."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from mtcae_dfer.training.arguments import OptimisationArguments, StepArguments

LAYER = GradientCheckpointingLayer  # what transformers makes every transformer layer of
REFERENCE_BATCH = 256  # clips a step that a learning rate is meant for, where it is scaled
TOKENS = ("mask_token", "representative_tokens")  # learned vectors of a model, not matrices of a layer
EMBEDDING = re.compile("embed|stem")  # in the names of what comes before an encoder's blocks
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16.

    A processor without them takes two to five times float32's time, and oneDNN's own answer is yes on every AVX-512
    processor, also where it only converts.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    if platform.machine() not in ("x86_64", "AMD64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name)() for name in asked if hasattr(torch.cpu, name))


def make_optimiser(
    model: nn.Module,
    options: StepArguments,
    learning_rate: float | None = None,
    layer_decay: float = 1.0,
    further: Iterable[nn.Parameter] = (),
) -> torch.optim.AdamW:
    """AdamW on all trained weights; weight decay on matrices only, and not on learned tokens.

    Args:
        model: its weights that take a gradient are trained.
        options: learning rate, weight decay, and whether the steps are fused.
        learning_rate: the scaled peak; None: the options' own.
        layer_decay: every block of the encoder learns this much slower than the next one (`layer_scales`).
        further: weights outside the model, trained without weight decay.
    """
    peak = options.learning_rate if learning_rate is None else learning_rate
    scales = layer_scales(model, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if parameter.ndim > 1 and not name.endswith(TOKENS) else 0.0
            groups.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    groups.setdefault((1.0, 0.0), []).extend(further)
    # Matrices stand first, so that without layer decay the order of the groups is always the same two.
    ordered = sorted((item for item in groups.items() if item[1]), key=lambda item: (-item[0][0], -item[0][1]))
    described = [{"params": members, "weight_decay": decay, "lr": peak * scale} for (scale, decay), members in ordered]
    betas = (options.adam_beta1, options.adam_beta2)
    return torch.optim.AdamW(described, lr=peak, betas=betas, fused=options.optim == "adamw_torch_fused")


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Learning rates of the encoder's weights by name, relative to those of the decoders and heads, which are 1.

    With D blocks, block i (from 0) learns at layer_decay ^ (D - i), the embedding of patches, positions and classes at
    layer_decay ^ (D + 1), as in the fine-tuning recipe of VideoMAE and MAE-DFER; a weight that belongs to neither
    (final norm, region tokens) at 1.

    Raises:
        ValueError: the encoder has no blocks.
    """
    encoder = getattr(model, "encoder", None)
    if layer_decay == 1.0 or encoder is None:
        return {}
    blocks = encoder_blocks(encoder)
    if not blocks:
        raise ValueError(f"--layer_decay {layer_decay}: a {type(encoder).__name__} has no row of blocks; leave it at 1")
    owners = {id(weight): 0 for name, weight in encoder.named_parameters() if EMBEDDING.search(name)}
    for number, block in enumerate(blocks):
        owners |= {id(parameter): number + 1 for parameter in block.parameters()}
    top = len(blocks) + 1
    return {
        name: layer_decay ** (top - owners[id(parameter)])
        for name, parameter in model.named_parameters()
        if id(parameter) in owners
    }


def encoder_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of an encoder, the first one first: transformer layers, or the stages of a convolutional network."""
    blocks: list[nn.Module] = []
    for part in encoder.children():
        if isinstance(part, LAYER):
            blocks.append(part)
        elif isinstance(part, nn.ModuleList) and not any(isinstance(each, LAYER) for each in part.modules()):
            blocks += [stage for stage in part if any(True for _ in stage.parameters())]
        else:
            blocks += encoder_blocks(part)
    return blocks


def peak_learning_rate(options: OptimisationArguments, processes: int) -> float:
    """The learning rate, scaled by the clips of one step / 256 where `--scale_learning_rate` asks for it."""
    if not options.scale_learning_rate:
        return options.learning_rate
    clips = options.per_device_train_batch_size * options.gradient_accumulation_steps * processes
    return options.learning_rate * clips / REFERENCE_BATCH


def make_schedule(
    optimiser: torch.optim.Optimizer, options: StepArguments, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then constant or cosine; it counts in its own steps, `steps_per_epoch` of them an epoch."""
    ends_above_zero = options.lr_scheduler_type == "cosine" and options.min_learning_rate > 0
    return get_scheduler(
        "cosine_with_min_lr" if ends_above_zero else SCHEDULES[options.lr_scheduler_type],
        optimiser,
        num_warmup_steps=round(options.warmup_epochs * steps_per_epoch),
        num_training_steps=options.num_train_epochs * steps_per_epoch,
        scheduler_specific_kwargs={"min_lr": options.min_learning_rate} if ends_above_zero else None,
    )


def step_optimiser(
    accelerator: Accelerator, model: nn.Module, optimiser: torch.optim.Optimizer, max_grad_norm: float
) -> bool:
    """A step by the gradients that are there, which are cleared.

    Args:
        accelerator: knows whether the gradients of a step are complete, and whether float16 overflowed in them.
        model: prepared; the norm of its gradients is clipped.
        optimiser: prepared.
        max_grad_norm: largest norm; 0: any.

    Returns:
        Whether the weights moved. Where they did not, schedule and average must stand still too.
    """
    if accelerator.sync_gradients and max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimiser.step()
    optimiser.zero_grad()
    return accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped


class WeightAverage:
    """Exponential moving average of trained weights, in float32. Stored in checkpoints like any other state.

    The average after n updates never reaches further back than n: its decay is min(decay, (1 + n) / (10 + n)).

    Args:
        parameters: of these, the trained ones are averaged.
        decay: of the average, at an update.
        buffers: values that are averaged too, such as the statistics of a normalisation that learns them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, buffers: Iterable[torch.Tensor] = ()) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters: list[torch.Tensor] = [parameter for parameter in parameters if parameter.requires_grad]
        self.parameters += [buffer for buffer in buffers if buffer.is_floating_point()]
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after an optimiser step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [parameter.detach().float() for parameter in self.parameters]
        torch._foreach_lerp_(self.averages, weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model works with the averages inside the block, and with its own weights again after it."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(own)

    def keep(self) -> None:
        """The model works with the averages from now on."""
        self._put(self.averages)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.updates = state["updates"]
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.copy_(stored)
