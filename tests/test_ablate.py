"""Ablation: the runs of each variant, the table that joins them, and resuming after a stop."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, call

from tools import ablate
from tools.ablate import VARIANTS, variant_config
from training.arguments import read_arguments
from training.config import FIELDS, Config
from utils.files import write_json
from utils.options import as_flags

TINY = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 16 --lr 0.01 --precision fp32 --threads 1 --folds 0 3"
).split()


def arguments_of(faces, folder, *more):
    labels, images = faces
    folders = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache"]
    return list(map(str, [*folders, "--run-dir", folder / "ablation", *TINY, *more]))


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
def run(small_faces_once, capfd):
    """A function that runs the script in this process; returns its exit status and what it wrote to standard error."""

    def start(folder, *more):
        capfd.readouterr()
        return call(ablate, *arguments_of(small_faces_once, folder, *more)), capfd.readouterr().err

    return start


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
    table = pd.read_csv(ablation / "ablation" / "ablation.csv").set_index("method")
    assert list(table.index) == ["baseline", "relu"]
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
        assert table[[f"{name}_low", f"{name}_high"]].isna().all(axis=None)  # of 16 people
    assert table.runs["relu"] == 2


def test_what_is_done_is_not_done_again(ablation, run):
    log = ablation / "ablation" / "relu_seed0" / "log.csv"
    before = log.stat().st_mtime_ns, tables(ablation)
    assert run(ablation, "--only", "relu", "--seeds", "0", "1") == (0, "")
    assert (log.stat().st_mtime_ns, tables(ablation)) == before


def test_a_failed_run_is_said_with_its_reason_and_its_log(ablation, run):
    blocked = ablation / "ablation" / "sgd_seed0"
    blocked.write_text("in the way")
    reason = f"--run-dir '{blocked}': expected a folder, this is a file"
    line = f"error: 'sgd' with seed 0 ended with status 2: {reason} ({blocked}.log)\n"
    assert run(ablation, "--only", "sgd", "--seeds", "0") == (2, line)
    assert f"error: {reason}\n" in Path(f"{blocked}.log").read_text()


def copy_a_run(runs):
    shutil.rmtree(runs / "relu_seed1")
    shutil.copytree(runs / "relu_seed0", runs / "relu_seed1")
    change_json(runs / "relu_seed1" / "config.json", lambda config: config.update(seed=1))


def other_pixels(*names):
    """The faces have the same names; their pixels differ."""

    def change(runs):
        for name in names:
            change_json(runs / name / "results.json", lambda results: results.update(data_fingerprint="0"))

    return change


def exchange_predictions(runs):
    shutil.copy(runs / "baseline_seed0" / "predictions.csv", runs / "relu_seed0" / "predictions.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            copy_a_run,
            "'{runs}/relu_seed1' and '{runs}/relu_seed0' have the same predictions for fold 0: they are one run, given"
            " twice, copied or repeated",
        ),
        (
            other_pixels("relu_seed1"),
            "'{runs}/relu_seed1' saw other faces, labels or pixels than '{runs}/baseline_seed0': both need the same"
            " files and label policy",
        ),
        (
            other_pixels("relu_seed0", "relu_seed1"),
            "'{runs}/relu_seed0' saw other faces, labels or pixels than '{runs}/baseline_seed0': both need the same"
            " files and label policy",
        ),
        (
            exchange_predictions,
            "'{runs}/relu_seed0/predictions.csv' is damaged: the 8 rows of fold 0 are not those of its model",
        ),
    ],
)
def test_other_runs_are_not_compared(copied, run, change, message):
    change(copied / "ablation")
    before = tables(copied)
    line = f"error: {message.format(runs=copied / 'ablation')}\n"
    assert run(copied, "--only", "relu", "--seeds", "0", "1") == (2, line)
    assert tables(copied) == before


def test_files_of_somebody_else_stay(tmp_path, run):
    (tmp_path / "ablation").mkdir()
    path = tmp_path / "ablation" / "ablation.csv"
    path.write_text("mine")
    message = "exists and is not an ablation's table; it is not replaced: choose another name"
    assert run(tmp_path, "--only", "relu") == (2, f"error: '{path}' {message}\n")
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [(path.name, "mine")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "relu", "--seeds", "0", "--lr", "0.02"],
            "baseline_seed0' was trained with other settings: lr was 0.01, now 0.02",
        ),
        (["--only", "relu", "--jobs", "0"], "--jobs 0: expected a number from 1"),
        (["--variant", "x: --folds none"], "unrecognized arguments: --folds none"),
        (["--variant", 'x: --lr "0.1'], "No closing quotation"),
        (["--folds", "none"], "--folds none: a model of all faces has no metrics to compare"),
        (["--only", "nonsense"], "--only 'nonsense': there is no such variant; --list names them"),
        (["--seeds", "0", "0"], "--seeds 0 0: name each seed once; a run counts once"),
        (["--loss", "nonsense"], "--loss nonsense: choose from cross_entropy, label_smoothing"),
        (["--seed", "1"], "unrecognized arguments: --seed 1"),
        (["--rounds", "2"], "unrecognized arguments: --rounds 2"),
    ],
)
def test_bad_arguments(ablation, run, arguments, message):
    status, errors = run(ablation, *arguments)
    assert status == 2 and message in errors


@pytest.mark.parametrize(("options", "threads"), [(["--threads", "3"], "3"), (["--threads", "0"], "4"), ([], "4")])
def test_threads_are_passed_on(tmp_path, monkeypatch, options, threads):
    """Without --threads, the runs divide the cores among them."""
    commands = []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(ablate.subprocess, "Popen", Process)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    arguments = ["--label-dir", "labels", "--image-dir", "images", "--jobs", "2", *options]
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    _, shared = ablate.read_command_line()
    ablate.train(tmp_path, "no flip", 5, shared)
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
    config = variant_config(variant, 3, shared)
    assert (config.epochs, config.image_size, config.seed) == (18, 64, 3)
    assert all(getattr(config, name) == value for name, value in VARIANTS[variant].items())
    monkeypatch.setattr(sys, "argv", ["main.py", *as_flags(vars(config), FIELDS)])
    assert read_arguments().config == config


def test_a_variant_differs_from_the_baseline_in_its_own_settings_only():
    baseline, other = (vars(variant_config(name, 0, {})) for name in ("baseline", "no zero init"))
    assert {name: value for name, value in other.items() if baseline[name] != value} == {"zero_init": False}
    assert baseline["recipe"] == "modern"
    assert variant_config("original recipe", 0, {"warmup": 3.0, "flip": 0.2}) == Config(flip=0.2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lr 0.3", "names none"),
        ("relu: --lr 0.3", "'relu' is taken"),
        ("../up: --lr 0.3", "names none"),
        ("x: --seed 3", "unrecognized arguments: --seed 3"),
        ("x: --lr fast", "argument --lr: invalid float value: 'fast'"),
    ],
)
def test_a_wrong_variant_of_ones_own(text, problem, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "VARIANTS", dict(ablate.VARIANTS))
    assert call(ablate, "--demo", "--variant", text) == 2
    assert problem in capsys.readouterr().err


def test_a_variant_of_ones_own(monkeypatch, capsys):
    monkeypatch.setattr(ablate, "VARIANTS", dict(ablate.VARIANTS))
    assert call(ablate, "--variant", "fast: --lr 0.3 --no-zero-init", "--list") in (None, 0)
    assert "fast                     --lr 0.3 --no-zero-init" in capsys.readouterr().out
    config = ablate.variant_config("fast", 1, {"label_dir": "l", "image_dir": "i", "epochs": 2})
    assert (config.lr, config.zero_init, config.seed) == (0.3, False, 1)


def test_a_variant_of_ones_own_joins_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(ablate, "VARIANTS", dict(VARIANTS))
    monkeypatch.setattr(sys, "argv", ["ablate", "--demo", "--only", "relu", "--variant", "mine: --lr 0.3"])
    assert ablate.read_command_line()[0].only == ["baseline", "relu", "mine"]
