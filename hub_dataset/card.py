"""The data set's card: README.md with the head that the Hub and `load_dataset` read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtcae_dfer.hub_dataset.building import BuildReport

SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SUBJECTS_IN_TABLE = 100  # longer tables are left to build_report.json


def render_card(report: BuildReport, files: Mapping[str, Mapping[str, Sequence[str]]], license_name: str) -> str:
    """The text of README.md.

    Args:
        report: what was built.
        files: Parquet files of each split of each fold, relative to the data set's folder.
        license_name: licence of the videos, as the Hub spells it.
    """
    import yaml

    head = yaml.safe_dump(_head(report, files, license_name), sort_keys=False, allow_unicode=True)
    sections = (
        _introduction(report),
        _loading(report),
        _protocol(report),
        _counts("Classes", report.class_counts, report.class_coverage),
        _counts("Subjects", report.subject_counts, report.subject_coverage),
        _columns(report),
        _failures(report),
    )
    return f"---\n{head}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _head(report: BuildReport, files: Mapping[str, Mapping[str, Sequence[str]]], license_name: str) -> dict[str, Any]:
    configs = []
    for number, (fold, splits) in enumerate(files.items()):
        data_files = [{"split": split, "path": list(paths)} for split, paths in splits.items() if paths]
        configs.append({"config_name": fold, **({"default": True} if number == 0 else {}), "data_files": data_files})
    return {
        "pretty_name": report.dataset_name,
        "license": license_name,
        "task_categories": ["video-classification"],
        "tags": ["facial-expression-recognition", "face-landmarks", "mtcae-dfer"],
        "size_categories": [next((name for limit, name in SIZE_CATEGORIES if report.clip_count < limit), "n>1M")],
        "configs": configs,
    }


def _introduction(report: BuildReport) -> str:
    options = report.options["labelling"]
    return (
        f"# {report.dataset_name}\n\n"
        f"{report.clip_count} clips of {len(report.subject_counts)} subjects in {len(report.class_names)} classes "
        "of facial expression. Each clip carries the untouched video file and, for the "
        f"{options['num_frames']} frames that a model gets (spread evenly over the clip, squashed to "
        f"{options['width']}×{options['height']}), a face box and five facial points found by MTCNN. "
        f"A face was found in {report.face_coverage:.1%} of these frames."
    )


def _loading(report: BuildReport) -> str:
    first = report.protocol["folds"][0]["name"]
    note = f" The first fold is the default; name another one, as in `load_dataset(FOLDER, {first!r})`."
    return (
        "```python\nfrom datasets import load_dataset\n\n"
        "splits = load_dataset(FOLDER)  # the folder or repository of this card\n"
        'splits["train"][0]["video"]["bytes"]  # the video file; mtcae_dfer.video_reading.read_clip decodes it\n```'
        + (note if len(report.protocol["folds"]) > 1 else "")
    )


def _protocol(report: BuildReport) -> str:
    lines = [
        f"## Protocol: {report.protocol['name']}",
        "",
        "No subject stands in two splits of the same fold.",
        "",
        "| fold | split | subjects | clips | " + " | ".join(report.class_names) + " |",
        "|---|---|---:|---:|" + "---:|" * len(report.class_names),
    ]
    for fold in report.protocol["folds"]:
        for split, counts in report.fold_counts[fold["name"]].items():
            if fold[split]:
                cells = [fold["name"], split, len(fold[split]), sum(counts.values()), *counts.values()]
                lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _counts(title: str, counts: Mapping[str, int], coverage: Mapping[str, float]) -> str:
    if len(counts) > SUBJECTS_IN_TABLE:
        return f"## {title}\n\n{len(counts)} in all; build_report.json lists them."
    rows = [f"| {_cell(name)} | {count} | {_share(coverage.get(name))} |" for name, count in counts.items()]
    header = [f"## {title}", "", "| name | clips | frames with a face |", "|---|---:|---:|"]
    return "\n".join(header + rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _columns(report: BuildReport) -> str:
    frames = report.options["labelling"]["num_frames"]
    rows = (
        ("video", "the video file: `bytes` and `path`"),
        ("expression", "class id; names: " + ", ".join(report.class_names)),
        ("subject", "who is seen"),
        ("name", "path of the clip in its source folder"),
        ("sha256", "SHA-256 of the video file"),
        ("frame_indices", f"({frames},) labelled frames, in display order"),
        ("face_boxes", f"({frames}, 4) x1, y1, x2, y2, divided by frame width and height; NaN where no face"),
        (
            "face_landmarks",
            f"({frames}, 5, 2) viewer's left eye, right eye, nose, left and right mouth corner; as above",
        ),
        ("face_found", f"({frames},) whether a face was found"),
        ("face_confidence", f"({frames},) MTCNN's probability, 0 where no face"),
        ("face_count", f"({frames},) all faces found in the frame; one of them is labelled"),
    )
    lines = ["## Columns", "", "| column | content |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {_cell(text)} |" for name, text in rows])


def _failures(report: BuildReport) -> str:
    if not report.failures:
        return ""
    lines = [f"## Left out\n\n{len(report.failures)} clips could not be read:", ""]
    return "\n".join(lines + [f"- {failure['name']}: {failure['reason']}" for failure in report.failures])
