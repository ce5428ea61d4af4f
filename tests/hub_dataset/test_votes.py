"""Votes of raters as rows tell them."""

import numpy as np
import pytest

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.votes import count_votes, majority_of_votes, read_votes, vote_shares

CLASSES = ("neutral", "anger", "fear")


def test_votes_are_counted_by_the_names_of_the_classes() -> None:
    assert count_votes("anger 3, neutral 4, unknown 1", CLASSES) == [4, 3, 0]
    assert count_votes("", CLASSES) == [0, 0, 0]
    assert count_votes("mild anger 2,fear 1", CLASSES) == [0, 0, 1]


def test_shares_of_fewer_than_five_votes_are_none() -> None:
    shares = vote_shares(np.array([[3, 2, 0], [2, 2, 0], [0, 0, 0]], np.float32))
    np.testing.assert_allclose(shares, [[0.6, 0.4, 0], [0, 0, 0], [0, 0, 0]])


def test_a_majority_is_one_class_alone_with_five_votes() -> None:
    majority, stands = majority_of_votes(np.array([[2, 7, 0], [5, 5, 0], [4, 3, 3], [0, 0, 5], [0, 0, 0]], np.float32))
    assert stands.tolist() == [True, False, False, True, False]
    assert majority[stands].tolist() == [1, 2]


@pytest.mark.parametrize("told", ["anger", "anger three", "anger -1", "3"])
def test_votes_that_cannot_be_read_name_their_row(told: str) -> None:
    with pytest.raises(DatasetError, match=f"b.mp4: votes '{told}': write names and whole numbers, such as 'anger 3"):
        read_votes(["a.mp4", "b.mp4"], ['{"age": "30"}', f'{{"votes": "{told}"}}'], CLASSES)
