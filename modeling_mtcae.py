"""MTCAE-DFER: a video encoder, cascaded decoders with cross-attention, and one head per task.

Source: "MTCAE-DFER: Multi-Task Cascaded Autoencoder for Dynamic Facial Expression Recognition" (IJCB 2025), section
III, Algorithm 1 and Table I. Shapes: B clips, T frames, N tokens in raster order (t, h, w), D channels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_mtcae import ADDED_ARGUMENTS, MTCAEConfig, TaskDescription, unknown_config_names
from .modeling_encoders import build_encoder, encode_clips, load_encoder
from .modeling_heads import MTCAEHeatMapHead, MTCAEPooling, build_head
from .modeling_layers import ZeroStartLinear, all_alike_without_a_person
from .modeling_structure_mnc import MNC, points_in_box
from .modeling_structure_mtformer import CrossTaskContrast, MTFormer, UncertaintyWeights
from .modeling_structure_mtl_er import MTLER
from .modeling_structures import (
    MTCAECascade,
    MTCAECrossAttention,
    MTCAEFullyShared,
    MTCAENonFullyShared,
    MTCAESingleTask,
    MTCAEStructure,
)
from .saved_folders import SavesWithProcessor
from .task_losses import (
    ELEMENTWISE_LOSSES,
    IGNORED_CLASS,
    classification_loss,
    concordance_loss,
    elementwise_loss,
    heat_map_loss,
)
from .weight_files import CheckedPreTrainedModel

logger = logging.get_logger(__name__)

# Labels and masks by the tasks' keys; a task without a mask has the key None.
Targets = dict[str | None, torch.Tensor | None]


@dataclass
class MTCAEMultiTaskOutput(ModelOutput):
    """Output of `MTCAEForMultiTaskVideo`. What the configured tasks do not predict is None.

    Attributes:
        loss: weighted sum of the task losses, scalar; None without labels.
        logits: (B, K) scores of the task "expression".
        face_boxes: (B, T, 4) boxes (x1, y1, x2, y2) divided by frame width and height.
        face_landmarks: (B, T, 5, 2) points (x, y) divided by frame width and height: left eye, right eye, nose, left
            and right mouth corner.
        task_outputs: every task's prediction by its name, (B, *output_shape) or (B, T, *output_shape).
        task_losses: every task's own loss by its name, before its weight; only tasks with labels.
        hidden_states: the encoder's, (layers + 1) x (B, N, D).
        attentions: the encoder's, layers x (B, heads, N, N).
        cross_attentions: the decoders' in the order of the tasks, each (B, heads, N, N): query x memory.
        heat_maps: with `output_heat_maps=True`, those of the tasks of pooling heat_map in their order, each float32
            (B, T, points, h, w): the probability of every cell of the frame (structure mnc: of the predicted box, for
            all tasks but the box). A box has two points.
        heat_map_losses: by task name, the cross-entropy that `heat_map_weight` makes a part of the task's own loss.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    face_boxes: torch.Tensor | None = None
    face_landmarks: torch.Tensor | None = None
    task_outputs: ModelOutput | None = None
    task_losses: dict[str, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    heat_maps: tuple[torch.Tensor, ...] | None = None
    heat_map_losses: dict[str, torch.Tensor] | None = None


STRUCTURE_CLASSES: dict[str, type[MTCAEStructure]] = {
    "single_task": MTCAESingleTask,
    "non_fully_shared": MTCAENonFullyShared,
    "fully_shared": MTCAEFullyShared,
    "cascaded": MTCAECascade,
    "mtformer": MTFormer,
    "mnc": MNC,
    "mtl_er": MTLER,
}


def summarise_names(names: Iterable[str], depth: int) -> str:
    """Names of weights, shortened to their first `depth` parts and counted."""
    counts = Counter(".".join(name.split(".")[:depth]) for name in names)
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "nothing"


class MTCAEPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = MTCAEConfig
    base_model_prefix = "mtcae"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MTCAEDecoderLayer", "MTFormerSelfLayer", "MTFormerCrossLayer"]  # the encoder names its own
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # The encoder records its own hidden states and attentions; listing its classes here would overwrite them.
    _can_record_outputs = {"cross_attentions": OutputRecorder(MTCAECrossAttention, index=1)}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MTCAEPooling) and module.pooling == "time_and_place":
            # Sums of h * w independent tokens of unit variance get unit variance.
            init.normal_(module.place_weight, mean=0.0, std=module.place_weight.shape[1] ** -0.5)
        elif isinstance(module, MTCAEPooling) and module.pooling == "attention":
            init.normal_(module.queries, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, ZeroStartLinear):
            init.zeros_(module.weight)
        elif isinstance(module, UncertaintyWeights):
            init.zeros_(module.log_variances)


