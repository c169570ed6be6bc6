"""Whether probabilities can be believed: of all answers given with 80 %, are 80 % right? And how to repair them."""

import numpy as np
import pandas as pd

BINS = 15
TEMPERATURES = (0.05, 20.0)  # what is searched; 1 is the middle of its logarithms
# What a probability of 0 counts as, so that no face costs an infinite loss: the smallest normal float32.
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
    return float(np.average((table.confidence - table.accuracy).abs(), weights=table.faces))


def reliability(labels, predicted, probabilities, bins=BINS):
    """The points of a reliability diagram: confidence and accuracy in bins of equally many faces.

    Args:
        labels, predicted, probabilities: as in `expected_calibration_error`.
        bins: the number of bins; fewer where there are fewer faces.

    Returns:
        A table of one row per bin, the least confident first: faces, confidence and accuracy (their means).
    """
    confidence, right = confidence_and_success(labels, predicted, probabilities)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    rows = [(len(part), confidence[part].mean(), right[part].mean()) for part in parts]
    return pd.DataFrame(rows, columns=["faces", "confidence", "accuracy"])


def confidence_and_success(labels, predicted, probabilities):
    """The probability of each answer, float64 (N,), and whether it is right, bool (N,)."""
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
        A float within TEMPERATURES: over 1 where the probabilities are too sure; an end of the range where the best
        one is not in it; 1 where all are equally good.
    """
    labels, scores = np.asarray(labels), log_probabilities(probabilities)
    right = scores[np.arange(len(labels)), labels].mean()
    low, high = np.log(TEMPERATURES)
    for _ in range(steps):
        middle = (low + high) / 2
        weights = softmax(scores / np.exp(middle))
        slope = (weights * scores).sum(1).mean() - right  # of the cross entropy, by 1/T
        low, high = (middle if slope >= 0 else low), (middle if slope <= 0 else high)
    return float(np.exp((low + high) / 2))


def apply_temperature(probabilities, temperature):
    """softmax(log(p) / T): float (N, K) -> float32 (N, K). T over 1 makes them less sure, 1 leaves them as they are."""
    return softmax(log_probabilities(probabilities) / temperature).astype(np.float32)


def log_probabilities(probabilities):
    """float64 (N, K), minus the largest of each face, so that the exponentials of their multiples are finite."""
    scores = np.log(np.asarray(probabilities, np.float64).clip(SMALLEST))
    return scores - scores.max(1, keepdims=True)


def softmax(scores):
    """Scores (N, K), of which none is large -> probabilities (N, K)."""
    weights = np.exp(scores)
    return weights / weights.sum(1, keepdims=True)


def cross_fitted_temperatures(labels, probabilities, folds):
    """For each fold the temperature that is best on all other folds: no face has a say in how its own is judged.

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


def calibration_results(labels, predicted, probabilities, temperature):
    """{"ece": ..., "temperature": ..., "ece_calibrated": ...} as plain values.

    Args:
        labels, predicted, probabilities: as in `expected_calibration_error`.
        temperature: that was fitted on other faces; None where there is none, and then the last two are None, too.
    """
    found = {"ece": expected_calibration_error(labels, predicted, probabilities)}
    calibrated = None
    if temperature is not None:
        calibrated = expected_calibration_error(labels, predicted, apply_temperature(probabilities, temperature))
    return {**found, "temperature": temperature, "ece_calibrated": calibrated}


def risk_coverage(labels, predicted, probabilities):
    """The accuracy that is left where the model answers for its most confident faces only.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010, whose risk is one
    minus the accuracy. Faces of equal confidence are answered together: all of them have the values that hold once the
    last one is answered, whatever their order.

    Args:
        labels, predicted, probabilities: as in `expected_calibration_error`.

    Returns:
        (coverage, accuracy), float (N,) each, the most confident face first; coverage ends at 1.
    """
    confidence, right = confidence_and_success(labels, predicted, probabilities)
    order = np.argsort(-confidence, kind="stable")
    answered = np.searchsorted(-confidence[order], -confidence[order], side="right")  # the end of each tie
    return answered / len(order), right[order].cumsum()[answered - 1] / answered
