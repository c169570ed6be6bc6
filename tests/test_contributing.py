"""The examples of CONTRIBUTING.md, applied to a copy of the code as they stand there, and trained with."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

ROOMS = ("augment", "data", "evaluation", "models", "photos", "report", "tools", "training", "utils")
TINY = "--image-size 40 --epochs 1 --batch-size 16 --lr 0.01 --precision fp32 --threads 1 --folds 3 --no-plots"


def examples():
    """(file, the line below which the code goes, 'at the end' or 'new file', code) of every example."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for place, code in re.findall(r"```(?:python|html)\n(?:#|\{#) ([^\n]*?)(?: #\})?\n(.*?)```", text, re.DOTALL):
        path, where = place.split(", ", 1)
        yield path, where, code


def apply(copy, path, where, code):
    file = copy / path
    if where == "new file":
        assert not file.exists()
        file.write_text(code)
        return
    source = file.read_text()
    if where == "at the end":
        file.write_text(source + "\n\n" + code)
        return
    lines, (how, _, start) = source.splitlines(keepends=True), where.removesuffix('"').partition('"')
    (position,) = (k for k, line in enumerate(lines) if line.startswith(start))
    file.write_text("".join([*lines[: position + (how == "below ")], code, *lines[position + 1 :]]))


@pytest.fixture(scope="module")
def extended(small_faces_once, tmp_path_factory):
    """A run of the extended copy: (its folder, what it printed)."""
    copy = tmp_path_factory.mktemp("contributing")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", copy)
    for example in examples():
        apply(copy, *example)
    labels, images = small_faces_once
    command = [
        sys.executable,
        "main.py",
        "--label-dir",
        labels,
        "--image-dir",
        images,
        *TINY.split(),
        "--run-dir",
        "run",
    ]
    command += "--loss squared_error --optimizer radam --model tiny --grey 0.5".split()
    done = subprocess.run(list(map(str, command)), cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return copy, done.stdout


def test_every_kind_has_its_example_and_touches_two_files_at_most():
    sections = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "A loss", "An optimizer", "A metric", "An augmentation", "A network", "A data set", "A report section",
    ]  # fmt: skip
    for section in sections:
        assert 1 <= len(set(re.findall(r"```(?:python|html)\n(?:#|\{#) (\S+),", section))) <= 2


def test_the_examples_pass_the_linter(extended):
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", extended[0]])
    assert done.returncode == 0


def test_the_run_has_all_of_them(extended):
    copy, printed = extended
    config = json.loads((copy / "run" / "config.json").read_text())
    assert (config["model"], config["loss"], config["grey"]) == ("tiny", "squared_error", 0.5)
    assert "two-off" in printed
    assert "test_two_off" in pd.read_csv(copy / "run" / "log.csv").columns
    results = json.loads((copy / "run" / "results.json").read_text())
    table = pd.read_csv(copy / "run" / "predictions.csv")
    assert results["folds"][0]["two_off"] == pytest.approx((abs(table.label - table.prediction) <= 2).mean())


def test_the_data_set_of_years(extended, tmp_path):
    for name in ("000123_age034_f.jpg", "7_age5_m.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    command = [sys.executable, "-m", "tools.make_labels", "portraits", str(tmp_path)]
    done = subprocess.run(command, cwd=extended[0], capture_output=True, text=True)
    rows = "000123_age034_f.jpg,34,000123,f\n7_age5_m.jpg,5,7,m\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"path,age,person,gender\n{rows}", "")
