"""`mtcae export`: one graph whose outputs are the model's, and a program that runs it without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mtcae_dfer import MTCAEVideoProcessor
from mtcae_dfer.commands.command_line import main
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import load_model
from mtcae_dfer.release import export
from mtcae_dfer.release.export import ExportError, export_model, open_onnx, open_torch_export
from tests.support.kinds_of_models import KINDS
from tests.support.tiny_models import CLASSES, EXPRESSION_TASK, FRAMES, SIDE, random_clips, tiny_model
from tests.support.video_files import rotate_track, write_video

OPENERS = {"onnx": (open_onnx, "model.onnx"), "torch-export": (open_torch_export, "model.pt2")}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of toy size with random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save_pretrained(folder)
    MTCAEVideoProcessor(num_frames=FRAMES, size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exports(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every format and precision."""
    folder = tmp_path_factory.mktemp("exports")
    for format in export.FORMATS:
        for dtype in export.DTYPES:
            export_model(str(model_folder), folder / f"{format}-{dtype}", format, dtype)
    return {(format, dtype): folder / f"{format}-{dtype}" for format in export.FORMATS for dtype in export.DTYPES}


def run_graph(folder: Path, format: str, clips: torch.Tensor) -> dict[str, np.ndarray]:
    """Outputs of an exported graph by task."""
    opener, file = OPENERS[format]
    return dict(zip(("face_box", "face_landmarks", "expression"), opener(folder / file)(clips.numpy()), strict=True))


@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_graph_gives_the_models_outputs_for_any_number_of_clips(
    exports: dict, model_folder: Path, format: str, batch: int
) -> None:
    model, _ = load_model(str(model_folder))
    clips = random_clips(batch, seed=batch)
    with torch.no_grad():
        expected = model(clips)
    outputs = run_graph(exports[format, "fp32"], format, clips)
    assert outputs["expression"].shape == (batch, CLASSES)
    np.testing.assert_allclose(outputs["expression"], expected.logits, atol=1e-4)
    np.testing.assert_allclose(outputs["face_box"], expected.face_boxes, atol=1e-4)
    np.testing.assert_allclose(outputs["face_landmarks"], expected.face_landmarks, atol=1e-4)


@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize(("dtype", "share"), [("fp16", 0.01), ("int8", 0.1)])
def test_fewer_bits_change_the_outputs_by_a_small_share(
    exports: dict, model_folder: Path, format: str, dtype: str, share: float
) -> None:
    model, _ = load_model(str(model_folder))
    clips = random_clips(8)
    with torch.no_grad():
        expected = model(clips).logits.numpy()
    outputs = run_graph(exports[format, dtype], format, clips)
    assert outputs["expression"].dtype == np.float32
    error = np.abs(outputs["expression"] - expected).mean()
    assert 0 < error < share * np.abs(expected).mean()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_heat_maps_and_attention_pooling_are_exported(tmp_path: Path, dtype: str) -> None:
    tasks = [task | {"pooling": "heat_map"} for task in tiny_model().config.tasks[:2]]
    tasks.append(EXPRESSION_TASK | {"pooling": "attention"})
    model = tiny_model(tasks=tasks)
    model.save_pretrained(tmp_path / "model")
    MTCAEVideoProcessor(num_frames=FRAMES, size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "model")
    export_model(str(tmp_path / "model"), tmp_path / "graph", "onnx", dtype)
    with torch.no_grad():
        expected = model(random_clips())
    outputs = run_graph(tmp_path / "graph", "onnx", random_clips())
    tolerance = 1e-4 if dtype == "fp32" else 0.1
    np.testing.assert_allclose(outputs["face_box"], expected.face_boxes, atol=tolerance)
    np.testing.assert_allclose(outputs["face_landmarks"], expected.face_landmarks, atol=tolerance)