class MTCAEForMultiTaskVideo(SavesWithProcessor, MTCAEPreTrainedModel):
    """Encoder, structure of decoders, and one head per task of the config's ordered task list."""

    def __init__(self, config: MTCAEConfig) -> None:
        super().__init__(config)
        config.complete()
        self.tasks = config.task_descriptions
        encoder_config: Any = config.encoder_config  # the config has made an object of it
        self.encoder = build_encoder(encoder_config)
        self.structure = STRUCTURE_CLASSES[config.structure](config, [task.name for task in self.tasks])
        self.heads = nn.ModuleDict(
            {task.name: build_head(config, task, self.structure.output_size) for task in self.tasks}
        )
        self.uncertainty = UncertaintyWeights(self.tasks) if config.uncertainty_weighting else None
        self.contrast = None
        if config.contrastive_weight:
            self.contrast = CrossTaskContrast([task.name for task in self.tasks], self.structure.output_size)
        self.post_init()

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """As transformers does it, with a processor, and the timeline pipeline where there is an expression."""
        # transformers carries the modules that a saved module imports, wherever the import stands.
        from .pipeline_mtcae import FacialExpressionTimelinePipeline as Timeline

        if any(task.name == "expression" for task in self.tasks):
            impl = f"{Timeline.__module__.rpartition('.')[2]}.{Timeline.__name__}"
            entry = {"impl": impl, "pt": ["AutoModelForVideoClassification"]}
            self.config.announce_pipelines({"facial-expression-timeline": entry})
        super().save_pretrained(*arguments, **options)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's patch embedding."""
        return self.encoder.get_input_embeddings()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        face_boxes: torch.Tensor | None = None,
        face_landmarks: torch.Tensor | None = None,
        face_found: torch.Tensor | None = None,
        encoded_clips: torch.Tensor | None = None,
        person_found: torch.Tensor | None = None,
        output_heat_maps: bool = False,
        tasks: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> MTCAEMultiTaskOutput:
        """Predicts every task of the config and, given labels, the weighted sum of their losses.

        Args:
            pixel_values: (B, T, 3, H, W), as `MTCAEVideoProcessor` makes them.
            labels: (B,) expression class ids, -100 where unknown.
            face_boxes: (B, T, 4) boxes (x1, y1, x2, y2) divided by frame width and height, NaN where unknown.
            face_landmarks: (B, T, 5, 2) points (x, y) divided by frame width and height, NaN where unknown.
            face_found: (B, T) boolean; frames where it is False never reach the losses of the face tasks.
            encoded_clips: (B, N, D) the encoder's output in place of `pixel_values`, where it is known already.
            output_heat_maps: returns the heat maps of the tasks that have some.
            person_found: (B,) boolean, of a processor that crops to the face: where it is False there is nobody to
                answer for, and all expressions have the same score.
            tasks: names of the tasks that are asked for; None: all. Decoders and heads that none of them needs are not
                run, and what is not asked for is None.
            **kwargs: labels of further tasks by their `label_key`, masks by their `mask_key`, and transformers' own
                (`output_hidden_states`, `output_attentions`, `return_dict`).

        Raises:
            ValueError: there are neither clips nor encoded clips, or both; a task is unknown, or has labels without
                being asked for; the clip has another number of frames than the model, a label is outside the class
                list, heat maps are asked of a model without any, or attention weights of an implementation that does
                not keep them.
            TypeError: an argument is no label or mask of any task.
        """
        targets = self._take_task_arguments(kwargs)
        targets |= {"labels": labels, "face_boxes": face_boxes}
        targets |= {"face_landmarks": face_landmarks, "face_found": face_found}
        wanted = None if tasks is None else self._check_wanted(tasks, targets)
        # The encoder records by its own config; what is asked of this model's config holds for it too.
        for name in ("output_hidden_states", "output_attentions"):
            kwargs.setdefault(name, getattr(self.config, name))
        encoded = self._encode(pixel_values, encoded_clips, kwargs)
        tokens, predictions = self.structure.predict(encoded.last_hidden_state, self.heads, wanted)
        if self.config.temperature != 1 and "expression" in predictions:
            predictions["expression"] = predictions["expression"] / self.config.temperature
        losses = self._compute_losses(predictions, targets)
        log_maps = {}
        if losses or output_heat_maps:
            heads = {name: head for name, head in self.heads.items() if isinstance(head, MTCAEHeatMapHead)}
            asked = heads if wanted is None else wanted
            log_maps = {name: head.log_maps(tokens[name]) for name, head in heads.items() if name in asked}
        if output_heat_maps and not log_maps:
            raise ValueError("output_heat_maps=True: no task of this model has the pooling 'heat_map'.")
        map_losses = self._compute_map_losses(log_maps, predictions, targets)
        for task in self.tasks:
            if task.name in map_losses:
                losses[task.name] = losses[task.name] + task.heat_map_weight * map_losses[task.name]
        if wanted is not None:  # a structure predicts what a wanted task needs, too
            predictions = {name: predictions[name] for name in wanted}
        logits = predictions.get("expression")
        return MTCAEMultiTaskOutput(
            loss=self._total_loss(losses, tokens) if losses else None,
            logits=None if logits is None else all_alike_without_a_person(logits, person_found),
            face_boxes=predictions.get("face_box"),
            face_landmarks=predictions.get("face_landmarks"),
            # A dict of transformers' own kind, which its pipelines can take apart.
            task_outputs=ModelOutput(predictions),
            task_losses=losses or None,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            # (B, T, points, h * w) -> (B, T, points, h, w)
            heat_maps=tuple(maps.exp().unflatten(-1, self.config.token_grid[1:]) for maps in log_maps.values())
            if output_heat_maps
            else None,
            heat_map_losses=map_losses or None,
        )

    def _check_wanted(self, tasks: Sequence[str], targets: Targets) -> list[str]:
        """The tasks that are asked for, in the order of the config."""
        names = [task.name for task in self.tasks]
        unknown = [name for name in tasks if name not in names]
        if unknown or not tasks or isinstance(tasks, str):
            raise ValueError(f"tasks={tasks!r}: give a list of some of this model's tasks, {', '.join(names)}.")
        labelled = [task.name for task in self.tasks if targets.get(task.label_key) is not None]
        if not set(labelled) <= set(tasks) or (labelled and self.training and self.contrast is not None):
            raise ValueError(f"tasks={list(tasks)}: there are labels of {', '.join(labelled)}; leave tasks out.")
        return [name for name in names if name in tasks]

    def _take_task_arguments(self, kwargs: dict[str, Any]) -> Targets:
        """Moves the tasks' labels and masks out of `kwargs`; what remains must be transformers' own."""
        known = {key for task in self.tasks for key in (task.label_key, task.mask_key) if key is not None}
        for name in ADDED_ARGUMENTS:
            kwargs.pop(name, None)
        unknown = [key for key in kwargs if key not in known and key not in TransformersKwargs.__annotations__]
        if unknown:
            raise TypeError(
                f"forward() got {', '.join(unknown)}: no task of this model has such a label or mask; "
                f"its tasks take {', '.join(sorted(known))}."
            )
        return {key: kwargs.pop(key) for key in list(kwargs) if key in known}

    def _encode(
        self, pixel_values: torch.Tensor | None, encoded_clips: torch.Tensor | None, kwargs: dict[str, Any]
    ) -> Any:
        """The encoder's output, with `last_hidden_state` (B, N, D)."""
        if pixel_values is not None and encoded_clips is None:
            self._check_inputs(pixel_values, kwargs)
            encoded: Any = encode_clips(self.encoder, pixel_values, **kwargs)
        elif encoded_clips is not None and pixel_values is None:
            encoded = BaseModelOutput(last_hidden_state=encoded_clips)
        else:
            raise ValueError("forward() takes either pixel_values or encoded_clips.")
        self._check_tokens(encoded.last_hidden_state)
        return encoded

    def _check_inputs(self, pixel_values: torch.Tensor, kwargs: dict[str, Any]) -> None:
        config = self.config
        takes_fewer = config.clip_shape.takes_fewer_frames
        frames = pixel_values.shape[1] if pixel_values.ndim == 5 else 0
        if frames != config.num_frames and not (takes_fewer and 0 < frames < config.num_frames):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; this model takes (clips, "
                f"{'at most ' if takes_fewer else ''}{config.num_frames} frames, 3, height, width). Sample "
                f"{config.num_frames} frames with the processor's num_frames."
            )
        if frames % config.tubelet_size:
            raise ValueError(
                f"pixel_values has {frames} frames; a shorter clip must have a multiple of {config.tubelet_size}."
            )
        if kwargs.get("output_attentions") and config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions=True: attention '{config._attn_implementation}' keeps no weights; "
                "call model.set_attn_implementation('eager') first."
            )

    def _check_tokens(self, encoded: torch.Tensor) -> None:
        """Refuses tokens (B, N, D) that are no clip of this model; they may be those of a shorter clip."""
        tubelets, rows, columns = self.config.token_grid
        num_tokens = encoded.shape[1]
        if num_tokens == tubelets * rows * columns:
            return
        if num_tokens % (rows * columns) or not 0 < num_tokens < tubelets * rows * columns:
            raise ValueError(
                f"the encoded clips have {num_tokens} tokens; this model takes {rows} x {columns} of each of at most "
                f"{tubelets} tubelets."
            )
        fixed = [task.name for task in self.tasks if task.per == "frame" and task.pooling in ("mean", "attention")]
        if fixed:
            raise ValueError(
                f"the clips have {num_tokens // (rows * columns) * self.config.tubelet_size} frames; the pooling of "
                f"{', '.join(fixed)} gives {self.config.num_frames} at once. Sample so many, or train with a pooling "
                "that keeps time: time, time_and_place, heat_map."
            )

    def _compute_losses(self, predictions: dict[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """The tasks' losses by name, before their weights. Unknown labels and masked frames add nothing to them."""
        losses = {}
        for task in self.tasks:
            labels = targets.get(task.label_key)
            if labels is not None:
                mask = targets.get(task.mask_key)
                self._check_labels(task, predictions[task.name], labels, mask)
                # Half-precision losses overflow or vanish; autocast leaves these functions in the type they get.
                prediction = predictions[task.name].float()
                if task.kind == "classification":
                    loss = classification_loss(prediction, labels, mask)
                elif task.loss == "ccc":
                    loss = concordance_loss(prediction, labels, mask, output_axes=len(task.output_shape))
                else:
                    loss = elementwise_loss(ELEMENTWISE_LOSSES[str(task.loss)], prediction, labels, mask)
                losses[task.name] = loss
        return losses

    def _compute_map_losses(
        self,
        log_maps: dict[str, torch.Tensor],
        predictions: dict[str, torch.Tensor],
        targets: Targets,
    ) -> dict[str, torch.Tensor]:
        """The heat maps' cross-entropies by task name, before `heat_map_weight`."""
        losses = {}
        windows = self.structure.map_windows(predictions)
        for task in self.tasks:
            labels = targets.get(task.label_key)
            if labels is None or not task.heat_map_weight:
                continue
            # (B, T, *output_shape) -> (B, T, points, 2)
            points = labels.float().flatten(2).unflatten(2, (-1, 2))
            if task.name in windows:
                points = points_in_box(points, windows[task.name].detach().float())
            mask = targets.get(task.mask_key)
            grid = self.config.token_grid[1:]
            losses[task.name] = heat_map_loss(log_maps[task.name], points, grid, task.heat_map_deviation, mask)
        return losses

    def _check_labels(
        self, task: TaskDescription, prediction: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None
    ) -> None:
        expected = prediction.shape[:-1] if task.kind == "classification" else prediction.shape
        if labels.shape != expected:
            raise ValueError(
                f"{task.label_key} has shape {tuple(labels.shape)}; task {task.name} takes {tuple(expected)}."
            )
        expected = labels.shape[:2] if task.per == "frame" else labels.shape[:1]
        if mask is not None and mask.shape != expected:
            raise ValueError(
                f"{task.mask_key} has shape {tuple(mask.shape)}; task {task.name} takes {tuple(expected)}."
            )
        if task.kind == "classification" and labels.is_floating_point():
            raise ValueError(
                f"{task.label_key} is {labels.dtype}; task {task.name} takes whole numbers, its class ids."
            )
        # On an accelerator the check would wait for the device at every step; the data set checks its labels there.
        if task.kind != "classification" or torch.compiler.is_compiling() or labels.device.type != "cpu":
            return
        num_classes = prediction.shape[-1]
        outside = (labels != IGNORED_CLASS) & ((labels < 0) | (labels >= num_classes))
        if outside.any():
            raise ValueError(
                f"{task.label_key} holds {labels[outside].unique().tolist()}: class ids of task {task.name} run from "
                f"0 to {num_classes - 1}, and {IGNORED_CLASS} marks an unknown label."
            )

    def _total_loss(self, losses: dict[str, torch.Tensor], tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = {task.name: task.weight for task in self.tasks}
        weighted = {name: weights[name] * loss for name, loss in losses.items()}
        if self.uncertainty is not None:
            total = self.uncertainty(weighted)
        else:
            total = torch.stack(list(weighted.values())).sum()
        if self.training and self.contrast is not None:
            total = total + self.config.contrastive_weight * self.contrast(tokens)
        return total

    def freeze_encoder(self) -> None:
        """Stops training the encoder: its weights take no gradient, and its dropout stays off."""
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "MTCAEForMultiTaskVideo":
        """As in torch, except that a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    @classmethod
    def from_encoder_pretrained(
        cls,
        pretrained_encoder: str,
        encoder_overrides: dict[str, Any] | None = None,
        **config_overrides: Any,
    ) -> "MTCAEForMultiTaskVideo":
        """Puts a pre-trained encoder under fresh decoders and heads.

        Args:
            pretrained_encoder: folder or Hub id of a video encoder's checkpoint: base model, pre-training model or
                fine-tuned classifier; or of an image model, which then looks at every frame (`FrameBackboneModel`).
            encoder_overrides: fields of the encoder's config to change, for example `{"image_size": 160}`; of
                `FrameBackboneConfig` for an image model. `num_frames` and `image_size` go by these names everywhere.
            **config_overrides: fields of `MTCAEConfig`.

        Raises:
            ValueError: there is no readable checkpoint of a video encoder, it lacks weights, or an override is no field
                of the config that it is meant for.
        """
        unknown = unknown_config_names(set(config_overrides) - {"encoder_config"})
        if unknown or "encoder_config" in config_overrides:
            names = ", ".join(unknown or ["encoder_config"])
            raise ValueError(f"{names}: no field to override in MTCAEConfig; the encoder's go into encoder_overrides.")
        loaded, report = load_encoder(pretrained_encoder, encoder_overrides or {})
        model = cls(MTCAEConfig(encoder_config=loaded.config, **config_overrides))
        # Copied tensor by tensor: loading the checkpoint into the whole model, or assigning the module, loses the
        # biases of queries and values, whose names transformers converts for the model type "videomae" alone.
        model.encoder.load_state_dict(loaded.state_dict())
        new = [f"encoder.{name}" for name in report.get("fresh_keys", ())]
        new += [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
        logger.warning(
            f"Encoder weights taken from {pretrained_encoder}. New and untrained: {summarise_names(new, depth=3)}. "
            f"Not used from the checkpoint: {summarise_names(report['unexpected_keys'], depth=1)}."
        )
        return model


__all__ = ["MTCAEForMultiTaskVideo", "MTCAEMultiTaskOutput", "MTCAEPreTrainedModel"]
