"""The tables that the scripts print. Fractions inside, percent only here."""

from evaluation.calibration import BINS
from evaluation.metrics import METRICS, largest_class, mean_and_std, per_class, single_answer
from evaluation.subgroups import LEAST_FACES, SIGNIFICANCE
from utils.cli import printable
from utils.files import write_text

WIDTH = 10


def cross_validation_table(results, predictions):
    """Per fold and as mean ± standard deviation: the last epoch's metrics, beside averages over epochs.

    Args:
        results: the content of results.json.
        predictions: Predictions for all held-out faces.
    """
    averaged = [name for name, metric in METRICS.items() if metric.format.endswith("%")]
    columns = [*METRICS, *(f"{name}_over_epochs" for name in averaged)]
    titles = [METRICS[name.removesuffix("_over_epochs")].title for name in columns]
    last, over = len(METRICS) * WIDTH - 1, len(averaged) * WIDTH - 1
    lines = [
        f"{'':10} {' last epoch ':-^{last}} {' over epochs ':-^{over}}",
        f"{'held out':10}" + "".join(f"{title:>{WIDTH}}" for title in titles),
    ]
    rows = [(f"fold {fold['fold']}", fold) for fold in results["folds"]] + [("mean", results["mean"])]
    if len(results["folds"]) > 1:
        rows.append(("± std", results["std"]))
    for name, row in rows:
        lines.append(f"{name:10}" + "".join(f"{show(column, row[column]):>{WIDTH}}" for column in columns))
    lines.append(constant_line(predictions.labels, predictions.faces.class_names))
    mean = results["mean"]
    lines.append(calibration_line(mean["ece"], mean.get("ece_calibrated"), mean.get("temperature")))
    return "\n".join(lines + twins_line(results) + warnings_of(predictions))


def write_latex_table(path, results):
    r"""Write the table of folds for a paper; it needs \usepackage{booktabs}.

    Args:
        path: the file.
        results: the content of results.json.
    """
    names = [name for name in METRICS if name != "loss"]
    rows = [(f"fold {fold['fold']}", fold) for fold in results["folds"]] + [("mean", results["mean"])]
    if len(results["folds"]) > 1:
        rows.append((r"$\pm$ std", results["std"]))
    cells = [[title, *(show(name, row[name]).replace("%", r"\%") for name in names)] for title, row in rows]
    body = [" & ".join(row) + r" \\" for row in cells]
    body.insert(len(results["folds"]), r"\midrule")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(["held out", *(METRICS[name].title for name in names)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    write_text(path, "\n".join(lines) + "\n")


def calibration_line(error, calibrated=None, temperature=None):
    """What the probabilities are worth, as they are and after temperature scaling."""
    line = f"expected calibration error: {error:.2%} ({BINS} bins)"
    if calibrated is None:
        return line
    return f"{line}, {calibrated:.2%} after temperature scaling (T = {temperature:.3f})"


def twins_line(results):
    """The means without the faces whose picture is among the training faces, as a list of lines."""
    count = sum(len(fold["twins"]) for fold in results["folds"])
    if not count or "top1_without_twins" not in results["mean"]:
        return []
    values = (
        f"{metric.title} {metric.show(results['mean'][f'{name}_without_twins'])}" for name, metric in METRICS.items()
    )
    return [f"without the {count:,} faces whose picture is in a training fold: {', '.join(values)}"]


def show(name, value):
    return METRICS[name.removesuffix("_over_epochs")].show(value)


def constant_line(labels, class_names):
    """'always answering 25-32: top-1 25.90%, ...': what a model must beat."""
    largest, metrics = largest_class(labels, len(class_names))
    values = ", ".join(f"{METRICS[name].title} {show(name, value)}" for name, value in metrics.items())
    return f"always answering {class_names[largest]}: {values}"


def warnings_of(predictions):
    """A line of warning where nearly all answers are one class."""
    names = predictions.faces.class_names
    answer = single_answer(predictions.predicted, len(names))
    if answer is None:
        return []
    return [f"warning: {names[answer]} is the answer for nearly every face; the model has learned little or diverged"]


def models_table(reports):
    """Several models of test_code.py, with mean and standard deviation.

    Args:
        reports: list of dicts with "model", "held_out_fold" and a value for each of METRICS.
    """
    summary = mean_and_std({name: [report[name] for report in reports] for name in METRICS})
    rows = [(printable(report["model"]), report["held_out_fold"], report) for report in reports]
    rows += [("mean", "", summary["mean"]), ("± std", "", summary["std"])]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'model':{width}}  held out" + "".join(f"{metric.title:>{WIDTH}}" for metric in METRICS.values())]
    for name, fold, values in rows:
        shown = "".join(f"{metric.show(values[key]):>{WIDTH}}" for key, metric in METRICS.items())
        lines.append(f"{name:{width}}  {fold:>8}{shown}")
    return "\n".join(lines)


def per_class_table(confusion, class_names):
    width = max(8, *map(len, class_names))
    lines = [f"{'class':<{width}}   faces    top-1   one-off"]
    for name, faces, exact, near in zip(class_names, *per_class(confusion), strict=True):
        lines.append(f"{name:<{width}} {faces:7,}  {percent(exact)}   {percent(near)}")
    return "\n".join(lines)


def subgroups_table(table):
    """Each group's metrics, with the 95 % interval of top-1 and the gap to all other faces in points.

    Args:
        table: that of `subgroups`.
    """
    names = ("top1", "one_off", "mae")
    titles = [METRICS[name].title for name in names]
    width = max(len(printable(name)) for name in [*table.column, *("  " + group for group in table.group), "subgroup"])
    lines = [
        f"{'subgroup':{width}}  faces  {titles[0]:>7}  {'95 %':>14}  {titles[1]:>7}  {titles[2]:>6}  {'ECE':>6}"
        f"  {'gap':>6}  {'p':>7}"
    ]
    for column, rows in table.groupby("column", sort=False):
        lines.append(printable(column))
        lines += [
            f"  {printable(row.group):{width - 2}}  {row.faces:5,}  {group_cells(row)}" for row in rows.itertuples()
        ]
    lines.append(
        f"gap: top-1 of the group minus that of all other faces, in points; * marks p under {SIGNIFICANCE} after"
        " Holm's correction"
    )
    return "\n".join(lines)


def group_cells(row):
    """The numbers of a group; a missing one is a dash."""
    if row.too_few:
        return f"too few (under {LEAST_FACES})"
    values = (METRICS[name].show(getattr(row, name)) for name in ("top1", "one_off", "mae"))
    interval = "-" if row.top1_low != row.top1_low else f"{100 * row.top1_low:.2f} to {100 * row.top1_high:.2f}"
    exact, near, error = values
    gap, p = ("-", "-") if row.gap != row.gap else (f"{100 * row.gap:+.1f}", f"{row.p_corrected:.3f}")
    mark = " *" if row.marked else ""
    return f"{exact:>7}  {interval:>14}  {near:>7}  {error:>6}  {row.ece:6.1%}  {gap:>6}  {p:>7}{mark}"


def percent(fraction):
    return "      -" if fraction != fraction else f"{fraction:7.2%}"


def confusion_table(confusion, class_names):
    longest = max(map(len, class_names))
    width, first = max(6, longest + 1, len(str(confusion.max())) + 1), max(17, longest)
    lines = ["true \\ predicted".ljust(first) + "".join(f"{name:>{width}}" for name in class_names)]
    for name, row in zip(class_names, confusion, strict=True):
        lines.append(f"{name:<{first}}" + "".join(f"{count:>{width}}" for count in row))
    return "\n".join(lines)
