"""Ages in years from class probabilities, whatever head they come from.

Within a class the probability is spread evenly over its years. Ages are completed years, as data sets have them: the
class 34 reaches from 33.5 to 34.5, and 25-32 from 24.5 to 32.5. The functions work on tensors, so that an ONNX file
holds the very same.
"""

import numpy as np
import torch

MASS = 0.8  # the probability that an age's interval holds


def age_quantile(probabilities, bounds, fraction):
    """The age below which a fraction of the probability lies; the median for one half.

    Args:
        probabilities: float (B, K).
        bounds: float (K, 2), the first and last year of each class, see `Classes.bounds`.
        fraction: from 0 to 1, a number or (B,).

    Returns:
        float (B,), in years, at least 0.
    """
    total = probabilities.cumsum(1)  # (B, K)
    wanted = (fraction * total[:, -1])[:, None]
    label = (total < wanted * (1 - 1e-6)).sum(1, keepdim=True)  # (B, 1)
    own = probabilities.gather(1, label)
    within = ((wanted - (total.gather(1, label) - own)) / own.clamp_min(1e-12)).clamp(0, 1)
    first, last = bounds[label[:, 0], 0, None], bounds[label[:, 0], 1, None]  # (B, 1)
    return (first - 0.5 + within * (last - first + 1))[:, 0].clamp_min(0)


def ages_of(probabilities, classes, mass=MASS):
    """The age of each face and its interval: the median, and the quantiles that enclose the mass.

    Args:
        probabilities: float array (N, K).
        classes: the K Classes, of ages.
        mass: of the interval, a number or (N,).

    Returns:
        (age, low, high), float64 arrays (N,).
    """
    values, bounds = torch.from_numpy(np.asarray(probabilities, np.float64)), torch.from_numpy(classes.bounds)
    tail = torch.as_tensor((1 - np.asarray(mass, float)) / 2)
    return tuple(age_quantile(values, bounds, fraction).numpy() for fraction in (0.5, tail, 1 - tail))


def fit_mass(probabilities, classes, ages, mass=MASS):
    """The mass whose intervals hold this fraction of known ages (split conformal prediction).

    A face's score is the mass of the interval that just reaches its age; the result is a quantile of the scores
    (Romano, Patterson and Candès, "Conformalized Quantile Regression", NeurIPS 2019).

    Args:
        probabilities: float array (N, K).
        classes: the K Classes, of ages.
        ages: float (N,), in completed years.
        mass: the fraction that shall lie within.
    """
    lows, highs = classes.bounds.T + np.array([[-0.5], [0.5]])
    below = ((np.asarray(ages)[:, None] - lows) / (highs - lows)).clip(0, 1)  # (N, K), the part of each class
    scores = np.abs(2 * (np.asarray(probabilities, float) * below).sum(1) - 1)
    rank = min(1.0, mass * (1 + 1 / len(scores)))
    return float(np.quantile(scores, rank, method="higher").clip(0, 1 - 1e-6))
