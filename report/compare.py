"""Two or more runs on the same faces: the printed table and the HTML page of their differences.

The first run is the reference; a difference is another run minus the reference. The page has the report's look, and
no script: like the report it fetches nothing, and text from outside is escaped.
"""

import base64
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.calibration import expected_calibration_error
from evaluation.metrics import METRICS, Metric
from evaluation.paired import mcnemar, paired_differences
from evaluation.predictions import Predictions
from report.content import cell, percent, scores
from report.gallery import data_url, make_thumbnails
from report.page import BUDGET, TEMPLATES, digest, starts_with, template
from utils.cli import printable
from utils.files import check_output, write_text

GENERATOR = "age groups comparison"  # marks the page as ours
ECE = Metric(expected_calibration_error, ".2%", "ECE", lower_is_better=True)  # of all faces together, not of each
COLUMNS = {**METRICS, "ece": ECE}
SHOWN = 20  # faces in the gallery of a comparison
LISTED = 100  # faces in each list of a comparison
CHANGES = ("right → wrong", "wrong → right", "both wrong, differently")
WIDTH = 17  # characters of a column of the printed table


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: short, and unlike that of the other runs.
        predictions: Predictions for the held-out faces of all its folds, in the order of those of the other runs.
        settings: {name: value} of what made it.
        folder: its run directory.
        image_dir: the folder of the original photographs; "" where it is not known.
    """

    name: str
    predictions: Predictions
    settings: dict = field(default_factory=dict)
    folder: str = ""
    image_dir: str = ""


@dataclass(frozen=True)
class Comparison:
    """A run against the reference: `rows` has one dict of `compare_faces` for each fold, and one for all faces."""

    reference: Run
    run: Run
    rows: list


def compare(reference, run):
    """The Comparison of a Run with the reference, fold by fold and of all faces together."""
    first, second = reference.predictions, run.predictions
    folds = first.faces.table.fold
    rows = []
    for fold in sorted(folds.unique()):
        mask = (folds == fold).to_numpy()
        rows.append(compare_faces(f"fold {fold}", first.where(mask), second.where(mask)))
    if len(rows) > 1:
        rows.append(compare_faces("all faces", first, second))
    return Comparison(reference, run, rows)


def compare_faces(name, first, second):
    """How two Predictions for the same faces differ.

    Returns:
        A dict with name; faces; differences, {name of COLUMNS: (second - first, low, high)}; right, how many faces
        both get right; lost and gained, those that only the first and only the second gets right; otherwise, those
        that both get wrong, but differently; wrong, those for which both give the same wrong answer; p of McNemar's
        test.
    """
    before, after = first.predicted == first.labels, second.predicted == second.labels
    unlike = first.predicted != second.predicted
    return {
        "name": name,
        "faces": len(first.faces),
        "differences": paired_differences(second, first),
        "right": int((before & after).sum()),
        "lost": int((before & ~after).sum()),
        "gained": int((~before & after).sum()),
        "otherwise": int((~before & ~after & unlike).sum()),
        "wrong": int((~before & ~unlike).sum()),
        "p": mcnemar(before, after),
    }


def face_changes(reference, run):
    """One row per face, those first whose true class differs most in probability.

    Returns:
        A table with position (in the predictions), path, fold, label, first and second (the answers), p_first and
        p_second (the probabilities of the true class), gain (p_second - p_first) and change (one of CHANGES, "" where
        the answers are the same).
    """
    first, second = reference.predictions, run.predictions
    table = first.faces.table[["path", "fold", "label"]].reset_index(drop=True)
    rows = np.arange(len(table))
    before, after = first.predicted == first.labels, second.predicted == second.labels
    kinds = [before & ~after, ~before & after, ~before & ~after & (first.predicted != second.predicted)]
    table = table.assign(
        position=rows,
        first=first.predicted,
        second=second.predicted,
        p_first=first.probabilities[rows, first.labels].astype(float),
        p_second=second.probabilities[rows, first.labels].astype(float),
        change=np.select(kinds, CHANGES, ""),
    )
    table["gain"] = table.p_second - table.p_first
    order = table.assign(size=table.gain.abs()).sort_values(["size", "path"], ascending=[False, True]).index
    return table.loc[order]


def comparison_table(comparisons):
    """The differences of all comparisons as the table that is printed."""
    reference = printable(comparisons[0].reference.name)
    titles = "".join(f"{metric.title:>{WIDTH}}" for metric in COLUMNS.values())
    lines = [
        f"differences from {reference}, percentages in points; below them 95 % intervals, bootstrap over people",
        f"{'':11}{titles}    lost  gained  McNemar p",
    ]
    for one in comparisons:
        lines.append(printable(one.run.name))
        for row in one.rows:
            lines += row_lines(row)
    return "\n".join([*lines, f"lost: faces that only {reference} gets right; gained: faces that only the run does"])


def row_lines(row):
    """Two lines: the differences, and their intervals."""
    values, intervals = "", ""
    for name, metric in COLUMNS.items():
        value, low, high = (metric.show_difference(number) for number in row["differences"][name])
        values += f" {value:>{WIDTH - 1}}"
        intervals += f" {f'{low} to {high}':>{WIDTH - 1}}"
    counts = f"{row['lost']:>8,}{row['gained']:>8,}{show_p(row['p']):>11}"
    return [f"  {row['name']:9}{values}{counts}", f"{'':11}{intervals}"]


def show_p(p):
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def write_comparison(path, comparisons, command=""):
    """Write the HTML page.

    Args:
        path: the file; an earlier page is replaced once the new one is complete.
        comparisons: Comparisons with one and the same reference, which says where the photographs are. One that is
            missing has a grey tile.
        command: the command that was given.

    Returns:
        A dict with bytes, shown (how many faces are in the galleries) and missing (how many of their photographs could
        not be read).

    Raises:
        UserError: the file cannot be written, or is there and is none of ours.
    """
    check_comparison(path)
    changes = [face_changes(one.reference, one.run) for one in comparisons]
    shown = list(dict.fromkeys(path for table in changes for path in table.path.head(SHOWN)))
    pictures = data_urls(shown, comparisons[0].reference.image_dir)
    page = render(comparisons, changes, pictures, command)
    write_text(path, page)
    return {"bytes": len(page.encode()), "shown": len(shown), "missing": len(shown) - len(pictures)}


def check_comparison(path):
    """Refuse to replace a file that is no earlier page of ours. Raises UserError."""
    mark = f'<meta name="generator" content="{GENERATOR}">'
    check_output(path, lambda own: starts_with(own, mark), "our comparison of runs")


def data_urls(paths, image_dir):
    """{path: its thumbnail as a data URL}, without the photographs that cannot be read."""
    files = [Path(image_dir) / path if image_dir else None for path in paths]
    made = make_thumbnails(files, BUDGET)
    header = base64.b64decode(made["header"])
    return {
        path: data_url(header + base64.b64decode(scan))
        for path, scan in zip(paths, made["scans"], strict=False)  # fewer where they do not fit
        if scan is not None
    }


def render(comparisons, changes, pictures, command=""):
    """The page as text."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    reference, runs = comparisons[0].reference, [one.run for one in comparisons]
    return template("compare.html").render(
        title=f"{', '.join(printable(run.name) for run in runs)} against {printable(reference.name)}",
        reference=printable(reference.name),
        facts=facts(reference, runs),
        command=command,
        settings=differing_settings([reference, *runs]),
        columns=[metric.title for metric in COLUMNS.values()],
        runs=[run_row(run) for run in (reference, *runs)],
        comparisons=[section(*pair, pictures) for pair in zip(comparisons, changes, strict=True)],
        listed=LISTED,
        generator=GENERATOR,
        policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src '{digest(style)}'",
        style=style,
    )


