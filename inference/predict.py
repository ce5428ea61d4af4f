"""`mtcae predict`: clips in, expression scores and faces out."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from mtcae_dfer.face_detection import FaceDetector
from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.video_reading import VideoReadingError, read_clip

TIMELINE_FILES = ("overlay", "timeline", "csv")
TIMELINE_OPTIONS = ("people", "window_seconds", "hop_seconds", "smoothing", "min_face", "batch_size")
DEMONSTRATION_MODEL = Path(__file__).parents[1] / "demonstration_model"
DEMONSTRATION_NOTE = "This demonstration model was trained on drawn faces: on real people its expressions mean nothing."
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


class PredictionError(ValueError):
    """A model cannot be used. The message is one line for the user: what, where, what to do."""


def add_predict_command(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command `predict`; the parsed namespace's `run(namespace)` returns the exit status."""
    parser = subparsers.add_parser("predict", help="expressions and faces of video clips")
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="video files")
    add_model_argument(parser)
    parser.add_argument("--json", metavar="OUT", help="write the results as JSON to this file")
    parser.add_argument("--top-k", type=int, help="how many expressions to show (default: all)")
    parser.add_argument("--verify-face", action="store_true", help="also say in how many frames MTCNN finds a face")
    parser.add_argument("--picture", metavar="PNG", help="draw the frames of the first clip with boxes and points")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    _add_timeline_arguments(parser.add_argument_group("timeline of one video", "any of these asks for a timeline"))
    parser.add_argument(
        "--webcam", nargs="?", const="0", metavar="CAMERA", help="watch a camera instead: its number (0) or its path"
    )
    parser.set_defaults(run=run_predict_command)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, which is the demonstration model where none is named."""
    told = "model folder or Hub id (default: a tiny one that was trained on drawn faces)"
    parser.add_argument("--model", help=told)


def chosen_model(arguments: argparse.Namespace) -> str:
    """The model named on the command line, or else the demonstration model, which says on standard error what it is."""
    if arguments.model is not None:
        return arguments.model
    print(f"mtcae: no --model is named. {DEMONSTRATION_NOTE}", file=sys.stderr)
    return str(DEMONSTRATION_MODEL)


def _add_timeline_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--overlay", metavar="MP4", help="write the video with boxes, points, numbers and scores")
    group.add_argument("--timeline", metavar="PNG", help="draw every person's scores over time")
    group.add_argument("--csv", metavar="CSV", help="write one row per person and window")
    group.add_argument("--people", choices=("all", "single"), help="crop every person (default), or the whole frame")
    group.add_argument("--window-seconds", type=float, help="length of a window (default: 2)")
    group.add_argument("--hop-seconds", type=float, help="from window to window (default: half a window)")
    group.add_argument("--smoothing", type=float, help="weight of the past in a person's scores, 0 to below 1")
    group.add_argument("--min-face", type=float, help="side of the smallest face in pixels")
    group.add_argument("--batch-size", type=int, help="clips at once (default: 4)")


def run_predict_command(arguments: argparse.Namespace) -> int:
    """Predicts all clips; one that cannot be read is reported and does not stop the others."""
    if arguments.top_k is not None and arguments.top_k < 1:
        raise PredictionError(f"--top-k {arguments.top_k}: must be at least 1")
    if arguments.webcam is not None:
        return run_live(arguments)
    if not arguments.clips:
        raise PredictionError("name a video file, or watch a camera with --webcam")
    if any(getattr(arguments, name) is not None for name in (*TIMELINE_FILES, *TIMELINE_OPTIONS)):
        return run_timeline(arguments)
    model, processor = load_model(chosen_model(arguments), arguments.device)
    detector = FaceDetector(device=arguments.device) if arguments.verify_face else None
    results = [predict_file(clip, model, processor, arguments.top_k, detector) for clip in arguments.clips]
    for result in results:
        print(format_result(result))
    if arguments.json:
        write_results(results, Path(arguments.json))
    if arguments.picture:
        draw_picture(results[0], model, processor, Path(arguments.picture))
    return report_failures(results)


def run_timeline(arguments: argparse.Namespace) -> int:
    """Predicts one video as a timeline, and writes what is asked for."""
    from mtcae_dfer.inference.timeline import draw_timeline, write_csv, write_overlay

    if len(arguments.clips) > 1 or arguments.picture or arguments.verify_face:
        raise PredictionError("a timeline is made of one VIDEO, without --picture and --verify-face")
    if arguments.overlay and Path(arguments.overlay).suffix.lower() != ".mp4":
        raise PredictionError(f"--overlay {arguments.overlay}: give a name that ends in .mp4")
    (video,) = arguments.clips
    result = predict_timeline(video, arguments)
    print(format_timeline(video, result))
    if arguments.json:
        write_results(result, Path(arguments.json))
    if arguments.csv:
        write_csv(result, Path(arguments.csv))
    if arguments.timeline:
        draw_timeline(result, Path(arguments.timeline))
    if arguments.overlay:
        write_overlay(video, result, Path(arguments.overlay))
    return 0


def run_live(arguments: argparse.Namespace) -> int:
    """Watches a camera until it ends or is interrupted, and prints each window as it ends."""
    from mtcae_dfer.inference.live import camera_frames

    unfit = [name for name in (*TIMELINE_FILES, "picture", "verify_face") if getattr(arguments, name)]
    if arguments.clips or unfit:
        named = [*arguments.clips, *(f"--{name.replace('_', '-')}" for name in unfit)]
        raise PredictionError(f"--webcam: a camera is watched as it comes, without {' '.join(named)}")
    with camera_frames(arguments.webcam) as frames, contextlib.ExitStack() as files:
        lines = files.enter_context(open(arguments.json, "w", encoding="utf-8")) if arguments.json else None
        pipe, options = make_timeline_pipeline(arguments)
        for window in pipe(frames, top_k=arguments.top_k, **options):
            print(format_live_window(window), flush=True)
            if lines is not None:
                print(json.dumps(window, ensure_ascii=False), file=lines, flush=True)
    return 0


def format_live_window(window: dict[str, Any]) -> str:
    """One line: the time, everybody's strongest expression, and how long the answer took."""
    people = []
    for person in window["people"]:
        scores = person["window"]["scores"]
        best = max(scores, key=scores.get) if scores else None
        people.append(f"person {person['track']} " + (f"{best} {scores[best]:.0%}" if best else "no face"))
    found = ", ".join(people) or "no face"
    return f"{window['start']:7.2f}–{window['end']:.2f} s  {found}  (answered after {window['latency']:.2f} s)"


