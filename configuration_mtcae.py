"""Configuration of MTCAE-DFER: an encoder, an ordered list of tasks, and the structure that joins them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from keyword import iskeyword
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import TransformersKwargs, logging

from .configuration_common import is_weight, require, require_choice, require_share
from .modeling_encoders import ClipShape, build_encoder_config, describe_clips

logger = logging.get_logger(__name__)

EXPRESSIONS = ("neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise")

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_mtcae.MTCAEConfig",
    "AutoModel": "modeling_mtcae.MTCAEForMultiTaskVideo",
    "AutoModelForVideoClassification": "modeling_mtcae.MTCAEForMultiTaskVideo",
}

STRUCTURES = ("single_task", "non_fully_shared", "fully_shared", "cascaded", "mtformer", "mnc", "mtl_er")
DECODER_TYPES = ("vit", "mlp")
POOLINGS = ("mean", "time", "time_and_place", "attention", "heat_map")
TASK_KINDS = ("classification", "regression", "multi_label")
TASK_RATES = ("clip", "frame")
LOSSES_OF_KIND = {
    "classification": ("cross_entropy",),
    "regression": ("mse", "l1", "smooth_l1", "ccc"),
    "multi_label": ("binary_cross_entropy",),
}

# What transformers and its Trainer add to the arguments of `forward` unasked.
ADDED_ARGUMENTS = (
    "use_cache",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "vision_aspect_ratio",
    "num_items_in_batch",
)
# Arguments of `forward` that are no labels: a task's labels and mask cannot go by these names.
FORWARD_ARGUMENTS = (
    "pixel_values",
    "encoded_clips",
    "person_found",
    "output_heat_maps",
    "return_dict",
    *ADDED_ARGUMENTS,
    *TransformersKwargs.__annotations__,
)
# Names beside the fields that config files and `from_pretrained` hand to a config.
EXTRA_CONFIG_NAMES = {
    "auto_map",
    "custom_pipelines",
    "model_type",
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "num_labels",
    "torch_dtype",
    "attn_implementation",
    "experts_implementation",
    "output_attentions",
    "use_cache",
    "quantization_config",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
}


@dataclass
class TaskDescription:
    """One task of the ordered list `MTCAEConfig.tasks`.

    A task predicts a tensor of shape (B, *output_shape) per clip, or (B, T, *output_shape) per frame. For
    classification, `output_shape` is `[number of classes]` and the labels are class ids of shape (B,) or (B, T), with
    -100 where unknown; for regression and multi-label tasks the labels have the prediction's shape, with NaN where
    unknown.

    Raises:
        ValueError: a field breaks its rule; the message names field, value and rule.
    """

    name: str  # key of the task's output, loss and weights; a Python identifier
    kind: str = "regression"  # classification | regression | multi_label
    per: str = "clip"  # clip: one output a clip | frame: one output a frame
    output_shape: list[int] = field(default_factory=list)  # shape of one output; empty = the config's class list
    loss: str | None = None  # None = mse, cross_entropy or binary_cross_entropy, by kind
    weight: float = 1.0  # factor of this task's loss in the sum
    label_key: str | None = None  # name of the label in `forward`; None = the task's name
    mask_key: str | None = None  # name of a boolean input, (B, T) or (B,); where it is False nothing reaches the loss
    pooling: str | None = None  # None = the config's pooling
    heat_map_weight: float = 0.0  # factor of the heat maps' cross-entropy with labelled points, part of the task's loss
    heat_map_deviation: float = 0.7  # standard deviation of a labelled point in its target map, in cells of the grid
    output_names: list[str] | None = None  # names of the outputs of one frame or clip, for people

    def __post_init__(self) -> None:
        require(_is_argument_name(self.name), "tasks.name", self.name, "must be a Python identifier")
        # The model keeps its parts in a ModuleDict, beside that class's own attributes.
        taken = hasattr(nn.ModuleDict(), self.name)
        require(not taken, "tasks.name", self.name, "is the name of an attribute of torch's modules; choose another")
        self._check_choice("kind", TASK_KINDS)
        self.loss = self.loss or LOSSES_OF_KIND[self.kind][0]
        self.label_key = self.label_key or self.name
        shape = self.output_shape
        holds_sizes = isinstance(shape, list | tuple) and all(type(size) is int and size > 0 for size in shape)
        self._require(holds_sizes, "output_shape", "must be a list of positive whole numbers")
        if self.kind == "classification":
            self._require(len(shape) <= 1, "output_shape", "must be [classes]")
        else:
            self._require(len(shape) > 0, "output_shape", "must not be empty")
        self.output_shape = list(shape)
        self._check_fields()

    def _check_choice(self, field_name: str, allowed: tuple[str, ...]) -> None:
        require_choice(getattr(self, field_name), f"tasks.{self.name}.{field_name}", allowed)

    def _require(self, condition: bool, field_name: str, rule: str) -> None:
        require(condition, f"tasks.{self.name}.{field_name}", getattr(self, field_name), rule)

    def _check_fields(self) -> None:
        self._check_choice("per", TASK_RATES)
        self._check_choice("loss", LOSSES_OF_KIND[self.kind])
        if self.pooling is not None:
            self._check_choice("pooling", POOLINGS)
        for field_name in ("weight", "heat_map_weight", "heat_map_deviation"):
            self._require(is_weight(getattr(self, field_name)), field_name, "must be a finite number, at least 0")
        self._require(self.heat_map_deviation > 0, "heat_map_deviation", "must be greater than 0")
        for field_name in ("label_key", "mask_key") if self.mask_key is not None else ("label_key",):
            key = getattr(self, field_name)
            self._require(_is_argument_name(key), field_name, "must be a Python identifier")
            self._require(key not in FORWARD_ARGUMENTS, field_name, "is another argument of the model's forward")
        self._require(self.mask_key != self.label_key, "mask_key", "must differ from label_key")
        if self.output_names is not None and self.output_shape:
            rule = f"must name the {self.num_outputs} outputs"
            self._require(len(self.output_names) == self.num_outputs, "output_names", rule)

    @property
    def num_outputs(self) -> int:
        """How many numbers one output (of a frame, or of a clip) holds."""
        return math.prod(self.output_shape)


def _is_argument_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not iskeyword(name)


def paper_tasks() -> list[TaskDescription]:
    """The paper's three tasks in their order, with losses MSE / MSE / CE weighted 0.5 / 0.5 / 1.5 (section III)."""
    return [
        TaskDescription(
            "face_box", per="frame", output_shape=[4], weight=0.5, label_key="face_boxes", mask_key="face_found"
        ),
        TaskDescription("face_landmarks", per="frame", output_shape=[5, 2], weight=0.5, mask_key="face_found"),
        TaskDescription("expression", kind="classification", weight=1.5, label_key="labels"),
    ]


