"""Several processes train one model: averaged gradients, the same weights in each, every file written once."""

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import ROOT, call

import main
import test_code
from models.checkpoint import load_model
from utils.distributed import SINGLE_PROCESS, Distributed
from utils.errors import UserError

SETTINGS = (
    "--image-size 40 --width 0.125 --epochs 2 --batch-size 8 --lr 0.01 --lr-steps 1 --precision fp32 --threads 1"
    " --folds 3 --no-plots"
)


def launch(script, *arguments):
    """Run a script in two processes of one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, script, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=240)


def settings(faces, folder):
    labels, images = faces
    paths = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache", "--run-dir", folder / "run"]
    return [*paths, *SETTINGS.split()]


@pytest.fixture(scope="module")
def trained(small_faces_once, tmp_path_factory):
    """(folder, standard output) of a run by two processes."""
    folder = tmp_path_factory.mktemp("distributed")
    done = launch(ROOT / "main.py", *settings(small_faces_once, folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_one_process_writes_and_prints(trained):
    folder, printed = trained
    assert printed.count("evaluate one model:") == 1
    assert printed.count("fold 3  epoch   2/2") == 1
    names = ".lock .fold_3.lock config.json fold_3.pt log.csv predictions.csv results.json results.tex"
    assert {path.name for path in (folder / "run").iterdir()} == set(names.split())
    assert load_model(folder / "run" / "fold_3.pt").record["trained_on"] == "CPU, 1 thread, fp32, 2 processes"


def test_the_log_counts_the_faces_of_all_processes(trained):
    log = pd.read_csv(trained[0] / "run" / "log.csv")
    assert log.epoch.tolist() == [0, 1]
    assert (log.seconds * log.images_per_second).tolist() == pytest.approx([32, 32])
    right = log.train_top1 * 32
    assert right.tolist() == pytest.approx(right.round().tolist())
    predictions = pd.read_csv(trained[0] / "run" / "predictions.csv")
    assert predictions.path.tolist() == [f"album3/landmark_aligned_face.{300 + k}.{k}.jpg" for k in range(8)]


def test_the_reported_numbers_are_those_of_the_saved_model(trained, tmp_path):
    """One process evaluates what two have trained and evaluated."""
    run = trained[0] / "run"
    where = ["--cache-dir", trained[0] / "cache", "--json", tmp_path / "report.json"]
    assert call(test_code, run / "fold_3.pt", "--precision", "fp32", "--threads", 1, *where) == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())
    (recorded,) = json.loads((run / "results.json").read_text())["folds"]
    for name in ("top1", "one_off", "mae", "loss"):
        assert report[name] == pytest.approx(recorded[name], rel=1e-5)
    assert report["confusion"] == recorded["confusion"]


def test_a_run_of_two_processes_is_finished_for_one(small_faces_once, trained):
    before = (trained[0] / "run" / "fold_3.pt").stat().st_mtime_ns
    assert call(main, *settings(small_faces_once, trained[0]), "--resume") == 0
    assert (trained[0] / "run" / "fold_3.pt").stat().st_mtime_ns == before


def test_processes_divide_a_batch_evenly(small_faces_once, tmp_path):
    done = launch(ROOT / "main.py", *settings(small_faces_once, tmp_path), "--batch-size", 9)
    assert done.returncode != 0
    assert "error: --batch-size 9: 2 processes cannot divide it evenly\n" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_single_process_has_nothing_to_agree_on():
    assert SINGLE_PROCESS.is_main_process
    assert SINGLE_PROCESS.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert SINGLE_PROCESS.max(3) == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("WORLD_SIZE=2", "RANK is None: start several processes by torchrun, which sets it"),
        (
            "WORLD_SIZE=2 RANK=0 MASTER_ADDR=localhost",
            "MASTER_PORT is None: start several processes by torchrun, which sets it",
        ),
        (
            "WORLD_SIZE=two RANK=0 MASTER_ADDR=localhost MASTER_PORT=29500",
            "WORLD_SIZE is 'two': start several processes by torchrun, which sets it",
        ),
        (
            "WORLD_SIZE=2 RANK=2 MASTER_ADDR=localhost MASTER_PORT=29500",
            "RANK is 2 and WORLD_SIZE 2; ranks count from 0",
        ),
    ],
)
def test_an_environment_that_torchrun_did_not_make_is_refused(environment, message, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for setting in environment.split():
        monkeypatch.setenv(*setting.split("="))
    with pytest.raises(UserError) as error:
        Distributed.join()
    assert str(error.value) == message


HALVES = """
import copy, signal
import torch
from torch import nn
from training.engine import EpochMeter
from utils.device import Runtime
from utils.signals import Interruption

