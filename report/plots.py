"""The plots of a run. Each function takes data and the file to write."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluation.metrics import METRICS
from models.network import Network
from utils.files import atomic_write

FOLD_COLOURS = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#AA3377",
)  # Tol's bright scheme, safe for colour-blind readers
INK, FAINT = "#222222", "#999999"

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
}


def save(figure, path):
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished)
    plt.close(figure)


@plt.rc_context(STYLE)
def plot_learning_curves(history, path, loss="cross_entropy"):
    """Loss and top-1 over the epochs: training dotted, held-out fold solid, one colour per fold.

    Args:
        history: {fold: rows of log.csv}.
        loss: the training loss; the held-out fold's is always cross entropy.
    """
    figure, (loss_axes, top1_axes) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for fold, rows in history.items():
        table, colour = pd.DataFrame(rows), FOLD_COLOURS[fold]
        epochs = table.epoch + 1
        marker = "o" if len(table) == 1 else None  # a line of one point shows nothing
        for axes, name in ((loss_axes, "loss"), (top1_axes, "top1")):
            axes.plot(epochs, table[f"train_{name}"], ":", color=colour, linewidth=1.2, marker=marker)
            axes.plot(
                epochs, table[f"test_{name}"], "-", color=colour, linewidth=1.8, marker=marker, label=f"fold {fold}"
            )
    # A spike of the test loss would flatten everything else, so training and the end set the scale.
    tables = [pd.DataFrame(rows) for rows in history.values()]
    highest = max(max(table.train_loss.max(), table.test_loss.iloc[-1]) for table in tables)
    loss_axes.set_ylim(0, 1.2 * highest)
    loss_axes.set_title("cross entropy" if loss == "cross_entropy" else f"training: {loss}; held-out: cross entropy")
    top1_axes.set_title("top-1 accuracy")
    top1_axes.set_ylim(0, min(1, 1.15 * top1_axes.get_ylim()[1]))
    top1_axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (loss_axes, top1_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.25)
    handles, _ = top1_axes.get_legend_handles_labels()
    styles = [
        plt.Line2D([], [], color=INK, linestyle=s, label=n) for s, n in (("-", "held-out fold"), (":", "training"))
    ]
    figure.legend(handles=handles + styles, loc="outside right center", frameon=False)
    save(figure, path)


@plt.rc_context(STYLE)
def plot_confusion(confusion, class_names, path, title):
    """Shares of each true class, with the counts; the outlined band counts as right for one-off.

    Args:
        confusion: int (K, K), true class by row.
    """
    classes = range(len(class_names))
    distance = np.abs(np.subtract.outer(classes, classes))
    accuracy, near = confusion[distance == 0].sum() / confusion.sum(), confusion[distance <= 1].sum() / confusion.sum()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.6 * len(class_names)
    figure, axes = plt.subplots(figsize=(side + 0.4, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true in classes:
        for predicted in classes:
            colour = "white" if shares[true, predicted] > 0.55 else INK
            axes.text(
                predicted,
                true,
                f"{shares[true, predicted]:.0%}\n{confusion[true, predicted]:,}",
                ha="center",
                va="center",
                fontsize=8,
                color=colour,
            )
            if abs(true - predicted) <= 1:
                axes.add_patch(Rectangle((predicted - 0.47, true - 0.47), 0.94, 0.94, fill=False, edgecolor="#EE7733"))
    axes.set_xticks(classes, class_names)
    axes.set_yticks(classes, class_names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{title}: top-1 {accuracy:.1%}, one-off {near:.1%} (outlined)")
    save(figure, path)


@plt.rc_context(STYLE)
def plot_parameters(model, path, title):
    """Histograms of the parameters, per group of layers and over the whole network.

    Weights that are stuck, dead or exploding show at once: healthy ones are centred near zero.
    """
    panels = {name: flat_parameters(part) for name, part in layer_groups(model).items()}
    panels["whole network"] = flat_parameters(model)
    figure, grid = plt.subplots(2, 4, figsize=(11, 5), layout="constrained")
    for axes, (name, values), colour in zip(
        grid.flat, panels.items(), ["#4477AA"] * (len(panels) - 1) + ["#222222"], strict=False
    ):
        # A quantile of some of the values is as good for choosing the axis, and needs no sorting of millions.
        reach = 1.8 * np.quantile(np.abs(values[:: 1 + len(values) // 100_000]), 0.99)
        counts, edges = np.histogram(values.clip(-reach, reach), bins=101, range=(-reach, reach))
        axes.stairs(counts, edges, fill=True, color=colour)
        axes.set_yscale("log")
        axes.set_title(name)
        axes.set_xlabel(f"{len(values):,} values, std {values.std():.3f}", fontsize=9)
        axes.yaxis.set_tick_params(labelsize=8)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    grid.flat[-1].text(
        0, 0.5, f"{title}\n\ncounts on a log scale;\nthe outermost bins hold\neverything beyond", va="center"
    )
    save(figure, path)


def layer_groups(model):
    """{name: part of the network}: a ResNet's stem and stages, or whatever another network consists of."""
    parts = {name: part for name, part in model.named_children() if any(True for _ in part.parameters())}
    if "conv1" in parts and "bn1" in parts:
        parts = {"stem": torch.nn.ModuleList([parts.pop("conv1"), parts.pop("bn1")]), **parts}
    return parts


