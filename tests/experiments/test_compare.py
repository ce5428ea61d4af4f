"""The command compare: its systems, one recipe for all, costs, the table beside the paper's, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo
from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.commands.command_line import parse_command
from mtcae_dfer.experiments import compare
from mtcae_dfer.experiments.cross_validate import Plan
from mtcae_dfer.experiments.results import load_results
from mtcae_dfer.training import initialisation, run
from mtcae_dfer.training.arguments import parse_run_arguments
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.initialisation import build_model
from tests.support.made_up_runs import write_run
from tests.support.tiny_models import CLASSES, FRAMES, tiny_model

NAMES = [
    *("vo_lstm", "resnext3d", "svfap", "mae_dfer", "mnc", "mtl_er", "mtformer", "single_task"),
    *("non_fully_shared_mlp", "non_fully_shared_vit", "fully_shared_mlp", "fully_shared_vit", "cascaded"),
]


def words_of(small_dataset: Path, folder: Path, *more: str) -> list[str]:
    return ["--dataset", str(small_dataset), "--protocol", "folds:3", "--output_dir", str(folder), *more]


@pytest.fixture()
def configs_alone(monkeypatch) -> None:
    """`build_model` gives the config alone: the paper's models take long to build."""
    no_encoder = SimpleNamespace()
    monkeypatch.setattr(
        initialisation, "MTCAEForMultiTaskVideo", lambda config: SimpleNamespace(config=config, encoder=no_encoder)
    )


def test_the_systems_are_those_of_the_papers_tables() -> None:
    systems = compare.plan_systems("tiny")
    assert [entry.name for entry in systems] == NAMES
    assert all(set(entry.paper) == {"RAVDESS", "CREMA-D", "MEAD"} for entry in systems)
    assert systems[4].paper["RAVDESS"] == {"uar": 61.81, "war": 61.43} and systems[0].paper["MEAD"]["uar"] is None


@pytest.mark.parametrize("size", compare.SIZES)
def test_every_system_is_a_model_of_its_own_trained_by_one_recipe(size: str, configs_alone) -> None:
    described, recipes = [], []
    for system in compare.plan_systems(size):
        arguments = parse_run_arguments([*compare.recipe_words(size), *system.arguments])
        model = build_model(arguments.model, ["neutral", "happiness"])
        described.append(json.dumps(model.config.to_dict(), sort_keys=True, default=str))
        chosen = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "weight_decay", "bf16")
        chosen = (*chosen, "warmup_epochs", "lr_scheduler_type", "augment", "smallest_crop", "largest_stretch")
        recipes.append([arguments.to_dict()[name] for name in chosen])
        assert model.config.num_frames == 16
    assert len(set(described)) == len(NAMES) and all(recipe == recipes[0] for recipe in recipes)


def test_mae_dfer_and_svfap_are_their_encoders_with_an_expression_head(configs_alone) -> None:
    by_name = {entry.name: entry for entry in compare.plan_systems("paper")}
    for name, model_type in (("mae_dfer", "lgi_former"), ("svfap", "tpsbt"), ("single_task", "videomae")):
        options = parse_run_arguments(by_name[name].arguments).model
        config = build_model(options, ["neutral", "happiness"]).config
        assert config.encoder_config.model_type == model_type and config.structure == "single_task"
        assert [task["name"] for task in config.tasks] == ["expression"]


