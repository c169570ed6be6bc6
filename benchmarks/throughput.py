"""How fast each stage of training is, against this machine's limit and against common practice.

    python benchmarks/throughput.py [--label-dir DIR --image-dir DIR] [--image-size 224] [--repeats 5]

Makes 816x816 JPEGs in Adience's layout out of the given faces, or of drawn demo faces, and measures
every stage in turn within one process: in each repeat all of them once, so that a machine whose
speed drifts slows all alike. Prints medians and writes OUT/throughput.json and OUT/throughput.png.

The two yardsticks: the *limit* is the best matrix-product rate found on this machine over the
network's operations per image (forward; three times that for training); *common practice* is
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

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import common_practice

from augment import Strengths, Targets, TrainAugment
from data.adience import load_faces
from data.cache import decode_face, open_cache
from data.demo import make_demo_faces
from data.loader import FaceDataset, epoch_generator, shuffled_batches
from models import resnet18
from utils.checkpoint import current_commit
from utils.device import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, Compute, keep_large_buffers
from utils.engine import Totals, evaluate, train_one_epoch
from utils.losses import LOSSES, Objective

ADIENCE_SIDE = 816
RIVALS = ("common practice: ", "plain fp32: ")
M_MMAP_THRESHOLD = -3


def main():
    options = read_command_line()
    keep_large_buffers()
    compute = Compute.choose(options.device, options.precision, options.threads)
    folder = Path(tempfile.mkdtemp(prefix="throughput_"))
    try:
        paths, labels = make_large_jpegs(options, folder)
        bench = Bench(options, compute, folder, paths, labels)
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
    """So many faces as JPEGs of Adience's size, in albums; (paths below folder/aligned, labels)."""
    label_dir, image_dir = options.label_dir, options.image_dir
    if not label_dir:
        make_demo_faces(folder / "demo")
        label_dir, image_dir = folder / "demo", folder / "demo" / "aligned"
    faces, _ = load_faces(label_dir, image_dir, "strict", allow_missing=True)
    paths = []
    for number in range(options.faces):
        face = faces.iloc[number % len(faces)]
        path = Path(f"album{number % 16}", f"landmark_aligned_face.{number}.{Path(face.path).name}").with_suffix(".jpg")
        (folder / "aligned" / path).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(Path(image_dir) / face.path) as image:
            large = image.convert("RGB").resize((ADIENCE_SIDE, ADIENCE_SIDE), Image.Resampling.BICUBIC)
            large.save(folder / "aligned" / path, quality=90)
        paths.append(str(path))
    return paths, [int(faces.label.iloc[number % len(faces)]) for number in range(options.faces)]


