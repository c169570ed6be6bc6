"""Suspect labels: those that the predictions of held-out faces contradict.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021) for ordered classes. The probabilities of each face must come from a model that did not train on it.
"""

import numpy as np
import pandas as pd

FARTHEST = 2  # classes; a label that is no neighbour is wrong, whatever the distance, as in the one-off metric


def find_label_issues(labels, probabilities, people=None):
    """The faces whose labels are probably wrong, the worst first.

    A label is suspected if the most probable class is at least FARTHEST classes away. Suspects are ranked by the
    expected distance, with FARTHEST as its limit:

        score = sum over k of p_k min(|k - label|, FARTHEST)

    Without the limit, faces of the first and the last class come first wherever the model is unsure.

    Args:
        labels: int (N,).
        probabilities: float (N, K).
        people: (N,), the person of each face. A person comes first who has several faces, all of them suspected, with
            one label and one suggested class.

    Returns:
        A table of one row per suspected face: row (its position in `labels`), score (higher is worse), suggested (the
        class) and person_agrees.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    distances = np.abs(np.arange(probabilities.shape[1]) - labels[:, None])  # (N, K)
    scores = (probabilities * distances.clip(max=FARTHEST)).sum(1)
    suggested = probabilities.argmax(1)
    suspected = np.abs(suggested - labels) >= FARTHEST
    agrees = np.zeros(len(labels), bool) if people is None else unanimous(labels, suspected, suggested, people)
    columns = {"row": np.arange(len(labels)), "score": scores, "suggested": suggested, "person_agrees": agrees}
    order = np.lexsort((-scores, ~agrees))
    return pd.DataFrame(columns).iloc[order[suspected[order]]].reset_index(drop=True)


def unanimous(labels, suspected, suggested, people):
    """Bool (N,): the faces of people who have several, all suspected, with one label and one suggestion."""
    table = pd.DataFrame({"label": labels, "suggested": suggested, "suspected": suspected})
    faces = table.groupby(np.asarray(people))
    alike = (faces[["label", "suggested"]].transform("nunique") == 1).all(axis=1)
    return (alike & faces.suspected.transform("all") & (faces.label.transform("size") > 1)).to_numpy()
