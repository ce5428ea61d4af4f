"""`mtcae export`: a trained model as one graph, for ONNX Runtime or for PyTorch without this package."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mtcae_dfer.hub_dataset.files import appearing_folder, why_not_writable, write_json
from mtcae_dfer.inference.models import load_model
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.pipeline_mtcae import quantise_linear_layers
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor

FORMATS = ("onnx", "torch-export")
DTYPES = ("fp32", "fp16", "int8")
GRAPH_FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
DESCRIPTION_FILE = "export.json"
EXAMPLE_FILE = "onnx_inference.py"
INPUT_NAME = "pixel_values"
OPSET = 20  # the first with a GELU of its own
FP32_TOLERANCE = 1e-4
PARITY_BATCHES = (1, 3)  # neither is the batch that the graph was traced with
LARGEST_SINGLE_FILE = 1_800_000_000  # bytes; a protobuf file ends at 2 GiB


class ExportError(ValueError):
    """A model cannot be exported. The message is one line for the user: what, where, what to do."""


@dataclass(frozen=True)
class ExportDescription:
    """What stands in export.json beside a graph: all that a program needs to use it."""

    format: str  # onnx | torch-export
    dtype: str  # fp32 | fp16 | int8, of the weights; input and outputs are float32 always
    input_name: str  # of the one input, (B, T, 3, H, W)
    num_frames: int  # T, spread evenly over the clip, first and last included
    height: int  # H in pixels; frames, or their crops, are squashed to H x W, bilinear with antialiasing
    width: int  # W in pixels
    mean: list[float]  # of the three colours; pixel_values = (rgb / 255 - mean) / std
    std: list[float]  # of the three colours
    outputs: list[dict[str, Any]]  # name, kind, per clip or frame, shape; boxes and points divided by width and height
    expressions: list[str]  # classes in the order of the expression scores
    largest_difference: dict[str, float]  # of each output from the PyTorch model, on random clips
    versions: dict[str, str]  # of the packages that wrote the graph
    # "margin" and "rise" of `face_crop.py`, by which frames are cropped to the face before they are squashed, boxes and
    # points being divided by the crop's sides; None: the model sees whole frames
    face_crop: dict[str, float] | None = None


class ExportGraph(nn.Module):
    """pixel_values (B, T, 3, H, W) float32 -> the outputs of all tasks, in the order of the cascade, float32."""

    def __init__(self, model: MTCAEForMultiTaskVideo) -> None:
        super().__init__()
        self.model = model
        self.names = [task.name for task in model.tasks]

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs keep the model's meaning: scores before the softmax, boxes and points divided by width and height."""
        outputs = self.model(pixel_values.to(self.model.dtype)).task_outputs
        return tuple(outputs[name].float() for name in self.names)


def export_model(name: str, output: str | os.PathLike, format: str = "onnx", dtype: str = "fp32") -> ExportDescription:
    """Writes a folder with the graph, its description and, for ONNX, a program that runs it without PyTorch.

    Args:
        name: model folder or Hub id.
        output: folder to write; it appears when everything is in it.
        format: "onnx" (one file for ONNX Runtime) or "torch-export" (for `torch.export.load`).
        dtype: "fp32"; "fp16", weights and arithmetic in half precision; "int8", weights of the linear layers in 8 bits,
            their inputs quantised as they come. The task heads keep their precision with int8.

    Returns:
        What export.json holds.

    Raises:
        ExportError: unknown format or dtype, an output that exists or cannot be written, a package that is missing, or
            an fp32 graph that differs from the model by more than `FP32_TOLERANCE`.
        ModelError: no such model, or one that is damaged.
    """
    for option, value, choices in (("--format", format, FORMATS), ("--dtype", dtype, DTYPES)):
        if value not in choices:
            raise ExportError(f"{option} {value!r} is unknown: choose one of {', '.join(choices)}")
    output = Path(output)
    if output.exists():
        raise ExportError(f"{output}: exists already; choose another folder or remove it")
    if not output.absolute().parent.is_dir():
        raise ExportError(f"{output}: the folder {output.absolute().parent} does not exist; create it first")
    if reason := why_not_writable(output.absolute().parent):
        raise ExportError(f"{output}: its folder takes no files ({reason}); choose another folder")
    model, processor = load_model(name)
    clips = example_clips(model, processor, max(PARITY_BATCHES))
    with torch.inference_mode():
        expected = [values.numpy() for values in ExportGraph(model)(clips)]
    with appearing_folder(output) as folder:
        graph = folder / GRAPH_FILES[format]
        EXPORTERS[format](model, clips[:2], graph, dtype)
        differences = measure_differences(RUNNERS[format](graph), clips, expected, model)
        for task, difference in differences.items():
            if dtype == "fp32" and not difference <= FP32_TOLERANCE:  # also where it is no number
                raise ExportError(
                    f"{name}: {task} of the exported graph differs from PyTorch by {difference:.1e}, more than "
                    f"{FP32_TOLERANCE:.0e}; nothing was written. Another version of torch or onnxruntime may not"
                )
        description = describe_export(model, processor, format, dtype, differences)
        write_json(folder / DESCRIPTION_FILE, asdict(description))
        if format == "onnx":
            shutil.copyfile(Path(__file__).with_name(EXAMPLE_FILE), folder / EXAMPLE_FILE)
    return description


