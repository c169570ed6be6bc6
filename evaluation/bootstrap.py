"""Confidence intervals by resampling people: the faces of one person are alike, so people are what is drawn."""

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
    _, person = np.unique(np.asarray(people), return_inverse=True)
    gains = np.bincount(person, np.asarray(first, float) - np.asarray(second, float))
    faces = np.bincount(person)
    count = len(faces)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (drawn @ gains) / (drawn @ faces)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(gains.sum() / faces.sum()), float(low), float(high)
