"""Protocols: no subject in two splits, everything tested once, the same division from the same seed."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, Clip, DatasetError
from mtcae_dfer.hub_dataset.folds import (
    PARTS_PER_FOLD,
    SPLITS,
    Fold,
    Protocol,
    count_units,
    divide_present,
    divided_units,
    emptied_splits,
    fold_table,
    make_protocol,
    name_part,
)

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


RAVDESS_ACTORS = [f"{actor:02d}" for actor in range(1, 25)]
CREMA_D_ACTORS = [str(actor) for actor in range(1001, 1092)]
acted_corpora = st.one_of(
    st.tuples(st.just("ravdess"), st.sets(st.sampled_from(RAVDESS_ACTORS), min_size=5)),
    st.tuples(st.just("crema-d"), st.sets(st.sampled_from(CREMA_D_ACTORS), min_size=5)),
)


@given(acted_corpora, seeds, st.sampled_from(["mtcae-dfer", "mae-dfer", "leave-one-subject-out"]), st.data())
@settings(max_examples=100, deadline=None)
def test_every_clip_of_an_acted_corpus_is_tested_once_and_no_subject_stands_in_two_splits(corpus, seed, kind, data):
    name, actors = corpus
    counts = {actor: data.draw(st.integers(1, 4)) for actor in sorted(actors)}
    clips = [Clip(Path("x"), "neutral", actor, f"{actor}/{take}") for actor in counts for take in range(counts[actor])]
    if kind == "mae-dfer":
        first, size = {"ravdess": (1, 4), "crema-d": (1001, 18)}[name]
        groups = Counter(min((int(actor) - first) // size, 5 if name == "ravdess" else 4) for actor in actors)
        assume(len(actors) - max(groups.values()) >= 2)  # somebody to train on, and somebody to choose by
    units = divided_units(clips, kind)
    folds = make_protocol(units, kind, seed, corpus=name).folds
    tested = [clip.name for fold in folds for clip, unit in zip(clips, units, strict=True) if unit in fold.test]
    assert sorted(tested) == sorted(clip.name for clip in clips)
    for fold in folds:
        assert sorted(subjects_of(fold)) == sorted(set(units))  # each once: no subject in two splits
        assert fold.train and fold.validation and fold.test


def test_mae_dfers_folds_are_the_published_ones():
    folds = make_protocol(RAVDESS_ACTORS, "mae-dfer", corpus="ravdess").folds
    assert [fold.test for fold in folds] == [
        ("01", "02", "03", "04"),
        ("05", "06", "07", "08"),
        ("09", "10", "11", "12"),
        ("13", "14", "15", "16"),
        ("17", "18", "19", "20"),
        ("21", "22", "23", "24"),
    ]
    folds = make_protocol(CREMA_D_ACTORS, "mae-dfer", corpus="crema-d").folds
    assert [(fold.test[0], fold.test[-1], len(fold.test)) for fold in folds] == [
        ("1001", "1018", 18),
        ("1019", "1036", 18),
        ("1037", "1054", 18),
        ("1055", "1072", 18),
        ("1073", "1091", 19),
    ]


def test_published_folds_without_their_actors_are_left_out_and_told():
    protocol = make_protocol(["01", "02", "06", "24"], "mae-dfer", corpus="ravdess")
    assert [(fold.name, fold.test) for fold in protocol.folds] == [
        ("fold_1", ("01", "02")),
        ("fold_2", ("06",)),
        ("fold_6", ("24",)),
    ]
    assert protocol.name == (
        "MAE-DFER's 6 folds of ravdess (validation subjects: seed 0), 3 of them without subjects left out"
    )


def test_who_has_no_readable_clip_stands_in_no_split():
    folds = (Fold("one", ("a", "b"), ("c",), ("d",)), Fold("two", ("c", "d"), ("a",), ("b",)))
    left = divide_present(Protocol("p", "folds", folds), {"a", "c", "d"})
    name = "p, 1 subject(s) without readable clips left out with 1 of 2 folds"
    assert left == Protocol(name, "folds", (Fold("one", ("a",), ("c",), ("d",)),))
    assert divide_present(Protocol("p", "folds", folds), "abcd") == Protocol("p", "folds", folds)
    with pytest.raises(DatasetError, match="'p': no clip of the subjects that it tests"):
        divide_present(Protocol("p", "folds", folds), {"a", "c"})
    undivided = Protocol("all", "none", (Fold("all", ("a", "b")),))
    assert divide_present(undivided, {"b"}).folds == (Fold("all", ("b",)),)


def test_a_holdout_that_lost_a_split_names_what_is_left_and_says_so():
    protocol = make_protocol("ABC", "holdout")
    (fold,) = protocol.folds
    left = divide_present(protocol, {*fold.train, *fold.test})
    assert left.name == (
        "subject-independent holdout (seed 0: 1/0/1 subjects), 1 subject(s) without readable clips left out"
    )
    assert emptied_splits(protocol) == {}
    assert emptied_splits(left) == {"default": "no subject of its validation split has a readable clip"}
    left = divide_present(protocol, set(fold.test))
    assert emptied_splits(left) == {"default": "no subject of its train and validation split has a readable clip"}
    assert emptied_splits(make_protocol("ABC", "none")) == {}


def test_unknown_subjects_are_not_counted_as_one():
    assert count_units({"A": 3, "B": 1}) == "2"
    assert count_units([UNKNOWN_SUBJECT]) == "unknown"
    assert count_units(["A", UNKNOWN_SUBJECT, "B"]) == "2 and unknown"


def test_the_papers_folds_are_five_and_say_that_they_are_a_division_of_our_own():
    protocol = make_protocol(RAVDESS_ACTORS, "mtcae-dfer", seed=2, num_folds=3, corpus="ravdess")
    assert len(protocol.folds) == 5 and protocol.kind == "mtcae-dfer"
    assert protocol.name == ("MTCAE-DFER's 5 subject-independent folds (lists unpublished: subjects dealt by seed 2)")
    assert {len(fold.test) for fold in protocol.folds} == {4, 5}  # 24 actors with as many clips each


# -- official lists: parts of clips take the place of subjects

listed_clips = st.dictionaries(
    st.text("abcdefgh0123456789", min_size=1, max_size=5), st.integers(1, 5), min_size=40, max_size=120
)


@given(listed_clips, seeds, st.floats(0.05, 0.4))
@settings(max_examples=50, deadline=None)
def test_every_listed_clip_is_tested_in_its_own_fold_and_stands_in_one_split_of_each(tested_in, seed, share):
    for fold in range(1, 6):  # every fold tests something
        tested_in[f"always {fold}"] = fold
    clips = [
        Clip(Path("x"), "neutral", UNKNOWN_SUBJECT, key, part=name_part(f"fold_{fold}", key))
        for key, fold in tested_in.items()
    ]
    units = divided_units(clips, "official")
    protocol = make_protocol(units, "official", seed, validation_share=share, corpus="dfew")
    assert [fold.name for fold in protocol.folds] == [f"fold_{number}" for number in range(1, 6)]
    for number, fold in enumerate(protocol.folds, 1):
        splits = {clip.name: fold.split_of(unit) for clip, unit in zip(clips, units, strict=True)}
        assert all((splits[key] == "test") == (tested_in[key] == number) for key in splits)
        assert {"train", "validation", "test"} == set(splits.values())


def test_the_validation_clips_of_official_lists_are_the_wanted_share_of_the_training_clips():
    keys = [f"{number:05d}" for number in range(11697)]
    parts = [name_part(f"fold_{number % 5 + 1}", key) for number, key in enumerate(keys)]
    assert len(set(parts)) == 5 * PARTS_PER_FOLD
    for fold in make_protocol(parts, "official", corpus="dfew").folds:
        sizes = Counter(fold.split_of(part) for part in parts)
        assert sizes["test"] in (2339, 2340)
        assert sizes["validation"] / (sizes["validation"] + sizes["train"]) == pytest.approx(1 / 6, abs=0.01)


def test_a_clip_stays_in_its_part_whatever_else_is_in_the_lists():
    assert name_part("fold_2", "00017") == name_part("fold_2", "00017") == "fold_2/29"
    assert name_part(None, "00017") == "train/29"


# -- class balance


def test_the_fold_table_tells_the_classes_of_every_split_and_how_far_they_are_off():
    folds = [{"name": "fold_1", "train": ["A", "B"], "validation": [], "test": ["C"]}]
    counts = {
        "fold_1": {
            "train": {"neutral": 6, "fear": 2},
            "validation": {"neutral": 0, "fear": 0},
            "test": {"neutral": 0, "fear": 2},
        }
    }
    assert fold_table(folds, counts) == [
        ["fold", "split", "subjects", "clips", "neutral", "fear", "shift"],
        ["fold_1", "train", "2", "8", "6", "2", "15.0"],  # 75 % neutral instead of 60 %
        ["fold_1", "test", "1", "2", "0", "2", "60.0"],
    ]


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
    ("subjects", "kind", "corpus", "message"),
    [
        (["M003", "M005", "M007"], "mae-dfer", "mead", "'mae-dfer' exist for ravdess, crema-d only: choose one of mtc"),
        (["a", "b", "c"], "mtcae-dfer", None, "'mtcae-dfer' exist for ravdess, crema-d, mead only: choose one of hold"),
        (["01", "05", "09"], "official", "ravdess", "'official' exist for dfew, ferv39k, mafw only"),
        (["a", "b", "c"], "folds", "dfew", "'folds' are unknown: choose one of official, none"),
        (["01", "05", "25"], "mae-dfer", "ravdess", "Subject '25' is in none of the mae-dfer folds of ravdess"),
        (["01", "02", "03"], "mae-dfer", "ravdess", "leaves 0 of 3 subjects for training and validation"),
        (["01", "02", "03", "05"], "mae-dfer", "ravdess", "leaves 1 of 4 subjects for training and validation"),
        (["01", "02", "03"], "mtcae-dfer", "ravdess", "5 folds are not possible with 3 subjects"),
        (["train/01", "train/02"], "official", "dfew", "No clip is in the test lists of dfew"),
        (["fold_1/01", "fold_1/02", "train/02"], "official", "dfew", "Too few clips are in the training lists of dfew"),
    ],
)
def test_protocols_that_a_corpus_does_not_have_are_refused(subjects, kind, corpus, message):
    with pytest.raises(DatasetError, match=message) as error:
        make_protocol(subjects, kind, corpus=corpus)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("AB", "holdout"), "splits='holdout': 2 subject.s. .A, B. cannot be divided"),
        (
            ([UNKNOWN_SUBJECT] * 4 + ["A", "B"], "folds"),
            "splits='folds': 4 clips have no known subject; tell the subjects",
        ),
        (("ABCDEF", "thirds"), "holdout, folds, leave-one-subject-out, none"),
        (("ABCDEF", "folds", 0, 7), "num_folds=7: must be at least 3 and at most the number of subjects, 6"),
        (("ABC", "folds", 0, 1), "num_folds=1: must be at least 3 and at most the number of subjects, 3"),
        (("ABCDEF", "folds", 0, 2), "num_folds=2: must be at least 3 and at most the number of subjects, 6"),
        (("ABCDEF", "holdout", 0, 5, 0.5, 0.5), "leave none of 6 subjects"),
        (("ABCDEF", "holdout", 0, 5, 0.0), "validation_share=0.0: must lie between 0 and 1"),
        (("ABCDEF", "holdout", 0, 5, 0.2, 1.0), "test_share=1.0: must lie between 0 and 1"),
        (((), "none"), "no clips"),
    ],
)
def test_impossible_divisions_are_refused_in_one_line(arguments, message):
    with pytest.raises(DatasetError, match=message) as error:
        make_protocol(*arguments)
    assert "\n" not in str(error.value)
