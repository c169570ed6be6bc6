"""Write the faces of a run as a CSV file for `main.py --label-file`, with the labels of its suspects corrected.

    python -m tools.correct_labels RUN > corrected.csv

The suspects are those of suspects.csv, which lies beside the report of the run: delete the rows whose labels are right
first. A corrected face has its label in the column `was`, why it changed in `reason`, and no age.
"""

import shlex
import sys
from pathlib import Path

import numpy as np

from data.labels import read_table
from report.errors import SUSPECTS
from training.results import read_results
from utils.cli import percent, printable, run_script
from utils.errors import UserError
from utils.options import Parser
from utils.reading import read_text

NEEDED = ("rank", "path", "label", "suggested", "p_label", "p_suggested")
FILE_LIMIT = 256  # MiB


def main():
    parser = Parser(prog="python -m tools.correct_labels", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run directory of main.py, with suspects.csv")
    run = parser.parse_args().run
    _, evaluation = read_results(run)
    if evaluation.coarse() is not evaluation:
        raise UserError(f"'{run}' learned single years, and a suspect is known by its decade: there is no new age")
    faces = evaluation.faces
    names = np.array(faces.classes.names)[evaluation.labels]
    # A CSV file names people without an album, which is then the person.
    person = faces.people.where(faces.table.album != faces.table.person, faces.table.person)
    table = faces.table[["path"]].assign(label=names, person=person, fold=faces.table.fold, was="", reason="")
    if not np.isnan(faces.ages).all():
        table.insert(2, "age", faces.ages)
    table = table.drop_duplicates("path").set_index("path", drop=False)
    path = Path(run) / SUSPECTS
    suspects = read_suspects(path)
    for line, rank, face, label, suggested, p_label, p_suggested in suspects:
        if face not in table.index or table.label[face] != label:
            raise UserError(f"{path}, line {line}: {printable(face)!r} is no face of this run with the label {label!r}")
        if suggested not in faces.classes.names:
            raise UserError(
                f"{path}, line {line}: {suggested!r} is no class; expected {', '.join(faces.classes.names)}"
            )
        reason = f"suspect {rank}: {percent(p_suggested, 1)} for {suggested} and {percent(p_label, 1)} for {label}"
        table.loc[face, ["label", "was", "reason"]] = suggested, label, reason
        if "age" in table:
            table.loc[face, "age"] = np.nan
    table.to_csv(sys.stdout, index=False, lineterminator="\n")
    print(f"{len(suspects):,} of {len(table):,} labels are corrected; train on them with", file=sys.stderr)
    print(f"  --label-file FILE --age-groups {shlex.join(faces.classes.names)}", file=sys.stderr)


def read_suspects(path):
    """The rows of suspects.csv: its line and the columns NEEDED.

    Raises:
        UserError: the file is missing or damaged.
    """
    columns, lines = read_table(path, read_text(path, FILE_LIMIT).removeprefix("\ufeff"), check_header)
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
