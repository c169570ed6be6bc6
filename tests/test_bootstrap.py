"""Paired differences, their intervals over people, and means over samples of people."""

import numpy as np
import pytest

from evaluation import bootstrap
from evaluation.bootstrap import resampled_means
from evaluation.paired import paired_difference


def test_the_difference_is_the_faces_mean():
    ours, theirs = np.tile([1, 1, 0, 1], 10), np.tile([0, 1, 0, 0], 10)
    difference, low, high = paired_difference(ours, theirs, np.arange(40))
    assert difference == pytest.approx(0.5)
    assert 0.3 < low < 0.5 < high < 0.7
    assert paired_difference(ours, ours, np.arange(40)) == (0.0, 0.0, 0.0)


def test_too_few_people_have_no_interval():
    """The interval of one person would be a point."""
    difference, low, high = paired_difference([1, 0, 1], [0, 0, 1], ["a", "a", "b"])
    assert difference == pytest.approx(1 / 3) and np.isnan(low) and np.isnan(high)


def test_parts_of_the_samples_make_no_difference(monkeypatch):
    values, people = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) // 3
    whole = resampled_means(values, people, draws=100)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * 20)
    np.testing.assert_allclose(resampled_means(values, people, draws=100), whole, rtol=1e-12)


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
