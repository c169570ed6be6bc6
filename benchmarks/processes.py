"""Compare training in two gloo processes of one thread each with one process of two threads.

    python benchmarks/processes.py [--image-size 224] [--repeats 5]

Alternately runs main.py on the demo faces alone and under torchrun, and compares the images per second in its log
without the first epoch.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]


def images_per_second(processes, folder, options):
    run = folder / f"of_{processes}"
    shutil.rmtree(run, ignore_errors=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), ROOT / "main.py", "--demo", "--run-dir", run]
    command += ["--image-size", options.image_size, "--batch-size", options.batch_size, "--epochs", 3, "--lr-steps", 2]
    command += ["--folds", 0, "--no-plots", "--device", "cpu", "--precision", options.precision]
    command += ["--threads", options.threads // processes]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads // processes)}
    subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=True, capture_output=True)
    return float(pd.read_csv(run / "log.csv").images_per_second[1:].median())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="threads of all processes together")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="processes_"))
    try:
        pairs = []
        for repeat in range(options.repeats):
            pairs.append([images_per_second(processes, folder, options) for processes in (1, 2)])
            one, two = pairs[-1]
            print(
                f"repeat {repeat + 1}: one process {one:.1f} images/s, two {two:.1f}, ratio {two / one:.2f}", flush=True
            )
    finally:
        shutil.rmtree(folder)
    one, two = np.median(pairs, axis=0)
    ratio = np.median([two / one for one, two in pairs])
    print(f"median: one process {one:.1f} images/s, two {two:.1f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
