"""Kill a small run with SIGKILL at random moments, resume it, and compare every bit.

    python benchmarks/kill_test.py [--kills 30] [--seed 0]

Each trial starts from nothing. Every fifth kill waits for the cache to be in the making; the others come
at random moments of the run, in epochs and in the writing of checkpoints alike. Then it is resumed until it
ends. The weights, the log (apart from its timings), the predictions and the results must equal those of a
run that was never interrupted.
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


def command(folder, run):
    faces = folder / "faces"
    paths = ["--label-dir", faces, "--image-dir", faces / "aligned", "--run-dir", run, "--cache-dir", run / "cache"]
    return [str(part) for part in [sys.executable, ROOT / "main.py", *paths, *SETTINGS.split()]]


def run_whole(arguments):
    start = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"a run failed with status {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


def kill_and_resume(arguments, run, is_time):
    """Kill as soon as is_time() says so and resume; returns what the killed run had reached, in words."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not is_time():
        time.sleep(0.001)
    process.kill()
    process.wait()
    reached = describe(run)
    if (run / "config.json").exists():
        arguments = [*arguments, "--resume"]
    run_whole(arguments)
    return reached


def describe(run):
    if not (run / "cache").exists():
        return "before the cache"
    half_written = [path.name for path in [*run.glob(".*"), *(run / "cache").glob(".*.unfinished")]]
    log = run / "log.csv"
    epochs = len(log.read_text().splitlines()) - 1 if log.exists() else 0
    place = f"{epochs} of 4 epochs" if (run / "config.json").exists() else "in the cache"
    return place + (f", while writing {', '.join(half_written)}" if half_written else "")


def same_bits(run, whole):
    for fold in (0, 1):
        ours, theirs = (torch.load(folder / f"fold_{fold}.pt", weights_only=True)["model"] for folder in (run, whole))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            return False
    logs = [pd.read_csv(folder / "log.csv").drop(columns=TIMED) for folder in (run, whole)]
    names = ("predictions.csv", "results.json")
    return logs[0].equals(logs[1]) and all((run / name).read_bytes() == (whole / name).read_bytes() for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_demo_faces(folder / "faces", people_per_group=1, images_per_person=2)
        duration = run_whole(command(folder, folder / "whole"))
        print(f"uninterrupted: {duration:.1f} s", flush=True)
        equal = 0
        for kill in range(1, options.kills + 1):
            run = folder / "killed"
            shutil.rmtree(run, ignore_errors=True)
            # Starting Python and torch takes the first third; nothing of the run can be lost there.
            start, moment = time.monotonic(), moments.uniform(0.3, 1.0) * duration
            in_cache = kill % 5 == 0
            reached = kill_and_resume(
                command(folder, run),
                run,
                # Bound now: the loop's next turn has other moments.
                lambda run=run, start=start, moment=moment, in_cache=in_cache: (
                    any((run / "cache").glob(".*.unfinished")) if in_cache else time.monotonic() - start > moment
                ),
            )
            same = same_bits(run, folder / "whole")
            equal += same
            print(f"kill {kill:2d}, {reached}: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {options.kills} equal")
    return 0 if equal == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
