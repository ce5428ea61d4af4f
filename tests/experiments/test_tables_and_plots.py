"""What is rendered from results: every figure in its table, and pictures whose texts lie inside and apart."""

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mtcae_dfer.experiments import plots
from mtcae_dfer.experiments.ablate import VariantPlan, collect_ablation, reference_variant, structure_variants
from mtcae_dfer.experiments.cross_validate import Plan
from mtcae_dfer.experiments.plots import draw_results
from mtcae_dfer.experiments.results import check_results, summarise_folds
from mtcae_dfer.experiments.tables import format_markdown, format_results, format_text, percent, write_tables
from mtcae_dfer.training.evaluation.report import load_report
from tests.support.made_up_runs import SUBJECTS, finished_run, write_run

SKILLS = {"single_task": 0.2, "cascaded": 0.9}


def made_up_plan() -> Plan:
    from mtcae_dfer.hub_dataset.folds import Fold, Protocol

    protocol = Protocol("made-up 3 folds", "file", tuple(Fold(name, (), (), ()) for name in SUBJECTS))
    return Plan("data", protocol, tuple(SUBJECTS), (0,), ("--dataset", "data"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("runs")
    runs = [finished_run(folder / fold, fold) for fold in SUBJECTS]
    return summarise_folds("made up", "made-up 3 folds", ["--model", "tiny"], runs)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder, plan = tmp_path_factory.mktemp("ablation"), made_up_plan()
    variants = [*structure_variants(None), VariantPlan("order_x", "x → y", "order", ("--tasks", "y,x"))]
    reports = {}
    for variant in variants:
        for experiment in plan.experiments(variant.arguments, f"{variant.name}/").values():
            fold = experiment.name.split("/")[1]
            write_run(folder / experiment.name, fold, skill=SKILLS.get(variant.name, 0.5))
            reports[experiment.name] = load_report(folder / experiment.name / "report.json")
    return collect_ablation(plan, variants, folder, reports)


def test_tables_hold_the_figures_of_the_results(results: dict) -> None:
    text = format_results(results, markdown=False)
    for fold in results["folds"]:
        assert f"{100 * fold['uar']:.1f}" in text
    summary = results["summary"]["uar"]
    assert f"{100 * summary['mean']:.1f} ± {100 * summary['std']:.1f}" in text
    assert f"{100 * summary['low']:.1f} to {100 * summary['high']:.1f}" in text
    assert "72 test clips" in text and "6 tested subjects" in text
    assert all(subject in text for subjects in SUBJECTS.values() for subject in subjects)
    assert "female" in text


def test_the_ablation_stands_in_the_papers_order_beside_its_figures(ablation: dict) -> None:
    check_results(ablation, "the ablation")
    text = format_results(ablation, markdown=True)
    titles = [variant["title"] for variant in ablation["variants"] if variant["axis"] == "structures"]
    assert [title[0] for title in titles] == list("123456")
    places = [text.index(f"| {title} |") for title in titles]
    assert places == sorted(places)
    assert "72.36 / 74.44" in text and "87.51 / 88.44" in text
    assert "Differences from 6 cascaded, ViT" in text


def test_the_reference_differs_from_nothing_and_the_worse_is_below_it(ablation: dict) -> None:
    by_name = {variant["name"]: variant for variant in ablation["variants"]}
    assert by_name["cascaded"]["differences"] == {}
    uar = by_name["single_task"]["differences"]["uar"]
    assert uar["low"] < uar["difference"] < uar["high"] < 0
    assert by_name["order_x"]["paper"] == {}


def test_tables_keep_their_columns() -> None:
    rows = [["name", "x"], ["a|b", "10"], ["longer", "7"]]
    assert format_markdown(rows).splitlines()[2] == "| a\\|b | 10 |"
    assert format_text(rows).splitlines() == ["name      x", "a|b      10", "longer    7"]
    assert percent(None) == "–" and percent(0.1234) == "12.3" and percent(0.05, sign=True) == "+5.0"


def test_the_markdown_file_is_written(results: dict, tmp_path: Path) -> None:
    write_tables(results, tmp_path)
    assert "| fold_2 | 0 |" in (tmp_path / "results.md").read_text()


def test_every_picture_is_written_as_png_and_svg(results: dict, ablation: dict, tmp_path: Path) -> None:
    files = draw_results(results, tmp_path / "folds") + draw_results(ablation, tmp_path / "ablation")
    names = {file.name for file in files}
    assert {"confusion_matrix.png", "recall.svg", "curves.png", "subjects.svg", "structures.svg", "order.png"} <= names
    for file in files:
        if file.suffix == ".svg":
            # Its letters are letters.
            assert list(ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text"))
        else:
            assert file.read_bytes().startswith(b"\x89PNG")


def drawn_texts(draw, monkeypatch: pytest.MonkeyPatch) -> tuple[Figure, list]:
    """A figure, and each text that is painted with its place; axes also keep texts that they do not paint."""
    figure, texts, paint = Figure(layout="constrained"), [], Text.draw
    FigureCanvasAgg(figure)
    draw(figure)

    def record(text: Text, renderer: object) -> None:
        paint(text, renderer)
        if text.get_visible() and text.get_text().strip():
            texts.append((text.get_text(), text.get_rotation(), text.get_window_extent(renderer)))

    monkeypatch.setattr(Text, "draw", record)
    figure.canvas.draw()
    return figure, texts


@pytest.mark.parametrize("name", ["confusion", "curves", "recalls", "subjects", "structures", "order"])
def test_texts_lie_inside_the_picture_and_do_not_cover_each_other(results, ablation, monkeypatch, name: str) -> None:
    draws = {
        "confusion": lambda figure: plots.draw_confusion(figure, results),
        "curves": lambda figure: plots.draw_curves(figure, results),
        "recalls": lambda figure: plots.draw_recalls(figure, results),
        "subjects": lambda figure: plots.draw_subjects(figure, results),
        "structures": lambda figure: plots.draw_axis(figure, ablation, "structures"),
        "order": lambda figure: plots.draw_axis(figure, ablation, "order"),
    }
    figure, texts = drawn_texts(draws[name], monkeypatch)
    assert len(texts) > 8
    for text, _, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1, text
        assert box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1, text
    # The rectangles around slanted names overlap where the names do not.
    straight = [(text, box) for text, rotation, box in texts if rotation in (0, 90)]
    for (first, one), (second, other) in itertools.combinations(straight, 2):
        covers = min(one.x1, other.x1) - max(one.x0, other.x0) > 2 and min(one.y1, other.y1) - max(one.y0, other.y0) > 2
        assert not covers, (first, second)


def test_the_reference_is_the_cascade() -> None:
    assert reference_variant().arguments == ("--structure", "cascaded", "--decoder_type", "vit")
    assert structure_variants(None)[-1] == reference_variant()
