"""What each section of a report says, as plain values for the template. None stands for a section without data."""

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.bootstrap import resampled_means, tails
from evaluation.calibration import (
    BINS,
    apply_temperature,
    brier_score,
    cross_fitted_temperatures,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from evaluation.metrics import METRICS, compute_metrics, largest_class, mean_and_std, single_answer
from evaluation.subgroups import LEAST_FACES, LEAST_PEOPLE, image_statistics, subgroups
from report.charts import Chart, Line, Scale
from report.gallery import image_size
from report.published import published_results
from utils.cli import printable

DRAWS = 2000
CHUNK = 1024  # images
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
COLUMN_TITLES = {
    "label": "true class",
    "yaw": "head turned, degrees",
    "score": "detector score",
    "album_size": "faces in the album",
    "image_size": "image size, pixels",
    "brightness": "brightness",
    "sharpness": "sharpness",
}
EPOCHS = Scale("epoch", whole=True)
GENDERS = {"f": "female", "m": "male"}


def percent(fraction, digits=1):
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.{digits}f} %"


def show(name, value):
    """A metric's value; a missing one is a dash."""
    if value is None or value != value:
        return "–"
    return METRICS[name].show(value).replace("%", " %") if name in METRICS else percent(value, 2)


def cell(name, value, low=None, high=None):
    """A number of a table with its interval: {"value": "62.37 %", "interval": "58.10 to 66.02"}."""
    interval = "" if low is None or low != low else f"{bare(name, low)} to {bare(name, high)}"
    return {"value": show(name, value), "interval": interval}


def bare(name, value):
    return show(name, value).removesuffix(" %")


def results(study):
    """The table of models with intervals, the classes, the constant answer, and published figures."""
    pooled = study.pooled()
    if pooled is None:
        return None
    names = pooled.faces.class_names
    columns = {**{name: metric.title for name, metric in METRICS.items()}, "balanced": "balanced"}
    rows = [model_row(one.name, one.predictions, columns) for one in study.answers]
    summary = mean_row(study.answers, columns) if len(study.answers) > 1 else []
    values, low, high, classes = scores(pooled)
    if len(study.answers) > 1:
        cells = [cell(name, values[name], low[name], high[name]) for name in columns]
        summary.append({"name": "all faces together", "faces": f"{len(pooled.faces):,}", "cells": cells})
    largest, constant = largest_class(pooled.labels, len(names))
    constant["balanced"] = 1 / len(np.unique(pooled.labels))
    answer = single_answer(pooled.predicted, len(names))
    return {
        "columns": list(columns.values()),
        "rows": rows,
        "summary": summary,
        "headline": [
            {"title": columns[name], **cell(name, values[name], low[name], high[name])}
            for name in ("top1", "one_off", "mae", "balanced")
        ],
        "constant": {
            "name": f"always {names[largest]}",
            "faces": f"{len(pooled.faces):,}",
            "cells": [cell(name, constant.get(name)) for name in columns],
        },
        "warning": f"{names[answer]} is the answer for nearly every face: the model has learned little or diverged."
        if answer is not None else "",
        "classes": classes,
        "published": [
            {"system": system, "top1": f"{exact:.1f} %", "one_off": f"{near:.1f} %" if near else "–", "start": start}
            for system, exact, near, start in published_results(pooled.faces)
        ],
    }  # fmt: skip


def model_row(name, predictions, columns):
    values, low, high, _ = scores(predictions)
    cells = [cell(column, values[column], low[column], high[column]) for column in columns]
    return {"name": printable(name), "faces": f"{len(predictions.faces):,}", "cells": cells}


def mean_row(answers, columns):
    """Mean and standard deviation over the models, as one row."""
    every = [balanced_metrics(one.predictions) for one in answers]
    summary = mean_and_std({name: [values[name] for values in every] for name in columns})
    cells = [
        {"value": show(name, summary["mean"][name]), "interval": f"± {bare(name, summary['std'][name])}"}
        for name in columns
    ]
    return [{"name": "mean ± standard deviation", "faces": "", "cells": cells}]


def balanced_metrics(predictions):
    """The metrics, and the mean recall of the classes that occur."""
    confusion = predictions.confusion
    faces = confusion.sum(1)
    balanced = float((np.diag(confusion)[faces > 0] / faces[faces > 0]).mean())
    return {**predictions.metrics(), "balanced": balanced}


