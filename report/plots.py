"""The figures of a run by matplotlib, as files and within the page (svg.py). Each function takes data, not the run."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from evaluation.metrics import METRICS
from models.network import Network
from utils.files import atomic_write

FORMATS = ("png", "pdf", "svg")
# Okabe and Ito's palette, which colour-blind readers tell apart. The page's style has these colours too, as --c0 to
# --c5, --ink, --quiet and --rule, and others for the dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#b3589a", "#3a3f45")
INK, QUIET, RULE = "#1b1d20", "#5a616a", "#e3e6ea"
PREVIEW_DRAWS = 9  # of the augmentation, for each face
MOST_NUMBERED = 30  # classes of a confusion matrix with numbers
COLUMNS = 2  # charts side by side, so that their text is legible within the page

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.pad": 5,
    "xtick.bottom": False,  # labels without marks
    "ytick.left": False,
    "text.color": INK,
    "text.parse_math": False,  # names come from outside
    "legend.labelcolor": QUIET,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
    # Journals ask for outlines (TrueType) in place of matplotlib's bitmap-like Type 3.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",
    # The same run gives the same bytes.
    "svg.hashsalt": "age groups",
}
UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
styled = matplotlib.rc_context(STYLE)


@styled
def save(figure, stem, formats=("png",)):
    """Write a figure once per format: `stem`.png and the like. Raises UserError if a file cannot be written."""
    stem = Path(stem)
    for name in formats:
        with atomic_write(stem.with_name(f"{stem.name}.{name}")) as unfinished:
            figure.savefig(unfinished, format=name, metadata=UNDATED[name])


def subplots(count, columns, width, height):
    """A figure of `count` axes, each of a size in inches, in rows: (figure, array of axes)."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


@styled
def plot_learning_curves(history):
    """Each metric of the held-out folds and the training faces over the epochs; learning rate and GridMask.

    Args:
        history: {fold: rows of log.csv}, at least one row each.
    """
    tables = {fold: pd.DataFrame(rows) for fold, rows in history.items()}
    longest = max(tables.values(), key=len)
    logged = [name for name in METRICS if any(f"test_{name}" in table for table in tables.values())]
    figure, (*grid, rate, mask) = subplots(len(logged) + 2, COLUMNS, 4.4, 2.9)
    for axes, name in zip(grid, logged, strict=True):
        plot_metric(axes, name, METRICS[name], tables)
    rates = longest.lr.clip(lower=1e-12)
    draw_line(rate, longest.epoch + 1, rates, COLOURS[5])
    rate.set_title("Learning rate")
    rate.set_yscale("log")
    rate.yaxis.set_major_locator(LogLocator(subs=(1,) if rates.max() >= 100 * rates.min() else (1, 2, 5)))
    rate.yaxis.set_major_formatter("{x:g}")
    rate.yaxis.set_minor_formatter(NullFormatter())
    draw_line(mask, longest.epoch + 1, longest.gridmask_prob, COLOURS[5])
    mask.set_title("GridMask probability")
    for axes in (*grid, rate, mask):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.grid(axis="y")
    lines = [Line2D([], [], color=COLOURS[fold % 5], label=f"fold {fold}") for fold in tables]
    lines.append(Line2D([], [], color=QUIET, linestyle=":", label="training faces"))
    figure.legend(handles=lines, loc="outside lower center", ncols=6)
    return figure


def plot_metric(axes, name, metric, tables):
    """A metric of each held-out fold, and of the training faces, dotted, if the log has it.

    Args:
        tables: {fold: its rows of log.csv as a table}.
    """
    highest = np.inf
    if name == "loss":  # a spike of the held-out loss would flatten everything else
        highest = 1.2 * max(max(table.train_loss.max(), table.test_loss.iloc[-1]) for table in tables.values())
    for fold, table in tables.items():
        for column, style in ((f"train_{name}", ":"), (f"test_{name}", "-")):
            if column in table:
                epochs, values = table.epoch + 1, table[column]
                draw_line(axes, epochs, values.clip(upper=highest), COLOURS[fold % 5], style)
                peaks = values == values.rolling(5, center=True, min_periods=1).max()
                for k, value in values[peaks & (values > highest)].items():
                    axes.annotate(f"{value:.3g}", (epochs[k], highest), (0, 6), textcoords="offset points",
                                  ha="center", fontsize=8)  # fmt: skip
                    axes.plot(epochs[k], highest, "^", color=COLOURS[fold % 5], markersize=6, clip_on=False)
    axes.set_title(metric.title)
    if metric.format.endswith("%"):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif not metric.format.startswith("+"):
        axes.set_ylim(0, highest if highest < np.inf else None)


