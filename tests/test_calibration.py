"""Calibration: worked by hand, and against scikit-learn and scipy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.calibration import (
    TEMPERATURES,
    apply_temperature,
    brier_score,
    cross_fitted_temperatures,
    expected_calibration_error,
    fit_temperature,
    reliability,
    risk_coverage,
)

FOUR = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6]])


def random_faces(seed, count=400, classes=5, sharpness=2.0):
    """Labels drawn from probabilities, and these probabilities raised to a power: the best temperature is the power."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(classes), count)
    labels = (true.cumsum(1) > rng.random((count, 1))).argmax(1)
    sharper = true**sharpness
    return labels, (sharper / sharper.sum(1, keepdims=True)).astype(np.float32)


def test_two_bins_by_hand():
    # Sorted by confidence: 0.5 wrong, 0.6 right | 0.8 right, 0.9 wrong. The bins' sums of confidence minus right
    # answers are 0.1 and 0.7: (0.1 + 0.7) / 4.
    labels, predicted = np.array([1, 1, 1, 1]), np.array([0, 0, 1, 1])
    assert expected_calibration_error(labels, predicted, FOUR, bins=2) == pytest.approx(0.2)
    # In one bin the errors cancel: 2.8 of confidence for 2 right answers.
    assert expected_calibration_error(labels, predicted, FOUR, bins=1) == pytest.approx(0.2)
    table = reliability(labels, predicted, FOUR, bins=2)
    assert table.faces.tolist() == [2, 2]
    assert table.confidence.tolist() == pytest.approx([0.55, 0.85])
    assert table.accuracy.tolist() == [0.5, 0.5]


def test_errors_of_opposite_sign_cancel_within_a_bin_only():
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2]])
    labels, predicted = np.array([0, 1]), np.array([0, 0])  # the less certain answer is right, the other one wrong
    assert expected_calibration_error(labels, predicted, probabilities, bins=1) == pytest.approx((1.4 - 1) / 2)
    assert expected_calibration_error(labels, predicted, probabilities, bins=2) == pytest.approx((0.4 + 0.8) / 2)


def test_certain_and_right_is_perfect():
    assert expected_calibration_error(np.arange(5), np.arange(5), np.eye(5)) == 0
    assert expected_calibration_error(np.arange(5), np.zeros(5, int), np.eye(5)[[0] * 5]) == pytest.approx(0.8)


def test_bins_hold_equally_many_faces_and_none_is_empty():
    assert reliability(np.zeros(8, int), np.zeros(8, int), np.eye(3)[[0] * 8], bins=3).faces.tolist() == [3, 3, 2]
    assert reliability(np.zeros(2, int), np.zeros(2, int), np.eye(3)[[0] * 2], bins=15).faces.tolist() == [1, 1]


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 20))
def test_the_error_follows_from_the_bins(seed, count, bins):
    labels, probabilities = random_faces(seed, count)
    predicted = probabilities.argmax(1)
    table = reliability(labels, predicted, probabilities, bins)
    assert table.faces.sum() == count
    assert len(table) == min(count, bins)
    assert table.faces @ table.accuracy == pytest.approx((labels == predicted).sum())
    assert sorted(table.confidence) == table.confidence.tolist()
    error = sum(abs(row.confidence - row.accuracy) * row.faces for row in table) / count
    assert expected_calibration_error(labels, predicted, probabilities, bins) == pytest.approx(error)


def test_brier_score_by_hand():
    # (0.9² + 0.9²) + 2 * 0.5² + 2 * 0.2² + 2 * 0.4², over four faces that are all of class 1.
    assert brier_score([1, 1, 1, 1], FOUR) == pytest.approx((1.62 + 0.5 + 0.08 + 0.32) / 4)
    assert brier_score([0, 1], np.eye(2)) == 0
    assert brier_score([1, 0], np.eye(2)) == 2


@given(st.integers(0, 1000))
def test_brier_score_against_scikit_learn(seed):
    labels, probabilities = random_faces(seed, 50)
    probabilities = probabilities.astype(float)
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = sklearn.metrics.brier_score_loss(labels, probabilities, labels=range(5), scale_by_half=False)
    assert brier_score(labels, probabilities) == pytest.approx(expected)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.2, 5))
def test_temperature_against_scipy(seed, sharpness):
    labels, probabilities = random_faces(seed, sharpness=sharpness)
    logs = np.log(probabilities.astype(float).clip(np.finfo(np.float32).tiny))

    def loss(inverse):
        return -scipy.special.log_softmax(logs * inverse, axis=1)[np.arange(len(labels)), labels].mean()

    found = scipy.optimize.minimize_scalar(loss, bounds=(1 / 20, 20), method="bounded", options={"xatol": 1e-10})
    assert 1 / fit_temperature(labels, probabilities) == pytest.approx(found.x, rel=1e-4)


