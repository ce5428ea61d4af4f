"""How far should the scores of the model for real people be moved towards rare expressions?

    python benchmarks/prior_share.py --dataset FER2013 --tones LFW --model runs/third/model

Corpora of acted expressions show every expression equally often, the stills of the web do not: what is rare there is
answered too rarely. The experiment takes a share of the logarithm of each expression's part in the training targets off
its score (`PRIOR_SHARE` in `experiments/real_people/recipe.py`). Here other shares stand beside it, on the validation
stills as they are and with the tones of another data set.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from results_file import keep_table
from tones import with_tones_of

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people.figures import answer, figures_of
from mtcae_dfer.experiments.real_people.pictures import read_faces
from mtcae_dfer.experiments.real_people.recipe import PRIOR_SHARE, RealPeopleOptions
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.evaluation.percents import percent

VOTE_SHARE = RealPeopleOptions([]).vote_share


def main() -> None:
    """Prints the table and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder of the data set with official splits")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--tones", required=True, help="folder of the data set whose tones are taken (training split)")
    parser.add_argument("--model", default=".", help="folder of the model (default: the repository's)")
    parser.add_argument("--taken", type=float, default=PRIOR_SHARE, help="share in its scores (default: %(default)s)")
    parser.add_argument("--vote_share", type=float, default=VOTE_SHARE, help="of its targets (default: %(default)s)")
    parser.add_argument("--shares", default="0,0.1,0.2,0.3,0.4,0.5,0.7", help="(default: %(default)s)")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/tones"), help="of decoded pictures")
    parser.add_argument("--name", default="prior_share", help="of the kept table (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.cache_dir.mkdir(parents=True, exist_ok=True)
    faces = read_faces(arguments.dataset, [arguments.split], arguments.cache_dir)
    others = read_faces(arguments.tones, ["train"], arguments.cache_dir)
    trained = read_faces(arguments.dataset, ["train"], arguments.cache_dir, arguments.vote_share)
    parts = torch.from_numpy(np.log(trained.targets.mean(axis=0)))
    model = MTCAEForMultiTaskVideo.from_pretrained(arguments.model)
    model.config.temperature = 1.0  # it changes no answer, but divides what is taken off
    columns = "labels: accuracy | UAR | raters: accuracy | UAR"
    lines = [f"| share | stills | {columns} | {' | '.join(EXPRESSIONS)} |", f"|---:|---|{'---:|' * 11}"]
    sets = {"as they are": faces, f"tones of {Path(arguments.tones).name}": with_tones_of(faces, others, seed=0)}
    for title, stills in sets.items():
        answers = answer(model, stills)
        for share in map(float, arguments.shares.split(",")):
            moved = replace(answers, scores=answers.scores - (share - arguments.taken) * parts)
            figures = figures_of(moved, stills.votes)
            voted = figures.get("voted", {})
            cells = [figures["accuracy"], figures["uar"], voted.get("accuracy"), voted.get("uar")]
            cells += [figures["recall"][name] for name in EXPRESSIONS]
            lines.append(f"| {share} | {title} | {' | '.join(percent(cell) for cell in cells)} |")
            print(lines[-1], flush=True)
    lines += ["", "Columns of expressions: recall by the data set's labels."]
    print(f"kept in {keep_table(arguments.name, 'Scores moved towards rare expressions', lines)}")


if __name__ == "__main__":
    main()
