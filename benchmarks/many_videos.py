"""Ten thousand videos: `mtcae predict --output-dir` by several processes against one after the other, in turns.

    python benchmarks/many_videos.py                       # two processes, 48 videos of 4 seconds of 720p
    python benchmarks/many_videos.py --workers 2 --videos 12 --repeats 1

Every call is a fresh command with all of its videos, or with a third of them. The time that the others take makes the
throughput, so that the start of the processes does not count, however many there are; it stands below. The files of all
calls are compared byte by byte.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reading import SAMPLES
from results_file import keep_table

from inference import Material
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL

GOAL = 1.7  # throughput of two processes on two cores / that of one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=48, help="copies of a clip of 4 seconds (default: 48)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="commands of each kind (default: 3)")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder of real clips, where present")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        material = Material.make(folder, arguments.samples)
        for videos, count in (("videos", arguments.videos), ("some", arguments.videos // 3)):
            (folder / videos).mkdir()
            for number in range(count):
                shutil.copy(material.clip, folder / videos / f"{number:04}.mp4")
        lines = [f"Videos: {material.told}.", "", "| | clips | timelines |", "|---|---|---|"]
        measured = [measure(folder, arguments, words) for words in ([], ["--people", "all"])]
    for row in measured[0]:
        lines.append(f"| {row} | {' | '.join(told[row] for told in measured)} |")
    lines += ["", f"Medians of {arguments.repeats} commands in turns, {arguments.videos} videos and a third of them."]
    print("\n".join(lines))
    print(keep_table("many_videos", "Many videos, demonstration model", lines))


def measure(folder: Path, arguments: argparse.Namespace, words: list[str]) -> dict[str, str]:
    """The table's column for clips, or for timelines."""
    some = arguments.videos // 3
    times: dict[tuple[int, str], list[float]] = {
        (workers, videos): [] for workers in (1, arguments.workers) for videos in ("videos", "some")
    }
    contents: dict[str, list[dict[str, bytes]]] = {"videos": [], "some": []}
    for _ in range(arguments.repeats):
        for (workers, videos), seconds in times.items():
            output = folder / "out"
            seconds.append(predict(folder / videos, output, workers, words))
            contents[videos].append({file.name: file.read_bytes() for file in output.iterdir()})
            shutil.rmtree(output)
    medians = {each: statistics.median(seconds) for each, seconds in times.items()}
    rates, starts = {}, {}
    for workers in (1, arguments.workers):
        rates[workers] = (arguments.videos - some) / (medians[workers, "videos"] - medians[workers, "some"])
        starts[workers] = medians[workers, "some"] - some / rates[workers]
    gain = rates[arguments.workers] / rates[1]
    return {
        "one after the other, videos/s": f"{rates[1]:.2f}",
        f"{arguments.workers} processes, videos/s": f"{rates[arguments.workers]:.2f}",
        f"gain; the goal is {GOAL}": f"{gain:.2f}",
        "start and tables of one, s": f"{starts[1]:.1f}",
        f"start and tables of {arguments.workers}, s": f"{starts[arguments.workers]:.1f}",
        "the same bytes": "yes" if all(each == calls[0] for calls in contents.values() for each in calls) else "NO",
    }


def predict(videos: Path, output: Path, workers: int, words: list[str]) -> float:
    """Seconds of a command."""
    command = [sys.executable, "-m", "mtcae_dfer.commands.command_line", "predict", str(videos), *words]
    command += ["--output-dir", str(output), "--workers", str(workers), "--model", str(DEMONSTRATION_MODEL)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
