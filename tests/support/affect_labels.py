"""Affect labels for tests: neutral everywhere, unless a test says otherwise."""

import numpy as np

from mtcae_dfer.hub_dataset.affect_labels import AffectLabels


def some_labels(frames: int, **columns: np.ndarray) -> AffectLabels:
    values = {
        "frame_indices": np.arange(frames),
        "valence": np.zeros(frames, np.float32),
        "arousal": np.zeros(frames, np.float32),
        "expression": np.zeros(frames, np.int64),
        "action_units": np.zeros((frames, 12), np.int64),
    }
    return AffectLabels(**(values | columns))
