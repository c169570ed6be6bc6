"""Stopped runs: killed, signalled and resumed ones end with the bits of one that was never stopped."""

import random
import shlex
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import ROOT

SETTINGS = (
    "--image-size 48 --first-size 40 --epochs 2 --batch-size 4 --lr 0.01 --lr-steps 1 --precision fp32 --threads 1"
    " --folds 3 --no-plots"
)
TIMED = ["seconds", "images_per_second"]


def command(faces, folder, run):
    labels, images = faces
    paths = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache", "--run-dir", folder / run]
    return [str(part) for part in [sys.executable, ROOT / "main.py", *paths, *SETTINGS.split()]]


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_log(process, run, rows):
    """Until the run has logged so many epochs."""
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get on"
        log = run / "log.csv"
        if log.exists() and len(log.read_text().splitlines()) > rows:
            return
        time.sleep(0.02)


def assert_same_run(run, whole):
    ours, theirs = (torch.load(folder / "fold_3.pt")["model"] for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (pd.read_csv(folder / "log.csv").drop(columns=TIMED) for folder in (run, whole))
    assert ours.equals(theirs)
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert not list(run.glob(".*")) + list(run.glob("*.progress.pt"))


@pytest.fixture(scope="module")
def whole(small_faces_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    subprocess.run(command(small_faces_once, folder, "whole"), check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_says_how_to_go_on(small_faces_once, whole, number):
    run = whole / number.name
    arguments = command(small_faces_once, whole, number.name)
    process = start(arguments)
    wait_for_log(process, run, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    said = next(line.strip() for line in errors.splitlines() if line.strip().endswith("--resume"))
    interrupted = torch.load(run / "fold_3.progress.pt")["interrupted"]
    assert 0 < interrupted["faces"] <= 32
    done = subprocess.run(shlex.split(said), capture_output=True, text=True)  # the command as it was printed
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole / "whole")


def test_a_second_signal_stops_at_once(small_faces_once, whole):
    run = whole / "twice"
    process = start(command(small_faces_once, whole, "twice"))
    wait_for_log(process, run, 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list(run.glob(".*"))


def test_killed_runs_go_on_to_the_same_bits(small_faces_once, whole):
    run = whole / "killed"
    arguments = command(small_faces_once, whole, "killed")
    moments = random.Random(0)
    for rows in (0, 1):
        process = start(arguments)
        wait_for_log(process, run, rows)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        if (run / "config.json").exists() and "--resume" not in arguments:
            arguments.append("--resume")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole / "whole")