def test_pretrained_encoders_go_to_the_systems_of_their_preset() -> None:
    encoders = compare.read_encoders("tiny=a/b, tiny_lgi_former=org/lgi", "tiny")
    given = {entry.name: entry.arguments[-2:] for entry in compare.plan_systems("tiny", encoders)}
    assert given["mae_dfer"] == ("--encoder", "org/lgi") and given["cascaded"] == ("--encoder", "a/b")
    assert "--encoder" not in (*given["vo_lstm"], *given["svfap"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--systems", "mtformer,mtlformer"], "--systems mtformer,mtlformer: must be some of vo_lstm, resnext3d"),
        (["--systems", ","], "must be some of vo_lstm"),
        (["--structure", "mnc"], "--structure: is decided by the compared systems"),
        (["--model=tiny"], "--model=tiny: is decided by the compared systems"),
        (["--encoders", "huge=folder"], "the presets are tiny, tiny_lgi_former, tiny_mtl_er, tiny_resnext3d"),
        (["--encoders", "tiny"], "must be PRESET=CHECKPOINT"),
        (["--seeds", "zero"], "--seeds zero: must be different whole numbers"),
        (["--seed", "1"], "--seed: is decided for every run"),
        (["--learning_rate", "-1"], "--learning_rate -1.0: must be greater than 0"),
    ],
)
def test_what_it_cannot_use_is_one_line(more, told, small_dataset: Path, tmp_path: Path, capsys) -> None:
    assert mtcae(["compare", *words_of(small_dataset, tmp_path / "out", *more)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mtcae: error: ") and told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_face_only_systems_of_expressions_are_trained(small_dataset: Path, monkeypatch) -> None:
    options = parse_command("compare", words_of(small_dataset, Path("out")))
    plan: Plan = compare.make_plan(options, options.run_words)
    systems = compare.plan_systems("tiny")
    compare.refuse_missing_faces(plan, systems, "folds:3")
    monkeypatch.setattr(compare, "load_fold", lambda *_: {"train": {"face_found": [[False] * 16] * 3}})
    with pytest.raises(
        ValueError, match="no training clip has a face, which mnc, mtl_er, mtformer, non_fully_shared_mlp"
    ):
        compare.refuse_missing_faces(plan, systems, "folds:3")
    alone = [entry for entry in systems if entry.name in ("vo_lstm", "resnext3d", "svfap", "mae_dfer", "single_task")]
    compare.refuse_missing_faces(plan, alone, "folds:3")


@pytest.fixture(scope="module")
def compared(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """A comparison whose runs are made up, and what it asked to be run."""
    folder, begun = tmp_path_factory.mktemp("compared"), []

    def run_made_up(experiments, output_dir, jobs):
        for experiment in experiments:
            begun.append((experiment.name, jobs))
            fold, seed = experiment.arguments[-3], int(experiment.arguments[-1])
            write_run(output_dir / experiment.name, fold, seed, skill=0.9 if "cascaded" in experiment.name else 0.4)
        return {entry.name: load_report(output_dir / entry.name / "report.json") for entry in experiments}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "run_experiments", run_made_up)
        patch.setattr(MTCAEForMultiTaskVideo, "from_pretrained", lambda _: tiny_model())
        patch.setattr(compare, "TIMED_SECONDS", 0.0)
        assert mtcae(["compare", *words_of(small_dataset, folder, "--jobs", "2", "--systems", "vo_lstm,mtl_er")]) == 0
    return folder, begun


def test_named_systems_and_the_reference_run_on_every_fold(compared: tuple[Path, list]) -> None:
    folder, begun = compared
    assert [name for name, _ in begun[:3]] == [f"{name}/fold_1" for name in ("vo_lstm", "mtl_er", "cascaded")]
    assert len(begun) == 9 and {jobs for _, jobs in begun} == {2}
    assert [entry["name"] for entry in load_results(folder)["variants"]] == ["vo_lstm", "mtl_er", "cascaded"]


def test_the_table_has_figures_costs_and_the_papers_figures(compared: tuple[Path, list]) -> None:
    folder, _ = compared
    content = json.loads((folder / "comparison.json").read_text())
    assert content["kind"] == "comparison" and content["folds"] == 3
    figures = [
        [json.loads((folder / name / f"fold_{fold}" / "report.json").read_text())["test"]["uar"] for fold in (1, 2, 3)]
        for name in ("vo_lstm", "mtl_er", "cascaded")
    ]
    for system, values in zip(content["systems"], figures, strict=True):
        mean = sum(values) / 3
        assert system["uar"]["mean"] == pytest.approx(mean)
        assert system["uar"]["std"] == pytest.approx((sum((value - mean) ** 2 for value in values) / 2) ** 0.5)
        assert system["cost"]["parameters"] == sum(weight.numel() for weight in tiny_model().parameters())
        assert system["cost"]["clips_per_second"] > 0
    table = (folder / "comparison.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| system | UAR here | WAR here | parameters | multiply-adds | clips/s | paper: RAVDESS")
    assert rows[1].startswith("| VO-LSTM |") and "– / 60.50" in rows[1]
    assert "| MTL-ER |" in rows[2] and "73.54 / 74.19" in rows[2]
    assert "Differences from 6 cascaded, ViT" in table and (folder / "plots" / "systems.png").exists()


def test_the_multiply_adds_of_an_lstm_are_counted() -> None:
    frame = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    sizes = {"image_size": 32, "num_frames": 4, "hidden_size": 16, "frame_encoder_config": frame}
    expression = {"name": "expression", "kind": "classification", "label_key": "labels"}
    config = MTCAEConfig(encoder_config={"model_type": "vo_lstm", **sizes}, structure="single_task", tasks=[expression])
    model = MTCAEForMultiTaskVideo(config).eval()
    counted = compare.count_multiply_adds(model)
    # By hand: 7 x 7 to 16 x 16 places, pooling to 8 x 8, two 3 x 3 and a 1 x 1 shortcut, for each of 4 frames.
    frames = 4 * (16 * 16 * 4 * 3 * 49 + 8 * 8 * (8 * 4 * 9 + 8 * 8 * 9 + 8 * 4))
    assert counted == frames + 4 * 4 * 16 * (8 + 16) + 16 * 7


def test_the_multiply_adds_of_attention_are_counted() -> None:
    counted = compare.count_multiply_adds(tiny_model(structure="mtformer"))
    tokens, width, inner = 8, 20, 3 * 8
    attention = 4 * tokens * width * inner + 2 * tokens * tokens * inner
    mlp = 2 * tokens * width * 4 * width
    # 2 shared blocks and 3 x 2 of the tasks; 3 x 2 that look through 3 maps, with transforms of 20 and twice 10
    # channels and a fusion of 40, each by way of 60.
    transforms = tokens * 60 * (20 + 20 + 2 * (20 + 10) + 40 + 20)
    structure = tokens * 24 * width + 8 * (attention + mlp) + 6 * (3 * attention + transforms + mlp)
    heads = 20 * (FRAMES * 4 + FRAMES * 10 + CLASSES)
    embedding = tokens * 24 * 2 * 16 * 16 * 3
    encoder = embedding + 2 * (4 * tokens * 24 * 24 + 2 * tokens * tokens * 24 + 2 * tokens * 24 * 48)
    assert counted == encoder + structure + heads


def test_the_multiply_adds_of_mtl_ers_transformers_are_counted() -> None:
    model = tiny_model(structure="mtl_er", decoder_hidden_size=24, decoder_num_layers=1)
    # 2 steps; a transformer of width d and 96 hidden channels has four d x d products, attention and two of the MLP.
    of_layer = {width: 2 * (4 * width * width + 2 * 96 * width) + 2 * 2 * 2 * width for width in (24, 40)}
    hidden = {width: 2 * (width * 12 + 12 * 8) for width in (24, 40)}
    structure = 2 * 24 * 24 + 3 * of_layer[24] + 2 * hidden[24] + of_layer[40] + hidden[40]
    embedding = 8 * 24 * 2 * 16 * 16 * 3
    encoder = embedding + 2 * (4 * 8 * 24 * 24 + 2 * 8 * 8 * 24 + 2 * 8 * 24 * 48)
    assert compare.count_multiply_adds(model) == encoder + structure + 8 * (FRAMES * 4 + FRAMES * 10 + CLASSES)


@pytest.mark.parametrize("preset", ["tiny_vo_lstm", "tiny_resnext3d", "tiny_tpsbt"])
def test_each_single_task_preset_runs(preset: str, small_dataset: Path, tmp_path: Path) -> None:
    words = ["--dataset", str(small_dataset), "--output_dir", str(tmp_path), "--num_train_epochs", "1"]
    assert run.main([*words, "--model", preset]) == 0
    report = load_report(tmp_path / "report.json")
    assert report["test"]["face_box_iou"] is None and 0 <= report["test"]["uar"] <= 1


@pytest.mark.parametrize("structure", ["mtformer", "mnc", "mtl_er"])
def test_each_compared_structure_runs(structure: str, small_dataset: Path, tmp_path: Path) -> None:
    words = ["--dataset", str(small_dataset), "--output_dir", str(tmp_path), "--num_train_epochs", "6"]
    # A box read off flat heat maps starts as a point, which overlaps with nothing: the steps must be real ones.
    words += ["--warmup_epochs", "0", "--lr_scheduler_type", "constant"]
    more = ["--contrastive_weight", "0.1", "--uncertainty_weighting", "true"]
    assert run.main([*words, "--structure", structure, *more]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["structure"] == structure and config["uncertainty_weighting"] and config["contrastive_weight"] == 0.1
    assert load_report(tmp_path / "report.json")["test"]["face_box_iou"] > 0
