"""The same photograph in two splits: found by fingerprints of its pixels, whatever its name, size or compression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of 256 bits. All pairs across FER2013's splits that were looked at, up to 44 bits, showed the same photograph, other
# cuts of it among them; above, more and more different people meet.
LARGEST_DISTANCE = 32
ROWS_AT_ONCE = 1024


def find_copies(
    fingerprints: np.ndarray, others: np.ndarray, largest_distance: int = LARGEST_DISTANCE
) -> list[tuple[int, int]]:
    """Pictures that are near copies of one of the others.

    Args:
        fingerprints: bool (N, 256).
        others: bool (M, 256).
        largest_distance: in how many bits copies may differ.

    Returns:
        Position of each picture with a copy, and of the most similar one of the others; in the order of positions.
    """
    if not len(fingerprints) or not len(others):
        return []
    # With bits as -1 and 1, a product of two fingerprints is their length less twice the bits that differ.
    signs, other_signs = (2.0 * bits.astype(np.float32) - 1.0 for bits in (fingerprints, others))
    copies = []
    for start in range(0, len(signs), ROWS_AT_ONCE):
        products = signs[start : start + ROWS_AT_ONCE] @ other_signs.T  # (rows, M)
        nearest = products.argmax(axis=1)
        distances = (signs.shape[1] - products[np.arange(len(nearest)), nearest]) / 2
        copies += [(start + row, int(nearest[row])) for row in (distances <= largest_distance).nonzero()[0].tolist()]
    return copies


def copies_across_splits(fingerprints: np.ndarray, splits: Sequence[str]) -> dict[int, int]:
    """Pictures of which a split that must not have seen them has a near copy.

    Args:
        fingerprints: bool (N, 256).
        splits: split of each picture, "train", "validation" or "test".

    Returns:
        Position of each training picture with a copy among validation or test pictures, and of each validation picture
        with one among test pictures -> position of that copy.
    """
    found: dict[int, int] = {}
    names = np.asarray(splits)
    for split, held_out in (("train", ("validation", "test")), ("validation", ("test",))):
        positions, others = (names == split).nonzero()[0], np.isin(names, held_out).nonzero()[0]
        for position, other in find_copies(fingerprints[positions], fingerprints[others]):
            found[int(positions[position])] = int(others[other])
    return found
