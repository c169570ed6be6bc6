"""Measure every stage of training against this machine's limit and against common practice.

    python benchmarks/throughput.py [--label-dir DIR --image-dir DIR] [--image-size 224] [--repeats 5]

The images are 816x816 JPEGs in Adience's layout, made from the given faces or from drawn demo faces. Each repeat runs
every stage once, in one process, so that a machine whose speed drifts slows all of them alike. Prints medians and
writes OUT/throughput.json and OUT/throughput.png.

There are two references. The *limit* is the highest rate of matrix products found on this machine, divided by the
network's operations per image: those of the forward pass, and three times as many for training. *Common practice* is
benchmarks/common_practice.py, in fp32, channels first and with the C library's own allocator settings.
"""

import argparse
import ctypes
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import common_practice

from augment.mixing import Targets
from data import Faces, load_faces, make_demo_faces, open_cache
from data.cache import decode_face
from data.dataset import FaceDataset, shuffled_batches
from evaluation.evaluate import evaluate
from models import create_model
from training.config import Config
from training.engine import EpochMeter, make_augment, train_one_epoch
from training.optim import TrainState, build_model
from training.run import current_commit
from utils.cli import run_script
from utils.device import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, Compute, choose_precision, keep_large_buffers
from utils.seeds import Stream, make_generator

ADIENCE_SIDE = 816
M_MMAP_THRESHOLD = -3  # glibc's, beside those in utils/device.py
RIVAL_PREFIXES = ("common practice: ", "plain fp32: ")
# {stage: the reference's stage that it is compared with}
RIVALS = {
    "cache: decode and resize, one core": "common practice: decode and resize, one core",
    "augment, one core": "common practice: augment, one core",
    "forward, backward, step": "plain fp32: forward, backward, step",
    "training epoch": "common practice: training epoch",
    "evaluation": "plain fp32: evaluation",
}
# Instead of the progress bar and the signal handler of main.py.
NO_PROGRESS = SimpleNamespace(update=lambda meter: None)
NO_INTERRUPTION = SimpleNamespace(agreed=lambda: False)


def main():
    options = read_command_line()
    keep_large_buffers()
    compute = Compute.choose(options.device, options.precision, options.threads, compilation="auto")
    folder = Path(tempfile.mkdtemp(prefix="throughput_"))
    try:
        bench = Bench(options, compute, folder, make_large_jpegs(options, folder))
        seconds = {name: [] for name in bench.stages}
        for repeat in range(options.repeats + 1):
            for name, (setting, run, _) in bench.stages.items():
                bench.enter(setting)
                compute.synchronize()
                start = time.perf_counter()
                run()
                compute.synchronize()
                if repeat:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
            print(f"repeat {repeat} of {options.repeats} done", file=sys.stderr)
    finally:
        shutil.rmtree(folder)
    report = summarise(bench, seconds)
    print_report(report)
    write_report(report, Path(options.out))


def read_command_line():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-dir", help="as for main.py; by default the demo's drawn faces")
    parser.add_argument("--image-dir")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", default="runs/bench", metavar="DIR")
    return parser.parse_args()


def make_large_jpegs(options, folder):
    """The Faces of so many new JPEGs of Adience's size, in albums below folder/aligned."""
    label_dir, image_dir = options.label_dir, options.image_dir
    if not label_dir:
        make_demo_faces(folder / "demo")
        label_dir, image_dir = folder / "demo", folder / "demo" / "aligned"
    faces, _ = load_faces(label_dir, image_dir, "strict", allow_missing=True)
    table = faces.table.iloc[np.arange(options.faces) % len(faces)].reset_index(drop=True)
    paths = []
    for number, source in enumerate(table.path):
        path = Path(f"album{number % 16}", f"landmark_aligned_face.{number}.{Path(source).name}").with_suffix(".jpg")
        (folder / "aligned" / path).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(Path(image_dir) / source) as image:
            large = image.convert("RGB").resize((ADIENCE_SIDE, ADIENCE_SIDE), Image.Resampling.BICUBIC)
            large.save(folder / "aligned" / path, quality=90)
        paths.append(str(path))
    return Faces(table.assign(path=paths), faces.class_names)


