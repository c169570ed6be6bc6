"""Line charts, drawn twice from the same values: as SVG in the page (here), and as files (plots.py)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40  # margins


@dataclass(frozen=True)
class Line:
    """A series of points.

    Attributes:
        x, y: (N,) each.
        label: for the legend; "" leaves it out there.
        colour: 0 to 5, an entry of the palette.
        dotted: whether the line is dotted.
        points: whether each point has a mark.
        plain: whether it is an auxiliary line.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    colour: int = 0
    dotted: bool = False
    points: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis: its title, how a value is written, and its ends where the data do not decide.

    Attributes:
        log: whether it is logarithmic.
        whole: whether its ticks are whole numbers.
    """

    title: str = ""
    show: Callable = "{:g}".format
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Chart:
    """A line chart. Points above the highest y are drawn as an arrow at the edge, with their value.

    Attributes:
        title: shown above it.
        lines: the Lines.
        x, y: the Scales.
        description: the same in words, for those who do not see it.
    """

    title: str
    lines: list
    x: Scale
    y: Scale
    description: str

    def ends(self):
        """((x low, x high), (y low, y high))."""
        ends = []
        for scale, values in ((self.x, [one.x for one in self.lines]), (self.y, [one.y for one in self.lines])):
            values = np.concatenate([np.asarray(part, float) for part in values])
            low = values.min() if scale.low is None else scale.low
            ends.append((low, values.max() if scale.high is None else scale.high))
        return ends

    def svg(self):
        """Plain values for the template's macro `chart`."""
        (low_x, high_x), (low_y, high_y) = self.ends()
        across = Axis(low_x, high_x, LEFT, WIDTH - RIGHT, self.x)
        upward = Axis(low_y, high_y, HEIGHT - BOTTOM, TOP, self.y)
        return {
            "title": self.title,
            "description": self.description,
            "x_title": self.x.title,
            "y_title": self.y.title,
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "top": TOP,
            "bottom": HEIGHT - BOTTOM,
            "x_ticks": across.ticks(),
            "y_ticks": upward.ticks(),
            "lines": [svg_line(one, across, upward) for one in self.lines],
            "legend": [
                {"label": one.label, "colour": one.colour, "dotted": one.dotted} for one in self.lines if one.label
            ],
        }


class Axis:
    """Values of `low` to `high` on pixels of `start` to `end`, with a few round ticks."""

    def __init__(self, low, high, start, end, scale):
        if not high > low:
            low, high = (low / 2 or -1, high * 2 or 1) if scale.log else (low - 0.5, high + 0.5)
        self.low, self.high, self.start, self.end, self.scale = low, high, start, end, scale

    def __call__(self, value):
        low, high = self.low, self.high
        if self.scale.log:
            low, high, value = map(math.log10, (low, high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self):
        """A list of (pixel, text)."""
        values = tick_values(self.low, self.high, self.scale)
        return [(self(value), self.scale.show(value)) for value in values]


def tick_values(low, high, scale):
    return log_values(low, high) if scale.log else round_values(low, high, least_step=1 if scale.whole else 0)


def log_values(low, high):
    """The powers of ten within a range; where there are fewer than two, 2 and 5 times these as well."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(values) > 1:
            break
    return values or [low]


def round_values(low, high, about=5, least_step=0):
    """About five round numbers within a range, at least a step apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= about)
    step = max(step, least_step)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def svg_line(one, across, upward):
    """A series in pixels: its points, its marks, and arrows for what is above the axis, the highest of each peak."""
    pairs = list(zip(map(float, one.x), map(float, one.y), strict=True))
    inside = [(across(a), upward(min(b, upward.high))) for a, b in pairs]
    peaks = peaks_above(one.y, upward.high)
    return {
        "points": " ".join(f"{a:g},{b:g}" for a, b in inside),
        "marks": inside if one.points or len(inside) == 1 else [],
        "arrows": [(inside[k][0], f"{pairs[k][1]:.3g}") for k in peaks],
        "colour": one.colour,
        "dotted": one.dotted,
        "plain": one.plain,
    }


def peaks_above(values, high):
    """The positions of values above the axis that no near one exceeds."""
    values = [float(value) for value in values]
    top = high * (1 + 1e-9) if high > 0 else high
    return [k for k, value in enumerate(values) if value > top and value == max(values[max(0, k - 2) : k + 3])]


def histogram(values, reference, bins=48):
    """Two outlines over the same bins, for the macro `histogram`: counts on a logarithmic scale.

    Args:
        values: (N,).
        reference: (M,), drawn behind it.
    """
    reach = 1.6 * max(np.quantile(np.abs(part[:: 1 + len(part) // 100_000]), 0.99) for part in (values, reference)) or 1
    outlines = []
    for part in (reference, values):
        counts, _ = np.histogram(part.clip(-reach, reach), bins=bins, range=(-reach, reach))
        heights = np.log10(1 + counts) / np.log10(1 + len(part))
        points = [f"{k * 4},{60 - 58 * h:.1f} {k * 4 + 4},{60 - 58 * h:.1f}" for k, h in enumerate(heights)]
        outlines.append(f"0,60 {' '.join(points)} {bins * 4},60")
    return {"width": bins * 4, "reach": f"{reach:.2g}", "reference": outlines[0], "values": outlines[1]}
