"""Compare the accuracy of fast and plain computation: a short training of each, with several seeds.

    python benchmarks/equivalence.py --label-dir DIR --image-dir DIR [--seeds 0 1 2] [--epochs 4]

Fast is what `main.py` chooses on this machine; plain is fp32 without compilation. The augmentation is the same in both;
tests/test_augment.py compares it with torchvision's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MAIN = Path(__file__).parents[1] / "main.py"
SIDES = {"fast": [], "plain": ["--precision", "fp32", "--compile", "off"]}


def train(side, seed, folder, options):
    run = folder / f"{side}_{seed}"
    command = [sys.executable, MAIN, "--label-dir", options.label_dir, "--image-dir", options.image_dir, "--folds", 0]
    command += ["--image-size", options.image_size, "--epochs", options.epochs, "--lr-steps", *options.lr_steps]
    command += ["--seed", seed, "--run-dir", run, "--cache-dir", folder / "cache", "--no-plots", *SIDES[side]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads((run / "results.json").read_text())["folds"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-dir", required=True)
    parser.add_argument("--image-dir", required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr-steps", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="equivalence_"))
    try:
        top1 = {side: [] for side in SIDES}
        for seed in options.seeds:
            for side in SIDES:
                result = train(side, seed, folder, options)
                top1[side].append(100 * result["top1"])
                print(f"seed {seed} {side:<5} top-1 {result['top1']:.2%} one-off {result['one_off']:.2%}", flush=True)
    finally:
        shutil.rmtree(folder)
    for side, values in top1.items():
        print(f"{side:<5} mean {np.mean(values):.2f}, standard deviation over seeds {np.std(values, ddof=1):.2f}")
    difference = np.array(top1["fast"]) - np.array(top1["plain"])
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    print(f"fast - plain: {difference.mean():+.2f} points, standard error {error:.2f}")


if __name__ == "__main__":
    main()
