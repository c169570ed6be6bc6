"""Decoders: class probabilities (B, K), unscaled by any temperature -> predicted classes int64 (B,).

Each is best for another metric. They work on tensors, so that an ONNX file holds the very same.
"""

import numpy as np
import torch
import torch.nn.functional as F


def argmax(probabilities):
    """The most probable class: best for top-1 where the probabilities are right."""
    return probabilities.argmax(1)


def median(probabilities):
    """The first class at which half of the probability is reached: best for the mean absolute error."""
    half = probabilities.sum(1, keepdim=True) / 2
    return (probabilities.cumsum(1) < half * (1 - 1e-6)).sum(1)


def expected(probabilities):
    """The mean class, rounded, halves upwards."""
    classes = torch.arange(probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    mean = (probabilities * classes).sum(1) / probabilities.sum(1)
    return (mean + 0.5).floor().long().clamp(0, probabilities.shape[1] - 1)


def one_off(probabilities):
    """The class whose window of three has most probability: best for one-off. Ties go to the more probable class."""
    probabilities = probabilities.double()
    padded = F.pad(probabilities, (1, 1))
    windows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (windows + 1e-9 * probabilities).argmax(1)


DECODERS = {"argmax": argmax, "median": median, "expected": expected, "one_off": one_off}


def decode(probabilities, decoder):
    """Class probabilities, an array (N, K), and the name of a decoder -> predicted classes, an int64 array (N,)."""
    return DECODERS[decoder](torch.from_numpy(np.ascontiguousarray(probabilities))).numpy()


def best_decoder(probabilities, labels):
    """The name of the decoder with the most right answers; the earlier one on a tie."""
    return max(DECODERS, key=lambda name: (decode(probabilities, name) == labels).sum())
