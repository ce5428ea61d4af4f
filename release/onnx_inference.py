"""Expression, face boxes and landmarks of one video by ONNX Runtime: `python onnx_inference.py VIDEO`.

`mtcae export` puts this file beside the graph. It needs av, numpy, onnxruntime and pillow, and neither PyTorch nor
transformers: the example to start from in one's own program. It looks for no faces: a model that sees the face alone
(export.json: `face_crop`) is told where it is, `python onnx_inference.py VIDEO --face-box X1 Y1 X2 Y2`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(__file__).parent


def read_frames(
    video: str, description: dict[str, Any], face_box: Sequence[float] | None
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Frames spread evenly over a video, first and last included, as the model sees them.

    Returns:
        RGB frames (T, H, W, 3) uint8, and the part of the source that they show: left, top, right and bottom in pixels,
        after the source's rotation.
    """
    with av.open(video) as container:
        container.streams.video[0].thread_type = "AUTO"
        frame_count = sum(1 for _ in container.decode(video=0))
    if frame_count == 0:
        raise ValueError(f"{video}: holds no frames")
    indices = np.floor(np.linspace(0, frame_count - 1, description["num_frames"]) + 0.5).astype(int)  # halves upwards
    frames = {}
    with av.open(video) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in indices:
                image = Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                window = (0, 0, image.width, image.height)
                if face_box is not None:
                    window = square_around(face_box, description["face_crop"], image.width, image.height)
                # Cut first: a filter that resizes a part of a picture looks beyond the part's edges.
                size = (description["width"], description["height"])
                frames[index] = np.asarray(image.crop(window).resize(size, Image.Resampling.BILINEAR))
    return np.stack([frames[index] for index in indices]), window


def square_around(
    face_box: Sequence[float], crop: dict[str, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the square that the model sees of a frame, in whole pixels inside it.

    Args:
        face_box: x1, y1, x2, y2 of the face in pixels.
        crop: "margin", added on every side as a share of the face's longer side; "rise", how far the square's centre
            stands above the face's, in sides of the square.
        width: of the frame in pixels.
        height: of the frame in pixels.
    """
    left, top, right, bottom = face_box
    wanted = max(right - left, bottom - top) * (1 + 2 * crop["margin"])
    side = int(np.clip(np.round(wanted), 1, min(width, height)))
    x = int(np.clip(np.round((left + right) / 2 - side / 2), 0, width - side))
    y = int(np.clip(np.round((top + bottom) / 2 - crop["rise"] * wanted - side / 2), 0, height - side))
    return x, y, x + side, y + side


def prepare(frames: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """(T, H, W, 3) uint8 -> pixel_values (1, T, 3, H, W) float32."""
    normalised = (frames / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)[None], dtype=np.float32)


def predict(video: str, folder: Path = FOLDER, face_box: Sequence[float] | None = None) -> dict[str, Any]:
    """What the model says of one video.

    Args:
        video: a file.
        folder: with the graph and export.json.
        face_box: x1, y1, x2, y2 of the face in the whole video, in pixels; for models that see the face alone.

    Returns:
        Probabilities by expression; boxes (T, 4) and landmarks (T, 5, 2) in pixels of the source video.

    Raises:
        ValueError: a face box is missing, is none, or is given to a model that sees whole frames; a video without
            frames.
    """
    description = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    # Descriptions of earlier releases have no such entry.
    if description.get("face_crop") is None and face_box is not None:
        raise ValueError(f"the model in {folder} sees whole frames: leave --face-box out")
    if description.get("face_crop") is not None and face_box is None:
        told = "give the face's box in the video's pixels, --face-box X1 Y1 X2 Y2, of a face detector for instance"
        raise ValueError(f"the model in {folder} sees the face alone, which this program does not find: {told}")
    if face_box is not None and not (np.isfinite(face_box).all() and np.less(face_box[:2], face_box[2:]).all()):
        raise ValueError(f"--face-box {' '.join(map(str, face_box))}: must be numbers with X1 < X2 and Y1 < Y2")
    frames, (left, top, right, bottom) = read_frames(video, description, face_box)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    pixel_values = prepare(frames, description["mean"], description["std"])
    values = session.run(None, {description["input_name"]: pixel_values})
    outputs = {output["name"]: value[0] for output, value in zip(description["outputs"], values, strict=True)}
    corner, size = np.array([left, top]), np.array([right - left, bottom - top])
    result: dict[str, Any] = {}
    if "expression" in outputs:
        scores = outputs["expression"]
        powers = np.exp(scores - scores.max())  # softmax
        result["expression"] = dict(zip(description["expressions"], (powers / powers.sum()).tolist(), strict=True))
    if "face_box" in outputs:
        result["face_boxes"] = (outputs["face_box"] * np.tile(size, 2) + np.tile(corner, 2)).tolist()
    if "face_landmarks" in outputs:
        result["face_landmarks"] = (outputs["face_landmarks"] * size + corner).tolist()
    return result


def main() -> int:
    """Prints the result of one video as JSON."""
    parser = argparse.ArgumentParser(description="Facial expression of a video by ONNX Runtime.")
    parser.add_argument("video")
    told = "the face in pixels, for a model that sees the face alone (export.json: face_crop)"
    parser.add_argument("--face-box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help=told)
    options = parser.parse_args()
    try:
        result = predict(options.video, face_box=options.face_box)
    except (ValueError, OSError, IndexError, av.FFmpegError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
