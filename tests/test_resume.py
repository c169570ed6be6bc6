"""Stopped runs: killed, signalled, raced and resumed ones end with the bits of one that was never stopped."""

import dataclasses
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call

import main
from training.config import read_config
from training.run_directory import RunDirectory
from utils.device import Runtime
from utils.errors import UserError
from utils.files import locked, write_json
from utils.serialization import load_plain, save_plain
from utils.signals import Interruption

SETTINGS = (
    "--image-size 48 --batch-size 4 --lr 0.01 --lr-steps 1 --precision fp32 --threads 1 --width 0.125"
    " --folds 3 --no-plots"
)  # 32 faces: 8 steps per epoch
SHORT, LONG = 2, 12  # epochs; a signal from outside reaches a long run in time
TIMED = ["seconds", "images_per_second"]
CPU = Runtime(torch.device("cpu"), "fp32")


def options(faces, run, epochs):
    labels, images = faces
    paths = ["--label-dir", labels, "--image-dir", images, "--cache-dir", run.parent / "cache", "--run-dir", run]
    return [str(part) for part in [*paths, *SETTINGS.split(), "--epochs", epochs]]


def resume(run):
    """All but the cache is in config.json."""
    return ["--run-dir", str(run), "--resume", "--cache-dir", str(run.parent / "cache")]


