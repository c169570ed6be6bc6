"""Ablation: the runs of each variant, the table that joins them, and resuming after a stop."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from tools import ablate
from tools.ablate import VARIANTS, as_flags, variant_config
from training.arguments import read_arguments
from training.config import Config
from utils.errors import UserError

TINY = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --precision fp32 --folds 0 3".split()


def run_ablate(faces, folder, *more):
    labels, images = faces
    command = [sys.executable, "-m", "tools.ablate", "--label-dir", labels, "--image-dir", images, *TINY, *more]
    command += ["--cache-dir", folder / "cache", "--run-dir", folder / "ablation"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def ablation(small_faces_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    done = run_ablate(small_faces_once, folder, "--only", "relu", "--seeds", "0", "1", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_table(ablation):
    table = pd.read_csv(ablation / "ablation" / "ablation.csv").set_index("variant")
    assert list(table.index) == ["baseline", "relu", "decode median", "decode expected", "decode one_off"]
    accuracies, errors = [], []
    for seed in (0, 1):
        predictions = pd.read_csv(ablation / "ablation" / f"relu_seed{seed}" / "predictions.csv")
        accuracies.append((predictions.label == predictions.prediction).mean())
        errors.append((predictions.label - predictions.prediction).abs().mean())
    assert table.top1["relu"] == pytest.approx(sum(accuracies) / 2)
    assert table.mae["relu"] == pytest.approx(sum(errors) / 2)
    for name in ("top1", "one_off", "mae", "loss"):
        gain = table[f"{name}_gain"]["relu"]
        assert gain == pytest.approx(table[name]["relu"] - table[name]["baseline"])
        assert table[f"{name}_low"]["relu"] <= gain <= table[f"{name}_high"]["relu"]
    assert table.images["relu"] == 2 * 2 * 32  # epochs, folds, training faces
    assert (ablation / "ablation" / "ablation.md").read_text().count("\n| ") == 5
    with Image.open(ablation / "ablation" / "ablation.png") as image:
        assert min(image.size) > 100


def test_what_is_done_is_not_done_again(ablation, small_faces_once):
    log = ablation / "ablation" / "relu_seed0" / "log.csv"
    before = log.stat().st_mtime_ns
    assert run_ablate(small_faces_once, ablation, "--only", "relu", "--seeds", "0", "1").returncode == 0
    assert log.stat().st_mtime_ns == before


def test_a_failed_run_is_said_with_its_reason_and_its_log(ablation, small_faces_once):
    blocked = ablation / "ablation" / "mixup_seed0"
    blocked.write_text("in the way")
    done = run_ablate(small_faces_once, ablation, "--only", "mixup", "--seeds", "0")
    assert done.returncode == 2
    reason = f"error: cannot make the run directory '{blocked}': File exists"
    assert done.stderr == f"error: 'mixup' with seed 0 ended with status 2: {reason} ({blocked}.log)\n"
    assert reason in Path(f"{blocked}.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "relu", "--seeds", "0", "--lr", "0.02"],
            "baseline_seed0' was trained with other settings: lr was 0.01, now 0.02",
        ),
        (["--only", "relu", "--jobs", "0"], "--jobs 0: expected a number from 1"),
        (["--only", "nonsense"], "--only 'nonsense': there is no such variant; --list names them"),
        (["--seeds", "0", "0"], "--seeds 0 0: name each seed once; a run counts once"),
        (["--loss", "nonsense"], "--loss nonsense: choose from cross_entropy, label_smoothing"),
        (["--seed", "1"], "unrecognized arguments: --seed 1"),
    ],
)
def test_bad_arguments(ablation, small_faces_once, arguments, message, monkeypatch, capsys):
    labels, images = map(str, small_faces_once)
    paths = ["--label-dir", labels, "--image-dir", images, "--run-dir", str(ablation / "ablation")]
    monkeypatch.setattr(sys, "argv", ["ablate", *paths, *TINY, *arguments])
    with pytest.raises(UserError) as error:
        ablate.main()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shared", "threads"), [({"threads": 3}, "3"), ({"threads": 0}, "4"), ({}, "4")], ids=["3", "0", "none"]
)
def test_threads_are_passed_on(tmp_path, monkeypatch, shared, threads):
    """Without --threads, the runs divide the cores among them."""
    commands = []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(ablate.subprocess, "Popen", Process)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    shared = {"label_dir": "labels", "image_dir": "images", **shared}
    ablate.train(tmp_path, "no flip", 5, SimpleNamespace(jobs=2, demo=False), shared)
    (command,) = commands
    assert command[1] == str(ROOT / "main.py")
    given = dict(itertools.pairwise(command))
    assert given["--threads"] == threads
    assert command.count("--threads") == 1
    assert (given["--flip"], given["--seed"], given["--run-dir"]) == ("0.0", "5", str(tmp_path / "no_flip_seed5"))
    assert "--resume" not in command


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_configuration_and_a_command_line(variant, monkeypatch):
    shared = {"epochs": 18, "image_size": 64, "label_dir": "labels", "image_dir": "images"}
    config = variant_config(variant, 3, shared, demo=False)
    assert (config.epochs, config.image_size, config.seed) == (18, 64, 3)
    changed = {name: value for name, value in VARIANTS[variant].items() if name != "lr_steps"}
    assert all(getattr(config, name) == value for name, value in changed.items())
    if "lr_steps" in VARIANTS[variant]:
        assert config.lr_steps == (4, 9, 14)  # 20, 50 and 75 % of 18 epochs
    monkeypatch.setattr(sys, "argv", ["main.py", *as_flags(vars(config))])
    assert read_arguments().config == config


def test_a_variant_differs_from_the_baseline_in_its_own_settings_only():
    baseline, other = (vars(variant_config(name, 0, {}, demo=False)) for name in ("baseline", "averaged weights"))
    assert {name: value for name, value in other.items() if baseline[name] != value} == {"averaging": 0.05}
    assert baseline["recipe"] == "modern"
    assert variant_config("original recipe", 0, {"warmup": 3.0, "lr": 0.02}, demo=False) == Config(lr=0.02)


def test_flags():
    settings = {"gridmask_rotated": False, "nesterov": True, "lr_steps": (4, 9), "loss": "corn"}
    assert as_flags(settings) == ["--no-gridmask-rotated", "--nesterov", "--lr-steps", "4", "9", "--loss", "corn"]


def test_unknown_settings_are_refused():
    with pytest.raises(UserError, match="--loss nonsense"):
        Config(loss="nonsense")
