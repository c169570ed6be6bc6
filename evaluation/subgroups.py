"""Whether a model serves all groups of faces alike: each group's metrics, and how far they are from all others'."""

import math

import numpy as np
import pandas as pd

from data.duplicates import GREY
from evaluation.bootstrap import resampled_means, tails
from evaluation.calibration import expected_calibration_error
from evaluation.metrics import METRICS
from utils.errors import UserError

LEAST_FACES = 30  # of a group whose metrics are given
LEAST_PEOPLE = 20  # of a group with intervals and a gap; the bootstrap's intervals of fewer people are too narrow
SIGNIFICANCE = 0.05
MISSING = ("", "u")  # Adience writes u where the gender cannot be told
UNKNOWN = "unknown"
MOST_VALUES = 12  # of numbers that are groups of their own; more are grouped by quartile
TURNS = (0, 15, 30)  # degrees to either side at which the groups of yaw end, but for the last one
TURN_NAMES = ("frontal (0)", "over 0 to 15", "over 15 to 30", "over 30")
CHUNK = 256  # images


def subgroups(predictions, columns=None, extra=None, metric="top1", draws=2000, seed=0):
    """One row per group of faces: its metrics, their intervals, and its gap to all other faces.

    Intervals are percentile intervals of a bootstrap over people (see bootstrap.py). The p value of a gap is that of
    Wald's test, with the standard error over the same samples. People are not permuted, because groups such as those
    of yaw share people; and the share of samples with a gap of the other sign could not be small enough for a
    correction that multiplies it by the number of groups.

    Args:
        predictions: Predictions for N faces.
        columns: names in COLUMNS, or of other columns, each value of which is a group; None takes all of COLUMNS that
            the faces have.
        extra: a table of N rows, in the order of the faces, with more columns; `image_size` needs width and height.
        metric: the name in METRICS whose gap is taken.
        draws: the number of samples of people.

    Returns:
        A table with the columns column, group, faces, people, too_few (under LEAST_FACES; the rest is NaN); each name
        of METRICS with its `_low` and `_high` (95 %); ece (too large where faces are few); gap (the metric of the
        group minus that of all other faces), p, p_corrected (Holm's, over all gaps) and marked (p_corrected under
        SIGNIFICANCE). There is an interval where the group has LEAST_PEOPLE, and a gap where the group and the others
        have both LEAST_FACES and LEAST_PEOPLE.

    Raises:
        UserError: the faces lack a column.
        ValueError: `extra` has another number of rows.
    """
    groups = group_faces(predictions, columns, extra)
    inside, outside = sampled_metrics(predictions, [mask for _, _, mask in groups], draws, seed)  # (draws, G, M)
    chosen, rows = list(METRICS).index(metric), []
    for number, (column, group, mask) in enumerate(groups):
        own, others = predictions.where(mask), predictions.where(~mask)
        row = {"column": column, "group": group, **group_metrics(own, inside[:, number])}
        gaps = inside[:, number, chosen] - outside[:, number, chosen]
        row["gap"], row["p"] = gap_and_p(own, others, metric, gaps)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["p_corrected"] = holm(table.p)
    table["marked"] = table.p_corrected < SIGNIFICANCE
    return table


def group_metrics(predictions, samples):
    """The numbers of one group, NaN where it has too few faces or people.

    Args:
        predictions: Predictions for the faces of the group.
        samples: (draws, M), each metric over samples of people; NaN where a sample has nobody of the group.
    """
    faces, people = len(predictions.faces), predictions.faces.people.nunique()
    row = {"faces": faces, "people": people, "too_few": faces < LEAST_FACES}
    enough = faces >= LEAST_FACES
    metrics = predictions.metrics() if enough else dict.fromkeys(METRICS, np.nan)
    lows = highs = np.full(len(METRICS), np.nan)
    if enough and people >= LEAST_PEOPLE:
        lows, highs = np.nanquantile(samples, tails(0.95), axis=0)
    for (name, value), low, high in zip(metrics.items(), lows.tolist(), highs.tolist(), strict=True):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    answers = predictions.labels, predictions.predicted, predictions.probabilities
    return {**row, "ece": expected_calibration_error(*answers) if enough else np.nan}


def gap_and_p(own, others, metric, samples):
    """(gap of the group's metric to that of all others, two-sided p value), NaN where either is too small to compare.

    Args:
        own, others: Predictions for the faces of the group and for all others.
        samples: (draws,), the gap over samples of people.
    """
    for side in (own, others):
        if len(side.faces) < LEAST_FACES or side.faces.people.nunique() < LEAST_PEOPLE:
            return np.nan, np.nan
    gap = float(own.per_face(metric).mean() - others.per_face(metric).mean())
    error = np.nanstd(samples, ddof=1)
    return gap, math.erfc(abs(gap) / (error * math.sqrt(2))) if error else float(gap == 0)


def sampled_metrics(predictions, masks, draws, seed):
    """Each metric within G groups and outside of them, over samples of people: two arrays (draws, G, M).

    Args:
        masks: for each group, bool (N,), its faces.
    """
    values = np.stack([predictions.per_face(name) for name in METRICS] + [np.ones(len(predictions.faces))], axis=1)
    columns = np.concatenate([*(values * mask[:, None] for mask in masks), values], axis=1)  # (N, (G + 1) * (M + 1))
    sums = resampled_means(columns, predictions.faces.people, draws, seed).reshape(draws, len(masks) + 1, -1)
    inside = sums[:, :-1]
    with np.errstate(invalid="ignore", divide="ignore"):  # samples without anybody of a group
        return [part[..., :-1] / part[..., -1:] for part in (inside, sums[:, -1:] - inside)]


