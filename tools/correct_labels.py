"""Write the faces of a run as a CSV file for `main.py --label-file`, with the labels of its suspects corrected.

    python -m tools.correct_labels RUN > corrected.csv

The suspects are those of suspects.csv, which lies beside the report of the run: delete the rows whose labels are right
first. A corrected face has its old label in the column `was`, why it changed in `reason`, and no age.
"""

import sys
from pathlib import Path

import numpy as np

from data.labels import read_table
from data.load import load_data
from report.errors import SUSPECTS
from report.tables import warnings_of
from training.config import read_config
from training.results import read_results
from utils.cli import command_line, percent, printable, run_script
from utils.errors import UserError
from utils.options import Parser
from utils.reading import read_text

NEEDED = ("rank", "path", "label", "suggested", "p_label", "p_suggested")


def main():
    parser = Parser(prog="python -m tools.correct_labels", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run directory of main.py, with suspects.csv")
    run = parser.parse_args().run
    _, evaluation = read_results(run)
    if evaluation.coarse() is not evaluation:
        raise UserError(f"'{run}' learned single years, and a suspect is known by its decade: there is no new age")
    faces, _ = load_data(**{**read_config(run).data_source, "allow_missing": True})  # of all folds and splits
    table, names = labels_of(faces), faces.classes.names
    path = Path(run) / SUSPECTS
    suspects = read_suspects(path)
    for line, rank, face, label, suggested, p_label, p_suggested in suspects:
        if face not in table.index or table.label[face] != label:
            raise UserError(f"{path}, line {line}: {printable(face)!r} is no face of this run with the label {label!r}")
        if suggested not in names:
            raise UserError(f"{path}, line {line}: {suggested!r} is no class; expected {', '.join(names)}")
        reason = f"suspect {rank}: {percent(p_suggested, 1)} for {suggested} and {percent(p_label, 1)} for {label}"
        table.loc[face, ["label", "was", "reason"]] = suggested, label, reason
        if "age" in table:
            table.loc[face, "age"] = np.nan
        if "years" in table:  # which a loss of ages learns
            table.loc[face, "years"] = suggested
    print("".join(f"{warning}\n" for warning in warnings_of(evaluation)), end="", file=sys.stderr)
    table.to_csv(sys.stdout, index=False, lineterminator="\n")
    print(f"{len(suspects):,} of {len(table):,} labels are corrected; train on them with", file=sys.stderr)
    print(f"  --label-file FILE --age-groups {command_line(*names)}", file=sys.stderr)


def labels_of(faces):
    """The table of a CSV file that lists these Faces, with the empty columns `was` and `reason`; its index is path."""
    table = faces.table.drop(columns=["file", "line", "first_year", "last_year"], errors="ignore")
    table["label"] = np.array(faces.classes.names)[faces.labels]
    # A CSV file names people without an album, which is then the person.
    table["person"] = faces.people.where(table.album != table.person, table.person)
    table = table.drop(columns=["album", *(["fold"] if "split" in table else [])]).dropna(axis="columns", how="all")
    return table.assign(was="", reason="").drop_duplicates("path").set_index("path", drop=False)


def read_suspects(path):
    """The rows of suspects.csv: its line and the columns NEEDED.

    Raises:
        UserError: the file is missing or damaged.
    """
    columns, lines = read_table(path, read_text(path).removeprefix("\ufeff"), check_header)
    texts = zip(lines, *(columns[name] for name in NEEDED), strict=True)
    try:
        return [(*row[:5], float(row[5]), float(row[6])) for row in texts]
    except ValueError as error:
        raise UserError(f"'{path}': {error}; expected the report's own probabilities") from None


def check_header(path, names):
    if missing := [name for name in NEEDED if name not in names]:
        raise UserError(f"'{path}' has no column {missing[0]!r}: write it by python -m tools.report {path.parent}")
    return names


if __name__ == "__main__":
    run_script(main)