def library_buffers():
    """The C library's own allocator settings: large blocks are mapped anew and returned to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in (
            (M_MMAP_MAX, 65536),
            (M_MMAP_THRESHOLD, 32 << 20),
            (M_TRIM_THRESHOLD, 64 << 20),
            (M_TOP_PAD, 128 << 10),
        ):
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


class Bench:
    """The stages of both sides, this code and the reference.

    Attributes:
        stages: {name: (setting, function, images)}: how to run it, what to time, and how many images that processes.
            A setting is (whether this code's allocator settings hold, number of threads).
    """

    def __init__(self, options, compute, folder, faces):
        self.options, self.compute, self.folder, self.faces = options, compute, folder, faces
        self.files = [folder / "aligned" / path for path in faces.table.path]
        images = open_cache(folder / "aligned", faces.table.path, options.image_size, folder / "cache", progress=False)
        self.dataset = FaceDataset(compute.to_device(images), faces)
        self.prepare_ours()
        self.prepare_reference()
        self.ours = None  # whose allocator settings hold
        # Each side's stages stand together: a change of sides empties the allocator.
        self.stages = {**self.our_stages(), **self.reference_stages()}

    def prepare_ours(self):
        options, count = self.options, len(self.faces)
        config = Config(
            image_size=options.image_size,
            batch_size=options.batch_size,
            lr=0.01,
            lr_steps=(),
            momentum=0.9,
            weight_decay=1e-4,
            gridmask_start=0.7,  # its probability in the first epoch, which is the one that is augmented here
        )
        self.state = TrainState(config, 0, self.faces, self.compute)
        self.augment = make_augment(config, 0, count, self.state.model, self.state.seed, self.compute.compiled)
        self.batches_read = list(self.batches())
        first = self.batches_read[0]
        images, targets = self.augment(first.images, first.labels, first.positions)
        device = self.compute.device
        self.ready, self.targets = images.to(device), Targets(targets.labels.to(device))
        self.flops = forward_flops(build_model(config, self.faces.class_names), options.image_size)

    def prepare_reference(self):
        size, device = self.options.image_size, self.compute.device
        self.plain = Compute(device, "fp32")
        self.plain_model = create_model(**self.state.model.description).to(device)
        self.plain_optimizer = torch.optim.SGD(self.plain_model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
        self.loader = common_practice.make_loader(self.files, self.faces.labels.tolist(), size, self.options.batch_size)
        self.few_files = self.files[:64]
        self.few_images = [common_practice.decode(path, size) for path in self.few_files]
        self.transform = common_practice.train_transform(size, resized=True)

    def our_stages(self):
        setting, one_core = (True, torch.get_num_threads()), (True, 1)
        size, batch, count = self.options.image_size, self.options.batch_size, len(self.faces)
        trained = count // batch * batch  # the incomplete last batch is dropped

        def decode():
            return [decode_face(path, size) for path in self.few_files]

        return {
            "cache: decode and resize, one core": (one_core, decode, len(self.few_files)),
            "cache: build": (setting, self.build_cache, count),
            "read batches": (setting, lambda: list(self.batches()), trained),
            "augment": (setting, self.augment_all, trained),
            "augment, one core": (one_core, self.augment_all, trained),
            "forward": (setting, self.forward, batch),
            "forward, backward, step": (setting, self.step, batch),
            "training epoch": (setting, self.epoch, trained),
            "evaluation": (setting, lambda: self.evaluate(self.state.model, self.compute), count),
        }

    def reference_stages(self):
        setting, one_core = (False, torch.get_num_threads()), (False, 1)
        size, batch, count, few = self.options.image_size, self.options.batch_size, len(self.faces), len(self.few_files)

        def decode():
            return [np.asarray(common_practice.decode(path, size)) for path in self.few_files]

        def transform():
            return [self.transform(image) for image in self.few_images]

        return {
            "common practice: decode and resize, one core": (one_core, decode, few),
            "common practice: augment, one core": (one_core, transform, few),
            "plain fp32: forward, backward, step": (setting, self.plain_step, batch),
            "common practice: training epoch": (setting, self.plain_epoch, count),
            "plain fp32: evaluation": (setting, lambda: self.evaluate(self.plain_model, self.plain), count),
        }

    def enter(self, setting):
        """Set threads and allocator; after a change of sides, three steps fill the allocator as training does."""
        ours, threads = setting
        torch.set_num_threads(threads)
        if ours != self.ours:
            library_buffers()
            if ours:
                keep_large_buffers()
            for _ in range(3):
                self.step() if ours else self.plain_step()
            self.ours = ours

    def batches(self):
        return shuffled_batches(self.dataset, self.options.batch_size, make_generator(0, 0, 0, Stream.SHUFFLE))

    def build_cache(self):
        target = self.folder / "built"
        open_cache(self.folder / "aligned", self.faces.table.path, self.options.image_size, target, progress=False)
        shutil.rmtree(target)

    def augment_all(self):
        for batch in self.batches_read:
            self.augment(batch.images, batch.labels, batch.positions)

    @torch.inference_mode()
    def forward(self):
        self.state.model.eval()
        with self.compute.autocast():
            self.state.model(self.ready)

    def step(self):
        """A training step of `train_one_epoch` without data, augmentation and meter."""
        self.state.network.train()
        with self.compute.autocast():
            outputs = self.state.network(self.ready)
        loss = self.state.criterion(outputs, self.targets)
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.state.optimizer.step()

    def epoch(self):
        meter = EpochMeter(self.compute)
        train_one_epoch(self.state, self.batches(), self.augment, meter, self.compute, NO_PROGRESS, NO_INTERRUPTION)

    def evaluate(self, model, compute):
        return evaluate(model, self.dataset, self.options.batch_size, compute)

    def plain_step(self):
        self.plain_model.train()
        common_practice.step(self.plain_model, self.plain_optimizer, self.ready, self.targets.labels)

    def plain_epoch(self):
        common_practice.train(self.plain_model, self.plain_optimizer, self.loader, self.compute.device)


def forward_flops(model, size):
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


def best_matmul_rate(compute):
    """Operations per second of the best product of square matrices, over sizes, in the faster precision."""
    # Only in this one: where bf16 is emulated, a single product in it can take minutes.
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[choose_precision("auto", compute.device)]
    best = 0.0
    for side in (1024, 2048, 3072) if compute.device.type == "cpu" else (4096, 8192):
        left, right = (torch.randn(side, side, device=compute.device).to(kind) for _ in range(2))
        for _ in range(5):
            compute.synchronize()
            start = time.perf_counter()
            left @ right
            compute.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def summarise(bench, seconds):
    rate = best_matmul_rate(bench.compute)
    limits = {"forward": rate / bench.flops, "evaluation": rate / bench.flops}
    limits |= dict.fromkeys(("forward, backward, step", "training epoch"), rate / bench.flops / 3)
    per_image = {name: np.array(times) / bench.stages[name][2] for name, times in seconds.items()}
    step = np.median(per_image["training epoch"])
    rows = []
    for name, times in per_image.items():
        median = float(np.median(times))
        row = {"stage": name, "images_per_second": 1 / median}
        row["spread"] = [float(1 / times.max()), float(1 / times.min())]
        row["of_training_step"] = median / step
        row["of_limit"] = 1 / median / limits[name] if name in limits else None
        rival = RIVALS.get(name)
        # The median of ratios, not the ratio of medians: the two sides of one repeat ran close together.
        row["times_rival"] = float(np.median(per_image[rival] / times)) if rival else None
        rows.append(row)
    pure = per_image["forward, backward, step"] / per_image["training epoch"]
    options = {name: value for name, value in vars(bench.options).items() if not name.endswith("dir") and name != "out"}
    return {
        "machine": f"{processor()}, {bench.compute}",
        "torch": str(torch.__version__),
        "commit": current_commit(),
        "options": options,
        "matmul_gflops": rate / 1e9,
        "forward_gmacs": bench.flops / 2e9,
        "epoch_over_pure_step": float(np.median(pure)),
        "stages": rows,
    }


def is_rival(row):
    return row["stage"].startswith(RIVAL_PREFIXES)


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_report(report):
    print(f"{report['machine']}; torch {report['torch']}")
    gflops, gmacs = report["matmul_gflops"], report["forward_gmacs"]
    print(f"best matrix product {gflops:,.0f} GFLOP/s; the network: {gmacs:.2f} GMAC forward per image\n")
    print(f"{'stage':<46}{'images/s':>10}{'of a step':>11}{'of limit':>10}{'times rival':>13}")
    for row in report["stages"]:
        limit = f"{row['of_limit']:.0%}" if row["of_limit"] else ""
        times = f"{row['times_rival']:.2f}" if row["times_rival"] else ""
        print(
            f"{row['stage']:<46}{row['images_per_second']:>10,.1f}{row['of_training_step']:>11.1%}{limit:>10}{times:>13}"
        )
    print(f"\ntraining epoch over pure forward, backward, step: {report['epoch_over_pure_step']:.3f}")


def write_report(report, folder):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "throughput.json").write_text(json.dumps(report, indent=1))
    rows = report["stages"][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(rows) + 1.2), layout="constrained")
    names = [row["stage"] for row in rows]
    colours = ["#b0b7bf" if is_rival(row) else "#2a6f97" for row in rows]
    bars = axes.barh(range(len(rows)), [row["images_per_second"] for row in rows], color=colours)
    axes.set_yticks(range(len(rows)), names)
    axes.bar_label(bars, [f"{row['images_per_second']:,.0f}" for row in rows], padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("images per second (log scale)")
    axes.set_title(f"{report['machine']}, {report['options']['image_size']} px", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(folder / "throughput.png", dpi=120)
    print(f"{folder}/ holds throughput.json and throughput.png")


if __name__ == "__main__":
    run_script(main)