runtime = Runtime.setup("cpu", "fp32", threads=1, join=True)
distributed = runtime.distributed
rank = distributed.rank
assert distributed.world_size == 2 and distributed.is_main_process == (rank == 0)
assert distributed.sum(torch.tensor([1.0, rank])).tolist() == [2.0, 1.0]
assert distributed.max(10 + rank) == 11

torch.manual_seed(0)
images, labels = torch.randn(8, 3, 6, 6), torch.randint(4, (8,))
halves = slice(0, 4), slice(4, 8)

def layers(norm):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(64, 4))

def gradients(model, network, part):
    model.zero_grad()
    nn.functional.cross_entropy(network(images[part]), labels[part]).backward()
    if network is not alone:
        distributed.average_gradients(model)
    return [p.grad.clone() for p in model.parameters()]

# Without batch statistics, averaged gradients are those of the whole batch; with them, each half has its own.
for norm, parts in ((nn.Identity(), (slice(0, 8),)), (nn.BatchNorm2d(4), halves)):
    model = layers(norm)
    alone = copy.deepcopy(model)
    expected = [sum(g) / len(parts) for g in zip(*(gradients(alone, alone, part) for part in parts))]
    network = runtime.prepare(model)
    for ours, theirs in zip(gradients(model, network, halves[rank]), expected):
        assert torch.allclose(ours, theirs, atol=1e-6), (ours - theirs).abs().max()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        gradients(model, network, halves[rank])
        optimizer.step()
    distributed.broadcast(model.buffers())
    for value in model.state_dict().values():
        assert torch.equal(distributed.sum(value.clone()), 2 * value)  # the same bits in both

# The sums of all processes are kept once, and the first process resumes with them.
meter = EpochMeter(runtime)
meter.begin()
labels = torch.tensor([0, 1, 2, 0] if rank else [1, 1, 1, 1])
meter.update(torch.tensor(1.0 + rank), torch.eye(4), labels)
state = meter.state_dict()
assert state["sums"].tolist() == [4 * 1.0 + 4 * 2.0, 1 + 3, 8] and state["faces"] == 8
resumed = EpochMeter(runtime)
resumed.load_state_dict(state)
resumed.begin()
resumed.finish()
assert resumed.read() == (1.5, 0.5)

interruption = Interruption(distributed=distributed)
assert not interruption.agreed()
interruption.requested = signal.SIGTERM if rank == 1 else 0
assert interruption.agreed() and interruption.requested == signal.SIGTERM
runtime.leave(0)
"""


def test_processes_average_gradients_and_agree(tmp_path):
    (tmp_path / "halves.py").write_text(HALVES)
    done = launch(tmp_path / "halves.py")
    assert done.returncode == 0, done.stderr


def test_an_address_that_does_not_resolve_is_named(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "MASTER_PORT": "29500",
        "MASTER_ADDR": "no.such.invalid",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^MASTER_ADDR 'no\.such\.invalid' cannot be resolved: "):
        Distributed.join()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_stays_alone_says_so(monkeypatch, rank):
    values = {"WORLD_SIZE": 2, "RANK": rank, "MASTER_PORT": free_port(), "MASTER_ADDR": "127.0.0.1"}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("utils.distributed.MEETING", datetime.timedelta(seconds=2))
    with pytest.raises(UserError, match=r"^the 2 processes do not find each other at 127\.0\.0\.1:[0-9]+: "):
        Distributed.join()


def start(rank, port, folder, *arguments):
    """One of two processes of main.py, started by hand."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        **{name: str(value) for name, value in environment.items()},
    }
    command = [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


def test_the_survivor_of_a_killed_process_says_so(small_faces_once, tmp_path):
    arguments = [*settings(small_faces_once, tmp_path), "--epochs", 400]
    first, second = (start(rank, port, tmp_path, *arguments) for port in [free_port()] for rank in (0, 1))
    wait_for(tmp_path / "run" / "fold_3.progress.pt", first)
    second.kill()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 2
    line = "error: another process of this training has ended or cannot be reached; its own error says why"
    assert line in errors.splitlines()
    assert "Traceback" not in errors


def test_a_process_that_waits_for_the_others_can_be_stopped(small_faces_once, tmp_path):
    waiting = start(1, free_port(), tmp_path, *settings(small_faces_once, tmp_path))
    time.sleep(8)  # imports, and then the connection
    waiting.terminate()
    waiting.communicate(timeout=10)
    assert waiting.returncode in (-signal.SIGTERM, 143)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(path, process):
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
