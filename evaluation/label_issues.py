"""Suspect labels: the predictions of held-out faces contradict them.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021) for ordered classes. The probabilities of each face must come from a model that did not train on it.
"""

import numpy as np
import pandas as pd

FARTHEST = 2  # classes; a label that is no neighbour is wrong, whatever the distance, as in the one-off metric


def find_label_issues(labels, probabilities):
    """The faces whose labels are probably wrong, the worst first.

    A label is suspected if the most probable class is at least FARTHEST classes away. Suspects are ranked by the
    expected distance, with FARTHEST as its limit:

        score = sum over k of p_k min(|k - label|, FARTHEST)

    Without the limit, faces of the first and the last class come first wherever the model is unsure.

    Args:
        labels: int (N,).
        probabilities: float (N, K).

    Returns:
        A table of one row per suspected face: row (its position in `labels`), score (higher is worse) and suggested
        (the class).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    distances = np.abs(np.arange(probabilities.shape[1]) - labels[:, None])  # (N, K)
    scores = (probabilities * distances.clip(max=FARTHEST)).sum(1)
    suggested = probabilities.argmax(1)
    suspected = np.abs(suggested - labels) >= FARTHEST
    table = pd.DataFrame({"row": np.arange(len(labels)), "score": scores, "suggested": suggested})
    return table[suspected].sort_values("score", ascending=False, kind="stable", ignore_index=True)
