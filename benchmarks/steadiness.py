"""How many answers change when a face is changed in a way that changes no age.

python benchmarks/steadiness.py MODEL [--label-file FACES.csv | --label-dir DIR] [--image-dir DIR] [--count 1800]

Takes faces of the fold that the model held out, of the recorded data unless another place is given. An answer is the
most probable of Adience's eight groups; beside it stands the mean change of the age in years.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.load import load_data
from photos.predictor import AgePredictor
from training.config import recorded_config

PLACES = ("label_file", "label_dir", "image_dir")
GROUPS = [(0, 2), (4, 6), (8, 13), (15, 20), (25, 32), (38, 43), (48, 53), (60, 200)]


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def coarser(image, factor):
    return image.resize((image.width // factor, image.height // factor)).resize(image.size)


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
    "JPEG of quality 30": lambda image: jpeg(image, 30),
    "JPEG of quality 20": lambda image: jpeg(image, 20),
    "half the resolution": lambda image: coarser(image, 2),
    "a quarter of the resolution": lambda image: coarser(image, 4),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    "turned by 15 degrees": lambda image: image.rotate(15, Image.Resampling.BICUBIC),
    "the red channel alone": lambda image: Image.merge("RGB", image.split()[:1] * 3),
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
    for name in PLACES:
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=1800)
    options = parser.parse_args()
    predictor = AgePredictor(options.model, detect=False)
    record = predictor.models[0].record
    config = recorded_config(options.model, record, {name: vars(options)[name] for name in PLACES if name in options})
    table = load_data(**config.data_source)[0].table
    paths = table.path[table.fold == record["fold"]]
    paths = paths.sample(min(options.count, len(paths)), random_state=0)
    images = [Image.open(Path(config.image_dir) / path).convert("RGB") for path in paths]
    group, age = answers(predictor, images)
    print(f"{len(images):,} faces of the held-out fold\n\n| change | answers that change | years |\n|---|---|---|")
    for name, change in CHANGES.items():
        other_group, other_age = answers(predictor, list(map(change, images)))
        print(f"| {name} | {(group != other_group).mean():.1%} | {np.abs(age - other_age).mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
