"""Pushing a data set: the dry run's list, the guard of licences, what reaches the Hub."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtcae_dfer.commands.command_line import main
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.loading.publishing import plan_upload, push_dataset


@pytest.fixture()
def dataset(small_dataset, tmp_path):
    """Makes a copy of the small data set with other things in its report."""

    def make(**told) -> Path:
        folder = Path(shutil.copytree(small_dataset, tmp_path / "data set"))
        report = json.loads((folder / "build_report.json").read_text())
        report["options"] |= told
        (folder / "build_report.json").write_text(json.dumps(report))
        return folder

    return make


class MadeUpHub:
    """Stands for HfApi; remembers the commit."""

    def __init__(self, there=()):
        self.there, self.commits = list(there), []

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        assert repo_type == "dataset" and exist_ok
        return SimpleNamespace(repo_id=repo_id)

    def list_repo_files(self, repo_id, repo_type):
        return self.there

    def create_commit(self, repo_id, operations, commit_message, repo_type):
        self.commits.append([(type(step).__name__, step.path_in_repo) for step in operations])
        return SimpleNamespace(commit_url=f"https://huggingface.co/datasets/{repo_id}/commit/1")


def test_a_dry_run_lists_every_file_with_its_size_and_touches_no_network(dataset, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    folder = dataset(corpus="ravdess")
    assert main(["dataset", "push", str(folder), "someone/faces", "--dry-run"]) == 0
    told = capsys.readouterr().out
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert f"{file.stat().st_size / 1e6:.3f} MB  {file.relative_to(folder).as_posix()}\n" in told
    assert "for https://huggingface.co/datasets/someone/faces" in told


def test_videos_that_may_not_be_passed_on_are_refused_unless_told(dataset, capsys):
    folder = dataset(corpus="mead")
    with pytest.raises(DatasetError, match="licence of MEAD does not let others pass them on: .*--labels-only"):
        plan_upload(folder, "someone/faces")
    assert "README.md" in plan_upload(folder, "someone/faces", permission=True).sizes
    assert main(["dataset", "push", str(folder), "someone/faces", "--dry-run"]) != 0
    assert main(["dataset", "push", str(folder), "someone/faces", "--dry-run", "--i-may-publish-these-videos"]) == 0
    assert "contact_sheets/" in capsys.readouterr().out


def test_labels_of_such_a_corpus_go_without_its_pictures(dataset):
    upload = plan_upload(dataset(corpus="mead", embed_videos=False), "someone/labels")
    assert any(path.startswith("data/") for path in upload.sizes) and "README.md" in upload.sizes
    assert not any(path.startswith("contact_sheets/") for path in upload.sizes)
    assert upload.left_out and all(path.startswith("contact_sheets/") for path in upload.left_out)


def test_an_unknown_licence_allows_nothing_and_a_told_one_does(small_dataset, dataset):
    with pytest.raises(DatasetError, match="their licence is unknown"):
        plan_upload(small_dataset, "someone/faces")
    assert not plan_upload(dataset(license="cc-by-4.0"), "someone/faces").left_out


def test_one_commit_adds_the_files_and_deletes_those_of_an_earlier_upload(dataset, monkeypatch):
    hub = MadeUpHub(there=["README.md", ".gitattributes", "data/train-old.parquet", "notes.txt"])
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    upload = plan_upload(dataset(license="cc-by-4.0"), "someone/faces")
    assert push_dataset(upload) == "https://huggingface.co/datasets/someone/faces/commit/1"
    (steps,) = hub.commits
    assert [path for kind, path in steps if kind == "CommitOperationDelete"] == ["data/train-old.parquet"]
    assert [path for kind, path in steps if kind == "CommitOperationAdd"] == list(upload.sizes)


def test_a_hub_that_cannot_be_reached_is_one_line(dataset, monkeypatch):
    hub = MadeUpHub()
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route")))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    with pytest.raises(DatasetError, match="someone/faces could not be uploaded .no route."):
        push_dataset(plan_upload(dataset(license="cc-by-4.0"), "someone/faces"))


@pytest.mark.parametrize("name", ["faces", "a/b/c", "some one/faces", "../faces"])
def test_names_that_are_no_repositorys_are_refused(dataset, name):
    with pytest.raises(DatasetError, match="is no name of a repository"):
        plan_upload(dataset(license="cc-by-4.0"), name)


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is no data set of this package"):
        plan_upload(tmp_path, "someone/faces")
