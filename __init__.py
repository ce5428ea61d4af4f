"""Multi-task cascaded autoencoders for dynamic facial expression recognition, as transformers models.

Importing the package registers its classes with the Auto* classes, so that `AutoModel.from_pretrained(FOLDER)` works
without `trust_remote_code` wherever the package is installed.
"""

# The root of the checkout is the package, and pytest imports it once more under the folder's own name.
# The guard keeps that second import from defining every class twice.
if __name__ == "mtcae_dfer":
    import logging
    from typing import Any

    # transformers imports torchao where it is installed; torch then prints what the authors of torchao must change.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForPreTraining,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
        PreTrainedConfig,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_frame_backbone import FrameBackboneConfig
    from .configuration_lgi_former import LGIFormerConfig
    from .configuration_mtcae import MTCAEConfig, TaskDescription, paper_tasks
    from .configuration_mtl_er import MTLERConfig
    from .configuration_resnext3d import ResNeXt3DConfig
    from .configuration_tpsbt import TPSBTConfig
    from .configuration_vo_lstm import VOLSTMConfig
    from .modeling_frame_backbone import FrameBackboneModel
    from .modeling_lgi_former import LGIFormerForPreTraining, LGIFormerForVideoClassification, LGIFormerModel
    from .modeling_mtcae import MTCAEForMultiTaskVideo, MTCAEMultiTaskOutput
    from .modeling_mtl_er import MTLERForAffectiveBehavior, MTLEROutput, MTLERPrediction
    from .modeling_resnext3d import ResNeXt3DModel
    from .modeling_tpsbt import TPSBTForVideoClassification, TPSBTModel
    from .modeling_vo_lstm import VOLSTMModel
    from .pipeline_mtcae import FacialExpressionTimelinePipeline
    from .processing_mtcae import MTCAEVideoProcessor

    # Which Auto* classes answer to a config, and with what. The first of them is the one that a saved folder names.
    AUTO_CLASSES: dict[type[PreTrainedConfig], dict[Any, Any]] = {
        MTCAEConfig: {
            AutoModel: MTCAEForMultiTaskVideo,
            AutoModelForVideoClassification: MTCAEForMultiTaskVideo,
            AutoVideoProcessor: MTCAEVideoProcessor,
        },
        LGIFormerConfig: {
            AutoModel: LGIFormerModel,
            AutoModelForVideoClassification: LGIFormerForVideoClassification,
            AutoModelForPreTraining: LGIFormerForPreTraining,
        },
        TPSBTConfig: {
            AutoModel: TPSBTModel,
            AutoModelForVideoClassification: TPSBTForVideoClassification,
        },
        MTLERConfig: {AutoModel: MTLERForAffectiveBehavior},
        ResNeXt3DConfig: {AutoModel: ResNeXt3DModel},
        VOLSTMConfig: {AutoModel: VOLSTMModel},
        FrameBackboneConfig: {AutoModel: FrameBackboneModel},
    }
    for config_class, answers in AUTO_CLASSES.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()
        for auto_class, answer in answers.items():
            auto_class.register(config_class, answer, exist_ok=True)
            # The code of what is registered so is copied into every saved folder, which then loads where the package is
            # not installed.
            if answer._auto_class is None:
                answer.register_for_auto_class(auto_class.__name__)

    # The name of the timeline works with any folder of such a model, without its copy of the module.
    PIPELINE_REGISTRY.register_pipeline(
        "facial-expression-timeline",
        pipeline_class=FacialExpressionTimelinePipeline,
        pt_model=AutoModelForVideoClassification,
        type="video",
    )

    __all__ = [
        "FrameBackboneConfig",
        "FrameBackboneModel",
        "LGIFormerConfig",
        "LGIFormerForPreTraining",
        "LGIFormerForVideoClassification",
        "LGIFormerModel",
        "MTCAEConfig",
        "MTCAEForMultiTaskVideo",
        "MTCAEMultiTaskOutput",
        "MTCAEVideoProcessor",
        "ResNeXt3DConfig",
        "ResNeXt3DModel",
        "MTLERConfig",
        "MTLERForAffectiveBehavior",
        "MTLEROutput",
        "MTLERPrediction",
        "TPSBTConfig",
        "TPSBTForVideoClassification",
        "TPSBTModel",
        "TaskDescription",
        "VOLSTMConfig",
        "VOLSTMModel",
        "paper_tasks",
    ]
