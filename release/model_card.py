"""The card of a trained model: README.md with the head that the Hub reads, rendered from results alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mtcae_dfer.experiments.results import FIGURE_KEYS, CrossValidation, Summary
from mtcae_dfer.experiments.tables import (
    bootstrap_remark,
    class_rows,
    fold_rows,
    format_markdown,
    group_rows,
    interval,
    percent,
    summary_rows,
)
from mtcae_dfer.hub_dataset.corpora.registry import CORPORA
from mtcae_dfer.training.arguments import available_presets
from mtcae_dfer.training.evaluation.report import FIGURES

CODE_LICENSE = "apache-2.0"
PICTURES = ("confusion_matrix", "recall", "subjects", "curves")
# The Hub's name for a figure's metric; the others go by their own.
HUB_METRICS = {"uar": "recall", "war": "accuracy"}
RECIPE = (
    *("model", "structure", "decoder_type", "pooling", "tasks", "freeze_encoder", "num_train_epochs"),
    *("per_device_train_batch_size", "learning_rate", "weight_decay", "warmup_epochs", "lr_scheduler_type"),
    *("label_smoothing_factor", "augment", "seed", "bf16", "fp16"),
)
# Shown where a run used them: by default each of them is off.
RECIPE_EXTRAS = {
    **{"scale_learning_rate": False, "layer_decay": 1.0, "drop_path": 0.0, "ema_decay": 0.0},
    **{"gradient_accumulation_steps": 1, "early_stopping_patience": 0, "class_weights": "none"},
    **{"balanced_sampling": False, "task_weighting": "fixed", "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    **{"frame_stride": None, "test_segments": 1, "test_flip": False},
}
# Licences of which a model made from several parts takes the strictest, the strictest first.
STRICTEST_FIRST = ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "odbl", CODE_LICENSE)


@dataclass(frozen=True)
class LicenseLink:
    """One part of what a model is made of, with its terms."""

    part: str
    license: str  # as the Hub spells it
    note: str = ""


def license_chain(results: CrossValidation) -> list[LicenseLink]:
    """Code, weights that the training started from, and data, each with its licence."""
    links = [LicenseLink("Code of the model and its training", CODE_LICENSE)]
    links += [_starting_weights(start) for start in starting_points(results)]
    dataset = results["dataset"]
    corpus = CORPORA.get(dataset.get("corpus", ""))
    note = corpus.license_note if corpus else ""
    title = f"Training clips: {dataset.get('name', results['data'])}"
    return [*links, LicenseLink(title, dataset.get("license", "unknown"), note)]


def starting_points(results: CrossValidation) -> list[str]:
    """The checkpoints that the training started from: folders or Hub ids; none for a fresh model."""
    chosen = (results["options"].get(name) for name in ("model", "encoder"))
    return [str(start) for start in chosen if start and start not in available_presets()]


def _starting_weights(start: str) -> LicenseLink:
    name = hub_name(start)
    if "videomae" in start.lower():
        note = "The published VideoMAE weights are for non-commercial use."
        return LicenseLink(f"Encoder weights: VideoMAE ({name})", "cc-by-nc-4.0", note)
    note = "The terms of the checkpoint that the training started from hold too; look them up in its own card."
    return LicenseLink(f"Starting weights: {name}", "unknown", note)


def resulting_license(chain: list[LicenseLink]) -> str:
    """The licence that satisfies every link, as the Hub spells it; "other" where one is unknown or of its own kind."""
    named = {link.license for link in chain}
    if not named <= set(STRICTEST_FIRST) or {"odbl", "cc-by-nc-4.0"} <= named or {"odbl", "cc-by-nc-sa-4.0"} <= named:
        return "other"
    return next(name for name in STRICTEST_FIRST if name in named)


def hub_name(name: str) -> str:
    """A Hub id as it is; of a folder on this machine its last part only."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    return name if len(parts) <= 2 and not name.startswith((".", "/")) else parts[-1]


