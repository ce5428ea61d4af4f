"""Multi-task cascaded autoencoders for dynamic facial expression recognition, as transformers models.

Importing the package registers its classes with the Auto* classes, so that `AutoModel.from_pretrained(FOLDER)` works
without `trust_remote_code` wherever the package is installed.
"""

# The root of the checkout is the package, and pytest imports it once more under the folder's own name.
# The guard keeps that second import from defining every class twice.
if __name__ == "mtcae_dfer":
    import logging

    # transformers imports torchao where it is installed; torch then prints what the authors of torchao must change.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForPreTraining,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
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

    AutoConfig.register("mtcae", MTCAEConfig, exist_ok=True)
    AutoModel.register(MTCAEConfig, MTCAEForMultiTaskVideo, exist_ok=True)
    AutoModelForVideoClassification.register(MTCAEConfig, MTCAEForMultiTaskVideo, exist_ok=True)
    AutoVideoProcessor.register(MTCAEConfig, MTCAEVideoProcessor, exist_ok=True)

    AutoConfig.register("lgi_former", LGIFormerConfig, exist_ok=True)
    AutoModel.register(LGIFormerConfig, LGIFormerModel, exist_ok=True)
    AutoModelForVideoClassification.register(LGIFormerConfig, LGIFormerForVideoClassification, exist_ok=True)
    AutoModelForPreTraining.register(LGIFormerConfig, LGIFormerForPreTraining, exist_ok=True)

    AutoConfig.register("tpsbt", TPSBTConfig, exist_ok=True)
    AutoModel.register(TPSBTConfig, TPSBTModel, exist_ok=True)
    AutoModelForVideoClassification.register(TPSBTConfig, TPSBTForVideoClassification, exist_ok=True)

    AutoConfig.register("mtl_er", MTLERConfig, exist_ok=True)
    AutoModel.register(MTLERConfig, MTLERForAffectiveBehavior, exist_ok=True)

    AutoConfig.register("resnext3d", ResNeXt3DConfig, exist_ok=True)
    AutoModel.register(ResNeXt3DConfig, ResNeXt3DModel, exist_ok=True)

    AutoConfig.register("vo_lstm", VOLSTMConfig, exist_ok=True)
    AutoModel.register(VOLSTMConfig, VOLSTMModel, exist_ok=True)

    AutoConfig.register("frame_backbone", FrameBackboneConfig, exist_ok=True)
    AutoModel.register(FrameBackboneConfig, FrameBackboneModel, exist_ok=True)

    # The name of the timeline works with any folder of such a model, without its copy of the module.
    PIPELINE_REGISTRY.register_pipeline(
        "facial-expression-timeline",
        pipeline_class=FacialExpressionTimelinePipeline,
        pt_model=AutoModelForVideoClassification,
        type="video",
    )

    # What is registered here is copied into every saved folder, which then loads where the package is not installed.
    MTCAEConfig.register_for_auto_class()
    MTCAEForMultiTaskVideo.register_for_auto_class("AutoModel")
    MTCAEVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    MTLERConfig.register_for_auto_class()
    MTLERForAffectiveBehavior.register_for_auto_class("AutoModel")
    LGIFormerConfig.register_for_auto_class()
    LGIFormerModel.register_for_auto_class("AutoModel")
    LGIFormerForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
    LGIFormerForPreTraining.register_for_auto_class("AutoModelForPreTraining")
    TPSBTConfig.register_for_auto_class()
    TPSBTModel.register_for_auto_class("AutoModel")
    TPSBTForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
    ResNeXt3DConfig.register_for_auto_class()
    ResNeXt3DModel.register_for_auto_class("AutoModel")
    VOLSTMConfig.register_for_auto_class()
    VOLSTMModel.register_for_auto_class("AutoModel")
    FrameBackboneConfig.register_for_auto_class()
    FrameBackboneModel.register_for_auto_class("AutoModel")

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
