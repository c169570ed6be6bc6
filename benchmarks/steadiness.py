"""How many answers change when a face is changed in a way that changes no age.

python benchmarks/steadiness.py MODEL --label-file FACES.csv --image-dir DIR [--count 1800]

Takes faces of the fold that the model held out. An answer is the most probable of Adience's eight groups; beside it
stands the mean change of the age in years.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.checkpoint import load_model
from photos.predictor import AgePredictor

GROUPS = [(0, 2), (4, 6), (8, 13), (15, 20), (25, 32), (38, 43), (48, 53), (60, 200)]


def jpeg(image, quality=30):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def bordered(image, share):
    """A black border that covers this share of each side."""
    width = round(share * image.width)
    inner = image.crop((width, width, image.width - width, image.height - width))
    return ImageOps.expand(inner, width)


CHANGES = {
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "black border of 5 %": lambda image: bordered(image, 0.05),
    "black border of 10 %": lambda image: bordered(image, 0.1),
    "JPEG of quality 30": jpeg,
    "half the resolution": lambda image: image.resize((image.width // 2, image.height // 2)).resize(image.size),
    "red and blue exchanged": lambda image: Image.merge("RGB", image.split()[::-1]),
}


def answers(predictor, images):
    """(position in GROUPS, age) of each image, two arrays (N,)."""
    faces = [face for [face] in predictor(images)]
    years = np.array([first for first, _ in predictor.classes.years])
    inside = np.array([[low <= year <= high for low, high in GROUPS] for year in years], float)  # (K, 8)
    probabilities = np.array([list(face.probabilities.values()) for face in faces])
    return (probabilities @ inside).argmax(1), np.array([face.age for face in faces])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--label-file", required=True)
    parser.add_argument("--image-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1800)
    options = parser.parse_args()
    table = pd.read_csv(options.label_file)
    held_out = table[table.fold == load_model(options.model).record["fold"]]
    paths = held_out.path.sample(min(options.count, len(held_out)), random_state=0)
    images = [Image.open(options.image_dir / path).convert("RGB") for path in paths]
    predictor = AgePredictor(options.model, detect=False)
    group, age = answers(predictor, images)
    print(f"{len(images):,} faces of the held-out fold\n\n| change | answers that change | years |\n|---|---|---|")
    for name, change in CHANGES.items():
        other_group, other_age = answers(predictor, list(map(change, images)))
        print(f"| {name} | {(group != other_group).mean():.1%} | {np.abs(age - other_age).mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
