"""Suspect labels: the predictions of held-out faces contradict them.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021) for ordered classes. The probabilities of each face must come from a model that did not train on it.
"""

import numpy as np
import pandas as pd

FARTHEST = 2  # classes; nearer ones are confused too often


def find_label_issues(labels, probabilities):
    """The faces whose labels are probably wrong, the worst first.

    A label is suspected if the most probable class is at least FARTHEST classes away. Suspects are ranked by the
    probability of their label, the lowest first, which is Northcutt et al.'s "self-confidence".

    Args:
        labels: int (N,).
        probabilities: float (N, K).

    Returns:
        A table of one row per suspected face: row (its position in `labels`), p_label (the probability of its label)
        and suggested (the most probable class).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    suggested = probabilities.argmax(1)
    p_label = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    table = pd.DataFrame({"row": np.arange(len(labels)), "p_label": p_label, "suggested": suggested})
    suspected = np.abs(suggested - labels) >= FARTHEST
    return table[suspected].sort_values("p_label", kind="stable", ignore_index=True)
