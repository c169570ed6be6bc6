"""Measure how starting a training grows with the number of faces.

python benchmarks/scale.py --folder DIR [--counts 10000 100000] [--signatures 500000]

Draws photographs (220 px, JPEG) into the folder once, 6 KB each, and starts main.py on them up to the first training
step, with a cold and a warm cache, each in a process of its own. Prints a table in Markdown: seconds and memory, and
the exponent of their growth from the first to the last count.
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


def draw_photographs(folder, count):
    """Pictures like faces for the search: smooth, alike in light and position, and each another one."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    head = 90 * np.exp(-2 * (x**2 + y**2))
    for number in range(count):
        path = folder / f"{number // PER_FOLDER}" / f"{number}.jpg"
        pixels = 90 + head[..., None] + rng.normal(0, 30, (8, 8, 1)) + rng.normal(0, 5, (8, 8, 3))
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


def start(folder, count, cache):
    """{stage: seconds}, and "memory" in MiB, of a start of main.py up to its first step."""
    begun = time.time()
    command = [sys.executable, __file__, "--folder", folder, "--start", str(count), "--cache-dir", cache]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return values | {"start to first step": values.pop("first step at") - begun}


def start_here(folder, count, cache):
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
    shutil.rmtree(folder / "run", ignore_errors=True)
    options = f"--age-groups 0..100+ --recipe modern --width 0.25 --image-size {SIZE} --epochs 1 --folds 0 --threads 1"
    paths = [
        "--label-file",
        f"{count}.csv",
        "--image-dir",
        "photographs",
        "--cache-dir",
        str(cache),
        "--run-dir",
        "run",
    ]
    os.chdir(folder)
    sys.argv = ["main.py", *paths, *options.split()]
    main.main()


def decoding_rate(folder, count):
    """Images per second of decoding alone, on all cores."""
    from data.images import decode_face, in_threads

    files = [folder / "photographs" / f"{k // PER_FOLDER}" / f"{k}.jpg" for k in range(count)]
    begun = time.perf_counter()
    in_threads(lambda file: decode_face(file, SIZE).sum(), files, "", progress=False)
    return count / (time.perf_counter() - begun)


def search_here(count):
    """In a process of its own: the search for the same picture among this many simulated signatures."""
    from data.duplicates import both_signatures, find_pairs

    rng, parts = np.random.default_rng(0), []
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    head = 90 * np.exp(-2 * (x**2 + y**2))
    for begin in range(0, count, 5000):
        pixels = 90 + head + rng.normal(0, 30, (min(5000, count - begin), 1, 8, 8))
        images = pixels.clip(0, 255).astype(np.uint8).repeat(4, 2).repeat(4, 3)  # (B, 1, 32, 32)
        parts.append(both_signatures(np.repeat(images, 3, axis=1)))
    signatures = np.concatenate(parts, axis=1)
    begun = time.perf_counter()
    pairs = find_pairs(signatures)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - begun, "pairs": len(pairs), "memory": memory}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--signatures", type=int, default=500_000)
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--search", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.start:
        start_here(folder, options.start, options.cache_dir)
    elif options.search:
        search_here(options.search)
    else:
        measure(folder, options)


def measure(folder, options):
    draw_photographs(folder / "photographs", max(options.counts))
    rows = {}
    for count in options.counts:
        write_labels(folder / f"{count}.csv", count)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        rate = decoding_rate(folder, min(options.counts))
        cold = start(folder, count, folder / "cache")
        warm = start(folder, count, folder / "cache")
        rows[count] = {f"cold: {name}": value for name, value in cold.items()}
        rows[count] |= {f"warm: {name}": value for name, value in warm.items()}
        rows[count]["cold: decoding alone"] = count / rate
    print(f"| seconds; memory in MiB | {' | '.join(f'{count:,} faces' for count in rows)} | exponent |")
    print("|---|" + "---|" * (len(rows) + 1))
    first, last = rows[options.counts[0]], rows[options.counts[-1]]
    for name in first:
        growth = math.log(last[name] / first[name]) / math.log(options.counts[-1] / options.counts[0])
        print(f"| {name} | {' | '.join(f'{row[name]:,.2f}' for row in rows.values())} | {growth:.2f} |")
    for count in (options.signatures // 5, options.signatures):
        command = [sys.executable, __file__, "--folder", str(folder), "--search", str(count)]
        print(f"\nsearch among {count:,} signatures: {subprocess.check_output(command, text=True).strip()}", flush=True)


if __name__ == "__main__":
    main()
