"""The loss takes logits: one-hot cross entropy over their softmax, once."""

import math

import pytest
import torch

from utils.losses import LOSSES


def test_one_hot_cross_entropy_over_softmax():
    """-sum(one_hot * log(softmax(logits))), averaged, is what the loss computes from the logits."""
    logits = torch.randn(32, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 8
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    one_hot = torch.eye(8, dtype=torch.float64)[labels]
    expected = -(one_hot * probabilities.log()).sum(1).mean()
    assert LOSSES["cross_entropy"](logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_by_hand():
    # softmax of (0, ln 3) is (1/4, 3/4)
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    expected = -(math.log(1 / 4) + math.log(3 / 4)) / 2
    assert LOSSES["cross_entropy"](logits, torch.tensor([0, 1])).item() == pytest.approx(expected)
