"""What a user without this package does with a saved model. Run by test_auto_classes in a process of its own.

Arguments: source (folder or Hub id), repository root, working folder that holds expected.pt and clip.mp4. If it has a
kinds.pt too, the models saved in its folder kinds are looked at as well.
Prints one line of JSON: what every check found wrong, None where nothing.
"""

import importlib.abc
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path


class PackageIsNotInstalled(importlib.abc.MetaPathFinder):
    """Makes `import mtcae_dfer` fail, as on a machine that only has transformers."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.split(".")[0] == "mtcae_dfer":
            raise ModuleNotFoundError(f"{fullname} is not installed")


sys.meta_path.insert(0, PackageIsNotInstalled())

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
    pipeline,
)

SOURCE, ROOT, WORK = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
EXPECTED = torch.load(WORK / "expected.pt")
KINDS = torch.load(WORK / "kinds.pt") if (WORK / "kinds.pt").is_file() else {}
CLIP = str(WORK / "clip.mp4")
TRUST = {"trust_remote_code": True}


def check_config() -> None:
    config = AutoConfig.from_pretrained(SOURCE, **TRUST)
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    assert config.model_type == "mtcae" and config.num_frames == 4
    assert config.to_json_string() == EXPECTED["config"]


def check_models() -> None:
    for auto_class in (AutoModel, AutoModelForVideoClassification):
        model = auto_class.from_pretrained(SOURCE, **TRUST)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        assert_predicts_the_same(model)


def check_processors() -> None:
    for auto_class in (AutoVideoProcessor, AutoProcessor):
        processor = auto_class.from_pretrained(SOURCE, **TRUST)
        assert type(processor).__module__.startswith("transformers_modules."), type(processor)
        assert torch.equal(processor(CLIP)["pixel_values"], EXPECTED["pixel_values"])


def check_pipeline() -> None:
    classify = pipeline("video-classification", model=SOURCE, **TRUST)
    best = classify(CLIP, top_k=3)
    scores = EXPECTED["logits"][0].softmax(-1)
    order = scores.argsort(descending=True)[:3].tolist()
    assert [entry["label"] for entry in best] == [EXPECTED["names"][index] for index in order]
    torch.testing.assert_close(torch.tensor([entry["score"] for entry in best]), scores[order])


def check_timeline() -> None:
    for task in (None, "facial-expression-timeline"):
        timeline = pipeline(task, model=SOURCE, **TRUST)
        assert type(timeline).__module__.startswith("transformers_modules."), type(timeline)
        assert timeline.task == "facial-expression-timeline"
        assert timeline(CLIP)["people"] == []


def check_number_of_classes_can_change() -> None:
    names = {0: "calm", 1: "angry"}
    labels = {"id2label": names, "label2id": {"calm": 0, "angry": 1}}
    model = AutoModelForVideoClassification.from_pretrained(SOURCE, **labels, ignore_mismatched_sizes=True, **TRUST)
    assert model(EXPECTED["pixel_values"]).logits.shape == (1, 2)
    assert model.config.expression_task.output_shape == [2]


def check_saving_again() -> None:
    folder = WORK / "again"
    AutoModel.from_pretrained(SOURCE, **TRUST).save_pretrained(folder)
    AutoVideoProcessor.from_pretrained(SOURCE, **TRUST).save_pretrained(folder)
    for name in ("config.json", "video_preprocessor_config.json"):
        entries = json.loads((folder / name).read_text())["auto_map"]
        assert "--" not in json.dumps(entries), f"{name} points at another repository: {entries}"
    missing = [name for name in EXPECTED["files"] if not (folder / name).is_file()]
    assert not missing, missing
    for auto_class in (AutoModel, AutoModelForVideoClassification):
        assert_predicts_the_same(auto_class.from_pretrained(folder, **TRUST))
    assert torch.equal(AutoProcessor.from_pretrained(folder, **TRUST)(CLIP)["pixel_values"], EXPECTED["pixel_values"])
    assert pipeline(model=str(folder), **TRUST)(CLIP)["people"] == []


def check_root_of_the_repository() -> None:
    config = AutoConfig.from_pretrained(ROOT, **TRUST)
    assert config.to_json_string() == EXPECTED["root_config"]
    for auto_class in (AutoModel, AutoModelForVideoClassification):
        with torch.no_grad():
            logits = auto_class.from_pretrained(ROOT, **TRUST).eval()(EXPECTED["root_clip"]).logits
        torch.testing.assert_close(logits, EXPECTED["root_logits"])
    for auto_class in (AutoVideoProcessor, AutoProcessor):
        processor = auto_class.from_pretrained(ROOT, **TRUST)
        assert processor(CLIP)["pixel_values"].shape == EXPECTED["root_clip"].shape


def check_the_package_was_not_used() -> None:
    assert not [name for name in sys.modules if name.split(".")[0] == "mtcae_dfer"]
    try:
        import mtcae_dfer  # noqa: F401
    except ModuleNotFoundError:
        return
    raise AssertionError("the package could be imported")


def assert_predicts_the_same(model: torch.nn.Module) -> None:
    with torch.no_grad():
        output = model.eval()(EXPECTED["pixel_values"])
    for name in ("logits", "face_boxes", "face_landmarks"):
        torch.testing.assert_close(output[name], EXPECTED[name])


CHECKS = {name: value for name, value in list(globals().items()) if name.startswith("check_")}


def assert_kind_gives_the_same(name: str) -> None:
    auto_class, inputs, field, values = KINDS[name]
    model = getattr(transformers, auto_class).from_pretrained(WORK / "kinds" / name, **TRUST).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        torch.testing.assert_close(getattr(model(*inputs), field), values)


def assert_pre_trained_weights_go_into_a_cascade() -> None:
    folder = WORK / "kinds" / "lgi_former_pre_training"
    encoder = AutoModel.from_pretrained(folder, **TRUST)
    assert type(encoder).__name__ == "LGIFormerModel"
    cascade = AutoModel.from_pretrained(WORK / "kinds" / "lgi_former_cascade", **TRUST)
    started = type(cascade).from_encoder_pretrained(folder, decoder_num_layers=1)
    for name, value in encoder.state_dict().items():
        assert torch.equal(started.encoder.state_dict()[name], value), name
    started.save_pretrained(WORK / "started")
    again = AutoModel.from_pretrained(WORK / "started", **TRUST)
    assert again.config.encoder_config.region_size == [2, 2, 2]


def assert_a_processor_alone_loads() -> None:
    for auto_class in (AutoVideoProcessor, AutoProcessor):
        processor = auto_class.from_pretrained(WORK / "saved-processor.v1", **TRUST)
        assert type(processor).__name__ == "MTCAEVideoProcessor"
        assert processor(CLIP)["pixel_values"].shape == (1, 4, 3, 224, 224)


if KINDS:
    CHECKS |= {name: partial(assert_kind_gives_the_same, name) for name in KINDS}
    CHECKS["pre_trained_weights_go_into_a_cascade"] = assert_pre_trained_weights_go_into_a_cascade
    CHECKS["a_processor_alone_loads"] = assert_a_processor_alone_loads
    CHECKS[check_the_package_was_not_used.__name__] = CHECKS.pop(check_the_package_was_not_used.__name__)  # the last


def find_fault(check: Callable[[], None]) -> str | None:
    """The traceback of a failed check; the test that asked for it raises it again."""
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: find_fault(check) for name, check in CHECKS.items()}))
