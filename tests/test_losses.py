"""Losses: by hand, against coral-pytorch, and what holds for all of them."""

import math

import pytest
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.losses import CornLoss, coral_loss

import training.losses
from models.heads import HEADS, binomial_log_masses
from training.losses import LOSSES, Criterion

EVERY = sorted(LOSSES)


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


def test_classes_are_weighted():
    criterion = Criterion(loss_of("cross_entropy"), torch.tensor([2.0, 0.5]))
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    expected = (2.0 * math.log(4) + 0.5 * math.log(4 / 3)) / 2
    assert criterion(logits, torch.tensor([0, 1])).item() == pytest.approx(expected)


def test_every_loss_has_a_function_and_a_head():
    assert {loss.head for loss in LOSSES.values()} <= set(HEADS)
