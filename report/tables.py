"""The tables that the scripts print. Fractions inside, percent only here."""

from evaluation import threshold
from evaluation.bootstrap import LEAST_PEOPLE
from evaluation.calibration import BINS
from evaluation.evaluation import pool
from evaluation.metrics import CLASS_METRICS, METRICS, largest_class, mean_and_std, per_class, single_answer
from evaluation.subgroups import LEAST_FACES, SHOWN, SIGNIFICANCE, gap_words
from utils.cli import p_value, percent, printable
from utils.files import write_text
from utils.latex import latex_table

WIDTH = 10
NO_CERTIFICATE = (
    "This is no certified test of age estimation, as NIST's FATE AEV and ISO/IEC 27566-1 are, and it holds for faces"
    " like these."
)
OVER_EPOCHS = "_over_epochs"


def cross_validation_table(results, evaluations):
    """Each fold, and mean ± standard deviation: the last epoch's metrics, beside averages over epochs.

    Args:
        results: the content of results.json.
        evaluations: {fold: Evaluation of its held-out faces}.
    """
    names = [name for name in METRICS if name in results["mean"]]
    averaged = [name for name, metric in CLASS_METRICS.items() if metric.format.endswith("%")]
    columns = [*names, *(name + OVER_EPOCHS for name in averaged)]
    last, over = len(names) * WIDTH - 1, len(averaged) * WIDTH - 1
    lines = [
        f"{'':10} {' last epoch ':-^{last}} {' over epochs ':-^{over}}",
        f"{'held out':10}" + "".join(f"{METRICS[name].title:>{WIDTH}}" for name in [*names, *averaged]),
    ]
    for name, row in result_rows(results):
        lines.append(f"{name:10}" + "".join(f"{show(column, row, name):>{WIDTH}}" for column in columns))
    mean, pooled = results["mean"], pool(list(evaluations.values()))
    lines.append(constant_line(pooled))
    lines.append(("mean " if len(results["folds"]) > 1 else "") + calibration_line(mean))
    count = sum(len(fold["duplicates"]) for fold in results["folds"])
    if count and "top1_without_duplicates" in mean:
        lines.append(duplicates_line(count, {name: mean.get(f"{name}_without_duplicates") for name in names}))
    return "\n".join(lines + warnings_of(pooled))


def result_rows(results):
    """The folds of results.json, their mean and, for several folds, their standard deviation: (name, values)."""
    rows = [(f"fold {fold['fold']}", fold) for fold in results["folds"]] + [("mean", results["mean"])]
    return [*rows, ("± std", results["std"])] if len(results["folds"]) > 1 else rows


def show(name, values, title=""):
    """A metric of a row of results as text; that of a row "± ..." has no sign."""
    text = METRICS[name.removesuffix(OVER_EPOCHS)].show(values.get(name))
    return text.lstrip("+") if title.startswith("±") else text


def write_latex_table(path, results):
    """Write the table of the folds in results.json for a paper."""
    names = [name for name in METRICS if name != "loss" and name in results["mean"]]
    rows = [[title, *(show(name, row, title) for name in names)] for title, row in result_rows(results)]
    header = ["held out", *(METRICS[name].title for name in names)]
    write_text(path, latex_table(header, rows, rule=len(results["folds"])))


def calibration_line(values):
    """The expected calibration error, as it is and after temperature scaling, from `Evaluation.calibration`."""
    line = f"expected calibration error: {values['ece']:.2%} ({BINS} bins)"
    if values.get("ece_calibrated") is None:
        return line
    return f"{line}, {values['ece_calibrated']:.2%} after temperature scaling (T = {values['temperature']:.3f})"


def duplicates_line(count, metrics):
    """The metrics without the faces whose picture is among the training faces.

    Args:
        count: the number of these faces.
        metrics: {name of METRICS: value}.
    """
    values = ", ".join(f"{METRICS[name].title} {show(name, metrics)}" for name in metrics)
    return f"without the {count:,} faces whose picture is in a training fold: {values}"


def constant_line(evaluation):
    """'always answering 25-32: top-1 25.90%, ...': the least that a model must beat."""
    largest, metrics = largest_class(evaluation.labels, len(evaluation.classes))
    values = ", ".join(f"{METRICS[name].title} {show(name, metrics)}" for name in metrics)
    return f"always answering {evaluation.classes.names[largest]}: {values}"


def warnings_of(evaluation):
    """A line of warning if nearly all answers are one class, or it would be right more often and nearer; as a list."""
    answer, names = single_answer(evaluation.predicted, len(evaluation.classes)), evaluation.classes.names
    if answer is not None:
        problem = "is the answer for nearly every face; the model has learned little or diverged"
        return [f"warning: {names[answer]} {problem}"]
    largest, constant = largest_class(evaluation.labels, len(names))
    top1, mae = (evaluation.predicted == evaluation.labels).mean(), evaluation.per_face("mae").mean()
    if top1 < constant["top1"] and mae > constant["mae"]:  # single years are seldom right, and yet near
        return [f"warning: always answering {names[largest]} would be right more often; the model has learned little"]
    return []


