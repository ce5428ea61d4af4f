"""What several raters saw in a clip: a row's attribute `votes`, such as "anger 3, neutral 4, unknown 1"."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from mtcae_dfer.hub_dataset.clips import DatasetError

VOTES = "votes"  # the attribute's name
FEWEST_VOTES = 5  # for classes of a model; with fewer a clip's label stands alone


def read_votes(names: Sequence[str], attributes: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Votes of N rows for each of K classes, float32 (N, K); zeros where a row tells none.

    Args:
        names: the column "name".
        attributes: the column "attributes", JSON objects.
        class_names: K names.

    Raises:
        DatasetError: a row's votes cannot be read; the message names it.
    """
    counts = np.zeros((len(names), len(class_names)), np.float32)
    for index, told in enumerate(attributes):
        try:
            counts[index] = count_votes(json.loads(told).get(VOTES, ""), class_names)
        except DatasetError as error:
            raise DatasetError(f"{names[index]}: {error}") from error
    return counts


def vote_shares(votes: np.ndarray) -> np.ndarray:
    """Votes (N, K) as shares of each row, float32; zeros where there are fewer than `FEWEST_VOTES`."""
    counts = votes.sum(axis=1, keepdims=True)
    return np.where(counts >= FEWEST_VOTES, votes / np.maximum(counts, 1), 0).astype(np.float32)


def majority_of_votes(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What most raters saw: the class with the most of each row's votes (N, K), and whether it stands.

    Returns:
        Class ids (N,), and bool (N,): True where one class alone has the most votes and no fewer than `FEWEST_VOTES`.
    """
    most = votes.max(axis=1)
    alone = (votes == most[:, None]).sum(axis=1) == 1
    return votes.argmax(axis=1), (most >= FEWEST_VOTES) & alone


def count_votes(told: str, class_names: Sequence[str]) -> list[int]:
    """Votes for each class out of what a row tells; other names do not count.

    Raises:
        DatasetError: it is not like "anger 3, neutral 4, unknown 1".
    """
    counts = {}
    for entry in filter(None, told.split(",")):
        name, _, count = entry.strip().rpartition(" ")
        if not (name and count.isdecimal()):
            raise DatasetError(f"votes {told!r}: write names and whole numbers, such as 'anger 3, neutral 4'")
        counts[name] = int(count)
    return [counts.get(name, 0) for name in class_names]
