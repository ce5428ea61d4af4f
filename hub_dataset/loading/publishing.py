"""`mtcae dataset push DIR org/name`: a built data set to the Hub, as far as the licence of its videos allows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mtcae_dfer.hub_dataset.building.contact_sheets import SHEETS_FOLDER
from mtcae_dfer.hub_dataset.building.report import BuildReport, read_build_report
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora.registry import find_corpus

UNKNOWN_LICENSE = "unknown"
PERMISSION_OPTION = "--i-may-publish-these-videos"


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub. Paths are relative to the data set's folder."""

    dataset_dir: Path
    repo_id: str
    sizes: dict[str, int]  # bytes by path
    left_out: dict[str, str]  # reason by path

    def describe(self) -> list[str]:
        """One line per file, and a sum."""
        lines = [f"  {size / 1e6:10.3f} MB  {path}" for path, size in self.sizes.items()]
        total = sum(self.sizes.values()) / 1e6
        lines.append(f"{len(self.sizes)} files, {total:.3f} MB, for https://huggingface.co/datasets/{self.repo_id}")
        return lines + [f"not uploaded: {path} ({reason})" for path, reason in self.left_out.items()]


def plan_upload(dataset_dir: str | os.PathLike, repo_id: str, permission: bool = False) -> Upload:
    """Lists what would be uploaded; touches no network.

    Args:
        dataset_dir: folder of a built data set.
        repo_id: org/name on the Hub.
        permission: the caller may publish videos and pictures although the corpus's licence does not say so.

    Raises:
        DatasetError: the folder holds no data set, the name is no repository's, or the data set holds videos that may
            not be passed on.
    """
    report = read_build_report(dataset_dir)
    check_repo_id(repo_id)
    objection = None if permission else licence_objection(report)
    if objection is not None and report.options["embed_videos"]:
        raise DatasetError(
            f"{dataset_dir} holds videos, and {objection}: build it with --labels-only and push the labels alone, or "
            f"pass {PERMISSION_OPTION} if their owners allow it."
        )
    folder = Path(dataset_dir)
    sizes, left_out = {}, {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder).as_posix()
        if objection is not None and path.startswith(f"{SHEETS_FOLDER}/"):
            left_out[path] = objection
        elif any(part.startswith(".") for part in file.relative_to(folder).parts):
            left_out[path] = "hidden"
        else:
            sizes[path] = file.stat().st_size
    return Upload(folder, repo_id, sizes, left_out)


def licence_objection(report: BuildReport) -> str | None:
    """Why the videos of a data set, and pictures of them, may not be passed on; None where they may."""
    name = report.options.get("corpus")
    if name is not None:
        corpus = find_corpus(name)
        return None if corpus.redistribution else f"the licence of {corpus.title} does not let others pass them on"
    if report.options["license"] == UNKNOWN_LICENSE:
        return "their licence is unknown (--license of the build tells it)"
    return None


def push_dataset(upload: Upload, private: bool = False) -> str:
    """Uploads the planned files in one commit; returns the commit's address.

    Files of an earlier upload that are no longer part of the data set are deleted from the repository.

    Raises:
        DatasetError: the Hub refused, or cannot be reached.
    """
    from huggingface_hub import CommitOperation, CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        repository = api.create_repo(upload.repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        there = api.list_repo_files(repository, repo_type="dataset")
        ours = (f"{SHEETS_FOLDER}/", "data/")
        stale = [path for path in there if path not in upload.sizes and path.startswith(ours)]
        operations: list[CommitOperation] = [CommitOperationDelete(path) for path in stale]
        operations += [CommitOperationAdd(path, upload.dataset_dir / path) for path in upload.sizes]
        commit = api.create_commit(
            repository, operations, commit_message="Data set, card and build report", repo_type="dataset"
        )
    except (OSError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DatasetError(
            f"{upload.repo_id} could not be uploaded ({reason}): log in with `hf auth login`?"
        ) from error
    return commit.commit_url


def check_repo_id(repo_id: str) -> None:
    """Raises a DatasetError unless this is org/name, as the Hub takes it; of a data set or of a model."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise DatasetError(f"{repo_id!r} is no name of a repository: {error}") from error
    if "/" not in repo_id:
        raise DatasetError(f"{repo_id!r} is no name of a repository: it must be org/name.")
