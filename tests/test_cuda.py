"""The path of a GPU: the same numbers as on the CPU, no step that waits for it. Skipped without one."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from augment import TrainAugment
from data.loader import FaceDataset, epoch_generator, shuffled_batches
from models import resnet18
from utils.device import Compute
from utils.engine import Totals, evaluate, train_one_epoch
from utils.losses import LOSSES, Objective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

SETTINGS = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --folds 3 --no-plots".split()


def train(faces, folder, run, *more):
    labels, images = faces
    command = [sys.executable, ROOT / "main.py", "--label-dir", labels, "--image-dir", images, *SETTINGS]
    command += ["--cache-dir", folder / "cache", "--run-dir", folder / run, *more]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return torch.load(folder / run / "fold_3.pt")["model"], pd.read_csv(folder / run / "log.csv")


def test_fp32_learns_what_the_cpu_learns(small_faces_once, tmp_path):
    plain = ["--precision", "fp32", "--compile", "off"]
    _, cpu = train(small_faces_once, tmp_path, "cpu", "--device", "cpu", *plain)
    _, gpu = train(small_faces_once, tmp_path, "gpu", "--device", "cuda", *plain)
    assert gpu.train_loss.tolist() == pytest.approx(cpu.train_loss.tolist(), rel=0.02)


def test_compiled_bf16_learns_too(small_faces_once, tmp_path):
    _, plain = train(small_faces_once, tmp_path, "plain", "--precision", "fp32", "--compile", "off")
    _, fast = train(small_faces_once, tmp_path, "fast", "--precision", "bf16", "--compile", "on")
    assert fast.train_loss.tolist() == pytest.approx(plain.train_loss.tolist(), rel=0.1)


def test_deterministic_runs_have_the_same_bits(small_faces_once, tmp_path):
    runs = [train(small_faces_once, tmp_path, name, "--deterministic", "--compile", "off")[0] for name in ("a", "b")]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 3, 40, 40), dtype=np.uint8), rng.integers(0, 8, 24)


def batches_of(images, labels):
    dataset = FaceDataset(images, range(len(labels)), labels)
    return dataset, shuffled_batches(dataset, 8, epoch_generator(0, 0, 0))


def test_the_cache_lives_on_the_gpu_and_gives_the_same_batches(faces):
    compute = Compute.choose("cuda", "fp32", compiles="off")
    images, labels = faces
    held = compute.hold(images)
    assert held.device.type == "cuda"
    assert np.array_equal(held.cpu().numpy(), images)
    for there, here in zip(batches_of(held, labels)[1], batches_of(images, labels)[1], strict=True):
        assert there.images.device.type == "cuda"
        assert torch.equal(there.images.cpu(), here.images)
        assert torch.equal(there.labels.cpu(), here.labels)


def test_batches_from_the_host_arrive_whole(faces):
    compute = Compute.choose("cuda", "fp32", compiles="off")
    arrived = list(compute.bring(batches_of(*faces)[1]))
    assert all(batch.images.device.type == "cuda" for batch in arrived)
    for there, here in zip(arrived, batches_of(*faces)[1], strict=True):
        assert torch.equal(there.images.cpu(), here.images)


def test_a_step_does_not_wait_for_the_gpu(faces):
    compute = Compute.choose("cuda", "bf16", compiles="off")
    images, labels = faces
    dataset, batches = batches_of(compute.hold(images), labels)
    model = resnet18().to(compute.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    objective, totals = Objective(LOSSES["cross_entropy"]), Totals(compute)
    augment = TrainAugment(24, 40, torch.Generator().manual_seed(0))
    steps = train_one_epoch(model, batches, augment, objective, optimizer, compute, totals)
    next(steps)  # the epoch's order goes to the GPU
    torch.cuda.set_sync_debug_mode("error")  # any waiting call raises
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(evaluate(model, dataset, 8, compute, objective.loss).labels) == 24
