"""What several test files share: small drawn corpora, a data set and a run made from them, and real clips."""

import os
from pathlib import Path

# Before torch is imported: test processes that work side by side share the processors, and so do processes they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for variable in ("OMP_NUM_THREADS", "MTCAE_THREADS"):  # the second: of runs, which a test process may be, too
        os.environ.setdefault(variable, str(max(1, share)))

import pytest
import torch

from mtcae_dfer.hub_dataset.affect_labels import attach_drawn_labels
from mtcae_dfer.hub_dataset.building.build import BuildOptions, build_dataset
from mtcae_dfer.hub_dataset.corpora.folder import read_folder
from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus
from tests.support.small_data import SMALL_EXPRESSIONS

if "OMP_NUM_THREADS" in os.environ:
    # Where the checkout's folder has the package's name, pytest has imported it, and torch with it, before this file.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

REAL_SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn corpus of six short clips: three subjects, two expressions."""
    config = SyntheticCorpusConfig(subjects=3, takes=1, expressions=SMALL_EXPRESSIONS, min_frames=18, max_frames=20)
    return make_synthetic_corpus(tmp_path_factory.mktemp("drawn") / "corpus", config, workers=1, progress=False)


@pytest.fixture(scope="session")
def small_dataset(small_corpus: Path) -> Path:
    """The small corpus as a labelled data set: one subject in each split."""
    clips = read_folder(small_corpus / "videos" / "clips.csv", class_names=SMALL_EXPRESSIONS)
    clips = attach_drawn_labels(clips, small_corpus)
    folder = small_corpus.parent / "dataset"
    build_dataset(clips, folder, BuildOptions(class_names=SMALL_EXPRESSIONS), workers=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def small_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs of the tiny preset on the small data set."""
    from mtcae_dfer.training.run import main

    folder = tmp_path_factory.mktemp("runs") / "small"
    words = ["--dataset", str(small_dataset), "--output_dir", str(folder), "--num_train_epochs", "2"]
    assert main([*words, "--save_seconds", "0"]) == 0
    return folder


@pytest.fixture()
def real_samples() -> Path:
    """The folder of real clips; the test is skipped where there is none."""
    if not REAL_SAMPLES.is_dir():
        pytest.skip("the real sample clips are not here")
    return REAL_SAMPLES
