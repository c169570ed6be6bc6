"""Kill test_code.py and predict.py with SIGKILL at random moments, and start them again.

    python benchmarks/kill_test.py [--kills 30] [--seed 0]

Every other trial starts over the good outputs of an earlier call; in every third one a second process with another
model writes the same outputs, from a random moment on. Afterwards each output is the earlier one or a new one, whole;
the same command then gives the outputs that it gives without a kill. benchmarks/run_machine.py does the same to
main.py.
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

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.demo import make_demo_faces

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --threads 1 --folds 0 1 --no-plots"
)
TIMED = ("seconds", "latency")


def run_whole(command):
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"a run failed with status {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


def read(folder):
    """{output: its content, apart from timings}; raises an exception where one is not whole."""
    found = {}
    if (folder / "report.json").exists():
        reports = json.loads((folder / "report.json").read_text())
        found["report.json"] = [{k: v for k, v in report.items() if k not in TIMED} for report in reports]
    if (folder / "ages.csv").exists():
        found["ages.csv"] = (folder / "ages.csv").read_text()
        assert found["ages.csv"].endswith("\n"), "ages.csv is cut"
    if (folder / "error" / "errors.csv").exists():
        text = (folder / "error" / "errors.csv").read_text()
        names = [row["file"] for row in csv.DictReader(io.StringIO(text))]
        assert names, "errors.csv lists nothing"
        found["errors.csv"] = (text, [read_png(folder / "error" / name) for name in names])
    return found


def read_png(path):
    with Image.open(path, formats=["PNG"]) as image:
        return image.size, image.tobytes()


def find_rest(folder):
    """Files that no finished call leaves."""
    listed = set()
    if (folder / "error").exists():
        with open(folder / "error" / "errors.csv", newline="") as file:
            listed = {row["file"] for row in csv.DictReader(file)}
    hidden = [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]
    return sorted({path.name for path in (folder / "error").glob("*.png")} - listed) + hidden


def find_problem(command, place, possible, expected):
    """What is wrong after a kill, and after the same command then, as text, or None.

    Args:
        command: of the script that was killed.
        place: the folder of its outputs.
        possible: the outputs that may be there, each as of `read`.
        expected: those of the command when nothing is killed.
    """
    try:
        found = read(place)
    except Exception as error:
        return f"an output is not whole: {type(error).__name__}: {error}"
    for name in expected:
        if found.get(name) not in [outputs.get(name) for outputs in possible]:
            return f"{name} is neither the earlier nor a new one"
    run_whole(command)
    if read(place) != expected:
        return "the same command then gave another result"
    return f"left behind: {', '.join(rest)}" if (rest := find_rest(place)) else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="trials (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        faces, runs, place = (Path(folder) / name for name in ("faces", "runs", "killed"))
        make_demo_faces(faces, people_per_class=1, images_per_person=2)
        data = ["--label-dir", faces, "--image-dir", faces / "aligned", "--cache-dir", runs / "cache"]
        run_whole([sys.executable, ROOT / "main.py", *data, "--run-dir", runs, *SETTINGS.split()])

        def command(script, fold, place):
            model = runs / f"fold_{fold}.pt"
            if script == "predict":
                outputs = ["--csv", place / "ages.csv", "--no-detect"]
                return [sys.executable, ROOT / "predict.py", model, faces / "aligned", "--threads", "1", *outputs]
            outputs = ["--show-errors", "--error-dir", place / "error", "--json", place / "report.json"]
            return [sys.executable, ROOT / "test_code.py", model, "--threads", "1", *data, *outputs]

        whole, durations = {}, {}
        for script in ("test_code", "predict"):
            for fold in (1, 0):
                folder_of_run = Path(folder) / f"{script}_{fold}"
                durations[script] = run_whole(command(script, fold, folder_of_run))
                whole[script, fold] = folder_of_run
            print(f"{script} uninterrupted: {durations[script]:.1f} s", flush=True)
        for kill in range(1, options.kills + 1):
            script = ("test_code", "predict")[kill // 2 % 2]
            shutil.rmtree(place, ignore_errors=True)
            if kill % 2 == 0:
                shutil.copytree(whole[script, 1], place)
            process = subprocess.Popen(command(script, 0, place), cwd=ROOT, stdout=subprocess.DEVNULL)
            second = None
            # The last part, in which files are written, is short.
            moment = moments.uniform(moments.choice([0.3, 0.85]), 1.0) * durations[script]
            if kill % 3 == 0:
                time.sleep(moments.uniform(0, 0.3) * moment)
                second = subprocess.Popen(command(script, 1, place), cwd=ROOT, stdout=subprocess.DEVNULL)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reached = "ended" if process.returncode == 0 else f"killed after {moment:.1f} s"
            possible = [{}, read(whole[script, 0])]
            if kill % 2 == 0:
                possible[0] = read(whole[script, 1])
            if second:
                reached += f", a second writer ended with {second.wait()}"
                possible.append(read(whole[script, 1]))
            problem = find_problem(command(script, 0, place), place, possible, read(whole[script, 0]))
            wrong += problem is not None
            result = f"WRONG, {problem}" if problem else "equal"
            print(f"kill {kill:2d} of {script}, {reached}: {result}", flush=True)
    print(f"{options.kills - wrong} of {options.kills} equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
