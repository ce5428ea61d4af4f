"""transformers' own common tests of models, configs and video processors, over the classes of this repository.

Their files come with the source distribution of a release, and with no wheel:

    pip download --no-binary :all: --no-deps transformers==VERSION && tar xzf transformers-VERSION.tar.gz
    pip install parameterized
    TRANSFORMERS_TESTS=transformers-VERSION/tests pytest tests/root/test_transformers_common.py

Without them the tests are skipped. `UNFIT` says which of them do not apply, and why.
"""

import copy
import importlib.util
import inspect
import json
import os
import sys
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from mtcae_dfer import (
    FrameBackboneConfig,
    FrameBackboneModel,
    LGIFormerConfig,
    LGIFormerForPreTraining,
    LGIFormerForVideoClassification,
    LGIFormerModel,
    MTCAEConfig,
    MTCAEForMultiTaskVideo,
    MTCAEVideoProcessor,
    MTLERConfig,
    MTLERForAffectiveBehavior,
    ResNeXt3DConfig,
    ResNeXt3DModel,
    TPSBTConfig,
    TPSBTForVideoClassification,
    TPSBTModel,
    VOLSTMConfig,
    VOLSTMModel,
)
from mtcae_dfer.masked_tubelets import stratified_tube_mask
from tests.support.image_models import describe_image_model
from tests.support.tiny_models import ENCODER, random_labels

FOLDER = os.environ.get("TRANSFORMERS_TESTS")
PACKAGE = "transformers_own_tests"
pytestmark = pytest.mark.filterwarnings("ignore")
# What the files import of others that no source distribution holds: tests of export and of generation, and fields that
# every config takes.
NOT_DISTRIBUTED: dict[str, dict[str, Any]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {"output_hidden_states": True, "chunk_size_feed_forward": 5, "dtype": "float16"}
    },
}


def why_not() -> str | None:
    """Why the tests cannot run here; None where they can."""
    if FOLDER is None:
        return "transformers' own tests are not here: set TRANSFORMERS_TESTS to the `tests` of its source distribution"
    if not (Path(FOLDER) / "test_modeling_common.py").is_file():
        return f"TRANSFORMERS_TESTS={FOLDER}: holds no test_modeling_common.py"
    description = Path(FOLDER).parent / "PKG-INFO"
    if f"\nVersion: {transformers.__version__}\n" not in description.read_text(encoding="utf-8"):
        return f"{description} is not of the installed transformers {transformers.__version__}"
    if importlib.util.find_spec("parameterized") is None:
        return "transformers' own tests need the package parameterized: pip install parameterized"
    return None


def read_tests(name: str) -> ModuleType:
    """One of the files, as a module of a package of its own."""
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER)]
        sys.modules[PACKAGE] = package
        for absent, content in NOT_DISTRIBUTED.items():
            above = f"{PACKAGE}.{absent.split('.')[0]}"
            sys.modules[above] = ModuleType(above)
            sys.modules[above].__path__ = []
            sys.modules[f"{PACKAGE}.{absent}"] = ModuleType(f"{PACKAGE}.{absent}")
            vars(sys.modules[f"{PACKAGE}.{absent}"]).update(content)
    with pytest.MonkeyPatch.context() as patch:
        # One of the files imports transformers once more, from the folder around the tests.
        patch.setattr("transformers.utils.direct_transformers_import", lambda folder: transformers)
        return importlib.import_module(f"{PACKAGE}.{name}")


@dataclass
class Family:
    """Model classes that share a config, and their input."""

    classes: tuple[type, ...]
    make_config: Callable[[], Any]
    inputs: dict[str, torch.Tensor]
    inputs_of: dict[type, dict[str, torch.Tensor]] = field(default_factory=dict)  # further ones of a class
    labels: dict[type, dict[str, torch.Tensor]] = field(default_factory=dict)  # what gives a class a loss
    tester: dict[str, int] = field(default_factory=dict)  # layers, tokens, width and heads, as the tests call them
    attributes: dict[str, Any] = field(default_factory=dict)  # of the test class
    common_properties: tuple[str, ...] = ("hidden_size", "num_attention_heads")


def pixels(frames: int, height: int, width: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(0))}