def scores(predictions, draws=DRAWS, seed=0):
    """Metrics, balanced accuracy and the classes' scores, with 95 % intervals of a bootstrap over people.

    Returns:
        ({name: value}, {name: low}, {name: high}, one row of the table of classes per class).
    """
    classes = np.arange(len(predictions.faces.class_names))
    true, said = predictions.labels[:, None] == classes, predictions.predicted[:, None] == classes  # (N, K)
    columns = [predictions.per_face(name)[:, None] for name in METRICS] + [true & said, true, said]
    samples = resampled_means(np.hstack(columns), predictions.faces.people, draws, seed)
    metrics, counts = samples[:, : len(METRICS)], samples[:, len(METRICS) :].reshape(draws, 3, -1)
    recall, f1 = recall_and_f1(*counts.transpose(1, 0, 2))  # (draws, K) each
    occurring = true.any(0)
    sampled = np.column_stack([metrics, np.nanmean(recall[:, occurring], axis=1)])
    low, high = np.quantile(sampled, tails(0.95), axis=0)
    values, names = balanced_metrics(predictions), [*METRICS, "balanced"]
    rows = class_rows(predictions, (true & said).sum(0), true.sum(0), said.sum(0), recall, f1)
    return values, dict(zip(names, low, strict=True)), dict(zip(names, high, strict=True)), rows