def start(arguments):
    """Start main.py in a process of its own."""
    command = [sys.executable, "-u", str(ROOT / "main.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(reached, process):
    """Wait for something that a process does; False where it ends without."""
    deadline = time.monotonic() + 120
    while not reached():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the process does not get on"
        time.sleep(0.01)
    return True


def log_lines(run):
    log = run / "log.csv"
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait_for_epoch(process, run):
    """Until the run has logged one more epoch than now."""
    before = log_lines(run)
    return wait_until(lambda: log_lines(run) > before, process)


def is_importing(process):
    """Whether a process has begun to import torch, which takes it some seconds."""
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def hidden_files(run):
    """Apart from the locks."""
    return [path.name for path in run.glob(".*") if not path.name.endswith(".lock")]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def untimed_log(run):
    return pd.read_csv(run / "log.csv").drop(columns=TIMED)


def assert_same_run(run, whole):
    ours, theirs = (load_plain(folder / "fold_3.pt")["state_dict"] for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert untimed_log(run).equals(untimed_log(whole))
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert hidden_files(run) == []
    assert not list(run.glob("*.progress.pt"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(small_faces_once, folder):
    """A short run that was never stopped."""
    assert call(main, *options(small_faces_once, folder / "whole", SHORT)) == 0
    return folder / "whole"


@pytest.fixture(scope="module")
def whole_long(small_faces_once, folder):
    assert call(main, *options(small_faces_once, folder / "whole_long", LONG)) == 0
    return folder / "whole_long"


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the short run, to be changed."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def open_run(run, config, fingerprint):
    """Resume a run on the faces with a fingerprint."""
    faces = SimpleNamespace(fingerprint=lambda pixels: fingerprint, folds_drawn=False)
    return RunDirectory(run).open(config, CPU, faces, SimpleNamespace(sha256="", damaged={}), resume=True)


def stop_after(step):
    """A signal that arrives during this step of the process."""
    steps = iter(range(1, step + 1))

    def agreed(interruption):
        if next(steps) == step:
            interruption.requested = signal.SIGTERM
        return interruption.requested != 0

    return agreed


def train_until(step, monkeypatch, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", stop_after(step))
        assert call(main, *arguments) == 143


@pytest.mark.parametrize(
    ("step", "epochs", "faces"),
    [(8, 0, 32), (11, 1, 12), (16, 1, 32)],  # 8 and 16 are the last steps of their epochs
)
def test_a_run_resumes_at_any_step(small_faces_once, whole, folder, monkeypatch, step, epochs, faces):
    run = folder / f"step{step}"
    train_until(step, monkeypatch, *options(small_faces_once, run, SHORT))
    progress = load_plain(run / "fold_3.progress.pt")
    assert progress["state"]["step"] == step
    assert (len(progress["history"]), progress["meter"]["faces"]) == (epochs, faces)
    assert progress["meter"]["sums"][2] == faces
    assert call(main, *resume(run)) == 0
    assert_same_run(run, whole)


def test_a_stop_within_the_first_epoch_leaves_no_rows(small_faces_once, whole, folder, monkeypatch):
    """Such a fold, not asked for again, has no history, and the plots and results leave it out."""
    run = folder / "first"
    train_until(1, monkeypatch, *options(small_faces_once, run, SHORT))
    fingerprint = load_plain(run / "fold_3.progress.pt")["data_fingerprint"]
    for folds, history in ((0,), {0: []}), ((0, 3), {0: [], 3: []}), ((3,), {3: []}):
        config = dataclasses.replace(read_config(run), folds=folds)
        with open_run(run, config, fingerprint) as opened:
            assert opened.history == history
    assert json.loads((run / "config.json").read_text())["folds"] == [0, 3]  # of all jobs so far
    assert call(main, *resume(run), "--folds", 3) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_says_how_to_resume(small_faces_once, whole_long, folder, number):
    run = folder / number.name
    process = start(options(small_faces_once, run, LONG))
    assert wait_for_epoch(process, run)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    said = next(line.strip() for line in errors.splitlines() if "--resume" in line)
    assert shlex.split(said)[1:] == [str(ROOT / "main.py"), *resume(run)]
    progress = load_plain(run / "fold_3.progress.pt")
    epochs = len(progress["history"])
    assert 1 <= epochs < LONG
    assert 8 * epochs < progress["state"]["step"] <= 8 * (epochs + 1)
    assert progress["meter"]["faces"] == 4 * (progress["state"]["step"] - 8 * epochs)
    if number == signal.SIGINT:
        done = subprocess.run(shlex.split(said), capture_output=True, text=True)  # the command as it was printed
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert call(main, *resume(run)) == 0
    assert_same_run(run, whole_long)


def test_a_second_signal_stops_at_once(small_faces_once, folder):
    run = folder / "twice"
    process = start(options(small_faces_once, run, LONG))
    assert wait_for_epoch(process, run)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert hidden_files(run) == []


def test_killed_runs_resume_to_the_same_bits(small_faces_once, whole_long, folder):
    run = folder / "killed"
    arguments, moments = options(small_faces_once, run, LONG), random.Random(0)
    for _ in range(2):
        process = start(arguments)
        assert wait_for_epoch(process, run)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        arguments = resume(run)
    assert 2 <= log_lines(run) - 1 < LONG
    assert call(main, *arguments) == 0
    assert_same_run(run, whole_long)


def test_a_resume_that_is_started_while_the_run_still_trains(small_faces_once, whole_long, folder):
    """The second process has read nothing of the run before the first one has left it."""
    run = folder / "raced"
    first = start(options(small_faces_once, run, LONG))
    assert wait_for_epoch(first, run)
    first.send_signal(signal.SIGSTOP)  # it keeps its lock, and time stands still for it
    second = start(resume(run))
    try:
        assert wait_until(lambda: is_importing(second), second)
    finally:
        first.send_signal(signal.SIGCONT)
    assert wait_for_epoch(first, run)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 143
    assert second.poll() is None
    _, errors = second.communicate(timeout=120)
    assert (second.returncode, errors) == (0, "")
    assert untimed_log(run).epoch.tolist() == list(range(LONG))
    assert_same_run(run, whole_long)


def test_two_starts_at_once_in_one_directory(small_faces_once, whole_long, tmp_path):
    """Both have found an empty directory; the lock of their cache holds them there until both have arrived."""
    run, seeds, cache = tmp_path / "shared", (3, 7), tmp_path / "cache"
    cache.mkdir()
    (shard,) = (whole_long.parent / "cache").glob("faces_*")
    with locked(cache / f".{shard.name}.lock", when_busy=lambda: pytest.fail("it is free")):
        processes = [start([*options(small_faces_once, run, LONG), "--seed", str(seed)]) for seed in seeds]
        for process in processes:
            assert any("cache: waiting for another process" in line for line in process.stdout)
    errors = {seed: process.communicate(timeout=120)[1] for seed, process in zip(seeds, processes, strict=True)}
    status = {seed: process.returncode for seed, process in zip(seeds, processes, strict=True)}
    assert sorted(status.values()) == [0, 2], errors
    winner, refused = sorted(seeds, key=status.get)
    assert errors[winner] == ""
    assert errors[refused].startswith(f"error: another process is training fold 3 in '{run}'; choose other --folds")
    before = contents(run)
    assert call(main, *resume(run)) == 0
    assert contents(run) == before
    assert json.loads(before["config.json"])["seed"] == winner
    assert json.loads(before["results.json"])["settings"]["seed"] == winner
    assert load_plain(run / "fold_3.pt")["config"]["seed"] == winner
    assert untimed_log(run).epoch.tolist() == list(range(LONG))


def test_a_run_that_another_one_replaced_in_the_meantime_is_refused(finished):
    """What was read before the lock was taken is compared again under it."""
    fingerprint = load_plain(finished / "fold_3.pt")["data_fingerprint"]
    config = dataclasses.replace(read_config(finished), run_dir=str(finished))
    record = json.loads((finished / "config.json").read_text())
    write_json(finished / "config.json", {**record, "seed": 7})
    before = contents(finished)
    with (
        pytest.raises(UserError, match=r"was trained with other settings: seed was 7, now 0$"),
        open_run(finished, config, fingerprint),
    ):
        pass
    assert contents(finished) == before


def cut(text):
    return text[: len(text) // 2]


def cut_between_rows(text):
    return "".join(text.splitlines(keepends=True)[:5])


def rename_a_column(text):
    return text.replace("album", "folder", 1)


def change_a_bit(text):
    """The last bit of the last probability, which no metric would show."""
    rest, probability = text.rstrip("\n").rsplit(",", 1)
    return f"{rest},{np.nextafter(np.float32(probability), np.float32(1))}\n"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, ""),
        (cut_between_rows, "the 4 rows of fold 3 are not those of its model"),
        (
            rename_a_column,
            "its columns are path, folder, person, fold, label, prediction, age, age_low, age_high, p_0-2,",
        ),
        (change_a_bit, "the 8 rows of fold 3 are not those of its model"),
    ],
)
def test_damaged_predictions_are_refused(finished, whole, damage, problem, capsys):
    path = finished / "predictions.csv"
    path.write_text(damage(path.read_text()))
    before = contents(finished)
    assert call(main, "--run-dir", finished, "--resume", "--cache-dir", whole.parent / "cache") == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: '{path}' is damaged: {problem}")
    assert errors.count("\n") == 1
    assert contents(finished) == before


def test_a_log_that_was_cut_short_is_written_anew(finished, whole):
    path = finished / "log.csv"
    path.write_text(cut(path.read_text()))
    assert call(main, "--run-dir", finished, "--resume", "--cache-dir", whole.parent / "cache") == 0
    assert log_lines(finished) == 1 + SHORT
    assert path.read_bytes() == (whole / "log.csv").read_bytes()


def test_a_record_does_not_say_where_to_write(finished, tmp_path, monkeypatch):
    """Whoever wrote config.json may name any folder as the cache; the command line alone chooses it."""
    record = json.loads((finished / "config.json").read_text())
    write_json(finished / "config.json", {**record, "cache_dir": str(tmp_path / "recorded")})
    monkeypatch.chdir(tmp_path)
    assert call(main, "--run-dir", finished, "--resume") == 0
    assert not (tmp_path / "recorded").exists()
    assert list((tmp_path / "cache").glob("faces_48px_*/images.npy"))
    assert json.loads((finished / "config.json").read_text())["cache_dir"] == "cache"


def test_a_link_in_the_run_directory_is_not_written_through(finished, tmp_path, capsys):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (finished / "log.csv").unlink()
    (finished / "log.csv").symlink_to(precious)
    assert call(main, *resume(finished)) == 2
    expected = f"'{finished / 'log.csv'}' is a link; a run writes into its own folder only: put a copy there"
    assert expected in capsys.readouterr().err
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(("step", "limits"), [(7, "7, not from 8 to 8"), (9, "9, not from 8 to 8")])
def test_a_step_that_the_history_contradicts_is_refused(small_faces_once, folder, monkeypatch, capsys, step, limits):
    run = folder / f"contradiction{step}"
    train_until(8, monkeypatch, *options(small_faces_once, run, SHORT))
    progress = load_plain(run / "fold_3.progress.pt")
    row = {"fold": 3, "epoch": 0, "lr": 0.01, "gridmask_prob": 0.6, "train_loss": 2.0}
    row |= dict.fromkeys("train_top1 test_top1 test_one_off test_mae test_loss".split(), 0.5)
    history = [row | {"seconds": 1.0, "images_per_second": 9.0}]
    progress["state"]["step"] = step
    save_plain(run / "fold_3.progress.pt", {**progress, "meter": {}, "history": history})
    assert call(main, *resume(run)) == 2
    assert f"fold_3.progress.pt' is damaged: its step is {limits}\n" in capsys.readouterr().err
