"""Several processes train as one: the same weights, the same numbers, each file written once."""

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch import nn

from utils.world import ALONE, SharedBatchNorm2d, synchronise_norms

SETTINGS = "--image-size 40 --epochs 2 --batch-size 8 --lr 0.01 --lr-steps 1 --precision fp32 --folds 3 --no-plots"
# Two processes add the same numbers in another order; two epochs let the differences grow.
TOLERANCE = 2e-3


def start(faces, folder, run, processes, *more):
    labels, images = faces
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(launcher if processes > 1 else [sys.executable]), ROOT / "main.py", "--label-dir", labels]
    command += ["--image-dir", images, "--cache-dir", folder / "cache", "--run-dir", folder / run, *SETTINGS.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command), *more], capture_output=True, text=True, env=environment, timeout=240)


@pytest.fixture(scope="module")
def runs(small_faces_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for name, processes in (("one", 1), ("two", 2)):
        done = start(small_faces_once, folder, name, processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("evaluate one model:") == 1
    return folder


def test_two_processes_learn_what_one_learns(runs):
    one, two = (torch.load(runs / name / "fold_3.pt") for name in ("one", "two"))
    assert one["trained_on"] != two["trained_on"]
    assert two["trained_on"].endswith("2 processes")
    assert one["model"].keys() == two["model"].keys()
    for name, ours in one["model"].items():
        scale = ours.abs().float().max().clamp_min(1)
        assert (ours - two["model"][name]).abs().max() <= TOLERANCE * scale, name


def test_two_processes_report_what_one_reports(runs):
    one, two = (pd.read_csv(runs / name / "log.csv") for name in ("one", "two"))
    assert one.train_loss.tolist() == pytest.approx(two.train_loss.tolist(), rel=1e-2)
    assert one.test_loss.tolist() == pytest.approx(two.test_loss.tolist(), rel=1e-2)
    ours, theirs = (pd.read_csv(runs / name / "predictions.csv") for name in ("one", "two"))
    assert ours.path.tolist() == theirs.path.tolist()
    columns = [f"p{group}" for group in range(8)]
    assert (ours[columns] - theirs[columns]).abs().to_numpy().max() < 0.01
    assert {path.name for path in (runs / "one").iterdir()} == {path.name for path in (runs / "two").iterdir()}


def test_a_run_of_two_processes_is_finished_for_one(small_faces_once, runs):
    done = start(small_faces_once, runs, "two", 1, "--resume")
    assert done.returncode == 0, done.stderr


def test_alone_there_is_nothing_to_agree_on():
    assert ALONE.leads
    assert ALONE.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert ALONE.largest(3) == 3


HALVES = """
import sys, torch, torch.distributed as dist
from torch import nn
sys.path.insert(0, {root!r})
from utils.world import SharedBatchNorm2d
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
x, weights = torch.randn(7, 3, 4, 5) * 3 + 1, torch.randn(7, 3, 4, 5)
scale, shift = torch.rand(3) + 0.5, torch.rand(3)

def run(norm, x, weights):
    norm.weight.data, norm.bias.data = scale.clone(), shift.clone()
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * weights).sum().backward()
    return y.float(), x.grad.float(), norm

mine = slice(0, 4) if rank == 0 else slice(4, 7)  # unequal parts
# A mean far from nought: statistics that are rounded to bf16 on the way would be far off.
for x, rounding in ((x, 1e-5), ((x + 40).bfloat16(), 3e-2)):
    weights = weights.to(x.dtype)
    whole_y, whole_grad, whole = run(nn.BatchNorm2d(3), x, weights)
    y, grad, norm = run(SharedBatchNorm2d(3), x[mine], weights[mine])
    for ours, theirs, tolerance in [
        (y, whole_y[mine], rounding),
        (grad, whole_grad[mine], rounding),
        (norm.running_mean, whole.running_mean, 1e-4),
        (norm.running_var, whole.running_var, 1e-4),
    ]:
        assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance), (x.dtype, (ours - theirs).abs().max())
    for name in ("weight", "bias"):
        total = getattr(norm, name).grad.clone()
        dist.all_reduce(total)
        assert torch.allclose(total, getattr(whole, name).grad, atol=10 * rounding, rtol=rounding)
dist.destroy_process_group()
"""


def test_shared_statistics_equal_torchs_over_the_whole_batch(tmp_path):
    script = tmp_path / "halves.py"
    script.write_text(HALVES.format(root=str(ROOT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_replaced_norms_keep_names_and_parameters():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)))
    before = model.state_dict()
    weight = model[1][0].weight
    synchronise_norms(model)
    assert isinstance(model[1][0], SharedBatchNorm2d)
    assert model[1][0].weight is weight
    assert model.state_dict().keys() == before.keys()
