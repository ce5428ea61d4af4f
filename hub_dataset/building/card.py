"""The data set's card: README.md with the head that the Hub and `load_dataset` read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT
from mtcae_dfer.hub_dataset.corpora.registry import describe_source, find_corpus
from mtcae_dfer.hub_dataset.folds import OFFICIAL, fold_table

if TYPE_CHECKING:
    from mtcae_dfer.hub_dataset.building.report import BuildReport

SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LOADING_LABELS = """The videos are not in this data set. With a copy of the corpus on disk, each label finds its video
by name and SHA-256; what is missing or differs is listed:

```python
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset

splits = load_multitask_dataset(FOLDER, videos="folder of the corpus")  # FOLDER: a copy of this data set
```"""
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

    head = yaml.safe_dump(_head(report, files, license_name), sort_keys=False, allow_unicode=True)
    sections = (
        _introduction(report),
        _loading(report),
        _protocol(report),
        _counts("Classes", report.class_counts, report.class_coverage),
        _counts("Subjects", report.subject_counts, report.subject_coverage),
        _columns(report),
        _contact_sheets(),
        _failures(report),
        _without_face(report),
        _source(report),
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
        f"{report.clip_count} clips of {_people(report)} in {len(report.class_names)} classes "
        f"of facial expression. Each clip carries {_video_content(report)} and, for the "
        f"{options['num_frames']} frames that a model gets (spread evenly over the clip, squashed to "
        f"{options['width']}×{options['height']}), a face box and five facial points found by MTCNN. "
        f"A face was found in {report.face_coverage:.1%} of these frames."
        + _interpolation(report)
        + _label_source(report)
    )


def _video_content(report: BuildReport) -> str:
    return "the untouched video file" if report.options["embed_videos"] else "the name and hash of its video file"


def _interpolation(report: BuildReport) -> str:
    longest = report.options["labelling"]["interpolate_gaps"]
    if longest == 0:
        return ""
    return (
        f" In {report.interpolated_share:.1%} more, a gap of at most {longest} labelled frames, box and points are "
        "interpolated between the neighbours; `face_interpolated` tells which."
    )


def _people(report: BuildReport) -> str:
    unknown = set(report.subject_counts) == {UNKNOWN_SUBJECT}
    return "unknown people" if unknown else f"{len(report.subject_counts)} subjects"


def _label_source(report: BuildReport) -> str:
    text = report.options.get("label_source")
    return f"\n\nLabels: {text}" if text else ""


def _source(report: BuildReport) -> str:
    name = report.options.get("corpus")
    return describe_source(find_corpus(name)) if name else ""


def _loading(report: BuildReport) -> str:
    first = report.protocol["folds"][0]["name"]
    if not report.options["embed_videos"]:
        return LOADING_LABELS
    note = f" The first fold is the default; name another one, as in `load_dataset(FOLDER, {first!r})`."
    return (
        "```python\nfrom datasets import load_dataset\n\n"
        "splits = load_dataset(FOLDER)  # the folder or repository of this card\n"
        'splits["train"][0]["video"]["bytes"]  # the video file; mtcae_dfer.video_reading.read_clip decodes it\n```'
        + (note if len(report.protocol["folds"]) > 1 else "")
    )


def _protocol(report: BuildReport) -> str:
    official = report.protocol["kind"] == OFFICIAL
    header, *rows = fold_table(report.protocol["folds"], report.fold_counts, "parts" if official else "subjects")
    lines = [
        f"## Protocol: {report.protocol['name']}",
        "",
        "The clips of a part (a sixtieth of an official list) stand together; the corpus does not tell its subjects."
        if official
        else "No subject stands in two splits of the same fold.",
        "Shift: the largest difference between a class's share of the split and of the fold, in percentage points.",
        "",
        _line(header),
        "|---|---|" + "---:|" * (len(header) - 2),
        *map(_line, rows),
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


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
    video = (("video", "the video file: `bytes` and `path`"),) if report.options["embed_videos"] else ()
    rows = (
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
    )
    lines = ["## Columns", "", "| column | content |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {_cell(text)} |" for name, text in rows])


def _failures(report: BuildReport) -> str:
    if not report.failures:
        return ""
    lines = [f"## Left out\n\n{len(report.failures)} clips:", ""]
    return "\n".join(lines + [f"- {failure['name']}: {failure['reason']}" for failure in report.failures])


def _contact_sheets() -> str:
    return (
        "## Contact sheets\n\n`contact_sheets/` shows some clips of every class with their boxes and points, and "
        "those with the fewest faces. The pictures show people: a copy of this data set lacks them where the videos "
        "may not be passed on."
    )


def _without_face(report: BuildReport) -> str:
    names = report.clips_without_face
    if not names:
        return ""
    told = "\n".join(f"- {name}" for name in names[:CLIPS_IN_LIST])
    rest = f"\n- and {len(names) - CLIPS_IN_LIST} more; build_report.json lists them" * (len(names) > CLIPS_IN_LIST)
    return f"## Without a face\n\nNo labelled frame of these {len(names)} clips shows a face:\n\n{told}{rest}"
