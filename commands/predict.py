"""`mtcae predict`: clips, timelines of videos, or a camera in; expression scores and faces out."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from .model_options import add_model_arguments, chosen_model
from .output_files import PICTURE_SUFFIXES, check_outputs

OUTPUT_SUFFIXES = {
    "json": (".json", ".jsonl"),
    "picture": PICTURE_SUFFIXES,
    "overlay": (".mp4",),
    "timeline": PICTURE_SUFFIXES,
    "csv": (".csv",),
}
CLIP_OPTIONS = ("picture", "verify_face")
TIMELINE_OUTPUTS = ("overlay", "timeline", "csv")
# With --output-dir: what --each names, and the options that stand for one file.
EACH, ENGINES = ("csv", "overlay", "timeline", "picture"), ("processes", "ray")
ONE_FILE = ("json", *TIMELINE_OUTPUTS, "picture")
STUDY_OPTIONS = ("each", "workers", "ray_address", "recompute")
PIPELINE_OPTIONS = ("people", "window_seconds", "hop_seconds", "smoothing", "min_seconds", "min_face", "batch_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    told = "video files; a folder, or a pattern in quotes, stands for all videos in it"
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help=told)
    add_model_arguments(parser)
    parser.add_argument("--json", metavar="OUT", help="write the results as JSON; to a .jsonl one a line")
    parser.add_argument("--top-k", type=int, help="how many expressions to show (default: all)")
    parser.add_argument("--verify-face", action="store_true", help="also say in how many frames MTCNN finds a face")
    parser.add_argument("--picture", metavar="PNG", help="draw the frames of the first clip that can be read")
    group = parser.add_argument_group("timelines", "any of these asks for a timeline of every video")
    group.add_argument("--overlay", metavar="MP4", help="write the video with boxes, points, numbers and scores")
    group.add_argument("--timeline", metavar="PNG", help="draw every person's scores over time")
    group.add_argument("--csv", metavar="CSV", help="write one row per video, person and window")
    group.add_argument("--per-frame", action="store_true", help="rows of --csv are sampled frames, not windows")
    told = "every person's face (default), or what the model's processor shows: whole frames, or the face it crops to"
    group.add_argument("--people", choices=("all", "single"), help=told)
    group.add_argument("--window-seconds", type=float, help="length of a window (default: 2)")
    group.add_argument("--hop-seconds", type=float, help="from window to window (default: half a window)")
    group.add_argument("--smoothing", type=float, help="weight of the past in a person's scores, 0 to below 1")
    group.add_argument("--min-seconds", type=float, help="leave out windows with less of a face (default: 0)")
    group.add_argument("--min-face", type=float, help="side of the smallest face in pixels")
    group.add_argument("--batch-size", type=int, help="clips at once (default: 4)")
    add_study_arguments(parser)
    parser.add_argument(
        "--webcam", nargs="?", const="0", metavar="CAMERA", help="watch a camera instead: its number (0) or its path"
    )
    parser.set_defaults(run=run)


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a study in a folder."""
    group = parser.add_argument_group("many videos", "a folder of answers, which a stopped command goes on with")
    told = "write a JSON file of every video here, under the videos' own names, and one table of all (all.csv)"
    group.add_argument("--output-dir", metavar="OUT", help=told)
    told = "beside every JSON file; all but picture ask for timelines"
    group.add_argument("--each", nargs="+", choices=EACH, default=[], help=told)
    told = "processes that share one model, each on one thread (default: by processors and videos; with --device one)"
    group.add_argument("--workers", type=int, help=told)
    told = "what works side by side: processes of this machine, or a Ray cluster (default: processes)"
    group.add_argument("--engine", choices=ENGINES, default="processes", help=told)
    group.add_argument("--ray-address", help="of a running Ray cluster (default: one is started here)")
    told = "make answers anew that were made with other options or by another model"
    group.add_argument("--recompute", action="store_true", help=told)


