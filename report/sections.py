"""The sections of the page, in order: each is a function here and a macro in templates/sections.html."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from data.adience import is_adience
from evaluation.bootstrap import LEAST_PEOPLE, TAILS, resampled_means
from evaluation.calibration import BINS, brier_score, reliability, risk_coverage
from evaluation.evaluation import pool
from evaluation.metrics import METRICS, Metric, largest_class, per_class
from evaluation.paired import paired_difference
from evaluation.subgroups import LEAST_FACES, SHOWN, gap_words
from evaluation.threshold import roc, threshold_table
from models import create_model
from models.network import layer_groups
from report import plots
from report.data import subgroup_table, with_temperatures
from report.errors import safe
from report.gallery import mean_maps
from report.labels import repeated_pictures, suspect_labels
from report.svg import page_svg
from report.tables import NO_CERTIFICATE, warnings_of
from utils.cli import p_value, percent, printable
from utils.errors import UserError

OVER = 18  # years; test_code.py --over prints other ages
WITHIN = (1, 2, 3, 5, 7, 10)  # years
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
COLUMN_TITLES = {
    "label": "true class",
    "yaw": "head turned, degrees",
    "score": "detector score",
    "album_size": "faces in the album",
    "image_size": "image size, pixels",
}
GENDERS = {"f": "female", "m": "male"}
FRACTION = Metric(None, ".2%", "balanced")
SCORES = {**METRICS, "balanced": FRACTION}
HEADLINE, AGE_HEADLINE = ("top1", "one_off", "mae", "balanced"), ("mae_years", "cs5", "bias_years", "coverage")
# System, top-1 and one-off in percent (None: not given), initial weights.
PUBLISHED = [
    ("Eidinger et al. 2014", 45.1, 79.5, "no network"),
    ("Levi and Hassner 2015, one crop", 49.5, 84.6, "random weights"),
    ("Levi and Hassner 2015, ten crops", 50.7, 84.7, "random weights"),
    ("the original of this system, mean over epochs and folds", 55.80, None, "random weights"),
    ("the original of this system, its fold-0 model alone", 62.06, 80.35, "random weights"),
    ("DEX 2016", 64.0, 96.6, "ImageNet and IMDB-WIKI"),
    ("SORD 2019", 59.6, None, "pretrained weights"),
    ("MWR 2022", 62.6, None, "pretrained weights"),
    ("MiVOLO 2023", 68.7, None, "a larger data set"),
]


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        name: its address on the page, and the name of its macro in templates/sections.html.
        title: its heading.
        content: a function of the ReportData that returns the values for the macro as a dict, or None without data.
            Its entry `figures`, {stem: matplotlib figure}, is written beside the page.
        needs: the attribute of the ReportData without which the function is not called; "" if there is none.
        missing: the sentence that stands there without data.
    """

    name: str
    title: str
    content: Callable
    needs: str
    missing: str

    def values(self, data):
        """The values for the macro; None without data."""
        return self.content(data) if not self.needs or getattr(data, self.needs) else None


# The functions of the sections, each from the ReportData to the values for its macro.


def about(data):
    """Facts and command."""
    return {"facts": data.facts, "command": data.command}