def models_table(reports):
    """Several models of test_code.py, with mean and standard deviation.

    Args:
        reports: dicts with "model", "held_out_fold" and a value for each of METRICS.
    """
    metrics = [name for name in METRICS if all(name in report for report in reports)]
    summary = mean_and_std({name: [report[name] for report in reports] for name in metrics})
    rows = [(printable(report["model"]), report["held_out_fold"], report) for report in reports]
    rows += [("mean", "", summary["mean"]), ("± std", "", summary["std"])]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'model':{width}}  held out" + "".join(f"{METRICS[name].title:>{WIDTH}}" for name in metrics)]
    for name, fold, values in rows:
        lines.append(f"{name:{width}}  {fold:>8}" + "".join(f"{show(m, values, name):>{WIDTH}}" for m in metrics))
    return "\n".join(lines)


def per_class_table(evaluation):
    """Faces, top-1 and one-off of each true class, or of each decade."""
    evaluation = evaluation.coarse()
    names = evaluation.classes.names
    width = max(8, *map(len, names))
    lines = [f"{'class':<{width}}   faces    top-1   one-off"]
    for name, faces, *fractions in zip(names, *per_class(evaluation.confusion), strict=True):
        exact, near = (f"{METRICS['top1'].show(fraction):>7}" for fraction in fractions)
        lines.append(f"{name:<{width}} {faces:7,}  {exact}   {near}")
    return "\n".join(lines)


def subgroups_table(table):
    """Each group's metrics of `subgroups`, with the 95 % interval of the first one and its gap to all other faces."""
    names = [printable(name) for name in [*table.column, *("  " + group for group in table.group), "subgroup"]]
    width, judged_by = max(map(len, names)), table.metric.iloc[0]
    first, *others = shown = SHOWN[judged_by]
    titles = [METRICS[name].title for name in shown]
    heads = [titles[0].rjust(9), "95 %".rjust(14), *(title.rjust(7) for title in titles[1:])]
    lines = [f"{'subgroup':{width}}  faces  {'  '.join(heads)}  {'ECE':>6}  {'gap':>6}  {'p':>7}"]
    for column, rows in table.groupby("column", sort=False):
        lines.append(printable(column))
        for row in rows.itertuples():
            line = f"  {printable(row.group):{width - 2}}  {row.faces:5,}  "
            if row.too_few:
                lines.append(f"{line}too few (under {LEAST_FACES})")
                continue
            low, high = (METRICS[first].show(getattr(row, f"{first}_{end}")).rstrip("%") for end in ("low", "high"))
            cells = [
                METRICS[first].show(getattr(row, first)).rjust(9),
                ("–" if low == "–" else f"{low} to {high}").rjust(14),
            ]
            cells += [METRICS[name].show(getattr(row, name)).rjust(7) for name in others]
            p = p_value(row.p_corrected).replace(" ", "")
            gap = f"{METRICS[judged_by].show_difference(row.gap, 1):>6}  {p:>7}{' *' if row.marked else ''}"
            lines.append(f"{line}{'  '.join(cells)}  {row.ece:6.1%}  {gap}")
    lines.append(f"gap: {gap_words(judged_by)}; * marks p under {SIGNIFICANCE} after Holm's correction")
    if any("–" in line for line in lines):
        lines.append(f"–: intervals need {LEAST_PEOPLE} people, and gaps {LEAST_FACES} faces of as many, on both sides")
    return "\n".join(lines)


def threshold_table(evaluation, age):
    """Younger faces that pass as this age or older, and older ones that are refused, by challenge age."""
    table = threshold.threshold_table(evaluation, age)
    challenges = table.challenge.unique()
    lines = [f"as {age} or older: younger faces that pass, older ones that are refused, 95 % over people"]
    lines.append(f"{'':18}{'faces':>7}" + "".join(f"{f'challenge {years}':>26}" for years in challenges))

    def cell(row):
        interval = f" ({100 * row.low:.1f} to {100 * row.high:.1f})" if row.low == row.low else ""
        return f"{percent(row.share, 2) + interval:>26}"

    for group, rows in table.groupby("group", sort=False):
        lines.append(f"{group:18}{rows.faces.iloc[0]:7,}" + "".join(map(cell, rows.itertuples())))
    return "\n".join([*lines, NO_CERTIFICATE])


def confusion_table(evaluation):
    """Counts, true class by row, predicted class by column; by decade where there are too many years."""
    evaluation = evaluation.coarse()
    names, confusion = evaluation.classes.names, evaluation.confusion
    longest = max(map(len, names))
    width, first = max(6, longest + 1, len(str(confusion.max())) + 1), max(17, longest)
    lines = ["true \\ predicted".ljust(first) + "".join(f"{name:>{width}}" for name in names)]
    for name, row in zip(names, confusion, strict=True):
        lines.append(f"{name:<{first}}" + "".join(f"{count:>{width}}" for count in row))
    return "\n".join(lines)
