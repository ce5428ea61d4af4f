"""The report: everything in it comes from the results, numbers that are none are null, and the picture is legible."""

import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mtcae_dfer.training.evaluation import report
from mtcae_dfer.training.evaluation.report import (
    draw_report,
    format_markdown_table,
    format_table,
    load_report,
    make_report_figure,
    write_report,
)

EXPRESSIONS = ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise", "contempt"]
LONG_NAMES = [f"{name}, as far as a camera can see it" for name in EXPRESSIONS]
TASKS = ("face_box", "face_landmarks", "expression")


def made_up_results(classes: int = 3, epochs: int = 4, names: list[str] = EXPRESSIONS) -> dict:
    """Results whose figures are made up; each class has 20 test clips, of which 15 are right."""
    names, others = names[:classes], max(1, classes - 1)
    matrix = np.random.default_rng(0).multinomial(5, [1 / others] * others, size=classes)
    matrix = [np.insert(row[:others], position, 15).tolist() for position, row in enumerate(matrix)]
    figures = {"uar": 0.8123, "war": 0.8, "face_box_iou": 0.9, "landmark_nme": 0.071}
    shared = {"clips": 20 * classes, "frames_with_face": 320, "per_class_recall": dict.fromkeys(names, 0.75)}
    history = [
        {
            "epoch": epoch,
            "train_loss": 3 / epoch,
            "task_losses": {task: (place + 1) / 10 / epoch for place, task in enumerate(TASKS)},
            "validation_loss": 4 / epoch,
            "validation_uar": 0.9 - 0.5 / epoch,
            "learning_rate": 1e-3,
            "seconds": 1.5,
        }
        for epoch in range(1, epochs + 1)
    ]
    constant = figures | {"uar": 1 / classes, "war": 1 / classes, "face_box_iou": 0.5, "landmark_nme": 0.31}
    return {
        "protocol": "subject-independent holdout (seed 0: 4/1/1 subjects)",
        "data": "made-up results",
        "seed": 7,
        "classes": names,
        "test": figures | shared | {"confusion_matrix": matrix},
        "constant_predictor": constant | shared | {"confusion_matrix": matrix},
        "validation": history[-1],
        "history": history,
        "selected_epoch": epochs,
        "options": {"learning_rate": 1e-3},
        "subjects": {"train": ["a"], "validation": ["b"], "test": ["c"]},
        "versions": {"torch": "2"},
        "seconds": {"training": 12.0},
    }


def without_face_tasks(results: dict) -> dict:
    results = copy.deepcopy(results)
    results["test"] |= {"face_box_iou": None, "landmark_nme": None}
    for record in results["history"]:
        record["task_losses"] = {"expression": record["task_losses"]["expression"]}
    return results


def without_faces(results: dict) -> dict:
    results = copy.deepcopy(results)
    for part in ("test", "constant_predictor"):
        results[part] |= {"face_box_iou": math.nan, "landmark_nme": math.nan, "frames_with_face": 0}
    return results


def with_hard_cases(results: dict) -> dict:
    """A class without clips, an error above 100 %, four-digit counts, a long path, and losses that are not there."""
    results = copy.deepcopy(results)
    first = results["classes"][0]
    for part in ("test", "constant_predictor"):
        results[part]["confusion_matrix"][0] = [0] * len(results["classes"])
        results[part]["confusion_matrix"][-1][0] = 8888
        results[part]["per_class_recall"] = results[part]["per_class_recall"] | {first: math.nan}
    results["constant_predictor"]["landmark_nme"] = 2.345
    results["data"] = "/a/rather$long_{path$/" + "folder_of_clips/" * 15
    results["history"][0]["task_losses"] = {"expression": 0.0}
    results["history"][-1] |= {"validation_uar": math.nan}
    return results