def test_temperature_of_two_faces_by_hand():
    """Twice 90 %, right once: the best probability is 1/2, T without end. Of ten faces nine right: 90 % are right."""
    assert fit_temperature([0, 1], [[0.9, 0.1]] * 2) == pytest.approx(TEMPERATURES[1])
    assert fit_temperature([0] * 9 + [1], [[0.9, 0.1]] * 10) == pytest.approx(1)
    # 0.99 for nine right of ten: (1/99)^(1/T) = 1/9, so that T = log 99 / log 9.
    assert fit_temperature([0] * 9 + [1], [[0.99, 0.01]] * 10) == pytest.approx(np.log(99) / np.log(9))


def test_temperature_without_information():
    assert fit_temperature([0, 1, 2], np.full((3, 4), 0.25)) == pytest.approx(1)
    assert fit_temperature([0, 1], [[0.6, 0.4], [0.4, 0.6]]) == pytest.approx(TEMPERATURES[0])  # all right: be sure


def test_probabilities_of_zero():
    """Wrong and certain once of four: finite, and the best T makes (tiny)^(1/T) = 1/3."""
    certain = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]
    temperature = fit_temperature([0, 0, 0, 1], certain)
    assert temperature == pytest.approx(TEMPERATURES[1])  # 79, were it in the range
    assert np.isfinite(apply_temperature(certain, temperature)).all()
    assert fit_temperature([0, 1], np.eye(2)) < 0.2  # right and as certain as can be, at 0.1 already
    assert apply_temperature(np.eye(2), 1).tolist() == [[1, pytest.approx(0)], [pytest.approx(0), 1]]


def test_apply_temperature_by_hand():
    # Square roots of 0.64 and 0.36 are 0.8 and 0.6; squares of 0.75 and 0.25 are 9/16 and 1/16.
    assert apply_temperature([[0.64, 0.36]], 2) == pytest.approx(np.array([[0.8 / 1.4, 0.6 / 1.4]]))
    assert apply_temperature([[0.75, 0.25]], 0.5) == pytest.approx(np.array([[0.9, 0.1]]))


@given(
    arrays(np.float32, (6, 4), elements=st.floats(0, 1, width=32)).filter(lambda a: (a.sum(1) > 1e-3).all()),
    st.floats(*TEMPERATURES),
)
def test_apply_temperature_gives_probabilities(weights, temperature):
    probabilities = weights / weights.sum(1, keepdims=True)
    found = apply_temperature(probabilities, temperature)
    assert found.dtype == np.float32
    assert found.shape == probabilities.shape
    assert found.sum(1) == pytest.approx(np.ones(6), abs=1e-6)
    assert (found[np.arange(6), probabilities.argmax(1)] == found.max(1)).all()
    assert apply_temperature(probabilities, 1) == pytest.approx(probabilities, abs=1e-6)


def test_cross_fitting_uses_the_other_folds():
    labels, probabilities = random_faces(3, 300)
    folds = np.repeat([0, 2, 4], 100)
    found = cross_fitted_temperatures(labels, probabilities, folds)
    assert found == {
        0: fit_temperature(labels[100:], probabilities[100:]),
        2: fit_temperature(np.delete(labels, slice(100, 200)), np.delete(probabilities, slice(100, 200), axis=0)),
        4: fit_temperature(labels[:200], probabilities[:200]),
    }
    assert 1.5 < min(found.values()) < max(found.values()) < 2.7  # they were raised to the power of 2
    labels[folds == 2] = 0  # a fold has no say in its own
    changed = cross_fitted_temperatures(labels, probabilities, folds)
    assert changed[2] == found[2]
    assert changed[0] != found[0]


def test_a_single_fold_has_nothing_to_fit_on():
    assert cross_fitted_temperatures([0, 1], FOUR[:2], [3, 3]) == {}


def test_risk_coverage_by_hand():
    # By confidence: 0.9 wrong, 0.8 right, 0.6 right, 0.5 wrong.
    coverage, accuracy = risk_coverage(np.array([1, 1, 1, 1]), np.array([0, 0, 1, 1]), FOUR)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert accuracy.tolist() == pytest.approx([0, 1 / 2, 2 / 3, 1 / 2])


def test_faces_of_equal_confidence_are_answered_together():
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.6, 0.4]])
    coverage, accuracy = risk_coverage(np.array([0, 0, 1, 1, 0]), np.zeros(5, int), probabilities)
    assert coverage.tolist() == [0.2, 0.8, 0.8, 0.8, 1]
    assert accuracy.tolist() == pytest.approx([1, 0.5, 0.5, 0.5, 0.6])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.5, 0.6, 0.8])), min_size=1, max_size=30), st.randoms())
def test_the_order_of_the_faces_does_not_matter(answers, random):
    def curve(answers):
        labels = np.array([0 if right else 1 for right, _ in answers])
        confidence = np.array([[value, 1 - value] for _, value in answers])
        return risk_coverage(labels, np.zeros(len(answers), int), confidence)

    shuffled = random.sample(answers, len(answers))
    assert np.array_equal(curve(answers), curve(shuffled))
    coverage, accuracy = curve(answers)
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(np.mean([right for right, _ in answers]))
