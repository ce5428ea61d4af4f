"""Tables of results, as text for the terminal and as Markdown for a README or a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtcae_dfer.experiments.paper_results import PAPER_CORPORA, PaperFigures
from mtcae_dfer.experiments.results import FIGURE_KEYS, Ablation, CrossValidation, GroupFigures, Variant
from mtcae_dfer.hub_dataset.files import write_text
from mtcae_dfer.training.evaluation.percents import UNKNOWN, interval, percent, with_deviation
from mtcae_dfer.training.evaluation.report import FIGURES

TABLE_FILE = "results.md"
Rows = list[list[str]]  # a header and rows of cells


def write_tables(results: CrossValidation | Ablation, output_dir: Path) -> str:
    """Writes results.md; returns the same as text for the terminal."""
    write_text(output_dir / TABLE_FILE, format_results(results, markdown=True))
    return format_results(results, markdown=False)


def format_results(results: CrossValidation | Ablation, markdown: bool) -> str:
    """All tables of the results, each below a line that says what it shows."""
    parts = cross_validation_tables(results) if results["kind"] == "cross_validation" else ablation_tables(results)
    mark, layout = ("**{}**", format_markdown) if markdown else ("{}", format_text)
    return "\n\n".join(
        text for title, rows in parts for text in ([mark.format(title), layout(rows)] if rows else [title])
    )


def format_markdown(rows: Rows) -> str:
    """Cells as a Markdown table; the first column is text, the others are numbers."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def format_text(rows: Rows) -> str:
    """Cells in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("   ".join(line).rstrip() for line in lines)


# Cross-validation


def cross_validation_tables(results: CrossValidation) -> list[tuple[str, Rows]]:
    """(what it shows, table) of everything in the results; a table without rows is a remark."""
    clips = sum(map(sum, results["confusion_matrix"]))
    seeds = ", ".join(map(str, results["seeds"]))
    headline = (
        f"{results['name']}: {results['protocol']}; {results['data']}; seed {seeds}; {clips} test clips; "
        f"{results['parameters']:,} weights."
    )
    matrix = zip(results["classes"], results["confusion_matrix"], strict=True)
    confusion_rows = [["true", *results["classes"]], *([name, *map(str, counts)] for name, counts in matrix)]
    tables: list[tuple[str, Rows]] = [
        (headline, []),
        ("Figures over all folds, in percent", summary_rows(results)),
        ("Folds, in percent", fold_rows(results)),
        ("Recall of each expression, all folds together, in percent", class_rows(results)),
        ("All folds together: rows are true expressions, columns predicted ones", confusion_rows),
    ]
    if results["per_sex"]:
        tables.append(("By sex, in percent", group_rows(results["per_sex"], "sex")))
    if results["per_subject"]:
        worst_first = dict(sorted(results["per_subject"].items(), key=lambda entry: (entry[1]["uar"] or 0.0, entry[0])))
        tables.append(("By subject, in percent, the lowest UAR first", group_rows(worst_first, "subject")))
    return [*tables, (bootstrap_remark(results), [])]


def bootstrap_remark(results: CrossValidation) -> str:
    """How the intervals were made."""
    bootstrap = results["bootstrap"]
    deviation = "± is the standard deviation over folds and seeds."
    if bootstrap["units"] < 2:
        return f"{deviation} One tested {bootstrap['unit']} gives no intervals."
    return (
        f"{deviation} Intervals: {100 * bootstrap['level']:.0f} % of "
        f"{bootstrap['resamples']} resamples of the {bootstrap['units']} tested {bootstrap['unit']}s, models fixed."
    )


def summary_rows(results: CrossValidation) -> Rows:
    """Every figure: mean ± std over folds, pooled, interval, constant predictor."""
    rows = [["", "mean over folds", "all clips", "95 % interval", "constant predictor", "better"]]
    for key in FIGURE_KEYS:
        figures = results["summary"][key]
        if figures["mean"] is not None:
            name, more_is_better, _ = FIGURES[key]
            cells = (
                with_deviation(figures["mean"], figures["std"]),
                percent(figures["pooled"]),
                interval(figures["low"], figures["high"]),
                percent(figures["constant_predictor"]),
            )
            rows.append([name, *cells, "higher" if more_is_better else "lower"])
    return rows


def fold_rows(results: CrossValidation) -> Rows:
    """Every run."""
    rows = [["fold", "seed", "UAR", "WAR", "box IoU", "landmark error", "clips", "epoch"]]
    for fold in results["folds"]:
        epochs = f"{fold['selected_epoch']} of {len(fold['history'])}"
        figures = (percent(fold[key]) for key in FIGURE_KEYS)
        rows.append([fold["fold"], str(fold["seed"]), *figures, str(fold["clips"]), epochs])
    return rows


def class_rows(results: CrossValidation) -> Rows:
    """Every expression."""
    rows = [["expression", "recall", "95 % interval", "± over folds", "clips"]]
    for name, figures in results["per_class"].items():
        span = interval(figures["low"], figures["high"])
        rows.append([name, percent(figures["recall"]), span, percent(figures["std"]), str(figures["clips"])])
    return rows


def group_rows(groups: dict[str, GroupFigures], title: str) -> Rows:
    """Every sex, or every subject."""
    several = any(group["subjects"] > 1 for group in groups.values())
    rows = [[title, "UAR", *(["95 % interval"] if several else []), "WAR", *(["subjects"] if several else []), "clips"]]
    for name, group in groups.items():
        span = [interval(group["low"], group["high"])] if several else []
        people = [str(group["subjects"])] if several else []
        rows.append([name, percent(group["uar"]), *span, percent(group["war"]), *people, str(group["clips"])])
    return rows


# Ablation


def ablation_tables(results: Ablation) -> list[tuple[str, Rows]]:
    """(what it shows, table) for every axis of the ablation."""
    reference = find_variant(results, results["reference"])
    folds = len({fold["fold"] for fold in results["variants"][0]["result"]["folds"]})
    seeds = ", ".join(map(str, results["seeds"]))
    counted = f"{folds} fold{'s' if folds > 1 else ''}, seed {seeds}"
    headline = f"Ablation: {results['protocol']}; {results['data']}; {counted}, the same for every variant."
    tables: list[tuple[str, Rows]] = [(headline, [])]
    for axis in dict.fromkeys(variant["axis"] for variant in results["variants"]):
        chosen = [variant for variant in results["variants"] if variant["axis"] == axis]
        if chosen == [reference] and len(results["variants"]) > 1:
            continue  # it stands in the tables of the other axes
        if reference not in chosen:
            chosen.insert(0, reference)
        tables.append((f"{axis.replace('_', ' ').capitalize()}, in percent", variant_rows(chosen)))
        if any(variant["paper"] for variant in chosen) and axis == reference["axis"]:
            tables.append(("The paper's own figures for these structures (UAR / WAR)", paper_rows(chosen)))
        tables.append((f"Differences from {reference['title']}, in points", difference_rows(chosen)))
    return [*tables, (bootstrap_remark(reference["result"]), [])]


def find_variant(results: Ablation, name: str) -> Variant:
    """The variant of this name."""
    return next(variant for variant in results["variants"] if variant["name"] == name)


def variant_rows(variants: Sequence[Variant]) -> Rows:
    """Figures of each variant, mean ± std over folds."""
    rows = [["", "UAR", "WAR", "box IoU", "landmark error", "weights"]]
    for variant in variants:
        summary = variant["result"]["summary"]
        figures = (with_deviation(summary[key]["mean"], summary[key]["std"]) for key in FIGURE_KEYS)
        rows.append([variant["title"], *figures, f"{variant['result']['parameters']:,}"])
    return rows


def paper_rows(variants: Sequence[Variant]) -> Rows:
    """Our figures on our data, and the paper's on its corpora."""
    data = variants[0]["result"]["data"]
    rows = [["structure", f"here: {data}", *(f"paper: {corpus}" for corpus in PAPER_CORPORA)]]
    for variant in variants:
        summary = variant["result"]["summary"]
        here = f"{percent(summary['uar']['mean'])} / {percent(summary['war']['mean'])}"
        rows.append([variant["title"], here, *paper_cells(variant["paper"])])
    return rows


def paper_cells(paper: Mapping[str, PaperFigures]) -> list[str]:
    """The paper's UAR / WAR in percent on each of its corpora; a dash for what it does not give."""
    cells = []
    for corpus in PAPER_CORPORA:
        figures = [paper[corpus]["uar"], paper[corpus]["war"]] if corpus in paper else []
        cells.append(" / ".join(UNKNOWN if value is None else f"{value:.2f}" for value in figures) or UNKNOWN)
    return cells


def difference_rows(variants: Sequence[Variant]) -> Rows:
    """Paired differences of UAR and WAR from the reference, with intervals."""
    rows = [["", "UAR", "95 % interval", "folds", "WAR", "95 % interval", "folds"]]
    for variant in variants:
        if variant["differences"]:
            rows.append([variant["title"]])
            for difference in (variant["differences"]["uar"], variant["differences"]["war"]):
                span = interval(difference["low"], difference["high"], sign=True)
                folds = with_deviation(difference["fold_mean"], difference["fold_std"])
                rows[-1] += [percent(difference["difference"], sign=True), span, folds]
    return rows
