"""Expression, face boxes and landmarks of one video by ONNX Runtime: `python onnx_inference.py VIDEO`.

`mtcae export` puts this file beside the graph. It needs av, numpy, onnxruntime and pillow, and neither PyTorch nor
transformers: the example to start from in one's own program.
"""

import argparse
import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(__file__).parent


def read_frames(video: str, num_frames: int, width: int, height: int) -> tuple[np.ndarray, int, int]:
    """Frames spread evenly over a video, first and last included.

    Returns:
        RGB frames (T, H, W, 3) uint8, and width and height of the source in pixels, after its rotation.
    """
    with av.open(video) as container:
        container.streams.video[0].thread_type = "AUTO"
        frame_count = sum(1 for _ in container.decode(video=0))
    if frame_count == 0:
        raise ValueError(f"{video}: holds no frames")
    indices = np.floor(np.linspace(0, frame_count - 1, num_frames) + 0.5).astype(int)  # halves upwards
    frames = {}
    with av.open(video) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in indices:
                image = Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                frames[index] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.stack([frames[index] for index in indices]), image.width, image.height


def prepare(frames: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """(T, H, W, 3) uint8 -> pixel_values (1, T, 3, H, W) float32."""
    normalised = (frames / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)[None], dtype=np.float32)


def predict(video: str, folder: Path = FOLDER) -> dict:
    """Probabilities by expression; boxes (T, 4) and landmarks (T, 5, 2) in pixels of the source video."""
    description = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    frames, width, height = read_frames(video, description["num_frames"], description["width"], description["height"])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    pixel_values = prepare(frames, description["mean"], description["std"])
    values = session.run(None, {description["input_name"]: pixel_values})
    outputs = {output["name"]: value[0] for output, value in zip(description["outputs"], values, strict=True)}
    result = {}
    if "expression" in outputs:
        scores = outputs["expression"]
        powers = np.exp(scores - scores.max())  # softmax
        result["expression"] = dict(zip(description["expressions"], (powers / powers.sum()).tolist(), strict=True))
    if "face_box" in outputs:
        result["face_boxes"] = (outputs["face_box"] * [width, height, width, height]).tolist()
    if "face_landmarks" in outputs:
        result["face_landmarks"] = (outputs["face_landmarks"] * [width, height]).tolist()
    return result


def main() -> int:
    """Prints the result of one video as JSON."""
    parser = argparse.ArgumentParser(description="Facial expression of a video by ONNX Runtime.")
    parser.add_argument("video")
    try:
        result = predict(parser.parse_args().video)
    except (ValueError, OSError, IndexError, av.FFmpegError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
