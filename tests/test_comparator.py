"""The comparator script: pairs of the right classes, and model files like any other."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from tools.comparator import ClassSampler
from utils.errors import UserError

NAMES = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")


def test_drawn_faces_have_the_classes_asked_for():
    labels = torch.tensor([3, 0, 1, 2, 3, 4, 5, 6, 7, 0])
    asked = torch.randint(8, (50, 4), generator=torch.Generator().manual_seed(0))
    drawn = ClassSampler(labels, NAMES).draw(asked, torch.Generator().manual_seed(1))
    assert torch.equal(labels[drawn], asked)
    assert set(drawn[asked == 3].tolist()) == {0, 4}
    with pytest.raises(UserError, match=r"^no training face has the class 60\+: all classes are compared$"):
        ClassSampler(labels[labels < 7], NAMES)


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_script_makes_model_files_like_any_other(small_faces_once, tmp_path):
    labels, images = small_faces_once
    where = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache"]
    tiny = "--image-size 40 --epochs 1 --batch-size 16 --lr 0.01 --folds 3 --loss coral --no-plots".split()
    trained = run("main.py", *where, *tiny, "--run-dir", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    script = ["-m", "tools.comparator", tmp_path / "run" / "fold_3.pt", "--run-dir", tmp_path / "compared"]
    compared = run(*script, "--steps", 20)
    assert compared.returncode == 0, compared.stderr
    shown = compared.stdout.split("fold 3 by comparison: top-1 ")[1].split(",")[0]
    tested = run("test_code.py", tmp_path / "compared" / "fold_3.pt")
    assert f"eval accuracy: {shown}" in tested.stdout
    again = run(*script, "--steps", 20)
    assert again.returncode == 2
    assert again.stderr == f"error: '{tmp_path / 'compared' / 'fold_3.pt'}' exists; choose another --run-dir\n"
