"""MTL-ER: valence, arousal, expression and action units of every frame, from sequences of per-frame features.

Shapes: B videos, L frames, D feature channels, d channels of the temporal encoder, K expressions, U action units.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_mtl_er import MTLERConfig
from .modeling_layers import sinusoid_positions
from .task_losses import ELEMENTWISE_LOSSES, IGNORED_CLASS, classification_loss, concordance_loss, elementwise_loss
from .weight_files import CheckedPreTrainedModel

MISSING_VALENCE_AROUSAL = -5.0  # label of a frame whose valence or arousal nobody knows
MISSING_LABEL = -1  # likewise of an expression or an action unit

# What a recurrent encoder carries from chunk to chunk: by part ("shared" or a task), its layers' states (layers, B, d).
CarriedState = dict[str, tuple[torch.Tensor, ...]]


@dataclass
class MTLEROutput(ModelOutput):
    """Output of `MTLERForAffectiveBehavior`. Tasks that the model does not have are None.

    Attributes:
        loss: weighted sum of the task losses, scalar; None without labels.
        valence: (B, L), meant to be in [-1, 1] but not squashed.
        arousal: (B, L), likewise.
        expression_logits: (B, L, K).
        action_unit_logits: (B, L, U).
        task_losses: every task's own loss by its name, before its weight; only tasks with labels.
        state: what a recurrent encoder hands to the next chunk, detached; None for a transformer.
    """

    loss: torch.Tensor | None = None
    valence: torch.Tensor | None = None
    arousal: torch.Tensor | None = None
    expression_logits: torch.Tensor | None = None
    action_unit_logits: torch.Tensor | None = None
    task_losses: dict[str, torch.Tensor] | None = None
    state: CarriedState | None = None


@dataclass
class MTLERPrediction(ModelOutput):
    """Prediction of whole sequences, of whatever length. Tasks that the model does not have are None.

    Attributes:
        valence: (B, L).
        arousal: (B, L).
        expression_probabilities: (B, L, K).
        action_unit_probabilities: (B, L, U).
    """

    valence: torch.Tensor | None = None
    arousal: torch.Tensor | None = None
    expression_probabilities: torch.Tensor | None = None
    action_unit_probabilities: torch.Tensor | None = None


class MTLERTransformer(nn.Module):
    """Post-norm self-attention layers with sinusoidal positions, bidirectional within a chunk."""

    def __init__(self, config: MTLERConfig, input_size: int, num_layers: int, projects: bool) -> None:
        super().__init__()
        self.output_size = config.hidden_size if projects else input_size
        self.projection = nn.Linear(input_size, self.output_size) if projects else nn.Identity()
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.output_size,
                self.output_size // config.attention_head_size,
                config.intermediate_size,
                config.encoder_dropout,
                batch_first=True,
            )
            for _ in range(num_layers)
        )

    def forward(
        self, frames: torch.Tensor, present: torch.Tensor | None, state: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, None]:
        """Frames (B, L, D), present (B, L) boolean -> states (B, L, d). Positions start at 0 in every chunk."""
        hidden = self.projection(frames)
        hidden = self.dropout(hidden + sinusoid_positions(hidden.shape[1], self.output_size).to(hidden))
        absent = None
        if present is not None:
            # A video that ended before this chunk has no frame to attend to; its output is not read.
            absent = ~present & present.any(dim=1, keepdim=True)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=absent)
        return hidden, None


class MTLERRecurrence(nn.Module):
    """An LSTM or a GRU from past to future, whose state is carried from chunk to chunk."""

    def __init__(self, config: MTLERConfig, input_size: int, num_layers: int) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        recurrence = nn.LSTM if config.encoder_type == "lstm" else nn.GRU
        between_layers = config.encoder_dropout if num_layers > 1 else 0.0
        self.recurrence = recurrence(
            input_size, config.hidden_size, num_layers, batch_first=True, dropout=between_layers
        )
        self.dropout = nn.Dropout(config.encoder_dropout)

    def forward(
        self, frames: torch.Tensor, present: torch.Tensor | None, state: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Frames (B, L, D) -> states (B, L, d) and the carried state; padding stands at the end and changes nothing."""
        is_lstm = isinstance(self.recurrence, nn.LSTM)
        carried: Any  # an LSTM's two tensors, or a GRU's one
        hidden, carried = self.recurrence(frames, state if state is None or is_lstm else state[0])
        return self.dropout(hidden), carried if is_lstm else (carried,)


