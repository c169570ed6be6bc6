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

import main
from models.checkpoint import load_plain
from training.arguments import read_config
from training.run import Run
from utils.cli import run_script
from utils.device import Compute
from utils.signals import Interruption

SETTINGS = (
    "--image-size 48 --first-size 40 --epochs 2 --batch-size 4 --lr 0.01 --lr-steps 1 --precision fp32 --threads 1"
    " --folds 3 --no-plots"
)  # 32 faces: 8 steps per epoch, 16 in all
TIMED = ["seconds", "images_per_second"]


def options(faces, folder, run):
    labels, images = faces
    paths = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache", "--run-dir", folder / run]
    return [str(part) for part in [*paths, *SETTINGS.split()]]


def command(*arguments):
    return [sys.executable, str(ROOT / "main.py"), *arguments]


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


def hidden_files(run):
    return [path.name for path in run.glob(".*")]


def assert_same_run(run, whole):
    ours, theirs = (load_plain(folder / "fold_3.pt")["state_dict"] for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (pd.read_csv(folder / "log.csv").drop(columns=TIMED) for folder in (run, whole))
    assert ours.equals(theirs)
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert hidden_files(run) == [".lock"]
    assert not list(run.glob("*.progress.pt"))


@pytest.fixture(scope="module")
def whole(small_faces_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    subprocess.run(command(*options(small_faces_once, folder, "whole")), check=True, capture_output=True)
    return folder


@pytest.fixture
def call(monkeypatch):
    """Run main.py in this process and return its exit status; the number of threads stays as it was."""
    threads = torch.get_num_threads()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
        try:
            run_script(main.main)
        except SystemExit as exit:
            return exit.code
        return 0

    yield run
    torch.set_num_threads(threads)


def stop_after(step):
    """A signal that arrives during this step of the process."""
    steps = iter(range(1, step + 1))

    def agreed(interruption):
        if next(steps) == step:
            interruption.requested = signal.SIGTERM
        return interruption.requested != 0

    return agreed


@pytest.mark.parametrize(
    ("step", "epochs", "faces"),
    [(8, 0, 32), (11, 1, 12), (16, 1, 32)],  # 8 and 16 are the last steps of their epochs
)
def test_a_run_resumes_at_any_step(small_faces_once, whole, call, monkeypatch, step, epochs, faces):
    run = whole / f"step{step}"
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", stop_after(step))
        assert call(*options(small_faces_once, whole, run.name)) == 143
    progress = load_plain(run / "fold_3.progress.pt")
    assert progress["state"]["step"] == step
    assert (len(progress["history"]), progress["meter"]["faces"]) == (epochs, faces)
    assert progress["meter"]["sums"][2] == faces
    assert call("--run-dir", run, "--resume") == 0  # all else is in config.json
    assert_same_run(run, whole / "whole")


def test_a_stop_within_the_first_epoch_leaves_no_rows(small_faces_once, whole, call, monkeypatch):
    """Such a fold, not asked for again, is none of the run's, and the plots and results leave it out."""
    run = whole / "first"
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", stop_after(1))
        assert call(*options(small_faces_once, whole, run.name)) == 143
    fingerprint = load_plain(run / "fold_3.progress.pt")["data_fingerprint"]
    for folds, history in ((0,), {0: []}), ((0, 3), {0: [], 3: []}), ((3,), {3: []}):
        config = read_config(run)
        object.__setattr__(config, "folds", folds)
        with Run(config, True, Compute(torch.device("cpu"), "fp32"), fingerprint) as opened:
            assert opened.history == history
    assert call("--run-dir", run, "--resume") == 0
    assert_same_run(run, whole / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_says_how_to_resume(small_faces_once, whole, number):
    run = whole / number.name
    process = start(command(*options(small_faces_once, whole, number.name)))
    wait_for_log(process, run, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    said = next(line.strip() for line in errors.splitlines() if line.strip().endswith("--resume"))
    assert shlex.split(said)[1:] == [str(ROOT / "main.py"), "--run-dir", str(run), "--resume"]
    progress = load_plain(run / "fold_3.progress.pt")
    assert 8 < progress["state"]["step"] <= 16
    assert progress["meter"]["faces"] == 4 * (progress["state"]["step"] - 8)
    done = subprocess.run(shlex.split(said), capture_output=True, text=True)  # the command as it was printed
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole / "whole")


def test_a_second_signal_stops_at_once(small_faces_once, whole):
    run = whole / "twice"
    process = start(command(*options(small_faces_once, whole, "twice")))
    wait_for_log(process, run, 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert hidden_files(run) == [".lock"]


def test_killed_runs_resume_to_the_same_bits(small_faces_once, whole):
    run = whole / "killed"
    arguments = options(small_faces_once, whole, "killed")
    moments = random.Random(0)
    for rows in (0, 1):
        process = start(command(*arguments))
        wait_for_log(process, run, rows)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        if (run / "config.json").exists() and "--resume" not in arguments:
            arguments.append("--resume")
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole / "whole")
