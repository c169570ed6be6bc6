"""Losses: what the network's outputs mean and how wrong they are. To add one: two functions and a line in LOSSES.

A loss takes outputs float (B, D) and labels int64 (B,) and gives one value per face, (B,); its
probabilities function takes the same outputs to class probabilities (B, K) that sum to one, so that
every metric, decoder and picture works with every loss. K is 8, the age groups.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

SMOOTHING = 0.1  # of label_smoothing
SORD_SCALE = 2.0  # how fast soft targets fall with the distance in groups
DLDL_SIGMA, DLDL_WEIGHT = 0.75, 1.0  # width of the label distribution, in groups; weight of the expectation's error
MEAN_WEIGHT, VARIANCE_WEIGHT = 0.2, 0.05  # Pan et al.'s


def softmax(outputs):
    return outputs.softmax(1)


def cross_entropy(outputs, labels):
    """Over the softmax of the outputs, once: it wants logits, not probabilities."""
    return F.cross_entropy(outputs, labels, reduction="none")


def label_smoothing(outputs, labels):
    """Szegedy et al., CVPR 2016, section 7: a tenth of the target is spread over all groups."""
    return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=SMOOTHING)


def double_softmax(outputs, labels):
    """A mistake, kept to show what it does: cross entropy over outputs that are probabilities already."""
    return F.cross_entropy(outputs.softmax(1), labels, reduction="none")


def sord(outputs, labels):
    """Soft ordinal targets softmax(-2 |k - label|) (Diaz and Marathe, CVPR 2019), which fall with the distance."""
    targets = (-SORD_SCALE * distance(labels, outputs.shape[1])).softmax(1)
    return F.cross_entropy(outputs, targets, reduction="none")


def dldl_v2(outputs, labels):
    """Gao et al., IJCAI 2018: divergence from a Gaussian about the label, and the expectation's error."""
    targets = (-distance(labels, outputs.shape[1]).square() / (2 * DLDL_SIGMA**2)).softmax(1)
    divergence = F.kl_div(outputs.log_softmax(1), targets, reduction="none").sum(1)
    return divergence + DLDL_WEIGHT * (expectation(outputs.softmax(1)) - labels).abs()


def mean_variance(outputs, labels):
    """Pan et al., CVPR 2018: cross entropy, the mean's squared error and the variance about the mean."""
    probabilities = outputs.softmax(1)
    mean = expectation(probabilities)
    groups = torch.arange(outputs.shape[1], device=outputs.device)
    variance = (probabilities * (groups - mean[:, None]).square()).sum(1)
    error = (mean - labels).square() / 2
    return F.cross_entropy(outputs, labels, reduction="none") + MEAN_WEIGHT * error + VARIANCE_WEIGHT * variance


def unimodal(outputs, labels, classes=8):
    """Cross entropy of `binomial` (Beckham and Pal, ICML 2017)."""
    return F.nll_loss(binomial(outputs, classes).log_softmax(1), labels, reduction="none")


def unimodal_probabilities(outputs, classes=8):
    return binomial(outputs, classes).softmax(1)


def binomial(outputs, classes):
    """(B, 2), a logit and a raw temperature -> (B, K), binomial log masses (Beckham and Pal, ICML 2017)."""
    logit, temperature = outputs[:, :1], F.softplus(outputs[:, 1:]) + 0.05
    groups = torch.arange(classes, device=outputs.device)
    ways = torch.lgamma(groups + 1.0) + torch.lgamma(classes - groups.float())  # log k! (K - 1 - k)!
    masses = math.lgamma(classes) - ways + groups * F.logsigmoid(logit) + (classes - 1 - groups) * F.logsigmoid(-logit)
    return masses / temperature


def coral(outputs, labels):
    """Cao, Mirjalili and Raschka, 2020: K - 1 binary tasks "older than group k", summed."""
    return F.binary_cross_entropy_with_logits(outputs, older_than(outputs, labels), reduction="none").sum(1)


def coral_probabilities(outputs):
    """Differences of P(older than k), made to fall where the network's do not."""
    return differences(outputs.sigmoid().cummin(1).values)


def corn(outputs, labels):
    """Shi, Cao and Raschka, 2023: each task only over faces that are older than the group before.

    Scaled so that the batch's mean is the paper's: the sum over tasks and faces divided by their number.
    """
    tasks = torch.arange(outputs.shape[1], device=outputs.device)
    concerned = (tasks <= labels[:, None]).to(outputs.dtype)
    each = F.binary_cross_entropy_with_logits(outputs, older_than(outputs, labels), reduction="none")
    return (each * concerned).sum(1) * len(labels) / concerned.sum()


def corn_probabilities(outputs):
    """The chain rule: P(older than k) is the product of the conditional probabilities up to k."""
    return differences(outputs.sigmoid().cumprod(1))


def older_than(outputs, labels):
    """(B, K - 1) of 0 and 1: whether the label is above group k."""
    return (labels[:, None] > torch.arange(outputs.shape[1], device=labels.device)).to(outputs.dtype)


def differences(older):
    """P(older than k) (B, K - 1), falling -> class probabilities (B, K)."""
    ones, zeros = older.new_ones(len(older), 1), older.new_zeros(len(older), 1)
    return torch.cat([ones, older], 1) - torch.cat([older, zeros], 1)


def distance(labels, classes):
    """(B, K): |k - label|."""
    return (torch.arange(classes, device=labels.device) - labels[:, None]).abs().float()


def expectation(probabilities):
    return (probabilities * torch.arange(probabilities.shape[1], device=probabilities.device)).sum(1)


class Loss(NamedTuple):
    values: callable  # (B, D), (B,) -> (B,)
    probabilities: callable  # (B, D) -> (B, K)
    head: str = "classes"  # which outputs it wants of the network, a name in HEADS


# What a loss wants of the network's last layer: so many outputs for K classes, and whether they share their weights.
HEADS = {
    "classes": lambda classes: {"outputs": classes},
    "binomial": lambda classes: {"outputs": 2},
    "thresholds": lambda classes: {"outputs": classes - 1},
    "shared thresholds": lambda classes: {"outputs": classes - 1, "shared": True},
}

LOSSES = {
    "cross_entropy": Loss(cross_entropy, softmax),
    "label_smoothing": Loss(label_smoothing, softmax),
    "sord": Loss(sord, softmax),
    "dldl_v2": Loss(dldl_v2, softmax),
    "mean_variance": Loss(mean_variance, softmax),
    "unimodal": Loss(unimodal, unimodal_probabilities, "binomial"),
    "coral": Loss(coral, coral_probabilities, "shared thresholds"),
    "corn": Loss(corn, corn_probabilities, "thresholds"),
    "double_softmax": Loss(double_softmax, softmax),
}


class Objective:
    """A loss over a batch: mixed faces count by their shares, groups by their weights if there are any.

    class_weights: (K,), on the outputs' device, or None.
    """

    def __init__(self, loss, class_weights=None):
        self.loss = loss
        self.class_weights = class_weights

    def __call__(self, outputs, targets):
        """outputs float (B, D), targets as of TrainAugment -> one number."""
        values = self.weighted(outputs, targets.labels)
        if targets.share is not None:
            values = targets.share * values + (1 - targets.share) * self.weighted(outputs, targets.others)
        return values.mean()

    def weighted(self, outputs, labels):
        values = self.loss.values(outputs, labels)
        return values if self.class_weights is None else values * self.class_weights[labels]
