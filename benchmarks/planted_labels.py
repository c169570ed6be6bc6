"""How many planted wrong labels are among the first suspects?

    python benchmarks/planted_labels.py plant --label-dir FACES --image-dir FACES/aligned --output PLANTED.csv
    python main.py --label-file PLANTED.csv --image-dir FACES/aligned --run-dir RUN ...
    python benchmarks/planted_labels.py score --label-dir FACES --image-dir FACES/aligned --run RUN

`plant` gives some faces a wrong label, two classes or more from the right one. The networks then learn from the planted
labels too, and are evaluated with them. The data's own wrong labels count as misses. `score` compares the report's rule
with cleanlab's (pip install cleanlab).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.load import load_data
from evaluation.label_issues import find_label_issues
from training.config import Config
from training.results import read_results
from utils.cli import run_script

LEAST_DISTANCE = 2  # classes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("plant", "score"))
    parser.add_argument("--label-dir", required=True, help="the right labels")
    parser.add_argument("--image-dir", required=True)
    parser.add_argument("--output", help="the label file with planted labels, for `plant`")
    parser.add_argument("--run", help="run directory that was trained on them, for `score`")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=150, help="suspects that are checked")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faces, _ = load_data(**Config(label_dir=options.label_dir, image_dir=options.image_dir).data_source)
    if options.action == "plant":
        plant(faces, options.output, options.count, options.seed)
    else:
        score(faces, options.run, options.first)


def plant(faces, output, count, seed):
    rng = np.random.default_rng(seed)
    labels, classes = faces.labels.copy(), np.arange(len(faces.classes))
    for row in np.sort(rng.choice(len(faces), count, replace=False)):
        labels[row] = rng.choice(classes[abs(classes - labels[row]) >= LEAST_DISTANCE])
    names = np.array(faces.classes.names)[labels]
    table = faces.table[["path", "fold"]].assign(label=names, person=faces.people)
    table.to_csv(output, index=False)
    print(f"{output} has {count} wrong labels among {len(faces):,}")


def score(faces, run, first):
    _, evaluation = read_results(run)
    truth = evaluation.faces.table.path.map(dict(zip(faces.table.path, faces.labels, strict=True))).to_numpy()
    planted = evaluation.labels != truth
    print(f"{planted.sum()} planted labels among {len(truth):,} faces; top-1 {evaluation.metrics()['top1']:.2%}")
    rules = {"our rule, the report's": find_label_issues(evaluation.labels, evaluation.probabilities)}
    for name in ("self_confidence", "normalized_margin"):
        rules[f"cleanlab, {name}"] = ask_cleanlab(evaluation.labels, evaluation.probabilities, name)
    for name, found in rules.items():
        rows = found.row.to_numpy()
        best = found[:first][planted[rows[:first]]]
        back = (best.suggested == truth[best.row]).sum()
        print(
            f"{name}: {len(best)} among the first {first} suspects, {planted[rows].sum()} of {len(rows):,};"
            f" of the {len(best)}, {back} would get their right label back"
        )


def ask_cleanlab(labels, probabilities, ranking):
    """The suspects of `cleanlab` (pip install cleanlab), the worst first, with the most probable class."""
    from cleanlab.filter import find_label_issues as find

    rows = find(labels, probabilities, return_indices_ranked_by=ranking, n_jobs=1)
    return pd.DataFrame({"row": rows, "suggested": probabilities[rows].argmax(1)})


if __name__ == "__main__":
    run_script(main)
