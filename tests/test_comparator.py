"""The comparator script: pairs of the right classes, and model files like any other."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import main
import test_code
from tools import comparator
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


def call(script, arguments, monkeypatch):
    """Run a script's main in this process."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    script.main()


def test_the_script_makes_model_files_like_any_other(small_faces_once, tmp_path, monkeypatch, capsys):
    labels, images = small_faces_once
    where = ["--label-dir", labels, "--image-dir", images]
    here = ["--cache-dir", tmp_path / "cache", "--threads", 1]
    tiny = "--image-size 40 --width 0.125 --epochs 1 --batch-size 16 --lr 0.01 --folds 3 --loss coral --no-plots"
    call(main, [*where, *here, *tiny.split(), "--run-dir", tmp_path / "run"], monkeypatch)
    model, target = (tmp_path / folder / "fold_3.pt" for folder in ("run", "compared"))
    script = [model, "--run-dir", tmp_path / "compared", "--steps", 20, *here]
    command = [sys.executable, "-m", "tools.comparator", *map(str, script)]
    compared = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (compared.returncode, compared.stderr) == (0, "")
    shown = compared.stdout.split("fold 3 by comparison: top-1 ")[1].split(",")[0]
    capsys.readouterr()
    call(test_code, [target, *here], monkeypatch)
    assert f"eval accuracy: {shown}" in capsys.readouterr().out.splitlines()
    before = target.read_bytes()
    with pytest.raises(UserError) as error:
        call(comparator, script, monkeypatch)
    assert str(error.value) == f"'{target}' exists; choose another --run-dir"
    assert target.read_bytes() == before
