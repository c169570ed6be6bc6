"""How many planted wrong labels are among the first suspects?

    python benchmarks/planted_labels.py plant --label-dir FACES --output DIR
    python main.py --label-dir DIR --image-dir FACES/aligned --run-dir RUN ...
    python benchmarks/planted_labels.py score RUN --label-dir DIR

`plant` copies the label files and gives some faces a wrong label, two classes or more from the right one. The networks
then learn from the planted labels too, and are judged by them. The data's own wrong labels count as misses.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.adience import CANONICAL, FOLDS, label_places, read_rows, select_faces
from evaluation.label_issues import find_label_issues
from training.config import read_config
from training.results import read_results

PLANTED = "planted.csv"
LEAST_DISTANCE = 2  # classes
TEXTS = {label: text for text, label in CANONICAL.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("plant", "score"))
    parser.add_argument("run", nargs="?", help="run directory that was trained on the planted labels")
    parser.add_argument("--label-dir", required=True, help="the label files; of `score`, those with planted labels")
    parser.add_argument("--output", help="folder for the planted label files")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=150, help="suspects that are looked at")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.action == "plant":
        plant(Path(options.label_dir), Path(options.output), options.count, options.seed)
    else:
        score(options.run, Path(options.label_dir), options.first)


def plant(label_dir, output, count, seed):
    rng = np.random.default_rng(seed)
    faces, _ = select_faces(read_rows(label_dir), "strict")
    chosen = faces.iloc[np.sort(rng.choice(len(faces), count, replace=False))]
    planted = [rng.choice([k for k in range(len(TEXTS)) if abs(k - label) >= LEAST_DISTANCE]) for label in chosen.label]
    table = chosen[["file", "line", "label"]].assign(planted=planted)
    output.mkdir(parents=True)
    for fold in FOLDS:
        name = f"fold_{fold}_data.txt"
        lines = (label_dir / name).read_text().split("\n")
        for row in table[table.file == name].itertuples():
            fields = lines[row.line - 1].split("\t")
            assert fields[3] == TEXTS[row.label], fields
            fields[3] = TEXTS[row.planted]
            lines[row.line - 1] = "\t".join(fields)
        (output / name).write_text("\n".join(lines))
    table.to_csv(output / PLANTED, index=False)
    print(f"{count} wrong labels in {output}/; {PLANTED} there lists them")


def score(run, label_dir, first):
    config = read_config(run)
    _, predictions = read_results(run)
    places, _ = label_places(label_dir, config.image_dir, config.label_policy)
    table = pd.read_csv(label_dir / PLANTED)
    planted = set(table.file + ":" + table.line.astype(str))
    here = predictions.faces.table.path.map(places).isin(planted).to_numpy()
    people = predictions.faces.people.to_numpy()
    print(f"{here.sum()} planted labels among {len(here):,} faces; top-1 {predictions.metrics()['top1']:.2%}")
    for name, settings in (
        ("plain rule", {}),
        ("ordinal rule", {"ordinal": True}),
        ("ordinal rule, people who agree first (the report's)", {"ordinal": True, "people": people}),
    ):
        rows = find_label_issues(predictions.labels, predictions.probabilities, **settings).row.to_numpy()
        print(
            f"{name}: {here[rows[:first]].sum()} among the first {first} suspects, {here[rows].sum()} of {len(rows):,}"
        )


if __name__ == "__main__":
    main()
