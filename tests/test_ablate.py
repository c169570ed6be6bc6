"""Ablation: the runs of each variant, the table that joins them, and resuming after a stop."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from tools import ablate
from tools.ablate import VARIANTS, variant_config
from training.arguments import read_arguments
from training.config import Config
from utils.cli import run_script
from utils.errors import UserError
from utils.files import write_json
from utils.options import as_flags

TINY = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --precision fp32 --threads 1 --folds 0 3"
).split()


def arguments_of(faces, folder, *more):
    labels, images = faces
    places = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache"]
    return [str(part) for part in [*places, "--run-dir", folder / "ablation", *TINY, *more]]


@pytest.fixture(scope="module")
def ablation(small_faces_once, tmp_path_factory):
    """Two variants with two seeds, by the real command."""
    folder = tmp_path_factory.mktemp("ablate")
    arguments = arguments_of(small_faces_once, folder, "--only", "relu", "--seeds", "0", "1", "--jobs", "2")
    command = [sys.executable, "-m", "tools.ablate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def call(small_faces_once, monkeypatch, capfd):
    """Run the script in this process; returns its exit status and what it wrote to standard error."""

    def run(folder, *more):
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments_of(small_faces_once, folder, *more)])
        capfd.readouterr()
        try:
            run_script(ablate.main)
        except SystemExit as ending:
            return ending.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


@pytest.fixture
def copied(ablation, tmp_path):
    """A copy of the ablation, to be changed."""
    shutil.copytree(ablation / "ablation", tmp_path / "ablation")
    return tmp_path


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def tables(folder):
    return {path.name: path.read_bytes() for path in (folder / "ablation").glob("ablation.*")}


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


def test_what_is_done_is_not_done_again(ablation, call):
    log = ablation / "ablation" / "relu_seed0" / "log.csv"
    before = log.stat().st_mtime_ns, tables(ablation)
    assert call(ablation, "--only", "relu", "--seeds", "0", "1") == (0, "")
    assert (log.stat().st_mtime_ns, tables(ablation)) == before


def test_a_failed_run_is_said_with_its_reason_and_its_log(ablation, call):
    blocked = ablation / "ablation" / "mixup_seed0"
    blocked.write_text("in the way")
    reason = f"--run-dir '{blocked}': expected a folder, this is a file"
    line = f"error: 'mixup' with seed 0 ended with status 2: {reason} ({blocked}.log)\n"
    assert call(ablation, "--only", "mixup", "--seeds", "0") == (2, line)
    assert f"error: {reason}\n" in Path(f"{blocked}.log").read_text()


def test_a_copied_run_does_not_count_twice(copied, call):
    runs = copied / "ablation"
    shutil.rmtree(runs / "relu_seed1")
    shutil.copytree(runs / "relu_seed0", runs / "relu_seed1")
    change_json(runs / "relu_seed1" / "config.json", lambda config: config.update(seed=1))
    before = tables(copied)
    line = "error: two runs of 'relu' have the same predictions: one run was copied and would count twice\n"
    assert call(copied, "--only", "relu", "--seeds", "0", "1") == (2, line)
    assert tables(copied) == before


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["relu_seed1"], "the runs of 'relu' saw different faces, labels or pixels"),
        (["relu_seed0", "relu_seed1"], "'relu' saw other faces, labels or pixels than the baseline"),
    ],
)
def test_runs_on_other_data_are_not_compared(copied, call, runs, message):
    """The faces have the same names; their pixels differ."""
    for run in runs:
        change_json(copied / "ablation" / run / "results.json", lambda results: results.update(data_fingerprint="0"))
    before = tables(copied)
    line = f"error: {message}: choose another --run-dir\n"
    assert call(copied, "--only", "relu", "--seeds", "0", "1") == (2, line)
    assert tables(copied) == before


def test_predictions_of_another_run_are_refused(copied, call):
    ours, theirs = (copied / "ablation" / run / "predictions.csv" for run in ("relu_seed0", "baseline_seed0"))
    shutil.copy(theirs, ours)
    status, errors = call(copied, "--only", "relu", "--seeds", "0")
    assert status == 2
    assert errors == f"error: '{ours}' is damaged: the 8 rows of fold 0 are not those of its model\n"


def test_halving_keeps_the_better_half_by_the_validation_faces(small_faces_once, tmp_path):
    """Two rounds, of 1 epoch and of 2."""
    variants = ["relu", "rotation 20"]
    more = ["--val-fraction", "0.3", "--rounds", "2", "--judge", "loss", "--folds", "0", "--only", *variants]
    command = [sys.executable, "-m", "tools.ablate", *arguments_of(small_faces_once, tmp_path, *more)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    root = tmp_path / "ablation"
    losses = {}
    for variant in variants:
        log = pd.read_csv(root / "1_epochs" / f"{variant.replace(' ', '_')}_seed0" / "log.csv")
        assert list(log.epoch) == [0]
        losses[variant] = log.val_loss[0]
    kept = sorted(variants, key=losses.get)[:1]
    assert f"validation loss keeps {', '.join(kept)}\n" in done.stdout
    assert {path.name for path in root.glob("*_seed0")} == {
        f"{name.replace(' ', '_')}_seed0" for name in ["baseline", *kept]
    }
    table = pd.read_csv(root / "ablation.csv")
    trained = table[~table.variant.str.startswith("decode ")]
    assert list(zip(trained.epochs, trained.variant, strict=True)) == [
        *((2, variant) for variant in ["baseline", *kept]),
        *((1, variant) for variant in ["baseline", *variants]),
    ]
    last = pd.read_csv(root / f"{kept[0].replace(' ', '_')}_seed0" / "log.csv")
    assert trained.val_loss.iloc[1] == pytest.approx(last.val_loss[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ablation.csv", "exists and is not the table of an ablation; it is not replaced: choose another name"),
        ("ablation.md", "exists and is not ours: there is no ablation.csv beside it"),
        ("ablation.png", "exists and is not ours: there is no ablation.csv beside it"),
    ],
)
def test_files_of_somebody_else_stay(tmp_path, call, name, message):
    (tmp_path / "ablation").mkdir()
    path = tmp_path / "ablation" / name
    path.write_text("mine")
    assert call(tmp_path, "--only", "relu") == (2, f"error: '{path}' {message}\n")
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [(name, "mine")]


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
        (["--rounds", "0"], "--rounds 0: expected 1 or more, and at least 1 of the 2 epochs in the first of them"),
        (["--rounds", "3"], "--rounds 3: expected 1 or more, and at least 1 of the 2 epochs in the first of them"),
        (["--rounds", "2"], "--rounds 2: there are no validation faces to judge by; add --val-fraction 0.2"),
        (
            ["--rounds", "2", "--val-fraction", "0.2", "--warmup", "1"],
            "--rounds 2 with --warmup: the shorter rounds need shorter ones; omit it",
        ),
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
