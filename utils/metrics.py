"""Accuracy of age groups, all from one matrix of counts: sum counts first, divide once.

A confusion matrix is int64 (K, K), true group by row, predicted group by column. Accuracies
are fractions; a group without a face has accuracy nan.
"""

import numpy as np


def confusion_matrix(labels, predictions, classes):
    """labels, predictions: (N,) integers below `classes`."""
    labels, predictions = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    cells = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return cells.reshape(classes, classes)


def group_distance(classes):
    """(K, K): how many groups lie between the true and the predicted one, |prediction - label|."""
    groups = np.arange(classes)
    return np.abs(groups[:, None] - groups[None, :])


def top1(confusion):
    return divide(np.trace(confusion), confusion.sum())


def one_off(confusion):
    """The share of faces put into the right group or a neighbour of it."""
    return divide(confusion[group_distance(len(confusion)) <= 1].sum(), confusion.sum())


def mae(confusion):
    """Mean absolute error in groups."""
    return divide((confusion * group_distance(len(confusion))).sum(), confusion.sum())


def per_class(confusion):
    """Per true group: (faces, top1, one_off), each (K,)."""
    faces = confusion.sum(axis=1)
    near = np.where(group_distance(len(confusion)) <= 1, confusion, 0).sum(axis=1)
    return faces, divide(np.diag(confusion), faces), divide(near, faces)


def summary(confusion):
    """{top1, one_off, mae} as plain floats."""
    return {"top1": float(top1(confusion)), "one_off": float(one_off(confusion)), "mae": float(mae(confusion))}


def divide(part, whole):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole)
