"""Trained models by folder or Hub id, and the published model that answers where none is named."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig, AutoVideoProcessor
from transformers.utils import cached_file

from mtcae_dfer.hub_dataset.clips import OptionError
from mtcae_dfer.hub_dataset.workers import check_device
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.weight_files import WEIGHT_FILES, damaged_weights

# The repository's root is a model folder: what the Hub serves, and what pip installs.
PUBLISHED_MODEL = Path(__file__).parents[1]
PUBLISHED_NOTE = (
    "The model of this repository was trained on stills of real faces (FER2013, LFW) and on drawn faces in motion: its "
    "scores say how people would label an expression, not what somebody feels."
)
# A cascade that knows drawn faces only, for tests and benchmarks.
DEMONSTRATION_MODEL = PUBLISHED_MODEL / "demonstration_model"
DRAWN_ONLY = "On real people its expressions mean nothing."
DEMONSTRATION_NOTE = "This demonstration model was trained on drawn faces: on real people its expressions mean nothing."


class ModelError(ValueError):
    """A model cannot be used. The message is one line for the user: what, where, what to do."""


def load_model(name: str, device: str = "cpu") -> tuple[MTCAEForMultiTaskVideo, MTCAEVideoProcessor]:
    """Loads a model with its processor for prediction.

    Args:
        name: model folder or Hub id.
        device: where the model runs.

    Returns:
        The model in evaluation mode, and what makes its input.

    Raises:
        ModelError: no such model, a folder without weights or with damaged ones, or a model of another kind.
    """
    try:
        check_device(device)
    except OptionError as error:
        raise ModelError(f"--device {device}: {error.rule}") from error
    folder = Path(name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in WEIGHT_FILES):
            raise ModelError(f"{name}: the folder holds no weights ({WEIGHT_FILES[0]}); give a trained model's folder")
    try:
        config = AutoConfig.from_pretrained(name)
        processor = AutoVideoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: no model folder or Hub id that can be read ({reason})") from error
    if config.model_type != "mtcae":
        raise ModelError(f"{name}: holds a model of type {config.model_type}, not mtcae; train one on top of it first")
    if processor.num_frames != config.num_frames:
        raise ModelError(
            f"{name}: the model takes {config.num_frames} frames, but its processor samples {processor.num_frames}; "
            f"set num_frames to {config.num_frames} in video_preprocessor_config.json"
        )
    damage = damaged_weights(name)
    if damage is not None:
        raise ModelError(damage)
    model: MTCAEForMultiTaskVideo = MTCAEForMultiTaskVideo.from_pretrained(name)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps nn.Module's method and loses its signature
    return model.eval(), processor


def trained_on(name: str) -> str:
    """One sentence on what a model was trained on, from the report of its run or the results beside its card.

    Args:
        name: model folder or Hub id.
    """
    own_notes = {PUBLISHED_MODEL: PUBLISHED_NOTE, DEMONSTRATION_MODEL: DEMONSTRATION_NOTE}
    if Path(name).resolve() in own_notes:
        return own_notes[Path(name).resolve()]
    for record in ("report.json", "results.json"):
        file = cached_file(
            name, record, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if file is not None:
            known = json.loads(Path(file).read_text(encoding="utf-8"))
            clips = known.get("dataset", {}).get("name") or "a data set without a name"
            told = f"This model was trained on {clips}: {known.get('data', 'clips that its report does not describe')}."
            return told + (f" {DRAWN_ONLY}" if "drawn" in told else "")
    return "This model does not say what it was trained on: read its card before you trust a score."
