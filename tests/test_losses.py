"""Losses: by hand, against coral-pytorch, and what holds for all of them."""

import math

import pytest
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.losses import CornLoss, coral_loss
from scipy.special import logsumexp
from scipy.stats import norm

import training.losses
from models.heads import HEADS, binomial_log_masses
from training.losses import LOSSES

EVERY = sorted(name for name, loss in LOSSES.items() if not loss.of_ages)


def loss_of(name):
    return getattr(training.losses, name)


def outputs_of(name, faces=16, seed=0, scale=3.0):
    width = 7 if LOSSES[name].head in ("coral", "corn") else 8
    return scale * torch.randn(faces, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(name, outputs, labels):
    return loss_of(name)(torch.tensor(outputs, dtype=torch.float64), torch.tensor(labels)).tolist()


def test_one_hot_cross_entropy_over_softmax():
    """-sum(one_hot * log(softmax(logits))) is what the loss computes from the logits."""
    logits, labels = outputs_of("cross_entropy", 32), torch.arange(32) % 8
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -(torch.eye(8, dtype=torch.float64)[labels] * probabilities.log()).sum(1)
    assert torch.allclose(loss_of("cross_entropy")(logits, labels), expected, rtol=1e-12)


class TestByHand:
    """softmax of (0, ln 3) is (1/4, 3/4)."""

    logits = ((0.0, math.log(3)),) * 2

    def test_cross_entropy(self):
        assert value("cross_entropy", self.logits, [0, 1]) == pytest.approx([math.log(4), math.log(4 / 3)])

    def test_label_smoothing(self):
        # Targets (0.95, 0.05).
        expected = 0.95 * math.log(4) + 0.05 * math.log(4 / 3)
        assert value("label_smoothing", self.logits[:1], [0]) == pytest.approx([expected])

    def test_double_softmax(self):
        # A second softmax, of (1/4, 3/4): the right group gets at most e / (e + 1) of two, however sure the network is.
        assert value("double_softmax", self.logits[:1], [0]) == pytest.approx([math.log(1 + math.exp(0.5))])

    def test_sord(self):
        # softmax(0, -2): the neighbour gets 1 / (1 + e^2) = 0.1192029.
        expected = 0.8807971 * math.log(4) + 0.1192029 * math.log(4 / 3)
        assert value("sord", self.logits[:1], [0]) == pytest.approx([expected], rel=1e-6)

    def test_dldl_v2(self):
        # Gaussian at 0 and 1: weights 1 and exp(-1 / (2 * 0.5625)) = 0.4111123, so (0.7086607, 0.2913393).
        first, second = 0.7086607, 0.2913393
        divergence = first * math.log(first / 0.25) + second * math.log(second / 0.75)
        assert value("dldl_v2", self.logits[:1], [0]) == pytest.approx([divergence + 0.75], rel=1e-5)  # mean 3/4

    def test_mean_variance(self):
        # Mean 3/4, variance 3/16.
        expected = math.log(4) + 0.2 * (0.75**2 / 2) + 0.05 * 3 / 16
        assert value("mean_variance", self.logits[:1], [0]) == pytest.approx([expected])

    def test_unimodal(self):
        # p = 1/2 and temperature 1: 21 of the 128 outcomes of 7 fair coins; log(e^0.95 - 1) softplus' inverse of 0.95.
        raw = math.log(math.exp(0.95) - 1)
        outputs = binomial_log_masses(torch.tensor([[0.0, raw]], dtype=torch.float64), 8)
        assert value("unimodal", outputs.tolist(), [2]) == pytest.approx([math.log(128 / 21)])

    def test_coral(self):
        # Group 1 of 3: older than 0, not older than 1; sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2.
        assert value("coral", [[math.log(3), 0.0]], [1]) == pytest.approx([math.log(4 / 3) + math.log(2)])

    def test_corn(self):
        # Labels 0 and 1 of 3: task 0 concerns both faces, task 1 the second only; three terms in all.
        logits = [[math.log(3), 0.0], [math.log(3), 0.0]]
        first, second = math.log(4), math.log(4 / 3) + math.log(2)
        assert value("corn", logits, [0, 1]) == pytest.approx([2 * first / 3, 2 * second / 3])


def coral_pytorchs(outputs, labels):
    return coral_loss(outputs, levels_from_labelbatch(labels, num_classes=8).double())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "theirs"), [("coral", coral_pytorchs), ("corn", CornLoss(num_classes=8))])