def facts(reference, runs):
    """What is compared, as (term, text)."""
    faces = reference.predictions.faces
    folds = ", ".join(str(fold) for fold in sorted(faces.table.fold.unique()))
    return [
        ("Reference", printable(reference.folder or reference.name)),
        *(("Run", printable(run.folder or run.name)) for run in runs),
        ("Data", f"{len(faces):,} faces of {faces.people.nunique():,} people; held-out folds {folds}"),
    ]


def differing_settings(runs):
    """The settings that are not the same in all runs: {"names": of the runs, "rows": (setting, one text per run)}."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [(printable(name), [show_setting(run.settings.get(name)) for run in runs]) for name in names]
    return {
        "names": [printable(run.name) for run in runs],
        "rows": [(name, texts) for name, texts in rows if len(set(texts)) > 1],
    }


def show_setting(value):
    if value is None:
        return "–"
    return printable(" ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)


def run_row(run):
    """A run's own metrics over all faces, with intervals."""
    predictions = run.predictions
    values, low, high, _ = scores(predictions)
    error = expected_calibration_error(predictions.labels, predictions.predicted, predictions.probabilities)
    cells = [cell(name, values[name], low[name], high[name]) for name in METRICS]
    return {"name": printable(run.name), "cells": [*cells, {"value": percent(error, 2), "interval": ""}]}