# ------------------------------------------------------------------------------------------------ clips and truth


def example_clips(model: MTCAEForMultiTaskVideo, processor: MTCAEVideoProcessor, count: int) -> torch.Tensor:
    """Noise of the model's input shape, (count, T, 3, H, W), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    height, width = processor.size["height"], processor.size["width"]
    return torch.randn(count, model.config.num_frames, 3, height, width, generator=generator)


def measure_differences(
    run_graph: Any, clips: torch.Tensor, expected: Sequence[np.ndarray], model: MTCAEForMultiTaskVideo
) -> dict[str, float]:
    """Largest absolute difference of each output from the model's, over batches of several sizes."""
    differences = {task.name: 0.0 for task in model.tasks}
    for count in PARITY_BATCHES:
        outputs = run_graph(clips[:count].numpy())
        for name, output, truth in zip(differences, outputs, expected, strict=True):
            differences[name] = max(differences[name], float(np.abs(output - truth[:count]).max()))
    return differences


# ------------------------------------------------------------------------------------------------------- formats


def trace(model: MTCAEForMultiTaskVideo, clips: torch.Tensor) -> torch.export.ExportedProgram:
    """The model as one graph with a free batch axis."""
    batch = {0: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _silence():
        return torch.export.export(ExportGraph(model).eval(), (clips,), dynamic_shapes=(batch,))


def write_torch_export(model: MTCAEForMultiTaskVideo, clips: torch.Tensor, file: Path, dtype: str) -> None:
    """Writes a graph that `torch.export.load` reads (int8: after `import torchao`)."""
    if dtype == "fp16":
        model = model.half()
    elif dtype == "int8":
        with _optional_package():
            quantise_linear_layers(model)
    with _silence():
        torch.export.save(trace(model, clips), file)


def write_onnx(model: MTCAEForMultiTaskVideo, clips: torch.Tensor, file: Path, dtype: str) -> None:
    """Writes a graph for ONNX Runtime."""
    with _optional_package():
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    names = [task.name for task in model.tasks]
    model = model.half() if dtype == "fp16" else model
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with _silence():
        program = torch.onnx.export(
            trace(model, clips), input_names=[INPUT_NAME], output_names=names, opset_version=OPSET, verbose=False
        )
        assert program is not None  # only the exporter of older releases writes the file itself
        program.save(str(file), external_data=size > LARGEST_SINGLE_FILE)
        if dtype == "int8":
            _quantise_onnx(file, size > LARGEST_SINGLE_FILE)


def _quantise_onnx(file: Path, external_data: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(file)
    # The shapes noted by the exporter are those of linear layers before the quantiser transposes their weights.
    del graph.graph.value_info[:]
    heads = [node.name for node in graph.graph.node if any(".heads." in name for name in node.input)]
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    quantize_dynamic(
        graph,
        file,
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Seven bits: processors without VNNI add two products of an unsigned and a signed byte in 16 bits, which
        # saturates at 2 * 255 * 127 but not at 2 * 255 * 64. The result is then the same on every processor.
        reduce_range=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=heads,
        use_external_data_format=external_data,
    )


def open_onnx(file: Path, threads: int = 0) -> Any:
    """A function from clips (B, T, 3, H, W) to the outputs, on ONNX Runtime's CPU provider (threads 0: all cores)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(None, {INPUT_NAME: clips})


def open_torch_export(file: Path) -> Any:
    """A function from clips (B, T, 3, H, W) to the outputs."""
    module = torch.export.load(file).module()

    def run(clips: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(clips))]

    return run


EXPORTERS = {"onnx": write_onnx, "torch-export": write_torch_export}
RUNNERS = {"onnx": open_onnx, "torch-export": open_torch_export}


@contextlib.contextmanager
def _optional_package() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ExportError(
            f"this export needs the package {error.name}: install it with `pip install mtcae-dfer[export]`, or "
            '`pip install -e ".[export]"` in a checkout'
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hides the exporters' remarks on their own internals; errors still come through as exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# --------------------------------------------------------------------------------------------------- description


def describe_export(
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    format: str,
    dtype: str,
    differences: dict[str, float],
) -> ExportDescription:
    """Everything that a program without this package needs to use a graph."""
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if format == "onnx":
        import onnx
        import onnxruntime

        versions |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    outputs = [
        {"name": task.name, "kind": task.kind, "per": task.per, "shape": list(task.output_shape)}
        for task in model.tasks
    ]
    crop = {"margin": processor.face_crop_margin, "rise": processor.face_crop_rise}
    return ExportDescription(
        format=format,
        dtype=dtype,
        input_name=INPUT_NAME,
        num_frames=model.config.num_frames,
        height=processor.size["height"],
        width=processor.size["width"],
        mean=list(processor.image_mean),
        std=list(processor.image_std),
        outputs=outputs,
        expressions=model.config.class_names,
        largest_difference=differences,
        versions=versions,
        face_crop=crop if processor.do_face_crop else None,
    )
