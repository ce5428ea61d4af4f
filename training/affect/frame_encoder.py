"""The frame encoder of the embedded default of MTL-ER: a small ResNet, trained on the training subjects' frames.

It stands for the released system's supervised features (DenseNet and IResNet, trained on labelled still faces). It
learns from the same labels as MTL-ER does, frame by frame and without time, and never sees a validation or test
subject.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS
from mtcae_dfer.hub_dataset.affect_labels import AffectLabels
from mtcae_dfer.modeling_mtl_er import MISSING_LABEL, MISSING_VALENCE_AROUSAL
from mtcae_dfer.task_losses import ELEMENTWISE_LOSSES, IGNORED_CLASS, classification_loss, elementwise_loss

FRAME_SIDE = 64
STAGES = [24, 48, 96, 128]
BATCH_SIZE = 64
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
LARGEST_SHIFT, LARGEST_CHANGE = 3, 0.1  # pixels; relative change of brightness and contrast
VALENCE_AROUSAL_WEIGHT = 4.0  # squared errors of numbers in [-1, 1] are small


def train_frame_encoder(
    frames: Sequence[torch.Tensor], labels: Sequence[AffectLabels], steps: int, seed: int, folder: Path
) -> Path:
    """Trains the encoder and saves it with its processor, as `AutoModel` and `extract_features` load them.

    Args:
        frames: of every training video, uint8 (L, 3, FRAME_SIDE, FRAME_SIDE).
        labels: of the same frames.
        steps: of BATCH_SIZE frames each.
        seed: of weights, order and changes.
        folder: where the encoder is saved.
    """
    torch.manual_seed(seed)
    pictures = torch.cat(list(frames))
    columns = ("valence", "arousal", "expression", "action_units")
    targets = {name: torch.cat([torch.from_numpy(getattr(video, name)) for video in labels]) for name in columns}
    encoder = ResNetModel(ResNetConfig(embedding_size=16, hidden_sizes=STAGES, depths=[1] * 4, layer_type="basic"))
    head = nn.Linear(STAGES[-1], 2 + len(AFFECT_EXPRESSIONS) + len(AFFECT_ACTION_UNITS))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps + 1)
    encoder.train()
    for _ in tqdm(range(steps), desc="Training the frame encoder", unit="step"):
        chosen = torch.randint(len(pictures), (BATCH_SIZE,))
        pixels = pictures[chosen].float() / 127.5 - 1.0  # in [-1, 1]
        if torch.rand(()) < 0.5:  # the whole batch is mirrored and shifted alike
            pixels = pixels.flip(-1)
        shift = torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (2,)).tolist()
        contrast, brightness = (torch.rand(2, len(pixels), 1, 1, 1) * 2.0 - 1.0) * LARGEST_CHANGE
        pixels = torch.roll(pixels, shift, dims=(-2, -1)) * (1.0 + contrast) + brightness
        vectors = encoder(pixels).pooler_output.flatten(1)
        loss = _frame_loss(head(vectors), {name: values[chosen] for name, values in targets.items()})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    encoder.save_pretrained(folder)
    side = {"height": FRAME_SIDE, "width": FRAME_SIDE}
    ViTImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def _frame_loss(outputs: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Outputs (B, 2 + K + U) against the labels of these frames."""
    affect, scores, units = outputs.split([2, len(AFFECT_EXPRESSIONS), len(AFFECT_ACTION_UNITS)], dim=-1)
    true = torch.stack([targets["valence"], targets["arousal"]], dim=-1)
    true = true.masked_fill(true == MISSING_VALENCE_AROUSAL, float("nan"))
    expression = targets["expression"].masked_fill(targets["expression"] == MISSING_LABEL, IGNORED_CLASS)
    present = targets["action_units"].float().masked_fill(targets["action_units"] == MISSING_LABEL, float("nan"))
    return (
        VALENCE_AROUSAL_WEIGHT * elementwise_loss(functional.mse_loss, affect, true)
        + classification_loss(scores, expression)
        + elementwise_loss(ELEMENTWISE_LOSSES["binary_cross_entropy"], units, present)
    )
