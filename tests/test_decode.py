"""Decoders, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.decode import DECODERS, best_decoder, decode

# Two peaks: argmax takes the higher, the window the broader, median and mean lie between.
TWO_PEAKS = np.array([[0.36, 0.0, 0.0, 0.04, 0.28, 0.32, 0.0, 0.0]])


def test_two_peaks():
    decoded = {name: int(decode(TWO_PEAKS, name)[0]) for name in DECODERS}
    # Half is passed in group 4 (0.36 + 0.04 + 0.28 = 0.68); the mean is 0.12 + 1.12 + 1.6 = 2.84; of the windows,
    # groups 3 to 5 hold 0.64, so group 4.
    assert decoded == {"argmax": 0, "median": 4, "expected": 3, "one_off": 4}


def test_edges_and_ties():
    sure = np.eye(8)
    for name in DECODERS:
        assert decode(sure, name).tolist() == list(range(8))
    assert decode(np.array([[0.5, 0.5, 0, 0]]), "median").tolist() == [0]
    assert decode(np.array([[0.5, 0.5, 0, 0]]), "expected").tolist() == [1]
    # Windows about 0 and 1 both hold all; the more probable group wins.
    assert decode(np.array([[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0]]), "one_off").tolist() == [0, 1]


@given(arrays(np.float32, (5, 8), elements=st.floats(0, 1, width=32)))
def test_each_decoder_is_best_at_its_own_measure(weights):
    probabilities = (weights + 1e-3).astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    distance = np.abs(np.arange(8)[:, None] - np.arange(8))
    gains = {"argmax": distance == 0, "one_off": distance <= 1, "median": -distance}
    for name, gain in gains.items():
        expected = probabilities @ gain.T  # (5, 8): what answering each group is worth
        decoded = decode(probabilities, name)
        assert expected[np.arange(5), decoded] == pytest.approx(expected.max(1), abs=1e-6)


def test_the_best_decoder_has_most_hits():
    probabilities = np.repeat(TWO_PEAKS, 3, axis=0)
    assert best_decoder(probabilities, np.array([0, 0, 4])) == "argmax"
    assert best_decoder(probabilities, np.array([3, 3, 4])) == "expected"
    assert best_decoder(probabilities, np.array([4, 4, 0])) == "median"