def render_card(
    repo_id: str, results: CrossValidation, config: Mapping[str, Any], license_name: str | None = None
) -> str:
    """The text of README.md.

    Args:
        repo_id: org/name of the repository.
        results: of the run alone, or of the cross-validation that it is a fold of.
        config: the model's config.json.
        license_name: the licence of the weights; None: what follows from their parts.
    """
    chain = license_chain(results)
    head = card_data(repo_id, results, license_name or resulting_license(chain)).to_yaml()
    sections = (
        _introduction(repo_id, results, config),
        _usage(repo_id, config),
        _results(results),
        _protocol(results),
        _bias(results),
        _training(results, config),
        _intended_use(),
        _limits(results),
        _licences(chain, license_name or resulting_license(chain)),
    )
    return f"---\n{head}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def card_data(repo_id: str, results: CrossValidation, license_name: str) -> ModelCardData:
    """The head: licence, tags, and the results as the Hub's model-index."""
    on_the_hub = [start for start in starting_points(results) if hub_name(start) == start and "/" in start]
    return ModelCardData(
        license=license_name,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["facial-expression-recognition", "face-landmarks", "multi-task", "mtcae"],
        metrics=list(HUB_METRICS.values()),
        base_model=on_the_hub[-1] if on_the_hub else None,
        model_name=repo_id.split("/")[-1],
        eval_results=_eval_results(results),
    )


def _eval_results(results: CrossValidation) -> list[EvalResult]:
    dataset = results["dataset"].get("name", results["data"])
    shared = {
        "task_type": "video-classification",
        "task_name": "Facial expression recognition in video",
        "dataset_type": dataset.lower().replace(" ", "-"),
        "dataset_name": f"{results['data']} ({results['protocol']})",
        "dataset_split": "test",
    }
    known = {key: results["summary"][key] for key in FIGURE_KEYS if results["summary"][key]["mean"] is not None}
    return [
        EvalResult(
            metric_type=HUB_METRICS.get(key, key),
            metric_name=_metric_name(key, figures),
            metric_value=round(figures["mean"], 4),
            **shared,
        )
        for key, figures in known.items()
    ]


def _metric_name(key: str, figures: Summary) -> str:
    return FIGURES[key][0] + ("" if figures["std"] is None else ", mean over folds")


def _introduction(repo_id: str, results: CrossValidation, config: Mapping[str, Any]) -> str:
    tasks = " → ".join(task["name"].replace("_", " ") for task in config["tasks"])
    classes = ", ".join(results["classes"])
    return (
        f"# {repo_id.split('/')[-1]}\n\n"
        f"Facial expression in video, of {len(results['classes'])} classes ({classes}), by a multi-task autoencoder "
        "after *MTCAE-DFER: Multi-Task Cascaded Autoencoder for Dynamic Facial Expression Recognition* (IJCB 2025). "
        f"Structure: {config['structure'].replace('_', ' ')}; tasks: {tasks}; "
        f"encoder: {config['encoder_config']['model_type']}; {results['parameters']:,} weights. "
        f"Trained on {results['data']}."
    )


def _usage(repo_id: str, config: Mapping[str, Any]) -> str:
    custom = sorted(config.get("custom_pipelines", {}))
    line = f'pipeline("{custom[0]}", model="{repo_id}", trust_remote_code=True)("clip.mp4")\n' if custom else ""
    return (
        "```python\nfrom transformers import AutoModel, AutoVideoProcessor, pipeline\n\n"
        f'pipeline("video-classification", model="{repo_id}", trust_remote_code=True)("clip.mp4", top_k=3)\n{line}\n'
        f'model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True).eval()\n'
        f'processor = AutoVideoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)\n'
        'outputs = model(processor("clip.mp4")["pixel_values"])  # .logits, .face_boxes, .face_landmarks\n```'
    )


def _results(results: CrossValidation) -> str:
    several = len(results["folds"]) > 1
    note = (
        "\n\nThe weights here are those of one fold; the figures are those of the models of all folds, trained alike."
        if several
        else ""
    )
    parts = [
        f"## Results\n\nOn subjects that the model never saw, in percent: {results['protocol']}.{note}",
        format_markdown(summary_rows(results)),
        *([format_markdown(fold_rows(results))] if several else []),
        format_markdown(class_rows(results)),
        bootstrap_remark(results),
        " ".join(f"![{name.replace('_', ' ')}](plots/{name}.png)" for name in _pictures(results)),
    ]
    return "\n\n".join(parts)


