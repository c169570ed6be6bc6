"""Measure how starting a training grows with the number of faces.

python benchmarks/scale.py --folder DIR [--counts 10000 100000] [--simulated 500000]
python benchmarks/scale.py --folder DIR --read

Draws photographs (220 px, JPEG) into the folder once, 6 KB each, and starts main.py on them up to the first training
step, with a cold and a warm cache, each in a process of its own. Prints a table in Markdown: seconds and memory, and
the exponent of their growth from the first to the last count. Then starts it with simulated signatures, empty files as
photographs and empty images, and searches these signatures for the same picture.

With --read, reads an epoch of the largest cache in both orders of --shuffle, from the disk: in a container with less
memory than the cache, "all" is slow.
"""

import argparse
import csv
import functools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZE = 64  # pixels of the network's input
PER_FOLDER = 1000
STAGES = ("load_data", "set_up_folds", "open_cache", "check_origins")  # functions that main.py calls
SEARCHES = ("open_pairs",)  # of data/cache.py


def draw_faces(rng, count):
    """Small grey pictures (count, 8, 8) that differ from each other as faces do, which decides how fast a search is.

    A bright head, and cosines whose amplitudes fall with the 1.5th power of the frequency. The eigenvalues of 22,373
    faces of UTKFace fall alike: as shares of all, the 1st is 0.30 (here 0.20), the 8th 0.027 (0.024), the 32nd 0.0025
    (0.0023).
    """
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    frequency = np.arange(8)
    cosines = np.cos(np.pi * frequency[:, None] * (frequency + 0.5) / 8)
    amplitudes = 50 / (1 + frequency[:, None] ** 2 + frequency**2) ** 0.75
    amplitudes[0, 0] = 0
    waves = cosines.T @ (rng.normal(size=(count, 8, 8)) * amplitudes) @ cosines
    return 90 + 60 * np.exp(-2 * (x**2 + y**2)) + waves


def draw_photographs(folder, count):
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // PER_FOLDER}" / f"{number}.jpg"
        pixels = draw_faces(rng, 1)[0, :, :, None] + rng.normal(0, 5, (8, 8, 3))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.resize((220, 220), Image.Resampling.BICUBIC).save(path, quality=75)


def write_labels(path, count):
    rng = np.random.default_rng(0)
    ages, people = rng.integers(0, 101, count), rng.integers(0, max(5, count // 4), count)
    with open(path, "w", newline="") as file:
        rows = ((f"{k // PER_FOLDER}/{k}.jpg", ages[k], f"p{people[k]}") for k in range(count))
        csv.writer(file).writerows([["path", "age", "person"], *rows])


def start(folder, count, *options):
    """{stage: seconds}, and "memory" in MiB, of a start of main.py up to its first step."""
    begun = time.time()
    command = [sys.executable, __file__, "--folder", folder, "--start", str(count), *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return values | {"start to first step": values.pop("first step at") - begun}


def simulated_cache(image_dir, paths, size, cache_dir, skip_damaged):
    """A Cache of empty images in files of the usual size, which take no room on the disk."""
    from data.cache import SHARD, Cache, Shards
    from data.duplicates import Pictures, find_pairs

    folder, shards = Path(cache_dir), []
    folder.mkdir(exist_ok=True)
    for begin in range(0, len(paths), SHARD):
        shape, mode = (min(SHARD, len(paths) - begin), 3, size, size), {"dtype": np.uint8, "mode": "w+"}
        np.lib.format.open_memmap(folder / f"{begin}.npy", shape=shape, **mode)
        shards.append(np.load(folder / f"{begin}.npy", mmap_mode="r"))
    signatures = draw_signatures(len(paths))
    return Cache(Shards(shards), "simulated", Pictures(signatures, find_pairs(signatures)), {})


def start_here(folder, count, simulated):
    """In a process of its own: main.py, whose first step ends it."""
    import main
    from data import cache as cache_module

    seconds = {}

    def timed(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            begun = time.perf_counter()
            result = function(*arguments, **named)
            seconds[function.__name__] = time.perf_counter() - begun
            return result

        return call

    def one_step(state, batches, augment, meter, runtime, after_step):
        batch = next(iter(batches))
        state.criterion(state.network(augment(batch.images, batch.positions)), batch.labels, batch.intervals).backward()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**seconds, "memory": memory, "first step at": time.time()}), flush=True)
        os._exit(0)

    for module, names in ((main, STAGES), (cache_module, SEARCHES)):
        for name in names:
            setattr(module, name, timed(getattr(module, name)))
    main.train_one_epoch = one_step
    if simulated:
        main.open_cache = simulated_cache
    shutil.rmtree(folder / "run", ignore_errors=True)
    options = f"--age-groups 0..100+ --recipe modern --width 0.25 --image-size {SIZE} --epochs 1 --folds 0 --threads 1"
    images, cache = ("empty", "empty/cache") if simulated else ("photographs", "cache")
    paths = f"--label-file {count}.csv --image-dir {images} --cache-dir {cache} --run-dir run"
    os.chdir(folder)
    sys.argv = ["main.py", *paths.split(), *options.split()]
    main.main()


def decoding_rate(folder, count):
    """Images per second of decoding alone, on all cores."""
    from data.images import decode_face, in_threads

    files = [folder / "photographs" / f"{k // PER_FOLDER}" / f"{k}.jpg" for k in range(count)]
    begun = time.perf_counter()
    list(in_threads(lambda file: decode_face(file, SIZE).sum(), files, "decoding"))
    return count / (time.perf_counter() - begun)


def draw_signatures(count):
    from data.duplicates import both_signatures

    rng, parts = np.random.default_rng(0), []
    for begin in range(0, count, 5000):
        pixels = draw_faces(rng, min(5000, count - begin)).clip(0, 255).astype(np.uint8)
        images = pixels[:, None].repeat(3, 1).repeat(4, 2).repeat(4, 3)  # (B, 3, 32, 32)
        parts.append(both_signatures(images))
    return np.concatenate(parts, axis=1)


def search_here(count):
    """In a process of its own: the search for the same picture among this many simulated signatures."""
    from data.duplicates import find_pairs

    signatures = draw_signatures(count)
    begun = time.perf_counter()
    pairs = find_pairs(signatures)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - begun, "pairs": len(pairs), "memory": memory}))