CLASS_LABELS = {"labels": torch.tensor([0, 1])}
SIZES = {"image_size": [48, 32], "patch_size": 8, "num_frames": 8, "hidden_size": 24, "num_attention_heads": 3}
VIDEO_ENCODER = ENCODER | {"num_hidden_layers": 2}
FRAME_ENCODER = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
DECODERS = {"decoder_hidden_size": 20, "decoder_num_layers": 2, "decoder_num_attention_heads": 2}
FAMILIES = {
    "mtcae": Family(
        (MTCAEForMultiTaskVideo,),
        lambda: MTCAEConfig(encoder_config=dict(VIDEO_ENCODER), **DECODERS),
        pixels(4, 32, 32),
        labels={MTCAEForMultiTaskVideo: random_labels()},
        tester={"num_hidden_layers": 2, "seq_length": 8, "hidden_size": 24, "num_attention_heads": 2},
        common_properties=("hidden_size", "num_frames", "image_size"),
    ),
    "lgi_former": Family(
        (LGIFormerModel, LGIFormerForVideoClassification, LGIFormerForPreTraining),
        lambda: LGIFormerConfig(
            **SIZES,
            region_size=[2, 2, 2],
            num_hidden_layers=2,
            intermediate_size=40,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
        ),
        pixels(8, 48, 32),
        inputs_of={
            LGIFormerForPreTraining: {
                "bool_masked_pos": stratified_tube_mask((4, 6, 4), (2, 2, 2), 0.75, 2, torch.Generator().manual_seed(2))
            }
        },
        labels={LGIFormerForVideoClassification: CLASS_LABELS},
        tester={"num_hidden_layers": 2, "seq_length": 96, "hidden_size": 24, "num_attention_heads": 3},
        common_properties=("hidden_size", "num_attention_heads", "num_hidden_layers"),
    ),
    "tpsbt": Family(
        (TPSBTModel, TPSBTForVideoClassification),
        lambda: TPSBTConfig(
            **SIZES, stage_depths=[1, 1], num_bottleneck_tokens=2, bottleneck_hidden_size=6, intermediate_size=40
        ),
        pixels(8, 48, 32),
        labels={TPSBTForVideoClassification: CLASS_LABELS},
    ),
    "resnext3d": Family(
        (ResNeXt3DModel,),
        lambda: ResNeXt3DConfig(
            image_size=32, num_frames=4, stem_channels=8, stage_depths=[1, 1], stage_widths=[8, 16], groups=4
        ),
        pixels(4, 32, 32),
        attributes={"has_attentions": False},
        common_properties=("hidden_size",),
    ),
    "vo_lstm": Family(
        (VOLSTMModel,),
        lambda: VOLSTMConfig(image_size=32, num_frames=4, hidden_size=16, frame_encoder_config=dict(FRAME_ENCODER)),
        pixels(4, 32, 32),
        attributes={"has_attentions": False},
        common_properties=("hidden_size",),
    ),
    "frame_backbone": Family(
        (FrameBackboneModel,),
        lambda: FrameBackboneConfig(
            backbone_config=describe_image_model("vit", image_size=32),
            image_size=32,
            num_frames=4,
            num_temporal_layers=2,
            num_temporal_attention_heads=2,
        ),
        pixels(4, 32, 32),
        tester={"num_hidden_layers": 2, "seq_length": 16, "hidden_size": 32, "num_attention_heads": 2},
        common_properties=("hidden_size", "num_frames"),
    ),
    "mtl_er": Family(
        (MTLERForAffectiveBehavior,),
        lambda: MTLERConfig(
            input_size=12,
            hidden_size=32,
            num_attention_heads=2,
            intermediate_size=32,
            num_layers=2,
            num_private_layers=1,
            head_sizes=[16, 16],
            chunk_length=6,
            chunk_overlap=2,
        ),
        {"features": torch.rand(2, 6, 12, generator=torch.Generator().manual_seed(0))},
        labels={MTLERForAffectiveBehavior: {"valence": torch.zeros(2, 6)}},
        attributes={"has_attentions": False},
    ),
}

# Tests that do not apply, by family ("": all) and name, with the reason.
NO_TABLE = "pictures and features come in without a table of embeddings"
OWN_NAMES = "files hold the names of the modules on purpose: Trainer, accelerate and load_state_dict know no others"
OWN_SHAPES = "the shapes differ from layer to layer, as the class tells"
NO_STATES = "reads features of frames, and records neither hidden states nor attentions"
UNFIT = {
    ("", "test_model_get_set_embeddings"): NO_TABLE,
    ("mtcae", "test_reverse_loading_mapping"): OWN_NAMES,
    ("frame_backbone", "test_reverse_loading_mapping"): OWN_NAMES,
    (
        "frame_backbone",
        "test_attention_outputs",
    ): "attends over the frames at every place: (heads, T, T)",
    ("frame_backbone", "test_init_weights_can_init_buffers"): "weights that nobody reads are buffers, and random",
    ("lgi_former", "test_attention_outputs"): "attends within regions and between their representatives; " + OWN_SHAPES,
    ("tpsbt", "test_attention_outputs"): OWN_SHAPES,
    ("tpsbt", "test_hidden_states_output"): OWN_SHAPES,
    ("resnext3d", "test_hidden_states_output"): OWN_SHAPES,
    ("vo_lstm", "test_hidden_states_output"): "has two states, the frames' vectors and the recurrent layer's",
    ("mtl_er", "test_hidden_states_output"): NO_STATES,
    ("mtl_er", "test_model_outputs_equivalence"): NO_STATES,
    ("mtl_er", "test_retain_grad_hidden_states_attentions"): NO_STATES,
    ("video_processor", "test_call_sample_frames"): "frames are spread over the whole clip; a rate (fps) is refused",
    ("video_processor", "test_video_processor_from_dict_with_kwargs"): "a size is a height and a width, not an edge",
}
# Tests that ask for a loss, that draw a mask with another number of tokens in every region, or that look for the states
# of all tokens: some classes of a family only.
TRAINING, RANDOM_MASKS, ALL_TOKENS = "test_training", "test_eager_matches_sdpa_inference", "test_hidden_states_output"
# Tests that ask for attention weights, which the SDPA kernels do not keep.
WITH_WEIGHTS = ("test_model_outputs_equivalence", "test_capture_outputs_decorator")


