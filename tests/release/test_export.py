"""`mtcae export`: one graph whose outputs are the model's, and a program that runs it without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mtcae_dfer import MTCAEVideoProcessor, processing_mtcae
from mtcae_dfer.commands.command_line import main
from mtcae_dfer.face_crop import face_crop
from mtcae_dfer.inference.clips import predict_file
from mtcae_dfer.inference.models import load_model
from mtcae_dfer.people_tracking import ClipPerson
from mtcae_dfer.release import export, onnx_inference
from mtcae_dfer.release.export import (
    ExportDescription,
    ExportError,
    describe_export,
    export_model,
    open_onnx,
    open_torch_export,
)
from tests.support.kinds_of_models import KINDS
from tests.support.tiny_models import CLASSES, EXPRESSION_TASK, FRAMES, SIDE, random_clips, tiny_model
from tests.support.video_files import rotate_track, write_lossless_video, write_video

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


@pytest.fixture(scope="module")
def cropping_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose processor crops to the face, and its ONNX graph."""
    folder = tmp_path_factory.mktemp("cropping")
    tiny_model().save_pretrained(folder / "model")
    MTCAEVideoProcessor(
        num_frames=FRAMES,
        size={"height": SIDE, "width": SIDE},
        do_face_crop=True,
        face_crop_margin=0.3,
        face_crop_rise=0.1,
    ).save_pretrained(folder / "model")
    export_model(str(folder / "model"), folder / "graph")
    return folder / "model", folder / "graph"


def smooth_video(path: Path, count: int = 10) -> Path:
    """A lossless video of 80 × 60 pixels in which nothing is finer than a filter's width."""
    ramp = np.add.outer(np.arange(60), np.arange(80)) * 1.5
    frames = [np.stack([ramp + 3 * t, 200 - ramp, ramp // 2], -1).clip(0, 255).astype(np.uint8) for t in range(count)]
    return write_lossless_video(path, frames)


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


@pytest.mark.parametrize("box", [(30.0, 20.0, 50.0, 44.0), (-6.0, 1.0, 11.0, 17.0), (5.0, 2.0, 74.0, 59.0)])
def test_the_example_program_crops_as_the_processor_does(
    cropping_export: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: tuple[float, ...]
) -> None:
    """Inside the frame, over its edge, and larger than the frame with the margin."""
    model_folder, folder = cropping_export
    video = smooth_video(tmp_path / "clip.mkv")
    boxes = np.tile(np.float32(box) / np.float32([80, 60, 80, 60]), (FRAMES, 1))
    person = ClipPerson(boxes, np.full((FRAMES, 5, 2), np.nan, np.float32))
    monkeypatch.setattr(processing_mtcae, "most_prominent_person", lambda frames: person)
    model, processor = load_model(str(model_folder))
    expected = predict_file(str(video), model, processor)
    found = onnx_inference.predict(str(video), folder, face_box=box)
    assert found["expression"] == pytest.approx(expected["expression"], abs=0.01)
    np.testing.assert_allclose(found["face_boxes"], expected["face_boxes"], atol=0.3)
    np.testing.assert_allclose(found["face_landmarks"], expected["face_landmarks"], atol=0.3)

    description = json.loads((folder / "export.json").read_text())
    frames, window = onnx_inference.read_frames(str(video), description, box)
    pixel_values = onnx_inference.prepare(frames, description["mean"], description["std"])
    crop = processor(str(video), return_metadata=True)
    np.testing.assert_allclose(np.divide(window, [80, 60, 80, 60]), crop["video_metadata"][0].crop_box)
    # Pillow and torch round the filter's weights differently, by one of 255 shades.
    np.testing.assert_allclose(pixel_values, crop["pixel_values"], atol=1.01 / 255 / min(description["std"]))


def test_the_example_programs_square_is_that_of_the_face_crop() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        width, height = random.integers(20, 400, 2).tolist()
        corners = np.sort(random.uniform(-0.2, 1.2, (2, 2)), axis=0).ravel()
        margin, rise = random.uniform(0, 0.6), random.uniform(-0.5, 0.5)
        crop = face_crop(np.tile(corners, (3, 1)), None, (height, width), margin, rise=rise)
        assert crop is not None
        box = (corners * [width, height, width, height]).tolist()
        square = onnx_inference.square_around(box, {"margin": margin, "rise": rise}, width, height)
        assert [list(square)] * 3 == crop.windows.tolist()


def test_the_description_says_by_what_rule_frames_are_cropped(
    exports: dict, cropping_export: tuple[Path, Path]
) -> None:
    whole = json.loads((exports["torch-export", "fp16"] / "export.json").read_text())
    assert whole.pop("face_crop") is None
    assert ExportDescription(**whole).face_crop is None  # as an earlier release wrote it
    cropped = json.loads((cropping_export[1] / "export.json").read_text())
    assert cropped["face_crop"] == {"margin": 0.3, "rise": 0.1}


def test_the_description_of_this_repositorys_model_asks_for_the_face() -> None:
    root = Path(export.__file__).parents[1]
    stored = json.loads((root / "video_preprocessor_config.json").read_text())
    description = describe_export(tiny_model(), MTCAEVideoProcessor.from_pretrained(root), "torch-export", "fp32", {})
    assert description.face_crop == {"margin": stored["face_crop_margin"], "rise": stored["face_crop_rise"]}


@pytest.mark.parametrize(
    ("cropping", "words", "told"),
    [
        (True, [], "sees the face alone, which this program does not find: give the face's box"),
        (True, ["--face-box", "9", "9", "9", "20"], "must be numbers with X1 < X2 and Y1 < Y2"),
        (True, ["--face-box", "1", "nan", "9", "20"], "must be numbers with X1 < X2 and Y1 < Y2"),
        (False, ["--face-box", "1", "1", "9", "9"], "sees whole frames: leave --face-box out"),
    ],
)
def test_the_example_program_refuses_a_face_box_too_few_or_too_many(
    exports: dict, cropping_export: tuple[Path, Path], tmp_path: Path, cropping: bool, words: list[str], told: str
) -> None:
    folder = cropping_export[1] if cropping else exports["onnx", "fp32"]
    video = smooth_video(tmp_path / "clip.mkv")
    done = subprocess.run([sys.executable, folder / "onnx_inference.py", video, *words], capture_output=True, text=True)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and told in line and not done.stdout


def test_the_example_program_takes_a_description_of_an_earlier_release(exports: dict, tmp_path: Path) -> None:
    description = json.loads((exports["onnx", "fp32"] / "export.json").read_text())
    del description["face_crop"]
    (tmp_path / "export.json").write_text(json.dumps(description))
    (tmp_path / "model.onnx").symlink_to(exports["onnx", "fp32"] / "model.onnx")
    video = str(smooth_video(tmp_path / "clip.mkv"))
    assert onnx_inference.predict(video, tmp_path) == onnx_inference.predict(video, exports["onnx", "fp32"])


def test_bad_input_is_one_line_and_leaves_nothing(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    taken, missing = tmp_path / "taken", tmp_path / "no" / "where"
    taken.mkdir()
    for words, told in (
        (["export", str(model_folder), str(taken)], "exists already"),
        (["export", str(model_folder), str(missing)], "does not exist; create it first"),
        (["export", str(tmp_path), str(tmp_path / "out")], "holds no weights"),
        (["export", "a model that is never looked for", "/proc/out"], "/proc/out: its folder takes no files"),
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
