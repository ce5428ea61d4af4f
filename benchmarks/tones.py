"""Does a model of real people know stills by their tone? The same stills as they are, and with the tones of others.

    python benchmarks/tones.py --dataset FER2013 --tones LFW --models . runs/second/model

Releases of FER2013 differ: in some the histogram of every picture was made even. A network that learned from such
pictures alone may fail at what a camera takes. Here every still gets the tone of a still of another data set, drawn at
random; expressions do not change by that.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import keep_table

from mtcae_dfer.experiments.real_people.figures import answer, figures_of
from mtcae_dfer.experiments.real_people.pictures import read_faces
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceSet, change_tone
from mtcae_dfer.training.evaluation.percents import percent

STILLS_AT_ONCE = 256


def with_tones_of(faces: FaceSet, others: FaceSet, seed: int) -> FaceSet:
    """The same clips, each with the tone of a clip of others drawn at random."""
    wanted = others.tones[np.random.default_rng(seed).integers(len(others), size=len(faces))]
    changed = []
    for begin in range(0, len(faces), STILLS_AT_ONCE):
        part = slice(begin, begin + STILLS_AT_ONCE)
        pixels = change_tone(faces.pictures[part].float().div_(255), faces.tones[part], wanted[part])
        changed.append(pixels.mul_(255).round_().to(torch.uint8))
    return replace(faces, pictures=torch.cat(changed), tones=wanted)


def make_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """What benchmarks on stills and their tones are asked for; `name` is that of the kept table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder of a built data set of stills")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--tones", required=True, help="folder of the data set whose tones are taken (training split)")
    parser.add_argument("--seed", type=int, default=0, help="of who gets whose tone (default: %(default)s)")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/tones"), help="of decoded pictures")
    parser.add_argument("--name", default=name, help="of the kept table (default: %(default)s)")
    return parser


def read_sets(arguments: argparse.Namespace) -> dict[str, FaceSet]:
    """The stills as they are, and with the tones of the other data set, by title."""
    arguments.cache_dir.mkdir(parents=True, exist_ok=True)
    faces = read_faces(arguments.dataset, [arguments.split], arguments.cache_dir)
    others = read_faces(arguments.tones, ["train"], arguments.cache_dir)
    toned = with_tones_of(faces, others, arguments.seed)
    return {"as they are": faces, f"tones of {Path(arguments.tones).name}": toned}


def rate_cells(figures: Mapping[str, Any]) -> list[str]:
    """Accuracy and UAR by the labels, then by the raters, in percent."""
    voted = figures.get("voted", {})
    return [percent(rates.get(name)) for rates in (figures, voted) for name in ("accuracy", "uar")]


def main() -> None:
    """Prints the table and keeps it."""
    parser = make_parser(__doc__, "tones")
    parser.add_argument("--models", nargs="+", default=["."], help="folders of models (default: the repository's)")
    arguments = parser.parse_args()
    sets = read_sets(arguments)
    lines = [
        "| model | stills | accuracy | UAR | of what raters agree on: accuracy | UAR |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for folder in arguments.models:
        model = MTCAEForMultiTaskVideo.from_pretrained(folder)
        for title, clips in sets.items():
            cells = rate_cells(figures_of(answer(model, clips), clips.votes))
            lines.append(f"| {folder} | {title} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    print("\n".join(lines))
    print(f"kept in {keep_table(arguments.name, 'Expressions by the tone of the stills', lines)}")


if __name__ == "__main__":
    main()
