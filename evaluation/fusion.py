"""Fusion: the mean of the probabilities of several models or views (score-level, Yaman et al., 2019)."""

import dataclasses

import numpy as np

from evaluation.paired import paired_difference


def fuse(plain, views):
    """Fuse models of the same faces.

    Args:
        plain: a list of Evaluations, one per model.
        views: the probabilities (N, K) of all models' views, the plain ones included.

    Returns:
        (Evaluation, {metric: (gain, low, high)}); the gain is over the mean of the single models' plain views, with
        a 95 % interval over people; None with too few of them.
    """
    probabilities = np.mean(views, axis=0)
    fused = dataclasses.replace(plain[0], probabilities=probabilities, predicted=None, model=None, temperature=None)
    gains = {}
    for name in fused.paired_metrics:
        single = np.mean([evaluation.per_face(name) for evaluation in plain], axis=0)
        gain = paired_difference(fused.per_face(name), single, fused.faces.people)
        gains[name] = tuple(None if number != number else number for number in gain)  # JSON has no NaN
    return fused, gains
