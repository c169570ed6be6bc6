"""Paired differences, their intervals over people, and means over samples of people."""

import numpy as np
import pytest

from evaluation.bootstrap import resampled_means
from evaluation.paired import paired_difference


def test_the_difference_is_the_faces_mean():
    ours, theirs = [1, 1, 0, 1], [0, 1, 0, 0]
    difference, low, high = paired_difference(ours, theirs, ["a", "b", "c", "d"])
    assert difference == pytest.approx(0.5)
    assert 0 <= low <= 0.5 <= high <= 1


def test_no_difference_has_no_interval():
    assert paired_difference([1, 0, 1], [1, 0, 1], ["a", "a", "b"]) == (0.0, 0.0, 0.0)


def test_the_interval_is_the_normal_one_where_faces_are_people():
    rng = np.random.default_rng(0)
    gains = rng.normal(0.1, 1, 4000)
    difference, low, high = paired_difference(gains, np.zeros(4000), np.arange(4000))
    error = gains.std(ddof=1) / 4000**0.5
    assert difference == pytest.approx(gains.mean())
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.15 * error)


def test_many_faces_of_few_people_widen_it():
    gains = np.repeat(np.random.default_rng(1).normal(0, 1, 40), 100)
    alone = paired_difference(gains, 0 * gains, np.arange(4000))
    people = paired_difference(gains, 0 * gains, np.repeat(np.arange(40), 100))
    assert people[2] - people[1] > 8 * (alone[2] - alone[1])  # sqrt(100), but for chance


def test_means_of_resampled_people_by_hand():
    """Two people: a sample has the first one twice, both, or the second one twice, and whole people at that."""
    values = np.array([[1.0, 0], [4, 0], [10, 6]])  # the first two faces are one person's
    means = resampled_means(values, ["b", "b", "a"], draws=400)
    assert {tuple(row) for row in means} == {(2.5, 0), (5, 2), (10, 6)}
    # One in four, two in four, one in four; the standard deviation of 400 draws' count of the second is 10.
    assert abs((means[:, 0] == 5).sum() - 200) < 40
