"""Measure which changed copies of photographs are recognised as the same picture (data/duplicates.py).

python benchmarks/copies.py --image-dir FACES/aligned [--count 400]
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.duplicates import both_signatures, same_pictures
from data.images import centre_square, open_image, to_rgb
from photos.photographs import find_photographs

SIDE = 64  # pixels of the network's input


def cut(image, share):
    margins = [round(share * side) for side in image.size]
    return image.crop((*margins, image.width - margins[0], image.height - margins[1]))


CHANGES = {
    "saved again as a JPEG of quality 60": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "2 % cut off on each side": lambda image: cut(image, 0.02),
    "5 % cut off on each side": lambda image: cut(image, 0.05),
    "a black frame of 2 pixels": lambda image: ImageOps.expand(image, 2, "black"),
}


def signatures(images):
    return both_signatures(np.stack([np.asarray(centre_square(i, SIDE)).transpose(2, 0, 1) for i in images]))


def saved(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-dir", required=True)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    paths, images = find_photographs([options.image_dir]), []
    for position in np.random.default_rng(0).permutation(len(paths))[: options.count]:
        with open_image(paths[position]) as image:
            images.append(to_rgb(image))
    known, count = signatures(images)[0], len(images)
    for name, change in CHANGES.items():
        copies = signatures([saved(change(image)) for image in images])
        pairs = same_pictures(np.concatenate(copies), known)
        found = {first % count for first, second in pairs if first % count == second}
        print(f"{name:38} {len(found):4} of {count}")


if __name__ == "__main__":
    main()
