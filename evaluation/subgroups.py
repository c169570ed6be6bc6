"""Subgroups of faces: the metrics of each, and their gap to those of all other faces."""

import numpy as np
import pandas as pd

from data.duplicates import GREY
from evaluation.bootstrap import LEAST_PEOPLE, TAILS, resampled_means, wald_p
from evaluation.evaluation import FACE_COLUMNS
from evaluation.metrics import METRICS
from utils.errors import UserError

LEAST_FACES = 30  # a smaller group gets no metrics
SIGNIFICANCE = 0.05
UNKNOWN = "unknown"
MISSING = ("", "u", UNKNOWN)  # Adience writes u where the gender cannot be told
MOST_GROUPS = 200  # a column with more groups is not compared
MOST_VALUES = 12  # a column with more distinct numbers is grouped by quartile
MOST_UNASKED = 12  # groups of a column of the label file that is compared unasked
NO_GROUPS = {*FACE_COLUMNS, *"age first_year last_year split file line".split()}
# {the metric whose gap is shown: this one, and the two that are shown beside it}
SHOWN = {"top1": ("top1", "one_off", "mae"), "mae_years": ("mae_years", "cs5", "bias_years")}
TURNS = (0, 15, 30)  # degrees to either side at which the groups of yaw end, but for the last one
TURN_NAMES = ("frontal (0)", "over 0 to 15", "over 15 to 30", "over 30")
CHUNK = 256  # images


def subgroups(evaluation, columns=None, metric=None, draws=2000, seed=0):
    """One row per group of faces: its metrics, their intervals, and its gap to all other faces.

    Intervals are percentile intervals of a bootstrap over people (see bootstrap.py). The p value of a gap is that of
    Wald's test, with the standard error over the same samples. People are not permuted, because groups such as those
    of yaw share people. The fraction of samples with a gap of the other sign is too coarse to be multiplied by the
    number of groups.

    Args:
        evaluation: an Evaluation of N faces.
        columns: names in COLUMNS, or of other columns, each value of which is a group; None takes all of COLUMNS that
            the faces have, and the others of up to MOST_UNASKED values. `image_size` needs width and height.
        metric: the name in METRICS of the metric to compare; by default the evaluation's `judged_by`.
        draws: the number of samples of people.

    Returns:
        A table with the columns metric, column, group, faces, people, too_few (under LEAST_FACES; the rest is NaN);
        each name of METRICS with its `_low` and `_high` (95 %); ece (too large where faces are few); gap (the metric of
        the group minus that of all other faces), p, p_corrected (Holm's, over all gaps) and marked (p_corrected under
        SIGNIFICANCE). There is an interval where the group has LEAST_PEOPLE, and a gap where the group and the others
        have both LEAST_FACES and LEAST_PEOPLE.

    Raises:
        UserError: the faces lack a column.
    """
    groups = group_faces(evaluation, columns)
    inside, outside = sampled_metrics(evaluation, [mask for _, _, mask in groups], draws, seed)  # (draws, G, M)
    metric = metric or evaluation.judged_by
    chosen, rows = evaluation.metric_names.index(metric), []
    for number, (column, group, mask) in enumerate(groups):
        own, others = evaluation.where(mask), evaluation.where(~mask)
        row = {"metric": metric, "column": column, "group": group, **group_metrics(own, inside[:, number])}
        row |= {"gap": np.nan, "p": np.nan}
        if all(len(side) >= LEAST_FACES and side.faces.people.nunique() >= LEAST_PEOPLE for side in (own, others)):
            row["gap"] = float(own.per_face(metric).mean() - others.per_face(metric).mean())
            row["p"] = wald_p(row["gap"], inside[:, number, chosen] - outside[:, number, chosen])
        rows.append(row)
    table = pd.DataFrame(rows)
    table["p_corrected"] = holm(table.p)
    table["marked"] = table.p_corrected < SIGNIFICANCE
    return table


def group_metrics(evaluation, samples):
    """The numbers of one group, NaN where it has too few faces or people.

    Args:
        evaluation: the Evaluation of the faces of the group.
        samples: (draws, M), each metric over samples of people; NaN where a sample has nobody of the group.
    """
    faces, people = len(evaluation), evaluation.faces.people.nunique()
    row = {"faces": faces, "people": people, "too_few": faces < LEAST_FACES}
    enough = faces >= LEAST_FACES
    names = evaluation.metric_names
    metrics = evaluation.metrics() if enough else dict.fromkeys(names, np.nan)
    lows = highs = np.full(len(names), np.nan)
    if enough and people >= LEAST_PEOPLE:
        lows, highs = np.nanquantile(samples, TAILS, axis=0)
    for (name, value), low, high in zip(metrics.items(), lows.tolist(), highs.tolist(), strict=True):
        low, high = map(float, map(METRICS[name].finish, (low, high)))
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {**row, "ece": evaluation.calibration()["ece"] if enough else np.nan}


def sampled_metrics(evaluation, masks, draws, seed):
    """Each metric within G groups and outside of them, over samples of people: two arrays (draws, G, M).

    Args:
        masks: for each group, bool (N,), its faces.
    """
    values = np.stack([*map(evaluation.per_face, evaluation.metric_names), np.ones(len(evaluation))], axis=1)
    columns = np.concatenate([*(values * mask[:, None] for mask in masks), values], axis=1)  # (N, (G + 1) * (M + 1))
    sums = resampled_means(columns, evaluation.faces.people, draws, seed).reshape(draws, len(masks) + 1, -1)
    inside = sums[:, :-1]
    with np.errstate(invalid="ignore", divide="ignore"):  # samples without anybody of a group
        return [sides[..., :-1] / sides[..., -1:] for sides in (inside, sums[:, -1:] - inside)]


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


