"""One toy model of every kind that is saved with its code: encoders of one's own and of transformers, and wholes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from mtcae_dfer import (
    FrameBackboneConfig,
    FrameBackboneModel,
    LGIFormerConfig,
    LGIFormerForPreTraining,
    LGIFormerForVideoClassification,
    MTCAEConfig,
    MTCAEForMultiTaskVideo,
    MTLERConfig,
    MTLERForAffectiveBehavior,
    TPSBTConfig,
    TPSBTForVideoClassification,
)
from mtcae_dfer.masked_tubelets import stratified_tube_mask
from tests.support.image_models import describe_image_model
from tests.support.tiny_models import randomise
from tests.support.video_encoders import VIDEO_ENCODERS

DECODERS = {
    "decoder_hidden_size": 20,
    "decoder_num_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_head_dim": 8,
}
# Three regions along height and two along width and time: no axis may hide a mistake of another.
LGI_FORMER = {
    "image_size": [48, 32],
    "patch_size": 8,
    "num_frames": 8,
    "region_size": [2, 2, 2],
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "mask_ratio": 0.75,
    "num_labels": 5,
}
TPSBT = {
    "image_size": [24, 16],
    "patch_size": 8,
    "num_frames": 8,
    "hidden_size": 24,
    "stage_depths": [2, 3, 2],
    "num_bottleneck_tokens": 2,
    "bottleneck_hidden_size": 6,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_labels": 5,
}
MTL_ER = {
    "input_size": 12,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_layers": 2,
    "num_private_layers": 1,
    "head_sizes": [16, 16],
    "label_embedding_size": 16,
    "chunk_length": 6,
    "chunk_overlap": 2,
}


class Kind(NamedTuple):
    """A kind of model, and what is asked of it."""

    auto_class: str  # by which it loads
    model_class: type[PreTrainedModel]
    describe: Callable[[], object]  # -> its config
    input_shape: tuple[int, ...]
    output: str = "logits"  # the field that is compared

    def build(self) -> PreTrainedModel:
        """In evaluation mode, all weights random."""
        torch.manual_seed(0)
        return randomise(self.model_class(self.describe())).eval()

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Pixels or features; a model that is pre-trained gets a mask too."""
        values = torch.randn(self.input_shape, generator=torch.Generator().manual_seed(1))
        if self.model_class is not LGIFormerForPreTraining:
            return (values,)
        generator = torch.Generator().manual_seed(2)
        return values, stratified_tube_mask((4, 6, 4), (2, 2, 2), 0.75, len(values), generator)


def frame_backbone(model_type: str) -> FrameBackboneConfig:
    """The config of an image model at every frame, and one layer over time."""
    layers = {"num_temporal_layers": 1, "num_temporal_attention_heads": 2}
    return FrameBackboneConfig(backbone_config=describe_image_model(model_type), image_size=64, num_frames=3, **layers)


def cascade_over(encoder: dict | FrameBackboneConfig, input_shape: tuple[int, ...]) -> Kind:
    """The multi-task model over an encoder."""
    return Kind(
        "AutoModel", MTCAEForMultiTaskVideo, lambda: MTCAEConfig(encoder_config=encoder, **DECODERS), input_shape
    )


VIDEO, STILLS = (1, 4, 3, 64, 64), (1, 3, 3, 64, 64)
LGI_CLIPS, TPSBT_CLIPS = (2, 8, 3, 48, 32), (2, 8, 3, 24, 16)
CLASSIFIER = "AutoModelForVideoClassification"
KINDS = {
    **{name: cascade_over({"model_type": name, **sizes}, VIDEO) for name, sizes in VIDEO_ENCODERS.items()},
    "frame_backbone": Kind(
        "AutoModel", FrameBackboneModel, lambda: frame_backbone("dinov2"), STILLS, "last_hidden_state"
    ),
    **{f"{name}_cascade": cascade_over(frame_backbone(name), STILLS) for name in ("resnet", "vit")},
    "lgi_former": Kind(CLASSIFIER, LGIFormerForVideoClassification, lambda: LGIFormerConfig(**LGI_FORMER), LGI_CLIPS),
    "lgi_former_pre_training": Kind(
        "AutoModelForPreTraining", LGIFormerForPreTraining, lambda: LGIFormerConfig(**LGI_FORMER), LGI_CLIPS
    ),
    "lgi_former_cascade": cascade_over({"model_type": "lgi_former", **LGI_FORMER}, LGI_CLIPS),
    "mtl_er": Kind("AutoModel", MTLERForAffectiveBehavior, lambda: MTLERConfig(**MTL_ER), (2, 9, 12), "arousal"),
    "tpsbt": Kind(CLASSIFIER, TPSBTForVideoClassification, lambda: TPSBTConfig(**TPSBT), TPSBT_CLIPS),
    "tpsbt_cascade": cascade_over({"model_type": "tpsbt", **TPSBT}, TPSBT_CLIPS),
}