def run(options: argparse.Namespace) -> int:
    """Refuses what cannot be done, then predicts clips, timelines, a folder of answers or a camera's windows."""
    if options.top_k is not None and options.top_k < 1:
        raise ValueError(f"--top-k {options.top_k}: must be at least 1")
    unfit = [name for name in STUDY_OPTIONS if getattr(options, name)] + ["engine"] * (options.engine != "processes")
    if options.output_dir is None and unfit:
        raise ValueError(f"{_spelled(unfit)}: is for --output-dir OUT, which is not asked for")
    if options.per_frame and not (options.csv or options.output_dir):
        raise ValueError("--per-frame: is for the rows of --csv CSV, which is not asked for")
    if options.webcam is not None:
        return run_camera(options)
    if not options.videos:
        raise ValueError("name a video file, or watch a camera with --webcam")
    if options.output_dir is not None:
        return run_study(options)
    from mtcae_dfer.inference.studies import find_videos

    videos = find_videos(options.videos)
    check_output_options(options, videos)
    if any(getattr(options, name) is not None for name in (*TIMELINE_OUTPUTS, *PIPELINE_OPTIONS)):
        return run_timelines(videos, options)
    return run_clips(videos, options)


def check_output_options(options: argparse.Namespace, inputs: list[str]) -> None:
    """Refuses files to be written that cannot be, each by its option."""
    named = {f"--{name}": (getattr(options, name), suffixes) for name, suffixes in OUTPUT_SUFFIXES.items()}
    check_outputs(named, inputs)


def run_clips(clips: list[str], options: argparse.Namespace) -> int:
    """Predicts all clips as a whole; one that cannot be read is reported and does not stop the others."""
    from mtcae_dfer.face_detection import FaceDetector
    from mtcae_dfer.inference.clips import draw_predicted_clip, failure_lines, format_clip, predict_file
    from mtcae_dfer.inference.models import load_model

    model, processor = load_model(chosen_model(options), options.device)
    detector = FaceDetector(device=options.device) if options.verify_face else None
    results = [predict_file(clip, model, processor, options.top_k, detector) for clip in clips]
    for result in results:
        print(format_clip(result))
    if options.json:
        write_answers(Path(options.json), results)
    readable = [result for result in results if "error" not in result]
    if options.picture and readable:
        draw_predicted_clip(readable[0], processor.num_frames, Path(options.picture), options.device)
    elif options.picture:
        print(f"--picture {options.picture}: not written, none of the clips could be read", file=sys.stderr)
    failures = failure_lines(results)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def run_timelines(videos: list[str], options: argparse.Namespace) -> int:
    """Predicts every video as a timeline, and writes what is asked for."""
    from mtcae_dfer.inference.annotated_video import write_overlay
    from mtcae_dfer.inference.studies import predict_timelines
    from mtcae_dfer.inference.timeline_files import draw_timeline, format_timeline, write_csv

    unfit = [name for name in CLIP_OPTIONS if getattr(options, name)]
    unfit += [name for name in ("overlay", "timeline") if getattr(options, name) and len(videos) > 1]
    if unfit:
        several = f"several videos ({len(videos)})" if len(videos) > 1 else "a timeline"
        raise ValueError(f"{_spelled(unfit)}: not for {several}; --csv and --json are written for any number of videos")
    pipe, given = make_pipeline(options)
    study = predict_timelines(videos, pipe, given)
    for video, timeline in study.timelines.items():
        print(format_timeline(video, timeline))
    if options.json:
        entries = study.entries()
        alone = study.timelines.get(videos[0], entries[0])
        write_answers(Path(options.json), entries, whole=entries if len(videos) > 1 else alone)
    if options.csv:
        write_csv(study.timelines, Path(options.csv), options.per_frame, pipe.model.config.class_names)
    if options.timeline and study.timelines:
        draw_timeline(study.timelines[videos[0]], Path(options.timeline))
    if options.overlay and study.timelines:
        write_overlay(videos[0], study.timelines[videos[0]], Path(options.overlay))
    for name in ("timeline", "overlay"):
        if getattr(options, name) and not study.timelines:
            print(f"--{name} {getattr(options, name)}: not written, the video could not be read", file=sys.stderr)
    if study.failures:
        print(f"{len(study.failures)} of {len(videos)} videos could not be read:", file=sys.stderr)
    for failure in study.failures.values():
        print(f"  {failure['message']}", file=sys.stderr)
    return 1 if study.failures else 0


