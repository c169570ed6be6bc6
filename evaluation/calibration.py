"""Calibration: whether 80 % of the predictions made with 80 % confidence are right, and temperature scaling."""

import numpy as np
import torch

BINS = 15
TEMPERATURES = (0.05, 20.0)  # the range that is searched; 1 is the middle of its logarithms
# Replaces a probability of 0, so that no face costs an infinite loss: the smallest normal float32.
SMALLEST = np.finfo(np.float32).tiny


def expected_calibration_error(labels, predicted, probabilities, bins=BINS):
    """The mean distance between confidence and accuracy, over bins of equally many faces.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3; with bins of
    equal mass (Nixon et al., "Measuring Calibration in Deep Learning", 2019), which leave none empty.

    Args:
        labels: int (N,), true classes.
        predicted: int (N,), predicted classes.
        probabilities: float (N, K); the confidence is that of the predicted class.

    Returns:
        A float from 0 to 1.
    """
    table = reliability(labels, predicted, probabilities, bins)
    return float(np.average(abs(table.confidence - table.accuracy), weights=table.faces))


def reliability(labels, predicted, probabilities, bins=BINS):
    """The points of a reliability diagram: confidence and accuracy in bins of equally many faces.

    Args:
        labels, predicted, probabilities: as in `expected_calibration_error`.
        bins: the number of bins; fewer where there are fewer faces.

    Returns:
        A record array of one row per bin, the least confident first: faces, confidence and accuracy (their means).
    """
    confidence, right = confidence_and_success(labels, predicted, probabilities)
    order = np.argsort(confidence, kind="stable")
    members = [rows for rows in np.array_split(order, bins) if len(rows)]
    rows = [(len(rows), confidence[rows].mean(), right[rows].mean()) for rows in members]
    return np.array(rows, [("faces", int), ("confidence", float), ("accuracy", float)]).view(np.recarray)


def confidence_and_success(labels, predicted, probabilities):
    """The probability of each prediction, float64 (N,), and whether it is right, bool (N,)."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    confidence = np.asarray(probabilities, np.float64)[np.arange(len(labels)), predicted]
    return confidence, labels == predicted


def brier_score(labels, probabilities):
    """The squared distance between the probabilities and the truth, summed over the classes; mean over faces.

    Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review, 1950, equation 2.

    Args:
        labels: int (N,), true classes.
        probabilities: float (N, K).

    Returns:
        A float from 0, certain and right, to 2, certain and wrong.
    """
    probabilities = np.asarray(probabilities, np.float64)
    truth = np.eye(probabilities.shape[1])[np.asarray(labels)]  # (N, K)
    return float(np.square(probabilities - truth).sum(1).mean())


def fit_temperature(labels, probabilities, steps=60):
    """The temperature T for which softmax(log(p) / T) has the least cross entropy.

    Guo et al., ICML 2017, section 4.2, on log probabilities instead of logits: of a softmax these differ by a constant
    only, and every head has them. The cross entropy is convex in 1/T, so bisection finds where its derivative changes
    its sign.

    Args:
        labels: int (N,), true classes.
        probabilities: float (N, K).
        steps: the number of bisections; 60 are exact in float64.

    Returns:
        A float within TEMPERATURES: over 1 if the probabilities are too confident, an end of the range if the best
        temperature is outside of it, 1 if all are equally good.
    """
    labels, scores = np.asarray(labels), log_probabilities(probabilities)
    right = scores[np.arange(len(labels)), labels].mean()
    low, high = np.log(TEMPERATURES)
    for _ in range(steps):
        middle = (low + high) / 2
        weights = (scores / float(np.exp(middle))).softmax(1)
        slope = (weights * scores).sum(1).mean() - right  # the derivative of the cross entropy by 1/T
        low, high = (middle if slope >= 0 else low), (middle if slope <= 0 else high)
    return float(np.exp((low + high) / 2))


def apply_temperature(probabilities, temperature):
    """softmax(log(p) / T): float (N, K) -> float32 (N, K). T over 1 lowers the confidence, 1 changes nothing."""
    return (log_probabilities(probabilities) / temperature).softmax(1).float().numpy()


def log_probabilities(probabilities):
    """The logarithms as a float64 tensor (N, K)."""
    return torch.from_numpy(np.log(np.asarray(probabilities, np.float64).clip(SMALLEST)))


def cross_fitted_temperatures(labels, probabilities, folds):
    """Cross-fitted temperatures: each fold's comes from the faces of the other folds.

    Args:
        labels: int (N,), true classes.
        probabilities: float (N, K), each face's from the model that did not train on it.
        folds: (N,), the fold of each face.

    Returns:
        {fold: temperature}; empty for a single fold, which has no other faces to fit on.
    """
    labels, probabilities, folds = np.asarray(labels), np.asarray(probabilities), np.asarray(folds)
    names = np.unique(folds).tolist()
    if len(names) < 2:
        return {}
    return {fold: fit_temperature(labels[folds != fold], probabilities[folds != fold]) for fold in names}


def risk_coverage(labels, predicted, probabilities):
    """The accuracy if the model answers only for its most confident faces.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010, whose risk is one
    minus the accuracy. Faces of equal confidence are answered together, so that their order does not matter.

    Args:
        labels, predicted, probabilities: as in `expected_calibration_error`.

    Returns:
        (coverage, accuracy), float (N,) each, the most confident face first; coverage ends at 1.
    """
    confidence, right = confidence_and_success(labels, predicted, probabilities)
    order = np.argsort(-confidence, kind="stable")
    answered = np.searchsorted(-confidence[order], -confidence[order], side="right")  # the end of each tie
    return answered / len(order), right[order].cumsum()[answered - 1] / answered
