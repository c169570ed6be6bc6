"""Line charts as plain values that the template draws as SVG: sharp at every size, and coloured by the page's style."""

import math

import numpy as np

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40  # margins


class Axis:
    """Values of `low` to `high` on pixels of `start` to `end`, with a few round ticks."""

    def __init__(self, low, high, start, end, show="{:g}".format, log=False, least_step=0):
        if not high > low:
            low, high = (low / 2 or -1, high * 2 or 1) if log else (low - 0.5, high + 0.5)
        self.low, self.high, self.start, self.end = low, high, start, end
        self.show, self.log, self.least_step = show, log, least_step

    def __call__(self, value):
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (
            self.low, self.high, value)  # fmt: skip
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self):
        """A list of (pixel, text)."""
        ends = self.low, self.high
        values = log_values(*ends) if self.log else round_values(*ends, least_step=self.least_step)
        return [(self(value), self.show(value)) for value in values]


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


def chart(title, series, x, y, description, limits=None):
    """A line chart.

    Args:
        title: shown above it.
        series: dicts with label, x and y (equally long), colour (0 to 5, an entry of the style), and optionally dotted,
            points (mark each point) and plain (an auxiliary line).
        x, y: (title, format function) of the axes; a third value is the least step of the x axis, and True makes the y
            axis logarithmic.
        description: the same in words, for those who do not see it.
        limits: (x low, x high, y low, y high), None where the data decides. Points above the highest y are drawn as an
            arrow at the edge, with their value.

    Returns:
        Plain values for the template's macro `chart`.
    """
    xs = np.concatenate([np.asarray(one["x"], float) for one in series])
    ys = np.concatenate([np.asarray(one["y"], float) for one in series])
    ends = [xs.min(), xs.max(), ys.min(), ys.max()]
    low_x, high_x, low_y, high_y = (
        e if given is None else given for e, given in zip(ends, limits or [None] * 4, strict=True)
    )
    across = Axis(low_x, high_x, LEFT, WIDTH - RIGHT, x[1], least_step=x[2] if len(x) > 2 else 0)
    upward = Axis(low_y, high_y, HEIGHT - BOTTOM, TOP, y[1], log=len(y) > 2)
    return {
        "title": title,
        "description": description,
        "x_title": x[0],
        "y_title": y[0],
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": across.ticks(),
        "y_ticks": upward.ticks(),
        "lines": [line(one, across, upward) for one in series],
        "legend": [
            {"label": one["label"], "colour": one.get("colour", 0), "dotted": one.get("dotted", False)}
            for one in series
            if one.get("label")
        ],
    }


def line(one, across, upward):
    """A series in pixels: its points, its marks, and arrows for what is above the axis, the highest of each peak."""
    pairs = list(zip(map(float, one["x"]), map(float, one["y"]), strict=True))
    top = upward.high * (1 + 1e-9) if upward.high > 0 else upward.high
    inside = [(across(a), upward(min(b, upward.high))) for a, b in pairs]
    peaks = [k for k, (_, b) in enumerate(pairs) if b > top and b == max(v for _, v in pairs[max(0, k - 2) : k + 3])]
    return {
        "points": " ".join(f"{a:g},{b:g}" for a, b in inside),
        "marks": inside if one.get("points") or len(inside) == 1 else [],
        "arrows": [(inside[k][0], f"{pairs[k][1]:.3g}") for k in peaks],
        "colour": one.get("colour", 0),
        "dotted": one.get("dotted", False),
        "plain": one.get("plain", False),
    }


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
