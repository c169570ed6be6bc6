"""Kill scripts with SIGKILL at random moments, start them again, and compare every bit.

    python benchmarks/kill_test.py [--kills 30] [--other-kills 10] [--seed 0]

main.py: each trial starts in an empty directory. Every fifth kill waits until the cache is being built; the others
come at random moments, during epochs and while files are written. Then the run is resumed until it ends. The weights,
the log (apart from its timings), the predictions and the results must equal those of a run that was never interrupted.

test_code.py, tools.comparator and tools.ablate: every other trial starts over the good outputs of an earlier call.
After the kill each output is the earlier one or the new one, whole; the same command then gives what it gives without
a kill.
"""

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.demo import make_demo_faces
from models.checkpoint import load_model

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --folds 0 1 --no-plots"
)
TIMED = ["seconds", "images_per_second"]
PATIENCE = 120  # seconds for a run that a killed script started and that nobody stops


def main_command(*arguments):
    return python(ROOT / "main.py", *arguments)


def python(*arguments):
    return [str(part) for part in [sys.executable, *arguments]]


def start_command(faces, run):
    paths = ["--label-dir", faces, "--image-dir", faces / "aligned", "--run-dir", run, "--cache-dir", run / "cache"]
    return main_command(*paths, *SETTINGS.split())


def run_whole(arguments):
    start = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
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
    if (run / "predictions.csv").read_bytes() != (whole / "predictions.csv").read_bytes():
        return "predictions.csv"
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (run, whole))
    for results in (first, second):  # the code may be committed while this test runs
        del results["commit"]
    return "results.json" if first != second else None


def kill_main(faces, whole, kills, moments):
    """Kill and resume main.py; returns the number of runs that differ from the undisturbed one."""
    duration = run_whole(start_command(faces, whole))
    print(f"main.py, uninterrupted: {duration:.1f} s", flush=True)
    different, run = 0, whole.parent / "killed"
    for kill in range(1, kills + 1):
        shutil.rmtree(run, ignore_errors=True)
        # Python and torch start during the first third; nothing of the run can be lost there.
        start, moment = time.monotonic(), moments.uniform(0.3, 1.0) * duration
        in_cache = kill % 5 == 0
        reached = kill_and_resume(
            faces,
            run,
            # As default arguments: the loop's next iteration has other values.
            lambda start=start, moment=moment, in_cache=in_cache: (
                any((run / "cache").glob(".*.unfinished")) if in_cache else time.monotonic() - start > moment
            ),
        )
        differs = find_difference(run, whole)
        different += differs is not None
        print(f"main.py, kill {kill:2d}, {reached}: {f'DIFFERENT {differs}' if differs else 'equal'}", flush=True)
    return different


class Evaluation:
    """test_code.py, with a report and the misclassified faces; the earlier call evaluated another model."""

    name = "test_code.py"

    def __init__(self, faces, runs):
        self.runs = runs
        self.places = ["--label-dir", faces, "--image-dir", faces / "aligned", "--cache-dir", runs / "cache"]

    def command(self, folder, earlier=False):
        outputs = ["--show-errors", "--error-dir", folder / "error", "--json", folder / "report.json"]
        model = self.runs / f"fold_{1 if earlier else 0}.pt"
        return python(ROOT / "test_code.py", model, "--threads", 1, *self.places, *outputs)

    def read(self, folder):
        """{output: its content, apart from timings}; raises an exception where one is not whole."""
        found = {}
        if (folder / "report.json").exists():
            reports = json.loads((folder / "report.json").read_text())
            timed = ("seconds", "latency")
            found["report.json"] = [{k: v for k, v in report.items() if k not in timed} for report in reports]
        if (folder / "error" / "errors.csv").exists():
            text = (folder / "error" / "errors.csv").read_text()
            names = [row["file"] for row in csv.DictReader(io.StringIO(text))]
            assert names, "errors.csv lists nothing"
            found["errors.csv"] = (text, [read_png(folder / "error" / name) for name in names])
        return found

    def find_rest(self, folder):
        """Files that no finished call leaves, or None."""
        pictures = {path.name for path in (folder / "error").glob("*.png")} - {"worst.png"}
        with open(folder / "error" / "errors.csv", newline="") as file:
            extra = sorted(pictures - {row["file"] for row in csv.DictReader(file)})
        hidden = [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]
        return extra + hidden or None


