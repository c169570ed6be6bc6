"""Kill test_code.py and tools.ablate with SIGKILL at random moments, and start them again.

    python benchmarks/kill_test.py [--kills 20] [--seed 0]

Every other trial starts over the good outputs of an earlier call. After the kill each output is the earlier one or the
new one, whole; the same command then gives the outputs that it gives without a kill. benchmarks/run_machine.py does
the same to main.py.
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
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.demo import make_demo_faces

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --folds 0 1 --no-plots"
)
PATIENCE = 120  # seconds for a run that a killed script started and that nobody stops


def python(*arguments):
    return [str(part) for part in [sys.executable, *arguments]]


def run_whole(arguments):
    start = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"a run failed with status {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


class Evaluation:
    """test_code.py, with a report and the misclassified faces; the earlier call evaluated another model."""

    name = "test_code.py"

    def __init__(self, data, runs):
        self.data, self.runs = data, runs

    def command(self, folder, earlier=False):
        outputs = ["--show-errors", "--error-dir", folder / "error", "--json", folder / "report.json"]
        model = self.runs / f"fold_{1 if earlier else 0}.pt"
        return python(ROOT / "test_code.py", model, "--threads", 1, *self.data, *outputs)

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
        pictures = {path.name for path in (folder / "error").glob("*.png")}
        with open(folder / "error" / "errors.csv", newline="") as file:
            extra = sorted(pictures - {row["file"] for row in csv.DictReader(file)})
        hidden = [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]
        return extra + hidden or None


class Ablation:
    """tools.ablate; the earlier call compared one variant less."""

    name = "tools.ablate"

    def __init__(self, data):
        self.data = data

    def command(self, folder, earlier=False):
        variants = ["relu"] if earlier else ["relu", "no flip"]
        settings = [part for part in SETTINGS.replace("--epochs 2", "--epochs 1").split() if part != "--no-plots"]
        return python("-m", "tools.ablate", "--run-dir", folder, "--only", *variants, *self.data, *settings)

    def read(self, folder):
        found = {}
        if (folder / "ablation.csv").exists():
            found["ablation.csv"] = pd.read_csv(folder / "ablation.csv").drop(columns="seconds").to_csv()
        if (folder / "ablation.md").exists():
            found["ablation.md"] = [
                row[: row.rindex("|", 0, -2)] for row in (folder / "ablation.md").read_text().splitlines()
            ]
        if (folder / "ablation.png").exists():
            found["ablation.png"] = read_png(folder / "ablation.png") and "whole"  # it shows timings
        return found

    def find_rest(self, folder):
        return [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")] or None


def read_png(path):
    with Image.open(path, formats=["PNG"]) as image:
        return image.size, image.tobytes()


def kill(script, folder, kills, moments):
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
    parser.add_argument("--kills", type=int, default=20, help="of each script (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        faces, runs = folder / "faces", folder / "runs"
        make_demo_faces(faces, people_per_class=1, images_per_person=2)
        data = ["--label-dir", faces, "--image-dir", faces / "aligned", "--cache-dir", runs / "cache"]
        run_whole(python(ROOT / "main.py", *data, "--run-dir", runs, *SETTINGS.split()))
        for script in (Evaluation(data, runs), Ablation(data)):
            wrong += kill(script, folder / script.name, options.kills, moments)
    print(f"{2 * options.kills - wrong} of {2 * options.kills} equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
