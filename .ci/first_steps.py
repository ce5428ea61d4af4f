"""What a user does first, on this Python: import, draw three clips, read one, build a data set of them, predict one."""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from datasets import load_dataset

import mtcae_dfer
from mtcae_dfer.hub_dataset.synthetic.corpus import SyntheticCorpusConfig, make_synthetic_corpus
from mtcae_dfer.video_reading import read_clip

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Raises an error where a step fails."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "datasets", "av", "numpy"))
    print(f"Python {sys.version.split()[0]}, {packages}", flush=True)
    assert "site-packages" in str(mtcae_dfer.__file__), mtcae_dfer.__file__
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = SyntheticCorpusConfig(subjects=3, takes=1, expressions=("happiness",), min_frames=18, max_frames=20)
        make_synthetic_corpus(folder / "drawn", config, workers=1, progress=False)
        clips = sorted((folder / "drawn" / "videos").rglob("*.mp4"))
        frames = read_clip(clips[0], num_frames=4).frames
        assert len(clips) == 3 and frames.shape[0] == 4, (clips, frames.shape)
        mtcae("dataset", "build", "folder", str(folder / "drawn" / "videos" / "clips.csv"), str(folder / "dataset"))
        splits = load_dataset(str(folder / "dataset"))
        assert sum(split.num_rows for split in splits.values()) == 3, splits
        result = folder / "result.json"
        mtcae("predict", str(clips[0]), "--model", str(CHECKOUT / "demonstration_model"), "--json", str(result))
        assert "happiness" in result.read_text(encoding="utf-8")


def mtcae(*words: str) -> None:
    """Runs the installed command.

    Raises:
        CalledProcessError: it failed; what it said stands on standard error.
    """
    subprocess.run([str(Path(sys.executable).with_name("mtcae")), *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
