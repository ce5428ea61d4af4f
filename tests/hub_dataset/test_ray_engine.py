"""Labelling on a local Ray cluster of two workers: the same data set as from processes of this machine."""

import dataclasses
import sys

import pytest

from mtcae_dfer.hub_dataset import ray_cluster
from mtcae_dfer.hub_dataset.building import build as building
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.clips import Clip, DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.labelling import ray_engine
from mtcae_dfer.hub_dataset.labelling.one_machine import LabellingOptions
from tests.support.small_data import SMALL_EXPRESSIONS
from tests.support.video_files import write_text_as_video

OPTIONS = BuildOptions(class_names=SMALL_EXPRESSIONS, labelling=LabellingOptions(num_frames=4, height=160, width=160))


@pytest.fixture(scope="module")
def clips(small_corpus, tmp_path_factory) -> list[Clip]:
    """The small corpus and one file that is no video."""
    bad = write_text_as_video(tmp_path_factory.mktemp("bad") / "bad.mp4")
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS)
    return [*clips, Clip(bad, "neutral", clips[0].subject, "bad.mp4")]


def files_of(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_cluster_of_two_workers_builds_the_very_same_data_set(clips, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray_engine, "CLIPS_PER_TASK", 2)  # four tasks for two workers
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    try:
        report = build_dataset(clips, tmp_path / "ray", OPTIONS, workers=2, progress=False, engine="ray")
        assert ray.is_initialized()  # a cluster that was there before stays
    finally:
        ray.shutdown()
    build_dataset(clips, tmp_path / "here", OPTIONS, workers=1, progress=False)
    assert [failure["name"] for failure in report.failures] == ["bad.mp4"]
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")


def test_without_ray_one_line_says_how_to_install_it(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[ray\]"'):
        build_dataset(clips, tmp_path / "out", OPTIONS, progress=False, engine="ray")


def test_an_unknown_engine_and_an_address_without_ray_are_refused(clips, tmp_path):
    with pytest.raises(DatasetError, match="Engine 'dask' is unknown: choose one of processes, ray"):
        build_dataset(clips, tmp_path / "out", OPTIONS, progress=False, engine="dask")
    with pytest.raises(DatasetError, match="A Ray address was given, but not the engine 'ray'"):
        build_dataset(clips, tmp_path / "out", OPTIONS, progress=False, ray_address="auto")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_line(clips, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(DatasetError, match="The Ray cluster auto is not there"):
        build_dataset(clips, tmp_path / "out", OPTIONS, progress=False, engine="ray", ray_address="auto")


def test_a_build_that_began_on_processes_goes_on_with_ray_untouched(clips, tmp_path, monkeypatch):
    """Engines share the labels that are there: nothing is left to do, so no cluster is asked for."""
    monkeypatch.setattr(building, "write_groups", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    options = dataclasses.replace(OPTIONS, splits="none")
    with pytest.raises(KeyboardInterrupt):
        build_dataset(clips[:2], tmp_path / "out", options, workers=1, progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: pytest.fail("a cluster was asked for"))
    assert build_dataset(clips[:2], tmp_path / "out", options, progress=False, engine="ray").clip_count == 2
