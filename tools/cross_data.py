"""The table of models across data sets, from the reports of test_code.py --json.

    python test_code.py runs/a_s0 --label-file OTHER.csv --image-dir DIR --json other.json
    python -m tools.cross_data other.json [MORE.json ...] [--metric mae_years] [--tex FILE]

A row per run, a column per label file. A cell is the mean over the folds and seeds of a run, ± the standard deviation;
runs whose names differ in the seed at the end, such as a_s0 and a_s1, are one.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from evaluation.metrics import METRICS
from tools.compare_runs import SEED
from utils.cli import printable, run_script
from utils.errors import UserError
from utils.files import check_output, write_text
from utils.latex import latex_table
from utils.options import Parser
from utils.reading import read_json, starts_with

MARK = "% tools.cross_data\n"


def main():
    parser = Parser(prog="python -m tools.cross_data", description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="files of test_code.py --json")
    parser.add_argument("--metric", choices=tuple(METRICS), default="mae_years", help="default: mae_years")
    parser.add_argument("--tex", metavar="FILE", help="also write the table as LaTeX (needs booktabs)")
    options = parser.parse_args()
    check_output(options.tex, lambda path: starts_with(path, MARK), "a table of tools.cross_data")
    cells = read_cells(options.reports, options.metric)
    print(f"{METRICS[options.metric].title}, mean ± standard deviation over folds and seeds")
    header, *rows = table_of(cells, options.metric)
    width = max(22, *(len(printable(text)) for row in (header, *rows) for text in row))
    for row in (header, *rows):
        print("  ".join(f"{printable(text):<{width}}" for text in row).rstrip())
    if options.tex is not None:
        write_text(options.tex, MARK + latex_table(header, rows))
        print(f"wrote {printable(options.tex)}")


def read_cells(paths, metric):
    """{(run, data set): {model: value}}. Raises UserError for a file that is no report, or lacks the metric."""
    cells, kinds = {}, {"model": str, "labels": str, metric: float}
    for path in paths:
        for report in read_json(path, kind=list):
            if not isinstance(report, dict):
                raise UserError(f"'{path}' is no report of test_code.py --json")
            if "fusion" in report:
                continue
            if missing := [name for name, kind in kinds.items() if not isinstance(report.get(name), kind)]:
                raise UserError(f"'{path}' holds a report of test_code.py --json without '{missing[0]}'")
            run, data = Path(report["model"]).resolve().parent, Path(report["labels"]).resolve()
            run = run.with_name(SEED.sub("", run.name) or run.name)
            cell = cells.setdefault((run, data), {})
            if report["model"] in cell:
                raise UserError(f"'{path}': a report of '{report['model']}' for {data} is there already; give one each")
            cell[report["model"]] = report[metric]
    if not cells:
        raise UserError(f"'{paths[0]}' holds no report of a model")
    runs, sets = (names_of(set(found)) for found in zip(*cells, strict=True))
    return {(runs[run], sets[data]): values for (run, data), values in cells.items()}


def names_of(paths):
    """{path: its name without an ending, or as much of the path as tells it from the others}."""
    names = {path: path.stem if path.suffix in (".csv", ".txt") else path.name for path in paths}
    alike = Counter(names.values())
    return {path: name if alike[name] == 1 else str(path) for path, name in names.items()}


def table_of(cells, metric):
    """The rows of the table, the header first, as texts."""
    runs, sets = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))

    def show(values):
        if not values:
            return "–"
        shown = METRICS[metric].show(np.mean(values))
        return f"{shown} ± {METRICS[metric].show(np.std(values, ddof=1)).lstrip('+')}" if len(values) > 1 else shown

    return [["", *sets], *([run, *(show([*cells.get((run, data), {}).values()]) for data in sets)] for run in runs)]


if __name__ == "__main__":
    run_script(main)
