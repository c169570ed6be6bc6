"""Heads: class probabilities by hand, against coral-pytorch, and what holds for all of them."""

import math

import pytest
import torch
from coral_pytorch.dataset import proba_to_label
from coral_pytorch.layers import CoralLayer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from models.heads import HEADS, CoralHead, binomial_log_masses, class_probabilities
from models.network import parameter_count
from utils.classes import Classes

WIDTHS = {"softmax": 8, "binomial": 8, "coral": 7, "corn": 7, "normal": 2}  # outputs for 8 classes
EPS = 1.1920929e-07  # float32's resolution, 2^-23


def outputs_of(name, faces=16, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(faces, WIDTHS[name], dtype=torch.float64, generator=generator)
    return torch.stack([3.5 + outputs[:, 0], 0.25 + outputs[:, 1].abs()], 1) if name == "normal" else outputs  # years


def probabilities(name, outputs, num_classes):
    return HEADS[name](4, num_classes).probabilities(torch.tensor(outputs, dtype=torch.float64))[0].tolist()


class TestByHand:
    def test_softmax(self):
        assert probabilities("softmax", [[0.0, math.log(3)]], 2) == pytest.approx([1 / 4, 3 / 4])

    def test_binomial(self):
        # p = 1/2 and temperature 1: the binomial masses of 7 fair coins; log(e^0.95 - 1) softplus' inverse of 0.95.
        raw = math.log(math.exp(0.95) - 1)
        masses = [1, 7, 21, 35, 35, 21, 7, 1]
        log_masses = binomial_log_masses(torch.tensor([[0.0, raw]], dtype=torch.float64), 8)
        assert log_masses[0].tolist() == pytest.approx([math.log(mass / 128) for mass in masses])

    def test_binomial_of_uneven_odds(self):
        # p = 3/4, two trials: 1/16, 6/16, 9/16.
        raw = math.log(math.exp(0.95) - 1)
        log_masses = binomial_log_masses(torch.tensor([[math.log(3), raw]], dtype=torch.float64), 3)
        assert probabilities("binomial", log_masses.tolist(), 3) == pytest.approx([1 / 16, 6 / 16, 9 / 16])

    def test_coral(self):
        # sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2.
        assert probabilities("coral", [[math.log(3), 0.0]], 3) == pytest.approx([1 / 4, 1 / 4, 1 / 2])

    def test_coral_thresholds_out_of_order_give_no_negative_probability(self):
        # [1/2, 0, 1/2], but no class gets less than EPS.
        expected = [0.5 / (1 + EPS), EPS / (1 + EPS), 0.5 / (1 + EPS)]
        assert probabilities("coral", [[0.0, math.log(3)]], 3) == pytest.approx(expected, rel=1e-8)

    def test_corn(self):
        assert probabilities("corn", [[math.log(3), 0.0]], 3) == pytest.approx([1 / 4, 3 / 8, 3 / 8])

    def test_normal(self):
        """A mean of 30 and a scale of 5 years; the borders of 0-19, 20-29, 40+ are 19.5 and 34.5, amid the gap."""
        head = HEADS["normal"](4, 3)
        head.set_years(Classes.of_ages(["0-19", "20-29", "40+"]))
        assert head.borders.tolist() == [19.5, 34.5]
        found = head.probabilities(torch.tensor([[30.0, 5.0]], dtype=torch.float64))[0]
        assert found.tolist() == pytest.approx([norm.cdf(-2.1), norm.cdf(0.9) - norm.cdf(-2.1), norm.sf(0.9)], abs=1e-7)
        assert found.tolist() == pytest.approx([0.0179, 0.7981, 0.1841], abs=1e-4)

    def test_normal_takes_mean_and_scale_of_a_softmax_over_the_years(self):
        """Of 0-19, 20-29 and 40+ with the middle years 9.5, 24.5 and 49.5 (ten years are taken for the last)."""
        head = HEADS["normal"](1, 3)
        head.set_years(Classes.of_ages(["0-19", "20-29", "40+"]))
        middle = head.years.tolist()
        assert middle[:2] == [9.5, 24.5] and middle[2] > 40
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[0.0], [0.0], [math.log(2)]]))
            head.bias.zero_()
        found = head(torch.tensor([[1.0], [0.0]]))  # probabilities of 1/4, 1/4, 1/2, and a third each
        for row, shares in zip(found.tolist(), ([0.25, 0.25, 0.5], [1 / 3] * 3), strict=True):
            mean = sum(share * year for share, year in zip(shares, middle, strict=True))
            variance = sum(share * (year - mean) ** 2 for share, year in zip(shares, middle, strict=True))
            assert row == pytest.approx([mean, math.sqrt(variance + 0.25**2)])

    def test_class_probabilities(self):
        assert class_probabilities(torch.tensor([[0.9, 0.4]])).tolist()[0] == pytest.approx([0.1, 0.5, 0.4])

    @pytest.mark.parametrize("name", ["coral", "corn"])
    def test_no_probability_is_zero(self, name):
        # sigmoid(200) is 1 in fp32: class 0 has no probability left. -ln 2^-23 = 15.94 nats, not 87.
        lowest = HEADS[name](4, 3).probabilities(torch.tensor([[200.0, 200.0]]))[0]
        assert lowest.tolist() == pytest.approx([EPS, EPS, 1.0], rel=1e-6)
        assert -lowest[0].log().item() == pytest.approx(15.9424, abs=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_shapes_and_attributes(name):
    head = HEADS[name](5, 8)
    assert (head.in_features, head.num_classes) == (5, 8)
    outputs = head(torch.randn(3, 5))
    assert outputs.shape == (3, WIDTHS[name])
    assert head.probabilities(outputs).shape == (3, 8)
    assert head.probabilities(outputs.bfloat16()).dtype == torch.float32
    assert head.probabilities(outputs.double()).dtype == torch.float64


def test_coral_outputs_differ_by_their_biases_alone():
    head = CoralHead(5, 4)
    assert not isinstance(head, nn.Linear)
    outputs = head(torch.randn(4, 5))
    # (3, 2, 1) / 3 are the biases at the start.
    assert torch.allclose(outputs[:, 0] - outputs[:, 1], torch.full((4,), 1 / 3), atol=1e-6)
    assert parameter_count(head) == 5 + 3


def test_coral_is_coral_pytorchs_layer():
    theirs, ours, features = CoralLayer(5, 8), CoralHead(5, 8), torch.randn(4, 5)
    assert torch.allclose(ours.coral_bias, theirs.coral_bias)
    theirs.coral_bias.data.normal_()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(features), theirs(features))


@pytest.mark.parametrize("seed", range(3))
def test_coral_pytorchs_labels_are_our_medians(seed):
    """The package counts the thresholds passed with more than one half; so does the median of our probabilities."""
    outputs = outputs_of("corn", seed=seed)
    labels = proba_to_label(outputs.sigmoid().cumprod(1))
    cumulative = HEADS["corn"](4, 8).probabilities(outputs).cumsum(1)
    assert (cumulative >= 0.5).int().argmax(1).tolist() == labels.tolist()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 30))
@pytest.mark.parametrize("name", sorted(HEADS))
def test_probabilities_are_probabilities(name, seed, scale):
    found = HEADS[name](4, 8).probabilities(outputs_of(name, seed=seed, scale=scale))
    assert found.shape == (16, 8)
    assert (found >= 0).all()
    assert found.sum(1).tolist() == pytest.approx([1.0] * 16)
