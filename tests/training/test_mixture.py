"""Training on several data sets: shares of every batch, classes matched by name, indices over all clips."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.votes import read_votes, vote_shares
from mtcae_dfer.training.arguments import gather_lists, parse_also, parse_renames, parse_run_arguments
from mtcae_dfer.training.data import splits
from mtcae_dfer.training.data.augmentation import ClipChange
from mtcae_dfer.training.data.mixture import MixedClips, MixtureSampler, match_classes
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.run import main

# Clips 0 to 5 of the first data set, 6 to 9 of the second, 10 to 29 of the third.
PART_OF = torch.tensor([0] * 6 + [1] * 4 + [2] * 20)


def test_every_batch_has_the_shares_and_an_epoch_every_clip_of_the_first_data_set() -> None:
    sampler = MixtureSampler(PART_OF, [0.5, 0.25], batch_size=8, seed=3)
    assert len(sampler) == 3 * 8  # 2 of 8 clips are the first data set's: three batches for its six
    epochs = []
    for epoch in range(4):
        sampler.begin(epoch)
        order = torch.tensor(list(sampler))
        for batch in order.view(3, 8):
            assert torch.bincount(PART_OF[batch], minlength=3).tolist() == [2, 4, 2]
        assert sorted(order[order < 6].tolist()) == list(range(6))
        assert torch.bincount(order, minlength=10)[6:10].tolist() == [3] * 4  # whole shuffles of a small data set
        epochs.append(order.tolist())
    assert len({tuple(order) for order in epochs}) == 4
    assert len({clip for order in epochs for clip in order if clip >= 10}) > 12  # a large one shows others every epoch


def test_an_epoch_goes_on_where_it_stopped_and_processes_take_as_many_batches() -> None:
    sampler = MixtureSampler(PART_OF, [0.5, 0.25], batch_size=8, seed=3, processes=2)
    assert len(sampler) == 4 * 8
    sampler.begin(5)
    whole = list(sampler)
    sampler.begin(5, done=16)
    assert list(sampler) == whole[16:]


def test_a_share_of_less_than_a_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="--per_device_train_batch_size 4: too small for shares of 0.05"):
        MixtureSampler(PART_OF, [0.05, 0.25], batch_size=4)


def rows_of(classes: list[str], names: list[str], votes: list[str] | None = None) -> datasets.DatasetDict:
    words = {column: datasets.Value("string") for column in ("name", "attributes")}
    features = datasets.Features({"expression": datasets.ClassLabel(names=classes), **words})
    told = [json.dumps({"votes": row, "place": "hall"}) for row in votes] if votes else ["{}"] * len(names)
    columns = {
        "expression": [classes.index(name) for name in names],
        "name": [f"{place}-{name}" for place, name in enumerate(names)],
        "attributes": told,
    }
    return datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features)})


def test_classes_are_matched_by_name_whatever_their_order() -> None:
    rows = rows_of(["happy", "sadness", "contempt"], ["contempt", "happy", "sadness", "happy"])
    renames = parse_renames(["happy=happiness", "contempt="])
    matched = match_classes(rows, ["neutral", "sadness", "happiness"], renames, "B")["train"]
    assert matched["name"] == ["1-happy", "2-sadness", "3-happy"]
    assert matched["expression"] == [2, 1, 2]
    assert matched.features["expression"].names == ["neutral", "sadness", "happiness"]


def test_votes_of_raters_take_the_classes_new_names() -> None:
    votes = ["happy 4, sadness 2, unknown 3", "joy 1, happy 5, contempt 2", "contempt 9, happy 1", "neutral 3, happy 3"]
    rows = rows_of(["happy", "joy", "sadness", "contempt"], ["happy", "joy", "contempt", "sadness"], votes)
    classes = ["neutral", "sadness", "happiness"]
    renames = parse_renames(["happy=happiness", "joy=happiness", "contempt="])
    matched = match_classes(rows, classes, renames, "B")["train"]
    assert matched["name"] == ["0-happy", "1-joy", "3-sadness"] and matched["expression"] == [2, 2, 1]
    shares = vote_shares(read_votes(matched["name"], matched["attributes"], classes))
    expected = torch.tensor([[0, 2 / 6, 4 / 6], [0, 0, 1], [3 / 6, 0, 3 / 6]])
    torch.testing.assert_close(torch.from_numpy(shares), expected)
    assert all(json.loads(told)["place"] == "hall" for told in matched["attributes"])


def test_names_that_change_places_change_places_in_the_votes() -> None:
    rows = rows_of(["fear", "anger"], ["fear", "anger"], ["fear 5, anger 1", "anger 6"])
    matched = match_classes(rows, ["fear", "anger"], parse_renames(["fear=anger", "anger=fear"]), "B")["train"]
    assert matched["expression"] == [1, 0]
    assert read_votes(matched["name"], matched["attributes"], ["fear", "anger"]).tolist() == [[1, 5], [6, 0]]


def test_votes_that_cannot_be_read_name_their_clip() -> None:
    rows = rows_of(["fear", "anger"], ["fear", "anger"], ["fear 5", "anger six"])
    with pytest.raises(DatasetError, match="1-anger: votes 'anger six'"):
        match_classes(rows, ["panic", "anger"], parse_renames(["fear=panic"]), "B")


def test_a_class_that_is_spelt_differently_is_named_with_the_way_out() -> None:
    rows = rows_of(["happy", "sadness"], ["happy"])
    with pytest.raises(
        ValueError, match=r"B has the classes happy, .*\(neutral, happiness, sadness\).*--rename happy="
    ):
        match_classes(rows, ["neutral", "happiness", "sadness"], {}, "B")


class MadeUpClips:
    """Clips whose label tells whose they are."""

    affect_names: list[str] = []
    rows = crop = augmentation = None

    def __init__(self, count: int, first_label: int) -> None:
        self.names, self.subjects = [f"clip {number}" for number in range(count)], ["S"] * count
        self.labels = {"labels": first_label + torch.arange(count)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"labels": self.labels["labels"][index], "index": torch.tensor(index)}

    def changes(self, indices: list[int]) -> list[ClipChange]:
        return [ClipChange(degrees=float(self.labels["labels"][index])) for index in indices]


def test_an_index_counts_over_all_data_sets_and_each_draws_the_changes_of_its_clips() -> None:
    mixed = MixedClips([("A", MadeUpClips(3, 100)), ("B", MadeUpClips(2, 200))], [0.5])
    clips = [mixed[index] for index in (4, 0, 3, 2)]
    assert [int(clip["labels"]) for clip in clips] == [201, 100, 200, 102]
    assert [int(clip["index"]) for clip in clips] == [4, 0, 3, 2]
    assert [change.degrees for change in mixed.changes([4, 0, 3, 2])] == [201, 100, 200, 102]
    assert mixed.names[3] == "B: clip 0" and mixed.labels["labels"].tolist() == [100, 101, 102, 200, 201]


def test_a_list_may_be_given_in_one_word_or_in_several() -> None:
    words = ["--also", "B:0.5", "--seed", "3", "--also=C:0.25", "--rename", "a=b"]
    resolved = parse_run_arguments(words)
    assert resolved.data.also == ["B:0.5", "C:0.25"] and resolved.data.rename == ["a=b"]
    assert resolved.optimisation.seed == 3
    assert gather_lists(["--x", "1", "2"], ()) == ["--x", "1", "2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--also", "B"], "--also B: must be FOLDER:SHARE"),
        (["--also", "B:2"], "a share between 0 and 1"),
        (["--also", "B:0.5", "--also", "C:0.5"], "the shares leave nothing of a batch for --dataset"),
        (["--also", "x/B:0.2", "--also", "y/B:0.2"], "data sets need different names"),
        (["--rename", "a=b"], "needs --also"),
        (["--also", "B:0.5", "--rename", "a"], "must be old=new"),
        (["--also", "B:0.5", "--balanced_sampling", "true"], "not with --balanced_sampling"),
    ],
)
def test_wrong_mixtures_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_run_arguments(words)


def test_shares_are_read_behind_the_last_colon() -> None:
    (entry,) = parse_also(["C:/faces:0.5"])
    assert (entry.folder, entry.share, entry.name) == ("C:/faces", 0.5, "faces")


def test_a_run_on_two_data_sets_reports_both(small_dataset: Path, tmp_path: Path) -> None:
    words = ["--dataset", str(small_dataset), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    assert main([*words, "--per_device_train_batch_size", "2", "--also", f"{small_dataset}:0.5"]) == 0
    report = load_report(tmp_path / "run" / "report.json")
    (further,) = report["further_datasets"]
    assert further["share"] == "0.5" and further["path"] == str(small_dataset)
    (record,) = report["history"]
    # Trained on the same clips twice, its two validations are one and the same.
    assert record["validation_uar/dataset"] == record["validation_uar"]
    assert record["validation_loss/dataset"] == record["validation_loss"]


def test_who_is_tested_in_the_first_data_set_is_not_trained_on_in_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clips = rows_of(["neutral", "anger"], ["neutral", "anger", "anger", "neutral"])["train"]
    clips = clips.add_column("subject", ["01", "02", "01", "03"]).add_column("video", ["a", "b", "c", "d"])
    monkeypatch.setattr(splits, "load_fold", lambda folder: datasets.DatasetDict({"train": clips}))
    options = parse_run_arguments(["--also", "B:0.5"]).data

    def left(held_out: set[str]) -> list[str]:
        (further,) = splits.load_further_rows(options, ["neutral", "anger"], held_out).values()
        return further["train"]["name"]

    assert left({"01", "77"}) == ["1-anger", "3-neutral"]
    told = (
        "--also B: 2 training clips are left out, of subjects such as '01' whom the first data set validates or tests"
    )
    assert capsys.readouterr().err.startswith(told)
    assert len(left({"77"})) == 4 and not capsys.readouterr().err
    with pytest.raises(ValueError, match="--also B: no training clip is left"):
        left({"01", "02", "03"})