class ModelTester:
    """What the common tests ask for a config and inputs."""

    batch_size, is_training = 2, True

    def __init__(self, family: Family, test: str) -> None:
        self.family, self.test = family, test
        vars(self).update(family.tester)

    def get_config(self) -> Any:
        config = self.family.make_config()
        if self.test.startswith(WITH_WEIGHTS) and self.family.attributes.get("has_attentions", True):
            config._attn_implementation = "eager"
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        return self.get_config(), copy.deepcopy(self.family.inputs)


def takes_a_mask(model_class: Any) -> bool:
    """Whether `forward` takes the mask of pre-training."""
    return "bool_masked_pos" in inspect.signature(model_class.forward).parameters


def make_model_tests(name: str, family: Family) -> type:
    """The common tests of a family's models and config, as a class that pytest runs."""
    mixin = read_tests("test_modeling_common").ModelTesterMixin
    config_tester = read_tests("test_configuration_common").ConfigTester

    def set_up(self: Any) -> None:
        reason = UNFIT.get((name, self._testMethodName)) or UNFIT.get(("", self._testMethodName))
        if reason is not None:
            self.skipTest(reason)
        self.model_tester = ModelTester(family, self._testMethodName)
        if self._testMethodName.startswith(TRAINING):
            self.all_model_classes = tuple(each for each in family.classes if each in family.labels)
        elif self._testMethodName.startswith(RANDOM_MASKS):
            self.all_model_classes = tuple(each for each in family.classes if not takes_a_mask(each))
        elif self._testMethodName == ALL_TOKENS:
            self.all_model_classes = tuple(each for each in family.classes if each not in family.inputs_of)

    def prepare(self: Any, inputs: dict[str, Any], model_class: type, return_labels: bool = False) -> dict[str, Any]:
        prepared = copy.deepcopy(inputs) | family.inputs_of.get(model_class, {})
        return prepared | (copy.deepcopy(family.labels.get(model_class, {})) if return_labels else {})

    def test_config(self: Any) -> None:
        given = family.make_config()
        whole = json.loads(given.to_json_string(use_diff=False))
        own = given.to_diff_dict().keys() & type(given).__dataclass_fields__.keys() - {"transformers_version"}
        fields = {key: whole[key] for key in own}
        tester = config_tester(
            self, type(given), has_text_modality=False, common_properties=list(family.common_properties), **fields
        )
        tester.run_common_tests()

    content = {
        "setUp": set_up,
        "_prepare_for_class": prepare,
        "test_config": test_config,
        "all_model_classes": family.classes,
    }
    content |= {"test_resize_embeddings": False} | family.attributes
    return type(f"Common_{name}", (mixin, unittest.TestCase), content)


def make_processor_tests() -> type:
    """The common tests of the video processor."""
    common = read_tests("test_video_processing_common")

    class VideoProcessorTester:
        batch_size, num_frames, num_channels, min_resolution, max_resolution = 3, 5, 3, 30, 60

        def prepare_video_processor_dict(self) -> dict[str, Any]:
            return {"size": {"height": 20, "width": 20}, "num_frames": 4, "do_sample_frames": False}

        def expected_output_video_shape(self, videos: Any) -> list[int]:
            return [self.num_frames, self.num_channels, 20, 20]

        def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> Any:
            sizes = (self.num_frames, self.num_channels, self.min_resolution, self.max_resolution)
            return common.prepare_video_inputs(
                self.batch_size, *sizes, equal_resolution=equal_resolution, return_tensors=return_tensors
            )

    def set_up(self: Any) -> None:
        common.VideoProcessingTestMixin.setUp(self)
        reason = UNFIT.get(("video_processor", self._testMethodName))
        if reason is not None:
            self.skipTest(reason)
        self.video_processor_tester = VideoProcessorTester()

    content = {
        "fast_video_processing_class": MTCAEVideoProcessor,
        "input_name": "pixel_values",
        "setUp": set_up,
        "video_processor_dict": property(lambda self: self.video_processor_tester.prepare_video_processor_dict()),
    }
    return type("Common_video_processor", (common.VideoProcessingTestMixin, unittest.TestCase), content)


if why_not() is None:
    for _name, _family in FAMILIES.items():
        globals()[f"Common_{_name}"] = make_model_tests(_name, _family)
    Common_video_processor = make_processor_tests()
else:

    def test_transformers_own_tests() -> None:
        pytest.skip(str(why_not()))