def make_timeline_pipeline(arguments: argparse.Namespace) -> tuple[FacialExpressionTimelinePipeline, dict[str, Any]]:
    """The pipeline of the chosen model, and the options given for a call."""
    model, processor = load_model(chosen_model(arguments), arguments.device)
    pipe = FacialExpressionTimelinePipeline(model=model, video_processor=processor, device=arguments.device)
    names = [name for name in TIMELINE_OPTIONS if getattr(arguments, name) is not None]
    return pipe, {name: getattr(arguments, name) for name in names}


def predict_timeline(video: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's result for a video, with a progress bar on standard error."""
    pipe, given = make_timeline_pipeline(arguments)
    with tqdm(total=1.0, desc="timeline", bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}") as bar:
        return pipe(video, top_k=arguments.top_k, progress=lambda share: bar.update(share - bar.n), **given)


def format_timeline(video: str, result: dict[str, Any]) -> str:
    """A readable block of lines: the strongest expression of each person's windows."""
    lines = [f"{video}: {result['duration']:.1f} s, {len(result['people'])} people"]
    windows = [window for person in result["people"] for window in person["windows"]]
    if not any(window["scores"] for window in windows):
        lines.append("  no face was found: there is no expression to report")
    for person in result["people"]:
        lines.append(f"  person {person['track']}, {person['start']:.1f}–{person['end']:.1f} s")
        for window in person["windows"]:
            scores = window["scores"]
            best = max(scores, key=scores.get) if scores else None
            found = f"{best} {scores[best]:.0%}" if best else "no face"
            lines.append(f"    {window['start']:7.2f}–{window['end']:.2f} s  {found}")
    return "\n".join(lines)


def load_model(name: str, device: str = "cpu") -> tuple[MTCAEForMultiTaskVideo, BaseVideoProcessor]:
    """Loads a model with its processor for prediction.

    Args:
        name: model folder or Hub id.
        device: where the model runs.

    Raises:
        PredictionError: no such model, a folder without weights, or a model of another kind.
    """
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in WEIGHT_FILES):
        raise PredictionError(
            f"{name}: the folder holds no weights ({WEIGHT_FILES[0]}); give the folder of a trained model"
        )
    try:
        config = AutoConfig.from_pretrained(name)
        processor = AutoVideoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise PredictionError(f"{name}: no model folder or Hub id that can be read ({_first_line(error)})") from error
    if config.model_type != "mtcae":
        raise PredictionError(
            f"{name}: holds a model of type {config.model_type}, not mtcae; train one on top of it first"
        )
    if processor.num_frames != config.num_frames:
        raise PredictionError(
            f"{name}: the model takes {config.num_frames} frames, but its processor samples {processor.num_frames}; "
            f"set num_frames to {config.num_frames} in video_preprocessor_config.json"
        )
    return MTCAEForMultiTaskVideo.from_pretrained(name).to(device).eval(), processor


