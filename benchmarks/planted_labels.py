"""How many planted wrong labels are among the first suspects?

    python benchmarks/planted_labels.py plant --label-dir FACES --image-dir FACES/aligned --output PLANTED.csv
    python main.py --label-file PLANTED.csv --image-dir FACES/aligned --run-dir RUN ...
    python benchmarks/planted_labels.py score --label-dir FACES --image-dir FACES/aligned --run RUN

`plant` gives some faces a wrong label, two classes or more from the right one. The networks then learn from the planted
labels too, and are evaluated with them. The data's own wrong labels count as misses.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_data
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
    right = dict(zip(faces.table.path, faces.labels, strict=True))
    here = evaluation.labels != evaluation.faces.table.path.map(right).to_numpy()
    print(f"{here.sum()} planted labels among {len(here):,} faces; top-1 {evaluation.metrics()['top1']:.2%}")
    for name, people in (("by score", None), ("people who agree first (the report's)", evaluation.faces.people)):
        rows = find_label_issues(evaluation.labels, evaluation.probabilities, people).row.to_numpy()
        found = here[rows[:first]].sum()
        print(f"{name}: {found} among the first {first} suspects, {here[rows].sum()} of {len(rows):,}")


if __name__ == "__main__":
    run_script(main)
