"""Heads, the last layer of a network: features (B, F) -> outputs (B, D) -> class probabilities (B, K).

A head is made with (in_features, num_classes). Its `probabilities` are computed in fp32, or in the outputs' precision
where that is higher.
"""

import torch
import torch.nn.functional as F
from torch import nn

# Differences of probabilities are often exactly zero. Since that costs a reported loss 87 nats, no class gets less.
SMALLEST = torch.finfo(torch.float32).eps
LEAST_SCALE = 0.25  # years


class SoftmaxHead(nn.Linear):
    """One logit per class (D = K)."""

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.num_classes = num_classes

    def probabilities(self, outputs):
        return at_least_float32(outputs).softmax(1)


class BinomialHead(nn.Linear):
    """The log masses of a binomial distribution over the classes, with a temperature (D = K); it has one mode.

    Beckham and Pal, "Unimodal Probability Distributions for Deep Ordinal Classification", ICML 2017.
    """

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, 2)
        self.num_classes = num_classes

    def forward(self, features):
        return binomial_log_masses(super().forward(features), self.num_classes)  # (B, 2) -> (B, K)

    probabilities = SoftmaxHead.probabilities


class CoralHead(nn.Module):
    """The logits of P(label > k) for k < K - 1: one weight vector and a bias for each k (D = K - 1).

    Cao, Mirjalili and Raschka, "Rank consistent ordinal regression for neural networks", Pattern Recognition Letters,
    2020. The parameters have the names and the initial values of coral-pytorch's CoralLayer.
    """

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.coral_weights = nn.Linear(in_features, 1, bias=False)
        self.coral_bias = nn.Parameter(torch.arange(num_classes - 1, 0, -1).float() / (num_classes - 1))

    def forward(self, features):
        return self.coral_weights(features) + self.coral_bias  # (B, 1) + (K - 1,) -> (B, K - 1)

    def probabilities(self, outputs):
        # The biases may leave their order; the running minimum makes P(label > k) fall with k.
        return class_probabilities(at_least_float32(outputs).sigmoid().cummin(1).values)


class CornHead(nn.Linear):
    """The logits of P(label > k | label > k - 1) for k < K - 1 (D = K - 1).

    Shi, Cao and Raschka, "Deep neural networks for rank-consistent ordinal regression based on conditional
    probabilities", Pattern Analysis and Applications, 2023.
    """

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes - 1)
        self.num_classes = num_classes

    def probabilities(self, outputs):
        return class_probabilities(at_least_float32(outputs).sigmoid().cumprod(1))  # the chain rule


class NormalHead(nn.Linear):
    """Mean and scale, in years, of a normal distribution of the age (D = 2).

    They are the mean and the standard deviation of a softmax over the classes' middle years, so that both are bounded
    by these. A class has the probability between its borders, where one class's years end and the next one's begin;
    what lies beyond the first and the last class belongs to these.

    Attributes:
        years: (K,), the middle year of each class.
        borders: (K - 1,), in years.
    """

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.num_classes = num_classes
        self.register_buffer("years", torch.arange(num_classes).float())
        self.register_buffer("borders", torch.arange(num_classes - 1) + 0.5)

    def set_years(self, classes):
        """Take the years of Classes that are ages."""
        first, last = torch.tensor(classes.bounds, dtype=torch.float32).T
        self.years.copy_((first + last) / 2)
        self.borders.copy_((last[:-1] + first[1:]) / 2)

    def forward(self, features):
        weights = super().forward(features).softmax(1)  # (B, K)
        mean = weights @ self.years
        variance = (weights * (self.years - mean[:, None]).square()).sum(1)
        return torch.stack([mean, (variance + LEAST_SCALE**2).sqrt()], 1)  # (B, 2)

    def probabilities(self, outputs):
        mean, scale = at_least_float32(outputs).unbind(1)
        deviations = (self.borders - mean[:, None]) / (scale[:, None] * 2**0.5)
        return class_probabilities((1 - deviations.erf()) / 2)


HEADS = {
    "softmax": SoftmaxHead,
    "binomial": BinomialHead,
    "coral": CoralHead,
    "corn": CornHead,
    "normal": NormalHead,
}


def binomial_log_masses(outputs, num_classes):
    """Unnormalised log probabilities of a binomial distribution over K classes (Beckham and Pal, 2017).

    Args:
        outputs: (B, 2) of a linear layer, the logit of the success probability and the temperature before its softplus.
        num_classes: K; the distribution counts successes in K - 1 trials.

    Returns:
        (B, K); their softmax is the class probabilities.
    """
    logit, temperature = outputs[:, :1], F.softplus(outputs[:, 1:]) + 0.05
    k = torch.arange(num_classes, device=outputs.device, dtype=outputs.dtype)
    trials = num_classes - 1
    log_factorials = k.clamp_min(1).log().cumsum(0)  # log k! for k from 0 to K - 1; ONNX has no lgamma
    log_coefficients = log_factorials[-1] - log_factorials - log_factorials.flip(0)
    log_masses = log_coefficients + k * F.logsigmoid(logit) + (trials - k) * F.logsigmoid(-logit)  # (B, K)
    return log_masses / temperature


def class_probabilities(exceedance):
    """P(label > k) for k < K - 1, (B, K - 1), not rising with k -> class probabilities (B, K), none of them zero."""
    first = exceedance[:, :1]
    ones, zeros = torch.ones_like(first), torch.zeros_like(first)  # (B, 1)
    differences = torch.cat([ones, exceedance], 1) - torch.cat([exceedance, zeros], 1)  # (B, K)
    positive = differences.clamp_min(SMALLEST)
    return positive / positive.sum(1, keepdim=True)


def at_least_float32(values):
    return values.to(torch.promote_types(values.dtype, torch.float32))