CASES = {
    "three classes, one epoch": made_up_results(3, 1),
    "two epochs": made_up_results(7, 2),
    "eight classes, 200 epochs": made_up_results(8, 200),
    "eight long names": made_up_results(8, 30, LONG_NAMES),
    "expression alone": without_face_tasks(made_up_results(7, 40)),
    "no faces": without_faces(made_up_results(7, 40)),
    "no epochs": made_up_results(7, 0 + 1) | {"history": [], "selected_epoch": 0},
    "hard cases": with_hard_cases(made_up_results(8, 60, LONG_NAMES)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_report_is_written_and_read_back(tmp_path: Path, case: str) -> None:
    results = CASES[case]
    assert write_report(results, tmp_path / "run") == tmp_path / "run" / "report.json"
    again = load_report(tmp_path / "run" / "report.json")
    assert again["history"][:1] == json.loads(json.dumps(results["history"][:1]))
    assert again["test"]["confusion_matrix"] == results["test"]["confusion_matrix"]
    assert (tmp_path / "run" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"report.json", "report.png"}
    assert format_table(again) == format_table(results)
    draw_report(again, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "run" / "report.png").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_no_text_of_the_picture_hides_another_or_leaves_the_page(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    canvas = FigureCanvasAgg(make_report_figure(CASES[case]))
    drawn, draw = [], Text.draw

    def record(text: Text, renderer: object) -> None:
        draw(text, renderer)
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_rotation(), text.get_window_extent(renderer)))

    monkeypatch.setattr(Text, "draw", record)
    canvas.draw()
    width, height = canvas.get_width_height()
    assert len(drawn) > 20
    for text, _, box in drawn:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    # The rectangles around slanted names overlap where the names do not.
    level = [(text, box) for text, rotation, box in drawn if rotation in (0, 90)]
    for (first, box), (second, other) in itertools.combinations(level, 2):
        over = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
        assert min(over) <= 1, f"{first!r} and {second!r}"


def test_the_picture_carries_protocol_data_classes_and_figures() -> None:
    texts = {text.get_text() for text in make_report_figure(made_up_results(7)).findobj(Text)}
    assert "subject-independent holdout (seed 0: 4/1/1 subjects), seed 7\nmade-up results" in texts
    assert set(EXPRESSIONS[:7]) <= texts
    assert {"81.2 %", "7.1 %", "31.0 %", "15", "75 %", "selected: epoch 4, 77.5 %", "chance, 14.3 %"} <= texts


@pytest.mark.parametrize("epochs", [1, 2, 3, 60, 200])
def test_epochs_are_whole_numbers_on_the_axis(epochs: int) -> None:
    figure = make_report_figure(made_up_results(7, epochs))
    losses, recall = figure.subfigs[0].axes
    for axes in (losses, recall):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks) and low < 1 and high > epochs


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-4])
@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_the_axis_of_losses_carries_numbers(epochs: int, scale: float) -> None:
    results = made_up_results(7, epochs)
    for record in results["history"]:
        record["task_losses"] = {"expression": scale * (1.9 - 0.7 * record["epoch"] / epochs)}
    losses = make_report_figure(results).subfigs[0].axes[0]
    low, high = losses.get_ylim()
    assert sum(low <= tick <= high for tick in losses.get_yticks()) >= 2