def library_buffers():
    """The allocator as the C library settles it by itself: large blocks are mapped anew and returned."""
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
    """stages: {name: (setting, run, images)}; setting: whose allocator, and how many threads."""

    def __init__(self, options, compute, folder, paths, labels):
        self.options, self.compute, self.folder, self.paths = options, compute, folder, paths
        size, batch, count = options.image_size, options.batch_size, len(paths)
        self.files, self.labels = [folder / "aligned" / path for path in paths], labels
        self.images = open_cache(folder / "aligned", paths, size, folder / "cache", progress=False)
        self.dataset = FaceDataset(compute.hold(self.images), range(count), labels)
        self.augment = TrainAugment(
            count, size, torch.Generator().manual_seed(0), Strengths(gridmask=0.7), compute.compiles
        )
        self.model, self.network, self.optimizer = self.make_network(torch.channels_last)
        self.plain_model, _, self.plain_optimizer = self.make_network(torch.contiguous_format)
        self.plain = Compute(compute.device, "fp32")
        self.loader = common_practice.make_loader(self.files, labels, size, batch)
        self.flops = forward_flops(resnet18(), size)
        self.loaded = list(self.batches())
        first = self.loaded[0]
        images, targets = self.augment(first.images, first.labels, first.positions)
        self.ready, self.targets = images.to(compute.device), Targets(targets.labels.to(compute.device))
        self.objective = Objective(LOSSES["cross_entropy"])
        few = range(min(count, 64))
        decoded = [common_practice.decode(self.files[index], size) for index in few]
        alone = common_practice.train_transform(size, resizes=False)

        every = torch.get_num_threads()
        ours, our_core, theirs, their_core = (True, every), (True, 1), (False, every), (False, 1)
        self.ours = None
        # Each side's stages stand together: changing sides empties the allocator.
        self.stages = {
            "cache: decode and resize, one core": (
                our_core,
                lambda: [decode_face(self.files[i], size) for i in few],
                len(few),
            ),
            "cache: build": (ours, self.build_cache, count),
            "read batches": (ours, lambda: list(self.batches()), count),
            "augment": (ours, self.augment_all, count),
            "augment, one core": (our_core, self.augment_all, count),
            "forward": (ours, self.forward, batch),
            "forward, backward, step": (ours, self.step, batch),
            "training epoch": (ours, self.epoch, count),
            "evaluation": (ours, lambda: self.evaluate(self.model, compute), count),
            "common practice: decode and resize, one core": (
                their_core,
                lambda: [np.asarray(common_practice.decode(self.files[i], size)) for i in few],
                len(few),
            ),
            "common practice: augment, one core": (their_core, lambda: [alone(image) for image in decoded], len(few)),
            "plain fp32: forward, backward, step": (theirs, self.plain_step, batch),
            "common practice: training epoch": (theirs, self.plain_epoch, count),
            "plain fp32: evaluation": (
                theirs,
                lambda: self.evaluate(self.plain_model, self.plain),
                count,
            ),
        }
        # {stage: what it is held against}
        self.rivals = {
            "cache: decode and resize, one core": "common practice: decode and resize, one core",
            "augment, one core": "common practice: augment, one core",
            "forward, backward, step": "plain fp32: forward, backward, step",
            "training epoch": "common practice: training epoch",
            "evaluation": "plain fp32: evaluation",
        }

    def enter(self, setting):
        """Set threads and allocator; where the side changes, a step of it fills the allocator, as in training."""
        ours, threads = setting
        torch.set_num_threads(threads)
        if ours != self.ours:
            library_buffers()
            keep_large_buffers() if ours else None
            for _ in range(3):
                self.step() if ours else self.plain_step()
            self.ours = ours

    def make_network(self, layout):
        torch.manual_seed(0)
        model = resnet18().to(self.compute.device, memory_format=layout)
        network = self.compute.network(model) if layout == torch.channels_last else model
        return model, network, torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)

    def batches(self):
        return shuffled_batches(self.dataset, self.options.batch_size, epoch_generator(0, 0, 0))

    def build_cache(self):
        target = self.folder / "built"
        open_cache(self.folder / "aligned", self.paths, self.options.image_size, target, progress=False)
        shutil.rmtree(target)

    def augment_all(self):
        for batch in self.loaded:
            self.augment(batch.images, batch.labels, batch.positions)

    @torch.inference_mode()
    def forward(self):
        self.model.eval()
        with self.compute.autocast():
            self.model(self.ready)

    def step(self):
        self.network.train()
        with self.compute.autocast():
            logits = self.network(self.ready)
        loss = self.objective(logits.float(), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def plain_step(self):
        self.plain_model.train()
        common_practice.step(self.plain_model, self.plain_optimizer, self.ready, self.targets.labels)

    def epoch(self):
        totals = Totals(self.compute)
        for _ in train_one_epoch(
            self.network, self.batches(), self.augment, self.objective, self.optimizer, self.compute, totals
        ):
            pass

    def evaluate(self, model, compute):
        return evaluate(model, self.dataset, self.options.batch_size, compute, self.objective.loss)

    def plain_epoch(self):
        common_practice.train(self.plain_model, self.plain_optimizer, self.loader, self.compute.device)


def forward_flops(model, size):
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


def best_matmul_rate(compute):
    """Operations per second of the best product of square matrices, over sizes and precisions."""
    best = 0.0
    for kind in (torch.float32, torch.bfloat16):
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
        rival = bench.rivals.get(name)
        # In each repeat the two sides were neighbours: the median of their ratios, not the ratio of medians.
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
    return row["stage"].startswith(RIVALS)


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
    main()
