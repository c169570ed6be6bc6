"""Metrics: worked by hand, and against scikit-learn on random answers."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from utils.metrics import confusion_matrix, mae, one_off, per_class, summary, top1

# Eight faces: four right, two off by one, one by two, one by seven.
LABELS = [0, 1, 2, 3, 4, 5, 6, 0]
PREDICTIONS = [0, 1, 2, 3, 5, 4, 4, 7]


def test_by_hand():
    confusion = confusion_matrix(LABELS, PREDICTIONS, 8)
    assert confusion[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert confusion[4].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert summary(confusion) == {"top1": 4 / 8, "one_off": 6 / 8, "mae": (1 + 1 + 2 + 7) / 8}
    faces, exact, near = per_class(confusion)
    assert faces.tolist() == [2, 1, 1, 1, 1, 1, 1, 0]
    assert exact[:7].tolist() == [0.5, 1, 1, 1, 0, 0, 0]
    assert near[:7].tolist() == [0.5, 1, 1, 1, 1, 1, 0]
    assert np.isnan(exact[7])
    assert np.isnan(near[7])


def test_one_off_is_not_top2():
    """A second guess far away does not count; a neighbouring wrong answer does."""
    assert one_off(confusion_matrix([0], [1], 8)) == 1
    assert one_off(confusion_matrix([0], [2], 8)) == 0


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60))
def test_against_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    confusion = confusion_matrix(labels, predictions, 8)
    assert (confusion == sklearn.metrics.confusion_matrix(labels, predictions, labels=range(8))).all()
    assert top1(confusion) == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    assert mae(confusion) == pytest.approx(sklearn.metrics.mean_absolute_error(labels, predictions))
