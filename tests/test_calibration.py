"""The expected calibration error, worked by hand."""

import numpy as np
import pytest

from evaluation.calibration import expected_calibration_error


def test_two_bins_by_hand():
    # Sorted by confidence: 0.5 wrong, 0.6 right | 0.8 right, 0.9 wrong. The bins' sums of confidence minus right
    # answers are 0.1 and 0.7: (0.1 + 0.7) / 4.
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6]])
    labels, predicted = np.array([1, 1, 1, 1]), np.array([0, 0, 1, 1])
    assert expected_calibration_error(labels, predicted, probabilities, bins=2) == pytest.approx(0.2)
    # In one bin the errors cancel: 2.8 of confidence for 2 right answers.
    assert expected_calibration_error(labels, predicted, probabilities, bins=1) == pytest.approx(0.2)


def test_errors_of_opposite_sign_cancel_within_a_bin_only():
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2]])
    labels, predicted = np.array([0, 1]), np.array([0, 0])  # the less certain answer is right, the other one wrong
    assert expected_calibration_error(labels, predicted, probabilities, bins=1) == pytest.approx((1.4 - 1) / 2)
    assert expected_calibration_error(labels, predicted, probabilities, bins=2) == pytest.approx((0.4 + 0.8) / 2)


def test_certain_and_right_is_perfect():
    assert expected_calibration_error(np.arange(5), np.arange(5), np.eye(5)) == 0
    assert expected_calibration_error(np.arange(5), np.zeros(5, int), np.eye(5)[[0] * 5]) == pytest.approx(0.8)
