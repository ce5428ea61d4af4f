"""A video in; a table, a CSV file and an annotated video out.

python examples/predict_a_video.py film.mp4 --model runs/tiny
python examples/predict_a_video.py                    # draws a clip, and takes the demonstration model
"""

import argparse
from pathlib import Path

from transformers import AutoModel, AutoVideoProcessor

from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from mtcae_dfer.inference.annotated_video import write_overlay
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL
from mtcae_dfer.inference.timeline_files import timeline_to_pandas, write_csv
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline


def draw_a_clip(folder: Path) -> Path:
    """One drawn person who is surprised."""
    config = SyntheticCorpusConfig(subjects=1, takes=1, expressions=("surprise",), seed=3)
    corpus = make_synthetic_corpus(folder / "drawn", config, workers=1, progress=False)
    return next((corpus / "videos").rglob("*.mp4"))


def main() -> None:
    """Predicts one video and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="video file (default: one is drawn)")
    parser.add_argument("--model", default=str(DEMONSTRATION_MODEL), help="model folder or Hub id")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/example-prediction"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    video = options.video or draw_a_clip(options.output_dir)

    model = AutoModel.from_pretrained(options.model).eval()
    processor = AutoVideoProcessor.from_pretrained(options.model)
    pipe = FacialExpressionTimelinePipeline(model=model, video_processor=processor, device="cpu")
    timeline = pipe(str(video), window_seconds=1.0)

    print(timeline_to_pandas(timeline).round(2).to_string(index=False))
    # Every sampled frame with its box and its five points, for work of one's own.
    write_csv({video.name: timeline}, options.output_dir / "frames.csv", per_frame=True)
    write_overlay(str(video), timeline, options.output_dir / "seen.mp4", progress=False)
    print(f"frames.csv and seen.mp4: {options.output_dir}")


if __name__ == "__main__":
    main()
