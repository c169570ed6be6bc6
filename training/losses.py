"""Losses: how wrong a network's outputs are. To add one, write a function here and add it to LOSSES.

A loss takes outputs float (B, D) and labels int64 (B,) and returns one value per face, (B,); a loss of ages takes the
first and last year of each face's age, float (B, 2), in place of labels. What the outputs mean, and the class
probabilities, belong to the head (models/heads.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from utils.classes import OPEN_YEARS

SMOOTHING = 0.1  # of label_smoothing
DLDL_WEIGHT = 1.0  # of the expectation's error
FAR = 1e4  # years
TYPICAL_SCALE = 5.0  # years, of which the gradient has the weight 1
LOWEST = -1e4  # standard deviations; the logarithm of the normal distribution below is too large for float32
MEAN_WEIGHT, VARIANCE_WEIGHT = 0.2, 0.05  # Pan et al.'s


def cross_entropy(outputs, labels):
    """Cross entropy of the softmax of the outputs, which are logits."""
    return F.cross_entropy(outputs, labels, reduction="none")


def label_smoothing(outputs, labels):
    """A tenth of the target is spread over all classes (Szegedy et al., CVPR 2016, section 7)."""
    return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=SMOOTHING)


def double_softmax(outputs, labels):
    """A common mistake, kept to show its effect: cross entropy of outputs that are probabilities already."""
    return F.cross_entropy(outputs.softmax(1), labels, reduction="none")


def sord(outputs, labels, width=0.5):
    """Soft ordinal targets softmax(-|k - label| / width) (Diaz and Marathe, CVPR 2019)."""
    targets = (-distance(labels, outputs.shape[1]) / width).softmax(1)  # (B, K)
    return F.cross_entropy(outputs, targets, reduction="none")


def dldl_v2(outputs, labels, width=0.75):
    """Divergence from a Gaussian around the label, and the expectation's error (Gao et al., IJCAI 2018)."""
    targets = (-distance(labels, outputs.shape[1]).square() / (2 * width**2)).softmax(1)  # (B, K)
    divergence = F.kl_div(outputs.log_softmax(1), targets, reduction="none").sum(1)
    return divergence + DLDL_WEIGHT * (expectation(outputs.softmax(1)) - labels).abs()


def mean_variance(outputs, labels):
    """Cross entropy, the mean's squared error and the variance around the mean (Pan et al., CVPR 2018)."""
    probabilities = outputs.softmax(1)  # (B, K)
    mean = expectation(probabilities)
    classes = torch.arange(outputs.shape[1], device=outputs.device)
    variance = (probabilities * (classes - mean[:, None]).square()).sum(1)
    error = (mean - labels).square() / 2
    return F.cross_entropy(outputs, labels, reduction="none") + MEAN_WEIGHT * error + VARIANCE_WEIGHT * variance


def coral(outputs, labels):
    """K - 1 binary tasks "older than class k", summed (Cao, Mirjalili and Raschka, 2020)."""
    return F.binary_cross_entropy_with_logits(outputs, older_than(outputs, labels), reduction="none").sum(1)


def corn(outputs, labels):
    """Task k learns from the faces older than class k - 1 only (Shi, Cao and Raschka, 2023).

    Scaled so that the batch's mean is the paper's: the sum over tasks and faces divided by their number.
    """
    tasks = torch.arange(outputs.shape[1], device=outputs.device)
    relevant = (tasks <= labels[:, None]).to(outputs.dtype)  # (B, K - 1)
    values = F.binary_cross_entropy_with_logits(outputs, older_than(outputs, labels), reduction="none")
    return (values * relevant).sum(1) * len(labels) / relevant.sum()


def normal(outputs, intervals):
    """Negative log probability of the label's years, its gradient weighted by the variance.

    Without the weight, faces of a large scale teach the mean little, and it stays where it is (Seitzer et al., "On the
    Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks", ICLR 2022, equation 5 with
    beta = 1). The value is the negative log probability itself.
    """
    value = negative_log_probability(outputs, intervals)
    weight = (outputs[:, 1].detach() / TYPICAL_SCALE).square()
    return value.detach() + weight * (value - value.detach())