def write_answers(file: Path, answers: list[dict[str, Any]], whole: Any = None) -> None:
    """Writes answers as one JSON value, `whole` or else all of them, or with the ending .jsonl each on a line."""
    from mtcae_dfer.hub_dataset.files import plain_values, write_json, write_text

    if file.suffix.lower() == ".jsonl":
        lines = [json.dumps(plain_values(answer), ensure_ascii=False, allow_nan=False) for answer in answers]
        write_text(file, "\n".join(lines))
    else:
        write_json(file, answers if whole is None else whole)


def run_study(options: argparse.Namespace) -> int:
    """Predicts all videos into a folder of answers, or goes on where that was stopped."""
    unfit = [name for name in ONE_FILE if getattr(options, name)]
    if unfit:
        raise ValueError(f"{_spelled(unfit)}: writes one file; with --output-dir, --each says what each video gets")
    given = pipeline_options(options)
    timelines = bool(given or options.per_frame or set(options.each) - {"picture"})
    clip_only = [name for name, asked in {"picture": "picture" in options.each, **vars(options)}.items() if asked]
    clip_only = [name for name in CLIP_OPTIONS if name in clip_only]
    if timelines and clip_only:
        raise ValueError(f"{_spelled(clip_only)}: not for a timeline, which the other options ask for")
    from mtcae_dfer.hub_dataset.files import writing_in
    from mtcae_dfer.inference.answering import Crew, answer_study
    from mtcae_dfer.inference.answers import StudyOptions, open_answers, plan_study
    from mtcae_dfer.inference.models import load_model

    crew, folder = Crew(options.engine, options.workers, options.ray_address), Path(options.output_dir)
    study = StudyOptions(
        timelines=timelines,
        pipeline=given,
        top_k=options.top_k,
        verify_face=options.verify_face,
        per_frame=options.per_frame,
        device=options.device,
        also=tuple(options.each),
    )
    videos = plan_study(options.videos, folder, study.also)
    model, processor = load_model(chosen_model(options), options.device)
    folder.mkdir(exist_ok=True)
    with writing_in(folder):
        answers = open_answers(folder, study, model, processor, options.recompute)
        failures = answer_study(videos, answers, model, processor, crew)
    print(f"{len(videos) - len(failures)} of {len(videos)} videos have an answer in {folder}; all of them: all.csv")
    if failures:
        print(f"{len(failures)} of {len(videos)} videos could not be read (failures.csv):", file=sys.stderr)
    for _, message in sorted(failures.items()):
        print(f"  {message}", file=sys.stderr)
    return 1 if failures else 0


def run_camera(options: argparse.Namespace) -> int:
    """Watches a camera until it ends or is interrupted, and prints each window as it ends."""
    unfit = [name for name in (*TIMELINE_OUTPUTS, *CLIP_OPTIONS) if getattr(options, name)]
    unfit += ["output_dir"] if options.output_dir else []
    if options.videos or unfit:
        named = " ".join([*options.videos, *([_spelled(unfit)] if unfit else [])])
        raise ValueError(f"--webcam: a camera is watched as it comes, without {named}")
    check_output_options(options, [options.webcam])
    from mtcae_dfer.inference.camera import camera_frames
    from mtcae_dfer.inference.timeline_files import format_live_window

    with camera_frames(options.webcam) as frames, contextlib.ExitStack() as files:
        lines = files.enter_context(open(options.json, "w", encoding="utf-8")) if options.json else None
        pipe, given = make_pipeline(options)
        for window in pipe(frames, **given):
            print(format_live_window(window), flush=True)
            if lines is not None:
                print(json.dumps(window, ensure_ascii=False, allow_nan=False), file=lines, flush=True)
    return 0


def make_pipeline(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The timeline pipeline of the chosen model, and the options for its calls, which it has checked."""
    from mtcae_dfer.inference.models import load_model
    from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline

    given = pipeline_options(options)
    model, processor = load_model(chosen_model(options), options.device)
    pipe = FacialExpressionTimelinePipeline(model=model, video_processor=processor, device=options.device)
    return pipe, given | {"top_k": options.top_k}


def pipeline_options(options: argparse.Namespace) -> dict[str, Any]:
    """The timeline's options that were given; refuses those that do not fit."""
    from mtcae_dfer.timeline_windows import TimelineOptions

    given = {name: getattr(options, name) for name in PIPELINE_OPTIONS if getattr(options, name) is not None}
    TimelineOptions(**given)
    return given


def _spelled(names: list[str]) -> str:
    return " ".join(f"--{name.replace('_', '-')}" for name in names)
