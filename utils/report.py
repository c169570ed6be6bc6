"""The tables that the scripts print. Fractions inside, percent only here."""

from data.adience import AGE_GROUPS
from utils.metrics import per_class


def cross_validation_table(results):
    """Per fold and as mean ± standard deviation: the last epoch's metrics, beside averages over epochs."""
    lines = [
        "          ------- last epoch -------   -- mean over epochs --",
        "held out    top-1   one-off      MAE      top-1     one-off",
    ]
    for result in results["folds"]:
        lines.append(
            f"fold {result['fold']}    {result['top1']:7.2%}   {result['one_off']:7.2%}   {result['mae']:6.3f}"
            f"    {result['top1_over_epochs']:7.2%}     {result['one_off_over_epochs']:7.2%}"
        )
    mean, std = results["mean"], results["std"]
    lines.append(
        f"mean      {mean['top1']:7.2%}   {mean['one_off']:7.2%}   {mean['mae']:6.3f}"
        f"    {mean['top1_over_epochs']:7.2%}     {mean['one_off_over_epochs']:7.2%}"
    )
    if std["top1"] is not None:
        lines.append(
            f"± std     {std['top1']:7.2%}   {std['one_off']:7.2%}   {std['mae']:6.3f}"
            f"    {std['top1_over_epochs']:7.2%}     {std['one_off_over_epochs']:7.2%}"
        )
    return "\n".join(lines)


def per_class_table(confusion):
    lines = ["group      faces    top-1   one-off"]
    for name, faces, exact, near in zip(AGE_GROUPS, *per_class(confusion), strict=True):
        lines.append(f"{name:<8} {faces:7,}  {percent(exact)}   {percent(near)}")
    return "\n".join(lines)


def percent(fraction):
    return "      -" if fraction != fraction else f"{fraction:7.2%}"


def confusion_table(confusion):
    width = max(6, len(str(confusion.max())) + 1)
    lines = ["true \\ predicted " + "".join(f"{name:>{width}}" for name in AGE_GROUPS)]
    for name, row in zip(AGE_GROUPS, confusion, strict=True):
        lines.append(f"{name:<17}" + "".join(f"{count:>{width}}" for count in row))
    return "\n".join(lines)