def holm(p_values):
    """P values corrected for their number, (R,); NaN are not counted and stay.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979.
    """
    corrected = np.array(p_values, float)
    tested = np.flatnonzero(~np.isnan(corrected))
    order = tested[np.argsort(corrected[tested])]
    factors = np.arange(len(order), 0, -1)  # the smallest p value times their number, the next times one less
    corrected[order] = np.maximum.accumulate(corrected[order] * factors).clip(max=1)
    return corrected


def group_faces(predictions, columns=None, extra=None):
    """The groups of each column as a list of (column, name, bool (N,)); see `subgroups`."""
    faces = predictions.faces
    table = faces.table.assign(label=pd.Categorical.from_codes(faces.labels, faces.class_names, ordered=True))
    table["album_size"] = table.groupby("album").path.transform("size")
    if extra is not None:
        if len(extra) != len(table):
            raise ValueError(f"extra has {len(extra):,} rows; there are {len(table):,} faces")
        table = table.assign(**{name: extra[name].to_numpy() for name in extra})
    if "width" in table and "height" in table:
        table["image_size"] = table[["width", "height"]].min(axis=1, skipna=False)
    groups = []
    for column in [name for name in COLUMNS if name in table] if columns is None else columns:
        if column not in table:
            raise UserError(f"the faces have no column '{column}'; they have {', '.join(map(str, table.columns))}")
        grouping = COLUMNS.get(column) or (by_quartile if is_measure(table[column]) else by_name)
        names, positions = grouping(table[column])
        present = np.unique(positions[positions >= 0])
        groups += [(column, names[position], positions == position) for position in present]
        if (positions < 0).any():
            groups.append((column, UNKNOWN, positions < 0))
    return groups


def check_columns(columns, table):
    """Whether faces can be grouped by these columns, before anything is computed for it.

    Args:
        columns: the names.
        table: of the faces; what COLUMNS has beside is made from their images and albums.

    Raises:
        UserError: they cannot.
    """
    known = [*COLUMNS, *(name for name in table if name not in (*COLUMNS, "path"))]
    for column in columns:
        if column not in known:
            raise UserError(f"--by {column}: choose from {', '.join(known)}")


def by_name(values):
    """Each value is a group: (names, positions (N,) in them), -1 where a value is missing."""
    positions, names = pd.factorize(values.mask(values.isin(MISSING)), sort=True)
    return [str(name) for name in names], positions


def is_measure(values):
    """Whether values are numbers, or missing, and too many different ones for a group each."""
    known = values[~values.isin(MISSING)]
    return known.nunique() > MOST_VALUES and bool(pd.to_numeric(known, errors="coerce").notna().all())


def by_turn(values):
    """Groups by how far a head is turned to either side, in degrees; returns the same as `by_name`."""
    turn = pd.to_numeric(values).abs().to_numpy(float)
    return TURN_NAMES, np.where(np.isnan(turn), -1, np.searchsorted(TURNS, turn))


def by_quartile(values):
    """Groups of a quarter of the faces each, fewer where values are equal, named by their smallest and largest value.

    Returns:
        ({position: name}, positions (N,)), -1 where a value is missing.
    """
    values = pd.to_numeric(values.mask(values.isin(MISSING))).to_numpy(float)
    known = np.isfinite(values)
    cuts = np.unique(np.quantile(values[known], [0.25, 0.5, 0.75])) if known.any() else []
    positions = np.where(known, np.searchsorted(cuts, values), -1)
    members = {position: values[positions == position] for position in np.unique(positions[known])}
    return {position: range_name(part.min(), part.max()) for position, part in members.items()}, positions


def range_name(low, high):
    """A range such as "0.12 to 3.4"; a single number where both are the same."""
    return short(low) if low == high else f"{short(low)} to {short(high)}"


def short(number):
    """All digits of a whole number, three of any other one."""
    if number == round(number):
        return f"{number:.0f}"
    return np.format_float_positional(number, 3, fractional=False, trim="-")


# How the faces are grouped by each column; any other one is grouped by name, or by quartile where it holds many
# numbers. The faces have label and album_size, Adience's also gender, yaw and score, those of a CSV file its own
# columns; the others are columns of `extra`.
COLUMNS = {
    "label": by_name,
    "gender": by_name,
    "yaw": by_turn,
    "score": by_quartile,
    "album_size": by_quartile,  # faces of the album
    "image_size": by_quartile,  # pixels of the shorter side
    "brightness": by_quartile,
    "sharpness": by_quartile,
}


def image_statistics(images):
    """How bright and how sharp images are.

    Args:
        images: uint8 (N, 3, S, S), S at least 3; a memory-mapped array is read in chunks.

    Returns:
        A table of N rows: brightness, the mean luma (ITU-R BT.601) from 0 to 1, and sharpness, the variance of the
        luma's Laplacian with four neighbours over the inner pixels (Pech-Pacheco et al., "Diatom autofocusing in
        brightfield microscopy", ICPR 2000).
    """
    brightness, sharpness = np.zeros(len(images)), np.zeros(len(images))
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        luma = np.tensordot(GREY / 255, images[part].astype(np.float32), axes=(0, 1))  # (B, S, S)
        inner = luma[:, 1:-1, 1:-1]
        neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
        brightness[part] = luma.mean(axis=(1, 2), dtype=np.float64)
        sharpness[part] = (neighbours - 4 * inner).var(axis=(1, 2), dtype=np.float64)
    return pd.DataFrame({"brightness": brightness, "sharpness": sharpness})
