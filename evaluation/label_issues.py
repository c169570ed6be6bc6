"""Which labels are probably wrong: those that confident predictions of held-out faces contradict.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. The
probabilities of each face must be of a model that did not train on it.
"""

import numpy as np
import pandas as pd

from evaluation.calibration import SMALLEST

FARTHEST = 2  # classes; a label that is no neighbour is wrong, whatever the distance, as in the one-off metric
TOLERANCE = 1e-6  # for comparisons of probabilities, as in cleanlab


def confident_joint(labels, probabilities):
    """Faces by their label and the class that the model is confident of (equation 1).

    Args:
        labels: int (N,).
        probabilities: float (N, K).

    Returns:
        int64 (K, K): label by row, confident class by column. Faces without a confident class are not counted.
    """
    labels, classes = np.asarray(labels), np.shape(probabilities)[1]
    confident = confident_classes(labels, probabilities)
    counted = confident >= 0
    cells = np.bincount(labels[counted] * classes + confident[counted], minlength=classes * classes)
    return cells.reshape(classes, classes)


def confident_classes(labels, probabilities):
    """The class that the model is confident of, int (N,); -1 where there is none.

    A model is confident of a class that has at least the threshold's probability (equation 2): the mean probability of
    the class over the faces with that label; none of a class that no face has. Where it is confident of several
    classes, the most probable class of all is taken, as cleanlab does.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    thresholds = np.full(probabilities.shape[1], np.inf)  # (K,)
    for label in np.unique(labels):
        thresholds[label] = max(probabilities[labels == label, label].mean(), 2 * TOLERANCE)
    confident = probabilities >= thresholds - TOLERANCE  # (N, K)
    classes = np.where(confident.sum(1) > 1, probabilities.argmax(1), confident.argmax(1))
    return np.where(confident.any(1), classes, -1)


def find_label_issues(labels, probabilities, ordinal=False, people=None):
    """The faces whose labels are probably wrong, the worst first.

    The plain rule lists the faces off the diagonal of the confident joint whose label is not the most probable class
    either, and ranks them by the cross entropy of their label: cleanlab's filter "confident_learning" and its ranking
    "self_confidence". The ordinal rule lists the faces whose most probable class is at least FARTHEST classes from
    their label, and ranks them by the expected distance, which counts as FARTHEST where it is more:

        score = sum over k of p_k min(|k - label|, FARTHEST)

    Without that limit, faces of the first and the last class come first wherever the model is unsure.

    Args:
        labels: int (N,).
        probabilities: float (N, K).
        ordinal: use the ordinal rule.
        people: (N,), the person of each face; those come first who have several faces, all suspected, with one label
            and one suggested class.

    Returns:
        A table of one row per suspected face: row (its position in `labels`), score (higher is worse), suggested (the
        class) and person_agrees.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    rule = ordinal_rule if ordinal else plain_rule
    suspected, scores, suggested = rule(labels, probabilities)
    agrees = np.zeros(len(labels), bool) if people is None else unanimous(labels, suspected, suggested, people)
    columns = {"row": np.arange(len(labels)), "score": scores, "suggested": suggested, "person_agrees": agrees}
    order = np.lexsort((-scores, ~agrees))
    return pd.DataFrame(columns).iloc[order[suspected[order]]].reset_index(drop=True)


def plain_rule(labels, probabilities):
    """(suspected, bool (N,); scores (N,), the label's cross entropy; confident classes (N,))."""
    rows = np.arange(len(labels))
    confident, own = confident_classes(labels, probabilities), probabilities[rows, labels]
    beaten = probabilities.max(1) > own + TOLERANCE
    return (confident >= 0) & (confident != labels) & beaten, -np.log(own.clip(SMALLEST)), confident


def ordinal_rule(labels, probabilities):
    """(suspected, bool (N,); scores (N,), the limited expected distance; most probable classes (N,))."""
    distances = np.abs(np.arange(probabilities.shape[1]) - labels[:, None])  # (N, K)
    likeliest = probabilities.argmax(1)
    suspected = np.abs(likeliest - labels) >= FARTHEST
    return suspected, (probabilities * distances.clip(max=FARTHEST)).sum(1), likeliest


def unanimous(labels, suspected, suggested, people):
    """Bool (N,): the faces of people of whom there are several, all suspected, with one label and one suggestion."""
    table = pd.DataFrame({"label": labels, "suggested": suggested, "suspected": suspected})
    faces = table.groupby(np.asarray(people))
    alike = (faces[["label", "suggested"]].transform("nunique") == 1).all(axis=1)
    return (alike & faces.suspected.transform("all") & (faces.label.transform("size") > 1)).to_numpy()