def negative_log_probability(outputs, intervals):
    """Negative log probability that a normal distribution gives to the years of the label, (B,).

    Args:
        outputs: (B, 2) of the normal head, mean and scale in years.
        intervals: (B, 2), first and last year; infinity ends an open class. An age of 34 years is all from 33.5 to
            34.5, as in models/ages.py.
    """
    if outputs.device.type == "mps":  # torch has no log_ndtr there
        return negative_log_probability(outputs.cpu(), intervals.cpu()).to(outputs.device)
    mean, scale = outputs.float().unbind(1)
    intervals = intervals.clamp_max(FAR)  # whose gradient is 0, while that of infinity is none
    low, high = ((intervals + intervals.new_tensor([-0.5, 0.5]) - mean[:, None]) / scale[:, None]).unbind(1)
    # Far above the mean both logarithms are nearly 0 and their difference is lost: mirrored, they are far below it.
    above = low + high > 0
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low.clamp_min(LOWEST))
    return -(upper + torch.log(-torch.expm1((lower - upper).clamp_max(-1e-7))))


def l1(outputs, intervals):
    """The mean's absolute error in years, from the middle of the label's years; the scale learns by its probability.

    An open class counts as OPEN_YEARS. The scale's term does not move the mean.
    """
    first, last = intervals.unbind(1)
    middle = (first + torch.minimum(last, first + OPEN_YEARS - 1)) / 2
    mean, scale = outputs.unbind(1)
    return (mean - middle).abs() + negative_log_probability(torch.stack([mean.detach(), scale], 1), intervals)


def older_than(outputs, labels):
    """(B, K - 1) of 0 and 1: whether the label is above class k."""
    return (labels[:, None] > torch.arange(outputs.shape[1], device=labels.device)).to(outputs.dtype)


def distance(labels, num_classes):
    """(B, K): |k - label|."""
    return (torch.arange(num_classes, device=labels.device) - labels[:, None]).abs().float()


def expectation(probabilities):
    return (probabilities * torch.arange(probabilities.shape[1], device=probabilities.device)).sum(1)


class Loss(NamedTuple):
    function: Callable
    head: str  # a key of models.heads.HEADS
    widths: tuple = ()  # of the targets, in classes: by default, and where each class is a year
    of_ages: bool = False  # it takes years in place of labels


unimodal = cross_entropy  # of the binomial head's log masses (Beckham and Pal, ICML 2017)
LOSSES = {
    "cross_entropy": Loss(cross_entropy, "softmax"),
    "label_smoothing": Loss(label_smoothing, "softmax"),
    "sord": Loss(sord, "softmax", widths=(0.5, 2.0)),
    "dldl_v2": Loss(dldl_v2, "softmax", widths=(0.75, 2.0)),
    "mean_variance": Loss(mean_variance, "softmax"),
    "unimodal": Loss(unimodal, "binomial"),
    "coral": Loss(coral, "coral"),
    "corn": Loss(corn, "corn"),
    "normal": Loss(normal, "normal", of_ages=True),
    "l1": Loss(l1, "normal", of_ages=True),
    "double_softmax": Loss(double_softmax, "softmax"),
}


class Criterion:
    """The mean of a loss over a batch, with a weighted distillation term.

    Args:
        loss: a function of this module, or of the same arguments.
        of_ages: whether it takes years in place of labels.
        teacher: a function of normalised images that returns probabilities (B, K), or None.
        teacher_weight: weight of the teacher's term, from 0 to 1.
        head: the student's head, which turns its outputs into probabilities.
        temperature: Temperature that softens teacher and student; the teacher's term is multiplied by its square
            (Hinton et al., 2015, section 2).
    """

    def __init__(self, loss, teacher=None, teacher_weight=0.0, head=None, temperature=1.0, of_ages=False):
        self.loss, self.of_ages = loss, of_ages
        self.teacher, self.teacher_weight, self.head = teacher, teacher_weight, head
        self.temperature = temperature

    def __call__(self, outputs, labels, intervals=None, images=None):
        """Outputs float (B, D), labels int64 (B,) -> a scalar.

        Args:
            intervals: first and last years (B, 2), for a loss of ages.
            images: normalised (B, 3, S, S), for the teacher.
        """
        values = self.loss(outputs, intervals if self.of_ages else labels)
        if self.teacher is not None:
            values = torch.lerp(values, self.taught(outputs, images), self.teacher_weight)
        return values.mean()

    def taught(self, outputs, images):
        """Cross entropy of the student's probabilities with the teacher's as targets."""
        student, teacher = (
            probabilities.clamp_min(torch.finfo(torch.float32).tiny).log() / self.temperature
            for probabilities in (self.head.probabilities(outputs), self.teacher(images))
        )
        return -(teacher.softmax(1) * student.log_softmax(1)).sum(1) * self.temperature**2
