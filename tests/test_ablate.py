"""Ablation: the runs of each variant, the table that joins them, and going on after a stop."""

import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from ablate import VARIANTS, as_flags, settings_of
from utils import UserError
from utils.config import Config, make_config

TINY = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --warmup 0.5 --precision fp32 --folds 0 3".split()


def ablate(faces, folder, *more):
    labels, images = faces
    command = [sys.executable, ROOT / "ablate.py", "--label-dir", labels, "--image-dir", images, *TINY, *more]
    command += ["--cache-dir", folder / "cache", "--run-dir", folder / "ablation"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)


@pytest.fixture(scope="module")
def ablation(small_faces_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    done = ablate(small_faces_once, folder, "--only", "relu", "--seeds", "0", "1", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_table(ablation):
    table = pd.read_csv(ablation / "ablation" / "ablation.csv").set_index("variant")
    assert list(table.index) == ["baseline", "relu", "decode median", "decode expected", "decode one_off"]
    accuracies = []
    for seed in (0, 1):
        predictions = pd.read_csv(ablation / "ablation" / f"relu_seed{seed}" / "predictions.csv")
        accuracies.append((predictions.label == predictions.prediction).mean())
    assert table.top1["relu"] == pytest.approx(sum(accuracies) / 2)
    assert table.top1_gain["relu"] == pytest.approx(table.top1["relu"] - table.top1["baseline"])
    assert table.top1_low["relu"] <= table.top1_gain["relu"] <= table.top1_high["relu"]
    assert table.images["relu"] == 2 * 2 * 32  # epochs, folds, training faces
    assert (ablation / "ablation" / "ablation.md").read_text().count("\n| ") == 5
    with Image.open(ablation / "ablation" / "ablation.png") as image:
        assert min(image.size) > 100


def test_what_is_done_is_not_done_again(ablation, small_faces_once):
    log = ablation / "ablation" / "relu_seed0" / "log.csv"
    before = log.stat().st_mtime_ns
    assert ablate(small_faces_once, ablation, "--only", "relu", "--seeds", "0", "1").returncode == 0
    assert log.stat().st_mtime_ns == before


def test_a_failed_run_is_said_with_its_log(ablation, small_faces_once):
    (ablation / "ablation" / "mixup_seed0").write_text("in the way")
    done = ablate(small_faces_once, ablation, "--only", "mixup", "--seeds", "0")
    assert done.returncode == 2
    assert "'mixup' with seed 0 ended with status 2" in done.stderr
    assert "cannot make the run directory" in (ablation / "ablation" / "mixup_seed0.log").read_text()
    done = ablate(small_faces_once, ablation, "--only", "relu", "--seeds", "0", "--lr", "0.02")
    assert "was trained with other settings: lr was 0.01, now 0.02" in done.stderr
    done = ablate(small_faces_once, ablation, "--only", "relu", "--seeds", "0", "--jobs", "0")
    assert "--jobs 0: a number from 1 upwards is wanted" in done.stderr
    done = ablate(small_faces_once, ablation, "--only", "nonsense")
    assert "--only 'nonsense': there is no such variant; --list names them" in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_configuration(variant):
    settings = settings_of(variant, 0, {"epochs": 18, "image_size": 64}, 18)
    config = make_config(settings)
    assert isinstance(config, Config)
    changed = {name: value for name, value in VARIANTS[variant].items() if name != "lr_steps"}
    assert all(getattr(config, name) == value for name, value in changed.items())
    if "lr_steps" in VARIANTS[variant]:
        assert config.lr_steps == (4, 9, 14)  # 20, 50 and 75 % of 18 epochs


def test_flags():
    settings = {"gridmask_rotated": False, "nesterov": True, "lr_steps": (4, 9), "loss": "corn"}
    assert as_flags(settings) == ["--no-gridmask-rotated", "--nesterov", "--lr-steps", "4", "9", "--loss", "corn"]


def test_unknown_settings_are_refused():
    with pytest.raises(UserError, match="--loss nonsense"):
        make_config({"loss": "nonsense"})