def section(comparison, changes, pictures):
    """What the page says of one comparison."""
    rows = [difference_row(row) for row in comparison.rows]
    pooled = comparison.rows[-1]
    lists = []
    for change in CHANGES:
        own = changes[changes.change == change]
        faces = [face_row(face, comparison.reference) for face in own.head(LISTED).itertuples()]
        lists.append({"title": change, "count": f"{len(own):,}", "more": len(own) > LISTED, "faces": faces})
    return {
        "name": printable(comparison.run.name),
        "headline": [
            {"title": metric.title, **difference_cell(name, pooled["differences"][name])}
            for name, metric in COLUMNS.items()
        ],
        "reading": reading(comparison),
        "rows": rows[:-1] or rows,
        "summary": rows[-1:] if len(rows) > 1 else [],
        "lists": lists,
        "missing": sum(path not in pictures for path in changes.path.head(SHOWN)),
        "gallery": [tile(face, comparison, pictures) for face in changes.head(SHOWN).itertuples()],
    }


def reading(comparison):
    """What the differences of all faces say, in words."""
    row = comparison.rows[-1]
    name, reference = printable(comparison.run.name), printable(comparison.reference.name)
    verdicts = {column: verdict(column, row["differences"][column]) for column in COLUMNS}
    parts = [
        f"{kind} in {', '.join(COLUMNS[column].title for column in COLUMNS if verdicts[column] == kind)}"
        for kind in ("better", "worse")
        if kind in verdicts.values()
    ]
    said = f"{name} is {' and '.join(parts)} than {reference}" if parts else (
        f"No interval excludes zero: these faces do not tell {name} from {reference}"
    )  # fmt: skip
    return f"{said}. McNemar's test of top-1: p {'' if row['p'] < 0.0001 else '= '}{show_p(row['p'])}."


def verdict(name, difference):
    """'better' or 'worse' where the interval excludes zero, otherwise ''."""
    _, low, high = difference
    if low <= 0 <= high:
        return ""
    return "better" if (high < 0) == COLUMNS[name].lower_is_better else "worse"


def difference_cell(name, difference):
    """A difference of a table with its interval, and the verdict."""
    value, low, high = (COLUMNS[name].show_difference(number).replace("-", "−") for number in difference)
    return {"value": value, "interval": f"{low} to {high}", "verdict": verdict(name, difference)}


def difference_row(row):
    counts = {name: f"{row[name]:,}" for name in ("faces", "right", "lost", "gained", "otherwise", "wrong")}
    cells = [difference_cell(name, row["differences"][name]) for name in COLUMNS]
    return {"name": row["name"], "cells": cells, "p": show_p(row["p"]), **counts}


def face_row(face, reference):
    """A face of `face_changes` for the template."""
    names = reference.predictions.faces.class_names
    return {
        "path": printable(face.path),
        "fold": face.fold,
        "true": names[face.label],
        "first": names[face.first],
        "second": names[face.second],
        "p_first": percent(face.p_first),
        "p_second": percent(face.p_second),
        "gain": f"{100 * face.gain:+.1f}".replace("-", "−"),
        "change": face.change or ("the same answer" if face.first != face.label else "both right"),
    }


def tile(face, comparison, pictures):
    """A face of the gallery: its row, photograph, and the probabilities of all classes."""
    row, names = face_row(face, comparison.reference), comparison.reference.predictions.faces.class_names
    bars, labels = [], []
    for run, said in ((comparison.reference, face.first), (comparison.run, face.second)):
        probabilities = run.predictions.probabilities[face.position].astype(float)
        spoken = ", ".join(f"{name} {percent(p, 0)}" for name, p in zip(names, probabilities, strict=True))
        labels.append(f"Probabilities of {printable(run.name)}: {spoken}")
        bars.append([{"height": round(40 * p, 1), "look": look(k, face.label, said)}
                     for k, p in enumerate(probabilities)])  # fmt: skip
    return {**row, "picture": pictures.get(face.path), "bars": bars, "labels": labels}


def look(k, label, said):
    """The style of a class's bar."""
    return " ".join(name for name, own in (("is-true", k == label), ("is-predicted", k == said)) if own)