def unknown_config_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that mean nothing to `MTCAEConfig`."""
    return sorted(set(names) - EXTRA_CONFIG_NAMES - {known.name for known in fields(MTCAEConfig)})


class InstalledPipelines(dict):
    """Pipelines of a config whose package is installed, and has registered them by their names.

    From the names transformers infers the task. What it finds in here it would take from the copy in the model's
    folder, and ask for trust in remote code; so it finds nothing, and takes the registered class.
    """

    def __contains__(self, name: object) -> bool:
        return False


@strict
class MTCAEConfig(PreTrainedConfig):
    """Configuration of `MTCAEForMultiTaskVideo`. Without arguments it is the paper's model (VideoMAE ViT-L, cascade).

    Raises:
        ValueError: a value breaks its rule; the message names the field, the value and the rule.
        huggingface_hub.errors.StrictDataclassFieldValidationError: a value has the wrong type; likewise.
    """

    model_type = "mtcae"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None  # the encoder's own config; None = VideoMAE ViT-L
    tasks: list | None = None  # ordered task descriptions (dicts or TaskDescription); None = the paper's three
    # single_task | non_fully_shared | fully_shared | cascaded (Table I) | mtformer | mnc | mtl_er
    structure: str = "cascaded"
    decoder_type: str = "vit"  # vit: cross-attention + MLP | mlp: MLP only (Table I)
    decoder_hidden_size: int = 512  # width of the decoders' tokens
    decoder_num_layers: int = 5  # L, the depth of the recursion in one decoder
    decoder_num_attention_heads: int = 3  # heads of one cross-attention
    decoder_head_dim: int = 512  # channels of one head; 3 heads do not divide 512, so it is a field of its own
    decoder_mlp_ratio: float | int = 4.0  # hidden channels of the MLP / decoder_hidden_size
    decoder_hidden_act: str = "gelu"  # activation in the MLP
    decoder_dropout: float | int = 0.0  # dropout on what a cross-attention or MLP adds
    decoder_attention_dropout: float | int = 0.0  # dropout on the cross-attention's weights
    share_decoder_layers: bool = False  # True: one layer's weights serve the whole recursion of a decoder
    decoder_zero_start: bool = False  # True: what an attention or MLP of a decoder adds to its tokens starts at zero
    # mean (paper) | time: keeps tubelets | time_and_place: learned weights over the grid | attention: learned queries |
    # heat_map: points and boxes of every frame as expected places
    pooling: str = "mean"
    pooling_maps: int = 8  # learned weight maps of the pooling time_and_place, learned queries of attention
    uncertainty_weighting: bool = False  # True: a learned variance scales each task's loss (MTFormer)
    contrastive_weight: float | int = 0.0  # factor of MTFormer's cross-task contrastive loss in training; 0 = none
    # divides the scores of the expression; fitted on validation clips, it makes their softmax calibrated probabilities
    temperature: float | int = 1.0
    layer_norm_eps: float | int = 1e-6  # epsilon of the decoders' and heads' norms
    initializer_range: float | int = 0.02  # standard deviation of fresh weights

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("num_frames", "image_size", "patch_size", "tubelet_size", "hidden_size", "token_grid"):
            require(name not in kwargs, name, kwargs.get(name), "is the encoder's; set it in encoder_config")
        unknown = unknown_config_names(kwargs)
        if unknown:
            logger.warning(f"MTCAEConfig has no field {', '.join(unknown)}: kept, but without any effect.")
        self.encoder_config = build_encoder_config(self.encoder_config)
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(EXPRESSIONS))
        self.tasks = [asdict(task) for task in self._build_tasks(self.tasks)]
        # `from_pretrained(FOLDER, num_labels=3)` brings the folder's class list and a number that replaces it.
        self._leave_classes_open()
        super().__post_init__(**kwargs)
        self.announce_pipelines(getattr(self, "custom_pipelines", None) or {})
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        self.complete()

    def announce_pipelines(self, pipelines: dict[str, Any]) -> None:
        """Names the pipelines that the model's folder brings along, each with its module and class.

        Args:
            pipelines: {task: {"impl": "module.Class", "pt": [names of Auto* classes]}}, as transformers keeps them.
        """
        is_installed = type(self).__module__.startswith("mtcae_dfer.")
        if pipelines:
            self.custom_pipelines = InstalledPipelines(pipelines) if is_installed else pipelines

    def complete(self) -> None:
        """Fills in what follows from other fields, and checks all of them.

        A model does it again when it is built: `from_pretrained(FOLDER, structure=..., id2label=...)` sets fields
        behind the constructor's back.

        Raises:
            ValueError: a value breaks its rule.
        """
        named = self.id2label or {}
        self.id2label = {int(index): name for index, name in named.items()}  # JSON's keys are strings
        self.label2id = {name: index for index, name in self.id2label.items()}
        self.tasks = [asdict(task) for task in self._build_tasks(self.tasks)]
        self._check_fields()
        self._leave_classes_open()

    def _leave_classes_open(self) -> None:
        # A number of classes that is left open follows a class list that is set later.
        for task in self.tasks or []:
            is_class_list = task["name"] == "expression" and task["kind"] == "classification"
            if is_class_list and task["output_shape"] == [len(self.id2label or {})]:
                task["output_shape"] = []

    @staticmethod
    def _build_tasks(tasks: list[dict | TaskDescription] | None) -> list[TaskDescription]:
        if tasks is None:
            return paper_tasks()
        described = []
        for task in tasks:
            # A class loaded as remote code is not the package's class, so a description is known by its fields.
            values = asdict(task) if is_dataclass(task) else task
            describes = isinstance(values, dict) and "name" in values
            require(describes, "tasks", task, "every entry must be a task description with a name")
            unknown = sorted(set(values) - {known.name for known in fields(TaskDescription)})
            require(not unknown, f"tasks.{values.get('name')}", unknown, "are no fields of a task description")
            described.append(TaskDescription(**values))
        return described

    def _check_fields(self) -> None:
        require_choice(self.structure, "structure", STRUCTURES)
        require(self.decoder_type in DECODER_TYPES, "decoder_type", self.decoder_type, "must be 'vit' or 'mlp'")
        require_choice(self.pooling, "pooling", POOLINGS)
        positive = ("hidden_size", "num_layers", "num_attention_heads", "head_dim", "mlp_ratio")
        for field_name in [*(f"decoder_{name}" for name in positive), "pooling_maps", "temperature", "layer_norm_eps"]:
            value = getattr(self, field_name)
            require(0 < value < math.inf, field_name, value, "must be greater than 0")
        require_share(self, "decoder_dropout", "decoder_attention_dropout", "initializer_range")
        mlp_size = int(self.decoder_mlp_ratio * self.decoder_hidden_size)
        require(mlp_size > 0, "decoder_mlp_ratio", self.decoder_mlp_ratio, "leaves the MLP no hidden channel")
        activation = self.decoder_hidden_act
        require(activation in ACT2FN, "decoder_hidden_act", activation, "is no activation of transformers")
        classes = self.id2label or {}
        require(sorted(classes) == list(range(len(classes))), "id2label", classes, "must number its names 0, 1, 2, …")
        require(len(set(classes.values())) == len(classes), "id2label", classes, "must hold every name once")
        describe_clips(self._encoder)
        self._check_tasks()
        self._check_structure()

    def _check_tasks(self) -> None:
        names = [task["name"] for task in self.tasks or []]
        require(bool(names), "tasks", names, "must hold at least one task")
        require(len(set(names)) == len(names), "tasks", names, "must hold every name once")
        expression = self.expression_task
        if expression is not None:
            kind, per, shape = expression.kind, expression.per, expression.output_shape
            require(kind == "classification", "tasks.expression.kind", kind, "must be classification: it is the logits")
            require(per == "clip", "tasks.expression.per", per, "must be clip: it is the logits")
            rule = f"must equal the {self.num_labels} classes of id2label"
            require(shape == [self.num_labels], "tasks.expression.output_shape", shape, rule)
        for task in self.task_descriptions:
            self._check_heat_maps(task)

    def _check_heat_maps(self, task: TaskDescription) -> None:
        if task.pooling != "heat_map":
            rule = "weighs heat maps, which need pooling 'heat_map'"
            require(task.heat_map_weight == 0, f"tasks.{task.name}.heat_map_weight", task.heat_map_weight, rule)
            return
        shape = task.output_shape
        finds_points = task.kind == "regression" and task.per == "frame"
        finds_points = finds_points and (shape == [4] or (len(shape) == 2 and shape[1] == 2))
        rule = (
            "finds points of every frame: a regression per frame of output_shape [4] (a box) or [points, 2], not a "
            f"{task.kind} per {task.per} of {shape}; take one of {', '.join(POOLINGS[:-1])}"
        )
        require(finds_points, f"tasks.{task.name}.pooling", task.pooling, rule)
        _, rows, columns = self.token_grid
        rule = (
            f"needs places to choose from, and a token of this {self._encoder.model_type} encoder covers the "
            f"whole frame (grid 1 x 1); take one of {', '.join(POOLINGS[:-1])}"
        )
        require(rows * columns > 1, f"tasks.{task.name}.pooling", task.pooling, rule)

    def _check_structure(self) -> None:
        names = [task["name"] for task in self.tasks or []]
        if self.structure == "single_task":
            require(len(names) == 1, "tasks", names, "single_task takes one task")
        if self.structure == "cascaded":
            rule = "a cascade needs 'vit': its decoders read the encoder's output by cross-attention"
            require(self.decoder_type == "vit", "decoder_type", self.decoder_type, rule)
        if self.structure in ("mtformer", "mnc", "mtl_er"):
            rule = f"{self.structure} has no decoders that it could change; leave it at its default"
            require(self.decoder_type == "vit", "decoder_type", self.decoder_type, rule)
            require(not self.share_decoder_layers, "share_decoder_layers", True, rule)
        if self.structure == "mnc":
            first = [(task["name"], task["per"], task["output_shape"]) for task in (self.tasks or [])[:2]]
            rule = "mnc needs face_box [4] and face_landmarks [points, 2] first, both per frame: it looks inside them"
            fits = len(first) == 2 and first[0] == ("face_box", "frame", [4])
            fits = fits and first[1][:2] == ("face_landmarks", "frame")
            fits = fits and len(first[1][2]) == 2 and first[1][2][1] == 2
            require(fits, "tasks", names[:2], rule)
        if self.structure == "mtl_er":
            # Its transformers are torch's, whose heads divide the width among them.
            size = self.decoder_num_attention_heads * self.decoder_head_dim
            rule = f"must be decoder_num_attention_heads x decoder_head_dim ({size}) for mtl_er"
            require(size == self.decoder_hidden_size, "decoder_hidden_size", self.decoder_hidden_size, rule)
        weight = self.contrastive_weight
        require(0 <= weight < math.inf, "contrastive_weight", weight, "must be a finite number, at least 0")
        if self.structure == "mtformer":
            rule = "mtformer needs two tasks at least: its tasks look through each other's attention"
            require(len(names) > 1, "tasks", names, rule)
            rule = f"must be at least {len(names) - 1}, so that the other tasks can share it"
            size = self.decoder_hidden_size
            require(size >= len(names) - 1, "decoder_hidden_size", size, rule)
        if weight:
            require(len(names) > 1, "contrastive_weight", weight, "needs two tasks at least: it compares them")

    @property
    def task_descriptions(self) -> list[TaskDescription]:
        """The ordered tasks as objects, with what `tasks` (plain dicts) leaves open: class list's size and pooling."""
        described = self._build_tasks(self.tasks)
        return [
            # only classification may leave its shape open
            replace(
                task, output_shape=task.output_shape or [len(self.id2label or {})], pooling=task.pooling or self.pooling
            )
            for task in described
        ]

    @property
    def expression_task(self) -> TaskDescription | None:
        """The task whose output is `logits`: the one called "expression", if there is one."""
        return next((task for task in self.task_descriptions if task.name == "expression"), None)

    @property
    def class_names(self) -> list[str]:
        """Names of the expressions, in the order of their scores."""
        numbered = sorted((int(number), name) for number, name in (self.id2label or {}).items())
        return [name for _, name in numbered]

    @property
    def _encoder(self) -> Any:
        """`encoder_config` as the constructor has built it: an object."""
        return self.encoder_config

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's tokens."""
        return self._encoder.hidden_size

    @property
    def clip_shape(self) -> ClipShape:
        """What the encoder takes and gives, in one object."""
        return describe_clips(self._encoder)

    @property
    def num_frames(self) -> int:
        """T, the number of frames of a clip."""
        return self.clip_shape.num_frames

    @property
    def tubelet_size(self) -> int:
        """How many consecutive frames one of the encoder's tokens covers."""
        return self.num_frames // self.token_grid[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.clip_shape.image_size

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the patch that one token covers, in pixels."""
        return self.clip_shape.patch_size

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w): tubelets, rows and columns of the encoder's tokens, which come in this raster order."""
        return self.clip_shape.token_grid


__all__ = ["EXPRESSIONS", "MTCAEConfig", "TaskDescription", "paper_tasks"]