def flat_parameters(module):
    return torch.cat([p.detach().flatten().float().cpu() for p in module.parameters()]).numpy()


@plt.rc_context(STYLE)
def plot_augmentation(faces, augmented, path):
    """Each row: a face as cached, then as the network saw it in training.

    Args:
        faces: uint8 (F, 3, S, S).
        augmented: float (V, F, 3, S, S), normalised.
    """
    mean, std = (np.array(v)[:, None, None] for v in (Network.mean, Network.std))
    shown = (augmented * std + mean).clip(0, 1)
    columns = 1 + len(shown)
    figure, grid = plt.subplots(len(faces), columns, figsize=(columns * 1.3, len(faces) * 1.38), squeeze=False)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    for row, face in enumerate(faces):
        for axes, image in zip(grid[row], [face / 255, *shown[:, row]], strict=True):
            axes.imshow(image.transpose(1, 2, 0))
            axes.axis("off")
    grid[0, 0].set_title("as cached", fontweight="normal")
    grid[0, 1].set_title("in training", fontweight="normal")
    save(figure, path)


@plt.rc_context(STYLE)
def plot_errors(errors, class_names, path, rows=5, columns=8):
    """A contact sheet of the most confident errors.

    Args:
        errors: a table, worst first, with columns image (uint8 (3, S, S)), label, prediction, confidence.
    """
    worst = errors.head(rows * columns)
    rows = max(1, -(-len(worst) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(columns * 1.35, rows * 1.72), squeeze=False)
    figure.subplots_adjust(wspace=0.06, hspace=0.32)
    for axes in grid.flat:
        axes.axis("off")
    for axes, error in zip(grid.flat, worst.itertuples(), strict=False):
        axes.imshow(error.image.transpose(1, 2, 0))
        axes.set_title(
            f"true {class_names[error.label]}\nsaid {class_names[error.prediction]}, {error.confidence:.0%}",
            fontsize=7.5,
            fontweight="normal",
            loc="center",
            pad=3,
        )
    save(figure, path)


@plt.rc_context(STYLE)
def plot_ablation(table, path):
    """Each variant's differences from the baseline, with 95 % intervals over people; best on top.

    Args:
        table: one row per variant, with columns variant, METRIC_gain, METRIC_low and METRIC_high.
    """
    rows = table[table.variant != "baseline"].sort_values("top1_gain")
    shown = {name: metric for name, metric in METRICS.items() if metric.format.endswith("%")}
    figure, grid = plt.subplots(1, len(shown), figsize=(10, 0.28 * len(rows) + 1.4), sharey=True, layout="constrained")
    for side, (name, metric) in zip(np.atleast_1d(grid), shown.items(), strict=True):
        gain, low, high = (100 * rows[f"{name}_{part}"] for part in ("gain", "low", "high"))
        side.axvline(0, color=FAINT, linewidth=1)
        for position, (middle, left, right) in enumerate(zip(gain, low, high, strict=True)):
            colour = "#228833" if left > 0 else "#EE6677" if right < 0 else FAINT
            side.plot([left, right], [position, position], color=colour, linewidth=2.5, solid_capstyle="round")
            side.plot(middle, position, "o", color=colour, markersize=5)
        side.set_title(f"{metric.title}, difference from the baseline in points")
        side.set_yticks(range(len(rows)), rows.variant)
        side.grid(axis="x", color="#eeeeee")
        side.set_axisbelow(True)
    save(figure, path)
