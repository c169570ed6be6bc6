"""Measure every stage of training against this machine's limit and against common practice.

    python benchmarks/throughput.py [--label-dir DIR --image-dir DIR] [--image-size 224] [--repeats 5]

The images are 816x816 JPEGs in Adience's layout, made from the given faces or from drawn demo faces. Each repeat runs
every stage once, in one process, so that a machine whose speed drifts slows all of them alike. Prints medians.

There are two references. The *limit* is the highest rate of matrix products found on this machine, divided by the
network's operations per image: those of the forward pass, and three times as many for training. *Common practice* is
benchmarks/common_practice.py, in fp32, channels first and with the C library's own allocator settings.
"""

import argparse
import ctypes
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import common_practice

from data.dataset import FaceDataset, shuffled_batches
from data.faces import Faces
from data.images import decode_face
from data.load import load_data, make_demo_faces, open_cache
from evaluation.evaluate import evaluate
from models import create_model
from training.config import Config
from training.engine import EpochMeter, epoch_pipeline, train_one_epoch
from training.provenance import current_commit
from training.setup import FoldSetup, build_model, make_state
from utils.cli import run_script
from utils.device import DEVICES, M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, Runtime, choose_precision, keep_large_buffers
from utils.seeds import make_generator

ADIENCE_SIDE = 816
M_MMAP_THRESHOLD = -3  # glibc's, beside those in utils/device.py
LIBRARY_ALLOCATOR = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20, M_TOP_PAD: 128 << 10}
STEP, PLAIN_STEP = "forward, backward, step", "plain fp32: forward, backward, step"
# {stage: the reference's stage that it is compared with}
RIVALS = {
    "cache: decode and resize, one core": "common practice: decode and resize, one core",
    "augment, one core": "common practice: augment, one core",
    STEP: PLAIN_STEP,
    "training epoch": "common practice: training epoch",
    "evaluation": "plain fp32: evaluation",
}


class Stage(NamedTuple):
    """A stage to time: its function, the number of images that this processes, and whether one core has to do it."""

    run: Callable
    images: int
    one_core: bool = False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-dir", help="as for main.py; by default the demo's drawn faces")
    parser.add_argument("--image-dir")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    keep_large_buffers()
    runtime = Runtime.setup(options.device, options.precision, options.threads, compilation="auto")
    with tempfile.TemporaryDirectory(prefix="throughput_") as folder:
        faces = make_large_jpegs(options, Path(folder))
        stages, flops = make_stages(options, runtime, Path(folder), faces)
        seconds = measure(stages, options.repeats, runtime)
    print_report(stages, seconds, flops, runtime)


def make_large_jpegs(options, folder):
    """The Faces of so many new JPEGs of Adience's size, in albums below folder/aligned."""
    label_dir, image_dir = options.label_dir, options.image_dir
    if not label_dir:
        label_dir, image_dir = str(folder / "demo"), str(folder / "demo" / "aligned")
        make_demo_faces(label_dir)
    faces, _ = load_data(**Config(label_dir=label_dir, image_dir=image_dir, allow_missing=True).data_source)
    table = faces.table.iloc[np.arange(options.faces) % len(faces)].reset_index(drop=True)
    paths = []
    for number, source in enumerate(table.path):
        path = Path(f"album{number % 16}", f"landmark_aligned_face.{number}.{Path(source).name}").with_suffix(".jpg")
        (folder / "aligned" / path).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(Path(image_dir) / source) as image:
            large = image.convert("RGB").resize((ADIENCE_SIDE, ADIENCE_SIDE), Image.Resampling.BICUBIC)
            large.save(folder / "aligned" / path, quality=90)
        paths.append(str(path))
    return Faces(table.assign(path=paths), faces.classes, faces.folds_drawn)


