"""The plots of a run as matplotlib figures, and how they become files. Each function takes data, none the run."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evaluation.metrics import METRICS
from models.network import Network
from report.charts import peaks_above, tick_values
from utils.files import atomic_write

FORMATS = ("png", "pdf", "svg")
# Okabe and Ito's palette, which colour-blind readers tell apart; the page's style has the same.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#b3589a", "#3a3f45")
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
    # Journals ask for outlines (TrueType) in place of matplotlib's bitmap-like Type 3.
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    # The same run gives the same bytes.
    "svg.hashsalt": "age groups",
}


@plt.rc_context(STYLE)
def save(figure, stem, formats=("png",)):
    """Write a figure once per format: `stem`.png and the like. Raises UserError where a file cannot be written."""
    stem = Path(stem)
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    for name in formats:
        with atomic_write(stem.with_name(f"{stem.name}.{name}")) as unfinished:
            figure.savefig(unfinished, format=name, metadata=undated[name])
    plt.close(figure)


@plt.rc_context(STYLE)
def plot_charts(charts, dotted=""):
    """Charts beside each other, three to a row, with one legend for all of them.

    Args:
        charts: a list of Chart.
        dotted: what the dotted lines without a label are, for the legend.
    """
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    size = (4.4 * columns, 3.5 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    labelled = {}
    for axes, chart in zip(grid.flat, charts, strict=False):
        draw_chart(axes, chart)
        labelled |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    for axes in grid.flat[len(charts) :]:
        axes.axis("off")
    if dotted:
        labelled[dotted] = plt.Line2D([], [], color=INK, linestyle=":")
    if len(labelled) > 1:
        figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=6, frameon=False)
    return figure


def draw_chart(axes, chart):
    for one in chart.lines:
        colour = FAINT if one.plain else COLOURS[one.colour]
        marker = "o" if one.points or len(one.x) == 1 else None  # a line of one point shows nothing
        style = {"color": colour, "linestyle": ":" if one.dotted else "-", "linewidth": 1 if one.plain else 1.6}
        axes.plot(one.x, one.y, marker=marker, markersize=4, label=one.label or "_", **style)
    _, (_, high) = chart.ends()
    for set_scale, set_limits, axis, scale, ends in zip(
        (axes.set_xscale, axes.set_yscale),
        (axes.set_xlim, axes.set_ylim),
        (axes.xaxis, axes.yaxis),
        (chart.x, chart.y),
        chart.ends(),
        strict=True,
    ):
        set_scale("log" if scale.log else "linear")
        if ends[1] > ends[0]:
            set_limits(*ends)
            axis.set_major_locator(FixedLocator(tick_values(*ends, scale)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, show=scale.show: show(value)))
        axis.set_label_text(scale.title)
    for one in chart.lines:
        for k in peaks_above(one.y, high):
            at, text = (np.asarray(one.x)[k], high), f"{np.asarray(one.y)[k]:.3g}"
            axes.annotate(text, at, (0, 6), textcoords="offset points", ha="center", fontsize=8)
            axes.plot(*at, "^", color=COLOURS[one.colour], markersize=6, clip_on=False)
    axes.set_title(chart.title)
    axes.grid(axis="y", alpha=0.25)


@plt.rc_context(STYLE)
def plot_confusion(confusion, class_names, title):
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
    return figure


@plt.rc_context(STYLE)
def plot_parameters(groups, title):
    """Histograms of the parameters (filled) and of untrained ones (outline), on a logarithmic scale.

    Weights that are stuck, dead or exploding show at once: healthy ones are centred near zero.

    Args:
        groups: {name: (values (N,), untrained values (N,))}.
    """
    columns = 4
    rows = -(-(len(groups) + 1) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(11, 2.5 * rows), layout="constrained", squeeze=False)
    for axes, (name, (values, untrained)) in zip(grid.flat, groups.items(), strict=False):
        # A quantile of some of the values is as good for choosing the axis, and needs no sorting of millions.
        reach = 1.8 * max(np.quantile(np.abs(part[:: 1 + len(part) // 100_000]), 0.99) for part in (values, untrained))
        for part, look in ((values, {"fill": True, "alpha": 0.55}), (untrained, {"color": COLOURS[1]})):
            counts, edges = np.histogram(part.clip(-reach, reach), bins=101, range=(-reach, reach))
            axes.stairs(counts, edges, **{"color": COLOURS[0], **look})
        axes.set_yscale("log")
        axes.set_title(name)
        spread = f"spread {values.std():.3f}, untrained {untrained.std():.3f}"
        axes.set_xlabel(f"{len(values):,} values\n{spread}", fontsize=9)
        axes.yaxis.set_tick_params(labelsize=8)
    for axes in grid.flat[len(groups) :]:
        axes.axis("off")
    key = "filled: trained\nline: untrained\ncounts on a log scale;\nthe outermost bins hold\neverything beyond"
    grid.flat[-1].text(0, 0.5, f"{title}\n\n{key}", va="center")
    return figure


@plt.rc_context(STYLE)
def plot_mean_maps(faces, maps, class_names):
    """The mean face of each class, and beside it the mean map of what speaks for that class.

    Args:
        faces: list of uint8 (3, S, S).
        maps: list of float (h, w) from 0 to 1.
    """
    figure, grid = plt.subplots(2, len(faces), figsize=(1.35 * len(faces), 3.0), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for column, face, heat, name in zip(grid.T, faces, maps, class_names, strict=True):
        ends = (0, face.shape[2], face.shape[1], 0)
        for axes in column:
            axes.imshow(face.transpose(1, 2, 0))
        column[1].imshow(heat, cmap="inferno", alpha=0.55, extent=ends, interpolation="bilinear", vmin=0, vmax=1)
        column[0].set_title(name, loc="center")
    return figure


@plt.rc_context(STYLE)
def plot_augmentation(faces, augmented):
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
    return figure


@plt.rc_context(STYLE)
def plot_errors(errors, class_names, rows=5, columns=8):
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
    return figure


@plt.rc_context(STYLE)
def plot_ablation(table):
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
    return figure
