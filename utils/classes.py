"""The classes of a data set: their names in order and, where they are ages, the years that each of them holds."""

import functools
import math
import re
from dataclasses import dataclass

import numpy as np

from utils.errors import UserError

OPTION = "--age-groups"
LONGEST_NAME = 40  # characters
MOST_CLASSES = 1000
YEARS = re.compile(r"(\d{1,3})(?:-(\d{1,3})|(\+))?", re.ASCII)
SINGLE_YEARS = re.compile(r"(\d{1,3})\.\.(\d{1,3})(\+?)", re.ASCII)  # 21..60 or 0..100+
OPEN_YEARS = 20  # assumed length of an open class such as "60+", for ages within it
MOST_SHOWN = 30  # classes of a table; more years are shown by decade


@dataclass(frozen=True)
class Classes:
    """K classes in order; a distance of one in this order is "one-off".

    Attributes:
        names: the K names.
        years: (first year, last year) of each class, both included, where the classes are ages; otherwise None. The
            last year of an open class such as "60+" is infinity.
    """

    names: tuple[str, ...]
    years: tuple[tuple[int, float], ...] | None = None

    def __len__(self):
        return len(self.names)

    @classmethod
    def of_ages(cls, names):
        """Age groups.

        Args:
            names: in ascending order: "0-12", both ends included, "18", a single year, "21..60", all single years from
                21 to 60, or, for the last group, "60+".

        Raises:
            UserError: a name is none of these, or the groups overlap or are not in order.
        """
        check_names(names)
        given, years, names = f"{OPTION} {' '.join(names)}", [], expand(names)
        for name in names:
            match = YEARS.fullmatch(name)
            if not match:
                raise UserError(
                    f"{given}: '{name}' is no age group; expected whole years such as 13-19, or 60+ at the end"
                )
            first = int(match[1])
            last = math.inf if match[3] else int(match[2] or first)
            if last < first:
                raise UserError(f"{given}: '{name}' ends before it begins")
            if years and first <= years[-1][1]:
                problem = "overlap" if years[-1][0] <= last else "are not in ascending order"
                raise UserError(f"{given}: '{names[len(years) - 1]}' and '{name}' {problem}")
            years.append((first, last))
        return cls(tuple(names), tuple(years))

    @classmethod
    def guess(cls, names):
        """The classes of a list of names, as they are: of ages if every name is one."""
        try:
            classes = cls.of_ages(names)
            return classes if len(classes) == len(names) else cls(tuple(names))
        except UserError:
            return cls(tuple(names))

    @property
    def bounds(self):
        """Float64 (K, 2): the first and the last year of each class; an open class ends after OPEN_YEARS."""
        return np.array([(first, min(last, first + OPEN_YEARS - 1)) for first, last in self.years], float)

    @property
    def are_single_years(self):
        """Whether each class but an open one is one year."""
        return self.years is not None and all(last in (first, math.inf) for first, last in self.years)

    def coarse(self):
        """These classes, or decades in place of more than MOST_SHOWN years."""
        return self if self.years is None or len(self) <= MOST_SHOWN else decades(self.years)

    def within(self, others):
        """The class among `others` that holds each class, int64 (K,), -1 for a class that none of them holds wholly."""
        if self.years is None or others.years is None:
            return np.full(len(self), -1)
        firsts, lasts = np.array(self.years, float).T
        labels = others.labels_of(firsts)
        ends = np.array(others.years, float)[labels, 1]
        return np.where(lasts <= ends, labels, -1)

    def labels_of(self, ages, nearest=False):
        """The class of each age.

        Args:
            ages: float (N,), in years; whole years count, so that 12.9 is 12.
            nearest: assign an age outside of all classes to the nearest one, the younger on a tie.

        Returns:
            int64 (N,), -1 for an age without a class.
        """
        firsts, lasts = np.array(self.years, float).T
        ages = np.floor(np.asarray(ages, float))
        labels = np.searchsorted(firsts, ages, side="right") - 1
        outside = (labels < 0) | (ages > lasts[labels])
        if nearest:
            far = ages[outside, None]
            labels[outside] = np.maximum(firsts - far, far - lasts).argmin(axis=1)  # of equal distances the first
        else:
            labels[outside] = -1
        return labels.astype(np.int64)

    def gaps(self):
        """The ages outside of all classes, ascending: {"under 13", "21-24" or "over 59": (first year, last year)}."""
        gaps, expected = {}, 0
        for number, (first, last) in enumerate(self.years):
            if first > expected:
                text = f"{expected}-{first - 1}" if first - 1 > expected else f"{expected}"
                gaps[text if number else f"under {first}"] = (expected, first - 1)
            expected = last + 1
        if expected < math.inf:
            gaps[f"over {expected - 1}"] = (expected, math.inf)
        return gaps


@functools.cache  # each answer of predict.py needs them
def decades(years):
    """The decades from the first to the last of the years of Classes, as Classes."""
    first, last = years[0][0], years[-1][1]
    starts = [first, *range(first - first % 10 + 10, int(min(last, years[-1][0])) + 1, 10)]
    ends = [start - 1 for start in starts[1:]] + [last]
    names = [f"{a}+" if b == math.inf else f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True)]
    return Classes.of_ages(names)


def expand(names):
    """The names of classes with "21..60" written out as single years."""
    found = []
    for name in names:
        match = SINGLE_YEARS.fullmatch(name) if isinstance(name, str) else None
        years = [str(year) for year in range(int(match[1]), int(match[2]) + 1)] if match else [name]
        found += [*years[:-1], years[-1] + "+"] if match and match[3] and years else years
    return found


def check_names(names):
    """Check that classes can have these names. Raises UserError."""
    given, names = f"{OPTION} {' '.join(map(str, names))}".strip(), expand(names)
    if len(names) < 2:
        raise UserError(f"{given}: expected at least two groups, such as 0-12 13-19 20+")
    if len(names) > MOST_CLASSES:
        raise UserError(f"{OPTION}: {len(names):,} groups are given; at most {MOST_CLASSES:,} are possible")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"{given}: '{name}' is there twice; name each group once")
        if not name or len(name) > LONGEST_NAME or not name.isprintable() or name != " ".join(name.split()):
            expected = f"1 to {LONGEST_NAME} characters, single spaces between words"
            raise UserError(f"{given}: '{name}' cannot name a group; expected {expected}")