def draw_line(axes, x, y, colour, style="-", **settings):
    """A line; a single point, of which a line shows nothing, has a mark."""
    axes.plot(x, y, style, color=colour, linewidth=1.6, marker="o" if len(x) == 1 else None, markersize=4, **settings)


@styled
def plot_calibration(bins, curves):
    """A reliability diagram, and the accuracy against the fraction of faces that are answered.

    Args:
        bins: {"before" or "after": table of `reliability`}.
        curves: {"before" or "after": (coverage (N,), accuracy (N,))}, of `risk_coverage`.
    """
    figure, (reliable, covered) = subplots(2, COLUMNS, 4.4, 3.6)
    reliable.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
    for (name, table), colour, style in zip(bins.items(), COLOURS, ("o-", "o:"), strict=False):
        reliable.plot(table.confidence, table.accuracy, style, color=colour, linewidth=1.6, markersize=4)
        coverage, accuracy = curves[name]
        kept = np.unique(np.linspace(0, len(coverage) - 1, 160).round().astype(int))
        kept = kept[coverage[kept] >= min(0.05, coverage[-1])]  # the accuracy of a few faces is noise
        draw_line(covered, coverage[kept], accuracy[kept], colour, style[1:], label=f"{name} temperature scaling")
    for axes, title, x, y in (
        (reliable, "Reliability", "confidence", "fraction that is right"),
        (covered, "Accuracy against coverage", "fraction of faces that are answered", "top-1 of these"),
    ):
        axes.set(title=title, xlabel=x, ylabel=y, xlim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y")
    reliable.set_ylim(0, 1)
    covered.set_ylim(top=1)
    figure.legend(*covered.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def plot_confusion(confusion, class_names, title):
    """Fractions of each true class; up to MOST_NUMBERED classes have counts, and an outline where one-off is right.

    Args:
        confusion: int (K, K), true class by row.
    """
    classes = range(len(class_names))
    distance = np.abs(np.subtract.outer(classes, classes))
    accuracy, near = (confusion[distance <= most].sum() / confusion.sum() for most in (0, 1))
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.6 * min(len(class_names), 16)
    figure, (axes,) = subplots(1, 1, side + 0.4, side)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), count in np.ndenumerate(confusion) if len(class_names) <= MOST_NUMBERED else ():
        fraction = fractions[true, predicted]
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if fraction > 0.55 else INK}
        axes.text(predicted, true, f"{fraction:.0%}\n{count:,}", **style)
        if distance[true, predicted] <= 1:
            axes.add_patch(Rectangle((predicted - 0.47, true - 0.47), 0.94, 0.94, fill=False, edgecolor="#EE7733"))
    ticks = classes[:: -(-len(class_names) // MOST_NUMBERED)]
    names = [class_names[k] for k in ticks]
    axes.set(xticks=ticks, xticklabels=names, yticks=ticks, yticklabels=names)
    axes.tick_params(axis="x", labelrotation=90 if len(class_names) > MOST_NUMBERED else 0)
    axes.spines[:].set_visible(False)
    title = f"{title}: top-1 {accuracy:.1%}, one-off {near:.1%} (outlined)"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


@styled
def plot_ages(true, predicted):
    """Predicted against true age, darker where more faces are, and the share of faces within so many years.

    Args:
        true, predicted: float (N,), in years.
    """
    figure, (left, right) = subplots(2, 2, 4.4, 3.6)
    cells = pd.DataFrame({"x": true // 2 * 2 + 1, "y": predicted // 2 * 2 + 1}).value_counts()
    x, y = zip(*cells.index, strict=True)
    left.scatter(
        x, y, s=9, marker="s", color=COLOURS[0], alpha=(0.15 + 0.85 * cells / cells.max()).to_numpy(), linewidth=0
    )
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    left.plot(ends, ends, color=QUIET, linewidth=1)
    left.set(xlabel="true age", ylabel="predicted age", title="Two years a cell")
    errors = np.arange(0, 21)
    shares = [100 * np.mean(np.abs(predicted - true) <= error) for error in errors]
    draw_line(right, pd.Series(errors), pd.Series(shares), COLOURS[0])
    right.set(xlabel="years", ylabel="faces within so many years, %", title="Cumulative score", ylim=(0, 100))
    right.grid(axis="y")
    return figure


@styled
def plot_roc(younger, older, age):
    """The share of older faces that pass against that of younger ones, as the required probability falls.

    Args:
        younger, older: float (M,).
        age: the threshold, in years.
    """
    figure, (axes,) = subplots(1, 1, 4.4, 3.6)
    axes.plot(100 * younger, 100 * older, color=COLOURS[0])
    axes.set(xlabel=f"younger than {age} that pass, %", ylabel=f"{age} or older that pass, %", title="ROC curve")
    axes.grid()
    return figure


@styled
def plot_parameters(groups, title, bins=61):
    """Histograms of the parameters (filled) and of untrained ones (line), on a logarithmic scale.

    Args:
        groups: {name: (values (N,), untrained values (N,))}.
    """
    figure, grid = subplots(len(groups) + 1, 2 * COLUMNS, 2.2, 2.2)
    for axes, (name, (values, untrained)) in zip(grid, groups.items(), strict=False):
        # A quantile of some of the values is as good for choosing the axis, and needs no sorting of millions.
        some = [np.abs(array[:: 1 + len(array) // 100_000]) for array in (values, untrained)]
        reach = 1.8 * max(np.quantile(array, 0.99) for array in some) or 1.0
        for array, style in ((values, {"fill": True, "alpha": 0.55}), (untrained, {"color": COLOURS[1]})):
            counts, edges = np.histogram(array.clip(-reach, reach), bins=bins, range=(-reach, reach))
            axes.stairs(counts.clip(0.5), edges, baseline=0.5, **{"color": COLOURS[0], **style})
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=()))
        axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        axes.set_title(name)
        axes.set_xlabel(f"{len(values):,} values\nspread {values.std():.3f}\nuntrained {untrained.std():.3f}")
        axes.tick_params(labelsize=8)
    key = "filled: trained\nline: untrained\ncounts on a log scale;\nthe outermost bins hold\neverything beyond"
    grid[len(groups)].text(0, 0.5, f"{title}\n\n{key}", va="center")
    grid[len(groups)].axis("off")
    return figure


@styled
def plot_augmentation(faces, images, augment):
    """A face of each class, or decade, per row: as cached, then as the network sees it in training.

    Args:
        faces: Faces, whose index is their row of the cache.
        images: uint8 (N, 3, S, S), the cache, an array or a tensor.
        augment: an epoch's augmentation of at least PREVIEW_DRAWS faces of each class.
    """
    faces = faces.coarse()
    rows = [int(faces.table.index[(faces.labels == label).argmax()]) for label in np.unique(faces.labels)]
    shown = torch.as_tensor(images[rows])
    batch = shown.repeat(PREVIEW_DRAWS, 1, 1, 1)
    positions = torch.arange(len(batch), device=batch.device)
    augmented = augment(batch, positions)
    mean, std = (torch.tensor(values, device=batch.device)[:, None, None] for values in (Network.mean, Network.std))
    views = (augmented * std + mean).clip(0, 1).unflatten(0, (PREVIEW_DRAWS, len(rows))).cpu().numpy()
    columns = 1 + PREVIEW_DRAWS
    figure, grid = subplots(len(rows) * columns, columns, 1.3, 1.38)
    for row, face in enumerate(shown.cpu().numpy()):
        for column, image in enumerate([face / 255, *views[:, row]]):
            title = {(0, 0): "as cached", (0, 1): "in training"}.get((row, column), "")
            axes = grid[row * columns + column]
            axes.imshow(image.transpose(1, 2, 0))
            axes.set_title(title, loc="left", fontweight="normal")
            axes.axis("off")
    return figure
