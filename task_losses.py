"""Losses of tasks with unknown labels: what is unknown or masked reaches neither the loss nor its gradient."""

from collections.abc import Callable

import torch
from torch.nn import functional

from .modeling_layers import cell_centres

IGNORED_CLASS = -100


def expand_mask(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Boolean (B, T) -> boolean of the shape of `like` (B, T, ...)."""
    # (B, T) -> (B, T, 1, ..., 1) -> like.shape
    return mask.bool().reshape(*mask.shape, *[1] * (like.ndim - mask.ndim)).expand_as(like)


def masked_mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `valid`; exactly zero, with a zero gradient, where nothing is valid."""
    return values.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def classification_loss(
    prediction: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor | None = None,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of (B, K) or (B, T, K) scores with class ids (B,) or (B, T); -100 marks an unknown label.

    Class weights (K,) multiply a label's loss; the mean stays one over labels, not over weights.
    """
    valid = labels != IGNORED_CLASS
    if mask is not None:
        valid = valid & mask.bool()
    # (B, [T,] K) -> (B, K, [T]): the class axis is the second in torch's cross-entropy
    scores = prediction.movedim(-1, 1)
    known = labels.masked_fill(~valid, 0).long()
    losses = functional.cross_entropy(scores, known, weight=class_weights, reduction="none")
    return masked_mean(losses, valid)


def elementwise_loss(
    compare: Callable[..., torch.Tensor],
    prediction: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of `compare` over known labels. Prediction and labels have one shape; NaN marks an unknown label."""
    prediction, labels, valid = _known_pairs(prediction, labels, mask)
    return masked_mean(compare(prediction, labels, reduction="none"), valid)


def concordance_loss(
    prediction: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor | None = None,
    output_axes: int = 1,
    smallest_spread: float = 1e-8,
) -> torch.Tensor:
    """1 - CCC of each output over all clips and frames with a known label, averaged over outputs.

    CCC = 2 cov(y, p) / (var y + var p + (mean y - mean p)^2) with population statistics (Lin, 1989). An output with
    fewer than two known labels has no variance and stays out.

    Args:
        prediction: (B, *shape) or (B, T, *shape).
        labels: of the same shape; NaN where unknown.
        mask: boolean (B,) or (B, T), False where nothing counts.
        output_axes: how many of the last axes `shape` has; 0: the tensors hold one output.
        smallest_spread: added to the denominator, which is 0 where labels and prediction are one constant.
    """
    known = _known_pairs(prediction, labels, mask)
    # (B, [T,] *shape) -> (all clips and frames, outputs)
    outputs = prediction.shape[prediction.ndim - output_axes :].numel()
    predicted, true, valid = (values.reshape(-1, outputs) for values in known)
    count = valid.sum(dim=0).clamp(min=1)
    predicted_mean, true_mean = predicted.sum(dim=0) / count, true.sum(dim=0) / count
    predicted_rest = (predicted - predicted_mean).masked_fill(~valid, 0.0)
    true_rest = (true - true_mean).masked_fill(~valid, 0.0)
    covariance = (predicted_rest * true_rest).sum(dim=0) / count
    spread = (predicted_rest.square() + true_rest.square()).sum(dim=0) / count
    distance = (predicted_mean - true_mean).square()
    concordance = 2.0 * covariance / (spread + distance + smallest_spread)
    return masked_mean(1.0 - concordance, valid.sum(dim=0) >= 2)


def heat_map_loss(
    log_maps: torch.Tensor,
    points: torch.Tensor,
    grid: tuple[int, int],
    deviation: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of heat maps with a Gaussian around each labelled point, averaged over the known points.

    The Gaussian is normalised over the grid's cells, so that a point outside them still has a target: the cells nearest
    to it.

    Args:
        log_maps: (B, T, points, rows * columns), logarithms of probabilities.
        points: (B, T, points, 2) labels (x, y) from 0 to 1 across what the grid covers; NaN where unknown.
        grid: (rows, columns).
        deviation: the Gaussian's standard deviation, in cells.
        mask: boolean (B, T), False where nothing counts.
    """
    rows, columns = grid
    valid = ~torch.isnan(points).any(dim=-1)
    if mask is not None:
        valid = valid & expand_mask(mask, valid)
    cells = points.float().masked_fill(~valid.unsqueeze(-1), 0.0) * points.new_tensor([columns, rows]).float()
    # (B, T, points, 1, 2) against (rows * columns, 2) -> (B, T, points, rows * columns)
    distances = (cells.unsqueeze(-2) - cell_centres(rows, columns, points.device)).square().sum(dim=-1)
    targets = (-distances / (2 * deviation**2)).softmax(dim=-1)
    return masked_mean(-(targets * log_maps).sum(dim=-1), valid)


def _known_pairs(
    prediction: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction and labels with zeros where unknown, and where they are known."""
    labels = labels.to(prediction.dtype)
    valid = ~torch.isnan(labels)
    if mask is not None:
        valid = valid & expand_mask(mask, labels)
    # Unknown labels are replaced on both sides before the comparison: a NaN times zero would still be NaN in the
    # gradient.
    return prediction.masked_fill(~valid, 0.0), labels.masked_fill(~valid, 0.0), valid


ELEMENTWISE_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "smooth_l1": functional.smooth_l1_loss,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
}
