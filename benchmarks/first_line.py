"""What the README's first line takes after installation, by stage; and what another checkout takes on this machine.

    python benchmarks/first_line.py                        # draw, label, train and test the default run
    python benchmarks/first_line.py --against PATH         # and another checkout's, one after the other
    python benchmarks/first_line.py --against PATH --rounds 2

A checkout is started as a user does (`accelerate launch training/run.py`), by this Python, in an empty folder. Stages
are those of its report; "start" is the rest: imports, opening the data, writing the report. Times on a machine that has
other work too mean nothing; the ratio of two checkouts in turns does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from checkouts import CHECKOUT, checkout_root, importing
from results_file import keep_table

STAGES = ("drawing", "labelling", "training", "testing")


def run_once(checkout: Path, words: Sequence[str]) -> dict[str, float]:
    """Seconds of every stage of one run, with "start" and "all".

    Raises:
        RuntimeError: the run failed; the message holds the end of what it said.
    """
    with tempfile.TemporaryDirectory() as name, importing(checkout) as environment:
        folder = Path(name)
        launch = [sys.executable, "-m", "accelerate.commands.launch", str(checkout / "training" / "run.py"), *words]
        start = time.perf_counter()
        ended = subprocess.run(launch, cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        reports = list(folder.glob("runs/*/report.json"))
        if ended.returncode != 0 or len(reports) != 1:
            raise RuntimeError(f"{checkout}: {ended.stderr[-2000:]}")
        stages = json.loads(reports[0].read_text(encoding="utf-8"))["seconds"]
    times = {stage: float(stages.get(stage, 0.0)) for stage in STAGES}
    return times | {"start": seconds - sum(times.values()), "all": seconds}


def format_times(times: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The table: medians of every checkout by stage, and the first over the second where there are two."""
    medians = {
        name: {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        for name, runs in times.items()
    }
    names = list(medians)
    lines = [f"| stage | {' | '.join(f'{name}, s' for name in names)} |{' ratio |' if len(names) > 1 else ''}"]
    lines.append("|---|" + "---:|" * (len(names) + (len(names) > 1)))
    for stage in medians[names[0]]:
        values = [medians[name][stage] for name in names]
        ratio = ""
        if len(values) > 1:
            ratio = f" {values[0] / values[1]:.2f} |" if values[1] > 0 else " – |"
        lines.append(f"| {stage} | {' | '.join(f'{value:.1f}' for value in values)} |{ratio}")
    return lines


def main() -> None:
    """Runs the checkouts in turns, prints the table and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=checkout_root, help="root of another checkout")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, in turns (default: 1)")
    parser.add_argument("--name", default="first_line", help="of the kept table (default: first_line)")
    parsed, words = parser.parse_known_args()
    checkouts = {"this checkout": CHECKOUT}
    if parsed.against is not None:
        checkouts["the other"] = parsed.against
    times: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(parsed.rounds):
        for name, checkout in checkouts.items():
            times[name].append(run_once(checkout, words))
            print(f"{name}: {times[name][-1]['all']:.0f} s", flush=True)
    lines = [f"Medians of {parsed.rounds}, the checkouts in turns.", "", *format_times(times)]
    print("\n".join(lines))
    print(f"kept in {keep_table(parsed.name, 'The first line of the README, by stage', lines)}")


if __name__ == "__main__":
    main()