def results(data):
    """The table of models with intervals, the classes, the constant answer, and published figures."""
    pooled = pool(data.evaluations)
    names = [*pooled.metric_names, "balanced"]
    scored = SCORES | ({} if pooled.coarse() is pooled else {"balanced": FRACTION._replace(title="balanced, decades")})
    metrics, headline = [scored[name] for name in names], AGE_HEADLINE if "mae_years" in names else HEADLINE
    known = "mae_years" in pooled.metric_names
    evaluations = [dataclasses.replace(evaluation, whole_has_ages=known) for evaluation in data.evaluations]
    models, together = list(map(scores, evaluations)), scores(pooled)
    rows = [
        score_row(metrics, printable(evaluation.name), len(evaluation), found)
        for evaluation, found in zip(data.evaluations, models, strict=True)
    ]
    summary = []
    if len(models) > 1:
        values = np.array([found[0] for found in models])
        mean = score_row(metrics, "mean ± standard deviation", "", [values.mean(0)])
        for shown, metric, deviation in zip(mean["cells"], metrics, values.std(0, ddof=1), strict=False):
            shown["interval"] = f"± {bare(metric, deviation).lstrip('+')}"
        summary = [mean, score_row(metrics, "all faces together", len(pooled), together)]
    largest, constant = largest_class(pooled.labels, len(pooled.classes))
    constant["balanced"] = 1 / len(np.unique(pooled.coarse().labels))
    constant = [[constant.get(name) for name in names]]
    summary.append(score_row(metrics, f"always {pooled.classes.names[largest]}", len(pooled), constant))
    return {
        "columns": [metric.title for metric in metrics],
        "rows": rows,
        "summary": summary,
        "headline": [
            {"title": SCORES[name].title, **cell(SCORES[name], *together[:, names.index(name)])} for name in headline
        ],
        "warnings": warnings_of(pooled),
        "classes": class_rows(pooled.coarse(), together[:, len(names) :]),
        "published": PUBLISHED if is_adience(pooled.faces) else [],
    }


def scores(evaluation):
    """The scores of a model and of each class, with 95 % intervals of a bootstrap over people.

    Balanced accuracy is the mean recall of the classes that occur. Many single years are taken by decade.

    Returns:
        float (3, M + 2 K): the value, low and high of the M metrics, the balanced accuracy among them, of each class's
        recall and of each class's F1. NaN where there is nothing to divide by.
    """
    names, coarse = evaluation.metric_names, evaluation.coarse()
    classes = np.arange(len(coarse.classes))
    true, predicted = coarse.labels[:, None] == classes, coarse.predicted[:, None] == classes  # (N, K)
    columns = [evaluation.per_face(name)[:, None] for name in names] + [true & predicted, true, predicted]
    faces = np.hstack(columns).astype(float)  # (N, M - 1 + 3 K)
    samples = np.vstack([faces.mean(0), resampled_means(faces, evaluation.faces.people)])
    metrics, counts = np.split(samples, [len(names)], axis=1)
    metrics = np.column_stack([METRICS[name].finish(column) for name, column in zip(names, metrics.T, strict=True)])
    hits, labelled, answers = np.split(counts, 3, axis=1)  # (1 + draws, K)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = hits / labelled, 2 * hits / (labelled + answers)
    balanced = np.nanmean(recall[:, true.any(0)], axis=1)
    found = pd.DataFrame(np.column_stack([metrics, balanced, recall, f1]))
    # Quantiles of a table leave out samples without a face of the class.
    interval = found.iloc[1:].quantile(TAILS)
    if evaluation.faces.people.nunique() < LEAST_PEOPLE:
        interval[:] = np.nan
    return np.vstack([found.iloc[0], interval])


def score_row(metrics, name, faces, found):
    """A row of a table of metrics from their values, low and high ends, as of `scores`, or from the values alone."""
    cells = [cell(*column) for column in zip(metrics, *found, strict=False)]
    return {"name": name, "faces": f"{faces:,}" if faces else "", "cells": cells}


def cell(metric, value, low=None, high=None):
    """A number of a table with its interval: {"value": "62.37 %", "interval": "58.10 to 66.02"}."""
    interval = "" if low is None or low != low else f"{bare(metric, low)} to {bare(metric, high)}"
    return {"value": metric.show(value).replace("%", " %"), "interval": interval}


def bare(metric, value):
    """A number without its unit."""
    return metric.show(value).removesuffix("%")


def class_rows(evaluation, found):
    """One row per class: faces, predictions, recall and F1 with intervals, one-off.

    Args:
        found: of `scores`, recall and F1 only.
    """
    (faces, _, near), predicted = per_class(evaluation.confusion), evaluation.confusion.sum(0)
    recall, f1 = np.split(found, 2, axis=1)  # (3, K)
    return [
        {
            "name": name,
            "faces": f"{faces[k]:,}",
            "predicted": f"{predicted[k]:,}",
            "recall": cell(FRACTION, *recall[:, k]),
            "f1": cell(FRACTION, *f1[:, k]),
            "one_off": percent(near[k], 2),
        }
        for k, name in enumerate(evaluation.classes.names)
    ]