def test_the_selected_epoch_is_marked_where_it_is() -> None:
    results = made_up_results(7, 10) | {"selected_epoch": 4}
    recall = make_report_figure(results).subfigs[0].axes[1]
    (star,) = [line for line in recall.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([4], [pytest.approx(0.9 - 0.5 / 4)])


def test_bars_are_as_long_as_the_figures_and_end_on_the_page() -> None:
    for case in ("eight classes, 200 epochs", "hard cases"):
        bars = make_report_figure(CASES[case]).subfigs[1].axes[1]
        for container, part in zip(bars.containers, ("test", "constant_predictor"), strict=True):
            figures = [100 * CASES[case][part][key] for key in ("uar", "war", "face_box_iou", "landmark_nme")]
            assert [bar.get_width() for bar in container] == pytest.approx(figures)
            assert container.get_label() == {"test": "model", "constant_predictor": "constant predictor"}[part]
            assert all(bar.get_width() < 0.95 * bars.get_xlim()[1] for bar in container)


def test_long_class_names_are_cut_in_the_picture_alone(tmp_path: Path) -> None:
    results = CASES["eight long names"]
    confusion = make_report_figure(results).subfigs[1].axes[0]
    for labels in (confusion.get_xticklabels(), confusion.get_yticklabels()):
        for label, name in zip(labels, LONG_NAMES, strict=True):
            assert len(label.get_text()) == 24 and label.get_text().endswith("…")
            assert name.startswith(label.get_text()[:-1])
    write_report(results, tmp_path)
    assert load_report(tmp_path / "report.json")["classes"] == LONG_NAMES


def test_rows_of_the_confusion_matrix_are_shaded_by_their_own_clips() -> None:
    results = made_up_results(2)
    results["test"]["confusion_matrix"] = [[3, 1], [50, 150]]
    (image,) = make_report_figure(results).subfigs[1].axes[0].images
    assert image.get_array().tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    write_report(without_faces(made_up_results()), tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text and json.loads(text)["test"]["landmark_nme"] is None


def test_numbers_and_arrays_of_numpy_become_plain(tmp_path: Path) -> None:
    results = made_up_results()
    results["test"] |= {"uar": np.float32(0.5), "clips": np.int64(60)}
    results["test"]["confusion_matrix"] = np.array(results["test"]["confusion_matrix"])
    write_report(results, tmp_path)
    again = load_report(tmp_path / "report.json")["test"]
    assert (again["uar"], again["clips"]) == (0.5, 60)
    assert again["confusion_matrix"] == results["test"]["confusion_matrix"].tolist()


def test_the_table_puts_each_figure_beside_the_constant_predictor_and_its_target() -> None:
    assert format_table(made_up_results()).splitlines() == [
        "subject-independent holdout (seed 0: 4/1/1 subjects), seed 7; made-up results; 60 test clips.",
        "                                          model   constant predictor",
        "UAR                                      81.2 %               33.3 %   higher is better; chance 33.3 %",
        "WAR                                      80.0 %               33.3 %   higher is better; chance 33.3 %",
        "face box IoU                             90.0 %               50.0 %   higher is better",
        "landmark error / inter-ocular distance    7.1 %               31.0 %   lower is better",
        "Model of epoch 4 of 4, chosen on the validation clips.",
    ]


def test_the_markdown_table_holds_the_same() -> None:
    lines = format_markdown_table(made_up_results()).splitlines()
    assert lines[0].startswith("subject-independent holdout (seed 0: 4/1/1 subjects), seed 7; made-up results")
    assert "| UAR | 81.2 % | 33.3 % | higher is better; chance 33.3 % |" in lines
    assert {line.count("|") for line in lines if line.startswith("|")} == {5}


def test_tasks_that_the_model_lacks_are_left_out() -> None:
    table = format_table(without_face_tasks(made_up_results()))
    assert "face box" not in table and "landmark" not in table and "UAR" in table


def test_a_test_without_any_face_says_so() -> None:
    for table in (
        format_table(without_faces(made_up_results())),
        format_markdown_table(without_faces(made_up_results())),
    ):
        assert table.count("no frame with a face") == 4


def test_a_prediction_that_is_no_number_is_not_called_a_lack_of_faces() -> None:
    results = made_up_results()
    results["test"]["face_box_iou"] = math.nan
    assert "not a number" in format_table(results) and "no frame" not in format_table(results)


def test_figures_outlive_a_picture_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "make_report_figure", fail)
    with pytest.raises(RuntimeError, match="no fonts"):
        write_report(made_up_results(), tmp_path)
    assert load_report(tmp_path / "report.json")["test"]["uar"] == 0.8123
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_replaced_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(made_up_results(), tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(made_up_results(7), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.png"}


def test_results_that_are_incomplete_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    results = made_up_results()
    del results["protocol"], results["test"]["uar"]
    with pytest.raises(ValueError, match=r"the results: no report of a run: protocol, test\.uar missing"):
        write_report(results, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"confusion matrix has shape \(3, 3\), but there are 4 classes"):
        write_report(made_up_results() | {"classes": EXPRESSIONS[:4]}, tmp_path / "run")


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for content, told in (
        ('{"protocol": "x"}', "report.json: no report of a run: seed, data, classes, test, constant_predictor"),
        ("[1, 2]", "a list instead of named results"),
        ('{"protocol": ', "no readable report"),
        (b"\xff\xfe\xff", "no readable report"),
    ):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=told):
            load_report(file)
    with pytest.raises(ValueError, match="no readable report"):
        load_report(tmp_path / "nowhere.json")