def make_stages(options, runtime, folder, faces):
    """The stages of this code, and then those of the reference.

    Returns:
        ({name: Stage}, operations of the forward pass for one image).
    """
    size, batch, device = options.image_size, options.batch_size, runtime.device
    image_dir, paths, count = folder / "aligned", faces.table.path, len(faces)
    files, trained = [image_dir / path for path in paths], count // batch * batch  # the incomplete batch is dropped
    config = Config(
        image_size=size,
        batch_size=batch,
        lr=0.01,
        lr_steps=(),
        momentum=0.9,
        weight_decay=1e-4,
        gridmask_start=0.7,  # its probability in the first epoch, which is the one that is augmented here
    )
    nobody = faces.where(faces.labels < 0)
    state = make_state(config, FoldSetup(0, faces, nobody, nobody, count // batch, None, {}, None, {}), runtime)
    images = runtime.to_device(open_cache(image_dir, paths, size, folder / "cache").images)
    dataset = FaceDataset(images, faces)

    def first_epoch():
        state.step = 0
        return epoch_pipeline(config, 0, images, faces, state, runtime)

    def build_cache():
        open_cache(image_dir, paths, size, folder / "built")
        shutil.rmtree(folder / "built")

    batches, augment = first_epoch()
    batches = list(batches)

    def augment_all():
        return [augment(batch.images, batch.positions) for batch in batches]

    inputs = augment(batches[0].images, batches[0].positions).to(device)
    labels = batches[0].labels.to(device)

    @torch.inference_mode()
    def forward():
        state.model.eval()
        with runtime.autocast():
            state.model(inputs)

    def step():  # of `train_one_epoch`, without data, augmentation and meter
        state.network.train()
        with runtime.autocast():
            outputs = state.network(inputs)
        loss = state.criterion(outputs, labels)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()

    def epoch():
        train_one_epoch(state, *first_epoch(), EpochMeter(runtime), runtime, lambda: False)

    plain = create_model(**state.model.description).to(device)
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
    loader = common_practice.make_loader(files, faces.labels.tolist(), size, batch)
    transform, few = common_practice.train_transform(size, resized=True), files[:64]
    decoded = [common_practice.decode(path, size) for path in few]

    def plain_step():
        plain.train()
        common_practice.step(plain, optimizer, inputs, labels)

    def decode_plainly():
        return [np.asarray(common_practice.decode(path, size)) for path in few]

    def evaluate_with(model, runtime):
        return lambda: evaluate(model, dataset, batch, runtime)

    stages = {
        "cache: decode and resize, one core": Stage(lambda: [decode_face(p, size) for p in few], len(few), True),
        "cache: build": Stage(build_cache, count),
        "read batches": Stage(lambda: list(shuffled_batches(dataset, batch, make_generator(0))), trained),
        "augment": Stage(augment_all, trained),
        "augment, one core": Stage(augment_all, trained, True),
        "forward": Stage(forward, batch),
        STEP: Stage(step, batch),
        "training epoch": Stage(epoch, trained),
        "evaluation": Stage(evaluate_with(state.model, runtime), count),
        "common practice: decode and resize, one core": Stage(decode_plainly, len(few), True),
        "common practice: augment, one core": Stage(lambda: list(map(transform, decoded)), len(few), True),
        PLAIN_STEP: Stage(plain_step, batch),
        "common practice: training epoch": Stage(
            lambda: common_practice.train(plain, optimizer, loader, device), count
        ),
        "plain fp32: evaluation": Stage(evaluate_with(plain, Runtime(device, "fp32")), count),
    }
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        build_model(config, faces.classes).eval()(torch.zeros(1, 3, size, size))
    return stages, counter.get_total_flops()


def measure(stages, repeats, runtime):
    """{name of the stage: seconds of each repeat}."""
    seconds, threads, is_rival = {name: [] for name in stages}, torch.get_num_threads(), None
    for repeat in range(repeats + 1):
        for name, stage in stages.items():
            torch.set_num_threads(1 if stage.one_core else threads)
            if is_rival != (name in RIVALS.values()):
                is_rival = name in RIVALS.values()
                set_allocator(is_rival)
                for _ in range(3):  # fill the allocator as training does
                    stages[PLAIN_STEP if is_rival else STEP].run()
            runtime.synchronize()
            start = time.perf_counter()
            stage.run()
            runtime.synchronize()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
        print(f"repeat {repeat} of {repeats} done", file=sys.stderr)
    return seconds


def set_allocator(library):
    """Set the C library's own allocator settings, by which large blocks are mapped anew and returned, or ours."""
    libc = ctypes.CDLL(None)
    if library and hasattr(libc, "mallopt"):
        for parameter, value in LIBRARY_ALLOCATOR.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
    elif not library:
        keep_large_buffers()


def best_matmul_rate(runtime):
    """Operations per second of the best product of square matrices, over sizes, in the faster precision."""
    # Only in this one: where bf16 is emulated, a single product in it can take minutes.
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[choose_precision("auto", runtime.device)]
    best = 0.0
    for side in (1024, 2048, 3072) if runtime.device.type == "cpu" else (4096, 8192):
        left, right = (torch.randn(side, side, device=runtime.device).to(kind) for _ in range(2))
        for _ in range(5):
            runtime.synchronize()
            start = time.perf_counter()
            left @ right
            runtime.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_report(stages, seconds, flops, runtime):
    rate = best_matmul_rate(runtime)
    limits = {"forward": rate / flops, "evaluation": rate / flops}
    limits |= dict.fromkeys((STEP, "training epoch"), rate / flops / 3)
    per_image = {name: np.array(times) / stages[name].images for name, times in seconds.items()}
    epoch = np.median(per_image["training epoch"])
    print(f"{processor()}, {runtime}; torch {torch.__version__}; commit {current_commit()}")
    print(f"best matrix product {rate / 1e9:,.0f} GFLOP/s; the network: {flops / 2e9:.2f} GMAC forward per image\n")
    print(f"{'stage':<46}{'images/s':>10}{'of a step':>11}{'of limit':>10}{'times rival':>13}")
    for name, times in per_image.items():
        median, rival = np.median(times), RIVALS.get(name)
        limit = f"{1 / median / limits[name]:.0%}" if name in limits else ""
        # The median of ratios, not the ratio of medians: the two sides of one repeat ran close together.
        ratio = f"{np.median(per_image[rival] / times):.2f}" if rival else ""
        print(f"{name:<46}{1 / median:>10,.1f}{median / epoch:>11.1%}{limit:>10}{ratio:>13}".rstrip())
    pure = np.median(per_image[STEP] / per_image["training epoch"])
    print(f"\ntraining epoch over pure forward, backward, step: {pure:.3f}")


if __name__ == "__main__":
    run_script(main)
