"""How far should the scores of the model for real people be moved towards rare expressions?

    python benchmarks/prior_share.py --dataset FER2013 --tones LFW --model runs/third/model

Corpora of acted expressions show every expression equally often, the stills of the web do not: what is rare there is
answered too rarely. The experiment takes a share of the logarithm of each expression's part in the training targets off
its score (`PRIOR_SHARE` in `experiments/real_people/recipe.py`). Here other shares stand beside it, on the validation
stills as they are and with the tones of another data set.
"""

from dataclasses import replace

from results_file import keep_table
from tones import make_parser, rate_cells, read_sets

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people.figures import answer, figures_of, log_prior
from mtcae_dfer.experiments.real_people.pictures import read_faces
from mtcae_dfer.experiments.real_people.recipe import PRIOR_SHARE, RealPeopleOptions
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.evaluation.percents import percent

VOTE_SHARE = RealPeopleOptions([]).vote_share


def main() -> None:
    """Prints the table and keeps it."""
    parser = make_parser(__doc__, "prior_share")
    parser.add_argument("--model", default=".", help="folder of the model (default: the repository's)")
    parser.add_argument("--taken", type=float, default=PRIOR_SHARE, help="share in its scores (default: %(default)s)")
    parser.add_argument("--vote_share", type=float, default=VOTE_SHARE, help="of its targets (default: %(default)s)")
    parser.add_argument("--shares", default="0,0.1,0.2,0.3,0.4,0.5,0.7", help="(default: %(default)s)")
    arguments = parser.parse_args()
    sets = read_sets(arguments)
    prior = log_prior(read_faces(arguments.dataset, ["train"], arguments.cache_dir, arguments.vote_share).targets)
    model = MTCAEForMultiTaskVideo.from_pretrained(arguments.model)
    model.config.temperature = 1.0  # it changes no answer, but divides what is taken off
    columns = "labels: accuracy | UAR | raters: accuracy | UAR"
    lines = [f"| share | stills | {columns} | {' | '.join(EXPRESSIONS)} |", f"|---:|---|{'---:|' * 11}"]
    for title, stills in sets.items():
        answers = answer(model, stills)
        for share in map(float, arguments.shares.split(",")):
            moved = replace(answers, scores=answers.scores - (share - arguments.taken) * prior)
            figures = figures_of(moved, stills.votes)
            cells = rate_cells(figures) + [percent(figures["recall"][name]) for name in EXPRESSIONS]
            lines.append(f"| {share} | {title} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    lines += ["", "Columns of expressions: recall by the data set's labels."]
    print(f"kept in {keep_table(arguments.name, 'Scores moved towards rare expressions', lines)}")


if __name__ == "__main__":
    main()
