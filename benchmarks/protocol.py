"""Time the whole protocol by stage: five folds of 100 epochs on as many faces as Adience has.

    python benchmarks/protocol.py [--epochs 100] [--folds 0 1 2 3 4] [--image-size 224]

The faces are links to a few 816x816 JPEGs of noise: every stage has its real work, but there is nothing to learn. This
is for a GPU; on a CPU, choose fewer epochs.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from scale import make_faces

from data import load_faces, open_cache

FACES = 17_321


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=FACES)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="protocol_"))
    try:
        make_faces(folder, options.faces, side=816)
        start = time.perf_counter()
        faces, _ = load_faces(folder, folder / "aligned")
        open_cache(folder / "aligned", faces.table.path, options.image_size, folder / "cache")
        cache = time.perf_counter() - start
        command = [sys.executable, Path(__file__).parents[1] / "main.py", "--label-dir", folder, "--no-plots"]
        command += ["--image-dir", folder / "aligned", "--cache-dir", folder / "cache", "--run-dir", folder / "run"]
        command += ["--epochs", options.epochs, "--image-size", options.image_size, "--device", options.device]
        command += ["--folds", *options.folds]
        start = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True)
        run = time.perf_counter() - start
        log = pd.read_csv(folder / "run" / "log.csv")
    finally:
        shutil.rmtree(folder)
    training = log.seconds.sum()
    print(f"labels and cache {cache:8.1f} s")
    print(f"training epochs  {training:8.1f} s, {log.images_per_second.median():,.0f} images/s in the median epoch")
    print(f"everything else  {run - training:8.1f} s: start, evaluation, files")
    print(f"in all           {cache + run:8.1f} s")


if __name__ == "__main__":
    main()