def build_temporal_encoder(
    config: MTLERConfig, input_size: int, num_layers: int, projects: bool
) -> MTLERTransformer | MTLERRecurrence:
    """The encoder of the config's type. A transformer projects its input to width d, or keeps the input's width."""
    if config.encoder_type == "transformer":
        return MTLERTransformer(config, input_size, num_layers, projects)
    return MTLERRecurrence(config, input_size, num_layers)


def make_hidden_layers(config: MTLERConfig, input_size: int) -> nn.Sequential:
    """A head's two hidden layers, (..., input_size) -> (..., head_sizes[-1])."""
    first, second = config.head_sizes or []
    dropout = config.head_dropout
    return nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(input_size, first), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(first, second), nn.ReLU(), nn.Dropout(dropout)),
    )


class MTLERHead(nn.Module):
    """Two hidden layers and an output layer for one task."""

    def __init__(self, config: MTLERConfig, input_size: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden = make_hidden_layers(config, input_size)
        self.output = nn.Linear((config.head_sizes or [])[-1], num_outputs)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, size) -> (outputs (B, L, num_outputs), hidden states (B, L, head_sizes[-1]))."""
        hidden = self.hidden(states)
        return self.output(hidden), hidden


class MTLERBranch(nn.Module):
    """What one task has for itself: private layers, where the framework gives it some, and a head."""

    def __init__(self, config: MTLERConfig, task: str) -> None:
        super().__init__()
        self.sources = list(config.active_dependencies.get(task, ()))
        size = config.branch_size(task)
        self.private = None
        if config.framework != "share_encoder":
            # Without shared layers, the private ones read the features and keep their width, as released.
            self.private = build_temporal_encoder(config, size, config.num_private_layers, projects=False)
            size = self.private.output_size
        self.head = MTLERHead(config, size, config.num_outputs(task))

    def forward(
        self, states: torch.Tensor, present: torch.Tensor | None, state: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """States (B, L, size) -> outputs (B, L, num_outputs), the head's hidden states, the carried state."""
        if self.private is not None:
            states, state = self.private(states, present, state)
        return *self.head(states), state


