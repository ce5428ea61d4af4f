"""Protocols: no subject in two splits, everything tested once, the same division from the same seed."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, DatasetError
from mtcae_dfer.hub_dataset.folds import SPLITS, make_protocol

names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=6).filter(
    lambda n: n != UNKNOWN_SUBJECT
)
corpora = st.lists(names, min_size=3, max_size=30, unique=True).flatmap(
    lambda subjects: st.lists(st.integers(1, 5), min_size=len(subjects), max_size=len(subjects)).map(
        lambda counts: [subject for subject, count in zip(subjects, counts, strict=True) for _ in range(count)]
    )
)
seeds = st.integers(0, 1000)


def subjects_of(fold) -> list[str]:
    return [subject for split in SPLITS for subject in getattr(fold, split)]


@given(corpora, seeds, st.floats(0.01, 0.3), st.floats(0.01, 0.3))
@settings(max_examples=100, deadline=None)
def test_a_holdout_puts_every_subject_into_exactly_one_split(clips, seed, validation_share, test_share):
    (fold,) = make_protocol(clips, "holdout", seed, 5, validation_share, test_share).folds
    assert sorted(subjects_of(fold)) == sorted(set(clips))
    assert fold.train and fold.validation and fold.test


@given(corpora, seeds, st.data())
@settings(max_examples=100, deadline=None)
def test_folds_test_every_subject_once_and_never_train_or_choose_on_it(clips, seed, data):
    num_folds = data.draw(st.integers(3, len(set(clips))))
    folds = make_protocol(clips, "folds", seed, num_folds).folds
    assert len(folds) == num_folds
    assert sorted(subject for fold in folds for subject in fold.test) == sorted(set(clips))
    for fold in folds:
        assert sorted(subjects_of(fold)) == sorted(set(clips))  # each once: no subject in two splits
        assert fold.train and fold.validation and fold.test


@given(corpora, seeds)
@settings(max_examples=50, deadline=None)
def test_folds_hold_about_as_many_clips(clips, seed):
    counts = Counter(clips)
    folds = make_protocol(clips, "folds", seed, 3).folds
    sizes = [sum(counts[subject] for subject in fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= max(counts.values())


@given(corpora, seeds)
@settings(max_examples=50, deadline=None)
def test_leaving_one_subject_out_tests_one_subject_per_fold(clips, seed):
    folds = make_protocol(clips, "leave-one-subject-out", seed).folds
    assert sorted(fold.test for fold in folds) == sorted((subject,) for subject in set(clips))
    for fold in folds:
        assert sorted(subjects_of(fold)) == sorted(set(clips))


@given(corpora, seeds, st.sampled_from(["holdout", "folds", "leave-one-subject-out", "none"]), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_clips_does_not_matter(clips, seed, kind, random):
    shuffled = list(clips)
    random.shuffle(shuffled)
    assert make_protocol(shuffled, kind, seed, 3) == make_protocol(clips, kind, seed, 3)


def test_the_division_is_the_same_on_every_machine():
    subjects = [f"S{number:02d}" for number in range(1, 13)]
    (fold,) = make_protocol(subjects, "holdout", seed=0).folds
    assert (len(fold.train), len(fold.validation), len(fold.test)) == (8, 2, 2)
    assert (fold.validation, fold.test) == (("S02", "S07"), ("S04", "S06"))


def test_another_seed_gives_another_division():
    subjects = [f"S{number:02d}" for number in range(24)]
    assert len({make_protocol(subjects, "holdout", seed).folds[0].test for seed in range(5)}) > 1


def test_protocols_have_names():
    subjects = [f"S{number:02d}" for number in range(24)]
    assert make_protocol(subjects).name == "subject-independent holdout (seed 0: 16/4/4 subjects)"
    assert make_protocol(subjects, "folds", seed=3).name == "subject-independent 5-fold (seed 3)"
    assert make_protocol(subjects, "leave-one-subject-out").name == "leave-one-subject-out"
    assert make_protocol(["one"] * 6, "none").name == "no split (training clips only)"


def test_without_splits_everybody_trains_known_or_not():
    (fold,) = make_protocol([UNKNOWN_SUBJECT, "A"], "none").folds
    assert fold.train == ("A", UNKNOWN_SUBJECT) and fold.validation == fold.test == ()


def test_a_fold_knows_the_split_of_a_subject():
    (fold,) = make_protocol("ABC", "holdout").folds
    assert sorted(fold.split_of(subject) for subject in "ABC") == ["test", "train", "validation"]
    with pytest.raises(KeyError, match="'D'"):
        fold.split_of("D")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("AB", "holdout"), "2 subject.s. .A, B. cannot be divided"),
        (([UNKNOWN_SUBJECT] * 4 + ["A", "B"], "folds"), "4 clips have no known subject"),
        (("ABCDEF", "thirds"), "holdout, folds, leave-one-subject-out, none"),
        (("ABCDEF", "folds", 0, 7), "7 folds are not possible with 6 subjects"),
        (("ABCDEF", "folds", 0, 2), "choose between 3 and 6"),
        (("ABCDEF", "holdout", 0, 5, 0.5, 0.5), "leave none of 6 subjects"),
        (("ABCDEF", "holdout", 0, 5, 0.0), "validation_share is 0.0"),
        (("ABCDEF", "holdout", 0, 5, 0.2, 1.0), "test_share is 1.0"),
        (((), "none"), "no clips"),
    ],
)
def test_impossible_divisions_are_refused_in_one_line(arguments, message):
    with pytest.raises(DatasetError, match=message) as error:
        make_protocol(*arguments)
    assert "\n" not in str(error.value)
