"""What `predict.py --adapt` gains on populations that are drawn from the held-out faces of a run.

    python benchmarks/populations.py RUN [--draws 40]

Each population is drawn with replacement, so many faces at a time; the means over the draws are of the answers as they
are and, behind the arrow, of the adapted ones.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.label_shift import class_weights, usual_answer, weighted
from evaluation.metrics import METRICS
from training.results import read_results

SIZES = (5, 10, 30, 300)  # faces
# {population: whether it has a person of this age}
POPULATIONS = {
    "like the training faces": lambda age: age >= 0,
    "under 13 years": lambda age: age < 13,
    "13 to 19": lambda age: (age >= 13) & (age <= 19),
    "18 to 25": lambda age: (age >= 18) & (age <= 25),
    "60 and over": lambda age: age >= 60,
    "5 to 12 and 30 to 45: families": lambda age: ((age >= 5) & (age <= 12)) | ((age >= 30) & (age <= 45)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run directory of main.py whose classes are ages")
    parser.add_argument("--draws", type=int, default=40, metavar="N", help="draws of each population (default: 40)")
    options = parser.parse_args()
    _, evaluation = read_results(options.run)
    counts = np.bincount(evaluation.labels, minlength=len(evaluation.classes))
    usual = usual_answer(evaluation.probabilities, evaluation.labels, counts)
    ages = evaluation.faces.ages
    ages = np.where(np.isnan(ages), evaluation.classes.bounds.mean(1)[evaluation.labels], ages)
    names = [name for name in ("mae_years", "bias_years", "top1", "mae") if name in evaluation.metric_names][:2]
    populations = {name: has(ages).astype(float) for name, has in POPULATIONS.items()}
    populations["every age as often"] = 1 / counts[evaluation.labels]
    titles = [f"{METRICS[name].title}, {size} faces" for size in SIZES for name in names]
    print(f"| population | {' | '.join(titles)} |\n{'|---' * (1 + len(titles))}|")
    rng = np.random.default_rng(0)
    for population, chances in populations.items():
        if not chances.any():  # the ages between Adience's groups
            continue
        cells = []
        for size in SIZES:
            found = [gains(evaluation, rng.choice(len(ages), size, p=chances / chances.sum()), usual, names)
                     for _ in range(options.draws)]  # fmt: skip
            for name, values in zip(names, np.mean(found, axis=0).T, strict=True):
                cells.append(" -> ".join(map(METRICS[name].show, values)))
        print(f"| {population} | {' | '.join(cells)} |", flush=True)


def gains(evaluation, rows, usual, names):
    """Some faces' metrics as they are and adapted, (2, len(names))."""
    faces = dataclasses.replace(evaluation.faces, table=evaluation.faces.table.iloc[rows])
    plain = evaluation.probabilities[rows]
    adapted = weighted(plain, class_weights(plain, usual)).astype(np.float32)
    answers = [dataclasses.replace(evaluation, faces=faces, probabilities=p, predicted=None) for p in (plain, adapted)]
    return [[answer.metrics()[name] for name in names] for answer in answers]


if __name__ == "__main__":
    main()
