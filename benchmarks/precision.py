"""Measure one training step in each memory layout and precision.

    python benchmarks/precision.py --image-size 64 112 224

The variants alternate within one process, so that a machine whose speed drifts slows all of them alike. Prints
medians, and their ratio to plain fp32, channels first.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import create_model
from utils.device import Compute, keep_large_buffers

VARIANTS = {
    "fp32, channels first": ("fp32", torch.contiguous_format),
    "fp32, channels last": ("fp32", torch.channels_last),
    "bf16, channels last": ("bf16", torch.channels_last),
}


def make_step(precision, layout, size, batch):
    compute = Compute(torch.device("cpu"), precision)
    model = create_model("resnet18", "softmax", 8).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, fused=True)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    labels = torch.randint(0, 8, (batch,))

    def step():
        start = time.perf_counter()
        with compute.autocast():
            logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, nargs="+", default=[64, 112, 224])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--library-allocator", action="store_true", help="leave glibc's settings as they are")
    options = parser.parse_args()
    if not options.library_allocator:
        keep_large_buffers()
    torch.manual_seed(0)
    capabilities = {name for name, present in torch.cpu.get_capabilities().items() if present is True}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads,", end=" ")
    print(", ".join(sorted(capabilities & {"amx_bf16", "avx512_bf16", "avx512_f", "avx2"})))
    for size in options.image_size:
        steps = {name: make_step(*variant, size, options.batch_size) for name, variant in VARIANTS.items()}
        seconds = {name: [] for name in steps}
        for repeat in range(options.repeats + 1):
            for name, step in steps.items():
                taken = step()
                if repeat:  # the first round warms up
                    seconds[name].append(taken)
        medians = {name: float(np.median(times)) for name, times in seconds.items()}
        for name, median in medians.items():
            ratio = medians["fp32, channels first"] / median
            print(f"{size:4d} px  {name:<22} {options.batch_size / median:7.1f} images/s   {ratio:5.2f}")


if __name__ == "__main__":
    main()
