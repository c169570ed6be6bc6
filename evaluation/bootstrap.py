"""Confidence intervals by resampling people, not faces, because the faces of one person are alike."""

import numpy as np


def paired_difference(first, second, people, draws=2000, confidence=0.95, seed=0):
    """Difference of the means of two values per face, with a percentile bootstrap interval over people.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; whole people are drawn with
    replacement.

    Args:
        first, second: (N,) values of the same N faces.
        people: (N,), the person of each face.

    Returns:
        (mean of first - mean of second, low, high).
    """
    gains = np.asarray(first, float) - np.asarray(second, float)
    means = resampled_means(gains[:, None], people, draws, seed)[:, 0]
    low, high = np.quantile(means, tails(confidence))
    return float(gains.mean()), float(low), float(high)


def tails(confidence):
    """The quantiles between which a percentile interval lies."""
    return [(1 - confidence) / 2, (1 + confidence) / 2]


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
    count = len(faces)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    return (drawn @ sums) / (drawn @ faces)[:, None]
