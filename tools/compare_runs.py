"""Compare finished runs on the same faces with the first of them, the reference.

    python -m tools.compare_runs A B [C ...] [--output changes.csv] [--tex table.tex]

Prints the differences of every metric, fold by fold and for all faces together, with intervals over people and
McNemar's test. The CSV file has one row per face and run; the faces whose true class changed most come first. --tex
writes the table of a paper: a row per method, where runs that differ in nothing but the seed are one.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data.faces import Faces
from evaluation.bootstrap import LEAST_PEOPLE
from evaluation.evaluation import FACE_COLUMNS, Evaluation
from evaluation.metrics import METRICS
from evaluation.paired import mcnemar, paired_difference, paired_test
from training.config import FREE_TO_CHANGE
from training.results import read_results
from utils.cli import p_value, printable, run_script
from utils.errors import UserError
from utils.files import check_output, refuse_overlaps, write_csv, write_text
from utils.latex import latex_table
from utils.options import Parser
from utils.reading import starts_with

CHANGES = ("right → wrong", "wrong → right", "both wrong, differently")
CSV_COLUMNS = "run path fold person label first second p_first p_second gain change".split()
MARK = "% tools.compare_runs\n"
SEED = re.compile(r"[_-]s(?:eed)?[_-]?\d+$")  # at the end of a run's name
WIDTH = 17  # characters of a column of the printed table


def main():
    parser = Parser(prog="python -m tools.compare_runs", description=__doc__.splitlines()[0])
    parser.add_argument("reference", metavar="A", help="run directory of main.py, the reference")
    parser.add_argument("runs", metavar="B", nargs="+", help="run directories to compare with it")
    parser.add_argument("--output", metavar="FILE", default="changes.csv", help="CSV file (default: changes.csv)")
    parser.add_argument("--tex", metavar="FILE", help="also write a LaTeX table of the methods (needs booktabs)")
    options = parser.parse_args()
    refuse_overlaps({"--output": options.output, "--tex": options.tex})
    check_output(options.tex, lambda path: starts_with(path, MARK), "a table of tools.compare_runs")
    check_output(options.output, lambda path: starts_with(path, ",".join(CSV_COLUMNS)), "our comparison of runs")
    runs = read_runs([options.reference, *options.runs])
    reference, *others = (evaluation for evaluation, _ in runs)
    print(comparison_table(reference, others), flush=True)
    write_csv(options.output, pd.concat([face_changes(reference, run) for run in others])[CSV_COLUMNS])
    print(f"\nwrote {printable(options.output)}")
    if options.tex is not None:
        write_text(options.tex, paper_table(method_table(by_settings(runs))))
        print(f"wrote {printable(options.tex)}")


def read_runs(folders):
    """Read runs on the same faces, as far as the folds that all of them have.

    Args:
        folders: run directories, the reference first.

    Returns:
        A list of (Evaluation, content of results.json); the faces of all have one order.

    Raises:
        UserError: a run is damaged, has no finished fold, has other data than the first one, or is given twice; or no
            fold is in all runs.
    """
    finished = [read_results(folder) for folder in folders]
    shared = shared_folds(folders, [results for results, _ in finished])
    names = [Path(folder).resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else map(str, folders)
    runs, data, digests = [], [], {}
    for number, (name, folder, (results, evaluation)) in enumerate(zip(names, folders, finished, strict=True)):
        results = {**results, "folds": [fold for fold in results["folds"] if fold["fold"] in shared]}
        evaluation = evaluation.where(evaluation.faces.table.fold.isin(shared))
        settings, size = without_seed(results), results["settings"].get("image_size")
        for fold in results["folds"]:
            key = settings, fold["predictions_sha256"]  # a setting may change nothing
            if (known := digests.setdefault(key, number)) != number:
                problem = f"'{folder}' and '{folders[known]}' have the same predictions for fold {fold['fold']}"
                raise UserError(f"{problem}: they are one run, given twice, copied or repeated")
        data.append((size, results["data_fingerprint"]))
        order = np.argsort(evaluation.faces.table.path.to_numpy(), kind="stable")
        faces = Faces(evaluation.faces.table.iloc[order].reset_index(drop=True), evaluation.classes)
        predictions = {"probabilities": evaluation.probabilities[order], "predicted": evaluation.predicted[order]}
        runs.append((Evaluation(faces, **predictions, name=name), results))
        first, same_pixels = runs[0][0].faces, data[-1] == data[0] or size != data[0][0]
        if faces.classes.names != first.classes.names:
            raise UserError(f"'{folder}' has other classes than '{folders[0]}'")
        if not same_pixels or not faces.table[FACE_COLUMNS].equals(first.table[FACE_COLUMNS]):
            problem = f"'{folder}' saw other faces, labels or pixels than '{folders[0]}'"
            raise UserError(f"{problem}: both need the same files and label policy")
    sizes = dict.fromkeys(str(size) for size, _ in data)
    if len(sizes) > 1:
        print(f"note: trained at {', '.join(sizes)} px; that the photographs are the same is known by their paths only")
    return runs


def shared_folds(folders, results):
    """The folds that all runs have finished; a note says where one has more. Raises UserError where there is none."""
    folds = [{fold["fold"] for fold in own["folds"]} for own in results]
    shared = set.intersection(*folds)
    if not shared:
        listed = (" ".join(map(str, sorted(own))) or "none" for own in folds)
        shown = ", ".join(f"'{folder}' has {own}" for folder, own in zip(folders, listed, strict=True))
        raise UserError(f"no fold is finished in all of these runs: {shown}")
    if any(own != shared for own in folds):
        print(f"note: compared on fold {' '.join(map(str, sorted(shared)))}, which all of them have finished")
    return shared


def compare(reference, run):
    """The differences of two Evaluations of the same faces: in each fold, then in all faces together.

    Returns:
        A list of dicts with name; differences, {name of METRICS: (run - reference, low, high)}; lost and gained, how
        many faces only the reference and only the run gets right; p of McNemar's test.
    """
    folds, rows = reference.faces.table.fold.to_numpy(), []
    masks = {f"fold {fold}": folds == fold for fold in np.unique(folds)}
    for name, mask in masks.items() if len(masks) == 1 else {**masks, "all faces": folds >= 0}.items():
        first, second = reference.where(mask), run.where(mask)
        before, after = (evaluation.predicted == evaluation.labels for evaluation in (first, second))
        counts = {"lost": int((before & ~after).sum()), "gained": int((~before & after).sum())}
        differences = {
            name: paired_difference(second.per_face(name), first.per_face(name), first.faces.people)
            for name in reference.paired_metrics
        }
        rows.append({"name": name, "differences": differences, **counts, "p": mcnemar(before, after)})
    return rows


def face_changes(reference, run):
    """One row per face, the faces first whose true class changed most in probability.

    Returns:
        A table of CSV_COLUMNS: label, first and second are the names of the true and the predicted classes, p_first
        and p_second the probabilities of the true class; change is one of CHANGES, or "" for the same prediction.
    """
    labels, names = reference.labels, np.array(reference.classes.names)
    before, after = (evaluation.predicted == labels for evaluation in (reference, run))
    kinds = [before & ~after, ~before & after, ~before & ~after & (reference.predicted != run.predicted)]
    rows = np.arange(len(labels))
    first, second = (evaluation.probabilities[rows, labels].astype(float) for evaluation in (reference, run))
    table = reference.faces.table[["path", "fold", "person"]].assign(
        run=run.name,
        label=names[labels],
        first=names[reference.predicted],
        second=names[run.predicted],
        p_first=first,
        p_second=second,
        gain=second - first,
        change=np.select(kinds, CHANGES, ""),
    )
    return table.iloc[np.lexsort((table.path, -table.gain.abs()))]


def comparison_table(reference, others):
    """The differences of Evaluations from the reference as the table that is printed."""
    name = printable(reference.name)
    metrics = {name: METRICS[name] for name in reference.paired_metrics}
    titles = "".join(f"{metric.title:>{WIDTH}}" for metric in metrics.values())
    lines = [
        f"differences from {name}, percentages in points; below them 95 % intervals, bootstrap over at least"
        f" {LEAST_PEOPLE} people",
        f"{'':11}{titles}    lost  gained  McNemar p",
    ]
    for run in others:
        lines.append(printable(run.name))
        for row in compare(reference, run):
            shown = [map(metric.show_difference, row["differences"][name]) for name, metric in metrics.items()]
            values, intervals = zip(*((value, f"{low} to {high}") for value, low, high in shown), strict=True)
            p = "< 0.0001" if row["p"] < 0.0001 else f"{row['p']:.4f}"
            counts = f"{row['lost']:>8,}{row['gained']:>8,}{p:>11}"
            lines.append(f"  {row['name']:9}{''.join(f' {value:>{WIDTH - 1}}' for value in values)}{counts}")
            lines.append(f"{'':11}{''.join(f' {interval:>{WIDTH - 1}}' for interval in intervals)}")
    return "\n".join([*lines, f"lost: faces that only {name} gets right; gained: faces that only the run does"])


def without_seed(results):
    """The settings of results.json that change what is learned, but for the seed, as text."""
    settings = {name: value for name, value in results["settings"].items() if name not in ("seed", *FREE_TO_CHANGE)}
    return json.dumps(settings, sort_keys=True)


def by_settings(runs):
    """Runs of `read_runs` as a list of (method, its runs): those that differ in nothing but the seed are one method."""
    methods = {}
    for run in runs:
        methods.setdefault(without_seed(run[1]), []).append(run)
    return [(SEED.sub("", own[0][0].name) or own[0][0].name, own) for own in methods.values()]


def method_table(methods):
    """One row per method: its metrics, and its differences from the first method.

    Args:
        methods: (name, runs of `read_runs`) of each; all are on the same faces.

    Returns:
        A table with method and runs; for each metric its mean over folds and seeds and, as METRIC_deviation, the
        standard deviation, NaN of a single value; the means of the validation metrics. For each metric that is a mean
        over faces, METRIC_gain is the difference per face, averaged over seeds, METRIC_low and METRIC_high its 95 %
        interval by bootstrap over people, and METRIC_p the p value of Wald's test with the standard error of the same
        samples.
    """
    rows, reference = [], {}
    for name, runs in methods:
        first, folds = runs[0][0], pd.DataFrame([fold for _, results in runs for fold in results["folds"]])
        row = {"method": name, "runs": len(runs)}
        for metric in first.metric_names:
            values = folds.get(metric, pd.Series(dtype=float))  # an earlier version did not have every metric
            row |= {metric: values.mean(), f"{metric}_deviation": values.std()}
        row |= folds.filter(regex="^val_").mean().to_dict()
        for metric in first.paired_metrics:
            values = np.mean([evaluation.per_face(metric) for evaluation, _ in runs], axis=0)
            tested = paired_test(values, reference.setdefault(metric, values), first.faces.people)
            row |= dict(zip([f"{metric}_{part}" for part in ("gain", "low", "high", "p")], tested, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def value_cell(row, name):
    """A metric of a row of `method_table` as text, such as "62.40% ± 1.20%"."""
    value, deviation = METRICS[name].show(row[name]), row[f"{name}_deviation"]
    return value if np.isnan(deviation) else f"{value} ± {METRICS[name].show(deviation).lstrip('+')}"


def difference_cell(row, name):
    """The difference of a row of `method_table` from the first method as text, with its interval."""
    gain, low, high = (METRICS[name].show_difference(row[f"{name}_{part}"]) for part in ("gain", "low", "high"))
    return gain if row[f"{name}_low"] != row[f"{name}_low"] else f"{gain} ({low} to {high})"


def paper_table(table):
    """A `method_table` as LaTeX, the best of each metric in bold.

    The last columns compare each method with the first one, by the first metric of years, or else by top-1.
    """
    names = [name for name in METRICS if name in table and name != "loss"]
    compared = "mae_years" if "mae_years" in names else "top1"
    titles = [METRICS[name].title for name in names]
    header = ["method", *titles, f"difference in {METRICS[compared].title}", "p (Wald)"]
    best = {
        ((-table[name] if METRICS[name].lower_is_better else table[name]).argmax(), column)
        for column, name in enumerate(names, 1)
        if name != "bias_years"
    }
    rows = []
    for number, row in enumerate(table.to_dict("records")):
        tested = [difference_cell(row, compared), p_value(row[f"{compared}_p"])] if number else ["", ""]
        rows.append([row["method"], *(value_cell(row, name) for name in names), *tested])
    return MARK + latex_table(header, rows, bold=best)


if __name__ == "__main__":
    run_script(main)
