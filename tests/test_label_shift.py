"""The correction for faces whose ages are distributed unlike those of the training."""

import numpy as np
import pytest

from evaluation.label_shift import class_weights, usual_answer, weighted


def test_usual_answer():
    """Faces of the second class are three times as frequent in the training, and half as frequent here: weighted by 3
    and 1/2, 1/2, the means are (0.9 / 2 + 0.7 / 2 + 3 * 0.2) / 4 and the rest."""
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]], np.float32)
    assert usual_answer(probabilities, np.array([0, 0, 1]), np.array([1, 3])) == pytest.approx([0.35, 0.65])
    assert usual_answer(probabilities[:2], np.array([0, 0]), np.array([1, 3])) == pytest.approx([0.8, 0.2])
    assert usual_answer(probabilities[:2], np.array([0, 0]), np.array([0, 3])) == pytest.approx([0.8, 0.2])


def test_a_single_answer_is_one(tmp_path):
    """The mean of certain answers does not exceed 1 by rounding: a model file holds probabilities only."""
    for count in range(1, 400, 7):
        mean = usual_answer(np.tile(np.array([[0, 1, 0]], np.float32), (count, 1)), np.arange(count) % 3, [3, 5, 7])
        assert mean.sum() == pytest.approx(1) and mean.max() < 1.001 and mean[0] == 0


def test_two_rounds():
    """Ten faces of (0.8, 0.2), beside ten usual ones of (0.5, 0.5).

    First round: (8 + 5, 2 + 5) / 20 = (0.65, 0.35), weights 1.3 and 0.7. With these an answer is 1.04 / 1.18 = 0.8814,
    and the second round gives (8.8136 + 5) / 20 = 0.6907, a weight of 1.3814.
    """
    answers = np.tile([0.8, 0.2], (10, 1))
    weights = class_weights(answers, [0.5, 0.5])
    assert weights == pytest.approx([1.381356, 0.618644], abs=1e-6)
    # 1.105085 / (1.105085 + 0.123729)
    assert weighted(answers[:1], weights) == pytest.approx(np.array([[0.899310, 0.100690]]), abs=1e-5)


def test_faces_like_the_training_faces_change_nothing():
    answers = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])
    assert class_weights(answers, answers.mean(0)) == pytest.approx(1)
    assert class_weights(answers[:0], answers.mean(0)) == pytest.approx(1)


def test_the_answers_of_a_shifted_population_become_right_more_often():
    """Two classes seen as normal distributions around 0 and 1: the exact answers to a training in which both are as
    frequent, for a population in which nine of ten are of the second class.

    Right with these answers: Phi(1/2) = 69.1 %. The best possible, with a border of 1/2 - ln 9 = -1.697:
    0.1 * Phi(-1.697) + 0.9 * Phi(2.697) = 90.1 %.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.9).astype(int)
    seen = rng.normal(labels)
    odds = np.exp(seen - 0.5)  # of the second class: the ratio of the densities
    answers = np.stack([1 / (1 + odds), odds / (1 + odds)], 1)
    adapted = weighted(answers, class_weights(answers, [0.5, 0.5]))
    assert (answers.argmax(1) == labels).mean() == pytest.approx(0.691, abs=0.01)
    assert (adapted.argmax(1) == labels).mean() > 0.80  # two rounds go most of the way
