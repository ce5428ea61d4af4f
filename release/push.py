"""`mtcae push RUN org/name`: from a finished run to a model repository on the Hub, or, dry, to a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtcae_dfer.experiments.plots import draw_results
from mtcae_dfer.experiments.results import (
    RESULTS_FILE,
    CrossValidation,
    FinishedRun,
    load_results,
    summarise_folds,
    write_results,
)
from mtcae_dfer.hub_dataset.loading.publishing import check_repo_id
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.release.model_card import hub_name, render_card
from mtcae_dfer.training.evaluation.report import REPORT_FILE, load_report
from mtcae_dfer.training.model_folder import add_modules


def write_model_folder(run_dir: Path, repo_id: str, folder: Path, license_name: str | None = None) -> None:
    """Writes what a repository on the Hub holds: weights, configs, all modules, results, pictures and the card.

    Args:
        run_dir: of a finished run. Where it is a fold of a collected cross-validation, the card shows all of its folds.
        repo_id: org/name, for the card.
        folder: replaced if it is an earlier one of these.
        license_name: see `model_card.render_card`.

    Raises:
        ValueError: the run is not finished, the name is no repository's, or the folder holds something else.
    """
    check_repo_id(repo_id)
    results = without_paths(results_of(run_dir))
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "config.json").is_file() or (folder / REPORT_FILE).exists():
            raise ValueError(f"{folder} holds something else than a model folder: choose another --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = MTCAEForMultiTaskVideo.from_pretrained(run_dir)
    model.save_pretrained(folder)
    MTCAEVideoProcessor.from_pretrained(run_dir).save_pretrained(folder)
    add_modules(folder)
    write_results(results, folder)
    draw_results(results, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Written last: a folder with a card is whole.
    (folder / "README.md").write_text(render_card(repo_id, results, config, license_name), encoding="utf-8")


def results_of(run_dir: Path) -> CrossValidation:
    """The results that a card shows: of the cross-validation around the run, or of the run alone.

    Raises:
        ValueError: there is no finished run.
    """
    if (run_dir / RESULTS_FILE).exists() and not (run_dir / REPORT_FILE).exists():
        runs = sorted(file.parent.name for file in run_dir.glob(f"*/{REPORT_FILE}"))
        raise ValueError(
            f"{run_dir} holds several models: choose one of its runs ({', '.join(runs) or 'in its sub-folders'})"
        )
    report = load_report(run_dir / REPORT_FILE)
    around = run_dir.resolve().parent / RESULTS_FILE
    fold = report["options"].get("fold") or "test"
    if around.exists():
        results = load_results(around)
        if results["kind"] == "cross_validation":
            tested = [(entry["fold"], entry["seed"]) for entry in results["folds"]]
            if (fold, report["seed"]) in tested:
                return results
    name = hub_name(str(report["options"]["model"]))
    return summarise_folds(name, report["protocol"], (), [FinishedRun(fold, report["seed"], run_dir, report)])


def without_paths(results: CrossValidation) -> CrossValidation:
    """The results without the folders of this machine: of each only its name remains, whichever option names it."""
    cleaned = results.copy()
    cleaned["options"] = last_parts(results["options"])
    cleaned["arguments"] = last_parts(results["arguments"])
    cleaned["dataset"] = {name: value for name, value in results["dataset"].items() if name != "path"}
    return cleaned


def last_parts(value: Any) -> Any:
    """An option's value, words or a mapping of options, with `hub_name` in the place of every path in it."""
    if isinstance(value, Mapping):
        return {name: last_parts(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [last_parts(entry) for entry in value]
    # A path stands alone, behind `--option=`, or before the share of a further data set, FOLDER:SHARE.
    return re.sub("[^=:]+", lambda part: hub_name(part[0]), value) if isinstance(value, str) else value


def upload(folder: Path, repo_id: str, private: bool = False) -> str:
    """Uploads a model folder; returns the address of the commit.

    Raises:
        OSError: the Hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    repository = api.create_repo(repo_id, exist_ok=True, private=private)
    return str(
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="Model, card and results")
    )
