"""The data set's card: README.md with the head that the Hub and `load_dataset` read, out of its Jinja template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtcae_dfer.hub_dataset.building.report import BuildReport
from mtcae_dfer.hub_dataset.corpora.registry import find_corpus
from mtcae_dfer.hub_dataset.folds import GIVEN, KINDS_OF_PARTS, OFFICIAL, count_units, fold_table
from mtcae_dfer.hub_dataset.templates import fill_template

TEMPLATE = "data_set_card.md.jinja"
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
DIVISIONS = {
    OFFICIAL: (
        "The clips of a part (a sixtieth of an official list) stand together; the corpus does not tell its subjects."
    ),
    GIVEN: "The source itself divides them; the same person can stand in several splits.",
}
CLIPS_IN_LIST = 100
SUBJECTS_IN_TABLE = 100  # longer tables are left to build_report.json


def render_card(report: BuildReport, files: Mapping[str, Mapping[str, Sequence[str]]], license_name: str) -> str:
    """The text of README.md.

    Args:
        report: what was built.
        files: Parquet files of each split of each fold, relative to the data set's folder.
        license_name: licence of the videos, as the Hub spells it.
    """
    import yaml

    kind = report.protocol["kind"]
    units = "parts" if kind in KINDS_OF_PARTS else "subjects"
    corpus = report.options.get("corpus")
    configs: list[dict[str, Any]] = []
    for fold, splits in files.items():
        data_files = [{"split": split, "path": list(paths)} for split, paths in splits.items() if paths]
        default = {} if configs else {"default": True}
        configs.append({"config_name": fold, **default, "data_files": data_files})
    head = {
        "pretty_name": report.dataset_name,
        "license": license_name,
        "task_categories": ["video-classification"],
        "tags": ["facial-expression-recognition", "face-landmarks", "mtcae-dfer"],
        "size_categories": [next((name for limit, name in SIZE_CATEGORIES if report.clip_count < limit), "n>1M")],
        "configs": configs,
    }
    values = dict(
        report=report,
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
        options={"label_source": None, "stills": None, **report.options},
        frames=report.options["labelling"]["num_frames"],
        with_videos=report.options["embed_videos"],
        people=f"{count_units(report.subject_counts)} subjects",
        division=DIVISIONS.get(kind, "No subject stands in two splits of the same fold."),
        fold_rows=fold_table(report.protocol["folds"], report.fold_counts, units),
        columns=_columns(report),
        corpus=find_corpus(corpus) if corpus else None,
        longest_list=CLIPS_IN_LIST,
        longest_table=SUBJECTS_IN_TABLE,
        percent="{:.1%}".format,
        cell=lambda text: text.replace("|", "\\|"),
    )
    return fill_template(Path(__file__).with_name(TEMPLATE), values)


def _columns(report: BuildReport) -> list[tuple[str, str]]:
    """Name and content of every column."""
    frames = report.options["labelling"]["num_frames"]
    kind = "video" if report.options.get("stills") is None else "picture or filmed picture's"
    video = [("video", f"the {kind} file: `bytes` and `path`")] if report.options["embed_videos"] else []
    return [
        *video,
        ("expression", "class id; names: " + ", ".join(report.class_names)),
        ("subject", "who is seen"),
        ("name", "path of the clip in its source folder"),
        ("attributes", "everything else that the corpus tells about the clip, as a JSON object"),
        ("sha256", "SHA-256 of the video file"),
        ("frame_indices", f"({frames},) labelled frames, in display order"),
        ("face_boxes", f"({frames}, 4) x1, y1, x2, y2, divided by frame width and height; NaN where no face"),
        (
            "face_landmarks",
            f"({frames}, 5, 2) viewer's left eye, right eye, nose, left and right mouth corner; as above",
        ),
        ("face_found", f"({frames},) whether box and points are given"),
        ("face_confidence", f"({frames},) MTCNN's probability, 0 where it found no face"),
        ("face_count", f"({frames},) all faces found in the frame; one of them is labelled"),
        ("face_interpolated", f"({frames},) whether box and points are interpolated between neighbouring frames"),
    ]
