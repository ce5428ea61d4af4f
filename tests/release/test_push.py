"""`mtcae push`: the folder that goes to the Hub, its card, and loading it where the package is not installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from mtcae_dfer import MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.commands.command_line import main
from mtcae_dfer.experiments.results import load_results, summarise_folds
from mtcae_dfer.release import push
from mtcae_dfer.release.model_card import LicenseLink, license_chain, render_card, resulting_license
from mtcae_dfer.training import model_folder
from mtcae_dfer.training.arguments import ARGUMENT_GROUPS, is_of_kind
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.model_folder import add_modules, relative_imports
from tests.support.fresh_load import LOAD
from tests.support.made_up_runs import SUBJECTS, finished_run
from tests.support.video_files import noisy_frames, write_video


@pytest.fixture(scope="module")
def pushed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pushed") / "hub"
    words = ["push", str(small_run), "org/small-faces", "--dry-run", "--output", str(folder)]
    assert main(words) == 0
    assert main(words) == 0  # an earlier folder is replaced
    return folder


def test_the_written_folder_predicts_the_same_without_the_package(pushed, small_run, tmp_path) -> None:
    clip = write_video(tmp_path / "clip.mp4", noisy_frames(20))
    found = subprocess.run(
        [sys.executable, "-c", LOAD, str(pushed), str(clip)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    found = json.loads(found.stdout.splitlines()[-1])
    model = MTCAEForMultiTaskVideo.from_pretrained(small_run).eval()
    with torch.no_grad():
        logits = model(MTCAEVideoProcessor.from_pretrained(small_run)(clip)["pixel_values"]).logits[0]
    for others in found["logits"]:
        torch.testing.assert_close(torch.tensor(others), logits)
    assert found["best"] == model.config.id2label[int(logits.argmax())]


def test_the_folder_holds_every_module_that_its_modules_and_its_config_name(pushed: Path) -> None:
    names = {path.name for path in pushed.iterdir()}
    assert {"model.safetensors", "config.json", "video_preprocessor_config.json", "README.md", "results.json"} <= names
    for module in pushed.glob("*.py"):
        assert {f"{name}.py" for name in relative_imports(module)} <= names
    config = json.loads((pushed / "config.json").read_text())
    assert set(config["auto_map"]) >= {"AutoConfig", "AutoModel", "AutoModelForVideoClassification"}
    for pipeline in config.get("custom_pipelines", {}).values():
        assert f"{pipeline['impl'].split('.')[0]}.py" in names
    assert not any(name.startswith("checkpoint") for name in names)


def test_custom_pipelines_come_with_their_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    root.mkdir(), folder.mkdir()
    pipelines = {"timeline": {"impl": "pipeline_mtcae.Timeline", "pt": ["AutoModelForVideoClassification"]}}
    (root / "config.json").write_text(json.dumps({"custom_pipelines": pipelines}))
    (root / "pipeline_mtcae.py").write_text("from .drawing import draw\nfrom .there import it\n")
    (root / "drawing.py").write_text("    from .colours import red\n")
    for name in ("colours.py", "handler.py", "unused.py"):
        (root / name).write_text("")
    (folder / "there.py").write_text("as it was saved")
    (folder / "config.json").write_text('{"model_type": "mtcae"}')
    monkeypatch.setattr(model_folder, "ROOT", root)
    add_modules(folder)
    modules = {path.name for path in folder.glob("*.py")}
    assert modules == {"pipeline_mtcae.py", "drawing.py", "there.py", "colours.py", "handler.py"}
    assert (folder / "there.py").read_text() == "as it was saved"
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "mtcae", "custom_pipelines": pipelines}


def test_the_card_carries_the_runs_own_figures(pushed: Path, small_run: Path) -> None:
    card, report = ModelCard.load(pushed / "README.md"), load_report(small_run / "report.json")
    metrics = {result.metric_name: result for result in card.data.eval_results}
    assert metrics["UAR"].metric_value == pytest.approx(report["test"]["uar"], abs=1e-4)
    assert metrics["WAR"].metric_type == "accuracy"
    assert report["protocol"] in metrics["UAR"].dataset_name
    for heading in ("Results", "Who it works for", "Training data and recipe", "Intended use", "Limits", "Licences"):
        assert f"## {heading}" in card.text
    for picture in ("confusion_matrix", "recall", "subjects", "curves"):
        assert f"(plots/{picture}.png)" in card.text and (pushed / "plots" / f"{picture}.png").exists()


def test_nothing_of_this_machine_is_published(pushed: Path, small_run: Path) -> None:
    for file in pushed.iterdir():
        if file.suffix in (".json", ".md", ".svg"):
            assert str(small_run.parents[1]) not in file.read_text(), file.name
    assert load_results(pushed)["options"]["dataset"] == "dataset"


def test_no_option_and_no_word_names_a_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever options there are: each that takes text is given a path, absolute or from the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "cache").mkdir(parents=True)
    texts = [name for group in ARGUMENT_GROUPS for name, kind in get_type_hints(group).items() if is_of_kind("", kind)]
    assert {"dataset", "frame_cache", "cache_features_dir", "output_dir"} <= set(texts)
    for folder in (str(tmp_path / "runs" / "cache"), "runs/cache"):
        options = {name: folder for name in texts} | {"also": [f"{folder}:0.5"], "model_config": {"a": {"b": folder}}}
        words = ["--frame_cache", folder, f"--dataset={folder}", "--also", f"{folder}:0.5"]
        results = made_up_results(tmp_path / "folds", **options) | {"arguments": words}
        cleaned = push.without_paths(results)
        assert "runs" not in json.dumps([cleaned["options"], cleaned["arguments"], cleaned["dataset"]])
        assert cleaned["options"]["also"] == ["cache:0.5"] and cleaned["options"]["frame_cache"] == "cache"
        assert cleaned["arguments"] == ["--frame_cache", "cache", "--dataset=cache", "--also", "cache:0.5"]


def test_what_is_no_folder_is_published_as_it_is(tmp_path: Path) -> None:
    options = {
        "model": "MCG-NJU/videomae-base",
        "protocol": "folds:5",
        "task_weights": "face_box=0.5,expression=1.5",
        "rename": ["happy=happiness"],
        "learning_rate": 1e-3,
        "augment": True,
        "fold": None,
    }
    words = ["--model=MCG-NJU/videomae-base", "--learning_rate", "1e-3"]
    cleaned = push.without_paths(made_up_results(tmp_path, **options) | {"arguments": words})
    assert {name: cleaned["options"][name] for name in options} == options
    assert cleaned["arguments"] == words


def made_up_results(folder: Path, **options) -> dict:
    runs = [finished_run(folder / fold, fold) for fold in SUBJECTS]
    runs[0].report["options"].update(options)
    return summarise_folds("tiny", "made-up 3 folds", [], runs)


CONFIG = {
    "structure": "cascaded",
    "encoder_config": {"model_type": "videomae"},
    "tasks": [{"name": "expression", "weight": 1.5, "loss": "cross_entropy"}],
    "custom_pipelines": {"facial-expression-timeline": {"impl": "pipeline_mtcae.X"}},
}


def test_the_licences_of_weights_and_data_are_named_and_the_strictest_rules(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, model="MCG-NJU/videomae-base")
    card = render_card("org/name", results, CONFIG)
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-nc-sa-4.0" and head["base_model"] == "MCG-NJU/videomae-base"
    assert "| Encoder weights: VideoMAE (MCG-NJU/videomae-base) | cc-by-nc-4.0 |" in card
    assert "| Training clips: made-up | cc-by-nc-sa-4.0 | CC BY-NC-SA 4.0" in card
    assert 'pipeline("facial-expression-timeline"' in card
    assert (
        yaml.safe_load(render_card("org/name", results, CONFIG, "cc-by-4.0").split("---")[1])["license"] == "cc-by-4.0"
    )


@pytest.mark.parametrize(
    ("licences", "together"),
    [
        (["apache-2.0"], "apache-2.0"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["apache-2.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["apache-2.0", "odbl"], "odbl"),
        (["apache-2.0", "odbl", "cc-by-nc-4.0"], "other"),
        (["apache-2.0", "unknown"], "other"),
        (["apache-2.0", "cc-by-4.0"], "cc-by-4.0"),
        (["cc-by-nc-4.0", "cc-by-4.0"], "cc-by-nc-4.0"),
    ],
)
def test_several_licences_together(licences: list[str], together: str) -> None:
    assert resulting_license([LicenseLink("part", name) for name in licences]) == together


def test_a_checkpoint_of_unknown_origin_leaves_the_licence_open(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, model="/home/somebody/my-encoder")
    links = {link.part: link.license for link in license_chain(results)}
    assert links["Starting weights: my-encoder"] == "unknown"
    assert "/home" not in render_card("org/name", results, CONFIG)


def test_a_converted_encoder_says_whose_weights_it_was(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, encoder="/home/somebody/ENCODER")
    encoder = {"model_type": "videomae", "weights_origin": "MARLIN"}
    card = render_card("org/name", results, CONFIG | {"encoder_config": encoder})
    assert "| Encoder weights: MARLIN (ENCODER) | cc-by-nc-4.0 |" in card and "/home" not in card


def test_what_is_trained_on_from_the_weights_for_real_people_inherits_their_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    encoder_config = json.loads((root / "config.json").read_text())["encoder_config"]
    monkeypatch.chdir(root)
    results = made_up_results(tmp_path, encoder=".")
    card = render_card("org/name", results, CONFIG | {"encoder_config": encoder_config})
    assert f"| Encoder weights: MTCAE-DFER for real people ({root.name}) | cc-by-nc-sa-4.0 |" in card
    assert "base_model" not in card


def test_a_folder_that_is_spelled_as_a_hub_id_is_no_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = made_up_results(tmp_path / "folds", encoder="runs/pretraining")
    assert "base_model: runs/pretraining" in render_card("org/name", results, CONFIG)  # of somebody called "runs"
    (tmp_path / "runs" / "pretraining").mkdir(parents=True)
    card = render_card("org/name", results, CONFIG)
    assert "base_model" not in card and "runs/" not in card and "Starting weights: pretraining" in card


def test_a_class_without_a_clip_is_not_the_weakest(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    recalls = {"neutral": None, "happiness": 0.75, "sadness": 0.5}
    for name, recall in recalls.items():
        results["per_class"][name]["recall"] = recall
    assert "the weakest expression is sadness, with a recall of 50.0 %" in render_card("org/name", results, CONFIG)


def test_a_fold_carries_the_figures_of_its_cross_validation(tmp_path: Path) -> None:
    from mtcae_dfer.experiments.results import write_results

    write_results(made_up_results(tmp_path), tmp_path)
    assert push.results_of(tmp_path / "fold_2") == load_results(tmp_path)
    card = render_card("org/name", push.results_of(tmp_path / "fold_2"), CONFIG)
    assert "UAR, mean over folds" in card and "The weights here are those of one fold" in card
    assert "| female |" in card and "| male |" in card
    with pytest.raises(ValueError, match=r"holds several models: choose one of its runs \(fold_1, fold_2, fold_3\)"):
        push.results_of(tmp_path)


@pytest.mark.parametrize(
    ("run", "name", "told"),
    [
        ("none", "org/name", "no readable report"),
        ("small", "name", "must be org/name"),
        ("small", "org/na me", "is no name of a repository"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(small_run, tmp_path, capsys, run: str, name: str, told: str) -> None:
    folder = small_run if run == "small" else tmp_path
    assert main(["push", str(folder), name, "--dry-run", "--output", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_of_something_else_is_left_alone(small_run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["push", str(small_run), "org/name", "--dry-run", "--output", str(tmp_path)]) == 2
    assert "holds something else than a model folder" in capsys.readouterr().err
    assert main(["push", str(small_run), "org/name", "--dry-run", "--output", str(small_run)]) == 2
    assert (small_run / "report.json").exists()


def test_without_dry_run_the_folder_is_uploaded(small_run, tmp_path, monkeypatch) -> None:
    calls = []

    class Api:
        def create_repo(self, repo_id, exist_ok, private):
            calls.append((repo_id, exist_ok, private))
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return "address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    folder = tmp_path / "hub"
    assert main(["push", str(small_run), "org/name", "--private", "--output", str(folder)]) == 0
    assert calls[0] == ("org/name", True, True)
    assert calls[1] == ("org/name", sorted(path.name for path in folder.iterdir()))
