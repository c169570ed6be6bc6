"""The path of a GPU: the same numbers as on the CPU, and no step that waits for it. Skipped without one."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from data.dataset import FaceDataset, prefetch, shuffled_batches
from data.faces import Faces
from evaluation.evaluate import evaluate
from models.checkpoint import load_model
from training.config import Config
from training.engine import EpochMeter, epoch_pipeline, train_one_epoch
from training.setup import make_state, set_up_folds
from utils.classes import Classes
from utils.device import Runtime
from utils.seeds import Stream, make_generator

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

SETTINGS = "--image-size 40 --epochs 2 --batch-size 16 --lr 0.01 --lr-steps 1 --folds 3 --no-plots".split()


def train(faces, folder, run, *more):
    """Weights and log of a training run."""
    labels, images = faces
    command = [sys.executable, ROOT / "main.py", "--label-dir", labels, "--image-dir", images, *SETTINGS]
    command += ["--cache-dir", folder / "cache", "--run-dir", folder / run, *more]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_model(folder / run / "fold_3.pt").state_dict(), pd.read_csv(folder / run / "log.csv")


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
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 3, 40, 40), dtype=np.uint8)


@pytest.fixture
def faces():
    labels = np.random.default_rng(1).integers(0, 8, 24)
    table = pd.DataFrame({"label": labels, "fold": 0, "album": "a", "person": "p", "path": "x"})
    return Faces(table, Classes(tuple("abcdefgh")))


def batches_of(images, faces):
    return shuffled_batches(FaceDataset(images, faces), 8, make_generator(0, 0, 0, Stream.SHUFFLE))


def test_the_cache_lives_on_the_gpu_and_gives_the_same_batches(images, faces):
    runtime = Runtime.setup("cuda", "fp32")
    on_gpu = runtime.to_device(images)
    assert on_gpu.device.type == "cuda"
    assert np.array_equal(on_gpu.cpu().numpy(), images)
    for there, here in zip(batches_of(on_gpu, faces), batches_of(images, faces), strict=True):
        assert there.images.device.type == "cuda"
        assert torch.equal(there.images.cpu(), here.images)
        assert torch.equal(there.labels.cpu(), here.labels)


def test_batches_from_the_host_arrive_whole(images, faces):
    runtime = Runtime.setup("cuda", "fp32")
    arrived = list(prefetch(batches_of(images, faces), runtime.device))
    assert all(batch.images.device.type == "cuda" for batch in arrived)
    for there, here in zip(arrived, batches_of(images, faces), strict=True):
        assert torch.equal(there.images.cpu(), here.images)


class StrictSecondStep:
    """An interruption that stops after two steps; during the second, every call that waits for the GPU raises."""

    steps = 0

    def agreed(self):
        self.steps += 1
        torch.cuda.set_sync_debug_mode("error" if self.steps == 1 else "default")
        return self.steps == 2


def test_a_step_does_not_wait_for_the_gpu(images, faces):
    runtime = Runtime.setup("cuda", "bf16")
    on_gpu = runtime.to_device(images)
    config = Config(image_size=40, batch_size=8, lr=0.01, folds=(1,))
    _, setups = set_up_folds(config, faces, world_size=1)
    state, meter = make_state(config, setups[1], runtime), EpochMeter(runtime)
    batches, augment = epoch_pipeline(config, 0, on_gpu, faces, state, runtime)
    try:  # the first step moves the epoch's order to the GPU, and waits for that
        complete = train_one_epoch(state, batches, augment, meter, runtime, StrictSecondStep().agreed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not complete
    assert state.step == 2
    assert evaluate(state.model, FaceDataset(on_gpu, faces), 8, runtime).probabilities.shape == (24, 8)
