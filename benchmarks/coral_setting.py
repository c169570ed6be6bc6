"""Error over time on CORAL's split of UTKFace: the setting of its authors in a plain loop, and main.py, on one machine.

    python benchmarks/coral_setting.py CORAL.csv --image-dir UTKFACE --run-dir RUNS --output figure.png

CORAL.csv has the columns path, age and split. The setting is that of the authors' own scripts (Cao, Mirjalili and
Raschka, "Rank consistent ordinal regression for neural networks", 2020; github.com/Raschka-research-group/coral-cnn):
ResNet-34 from random weights, images of 128 px, random crops of 120 px, Adam at 5e-4, batches of 256, their loss. Their
200 epochs are cut off by the clock. It runs in bfloat16 and channels last where main.py does, and decodes each
photograph only once, so that the settings are compared and not the loops. The clock counts everything, from the start.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet34

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.images import decode_face
from utils.cli import run_script
from utils.device import Runtime

YOUNGEST, AGES = 21, 40
SIDE, CROP, BATCH, LEARNING_RATE = 128, 120, 256, 5e-4
CORAL = "CORAL's setting: ResNet-34, 120 px"
OURS, OPTIONS = "modern, a quarter of the channels, 64 px", "--recipe modern --width 0.25 --image-size 64 --epochs 15"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("label_file")
    parser.add_argument("--image-dir", required=True)
    parser.add_argument("--minutes", type=float, default=10, help="after which no epoch of CORAL's setting begins")
    parser.add_argument("--run-dir", required=True, help="for the run of main.py, with its cache")
    parser.add_argument("--output", required=True, help="the figure; its numbers go to a CSV file beside it")
    options = parser.parse_args()
    rows = [(OURS, *row) for row in run_ours(options)]
    rows += [(CORAL, *row) for row in train_coral(options.label_file, options.image_dir, 60 * options.minutes)]
    table = pd.DataFrame(rows, columns=["setting", "seconds", "mae_years"])
    table.to_csv(Path(options.output).with_suffix(".csv"), index=False)
    draw(table, options.output)


def run_ours(options):
    """Run main.py; returns (seconds since its start, mean absolute error of the test faces) after each epoch."""
    command = [sys.executable, "main.py", *OPTIONS.split(), "--label-file", options.label_file]
    command += ["--age-groups", f"{YOUNGEST}..{YOUNGEST + AGES - 1}", "--image-dir", options.image_dir, "--no-plots"]
    command += ["--run-dir", options.run_dir, "--cache-dir", Path(options.run_dir) / "cache"]
    start, found = time.perf_counter(), []
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := re.search(r"MAE years (\S+)", line.partition("epoch")[2]):
                found.append((time.perf_counter() - start, float(match[1])))
    return found


def train_coral(label_file, image_dir, seconds):
    """Train with the authors' setting for some seconds; returns what `run_ours` does."""
    start, found = time.perf_counter(), []
    runtime = Runtime.setup()
    table = pd.read_csv(label_file)
    images = torch.from_numpy(np.stack([decode_face(Path(image_dir) / path, SIDE) for path in table.path]))
    ages = torch.from_numpy(table.age.to_numpy(np.int64) - YOUNGEST)
    train, test = (torch.from_numpy(np.flatnonzero(table.split == split)) for split in ("train", "test"))
    torch.manual_seed(0)
    network = Coral().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    while time.perf_counter() - start < seconds:
        network.train()
        for batch in train[torch.randperm(len(train))].split(BATCH):
            tops, lefts = torch.randint(SIDE - CROP + 1, (2, len(batch))).tolist()
            crops = [images[i, :, y : y + CROP, x : x + CROP] for i, y, x in zip(batch, tops, lefts, strict=True)]
            loss = coral_loss(network, torch.stack(crops), ages[batch], runtime)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append((time.perf_counter() - start, error(network, images[test], ages[test], runtime)))
        print(f"{found[-1][0]:.0f} s  MAE years {found[-1][1]:.2f}", flush=True)
    return found


class Coral(nn.Module):
    """ResNet-34 with one weight vector and AGES - 1 biases; the logits are of "older than"."""

    def __init__(self):
        super().__init__()
        self.features = resnet34(num_classes=1)
        self.features.fc = nn.Linear(self.features.fc.in_features, 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(AGES - 1))

    def forward(self, images):
        """uint8 images (N, 3, CROP, CROP) -> logits (N, AGES - 1)."""
        return self.features((images / 255).contiguous(memory_format=torch.channels_last)) + self.biases


def coral_loss(network, images, ages, runtime):
    """The mean over faces of the sum of the binary cross entropies."""
    older = (ages[:, None] > torch.arange(AGES - 1)).float()
    with runtime.autocast():
        logits = network(images)
    return F.binary_cross_entropy_with_logits(logits.float(), older, reduction="sum") / len(ages)


@torch.no_grad()
def error(network, images, ages, runtime):
    """The mean absolute error in years, from centre crops; the age counts the outputs above one half."""
    network.eval()
    edge, predicted = (SIDE - CROP) // 2, []
    for batch in images[:, :, edge : edge + CROP, edge : edge + CROP].split(BATCH):
        with runtime.autocast():
            logits = network(batch)
        predicted.append((logits > 0).sum(1))
    return float((torch.cat(predicted) - ages).abs().double().mean())


def draw(table, path):
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rows in table.groupby("setting", sort=False):
        axes.plot(rows.seconds / 60, rows.mae_years, marker=".", label=f"{name}: {rows.mae_years.iloc[-1]:.2f}")
    axes.set(xlabel="minutes on this machine, decoding and tests included", ylabel="mean absolute error, years")
    axes.set(ylim=(4, 15), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_script(main)
