"""Configuration of MTL-ER: valence, arousal, expression and action units of every frame, from per-frame features.

Source: the winning system of the ABAW4 multi-task challenge (arXiv 2207.09373) and its released code. What differs
from that code is said in docs/affect.md.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_common import is_weight, require, require_choice, require_positive, require_share

# Label layout of s-Aff-Wild2: the order of the expressions and of the action units.
AFFECT_EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")
AFFECT_ACTION_UNITS = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
KNOWN_ACTION_UNITS = frozenset(range(1, 69))  # numbers of the Facial Action Coding System, gaze and head included

TASKS = ("valence", "arousal", "expression", "action_units")
ENCODER_TYPES = ("transformer", "lstm", "gru")
FRAMEWORKS = ("share_encoder", "share_bottom", "share_bottom_feedback")
FEEDBACK_KINDS = ("hidden_state", "label_embedding")
VALENCE_AROUSAL_LOSSES = ("mse", "ccc")
CHUNK_MERGES = ("overlap", "consecutive")
LOSS_WEIGHTS = {"valence": 12.0, "arousal": 12.0, "expression": 0.35, "action_units": 1.0}

AUTO_MAP = {
    "AutoConfig": "configuration_mtl_er.MTLERConfig",
    "AutoModel": "modeling_mtl_er.MTLERForAffectiveBehavior",
}


def find_loop(dependencies: dict[str, list[str]]) -> list[str] | None:
    """A loop among target -> sources as the list of its tasks, the first repeated at the end; None: there is none."""

    def follow(task: str, path: list[str]) -> list[str] | None:
        if task in path:
            return [*path[path.index(task) :], task]
        found = (follow(source, [*path, task]) for source in dependencies.get(task, ()))
        return next((loop for loop in found if loop is not None), None)

    return next((loop for loop in (follow(task, []) for task in dependencies) if loop is not None), None)


@strict
class MTLERConfig(PreTrainedConfig):
    """Configuration of `MTLERForAffectiveBehavior`. The defaults are the released multi-task transformer's.

    Raises:
        ValueError: a value breaks its rule; the message names the field, the value and the rule. A dependency loop
            between tasks is spelled out.
        huggingface_hub.errors.StrictDataclassFieldValidationError: a value has the wrong type; likewise.
    """

    model_type = "mtl_er"

    input_size: int = 768  # D, length of a frame's feature vector; the sum over concatenated features
    feature_names: list | None = None  # names of the concatenated features in their order, for people
    tasks: list | None = None  # which of valence, arousal, expression, action_units; None = all four
    expressions: list | None = None  # class names in the order of their ids; None = the eight of s-Aff-Wild2
    action_units: list | None = None  # FACS numbers in the order of the outputs; None = the twelve of s-Aff-Wild2
    encoder_type: str = "transformer"  # transformer | lstm | gru: what reads the frames in their order
    framework: str = "share_bottom_feedback"  # share_encoder | share_bottom | share_bottom_feedback
    hidden_size: int = 1024  # d, width of the temporal encoder
    num_layers: int = 4  # N, layers between a feature and a head
    num_private_layers: int = 3  # S, how many of them each task has for itself (unused by share_encoder)
    num_attention_heads: int = 16  # heads of a transformer of width d; a wider private one has more of the same width
    intermediate_size: int = 2048  # hidden channels of a transformer layer's MLP
    encoder_dropout: float | int = 0.3  # dropout in the temporal encoder
    head_sizes: list | None = None  # widths of a head's two hidden layers; None = [512, 256]
    head_dropout: float | int = 0.3  # dropout before every layer of a head
    dependencies: dict | None = None  # target -> sources fed back to it; None = {arousal: [valence, action_units]}
    feedback_kind: str = "hidden_state"  # hidden_state | label_embedding: what of a source its target gets
    label_embedding_size: int = 256  # width of the embeddings that stand for a source's labels
    true_label_share: float | int = 0.75  # label_embedding: share of training frames that get the true label instead
    chunk_length: int = 64  # frames that are seen together
    chunk_merge: str = "overlap"  # inference: overlap (averaged) | consecutive (as released)
    chunk_overlap: int = 32  # overlap: frames that neighbouring chunks have in common, less than chunk_length
    valence_arousal_loss: str = "mse"  # mse (released) | ccc: 1 - concordance over the batch's frames
    loss_weights: dict | None = None  # factor of each task's loss; None = 12, 12, 0.35, 1
    expression_weights: list | None = None  # weight of each class in the cross-entropy; None = all alike
    action_unit_weights: list | None = None  # weight of each action unit's positive frames; None = 1
    initializer_range: float | int = 0.02  # standard deviation of fresh weights

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        self.complete()

    def complete(self) -> None:
        """Fills in what was left open, and checks all fields. A model does it again when it is built.

        Raises:
            ValueError: a value breaks its rule.
        """
        self.tasks = list(TASKS if self.tasks is None else self.tasks)
        self.expressions = list(AFFECT_EXPRESSIONS if self.expressions is None else self.expressions)
        self.action_units = list(AFFECT_ACTION_UNITS if self.action_units is None else self.action_units)
        self.head_sizes = [512, 256] if self.head_sizes is None else list(self.head_sizes)
        self.loss_weights = dict(LOSS_WEIGHTS) | (self.loss_weights or {})
        if self.dependencies is None:
            # Only the shipped dependency shrinks to the tasks that are there; what a user writes must be all there.
            sources = [task for task in ("valence", "action_units") if task in self.tasks]
            self.dependencies = {"arousal": sources} if sources and "arousal" in self.tasks else {}
        self._check_fields()
        self._check_outputs()
        self._check_dependencies()
        self._check_attention_heads()

    def _check_fields(self) -> None:
        for field_name, allowed in (
            ("encoder_type", ENCODER_TYPES),
            ("framework", FRAMEWORKS),
            ("feedback_kind", FEEDBACK_KINDS),
            ("chunk_merge", CHUNK_MERGES),
            ("valence_arousal_loss", VALENCE_AROUSAL_LOSSES),
        ):
            require_choice(getattr(self, field_name), field_name, allowed)
        positive = ("input_size", "hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
        require_positive(self, *positive, "label_embedding_size", "chunk_length")
        require_share(self, "encoder_dropout", "head_dropout", "initializer_range")
        require(0 <= self.true_label_share <= 1, "true_label_share", self.true_label_share, "must be in [0, 1]")
        rule = f"must be at least 0 and less than chunk_length ({self.chunk_length})"
        require(0 <= self.chunk_overlap < self.chunk_length, "chunk_overlap", self.chunk_overlap, rule)
        rule = f"must be between 1 and num_layers ({self.num_layers})"
        holds = self.framework == "share_encoder" or 1 <= self.num_private_layers <= self.num_layers
        require(holds, "num_private_layers", self.num_private_layers, rule)
        sizes = self.head_sizes or []
        holds = len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes)
        require(holds, "head_sizes", sizes, "must be two whole numbers greater than 0")

    def _check_outputs(self) -> None:
        _check_names("tasks", self.tasks or [], TASKS)
        names, units, loss_weights = self.expressions or [], self.action_units or [], self.loss_weights or {}
        holds = len(names) > 1 and len(set(names)) == len(names)
        require(holds, "expressions", names, "must hold at least two names, each once")
        unknown = [unit for unit in units if type(unit) is not int or unit not in KNOWN_ACTION_UNITS]
        require(not unknown, "action_units", unknown, "are no action units; give FACS numbers such as 1, 2, 4")
        require(bool(units) and len(set(units)) == len(units), "action_units", units, "must hold every number once")
        unknown = sorted(set(loss_weights) - set(TASKS))
        require(not unknown, "loss_weights", unknown, f"are no tasks; the tasks are {', '.join(TASKS)}")
        for task, weight in loss_weights.items():
            require(is_weight(weight), f"loss_weights.{task}", weight, "must be a finite number, at least 0")
        for field_name, outputs in (("expression_weights", names), ("action_unit_weights", units)):
            weights = getattr(self, field_name)
            holds = weights is None or (len(weights) == len(outputs) and all(map(is_weight, weights)))
            require(holds, field_name, weights, f"must be {len(outputs)} finite numbers, at least 0")

    def _check_dependencies(self) -> None:
        tasks, dependencies = self.tasks or [], self.dependencies or {}
        for target, sources in dependencies.items():
            field_name = f"dependencies.{target}"
            require(target in tasks, field_name, sources, f"{target} is no task of this model")
            holds = isinstance(sources, list | tuple) and len(sources) > 0
            require(holds, field_name, sources, "must be a list of the tasks that are fed back")
            _check_names(field_name, list(sources), tuple(tasks))
        loop = find_loop(dependencies)
        if loop is not None:
            path = " needs ".join(loop)
            raise ValueError(f"dependencies={dependencies!r}: there is a loop, {path}; take one of them out")

    def _check_attention_heads(self) -> None:
        if self.encoder_type != "transformer":
            return
        heads = self.num_attention_heads
        rule = f"must be divisible by num_attention_heads ({heads})"
        require(self.hidden_size % heads == 0, "hidden_size", self.hidden_size, rule)
        for task in self.tasks or []:
            width = self.branch_size(task)
            rule = (
                f"the private encoder of {task} is {width} wide with its feedback and {self.shared_size} of shared "
                f"channels, which heads of {self.attention_head_size} channels do not divide"
            )
            require(width % self.attention_head_size == 0, "hidden_size", self.hidden_size, rule)

    @property
    def active_dependencies(self) -> dict[str, list[str]]:
        """Target -> sources of the feedback; empty in the frameworks without feedback."""
        return (self.dependencies or {}) if self.framework == "share_bottom_feedback" else {}

    @property
    def task_order(self) -> list[str]:
        """The tasks, every source before its targets; otherwise as in `tasks`."""
        order: list[str] = []

        def place(task: str) -> None:
            for source in self.active_dependencies.get(task, ()):
                place(source)
            if task not in order:
                order.append(task)

        for task in self.tasks or []:
            place(task)
        return order

    @property
    def num_shared_layers(self) -> int:
        """Layers that serve all tasks; without any, the private encoders read the features themselves."""
        return self.num_layers if self.framework == "share_encoder" else self.num_layers - self.num_private_layers

    @property
    def shared_size(self) -> int:
        """Width of what all tasks share."""
        return self.hidden_size if self.num_shared_layers else self.input_size

    @property
    def feedback_size(self) -> int:
        """Width of what one source feeds back."""
        return (self.head_sizes or [])[-1] if self.feedback_kind == "hidden_state" else self.label_embedding_size

    @property
    def attention_head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def branch_size(self, task: str) -> int:
        """Width of what a task's private encoder reads: the shared states and what its sources feed back."""
        return self.shared_size + self.feedback_size * len(self.active_dependencies.get(task, ()))

    def num_outputs(self, task: str) -> int:
        """How many numbers a task's head gives for a frame."""
        return {"expression": len(self.expressions or []), "action_units": len(self.action_units or [])}.get(task, 1)


def _check_names(field_name: str, names: list[str], allowed: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in allowed]
    require(not unknown, field_name, unknown, f"are no tasks here; there are {', '.join(allowed)}")
    require(bool(names) and len(set(names)) == len(names), field_name, names, "must hold every name once")


__all__ = ["AFFECT_ACTION_UNITS", "AFFECT_EXPRESSIONS", "MTLERConfig"]