class Comparator:
    """tools.comparator; it replaces no model file, so that there are no earlier outputs."""

    name = "tools.comparator"

    def __init__(self, faces, runs):
        self.runs = runs
        self.places = ["--label-dir", faces, "--image-dir", faces / "aligned", "--cache-dir", runs / "cache"]

    def command(self, folder, earlier=False):
        model, steps = self.runs / f"fold_{1 if earlier else 0}.pt", ["--steps", 30, "--references", 2]
        return python("-m", "tools.comparator", model, "--run-dir", folder, *steps, "--threads", 1, *self.places)

    def read(self, folder):
        return {path.name: weights(path) for path in folder.glob("fold_*.pt")}

    def find_rest(self, folder):
        return [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")] or None


class Ablation:
    """tools.ablate; the earlier call compared one variant less."""

    name = "tools.ablate"

    def __init__(self, faces, runs):
        self.places = ["--label-dir", faces, "--image-dir", faces / "aligned", "--cache-dir", runs / "cache"]

    def command(self, folder, earlier=False):
        variants = ["relu"] if earlier else ["relu", "no flip"]
        settings = [part for part in SETTINGS.replace("--epochs 2", "--epochs 1").split() if part != "--no-plots"]
        return python("-m", "tools.ablate", "--run-dir", folder, "--only", *variants, *self.places, *settings)

    def read(self, folder):
        found = {}
        if (folder / "ablation.csv").exists():
            found["ablation.csv"] = pd.read_csv(folder / "ablation.csv").drop(columns="seconds").to_csv()
        if (folder / "ablation.md").exists():
            found["ablation.md"] = [row[: row.rindex("|", 0, -2)] for row in read_lines(folder / "ablation.md")]
        if (folder / "ablation.png").exists():
            found["ablation.png"] = read_png(folder / "ablation.png") and "whole"  # it shows timings
        return found

    def find_rest(self, folder):
        return [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")] or None


def read_lines(path):
    text = path.read_text()
    assert text.endswith("\n"), f"{path.name} is cut"
    return text.splitlines()


def read_png(path):
    with Image.open(path, formats=["PNG"]) as image:
        return image.size, image.tobytes()


def weights(path):
    return [(name, tensor.numpy().tobytes()) for name, tensor in load_model(path).state_dict().items()]


def kill_other(script, folder, kills, moments):
    """Kill a script and start it again; returns the number of trials that went wrong."""
    folder.mkdir()
    run_whole(script.command(folder / "earlier", earlier=True))
    earlier = script.read(folder / "earlier")
    durations = {}
    for from_earlier in (False, True):
        whole = folder / f"whole{from_earlier}"
        if from_earlier:
            shutil.copytree(folder / "earlier", whole)
        durations[from_earlier] = run_whole(script.command(whole))
        print(f"{script.name}, uninterrupted: {durations[from_earlier]:.1f} s", flush=True)
    expected, wrong = {False: script.read(folder / "wholeFalse"), True: script.read(folder / "wholeTrue")}, 0
    for kill in range(1, kills + 1):
        place, from_earlier = folder / "killed", kill % 2 == 0
        shutil.rmtree(place, ignore_errors=True)
        if from_earlier:
            shutil.copytree(folder / "earlier", place)
        command = script.command(place)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The last part, in which files are written, is short.
        late = moments.random() < 0.5
        moment = moments.uniform(*((0.85, 1.0) if late else (0.3, 1.0))) * durations[from_earlier]
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reached = "ended" if process.returncode == 0 else f"killed after {moment:.1f} s"
        before = earlier if from_earlier else {}
        problem = find_problem(script, place, before, expected[from_earlier])
        wrong += problem is not None
        print(f"{script.name}, kill {kill:2d}, {reached}: {f'WRONG, {problem}' if problem else 'equal'}", flush=True)
    return wrong


def find_problem(script, place, before, expected):
    """What is wrong after a kill, and after the same command then, as text, or None."""
    try:
        found = script.read(place)
    except Exception as error:
        return f"an output is not whole: {type(error).__name__}: {error}"
    for name in before.keys() | found.keys():
        if found.get(name) not in (before.get(name), expected.get(name)):
            return f"{name} is neither the earlier nor the new one"
    if found != expected or not isinstance(script, Comparator):  # which replaces nothing, and says so
        status, message = run_again(script.command(place))
        if status:
            return f"the same command then failed: {message}"
    if script.read(place) != expected:
        return "the same command then gave another result"
    if rest := script.find_rest(place):
        return f"left behind: {', '.join(rest)}"
    return None


def run_again(command):
    """(status, last line of standard error), after waiting for a run that a killed script left."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        message = (done.stderr.splitlines() or [""])[-1]
        if "another process is training" not in message or time.monotonic() > deadline:
            return done.returncode, message


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of main.py (default: 30)")
    parser.add_argument("--other-kills", type=int, default=10, help="of each other script (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        faces, whole = folder / "faces", folder / "whole"
        make_demo_faces(faces, people_per_class=1, images_per_person=2)
        wrong = kill_main(faces, whole, options.kills, moments)
        total = options.kills + 3 * options.other_kills
        if options.other_kills:
            for script in (Evaluation(faces, whole), Comparator(faces, whole), Ablation(faces, whole)):
                wrong += kill_other(script, folder / script.name, options.other_kills, moments)
    print(f"{total - wrong} of {total} equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
