"""One clip as a whole: expression scores, and the face in every sampled frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mtcae_dfer.face_detection import LABELLED_SIZE, FaceDetector
from mtcae_dfer.inference.pictures import draw_clip_picture
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.pipeline_mtcae import NO_NUMBERS, describe_failure, reading_errors_of
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.video_reading import VideoReadingError, read_clip

NO_FACE = "no face was found: do not trust the scores"


@torch.inference_mode()
def predict_file(
    clip: str,
    model: MTCAEForMultiTaskVideo,
    processor: MTCAEVideoProcessor,
    top_k: int | None = None,
    detector: FaceDetector | None = None,
) -> dict[str, Any]:
    """Predicts one video file.

    Returns:
        JSON-serialisable: "clip"; "expression" {name: probability}, the most probable first; "face_boxes" (T, 4) and
        "face_landmarks" (T, 5, 2) in pixels of the source video; "timestamps", T seconds; "face_found", whether any of
        the frames has a face; where the processor crops to one "person_boxes" (T boxes in pixels of whose face it is,
        None in frames without it) and "other_people", how many more there are, None else; "width" and "height" in
        pixels; "face_coverage", the share of frames with a face according to MTCNN, None without a detector; "warning",
        one line or None. A file that cannot be read gives "clip" and "error" {"code", "message"} alone.

    Raises:
        FloatingPointError: the model's scores are no numbers.
    """
    try:
        with reading_errors_of(clip):
            inputs = processor(clip, return_metadata=True)
            (metadata,) = inputs.pop("video_metadata")
            coverage = face_coverage(clip, processor, detector) if detector is not None else None
            found = metadata.face_found
            if found is None:  # the model sees whole frames
                found = coverage > 0 if coverage is not None else shows_face(clip, metadata.frame_indices)
    except VideoReadingError as error:
        return {"clip": clip, "error": describe_failure(error)}
    outputs = model(inputs["pixel_values"].to(model.device))
    (result,) = processor.post_process_multi_task(
        outputs, metadata=[metadata], id2label=dict((model.config.id2label or {}).items()), top_k=top_k
    )
    if not all(math.isfinite(probability) for probability in (result["expression"] or {}).values()):
        raise FloatingPointError(NO_NUMBERS)
    answer = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in result.items()}
    if answer["person_boxes"] is not None:
        answer["person_boxes"] = [box if all(map(math.isfinite, box)) else None for box in answer["person_boxes"]]
    warnings = [metadata.warning, NO_FACE if metadata.face_found is None and not found else None]
    return {
        "clip": clip,
        **answer,
        "face_found": found,
        "width": metadata.width,
        "height": metadata.height,
        "face_coverage": coverage,
        "warning": "; ".join(warning for warning in warnings if warning) or None,
    }


def face_coverage(clip: str, processor: MTCAEVideoProcessor, detector: FaceDetector) -> float:
    """Share of the sampled frames in which MTCNN finds a face, at the size that it labels training frames in."""
    frames = read_clip(clip, processor.num_frames, size=LABELLED_SIZE).frames
    return float(detector.detect(frames).face_found.float().mean())


def shows_face(clip: str, frame_indices: Sequence[int]) -> bool:
    """Whether MTCNN finds a face in any of these frames, at the size that it labels training frames in.

    The middle one is looked at first: mostly it shows one, and then the others are neither read nor searched.
    """
    indices = sorted(set(frame_indices))
    return any(
        bool(_detector().detect(read_clip(clip, size=LABELLED_SIZE, frame_indices=wanted).frames).face_found.any())
        for wanted in ([indices[len(indices) // 2]], indices)
    )


@lru_cache(maxsize=1)
def _detector() -> FaceDetector:
    """One for all clips: its weights are read once."""
    return FaceDetector()


def format_clip(result: dict[str, Any]) -> str:
    """A readable block of lines for one clip."""
    if "error" in result:
        return f"{result['clip']}\n  not read: {result['error']['message']}"
    lines = [result["clip"]]
    for name, probability in (result["expression"] or {}).items():
        lines.append(f"  {name:<12} {probability:6.1%}  {'█' * round(30 * probability)}")
    people = result["person_boxes"] or []
    # Of a face that the processor crops to, a frame in which it is seen.
    seen = [frame for frame, box in enumerate(people) if box is not None] or range(len(result["face_boxes"] or ()))
    if result["face_boxes"] is not None:
        frame = seen[len(seen) // 2]
        box = ", ".join(f"{edge:.0f}" for edge in result["face_boxes"][frame])
        lines.append(f"  face box of frame {frame + 1} of {len(result['face_boxes'])}: ({box}) pixels")
    if people:
        place = ", ".join(f"{edge:.0f}" for edge in people[seen[len(seen) // 2]])
        where = f", seen in {len(seen)} of {len(people)} frames" if len(seen) < len(people) else ""
        others = result["other_people"]
        more = f"; the clip shows {others} more: see them with --csv or --overlay" if others else ""
        lines.append(f"  whose face: the one at ({place}) pixels{where}{more}")
    if result["face_coverage"] is not None:
        lines.append(f"  frames with a face (MTCNN): {result['face_coverage']:.0%}")
    if not result["face_found"] and result["expression"] is None:
        lines.append("  no face was found: there is no expression to report")
    elif result["face_found"] and result["face_coverage"] == 0:
        lines.append(f"  {NO_FACE}")
    if result["warning"]:
        lines.append(f"  note: {result['warning']}")
    return "\n".join(lines)


def draw_predicted_clip(result: dict[str, Any], num_frames: int, file: Path, device: str = "cpu") -> Path:
    """Draws a clip's frames with predicted (model) and found (MTCNN) boxes and points, and its expression scores.

    Args:
        result: of `predict_file`, of a clip that could be read.
        num_frames: T, the frames that the model sees.
        file: the picture; written under a temporary name first.
        device: where MTCNN runs.
    """
    height = LABELLED_SIZE[0]
    clip = read_clip(result["clip"], num_frames, size=(height, round(height * result["width"] / result["height"])))
    faces = FaceDetector(device=device).detect(clip.frames)
    scale = torch.tensor([result["width"], result["height"]])
    boxes, landmarks = result["face_boxes"], result["face_landmarks"]
    return draw_clip_picture(
        clip.frames,
        None if boxes is None else torch.tensor(boxes) / scale.repeat(2),
        None if landmarks is None else torch.tensor(landmarks) / scale,
        file,
        labelled_boxes=faces.boxes,
        labelled_landmarks=faces.landmarks,
        face_found=faces.face_found,
        expression_scores=result["expression"],
    )


def failure_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """What could not be read, as lines for standard error; none where everything could."""
    failures = [result["error"]["message"] for result in results if "error" in result]
    if not failures:
        return []
    return [f"{len(failures)} of {len(results)} clips could not be read:", *(f"  {failure}" for failure in failures)]