@pytest.mark.parametrize("kind", ["resnet_cascade", "timesformer", "vit_cascade", "vjepa2"])
@torch.no_grad()
def test_every_kind_of_encoder_is_exported(kind: str, tmp_path: Path) -> None:
    model, (clips,) = KINDS[kind].build(), KINDS[kind].inputs()
    _, num_frames, _, height, width = clips.shape
    model.save_pretrained(tmp_path / "model")
    processor = MTCAEVideoProcessor(size={"height": height, "width": width}, num_frames=num_frames)
    processor.save_pretrained(tmp_path / "model")
    export_model(str(tmp_path / "model"), tmp_path / "graph")
    outputs = open_onnx(tmp_path / "graph" / "model.onnx")(clips.numpy())
    expected = model(clips).task_outputs
    for actual, name in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(actual), expected[name], atol=1e-4, rtol=1e-4)


def test_weights_really_take_fewer_bits(exports: dict) -> None:
    import onnx

    kinds = {
        dtype: {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in onnx.load(path).graph.initializer}
        for dtype in export.DTYPES
        for path in [exports["onnx", dtype] / "model.onnx"]
    }
    assert "FLOAT16" in kinds["fp16"] and "INT8" in kinds["int8"]
    assert not kinds["fp32"] & {"FLOAT16", "INT8"}


def test_eight_bit_products_cannot_saturate_on_any_processor(exports: dict) -> None:
    """Without VNNI, two products of an unsigned activation and a signed weight are added in 16 bits."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(exports["onnx", "int8"] / "model.onnx").graph
    weights = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    weights = [weight.astype(int) for weight in weights if weight.dtype == np.int8 and weight.ndim == 2]
    assert weights
    assert all(2 * 255 * np.abs(weight).max() <= np.iinfo(np.int16).max for weight in weights)


def test_the_description_tells_how_to_use_the_graph(exports: dict) -> None:
    description = json.loads((exports["onnx", "fp32"] / "export.json").read_text())
    assert (description["num_frames"], description["height"], description["width"]) == (FRAMES, SIDE, SIDE)
    assert [output["name"] for output in description["outputs"]] == ["face_box", "face_landmarks", "expression"]
    assert description["expressions"][:2] == ["neutral", "happiness"]
    assert all(difference <= 1e-4 for difference in description["largest_difference"].values())


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_example_program_sees_what_the_processor_sees(
    exports: dict, model_folder: Path, tmp_path: Path, rotation: int
) -> None:
    """Without PyTorch, in a process where it cannot be imported; upright whatever the file's rotation."""
    ramp = np.add.outer(np.arange(48), np.arange(80)) * 2
    frames = [np.stack([(ramp + 3 * t) % 256, ramp % 256, ramp // 2], -1).astype(np.uint8) for t in range(10)]
    video = write_video(tmp_path / "clip.mp4", frames)
    if rotation:
        rotate_track(video, rotation)
    folder = exports["onnx", "fp32"]
    program = (
        "import sys, json; sys.modules['torch'] = None; sys.modules['transformers'] = None; "
        "sys.path.insert(0, sys.argv[1]); import onnx_inference; print(json.dumps(onnx_inference.predict(sys.argv[2])))"
    )
    words = [sys.executable, "-c", program, str(folder), str(video)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    expected = predict_file(str(video), *load_model(str(model_folder)))
    assert result["expression"] == pytest.approx(expected["expression"], abs=0.02)
    np.testing.assert_allclose(result["face_boxes"], expected["face_boxes"], atol=0.02 * 80)


def test_bad_input_is_one_line_and_leaves_nothing(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    taken, missing = tmp_path / "taken", tmp_path / "no" / "where"
    taken.mkdir()
    for words, told in (
        (["export", str(model_folder), str(taken)], "exists already"),
        (["export", str(model_folder), str(missing)], "does not exist; create it first"),
        (["export", str(tmp_path), str(tmp_path / "out")], "holds no weights"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line
    assert list(tmp_path.iterdir()) == [taken]


def test_a_missing_package_is_named_with_its_remedy(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"needs the package onnxruntime: install it with .*\[export\]"):
        export_model(str(model_folder), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_from_the_model_is_not_written(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(file: Path):
        run = open_onnx(file)
        return lambda clips: [output + 0.01 for output in run(clips)]

    monkeypatch.setitem(export.RUNNERS, "onnx", shifted)
    with pytest.raises(ExportError, match="face_box of the exported graph differs from PyTorch by 1.0e-02"):
        export_model(str(model_folder), tmp_path / "out")
    assert not list(tmp_path.iterdir())