def test_against_coral_pytorch(name, theirs, seed):
    labels = torch.randint(0, 8, (16,), generator=torch.Generator().manual_seed(seed))
    losses, gradients = [], []
    for loss in (lambda outputs: loss_of(name)(outputs, labels).mean(), lambda outputs: theirs(outputs, labels)):
        outputs = outputs_of(name, seed=seed).requires_grad_()
        loss(outputs).backward()
        losses.append(loss(outputs).item())
        gradients.append(outputs.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_finite_differences(name):
    outputs, labels = outputs_of(name, 4, seed=5, scale=1.0).requires_grad_(), torch.tensor([0, 3, 6, 7])
    assert torch.autograd.gradcheck(lambda x: loss_of(name)(x, labels), outputs, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_going_down_the_loss_finds_the_labels(name):
    labels = torch.arange(8).repeat(2)
    outputs = outputs_of(name, scale=0.1).requires_grad_()
    optimizer = torch.optim.Adam([outputs], 0.1)
    for _ in range(800):
        optimizer.zero_grad()
        loss_of(name)(outputs, labels).mean().backward()
        optimizer.step()
    assert HEADS[LOSSES[name].head](4, 8).probabilities(outputs).argmax(1).tolist() == labels.tolist()


def test_every_loss_has_a_function_and_a_head():
    assert {loss.head for loss in LOSSES.values()} <= set(HEADS)


# Losses of ages. Outputs are mean and scale in years; an age of 34 is all from 33.5 to 34.5.

INTERVALS = [(34, 34), (25, 32), (60, math.inf), (0, 2), (0, 0)]
OUTPUTS = [(30.0, 5.0), (28.0, 3.0), (55.0, 6.0), (10.0, 2.0), (40.0, 4.0)]


def by_scipy(mean, scale, first, last):
    """-log(cdf(high) - cdf(low)), in the tail where neither is nearly 1."""
    low, high = (first - 0.5 - mean) / scale, (last + 0.5 - mean) / scale
    low, high = (-high, -low) if low + high > 0 else (low, high)
    return -logsumexp([norm.logcdf(high), norm.logcdf(low)], b=[1, -1])


def test_normal_is_that_of_scipy():
    found = training.losses.normal(torch.tensor(OUTPUTS), torch.tensor(INTERVALS))
    assert torch.equal(found, training.losses.negative_log_probability(torch.tensor(OUTPUTS), torch.tensor(INTERVALS)))
    expected = [by_scipy(*outputs, *years) for outputs, years in zip(OUTPUTS, INTERVALS, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    # (30, 5) and 34 years by hand: from 0.7 to 0.9 deviations, 0.8159 - 0.7580 = 0.0579.
    assert found[0].item() == pytest.approx(-math.log(0.0579), abs=2e-3)


def test_its_gradients_are_those_of_finite_differences():
    found = torch.tensor(OUTPUTS, requires_grad=True)
    training.losses.normal(found, torch.tensor(INTERVALS)).sum().backward()
    step = 1e-4
    for (mean, scale), years, gradient in zip(OUTPUTS, INTERVALS, found.grad.tolist(), strict=True):
        by_mean = (by_scipy(mean + step, scale, *years) - by_scipy(mean - step, scale, *years)) / (2 * step)
        by_scale = (by_scipy(mean, scale + step, *years) - by_scipy(mean, scale - step, *years)) / (2 * step)
        weight = scale**2 / 25  # beta = 1 in Seitzer et al.
        assert gradient == pytest.approx([weight * by_mean, weight * by_scale], rel=2e-3, abs=1e-5)


def test_nothing_overflows():
    """Means a century away, and scales of a quarter of a year."""
    outputs = torch.tensor([[120.0, 0.25], [0.0, 0.25], [0.0, 0.25], [60.0, 0.25]], requires_grad=True)
    found = training.losses.normal(outputs, torch.tensor([(0, 0), (100, math.inf), (90, 90), (60, 60)]))
    found.sum().backward()
    assert found.isfinite().all() and outputs.grad.isfinite().all()
    assert found[3].item() == pytest.approx(-math.log(0.9545), abs=1e-3)  # within two deviations


def test_l1_by_hand():
    """The middle of 25-32 is 28.5, that of 60+ is 69.5; the scale's term moves the mean no further."""
    outputs = torch.tensor([[30.0, 5.0], [60.0, 5.0], [40.0, 5.0]], requires_grad=True)
    years = torch.tensor([(25, 32), (60, math.inf), (34, 34)])
    found = training.losses.l1(outputs, years)
    errors = found - training.losses.negative_log_probability(outputs, years)
    assert errors.tolist() == pytest.approx([1.5, 9.5, 6.0], abs=1e-5)
    found.sum().backward()
    assert outputs.grad[:, 0].tolist() == [1, -1, 1]
    assert (outputs.grad[:, 1] != 0).all()


@pytest.mark.parametrize("name", ["normal", "l1"])
def test_going_down_a_loss_of_ages_finds_the_ages(name):
    ages = torch.tensor([3.0, 21.0, 34.0, 80.0])
    outputs = torch.tensor([[40.0, 10.0]] * 4, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], 0.1)
    for _ in range(1500):
        optimizer.zero_grad()
        getattr(training.losses, name)(outputs, ages[:, None].repeat(1, 2)).mean().backward()
        optimizer.step()
        with torch.no_grad():
            outputs[:, 1].clamp_(min=0.25)
    assert outputs[:, 0].tolist() == pytest.approx(ages.tolist(), abs=0.3)


def test_widths_by_hand():
    """SORD of width 2: softmax(0, -1/2, -1); DLDL of width 2: exp(0, -1/8, -1/2), normalised."""
    logits = torch.zeros(1, 3, dtype=torch.float64)  # whatever the targets, ln 3
    assert training.losses.sord(logits, torch.tensor([0]), width=2.0).item() == pytest.approx(math.log(3))
    logits = torch.tensor([[0.0, 0.0, math.log(2)]], dtype=torch.float64)  # (1/4, 1/4, 1/2)
    share = math.exp(-1) / (1 + math.exp(-0.5) + math.exp(-1))
    found = training.losses.sord(logits, torch.tensor([0]), width=2.0).item()
    assert found == pytest.approx((1 - share) * math.log(4) + share * math.log(2), rel=1e-6)
    targets = [math.exp(-d * d / 8) for d in range(3)]
    targets = [target / sum(targets) for target in targets]
    divergence = sum(t * math.log(t / p) for t, p in zip(targets, (0.25, 0.25, 0.5), strict=True))
    found = training.losses.dldl_v2(logits, torch.tensor([0]), width=2.0).item()
    assert found == pytest.approx(divergence + 1.25, rel=1e-6)  # the expectation is 1.25
