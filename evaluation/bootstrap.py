"""Confidence intervals by resampling people, not faces, because the faces of one person are alike."""

import math

import numpy as np

LEAST_PEOPLE = 20  # for an interval; an interval of fewer people is too narrow
CHUNK = 10_000_000  # numbers of a sample matrix at once
TAILS = [(1 - 0.95) / 2, (1 + 0.95) / 2]  # the quantiles between which a 95 % interval lies


def resampled_means(values, people, draws=2000, seed=0):
    """The means of M values per face over samples of people, drawn with replacement.

    Args:
        values: float (N, M).
        people: (N,), the person of each face.
        draws: the number of samples.

    Returns:
        float (draws, M); the M means of a row are of one and the same sample.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    sums = np.stack([np.bincount(person, column) for column in np.asarray(values, float).T], axis=1)  # (people, M)
    faces = np.bincount(person)
    count, rng, means = len(faces), np.random.default_rng(seed), []
    for start in range(0, draws, size := max(1, CHUNK // count)):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(size, draws - start)).astype(float)
        means.append((drawn @ sums) / (drawn @ faces)[:, None])
    return np.concatenate(means)


def wald_p(value, samples):
    """The two-sided p value of Wald's test that a value is zero, with the standard error over samples of people.

    Args:
        value: of all faces.
        samples: (draws,), the value over samples; NaN are left out.
    """
    error = np.nanstd(samples, ddof=1)
    return math.erfc(abs(value) / (error * math.sqrt(2))) if error else float(value == 0)