@torch.inference_mode()
def predict_file(
    clip: str,
    model: MTCAEForMultiTaskVideo,
    processor: BaseVideoProcessor,
    top_k: int | None = None,
    detector: FaceDetector | None = None,
) -> dict[str, Any]:
    """Predicts one video file.

    Returns:
        JSON-serialisable: "clip"; "expression" {name: probability}, the most probable first; "face_boxes" (T, 4) and
        "face_landmarks" (T, 5, 2) in pixels of the source video; "timestamps", T seconds; "width" and "height" in
        pixels; "face_coverage", the share of frames with a face according to MTCNN, None without a detector;
        "warning", one line or None. A file that cannot be read gives "clip" and "error" alone.
    """
    try:
        inputs = processor(clip, return_metadata=True)
        coverage = face_coverage(clip, processor, detector) if detector is not None else None
    except VideoReadingError as error:
        return {"clip": clip, "error": str(error)}
    (metadata,) = inputs.pop("video_metadata")
    outputs = model(inputs["pixel_values"].to(model.device))
    (result,) = processor.post_process_multi_task(
        outputs, metadata=[metadata], id2label=model.config.id2label, top_k=top_k
    )
    return {
        "clip": clip,
        **{name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in result.items()},
        "width": metadata.width,
        "height": metadata.height,
        "face_coverage": coverage,
        "warning": metadata.warning,
    }


def face_coverage(clip: str, processor: BaseVideoProcessor, detector: FaceDetector) -> float:
    """Share of the sampled frames in which MTCNN finds a face, at the size that it labels training frames in."""
    frames = read_clip(clip, processor.num_frames, size=(224, 224)).frames
    return float(detector.detect(frames).face_found.float().mean())


def format_result(result: dict[str, Any]) -> str:
    """A readable block of lines for one clip."""
    if "error" in result:
        return f"{result['clip']}\n  not read: {result['error']}"
    lines = [result["clip"]]
    for name, probability in (result["expression"] or {}).items():
        lines.append(f"  {name:<12} {probability:6.1%}  {'█' * round(30 * probability)}")
    if result["face_boxes"] is not None:
        middle = len(result["face_boxes"]) // 2
        box = ", ".join(f"{edge:.0f}" for edge in result["face_boxes"][middle])
        lines.append(f"  face box of frame {middle + 1} of {len(result['face_boxes'])}: ({box}) pixels")
    if result["face_coverage"] is not None:
        lines.append(f"  frames with a face (MTCNN): {result['face_coverage']:.0%}")
    if result["face_coverage"] == 0:
        lines.append("  no face was found: do not trust the scores above")
    if result["warning"]:
        lines.append(f"  note: {result['warning']}")
    return "\n".join(lines)


def write_results(results: Sequence[dict[str, Any]] | dict[str, Any], file: Path) -> None:
    """Writes the results as JSON, whole or not at all.

    Raises:
        PredictionError: the file cannot be written.
    """
    try:
        write_json(file, results)
    except OSError as error:
        raise PredictionError(f"--json {file}: cannot be written ({error.strerror}); choose another file") from error


def draw_picture(
    result: dict[str, Any], model: MTCAEForMultiTaskVideo, processor: BaseVideoProcessor, file: Path
) -> None:
    """Draws a clip's frames with predicted (model) and found (MTCNN) boxes and points, and its expression scores."""
    from mtcae_dfer.inference.overlay import draw_clip_picture

    if "error" in result:
        raise PredictionError(f"--picture: {result['error']}")
    clip = read_clip(result["clip"], processor.num_frames, size=(224, 224))
    faces = FaceDetector(device=str(model.device)).detect(clip.frames)
    scale = torch.tensor([result["width"], result["height"]])
    boxes, landmarks = result["face_boxes"], result["face_landmarks"]
    draw_clip_picture(
        clip.frames,
        None if boxes is None else torch.tensor(boxes) / scale.repeat(2),
        None if landmarks is None else torch.tensor(landmarks) / scale,
        file,
        labelled_boxes=faces.boxes,
        labelled_landmarks=faces.landmarks,
        face_found=faces.face_found,
        expression_scores=result["expression"],
    )


def report_failures(results: Sequence[dict[str, Any]]) -> int:
    """Lists the clips that could not be read; returns the exit status."""
    failures = [result for result in results if "error" in result]
    if failures:
        print(f"{len(failures)} of {len(results)} clips could not be read:", file=sys.stderr)
    for result in failures:
        print(f"  {result['error']}", file=sys.stderr)
    return 1 if failures else 0


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
