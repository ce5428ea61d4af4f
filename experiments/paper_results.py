"""What the paper (MTCAE-DFER, IJCB 2025) reports, in percent: Table I and its comparison, each over five folds.

These are the only figures in this repository that no run of it has made.
"""

from __future__ import annotations

from typing import TypedDict

PAPER_CORPORA = ("RAVDESS", "CREMA-D", "MEAD")  # with 7, 6 and 8 classes


class PaperFigures(TypedDict):
    """UAR and WAR in percent on one corpus; None where the paper gives none."""

    uar: float | None
    war: float | None


def _row(*pairs: tuple[float | None, float]) -> dict[str, PaperFigures]:
    return {corpus: PaperFigures(uar=uar, war=war) for corpus, (uar, war) in zip(PAPER_CORPORA, pairs, strict=True)}


# Table I: structure and decoder -> corpus -> figures, in the paper's order.
PAPER_STRUCTURES = {
    "single_task": _row((72.36, 74.44), (75.87, 76.21), (77.83, 79.61)),
    "non_fully_shared_mlp": _row((75.56, 77.28), (77.23, 79.89), (81.40, 82.14)),
    "non_fully_shared_vit": _row((81.11, 82.17), (83.40, 83.67), (84.75, 86.57)),
    "fully_shared_mlp": _row((75.95, 76.84), (76.25, 77.55), (79.12, 80.93)),
    "fully_shared_vit": _row((80.02, 81.43), (81.64, 82.38), (84.03, 84.74)),
    "cascaded": _row((82.73, 83.69), (84.71, 85.03), (87.51, 88.44)),
}

# The other methods that the paper compares with.
PAPER_RIVALS = {
    "VO-LSTM": _row((None, 60.50), (None, 66.80), (None, 68.87)),
    "3D ResNeXt-50": _row((None, 62.99), (None, 69.14), (None, 72.56)),
    "SVFAP": _row((75.15, 75.01), (77.31, 77.37), (80.04, 80.23)),
    "MAE-DFER": _row((75.91, 75.56), (77.33, 77.38), (80.71, 80.95)),
    "MNC": _row((61.81, 61.43), (67.93, 68.57), (70.82, 70.16)),
    "MTL-ER": _row((73.54, 74.19), (74.45, 75.62), (77.26, 78.36)),
    "MTFormer": _row((79.40, 79.68), (79.34, 80.74), (84.03, 84.74)),
}