def read_both_orders(cache):
    """Print the faces per second of a first epoch, for two minutes at most, in both orders of --shuffle."""
    import pandas as pd

    from data.cache import Shards
    from data.dataset import FaceDataset, shuffled_batches
    from data.faces import Faces
    from utils.classes import Classes
    from utils.seeds import make_generator

    files = sorted(cache.glob(f"faces_{SIZE}px_*/images.npy"), key=lambda file: -file.stat().st_size)
    for order in ("all", "shards"):
        for file in files:  # forget what is in memory
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        images = Shards([np.load(file, mmap_mode="r") for file in files])
        faces = Faces(pd.DataFrame({"label": np.zeros(len(images), int)}), Classes(("a", "b")))
        begun, count = time.perf_counter(), 0
        for batch in shuffled_batches(FaceDataset(images, faces), 128, make_generator(0), by_shards=order == "shards"):
            count += len(batch.images)
            seconds = time.perf_counter() - begun
            if seconds > 120:
                break
        print(f"--shuffle {order}: {count:,} faces of {images.nbytes >> 20:,} MiB, {count / seconds:,.0f} faces/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--simulated", type=int, default=500_000)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--search", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--empty", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.start:
        start_here(folder, options.start, options.empty)
    elif options.search:
        search_here(options.search)
    elif options.read:
        read_both_orders(folder / "cache")
    else:
        measure(folder, options)


def measure(folder, options):
    draw_photographs(folder / "photographs", max(options.counts))
    rows = {}
    for count in options.counts:
        write_labels(folder / f"{count}.csv", count)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        rate = decoding_rate(folder, min(options.counts))
        cold = start(folder, count)
        warm = start(folder, count)
        rows[count] = {f"cold: {name}": value for name, value in cold.items()}
        rows[count] |= {f"warm: {name}": value for name, value in warm.items()}
        rows[count]["cold: decoding alone"] = count / rate
    print(f"| seconds; memory in MiB | {' | '.join(f'{count:,} faces' for count in rows)} | exponent |")
    print("|---|" + "---|" * (len(rows) + 1))
    first, last = rows[options.counts[0]], rows[options.counts[-1]]
    for name in first:
        growth = math.log(last[name] / first[name]) / math.log(options.counts[-1] / options.counts[0])
        print(f"| {name} | {' | '.join(f'{row[name]:,.2f}' for row in rows.values())} | {growth:.2f} |")
    for count in (options.simulated // 5, options.simulated):
        write_labels(folder / f"{count}.csv", count)
        for number in range(count):
            path = folder / "empty" / f"{number // PER_FOLDER}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        print(f"\nstart with {count:,} simulated faces: {json.dumps(start(folder, count, '--empty'))}", flush=True)
        command = [sys.executable, __file__, "--folder", str(folder), "--search", str(count)]
        print(f"search among {count:,} signatures: {subprocess.check_output(command, text=True).strip()}", flush=True)


if __name__ == "__main__":
    main()
