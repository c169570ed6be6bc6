"""Kill a small run with SIGKILL at random moments, resume it, and compare every bit.

    python benchmarks/kill_test.py [--kills 30] [--seed 0]

Each trial starts in an empty directory. Every fifth kill waits until the cache is being built; the others come at
random moments, during epochs and while files are written. Then the run is resumed until it ends. The weights, the log
(apart from its timings), the predictions and the results must equal those of a run that was never interrupted.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.demo import make_demo_faces

ROOT = Path(__file__).parents[1]
SETTINGS = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --folds 0 1 --no-plots"
TIMED = ["seconds", "images_per_second"]


def main_command(*arguments):
    return [str(part) for part in [sys.executable, ROOT / "main.py", *arguments]]


def start_command(faces, run):
    paths = ["--label-dir", faces, "--image-dir", faces / "aligned", "--run-dir", run, "--cache-dir", run / "cache"]
    return main_command(*paths, *SETTINGS.split())


def run_whole(arguments):
    start = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"a run failed with status {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


def kill_and_resume(faces, run, is_time):
    """Kill a run as soon as is_time() is true, and resume it; returns how far it was, in words."""
    process = subprocess.Popen(start_command(faces, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not is_time():
        time.sleep(0.001)
    process.kill()
    process.wait()
    reached = describe(run)
    # A run that was killed before it wrote its settings is started again; any other resumes with those it recorded.
    begun = (run / "config.json").exists()
    run_whole(main_command("--run-dir", run, "--resume") if begun else start_command(faces, run))
    return reached


def describe(run):
    if not (run / "cache").exists():
        return "before the cache"
    half_written = [path.name for path in [*run.glob(".*.unfinished*"), *(run / "cache").glob(".*.unfinished")]]
    log = run / "log.csv"
    epochs = len(log.read_text().splitlines()) - 1 if log.exists() else 0
    place = f"{epochs} of 4 epochs" if (run / "config.json").exists() else "in the cache"
    return place + (f", while writing {', '.join(half_written)}" if half_written else "")


def find_difference(run, whole):
    """The name of the first file in which two runs differ, or None."""
    for name in ("fold_0.pt", "fold_1.pt"):
        first, second = (torch.load(folder / name, weights_only=True)["state_dict"] for folder in (run, whole))
        if first.keys() != second.keys() or not all(torch.equal(first[key], second[key]) for key in first):
            return name
    first, second = (pd.read_csv(folder / "log.csv").drop(columns=TIMED) for folder in (run, whole))
    if not first.equals(second):
        return "log.csv"
    for name in ("predictions.csv", "results.json"):
        if (run / name).read_bytes() != (whole / name).read_bytes():
            return name
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_demo_faces(folder / "faces", people_per_class=1, images_per_person=2)
        duration = run_whole(start_command(folder / "faces", folder / "whole"))
        print(f"uninterrupted: {duration:.1f} s", flush=True)
        equal = 0
        for kill in range(1, options.kills + 1):
            run = folder / "killed"
            shutil.rmtree(run, ignore_errors=True)
            # Python and torch start during the first third; nothing of the run can be lost there.
            start, moment = time.monotonic(), moments.uniform(0.3, 1.0) * duration
            in_cache = kill % 5 == 0
            reached = kill_and_resume(
                folder / "faces",
                run,
                # As default arguments: the loop's next iteration has other values.
                lambda run=run, start=start, moment=moment, in_cache=in_cache: (
                    any((run / "cache").glob(".*.unfinished")) if in_cache else time.monotonic() - start > moment
                ),
            )
            differs = find_difference(run, folder / "whole")
            equal += differs is None
            print(f"kill {kill:2d}, {reached}: {f'DIFFERENT {differs}' if differs else 'equal'}", flush=True)
    print(f"{equal} of {options.kills} equal")
    return 0 if equal == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