def group_faces(evaluation, columns=None):
    """The groups of each column as a list of (column, name, bool (N,)); see `subgroups`."""
    faces, coarse = evaluation.faces, evaluation.coarse()
    table = faces.table.assign(label=pd.Categorical.from_codes(coarse.labels, coarse.classes.names, ordered=True))
    table["album_size"] = table.groupby("album").path.transform("size")
    if "width" in table and "height" in table:
        table["image_size"] = table[["width", "height"]].min(axis=1, skipna=False)
    groups = []
    for column in unasked_columns(table) if columns is None else columns:
        if column not in table:
            raise UserError(f"the faces have no column '{column}'; they have {', '.join(map(str, table.columns))}")
        values = table[column].mask(table[column].isin(MISSING))
        names, positions = COLUMNS.get(column, by_value)(values)
        if len(names) > MOST_GROUPS:
            if columns is None:
                continue
            raise UserError(f"--by {column}: {len(names):,} different values; at most {MOST_GROUPS} can be compared")
        groups += [(column, names[k], positions == k) for k in np.unique(positions[positions >= 0])]
        if (positions < 0).any():
            groups.append((column, UNKNOWN, positions < 0))
    return groups


def unasked_columns(table):
    """The names in COLUMNS that a table of faces has, and those of its other columns of few values."""
    others = columns_of_few_values(table, {*NO_GROUPS, *COLUMNS, "width", "height"})
    return [*(name for name in COLUMNS if name in table), *others]


def columns_of_few_values(table, left_out):
    """The names of the columns that have two to MOST_UNASKED values, without those in `left_out`."""
    return [name for name in table if name not in left_out and 1 < table[name].nunique() <= MOST_UNASKED]


def gap_words(metric):
    """'top-1 of the group minus that of all other faces, in points' and the like."""
    unit = "points" if METRICS[metric].format.endswith("%") else "years"
    return f"{METRICS[metric].title} of the group minus that of all other faces, in {unit}"


def check_columns(columns, table):
    """Check that faces can be grouped by these columns, before anything is computed for it.

    Args:
        columns: the names.
        table: of the faces; the rest of COLUMNS is made from their images and albums.

    Raises:
        UserError: a column is unknown.
    """
    known = [*COLUMNS, *(name for name in table if name not in (*COLUMNS, "path", "file", "line"))]
    for column in columns:
        if column not in known:
            raise UserError(f"--by {column}: choose from {', '.join(known)}")


# The groupings: each takes the values of a column, missing ones as NaN, and returns the names of the groups and int
# (N,), the position of each face's group among these, -1 for a missing value.


def by_name(values):
    """Each value is a group."""
    positions, names = pd.factorize(values, sort=True)
    return list(map(str, names)), positions


def by_turn(values):
    """Groups by the angle at which a head is turned to either side, in degrees."""
    ends = [-1, *TURNS, np.inf]
    return TURN_NAMES, pd.cut(pd.to_numeric(values).abs(), ends, labels=TURN_NAMES).cat.codes.to_numpy()


def by_quartile(values):
    """Groups of a quarter of the faces each (fewer if values are equal), named by smallest and largest value."""
    values = pd.to_numeric(values).astype(float).reset_index(drop=True)
    cuts = np.unique(values.quantile([0.25, 0.5, 0.75]))
    positions = np.where(values.notna(), np.searchsorted(cuts, values), -1)
    ranges = values.groupby(positions).agg(["min", "max"]).itertuples()
    return {k: short(low) if low == high else f"{short(low)} to {short(high)}" for k, low, high in ranges}, positions


def by_value(values):
    """By quartile if all known values are numbers, too many different ones for a group each; otherwise by name."""
    numbers = pd.to_numeric(values, errors="coerce").notna().equals(values.notna())
    return (by_quartile if numbers and values.nunique() > MOST_VALUES else by_name)(values)


def short(number):
    """All digits of a whole number, three of any other one, none of a missing one."""
    whole = number != number or number == round(number)
    return f"{number:.0f}" if whole else np.format_float_positional(number, 3, fractional=False, trim="-")


# The grouping of each column; any other column is grouped by value. All faces have label and album_size, Adience's
# also gender, yaw and score; `report.data.subgroup_table` adds image_size, brightness and sharpness.
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


def image_statistics(images, rows=None):
    """Brightness and sharpness of images.

    Args:
        images: uint8 (M, 3, S, S), S at least 3; a memory-mapped array is read in chunks.
        rows: int (N,), the images; all by default.

    Returns:
        A table of N rows: brightness, the mean luma (ITU-R BT.601) from 0 to 1, and sharpness, the variance of the
        luma's Laplacian with four neighbours over the inner pixels (Pech-Pacheco et al., "Diatom autofocusing in
        brightfield microscopy", ICPR 2000).
    """
    rows = np.arange(len(images)) if rows is None else rows
    brightness, sharpness = np.zeros(len(rows)), np.zeros(len(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        luma = np.tensordot(GREY / 255, images[rows[chunk]].astype(np.float32), axes=(0, 1))  # (B, S, S)
        inner = luma[:, 1:-1, 1:-1]
        neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
        brightness[chunk] = luma.mean(axis=(1, 2), dtype=np.float64)
        sharpness[chunk] = (neighbours - 4 * inner).var(axis=(1, 2), dtype=np.float64)
    return pd.DataFrame({"brightness": brightness, "sharpness": sharpness})
