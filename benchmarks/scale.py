"""Measure how time and memory grow with the number of faces: reading the labels, reading and augmenting an epoch.

    python benchmarks/scale.py [--times 1 10 25] [--image-size 64]

Makes label files of 17,424 rows (Adience's under the policy strict), and of 10 and 25 times as many. The images are
empty files and the cache is written directly, so that only the work of a training run is measured. Each size is
measured in a separate process, of which the anonymous memory is reported; the mapped cache is not part of it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_data
from data.adience import CANONICAL, FOLDS, HEADER
from data.dataset import FaceDataset, shuffled_batches
from models.network import Network
from training.config import Config
from training.engine import make_augment
from utils.cli import run_script
from utils.seeds import Stream, make_generator

ADIENCE_ROWS = 17_424
BATCH_SIZE = 128
FACES_PER_ALBUM = 100


def make_faces(folder, count, size):
    """Write label files and empty images of `count` faces, in albums of 100, and random pixels as their cache."""
    ages = list(CANONICAL)
    lines = {fold: ["\t".join(HEADER)] for fold in FOLDS}
    for number in range(count):
        album, name, fold = f"album{number // FACES_PER_ALBUM}", f"{number}.jpg", number // FACES_PER_ALBUM % len(FOLDS)
        image = folder / "aligned" / album / f"landmark_aligned_face.{number}.{name}"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
        fields = [album, name, str(number), ages[number % len(ages)], "f", "0", "0", "64", "64", "0", "0", "90"]
        lines[fold].append("\t".join(fields))
    for fold, rows in lines.items():
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(rows) + "\n")
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, 3, size, size))
    rng = np.random.default_rng(0)
    for first in range(0, count, 4096):
        images[first : first + 4096] = rng.integers(0, 256, images[first : first + 4096].shape, dtype=np.uint8)


def own_mebibytes():
    """Anonymous memory of this process; pages of the mapped cache are the system's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def measure(folder, size):
    """Print the row of one number of faces."""
    config = Config(label_dir=str(folder), image_dir=str(folder / "aligned"), image_size=size)
    start = time.perf_counter()
    faces, _ = load_data(**config.data_source)
    labels_seconds, count = time.perf_counter() - start, len(faces)
    images = np.load(folder / "images.npy", mmap_mode="r")
    before = own_mebibytes()
    start = time.perf_counter()
    augment = make_augment(config, 0, count, Network, (0, 0))
    for batch in shuffled_batches(FaceDataset(images, faces), BATCH_SIZE, make_generator(0, 0, 0, Stream.SHUFFLE)):
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
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.image_size)
        return
    for times in options.times:
        with tempfile.TemporaryDirectory(prefix="scale_") as folder:
            make_faces(Path(folder), times * ADIENCE_ROWS, options.image_size)
            command = [sys.executable, __file__, "--measure", folder, "--image-size", str(options.image_size)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    run_script(main)
