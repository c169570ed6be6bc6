"""Labels that are probably wrong, and pictures that appear twice with different labels."""

import numpy as np
import pandas as pd

from evaluation.evaluation import pool
from evaluation.label_issues import find_label_issues
from report.data import line_references
from utils.cli import percent, printable

COLUMNS = ["rank", "path", "file", "line", "person", "label", "suggested", "p_label"]
SUSPECTS_SHOWN, PAIRS_SHOWN = 200, 100


def suspect_labels(data):
    """The suspected labels of all faces, the worst first.

    Returns:
        {"table": a table with COLUMNS and `p_suggested`, as it is written to suspects.csv, "rows": the first of them
        for the page}.
    """
    pooled = pool(data.evaluations, distinct=True).coarse()
    people, names = pooled.faces.people.to_numpy(), np.array(pooled.classes.names)
    found = find_label_issues(pooled.labels, pooled.probabilities)
    rows, labels = found.row.to_numpy(), pooled.labels[found.row]
    faces = pooled.faces.table.iloc[rows].reset_index(drop=True)
    table = pd.DataFrame({
        "rank": found.index + 1,
        "path": faces.path,
        "file": faces.get("file", ""),
        "line": faces.get("line", ""),
        "person": people[rows],
        "label": names[labels],
        "suggested": names[found.suggested],
        "p_label": found.p_label.round(4),
        "p_suggested": pooled.probabilities[rows, found.suggested].round(4),
    })  # fmt: skip
    first = table.head(SUSPECTS_SHOWN)
    shown = first.assign(
        name=first.path.map(printable),
        p_label=[percent(p, 1) for p in first.p_label],
        p_suggested=[percent(p, 1) for p in first.p_suggested],
        reference=line_references(faces.head(SUSPECTS_SHOWN)),
    )
    return {"table": table, "rows": shown.to_dict("records")}


def repeated_pictures(data):
    """The pairs of the same picture with different labels; None if there are none."""
    labels, table = data.faces.labels, data.faces.table
    names = np.array(data.faces.classes.names)[labels]
    table = table.assign(name=table.path.map(printable), label=names, reference=line_references(table))
    pairs = data.pairs[labels[data.pairs[:, 0]] != labels[data.pairs[:, 1]]]
    columns = ["path", "name", "label", "fold", "reference"]
    rows = [table[columns].iloc[pair].to_dict("records") for pair in pairs[:PAIRS_SHOWN]]
    return {"rows": rows, "count": len(pairs)} if rows else None
