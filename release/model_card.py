"""The card of a trained model: README.md with the head that the Hub reads, rendered from results alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mtcae_dfer.experiments.results import FIGURE_KEYS, CrossValidation
from mtcae_dfer.experiments.tables import (
    bootstrap_remark,
    class_rows,
    fold_rows,
    format_markdown,
    group_rows,
    summary_rows,
)
from mtcae_dfer.hub_dataset.corpora.registry import CORPORA
from mtcae_dfer.hub_dataset.templates import fill_template
from mtcae_dfer.training.arguments import ARGUMENT_GROUPS, available_presets, flatten_options
from mtcae_dfer.training.evaluation.percents import interval, percent
from mtcae_dfer.training.evaluation.report import FIGURES

CODE_LICENSE = "apache-2.0"
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PICTURES = ("confusion_matrix", "recall", "subjects", "curves")
# The Hub's name for a figure's metric; the others go by their own.
HUB_METRICS = {"uar": "recall", "war": "accuracy"}
RECIPE = (
    "model",
    "structure",
    "decoder_type",
    "pooling",
    "tasks",
    "freeze_encoder",
    "num_train_epochs",
    "per_device_train_batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_epochs",
    "lr_scheduler_type",
    "label_smoothing_factor",
    "augment",
    "seed",
    "bf16",
    "fp16",
)
# Shown where a run chose them: otherwise than the options' own defaults.
RECIPE_EXTRAS = (
    "scale_learning_rate",
    "layer_decay",
    "drop_path",
    "ema_decay",
    "gradient_accumulation_steps",
    "early_stopping_patience",
    "class_weights",
    "balanced_sampling",
    "task_weighting",
    "mixup_alpha",
    "cutmix_alpha",
    "frame_stride",
    "test_segments",
    "test_flip",
)
# Licences of which a model made from several parts takes the strictest, the strictest first.
STRICTEST_FIRST = ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "odbl", "cc-by-4.0", CODE_LICENSE, "mit")
NON_COMMERCIAL = "The published {} weights are for non-commercial use."
# Published encoders by a word of their ids: title, licence of the weights, note. Sources: docs/encoders.md.
ENCODER_LICENSES = {
    "mtcae-real-people": ("MTCAE-DFER for real people", "cc-by-nc-sa-4.0", NON_COMMERCIAL),
    "videomae": ("VideoMAE", "cc-by-nc-4.0", NON_COMMERCIAL),
    "marlin": ("MARLIN", "cc-by-nc-4.0", NON_COMMERCIAL),
    "mae-dfer": ("MAE-DFER", "mit", ""),
    "timesformer": ("TimeSformer", "cc-by-nc-4.0", NON_COMMERCIAL),
    "vjepa2": ("V-JEPA 2", "mit", "Some of its cards on the Hub say Apache 2.0."),
    "vivit": ("ViViT", "mit", ""),
    "videoprism": ("VideoPrism", "cc-by-4.0", "Its software is Apache 2.0."),
    "dinov2": ("DINOv2", "apache-2.0", ""),
    "dinov3": ("DINOv3", "other", "DINOv3 License; it must be passed on."),
    "convnextv2": ("ConvNeXt V2", "cc-by-nc-4.0", NON_COMMERCIAL + " Its cards on the Hub say Apache 2.0."),
    "swinv2": ("Swin V2", "apache-2.0", ""),
    "resnet-50": ("ResNet-50", "apache-2.0", ""),
    "siglip-": ("SigLIP", "apache-2.0", ""),
}


@dataclass(frozen=True)
class LicenseLink:
    """One part of what a model is made of, with its terms."""

    part: str
    license: str  # as the Hub spells it
    note: str = ""


def license_chain(results: CrossValidation, encoder_config: Mapping[str, Any] | None = None) -> list[LicenseLink]:
    """Code, weights that the training started from, and data, each with its licence.

    Args:
        results: with the options of the training, which name what it started from.
        encoder_config: of the trained model; a converted encoder's says whose weights it was, whatever its folder is
            called.
    """
    links = [LicenseLink("Code of the model and its training", CODE_LICENSE)]
    origin = (encoder_config or {}).get("weights_origin", "")
    for start in starting_points(results):
        name = hub_name(start)
        words = f"{origin} {start}".lower()
        known = next((entry for word, entry in ENCODER_LICENSES.items() if word in words), None)
        if known is not None:
            title, license_name, note = known
            links.append(LicenseLink(f"Encoder weights: {title} ({name})", license_name, note.format(title)))
        else:
            note = "The terms of the checkpoint that the training started from hold too; look them up in its own card."
            links.append(LicenseLink(f"Starting weights: {name}", "unknown", note))
    dataset = results["dataset"]
    corpus = CORPORA.get(dataset.get("corpus", ""))
    note = corpus.license_note if corpus else ""
    title = f"Training clips: {dataset.get('name', results['data'])}"
    return [*links, LicenseLink(title, dataset.get("license", "unknown"), note)]


def starting_points(results: CrossValidation) -> list[str]:
    """The checkpoints that the training started from: folders or Hub ids; none for a fresh model."""
    chosen = (results["options"].get(name) for name in ("model", "encoder"))
    return [str(start) for start in chosen if start and start not in available_presets()]


def resulting_license(chain: list[LicenseLink]) -> str:
    """The licence that satisfies every link, as the Hub spells it; "other" where one is unknown or of its own kind."""
    named = {link.license for link in chain}
    if not named <= set(STRICTEST_FIRST) or {"odbl", "cc-by-nc-4.0"} <= named or {"odbl", "cc-by-nc-sa-4.0"} <= named:
        return "other"
    return next(name for name in STRICTEST_FIRST if name in named)


def hub_name(name: str) -> str:
    """A Hub id as it is; of a file or folder on this machine its last part only."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    if parts[-1] in (".", ".."):
        parts = os.path.abspath(name).split(os.sep)
    # A folder of two parts is spelled as a Hub id is; from_pretrained too takes the folder where there is one.
    is_path = len(parts) > 2 or name.startswith((".", "/", "~")) or os.path.exists(name)
    return parts[-1] if is_path else name


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
    licences = license_chain(results, config["encoder_config"])
    license_name = license_name or resulting_license(licences)
    label_source = results["dataset"].get("label_source", "unknown")
    # The options that say how it was trained, in the order of the card; folders by their last name only.
    options = results["options"]
    defaults = flatten_options(*(group() for group in ARGUMENT_GROUPS))
    used = [name for name in RECIPE if options.get(name) is not None]
    used += [name for name in RECIPE_EXTRAS if options.get(name, defaults[name]) != defaults[name]]
    recipe = {name: hub_name(options[name]) if isinstance(options[name], str) else options[name] for name in used}
    # A class without a clip is neither weak nor strong.
    recalls = {name: each["recall"] for name, each in results["per_class"].items() if each["recall"] is not None}
    values: dict[str, Any] = {
        "head": card_data(repo_id, results, license_name).to_yaml(),
        "repo_id": repo_id,
        "model_name": repo_id.split("/")[-1],
        "results": results,
        "config": config,
        "custom_pipelines": sorted(config.get("custom_pipelines", {})),
        "pictures": [name for name in PICTURES if name != "subjects" or results["per_subject"]],
        "people": sorted(results["per_subject"].values(), key=lambda person: person["uar"] or 0.0),
        "label_source": "" if label_source == "unknown" else label_source,
        "corpus": CORPORA.get(results["dataset"].get("corpus", "")),
        "recipe": recipe,
        "weakest": min(recalls, key=recalls.__getitem__),
        "licences": licences,
        "license_name": license_name,
    }
    functions = (summary_rows, fold_rows, class_rows, group_rows, bootstrap_remark, percent, interval)
    values |= {function.__name__: function for function in functions} | {"table": format_markdown}
    return fill_template(TEMPLATE, values)


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
        eval_results=evaluation_results(results),
    )


def evaluation_results(results: CrossValidation) -> list[EvalResult]:
    """Every figure that the model has, as an entry of the Hub's model-index."""
    dataset = results["dataset"].get("name", results["data"])
    entries = []
    for key in FIGURE_KEYS:
        figures = results["summary"][key]
        if figures["mean"] is not None:
            entry = EvalResult(
                task_type="video-classification",
                task_name="Facial expression recognition in video",
                dataset_type=dataset.lower().replace(" ", "-"),
                dataset_name=f"{results['data']} ({results['protocol']})",
                dataset_split="test",
                metric_type=HUB_METRICS.get(key, key),
                metric_name=FIGURES[key][0] + ("" if figures["std"] is None else ", mean over folds"),
                metric_value=round(figures["mean"], 4),
            )
            entries.append(entry)
    return entries
