"""Age groups: names of classes such as 0-12 13-19 20-39 40-59 60+, and the whole years that each of them holds."""

import math
import re

import numpy as np

from utils.errors import UserError

OPTION = "--age-groups"
LONGEST_NAME = 40  # characters
YEARS = re.compile(r"(\d{1,3})(?:-(\d{1,3})|(\+))?", re.ASCII)


def check_names(names):
    """Whether classes can have these names, of age groups or any others. Raises UserError."""
    given = f"{OPTION} {' '.join(map(str, names))}".strip()
    if len(names) < 2:
        raise UserError(f"{given}: expected at least two groups, such as 0-12 13-19 20+")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UserError(f"{given}: '{name}' is there twice; name each group once")
        if not name or len(name) > LONGEST_NAME or not name.isprintable() or name != " ".join(name.split()):
            raise UserError(
                f"{given}: '{name}' cannot name a group; expected 1 to {LONGEST_NAME} characters, single spaces"
                " between words"
            )


def parse_groups(names):
    """The years of age groups.

    Args:
        names: "0-12", both ends included, "18", a single year, or, for the last group, "60+"; in ascending order.

    Returns:
        A list of (first year, last year) of each group; the last year of "60+" is infinity.

    Raises:
        UserError: a name is none of these, or the groups overlap or are not in order.
    """
    check_names(names)
    given, groups = f"{OPTION} {' '.join(names)}", []
    for name in names:
        match = YEARS.fullmatch(name)
        if not match:
            raise UserError(f"{given}: '{name}' is no age group; expected whole years such as 13-19, or 60+ at the end")
        low = int(match[1])
        high = math.inf if match[3] else int(match[2] or low)
        if high < low:
            raise UserError(f"{given}: '{name}' ends before it begins")
        if groups and low <= groups[-1][1]:
            problem = "overlap" if groups[-1][0] <= high else "are not in ascending order"
            raise UserError(f"{given}: '{names[len(groups) - 1]}' and '{name}' {problem}")
        groups.append((low, high))
    return groups


def group_ages(ages, groups, nearest=False):
    """The position of the group of each age.

    Args:
        ages: float (N,), in years; the whole years count, so that 12.9 is 12.
        groups: of `parse_groups`.
        nearest: give an age outside of all groups to the nearest one, the younger on a tie.

    Returns:
        int64 (N,), -1 for an age that has no group.
    """
    lows, highs = np.array(groups, float).T
    years = np.floor(np.asarray(ages, float))
    positions = np.searchsorted(lows, years, side="right") - 1
    outside = (positions < 0) | (years > highs[positions])
    if nearest:
        far = years[outside, None]
        positions[outside] = np.maximum(lows - far, far - highs).argmin(axis=1)  # of equal distances the first
    else:
        positions[outside] = -1
    return positions.astype(np.int64)


def find_gaps(groups):
    """The ages outside of all groups, in ascending order: {text such as "under 13", "21-24" or "over 59": (first year,
    last year)}."""
    gaps, expected = {}, 0
    for number, (low, high) in enumerate(groups):
        if low > expected:
            text = f"{expected}-{low - 1}" if low - 1 > expected else f"{expected}"
            gaps[text if number else f"under {low}"] = (expected, low - 1)
        expected = high + 1
    if expected < math.inf:
        gaps[f"over {expected - 1}"] = (expected, math.inf)
    return gaps
