"""The loss that a run trains by: the model's task losses with class weights, label smoothing, and learned weights.

The model's own loss stays as its config states it; it is what validation reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from mtcae_dfer.modeling_mtcae import IGNORED_CLASS

if TYPE_CHECKING:
    from mtcae_dfer.configuration_mtcae import TaskDescription


def balanced_class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights (K,) that give every class the same share of the loss: clips / (K * clips of the class).

    A class without a clip gets the weight 1: it weighs nothing anyway.
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    return torch.where(counts > 0, len(labels) / (num_classes * counts.clamp(min=1)), torch.ones(()))


class TrainingLoss(nn.Module):
    """Joins the losses of a model's tasks to the one number that is minimised.

    Fixed weights: sum of weight * loss. Uncertainty (Kendall, Gal and Cipolla, 2018): sum of c * exp(-s) * loss + s / 2
    with one learned s per task, c = 1 for classification and 1/2 for regression; the tasks' own weights are not used,
    except that a task of weight 0 stays out.

    Args:
        tasks: the model's tasks in their order.
        class_weights: (K,) for the task "expression"; None: every clip counts alike.
        label_smoothing: share of the target that is spread over all classes of "expression".
        uncertainty: learn the weights.
    """

    def __init__(
        self,
        tasks: Sequence[TaskDescription],
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {task.name: float(task.weight) for task in tasks}
        self.scales = {task.name: 0.5 if task.kind == "regression" else 1.0 for task in tasks}
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)
        learned = [task.name for task in tasks if task.weight > 0] if uncertainty else []
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})

    def forward(self, outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to minimise, and every task's own one.

        Args:
            outputs: of `MTCAEForMultiTaskVideo`, with `task_losses`.
            labels: (B,) expression class ids.
        """
        losses = dict(outputs.task_losses)
        if "expression" in losses and (self.class_weights is not None or self.label_smoothing):
            losses["expression"] = self._expression_loss(outputs.logits, labels)
        return torch.stack([self._weigh(name, loss) for name, loss in losses.items()]).sum(), losses

    def _expression_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # The mean over clips, not over their weights: class weights then mean the same whatever else is in the batch.
        losses = functional.cross_entropy(
            logits.float(),
            labels,
            weight=self.class_weights,
            ignore_index=IGNORED_CLASS,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return losses.sum() / (labels != IGNORED_CLASS).sum().clamp(min=1)

    def _weigh(self, name: str, loss: torch.Tensor) -> torch.Tensor:
        if not self.log_variances:
            return self.weights[name] * loss
        if name not in self.log_variances:
            return 0.0 * loss
        log_variance = self.log_variances[name]
        return self.scales[name] * torch.exp(-log_variance) * loss + log_variance / 2

    def task_weights(self) -> dict[str, float]:
        """What every task's loss is multiplied with at present."""
        learned = {
            name: self.scales[name] * float(torch.exp(-value.detach())) for name, value in self.log_variances.items()
        }
        return learned or self.weights
