"""Fusion: the mean of the probabilities of several models or views (score-level, Yaman et al., 2019)."""

import dataclasses

import numpy as np

from evaluation.bootstrap import paired_difference
from evaluation.metrics import METRICS


def fuse(plain, views):
    """Fuse models of the same faces.

    Args:
        plain: one Predictions per model.
        views: the probabilities (N, K) of all models' views, the plain ones included.

    Returns:
        (Predictions, {metric: (gain, low, high)}); the gain is over the mean of the single models' plain views, with
        a 95 % interval over people.
    """
    fused = dataclasses.replace(plain[0], probabilities=np.mean(views, axis=0))
    gains = {}
    for name in METRICS:
        single = np.mean([predictions.per_face(name) for predictions in plain], axis=0)
        gains[name] = paired_difference(fused.per_face(name), single, fused.faces.people)
    return fused, gains
