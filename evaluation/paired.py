"""Whether two models differ on the same faces: McNemar's exact test, and paired differences of all metrics."""

import numpy as np

from evaluation.bootstrap import paired_difference, tails
from evaluation.calibration import BINS
from evaluation.metrics import METRICS


def mcnemar(first_right, second_right):
    """The p value of McNemar's exact test that two models are right equally often.

    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
    Psychometrika, 1947; the two-sided binomial test of the faces that only one of the models gets right. It takes
    faces as independent of each other.

    Args:
        first_right, second_right: bool (N,), whether each model is right about the same N faces.

    Returns:
        A float from 0 to 1; 1 where no face makes a difference.
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    fewer, more = sorted((int((first & ~second).sum()), int((second & ~first).sum())))
    total = fewer + more
    ways = tail = 1  # of 2 ** total: whole numbers, so that nothing is rounded before the division
    for chosen in range(fewer):
        ways = ways * (total - chosen) // (chosen + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def paired_differences(first, second, draws=2000, seed=0):
    """Differences of every metric and of the expected calibration error, with 95 % intervals over people.

    Args:
        first, second: Evaluations of the same faces, in the same order.
        draws: the number of samples of people; all differences are of the same samples.

    Returns:
        {name of METRICS, or "ece": (first - second, low, high)}.
    """
    people = first.faces.people
    found = {
        name: paired_difference(first.per_face(name), second.per_face(name), people, draws, seed=seed)
        for name in METRICS
    }
    return {**found, "ece": calibration_difference(first, second, draws, seed=seed)}


def calibration_difference(first, second, draws=2000, confidence=0.95, seed=0):
    """Difference of the expected calibration errors, with a percentile bootstrap interval over people.

    The error is no mean over faces, so each sample of people is sorted into bins anew. Sampling raises the errors of
    both models alike and hardly moves their difference.

    Args:
        first, second: Evaluations of the same faces, in the same order.

    Returns:
        (error of first - error of second, low, high).
    """
    errors = [evaluation.calibration()["ece"] for evaluation in (first, second)]
    samples = [sampled_calibration_errors(evaluation, draws, seed) for evaluation in (first, second)]
    low, high = np.quantile(samples[0] - samples[1], tails(confidence))
    return errors[0] - errors[1], float(low), float(high)


def sampled_calibration_errors(evaluation, draws, seed):
    """The expected calibration errors over samples of people, float (draws,); a seed always gives the same samples."""
    confidence, right = evaluation.confidence, evaluation.labels == evaluation.predicted
    order = np.argsort(confidence, kind="stable")
    _, person = np.unique(np.asarray(evaluation.faces.people), return_inverse=True)
    gaps, person, count = (confidence - right)[order], person[order], int(person.max()) + 1
    rng, shares = np.random.default_rng(seed), np.full(count, 1 / count)
    return np.array([binned_error(gaps, rng.multinomial(count, shares)[person]) for _ in range(draws)])


def binned_error(gaps, copies, bins=BINS):
    """The expected calibration error of faces that occur several times each, or never.

    Args:
        gaps: (N,) confidence minus success of each face, the least confident first.
        copies: int (N,), how often each face occurs.
    """
    faces = np.concatenate([[0], np.cumsum(copies)])
    sums = np.concatenate([[0], np.cumsum(copies * gaps)])
    size, larger = divmod(int(faces[-1]), bins)
    ends = [size * k + min(k, larger) for k in range(bins + 1)]  # as np.array_split divides them
    # Copies of a face may lie on both sides of an end; between them the sum grows evenly.
    return float(np.abs(np.diff(np.interp(ends, faces, sums))).sum() / faces[-1])
