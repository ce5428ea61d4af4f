"""The loss that a run trains by: the model's own, with class weights, label smoothing, blends, and learned weights.

The model's own loss stays as its config states it; it is what validation reports. What it holds besides the weighted
task losses (a contrast between the tasks' features) is trained as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mtcae_dfer.configuration_mtcae import TaskDescription
from mtcae_dfer.task_losses import IGNORED_CLASS
from mtcae_dfer.training.data.blending import Blend


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
        vote_share: share of the votes of a clip's raters in the target of "expression"; the rest is its label.
        uncertainty: learn the weights.
        model_combination: how the model itself joins weighted losses by task name; None: it sums them.
    """

    def __init__(
        self,
        tasks: Sequence[TaskDescription],
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        vote_share: float = 0.0,
        uncertainty: bool = False,
        model_combination: Callable[[dict[str, torch.Tensor]], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.weights = {task.name: float(task.weight) for task in tasks}
        self.scales = {task.name: 0.5 if task.kind == "regression" else 1.0 for task in tasks}
        self.label_smoothing, self.vote_share = label_smoothing, vote_share
        # In a tuple, since the weights in it are the model's: they must not be registered a second time.
        self.model_combination = (model_combination,)
        self.register_buffer("class_weights", class_weights)
        self.class_weights: torch.Tensor | None
        learned = [task.name for task in tasks if task.weight > 0] if uncertainty else []
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})

    def forward(
        self, outputs: Any, labels: torch.Tensor, blend: Blend | None = None, votes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to minimise, and every task's own one.

        Args:
            outputs: of `MTCAEForMultiTaskVideo`, with `loss` and `task_losses`.
            labels: (B,) expression class ids.
            blend: what was blended into the clips; both expressions then count by their shares.
            votes: (B, K), a row's votes of raters as shares; zeros where there are too few; None: labels alone.
        """
        losses = dict(outputs.task_losses)
        own = self.class_weights is not None or self.label_smoothing or blend is not None or votes is not None
        if "expression" in losses and own:
            losses["expression"] = self._expression_loss(outputs.logits, labels, votes)
            if blend is not None:
                partners = blend.partners.to(labels.device)
                other = self._expression_loss(
                    outputs.logits, labels[partners], votes[partners] if votes is not None else None
                )
                losses["expression"] = torch.lerp(losses["expression"], other, blend.share)
        return self._join(outputs, losses), losses

    def _join(self, outputs: Any, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        unchanged = all(loss is outputs.task_losses[name] for name, loss in losses.items())
        if unchanged and not self.log_variances:
            return outputs.loss
        besides = outputs.loss - self._join_like_model(outputs.task_losses)
        if not self.log_variances:
            return self._join_like_model(losses) + besides
        terms = []
        for name, loss in losses.items():
            if name in self.log_variances:
                log_variance = self.log_variances[name]
                terms.append(self.scales[name] * torch.exp(-log_variance) * loss + log_variance / 2)
            else:
                terms.append(0.0 * loss)
        return torch.stack(terms).sum() + besides

    def _join_like_model(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        weighted = {name: self.weights[name] * loss for name, loss in losses.items()}
        (combination,) = self.model_combination
        return combination(weighted) if combination is not None else torch.stack(list(weighted.values())).sum()

    def _expression_loss(self, logits: torch.Tensor, labels: torch.Tensor, votes: torch.Tensor | None) -> torch.Tensor:
        # The mean over clips, not over their weights: class weights then mean the same whatever else is in the batch.
        losses = functional.cross_entropy(
            logits.float(),
            labels,
            weight=self.class_weights,
            ignore_index=IGNORED_CLASS,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if votes is not None:
            voted = functional.cross_entropy(logits.float(), votes, weight=self.class_weights, reduction="none")
            enough = votes.any(dim=1) & (labels != IGNORED_CLASS)
            losses = torch.where(enough, torch.lerp(losses, voted, self.vote_share), losses)
        return losses.sum() / (labels != IGNORED_CLASS).sum().clamp(min=1)
