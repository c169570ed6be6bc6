"""Confidence intervals by resampling people: faces of one person are alike, so people are what is drawn."""

import numpy as np


def paired_difference(ours, theirs, people, draws=2000, confidence=0.95, seed=0):
    """(difference of means, low, high) of two values per face, (N,), of the same faces.

    The percentile bootstrap (Efron and Tibshirani, 1993, chapter 13), of whole people with replacement.
    people: (N,), who each face is of.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    gains = np.bincount(person, np.asarray(ours, float) - np.asarray(theirs, float))
    faces = np.bincount(person)
    count = len(faces)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (drawn @ gains) / (drawn @ faces)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(gains.sum() / faces.sum()), float(low), float(high)
