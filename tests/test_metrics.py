"""Metrics: worked by hand, and against scikit-learn on random answers."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import (
    METRICS,
    compute_metrics,
    confusion_matrix,
    largest_class,
    mean_and_std,
    per_class,
    single_answer,
)

# Eight faces: four right, two off by one, one by two, one by seven.
LABELS = [0, 1, 2, 3, 4, 5, 6, 0]
PREDICTIONS = [0, 1, 2, 3, 5, 4, 4, 7]


def metrics(labels, predictions, probabilities=None):
    probabilities = np.full((len(labels), 8), 1 / 8) if probabilities is None else probabilities
    return compute_metrics(np.array(labels), np.array(predictions), probabilities)


def test_by_hand():
    confusion = confusion_matrix(LABELS, PREDICTIONS, 8)
    assert confusion[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert confusion[4].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    found = metrics(LABELS, PREDICTIONS)
    assert found.pop("loss") == pytest.approx(np.log(8))
    assert found == {"top1": 4 / 8, "one_off": 6 / 8, "mae": (1 + 1 + 2 + 7) / 8}
    faces, exact, near = per_class(confusion)
    assert faces.tolist() == [2, 1, 1, 1, 1, 1, 1, 0]
    assert exact[:7].tolist() == [0.5, 1, 1, 1, 0, 0, 0]
    assert near[:7].tolist() == [0.5, 1, 1, 1, 1, 1, 0]
    assert np.isnan(exact[7])
    assert np.isnan(near[7])


def test_one_off_is_not_top2():
    """A second guess far away does not count; a neighbouring wrong answer does."""
    assert metrics([0], [1])["one_off"] == 1
    assert metrics([0], [2])["one_off"] == 0


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60))
def test_against_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    confusion = confusion_matrix(labels, predictions, 8)
    assert (confusion == sklearn.metrics.confusion_matrix(labels, predictions, labels=range(8))).all()
    found = metrics(labels, predictions)
    assert found["top1"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(labels, predictions))


def test_loss_against_scikit_learn():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 40).astype(np.float32)
    labels = np.arange(40) % 8
    expected = sklearn.metrics.log_loss(labels, probabilities.astype(np.float64), labels=range(8))
    assert metrics(labels, labels, probabilities)["loss"] == pytest.approx(expected, rel=1e-5)


def test_how_values_are_shown():
    assert METRICS["top1"].show(0.62063) == "62.06%"
    assert METRICS["top1"].show_difference(-0.0117) == "-1.17"  # in points
    assert METRICS["mae"].show(0.4) == "0.400"
    assert METRICS["mae"].show_difference(0.0117) == "+0.012"


def test_mean_and_std_by_hand():
    # 1, 2 and 6: mean 3, squared deviations 4 + 1 + 9 = 14 over 2.
    assert mean_and_std({"a": [1, 2, 6], "b": [5.0]}) == {
        "mean": {"a": 3.0, "b": 5.0},
        "std": {"a": pytest.approx(7**0.5), "b": None},
    }


def test_the_largest_class_by_hand():
    # Class 2 is right for two of five faces, near for one more; distances 0, 0, 1, 2, 5.
    largest, found = largest_class([2, 2, 3, 0, 7], 8)
    assert largest == 2
    assert found == {"top1": 2 / 5, "one_off": 3 / 5, "mae": 8 / 5}


def test_a_single_answer_is_noticed():
    assert single_answer([4] * 9 + [1], 8) == 4
    assert single_answer([4] * 8 + [1, 1], 8) is None
