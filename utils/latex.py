r"""Tables for a paper, in LaTeX; they need \usepackage{booktabs}."""

import re

from utils.cli import printable

SPECIAL = {"±": r"$\pm$", "<": "$<$"}


def latex_table(header, rows, bold=(), rule=None):
    """A table whose first column is aligned to the left, the others to the right.

    Args:
        header: C texts.
        rows: a list of C texts each.
        bold: the (row, column) of cells in bold.
        rule: the row before which a line is drawn.

    Returns:
        The table as text.
    """
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", line_of(header), r"\midrule"]
    for row, texts in enumerate(rows):
        if row == rule:
            lines.append(r"\midrule")
        lines.append(line_of(texts, [column for column in range(len(texts)) if (row, column) in bold]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def line_of(texts, bold=()):
    cells = [rf"\textbf{{{latex(text)}}}" if column in bold else latex(text) for column, text in enumerate(texts)]
    return " & ".join(cells) + r" \\"


def latex(text):
    """A name or a number as LaTeX shows it."""
    return re.sub("[%_&#±<]", lambda sign: SPECIAL.get(sign[0], "\\" + sign[0]), printable(text))
