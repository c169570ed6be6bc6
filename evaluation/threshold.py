"""A model as the answer to "is this person T years old or older?".

A face passes a challenge age C, which is T or above it, where P(age >= C) is at least one half. The probability is
exact where a class begins with that year; nothing is interpolated.
"""

import numpy as np
import pandas as pd

from evaluation.paired import paired_difference
from utils.errors import UserError

BUFFERS = (0, 2, 5, 7)  # years that a challenge age is above the threshold
LEAST_YOUNGER = 100  # faces under the threshold
YEARS_BELOW = 8  # single years under the threshold that have a row


def probability_of(probabilities, classes, age):
    """P(age >= a year), float (N,).

    Args:
        probabilities: float (N, K).
        classes: the K Classes, of ages.
        age: a year with which a class begins.

    Raises:
        UserError: none does.
    """
    firsts = [first for first, _ in classes.years or ()]
    if age not in firsts:
        nearest = sorted(sorted(firsts, key=lambda first: abs(first - age))[:2])
        known = f"; the nearest are {' and '.join(map(str, nearest))}" if nearest else ": the classes are not ages"
        raise UserError(f"--over {age}: no class of this model begins at {age} years{known}")
    return np.asarray(probabilities, float)[:, firsts.index(age) :].sum(1)


def check_ages(ages, threshold, least=LEAST_YOUNGER):
    """Raises UserError where not all of the ages (N,) are known, or fewer than `least` are under the threshold."""
    if np.isnan(ages).any():
        raise UserError(f"--over {threshold}: the ages of these faces are not known")
    if (younger := (ages < threshold).sum()) < least:
        found = f"{younger:,} faces are under {threshold} years"
        raise UserError(f"--over {threshold}: {found}; at least {least} are needed for a figure")


def threshold_table(evaluation, threshold):
    """How many younger faces pass and how many older ones are refused, at each challenge age.

    Args:
        evaluation: an Evaluation whose ages are all known.
        threshold: T, a year with which a class begins.

    Returns:
        A table with one row per challenge age and group of faces: challenge; group, such as "under 18", "under 18, f",
        "17" or "18 and over"; faces; share, of younger faces that pass and of older ones that are refused; and its 95 %
        interval low and high over people, NaN with under LEAST_PEOPLE.

    Raises:
        UserError: T is no border, the ages are not known, or there are too few younger faces.
    """
    probability_of(evaluation.probabilities, evaluation.classes, threshold)
    ages = evaluation.faces.ages
    check_ages(ages, threshold)
    younger = ages < threshold
    groups = {f"under {threshold}": younger}
    genders = evaluation.faces.table.get("gender", pd.Series("", evaluation.faces.table.index)).to_numpy()
    groups |= {f"under {threshold}, {g}": younger & (genders == g) for g in ("f", "m")}
    groups |= {str(year): np.floor(ages) == year for year in range(max(0, threshold - YEARS_BELOW), threshold)}
    groups[f"{threshold} and over"] = ~younger
    firsts, rows = {first for first, _ in evaluation.classes.years}, []
    for challenge in (threshold + buffer for buffer in BUFFERS if threshold + buffer in firsts):
        passed = probability_of(evaluation.probabilities, evaluation.classes, challenge) >= 0.5
        wrong = np.where(younger, passed, ~passed)
        for name, group in groups.items():
            if group.any():
                share, low, high = paired_difference(wrong[group], 0, evaluation.faces.people[group])
                row = {"challenge": challenge, "group": name, "faces": int(group.sum())}
                rows.append({**row, "share": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def roc(evaluation, threshold):
    """(Share of younger faces that pass, share of older ones), each (M,), for falling thresholds of P(age >= T)."""
    score = probability_of(evaluation.probabilities, evaluation.classes, threshold)
    older = evaluation.faces.ages >= threshold
    order = np.argsort(-score, kind="stable")
    last = np.r_[score[order][1:] != score[order][:-1], True]  # faces of one score pass together
    return tuple(np.r_[0, np.cumsum(side[order])[last] / max(1, side.sum())] for side in (~older, older))
