"""Labels that are probably wrong, and pictures that appear twice with different labels."""

import pandas as pd

from evaluation.label_issues import find_label_issues
from utils.cli import printable

COLUMNS = ["rank", "path", "file", "line", "person", "label", "suggested", "score", "person_agrees", "p_label"]


def suspects(study):
    """The suspected labels of all faces, the worst first; None where there is no prediction.

    Returns:
        A table with COLUMNS and `p_suggested`, as it is written to suspects.csv, whose index is the position of each
        face in `study.pooled(distinct=True)`.
    """
    pooled = study.pooled(distinct=True)
    if pooled is None:
        return None
    faces, names = pooled.faces, pd.Series(pooled.faces.class_names)
    found = find_label_issues(pooled.labels, pooled.probabilities, ordinal=True, people=faces.people.to_numpy())
    rows, labels = found.row.to_numpy(), pooled.labels[found.row]
    places = [study.places.get(path, "").rpartition(":") for path in faces.table.path.iloc[rows]]
    return pd.DataFrame(
        {
            "rank": range(1, len(found) + 1),
            "path": faces.table.path.to_numpy()[rows],
            "file": [file for file, _, _ in places],
            "line": [line for _, _, line in places],
            "person": faces.people.to_numpy()[rows],
            "label": names[labels].to_numpy(),
            "suggested": names[found.suggested].to_numpy(),
            "score": found.score.round(4).to_numpy(),
            "person_agrees": found.person_agrees.to_numpy(),
            "p_label": pooled.probabilities[rows, labels].round(4),
            "p_suggested": pooled.probabilities[rows, found.suggested].round(4),
        },
        index=rows,
    )


def twins(study):
    """The pairs of the same picture with different labels: lists of two dicts with path, label, fold and place."""
    if study.faces is None:
        return []
    table, names = study.faces.table, study.faces.class_names
    labels = table.label.to_numpy()
    pairs = study.pairs[labels[study.pairs[:, 0]] != labels[study.pairs[:, 1]]]
    return [
        [
            {
                "path": row.path,
                "shown_path": printable(row.path),
                "label": names[row.label],
                "fold": row.fold,
                "place": study.places.get(row.path, ""),
            }
            for row in (table.iloc[position] for position in pair)
        ]
        for pair in pairs
    ]


def suspect_rows(table, pictures, shown):
    """The first `shown` suspects for the template.

    Args:
        table: of `suspects`.
        pictures: {path: number of its thumbnail}.
    """
    return [
        {
            "rank": row.rank,
            "picture": pictures.get(row.path),
            "label": row.label,
            "suggested": row.suggested,
            "score": f"{row.score:.3f}",
            "p_label": f"{100 * row.p_label:.1f} %",
            "p_suggested": f"{100 * row.p_suggested:.1f} %",
            "agrees": row.person_agrees,
            "person": printable(row.person),
            "path": printable(row.path),
            "place": f"{row.file}, line {row.line}" if row.line else "",
        }
        for row in table.head(shown).itertuples()
    ]
