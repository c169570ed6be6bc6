"""Measure how time and memory grow with the number of faces: reading the labels, reading and augmenting an epoch.

    python benchmarks/scale.py [--times 1 10 25] [--image-size 64]

Makes label files of 17,424 rows (Adience's under the policy strict), and of 10 and 25 times as many. The images are
links to a few files, and the cache is written directly, so that only the work of a training run is measured. Each size
is measured in a separate process, of which the anonymous memory is reported; the mapped cache is not part of it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.adience import CANONICAL, HEADER, load_faces
from data.dataset import FaceDataset, shuffled_batches
from models.network import Network
from training.config import Config
from training.engine import make_augment
from utils.seeds import Stream, make_generator

ADIENCE_ROWS = 17_424
BATCH_SIZE = 128
LINKS_PER_FILE = 30_000  # file systems limit them
FACES_PER_ALBUM = 100


def make_faces(folder, count, side=64):
    """Write label files and images of `count` faces, in albums of 100; the images are hard links."""
    ages = list(CANONICAL)
    lines = {fold: ["\t".join(HEADER)] for fold in range(5)}
    for number in range(count):
        album, fold = f"album{number // FACES_PER_ALBUM}", number // FACES_PER_ALBUM % 5
        name, target = f"{number}.jpg", folder / "aligned" / album
        if number % FACES_PER_ALBUM == 0:
            target.mkdir(parents=True)
        if number % LINKS_PER_FILE == 0:
            source = folder / f"source{number}.jpg"
            noise = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((side, side)).save(source, quality=90)
        os.link(source, target / f"landmark_aligned_face.{number}.{name}")
        fields = [album, name, str(number), ages[number % len(ages)], "f", "0", "0", "64", "64", "0", "0", "90"]
        lines[fold].append("\t".join(fields))
    for fold, rows in lines.items():
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(rows) + "\n")


def own_mebibytes():
    """Anonymous memory of this process; pages of the mapped cache are the system's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(folder, count, size):
    """Print the row of one size."""
    start = time.perf_counter()
    faces, _ = load_faces(folder, folder / "aligned", "strict")
    labels_seconds = time.perf_counter() - start
    images = np.load(folder / "images.npy", mmap_mode="r")
    dataset = FaceDataset(images, faces)
    before = own_mebibytes()
    start = time.perf_counter()
    augment = make_augment(Config(image_size=size), 0, count, Network, (0, 0))
    for batch in shuffled_batches(dataset, BATCH_SIZE, make_generator(0, 0, 0, Stream.SHUFFLE)):
        augment(batch.images, batch.labels, batch.positions)
    seconds = time.perf_counter() - start
    memory, cache = own_mebibytes(), images.nbytes / 2**20
    augmented = count // BATCH_SIZE * BATCH_SIZE  # the incomplete last batch is dropped
    print(
        f"{count:>9,} faces: labels and paths {labels_seconds:6.2f} s; reading and augmenting {seconds:7.1f} s,"
        f" {1e6 * seconds / augmented:5.0f} us a face; cache {cache:7,.0f} MiB; memory {memory:5.0f} MiB, grown by"
        f" {memory - before:4.0f} in the epoch",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 25])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(Path(options.measure[0]), int(options.measure[1]), options.image_size)
    for times in options.times:
        folder, count = Path(tempfile.mkdtemp(prefix="scale_")), times * ADIENCE_ROWS
        try:
            make_faces(folder, count)
            shape = (count, 3, options.image_size, options.image_size)
            array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
            rng = np.random.default_rng(0)
            for first in range(0, count, 4096):
                part = array[first : first + 4096]
                part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
            del array
            command = [sys.executable, __file__, "--measure", folder, count, "--image-size", options.image_size]
            subprocess.run(list(map(str, command)), check=True)
        finally:
            shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