class MTLERLabelEmbedding(nn.Module):
    """A source's labels as a weighted sum of learned vectors, one for each expression or action unit."""

    def __init__(self, config: MTLERConfig, task: str) -> None:
        super().__init__()
        self.task = task
        self.vectors = nn.Linear(config.num_outputs(task), config.label_embedding_size, bias=False)

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor | None, taught: torch.Tensor | None) -> torch.Tensor:
        """Outputs (B, L, num_outputs) -> (B, L, label_embedding_size).

        Args:
            outputs: of the source's head; they take no gradient.
            labels: of the source, (B, L) or (B, L, U), where known to the caller.
            taught: (L,) boolean, frames that get the label instead of the prediction; a missing label becomes zeros.
        """
        outputs = outputs.detach()
        if self.task == "expression":
            weights = outputs.softmax(dim=-1)
        else:
            weights = outputs.sigmoid() if self.task == "action_units" else (outputs + 1.0) / 2.0
        if labels is not None and taught is not None:
            weights = torch.where(taught[None, :, None], self._weights_of_labels(labels, weights), weights)
        return self.vectors(weights)

    def _weights_of_labels(self, labels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if self.task == "expression":
            one_hot = nn.functional.one_hot(labels.long().clamp(min=0), like.shape[-1])
            return (one_hot * (labels != MISSING_LABEL)[..., None]).to(like.dtype)
        if self.task == "action_units":
            return labels.clamp(min=0).to(like.dtype)
        scaled = ((labels + 1.0) / 2.0).masked_fill(labels == MISSING_VALENCE_AROUSAL, 0.0)
        return scaled[..., None].to(like.dtype)


class MTLERPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and what transformers asks of a model class."""

    config_class = MTLERConfig
    base_model_prefix = "mtl_er"
    main_input_name = "features"
    _no_split_modules = ["TransformerEncoderLayer"]


class MTLERForAffectiveBehavior(MTLERPreTrainedModel):
    """Temporal encoder, shared and private as the framework says, with a head for each task.

    share_encoder: all heads read one encoder. share_bottom: each task has private layers over shared ones.
    share_bottom_feedback: a target task's private layers also read what its source tasks' heads know, without a
    gradient into the sources.
    """

    expression_weights: torch.Tensor | None
    action_unit_weights: torch.Tensor | None

    def __init__(self, config: MTLERConfig) -> None:
        super().__init__(config)
        config.complete()
        self.shared = None
        if config.num_shared_layers:
            self.shared = build_temporal_encoder(config, config.input_size, config.num_shared_layers, projects=True)
        self.branches = nn.ModuleDict({task: MTLERBranch(config, task) for task in config.tasks or []})
        fed_back = {source for sources in config.active_dependencies.values() for source in sources}
        embedded = fed_back if config.feedback_kind == "label_embedding" else set()
        self.label_embeddings = nn.ModuleDict(
            {task: MTLERLabelEmbedding(config, task) for task in config.tasks or [] if task in embedded}
        )
        for name in ("expression_weights", "action_unit_weights"):
            weights = getattr(config, name)
            weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)
            self.register_buffer(name, weights, persistent=False)
        self.true_label_share = float(config.true_label_share)  # a training loop may let it fall
        self.post_init()

    def forward(
        self,
        features: torch.Tensor,
        valence: torch.Tensor | None = None,
        arousal: torch.Tensor | None = None,
        expression: torch.Tensor | None = None,
        action_units: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        state: CarriedState | None = None,
        return_dict: bool | None = None,
    ) -> MTLEROutput | tuple:
        """Predicts one chunk of every video and, given labels, the weighted sum of the tasks' losses.

        Args:
            features: (B, L, D) one vector a frame.
            valence: (B, L) in [-1, 1], -5 where unknown.
            arousal: (B, L), likewise.
            expression: (B, L) class ids, -1 where unknown.
            action_units: (B, L, U) 0 or 1, -1 where unknown.
            attention_mask: (B, L), 0 or False for the padding at a video's end.
            state: what the chunk before returned; None at the start of the videos.
            return_dict: as everywhere in transformers.

        Raises:
            ValueError: there are no frames, features of another length or that are no numbers, or labels that do not
                fit.
        """
        labels = {"valence": valence, "arousal": arousal, "expression": expression, "action_units": action_units}
        present = None if attention_mask is None else attention_mask.bool()
        self._check_features(features, present)
        labels = {task: self._check_labels(task, labels[task], features) for task in self.config.tasks}
        if present is not None:
            features = features.masked_fill(~present[..., None], 0.0)
        outputs, state = self._predict_tasks(features, present, state or {}, labels)
        # Half-precision losses overflow or vanish.
        losses = {
            task: self._task_loss(task, outputs[task].float(), known, present)
            for task, known in labels.items()
            if known is not None
        }
        weights = self.config.loss_weights
        result = MTLEROutput(
            loss=torch.stack([weights[task] * loss for task, loss in losses.items()]).sum() if losses else None,
            valence=outputs["valence"].squeeze(-1) if "valence" in outputs else None,
            arousal=outputs["arousal"].squeeze(-1) if "arousal" in outputs else None,
            expression_logits=outputs.get("expression"),
            action_unit_logits=outputs.get("action_units"),
            task_losses=losses or None,
            state=state or None,
        )
        return result if return_dict or (return_dict is None and self.config.return_dict) else result.to_tuple()

    def _predict_tasks(
        self,
        features: torch.Tensor,
        present: torch.Tensor | None,
        state: CarriedState,
        labels: dict[str, torch.Tensor | None],
    ) -> tuple[dict[str, torch.Tensor], CarriedState]:
        """Outputs (B, L, num_outputs) of each task, sources before targets, and the state for the next chunk."""
        carried: dict[str, Any] = {}
        shared = features
        if self.shared is not None:
            shared, carried["shared"] = self.shared(features, present, state.get("shared"))
        taught = None
        if self.training and self.label_embeddings:
            # Frames whose label embeddings come from true labels, the same in all videos
            length = features.shape[1]
            taught = torch.zeros(length, dtype=torch.bool, device=features.device)
            taught[torch.randperm(length, device=features.device)[: int(length * self.true_label_share)]] = True
        outputs: dict[str, torch.Tensor] = {}
        feedback: dict[str, torch.Tensor] = {}
        for task in self.config.task_order:
            branch: Any = self.branches[task]
            states = torch.cat([shared, *(feedback[source] for source in branch.sources)], dim=-1)
            outputs[task], hidden, carried[task] = branch(states, present, state.get(task))
            feedback[task] = hidden.detach()
            if task in self.label_embeddings:
                feedback[task] = self.label_embeddings[task](outputs[task], labels[task], taught)
        # Detached: a chunk's loss trains that chunk, as released.
        kept = {name: tuple(part.detach() for part in parts) for name, parts in carried.items() if parts is not None}
        return {task: outputs[task] for task in self.config.tasks}, kept

    def _check_features(self, features: torch.Tensor, present: torch.Tensor | None) -> None:
        if features.ndim != 3 or features.shape[1] == 0 or features.shape[2] != self.config.input_size:
            raise ValueError(
                f"features has shape {tuple(features.shape)}; this model takes (videos, at least 1 frame, "
                f"{self.config.input_size} channels)."
            )
        if present is not None and present.shape != features.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(present.shape)}; the features take {tuple(features.shape[:2])}."
            )
        if features.device.type == "cpu" and not torch.compiler.is_compiling():
            read = features if present is None else features[present]
            if not torch.isfinite(read).all():
                raise ValueError("features hold values that are no finite numbers; extract them again.")

    def _check_labels(self, task: str, labels: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor | None:
        if labels is None:
            return None
        expected = tuple(features.shape[:2])
        expected += (len(self.config.action_units),) if task == "action_units" else ()
        if tuple(labels.shape) != expected:
            raise ValueError(f"{task} has shape {tuple(labels.shape)}; this model takes {expected}.")
        # On an accelerator the check would wait for the device at every step; label files are checked when read.
        if labels.device.type != "cpu" or torch.compiler.is_compiling():
            return labels
        if task == "expression":
            allowed = (labels >= MISSING_LABEL) & (labels < len(self.config.expressions)) & (labels == labels.round())
            rule = f"a class id from 0 to {len(self.config.expressions) - 1}, or {MISSING_LABEL} where unknown"
        elif task == "action_units":
            allowed = (labels == 0) | (labels == 1) | (labels == MISSING_LABEL)
            rule = f"0 or 1, or {MISSING_LABEL} where unknown"
        else:
            allowed = (labels.abs() <= 1) | (labels == MISSING_VALENCE_AROUSAL)
            rule = f"in [-1, 1], or {MISSING_VALENCE_AROUSAL:g} where unknown"
        if not allowed.all():
            raise ValueError(f"{task} holds {labels[~allowed].unique().tolist()[:5]}; every label must be {rule}.")
        return labels

    def _task_loss(
        self, task: str, output: torch.Tensor, labels: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """One task's unweighted loss over the frames that are present and labelled."""
        if task == "expression":
            known = labels.long().masked_fill(labels == MISSING_LABEL, IGNORED_CLASS)
            return classification_loss(output, known, present, self.expression_weights)
        if task == "action_units":
            known = labels.float().masked_fill(labels == MISSING_LABEL, math.nan)
            compare = partial(ELEMENTWISE_LOSSES["binary_cross_entropy"], pos_weight=self.action_unit_weights)
            return elementwise_loss(compare, output, known, present)
        known = labels.float().masked_fill(labels == MISSING_VALENCE_AROUSAL, math.nan)
        if self.config.valence_arousal_loss == "ccc":
            return concordance_loss(output.squeeze(-1), known, present, output_axes=0)
        return elementwise_loss(ELEMENTWISE_LOSSES["mse"], output.squeeze(-1), known, present)

    @torch.no_grad()
    def predict(self, features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> MTLERPrediction:
        """Predicts whole videos of any length, chunk by chunk.

        A transformer's chunks overlap by `chunk_overlap` frames, where predictions are averaged (`chunk_merge`
        "overlap"), or follow each other ("consecutive"). A recurrent encoder carries its state through chunks that
        follow each other, which gives what one pass over the whole video would.

        Args:
            features: (B, L, D).
            attention_mask: (B, L), 0 or False for the padding at a video's end; what is predicted there means nothing.

        Raises:
            ValueError: there are no frames, or features of another length or that are no numbers.
        """
        self._check_features(features, None if attention_mask is None else attention_mask.bool())
        sums: dict[str, torch.Tensor] = {}
        counts = features.new_zeros(features.shape[1])
        state = None
        for start, end in self._chunks(features.shape[1]):
            mask = None if attention_mask is None else attention_mask[:, start:end]
            output = self(features[:, start:end], attention_mask=mask, state=state, return_dict=True)
            state = output.state
            counts[start:end] += 1
            # Chunks are averaged in values and probabilities.
            scores, units = output.expression_logits, output.action_unit_logits
            predicted = {
                "valence": output.valence,
                "arousal": output.arousal,
                "expression_probabilities": None if scores is None else scores.softmax(-1),
                "action_unit_probabilities": None if units is None else units.sigmoid(),
            }
            for name, values in predicted.items():
                if values is not None:
                    shape = (len(features), features.shape[1], *values.shape[2:])
                    total = sums.setdefault(name, values.new_zeros(shape, dtype=torch.float32))
                    total[:, start:end] += values.float()
        return MTLERPrediction(
            **{name: total / counts.view(1, -1, *[1] * (total.ndim - 2)) for name, total in sums.items()}
        )

    def _chunks(self, length: int) -> Iterator[tuple[int, int]]:
        """First frame and end of every chunk; the last one is moved back to be whole where chunks may overlap."""
        config = self.config
        overlaps = config.encoder_type == "transformer" and config.chunk_merge == "overlap"
        stride = config.chunk_length - (config.chunk_overlap if overlaps else 0)
        for start in range(0, length, stride):
            end = min(start + config.chunk_length, length)
            yield (max(0, end - config.chunk_length) if overlaps else start), end
            if end == length:
                return


def average_predictions(predictions: list[MTLERPrediction]) -> MTLERPrediction:
    """An ensemble's prediction: mean valence and arousal, mean probabilities of expressions and action units.

    Raises:
        ValueError: there is none, or they are of different tasks or frames.
    """
    if not predictions:
        raise ValueError("there are no predictions to average: give at least one model.")
    shapes = [{name: tuple(value.shape) for name, value in prediction.items()} for prediction in predictions]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"predictions of {shapes} cannot be averaged: all models need the same tasks and frames.")
    return MTLERPrediction(
        **{name: torch.stack([prediction[name] for prediction in predictions]).mean(dim=0) for name in shapes[0]}
    )


def smooth_over_time(values: torch.Tensor, half_width: int) -> torch.Tensor:
    """Centred moving average of (L,) values over the frames t - half_width .. t + half_width that there are.

    Raises:
        ValueError: the half width is negative or the values are no sequence.
    """
    if half_width < 0 or values.ndim != 1:
        raise ValueError(
            f"half_width {half_width} must be at least 0, and values of {tuple(values.shape)} one video's."
        )
    sums = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(dim=0)])
    frames = torch.arange(len(values), device=values.device)
    first, end = (frames - half_width).clamp(min=0), (frames + half_width + 1).clamp(max=len(values))
    return ((sums[end] - sums[first]) / (end - first)).to(values.dtype)


__all__ = [
    "MTLERForAffectiveBehavior",
    "MTLEROutput",
    "MTLERPrediction",
    "MTLERPreTrainedModel",
    "average_predictions",
    "smooth_over_time",
]
