"""`mtcae explain`: pictures of where the decoders looked."""

import argparse
from pathlib import Path

from .model_options import add_model_arguments, chosen_model
from .output_files import PICTURE_SUFFIXES, check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    parser.add_argument("video", metavar="VIDEO", help="video file")
    parser.add_argument("--output", metavar="PNG", default="explanation.png", help="the picture (explanation.png)")
    parser.add_argument("--frames", type=int, default=6, help="how many of the frames to show (default: 6)")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draws the attention of every stage on the video's frames."""
    check_outputs({"--output": (options.output, PICTURE_SUFFIXES)}, [options.video])
    if options.frames < 1:
        raise ValueError(f"--frames {options.frames}: must be at least 1")
    from mtcae_dfer.inference.clips import NO_FACE
    from mtcae_dfer.inference.explain import explain_video
    from mtcae_dfer.inference.models import load_model

    model, processor = load_model(chosen_model(options), options.device)
    explanation = explain_video(options.video, model, processor, Path(options.output), options.frames)
    best, probability = next(iter(explanation.scores.items()))
    print(f"{options.video}: {best} {probability:.1%}; the picture is {options.output}")
    if not explanation.face_found:
        print(f"  {NO_FACE}")
    return 0