def confusion(data):
    """The cells of the confusion matrix, true class by row."""
    exact = pool(data.evaluations)
    pooled = exact.coarse()
    counts, names = pooled.confusion, pooled.classes.names
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = []
    for true, name in enumerate(names if len(names) <= plots.MOST_NUMBERED else ()):
        cells = [
            {
                "count": f"{counts[true, predicted]:,}",
                "fraction": percent(fractions[true, predicted]),
                "level": round(10 * float(fractions[true, predicted])),
                "near": abs(true - predicted) <= 1,
                "true": true,
                "predicted": predicted,
                "label": f"true {name}, predicted {names[predicted]}",
            }
            for predicted in range(len(names))
        ]
        rows.append({"name": name, "cells": cells, "faces": f"{counts[true].sum():,}"})
    title = "all held-out faces" if pooled is exact else "all held-out faces by decade"
    figure = plots.plot_confusion(counts, names, title)
    return {"names": list(names), "rows": rows, "figures": {"confusion": figure}}


def mistakes(data):
    """The choices of the gallery's filter; page.py adds the faces."""
    return {
        "names": data.evaluations[0].classes.coarse().names,
        "years": "mae_years" in pool(data.evaluations).metric_names,
        "judged_by": data.evaluations[0].judged_by,
    }


def saliency(data):
    """The mean face of each class and the mean map of the regions that speak for it."""
    maps = mean_maps(data.evaluations)
    return {"maps": maps} if maps else None


def calibration(data):
    """Reliability and the scores of the probabilities before and after temperature scaling; accuracy by coverage."""
    pooled = pool(data.evaluations)
    scaled = with_temperatures(data.evaluations)
    versions = {"before": pooled}
    if scaled:
        probabilities = np.concatenate([evaluation.calibrated for evaluation in scaled])
        versions["after"] = dataclasses.replace(pooled, probabilities=probabilities)
    bins = {name: reliability(pooled.labels, pooled.predicted, v.probabilities) for name, v in versions.items()}
    curves = {name: risk_coverage(pooled.labels, pooled.predicted, v.probabilities) for name, v in versions.items()}
    figure = plots.plot_calibration(bins, curves)
    return {
        "bins": BINS,
        "rows": [
            {
                "name": f"{name} temperature scaling",
                "ece": percent(evaluation.calibration()["ece"], 2),
                "brier": f"{brier_score(evaluation.labels, evaluation.probabilities):.4f}",
                "nll": f"{evaluation.metrics()['loss']:.4f}",
            }
            for name, evaluation in versions.items()
        ],
        "temperatures": [(printable(evaluation.name), f"{evaluation.temperature:.3f}") for evaluation in scaled],
        "reading": temperature_reading([evaluation.temperature for evaluation in scaled]),
        "coverage": coverage_cells(*list(curves.values())[-1]),
        "chart": page_svg(figure, "calibration", calibration_words(bins)),
        "figures": {"calibration": figure},
    }


def calibration_words(bins):
    tables = "; ".join(
        f"{name} scaling: " + ", ".join(f"confidence {row.confidence:.0%}, {row.accuracy:.0%} right" for row in table)
        for name, table in bins.items()
    )
    return f"Reliability diagram. {tables}. Accuracy against coverage: the table below has its numbers."


def temperature_reading(temperatures):
    """The meaning of the temperatures in words."""
    if not temperatures:
        return ""
    if min(temperatures) > 1.02:
        return "All temperatures are over 1: the network is more confident than it should be."
    if max(temperatures) < 0.98:
        return "All temperatures are under 1: the network is less confident than it could be."
    return "The temperatures are close to 1 or on both sides of it: scaling changes little."