def _pictures(results: CrossValidation) -> list[str]:
    return [name for name in PICTURES if name != "subjects" or results["per_subject"]]


def _protocol(results: CrossValidation) -> str:
    lines = [f"## Protocol: {results['protocol']}", ""]
    if results["bootstrap"]["unit"] == "subject":
        lines += ["No subject stands in two splits of a fold.", ""]
    lines += ["| fold | training subjects | validation | test |", "|---|---:|---:|---:|"]
    for fold in results["folds"]:
        sizes = (len(fold["subjects"][split]) for split in ("train", "validation", "test"))
        lines.append(f"| {fold['fold']} | {' | '.join(map(str, sizes))} |")
    return "\n".join([*lines, "", "The epoch was chosen on validation subjects; test subjects were looked at once."])


def _bias(results: CrossValidation) -> str:
    people = sorted(results["per_subject"].items(), key=lambda entry: entry[1]["uar"] or 0.0)
    parts = ["## Who it works for"]
    if results["per_sex"]:
        parts.append(format_markdown(group_rows(results["per_sex"], "sex")))
    else:
        parts.append("The data does not tell the subjects' sex, so that differences between the sexes are unknown.")
    if people:
        worst, best = people[0], people[-1]
        parts.append(
            f"Of {len(people)} tested subjects the one with the lowest UAR has {percent(worst[1]['uar'])} %, the one "
            f"with the highest {percent(best[1]['uar'])} %. Differences by age, skin colour or culture: not tested."
        )
    return "\n\n".join(parts)


def _training(results: CrossValidation, config: Mapping[str, Any]) -> str:
    dataset, options = results["dataset"], results["options"]
    source = dataset.get("label_source", "unknown")
    corpus = CORPORA.get(dataset.get("corpus", ""))
    lines = [
        "## Training data and recipe",
        "",
        f"{dataset.get('name', results['data'])}: {dataset.get('clips', 'unknown')} clips, face labels by MTCNN."
        + (f" {source}" if source != "unknown" else "")
        + (f" <{corpus.homepage}>" if corpus else ""),
        "",
        "| option | value |",
        "|---|---|",
    ]
    for name in RECIPE:
        value = options.get(name)
        if value is not None:
            lines.append(f"| {name} | {hub_name(value) if isinstance(value, str) else value} |")
    used = {name: options.get(name, off) for name, off in RECIPE_EXTRAS.items()}
    lines += [f"| {name} | {value} |" for name, value in used.items() if value != RECIPE_EXTRAS[name]]
    weights = ", ".join(f"{task['name']} {task['weight']:g} ({task['loss']})" for task in config["tasks"])
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n".join([*lines, f"| loss weights | {weights} |", "", f"Versions: {versions}."])


def _intended_use() -> str:
    return (
        "## Intended use\n\n"
        "Research on facial expression in video, and comparisons under the protocol above. Facial expressions are not "
        "emotions: nobody's feelings, honesty, health or ability follow from these scores. Do not use them to judge, "
        "hire, grade, price, diagnose or police anybody, and not on people who have not agreed to it."
    )


def _limits(results: CrossValidation) -> str:
    uar = results["summary"]["uar"]
    weakest = sorted(results["per_class"].items(), key=lambda entry: entry[1]["recall"] or 0.0)[0]
    lines = [
        "## Limits",
        "",
        f"- On unseen subjects the UAR is {percent(uar['pooled'])} % (95 % interval "
        f"{interval(uar['low'], uar['high'])}); the weakest expression is {weakest[0]}, with a recall of "
        f"{percent(weakest[1]['recall'])} %.",
        "- A prediction is made for any video, with a face or without one.",
        "- People, cameras, light and acting differ from those of the training clips; expect lower figures elsewhere.",
    ]
    if "synthetic" in results["data"]:
        lines.append("- It has seen drawn faces only: its scores on people mean nothing.")
    return "\n".join(lines)


def _licences(chain: list[LicenseLink], license_name: str) -> str:
    lines = ["## Licences", "", "| part | licence | |", "|---|---|---|"]
    lines += [f"| {link.part} | {link.license} | {link.note} |" for link in chain]
    return "\n".join(
        [*lines, "", f"What is trained from these parts inherits their terms; the weights here: {license_name}."]
    )
