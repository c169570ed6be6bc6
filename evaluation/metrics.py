"""The metrics of an ordinal classifier. Fractions inside, percent only when printed.

METRICS drives the log, the results, the tables and the comparisons: to add a metric, add an entry. Each one is a
function of N faces that returns N values; the metric is `finish` of their mean.

Args of a function:
    labels: int (N,), true classes in 0..K-1.
    predictions: int (N,), predicted classes.
    probabilities: float (N, K).

Args of a function of ages, which counts where the age of every face is known:
    true, age: float (N,), in completed years.
    low, high: float (N,), the interval that is given with the age.
"""

from typing import NamedTuple

import numpy as np


def top1(labels, predictions, probabilities):
    return labels == predictions


def one_off(labels, predictions, probabilities):
    """Right class or a neighbour of it (Eidinger et al., 2014)."""
    return np.abs(labels - predictions) <= 1


def absolute_error(labels, predictions, probabilities):
    """Distance in classes."""
    return np.abs(labels - predictions)


def cross_entropy(labels, predictions, probabilities):
    """Cross entropy of the probabilities in nats, whatever the training loss."""
    right = probabilities[np.arange(len(labels)), labels]
    return -np.log(right.clip(np.finfo(np.float32).tiny)).astype(np.float64)


def years_off(true, age, low, high):
    """Error of the age in years."""
    return np.abs(age - true)


def squared_years(true, age, low, high):
    return np.square(age - true)


def within_five_years(true, age, low, high):
    """The cumulative score at five years (Geng, Zhou and Smith-Miles, TPAMI 2007)."""
    return np.abs(age - true) <= 5


def signed_years(true, age, low, high):
    """Positive where faces are taken for older than they are."""
    return age - true


def covered(true, age, low, high):
    """Whether the interval holds the true age."""
    return (low <= true) & (true <= high)


class Metric(NamedTuple):
    per_face: callable
    format: str  # the format specification of a value
    title: str
    lower_is_better: bool = False
    of_ages: bool = False
    finish: callable = np.asarray  # from means over the faces to the metric

    def show(self, value):
        """As text; a missing value, None or NaN, as a dash."""
        return "–" if value is None or value != value else format(value, self.format)

    def show_difference(self, value, digits=2):
        """As text with a sign, percentages in points, others with one digit more; a missing value as a dash."""
        if value is None or value != value:
            return "–"
        return f"{100 * value:+.{digits}f}" if self.format.endswith("%") else f"{value:+.{digits + 1}f}"


METRICS = {
    "top1": Metric(top1, ".2%", "top-1"),
    "one_off": Metric(one_off, ".2%", "one-off"),
    "mae": Metric(absolute_error, ".3f", "MAE", lower_is_better=True),
    "loss": Metric(cross_entropy, ".3f", "loss", lower_is_better=True),
    "mae_years": Metric(years_off, ".2f", "MAE years", lower_is_better=True, of_ages=True),
    "rmse_years": Metric(squared_years, ".2f", "RMSE", lower_is_better=True, of_ages=True, finish=np.sqrt),
    "cs5": Metric(within_five_years, ".2%", "CS@5", of_ages=True),
    "bias_years": Metric(signed_years, "+.2f", "bias", of_ages=True),
    "coverage": Metric(covered, ".2%", "coverage", of_ages=True),
}
CLASS_METRICS = {name: metric for name, metric in METRICS.items() if not metric.of_ages}


def compute_metrics(labels, predictions, probabilities):
    """{name of CLASS_METRICS: mean over the faces}, as plain floats."""
    return {
        name: float(np.mean(metric.per_face(labels, predictions, probabilities), dtype=np.float64))
        for name, metric in CLASS_METRICS.items()
    }


def mean_and_std(values):
    """{"mean": ..., "std": ...} of {name: values}; std is the sample's (ddof=1), None for a single value."""
    return {
        "mean": {name: float(np.mean(v)) for name, v in values.items()},
        "std": {name: float(np.std(v, ddof=1)) if len(v) > 1 else None for name, v in values.items()},
    }


def confusion_matrix(labels, predictions, num_classes):
    """int64 (K, K): true class by row, predicted class by column."""
    labels, predictions = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def per_class(confusion):
    """Per true class: (faces, top1, one_off), each (K,); a class without a face has nan."""
    classes = np.arange(len(confusion))
    near = np.abs(classes[:, None] - classes[None, :]) <= 1
    faces = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return faces, np.diag(confusion) / faces, np.where(near, confusion, 0).sum(axis=1) / faces


def largest_class(labels, num_classes):
    """The most frequent class and {name: value} of always answering it; a metric of probabilities gets none."""
    labels = np.asarray(labels)
    largest = int(np.bincount(labels, minlength=num_classes).argmax())
    certain = np.eye(num_classes)[np.full(len(labels), largest)]
    metrics = compute_metrics(labels, np.full(len(labels), largest), certain)
    return largest, {name: value for name, value in metrics.items() if name != "loss"}


def single_answer(predictions, num_classes, threshold=0.9):
    """The class that is predicted for nearly all faces, or None."""
    counts = np.bincount(np.asarray(predictions), minlength=num_classes)
    return int(counts.argmax()) if counts.max() >= threshold * counts.sum() else None