def recall_and_f1(hits, true, said):
    """Recall and F1 of each class, nan where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / true, 2 * hits / (true + said)


def class_rows(predictions, hits, true, said, recalls, f1s):
    """One row per class: faces, recall and F1 with intervals, and how often a neighbour is said at most."""
    recall, f1 = recall_and_f1(hits, true, said)
    near, rows = predictions.per_face("one_off"), []
    for k, name in enumerate(predictions.faces.class_names):
        own = predictions.labels == k
        row = {"name": name, "faces": f"{true[k]:,}", "said": f"{said[k]:,}"}
        for key, value, sampled in (("recall", recall[k], recalls[:, k]), ("f1", f1[k], f1s[:, k])):
            known = sampled[~np.isnan(sampled)]
            row[key] = cell(key, value, *(np.quantile(known, tails(0.95)) if own.any() and len(known) else ()))
        row["one_off"] = percent(near[own].mean(), 2) if own.any() else "–"
        rows.append(row)
    return rows


def confusion(study):
    """The cells of the confusion matrix, true class by row."""
    pooled = study.pooled()
    if pooled is None:
        return None
    counts, names = pooled.confusion, pooled.faces.class_names
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = []
    for true, name in enumerate(names):
        cells = [
            {
                "count": f"{counts[true, said]:,}",
                "share": f"{100 * shares[true, said]:.0f} %",
                "level": round(10 * float(shares[true, said])),
                "near": abs(true - said) <= 1,
                "true": true,
                "predicted": said,
                "label": f"true {name}, predicted {names[said]}",
            }
            for said in range(len(names))
        ]
        rows.append({"name": name, "cells": cells, "faces": f"{counts[true].sum():,}"})
    return {"names": list(names), "rows": rows}


def calibration(study):
    """Reliability and the scores of the probabilities before and after temperature scaling; risk against coverage."""
    pooled = study.pooled()
    if pooled is None:
        return None
    temperatures = temperatures_of(study, pooled)
    versions = {"before": pooled.probabilities}
    if temperatures:
        after = [
            apply_temperature(one.predictions.probabilities, temperature)
            for one, temperature in zip(study.answers, temperatures, strict=True)
        ]
        versions["after"] = np.concatenate(after)
    answers = pooled.labels, pooled.predicted
    rows = [
        {
            "name": f"{name} temperature scaling",
            "ece": percent(expected_calibration_error(*answers, probabilities), 2),
            "brier": f"{brier_score(pooled.labels, probabilities):.4f}",
            "nll": f"{compute_metrics(*answers, probabilities)['loss']:.4f}",
        }
        for name, probabilities in versions.items()
    ]
    coverages = {name: risk_coverage(*answers, probabilities) for name, probabilities in versions.items()}
    return {
        "bins": BINS,
        "rows": rows,
        "temperatures": [
            (printable(one.name), f"{value:.3f}") for one, value in zip(study.answers, temperatures, strict=False)
        ],
        "reading": temperature_reading(temperatures),
        "reliability": reliability_chart({name: reliability(*answers, p) for name, p in versions.items()}),
        "coverage": coverage_chart(coverages),
        "coverage_rows": coverage_rows(list(coverages.values())[-1]),
    }


def temperatures_of(study, pooled):
    """A temperature for each of the answers, none of which was fitted on the faces that it is for; [] where unknown.

    They are the models' own; of a run that is not finished, those that its finished folds give each other.
    """
    stored = [one.temperature for one in study.answers]
    if None not in stored:
        return stored
    folds = pooled.faces.table.fold
    firsts = [one.predictions.faces.table.fold.iloc[0] for one in study.answers]
    if len(set(firsts)) < len(firsts) or len(firsts) != folds.nunique():  # not one model per fold
        return []
    fitted = cross_fitted_temperatures(pooled.labels, pooled.probabilities, folds)
    return [fitted[fold] for fold in firsts] if fitted else []


def temperature_reading(temperatures):
    """What the temperatures say, in words."""
    if not temperatures:
        return ""
    if min(temperatures) > 1.02:
        return "All temperatures are over 1: the network is surer of itself than it should be."
    if max(temperatures) < 0.98:
        return "All temperatures are under 1: the network is less sure of itself than it could be."
    return "The temperatures are close to 1 or on both sides of it: overall the probabilities mean what they say."


def reliability_chart(tables):
    lines = [Line([0, 1], [0, 1], plain=True)]
    for (name, table), colour in zip(tables.items(), (0, 1), strict=False):
        look = {"colour": colour, "dotted": name == "after", "points": True}
        lines.append(Line(table.confidence, table.accuracy, f"{name} scaling", **look))
    words = "; ".join(
        f"{name}: " + ", ".join(f"{row.confidence:.0%} said, {row.accuracy:.0%} right" for row in table.itertuples())
        for name, table in tables.items()
    )
    x, y = (Scale(title, "{:.0%}".format, 0, 1) for title in ("confidence", "share that is right"))
    return Chart("Reliability", lines, x, y, f"Reliability diagram. {words}.")


def coverage_chart(curves):
    lines = []
    for (name, (coverage, accuracy)), colour in zip(curves.items(), (0, 1), strict=False):
        kept = np.unique(np.linspace(0, len(coverage) - 1, 160).round().astype(int))
        kept = kept[coverage[kept] >= min(0.05, coverage[-1])]  # of a few faces the accuracy says nothing
        look = {"colour": colour, "dotted": name == "after"}
        lines.append(Line(coverage[kept], accuracy[kept], f"{name} scaling", **look))
    x = Scale("share of faces that are answered", "{:.0%}".format, 0, 1)
    y = Scale("top-1 of these", "{:.0%}".format, high=1)
    words = "Accuracy against the share of faces that are answered; the table below has the numbers."
    return Chart("Accuracy against coverage", lines, x, y, words)


def coverage_rows(curve):
    """The accuracy at some coverages: the first point of the curve that answers at least so many faces."""
    coverage, accuracy = curve
    positions = [min(int(np.searchsorted(coverage, share - 1e-9)), len(coverage) - 1) for share in COVERAGES]
    return [(percent(share, 0), percent(accuracy[at], 1)) for share, at in zip(COVERAGES, positions, strict=True)]


def groups(study):
    """The table of subgroups."""
    table = subgroup_table(study)
    if table is None:
        return None
    blocks = [
        {"title": COLUMN_TITLES.get(column, column), "rows": [group_row(row) for row in part.to_dict("records")]}
        for column, part in table.groupby("column", sort=False)
    ]
    marked = int(table.marked.sum())
    return {"blocks": blocks, "marked": marked, "least_faces": LEAST_FACES, "least_people": LEAST_PEOPLE}


def subgroup_table(study, columns=None):
    """The table of `subgroups`, over the faces of all models; None without any.

    Args:
        columns: names in COLUMNS or other columns of the faces; None takes all of COLUMNS that can be had.
    """
    pooled = study.pooled(distinct=True)
    if pooled is None:
        return None
    extra = pd.DataFrame(index=range(len(pooled.faces)))
    if columns is None or {"brightness", "sharpness"} & set(columns):
        extra = pd.concat([extra, statistics_of(study)], axis=1)
    if columns is None or "image_size" in columns:
        extra = pd.concat([extra, photograph_sizes(study)], axis=1)
    return subgroups(pooled, columns, extra, draws=DRAWS)


def photograph_sizes(study):
    """A table with width and height of the photographs of `study.pooled(distinct=True)`, NaN for one that cannot be
    read; None where their folder is not known."""
    folders = {one.image_dir for one in study.answers}
    if len(folders) != 1 or "" in folders:
        return None
    (folder,) = folders
    sizes = [image_size(Path(folder) / path) for path in study.pooled(distinct=True).faces.table.path]
    return pd.DataFrame(sizes, columns=["width", "height"], dtype=float)


def statistics_of(study):
    """Brightness and sharpness of the faces of `study.pooled(distinct=True)`; None where images are missing."""
    if any(one.images is None for one in study.answers):
        return None
    every = pd.concat([statistics_of_faces(one.images, one.predictions.faces.table.index) for one in study.answers])
    repeated = study.pooled().faces.table.path.duplicated().to_numpy()
    return every[~repeated].reset_index(drop=True)


def statistics_of_faces(images, rows):
    """`image_statistics` of some rows of the cache, which is read in its order and in chunks."""
    order = np.argsort(rows)
    rows = np.asarray(rows)[order]
    chunks = [image_statistics(images[rows[start : start + CHUNK]]) for start in range(0, len(rows), CHUNK)]
    return pd.concat(chunks).iloc[np.argsort(order)]


def group_row(row):
    name = GENDERS.get(row["group"], row["group"])
    shown = {
        "name": printable(name),
        "faces": f"{row['faces']:,}",
        "people": f"{row['people']:,}",
        "too_few": row["too_few"],
        "marked": row["marked"],
    }
    if row["too_few"]:
        return shown
    cells = [
        cell(metric, row[metric], row[f"{metric}_low"], row[f"{metric}_high"]) for metric in ("top1", "one_off", "mae")
    ]
    gap = f"{100 * row['gap']:+.1f}".replace("-", "−") if row["gap"] == row["gap"] else "–"
    p = row["p_corrected"]
    return {
        **shown,
        "cells": cells,
        "ece": percent(row["ece"], 1),
        "gap": gap,
        "p": "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "worse": row["gap"] < 0,
    }


def training(study):
    """The learning curves of all folds, learning rate and GridMask below, and how fast it was."""
    if not study.history:
        return None
    tables = {fold: pd.DataFrame(rows) for fold, rows in study.history.items()}
    charts = [curve(tables, name, metric) for name, metric in METRICS.items()]
    first = tables[max(tables, key=lambda fold: len(tables[fold]))]
    for title, column, scale in (
        ("Learning rate", "lr", Scale(log=True)),
        ("GridMask probability", "gridmask_prob", Scale(show="{:.2g}".format)),
    ):
        values = first[column].clip(lower=1e-12) if scale.log else first[column]
        words = f"{title}: {values.iloc[0]:.3g} in the first epoch, {values.iloc[-1]:.3g} in the last one."
        charts.append(Chart(title, [Line(first.epoch + 1, values, colour=5)], EPOCHS, scale, words))
    rows = [
        {
            "fold": f"fold {fold}",
            "epochs": f"{len(table):,} of {study.epochs:,}",
            "seconds": f"{table.seconds.sum():,.0f} s",
            "speed": f"{table.images_per_second.median():,.0f}",
            "train": percent(table.train_top1.iloc[-1], 2),
            "test": percent(table.test_top1.iloc[-1], 2),
        }
        for fold, table in tables.items()
    ]
    return {"charts": charts, "rows": rows}


def curve(tables, name, metric):
    """A metric of the held-out folds over the epochs, and of the training faces, dotted, where the log has it."""
    lines, words = [], []
    for fold, table in tables.items():
        epochs, colour, held_out = table.epoch + 1, fold % 5, table[f"test_{name}"]
        if f"train_{name}" in table:
            lines.append(Line(epochs, table[f"train_{name}"], colour=colour, dotted=True))
        lines.append(Line(epochs, held_out, f"fold {fold}", colour))
        words.append(f"fold {fold} from {metric.show(held_out.iloc[0])} to {metric.show(held_out.iloc[-1])}")
    percentages = metric.format.endswith("%")
    highest = None
    if name == "loss":  # a spike of the held-out loss would flatten everything else
        highest = 1.2 * max(max(table.train_loss.max(), table.test_loss.iloc[-1]) for table in tables.values())
    scale = Scale(show="{:.0%}".format if percentages else "{:g}".format, low=None if percentages else 0, high=highest)
    return Chart(metric.title, lines, EPOCHS, scale, f"{metric.title} of the held-out folds: {'; '.join(words)}.")