def coverage_cells(coverage, accuracy):
    """(Coverage, accuracy) as text: for some coverages, the first point of the curve with at least so many faces."""
    positions = [min(int(np.searchsorted(coverage, wanted - 1e-9)), len(coverage) - 1) for wanted in COVERAGES]
    return [(percent(wanted), percent(accuracy[k], 1)) for wanted, k in zip(COVERAGES, positions, strict=True)]


def ages(data):
    """Errors in years by decade of the true age, and how many faces are within so many years."""
    pooled = pool(data.evaluations)
    if "mae_years" not in pooled.metric_names:
        return None
    names = ("mae_years", "bias_years", "cs5", "coverage")
    values = {name: pooled.per_face(name) for name in names}
    decades, people = (pooled.faces.ages // 10 * 10).astype(int), pooled.faces.people
    groups = {f"{start} to {start + 9}": decades == start for start in np.unique(decades)}
    metrics, rows = [METRICS[name] for name in names], []
    for name, mask in {**groups, "all": decades >= 0}.items():
        found = [paired_difference(each[mask], 0, people[mask]) for each in values.values()]
        rows.append(score_row(metrics, name, mask.sum(), np.transpose(found)))
    figure = plots.plot_ages(pooled.faces.ages, pooled.ages[0])
    shares = [percent(np.mean(values["mae_years"] <= years), 1) for years in WITHIN]
    within = list(zip(WITHIN, shares, strict=True))
    words = f"Predicted against true age. {'; '.join(f'within {years} years: {share}' for years, share in within)}."
    return {
        "columns": [metric.title for metric in metrics],
        "rows": rows,
        "within": within,
        "chart": page_svg(figure, "ages", words),
        "figures": {"ages": figure},
    }


def threshold(data):
    """How many younger faces pass for an age or older, by challenge age, or the problem that prevents it."""
    pooled = pool(data.evaluations)
    try:
        table = threshold_table(pooled, OVER)
    except UserError as error:
        return {"problem": str(error).partition(": ")[2], "age": OVER, "note": NO_CERTIFICATE}
    rows = [
        score_row([FRACTION] * len(own), group, own.faces.iloc[0], own[["share", "low", "high"]].to_numpy().T)
        for group, own in table.groupby("group", sort=False)
    ]
    figure = plots.plot_roc(*roc(pooled, OVER), OVER)
    words = f"Share of faces of {OVER} years or older that pass against that of younger ones."
    chart = page_svg(figure, "threshold", words)
    challenges = [int(age) for age in table.challenge.unique()]
    return {"problem": "", "age": OVER, "challenges": challenges, "rows": rows, "chart": chart, "note": NO_CERTIFICATE,
            "figures": {"threshold": figure}}  # fmt: skip


def groups(data):
    """The table of subgroups."""
    table = subgroup_table(data)
    blocks = [
        {"title": COLUMN_TITLES.get(column, column), "rows": list(map(group_row, rows.to_dict("records")))}
        for column, rows in table.groupby("column", sort=False)
        if len(rows) > 1
    ]
    metric = table.metric.iloc[0]
    return {
        "blocks": blocks,
        "marked": int(table.marked.sum()),
        "compared": int(table.p.notna().sum()),
        "titles": [METRICS[name].title for name in SHOWN[metric]],
        "gap": gap_words(metric),
        "least_faces": LEAST_FACES,
        "least_people": LEAST_PEOPLE,
    }


def group_row(row):
    """A row of `subgroups` for the page; the numbers that a small group lacks are dashes."""
    gap, metric = row["gap"], row["metric"]
    return {
        **row,
        "name": printable(GENDERS.get(row["group"], row["group"])),
        "cells": [cell(METRICS[name], row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in SHOWN[metric]],
        "ece": percent(row["ece"], 1),
        "gap": METRICS[metric].show_difference(gap, 1).replace("-", "−"),
        "p": p_value(row["p_corrected"]),
        "worse": (gap > 0) == METRICS[metric].lower_is_better,
    }


def training(data):
    """The learning curves of all folds, and the time and speed of each."""
    tables = {fold: pd.DataFrame(rows) for fold, rows in data.history.items()}
    figure = plots.plot_learning_curves(data.history)
    rows = [
        {
            "fold": f"fold {fold}",
            "epochs": f"{len(table):,} of {data.epochs:,}",
            "seconds": f"{table.seconds.sum():,.0f} s",
            "speed": f"{table.images_per_second.median():,.0f}",
            "train": percent(table.train_top1.iloc[-1], 2),
            "test": percent(table.test_top1.iloc[-1], 2),
        }
        for fold, table in tables.items()
    ]
    chart = page_svg(figure, "learning-curves", learning_words(tables))
    return {"rows": rows, "chart": chart, "figures": {"learning_curves": figure}}


def learning_words(tables):
    words = []
    for name, metric in METRICS.items():
        logged = {fold: table[f"test_{name}"] for fold, table in tables.items() if f"test_{name}" in table}
        ends = (f"fold {k} from {metric.show(v.iloc[0])} to {metric.show(v.iloc[-1])}" for k, v in logged.items())
        words += [f"{metric.title} of the held-out folds: {'; '.join(ends)}."] if logged else []
    first = next(iter(tables.values()))
    for title, column in (("Learning rate", "lr"), ("GridMask probability", "gridmask_prob")):
        words.append(f"{title}: {first[column].iloc[0]:.3g} in the first epoch, {first[column].iloc[-1]:.3g} at last.")
    return " ".join(words)


def parameters(data):
    """Histograms of the parameters of each model, by group of layers."""
    found, figures = [], {}
    for number, evaluation in enumerate(data.evaluations):
        if values := parameter_values(evaluation.model):
            name = printable(evaluation.name)
            figure = plots.plot_parameters(values, name)
            words = (
                f"{group}: standard deviation {own.std():.4f}, untrained {untrained.std():.4f}"
                for group, (own, untrained) in values.items()
            )
            found.append({"name": name, "chart": page_svg(figure, f"parameters-{number}", "; ".join(words))})
            figures[f"parameters_{safe(evaluation.name)}"] = figure
    return {"models": found, "figures": figures} if found else None


def parameter_values(model):
    """{group of layers: (values (N,), those of an untrained network)}; {} for a model that cannot be made anew."""
    if model is None or not model.description:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = create_model(**model.description)
    own, other = (
        {
            name: torch.cat([p.detach().flatten() for p in layers.parameters()]).float().cpu().numpy()
            for name, layers in groups
        }
        for groups in (layer_groups(model).items(), layer_groups(untrained).items())
    )
    return {name: (own[name], other[name]) for name in own}


UNFINISHED = "No fold is finished yet, so there is nothing to show."
SECTIONS = [
    Section("about", "About", about, "facts", "Nothing is recorded about the origin of this report."),
    Section("results", "Results", results, "evaluations", UNFINISHED),
    Section("confusion", "Confusion matrix", confusion, "evaluations", UNFINISHED),
    Section("gallery", "Mistakes", mistakes, "evaluations", UNFINISHED),
    Section("saliency", "Saliency", saliency, "", "There are no images at hand, or no network with feature maps."),
    Section("calibration", "Calibration", calibration, "evaluations", UNFINISHED),
    Section(
        "ages", "Age in years", ages, "evaluations", "The ages of these faces are not known, or no fold is finished."
    ),
    Section("threshold", "As a threshold", threshold, "evaluations", UNFINISHED),
    Section("groups", "Subgroups", groups, "evaluations", UNFINISHED),
    Section("labels", "Suspect labels", suspect_labels, "evaluations", UNFINISHED),
    Section("pairs", "Pictures with two labels", repeated_pictures, "faces", "No such pair is among these faces."),
    Section("training", "Training", training, "history", "Nothing is recorded about the training."),
    Section("parameters", "Parameters", parameters, "", "No network is at hand, so there are no parameters."),
]
