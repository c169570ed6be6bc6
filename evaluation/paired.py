"""Whether two models differ on the same faces: McNemar's exact test, and paired differences with intervals."""

import numpy as np

from evaluation.bootstrap import LEAST_PEOPLE, TAILS, resampled_means, wald_p


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
    ways = tail = 1  # whole numbers, divided by 2 ** total in the end, so that nothing is rounded before
    for chosen in range(fewer):
        ways = ways * (total - chosen) // (chosen + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def paired_difference(first, second, people):
    """Difference of the means of two values per face, with a percentile bootstrap interval over people.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; whole people are drawn with
    replacement.

    Args:
        first, second: (N,) values of the same N faces; a single second one is that of all.
        people: (N,), the person of each face.

    Returns:
        (mean of first - mean of second, low, high); low and high are NaN with fewer than LEAST_PEOPLE people.
    """
    return paired_test(first, second, people)[:3]


def paired_test(first, second, people):
    """`paired_difference`, and the p value of Wald's test with the standard error over the same samples."""
    gains = np.asarray(first, float) - np.asarray(second, float)
    mean = float(gains.mean())
    if len(np.unique(np.asarray(people))) < LEAST_PEOPLE:
        return mean, float("nan"), float("nan"), float("nan")
    means = resampled_means(gains[:, None], people)[:, 0]
    low, high = np.quantile(means, TAILS)
    return mean, float(low), float(high), wald_p(mean, means)
