"""From the rows of any label files to Faces: repeats, counts and images.

A reader (adience.py, label_file.py) makes one table of all rows of its files, with the columns path, fold, person,
album, gender, yaw, score, file and line, and further ones. `select` makes Faces of the rows with a label.
"""

import csv
import io
import os
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data.faces import Faces
from utils.cli import printable
from utils.errors import UserError

FOLDS = (0, 1, 2, 3, 4)
FACE_KEY = ["path", "person"]  # identifies a face; a row with the same two is a repeat
NO_PEOPLE = "no column 'person', so each file counts as one person"
COLUMNS = ["path", "label", "fold", "person", "album", "gender", "yaw", "score", "file", "line"]


@dataclass(frozen=True, eq=False)
class LabelReport:
    """Counts of the labels that were read, used and left out; `str` gives the lines to print.

    Attributes:
        faces: the Faces used.
        policy: the label policy.
        rows: the number of rows read.
        repeats: the number of rows that list a face again.
        left_out: {reason: faces without a label}.
        rows_per_fold: {fold: rows with a label, repeats included}.
        missing: the number of faces left out because their images do not exist.
        people_named: whether a CSV file names people; None for Adience's files.
        seed: the seed that the folds were drawn with; None if the files have folds.
        gaps: {ages outside of the classes, such as "21-24": rows}.
        kept, dropped: the columns that subgroups can be made from, and those whose names are taken.
        notes: lines about values that are probably not meant as they are.
    """

    faces: Faces
    policy: str
    rows: int
    repeats: int
    left_out: dict
    rows_per_fold: dict
    missing: int = 0
    people_named: bool | None = None
    seed: int | None = None
    gaps: dict = field(default_factory=dict)
    kept: tuple = ()
    dropped: tuple = ()
    notes: tuple = ()

    @property
    def faces_per_fold(self):
        """{fold: faces used}."""
        return count_folds(self.faces.table.fold)

    @property
    def faces_per_class(self):
        """{name of the class, or decade: faces used}."""
        faces = self.faces.coarse()
        counts = np.bincount(faces.labels, minlength=len(faces.classes)).tolist()
        return dict(zip(faces.classes.names, counts, strict=True))

    def __str__(self):
        reasons = {"repeated rows": self.repeats, **self.left_out, "missing images": self.missing}
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        lines = [f"labels: {self.rows:,} rows read, {len(self.faces):,} faces used (policy {self.policy})"]
        lines.append(f"  left out: {left_out or 'nothing'}")
        if self.people_named is not None:
            count = f"{self.faces.table.person.nunique():,}"
            lines.append(f"  people: {count if self.people_named else NO_PEOPLE}")
        if "split" in self.faces.table:
            lines.append(f"  per split: {list_counts(self.faces.table.split.value_counts())}")
        drawn = f" (drawn with --fold-seed {self.seed}: whole people, classes balanced)"
        lines.append(f"  per fold: {list_counts(self.faces_per_fold)}{drawn if self.seed is not None else ''}")
        lines.append(f"  per class: {list_counts(self.faces_per_class)}")
        if empty := [name for name, count in self.faces_per_class.items() if not count]:
            lines.append(f"  note: no face has the class {printable(', '.join(empty))}")
        if any(self.gaps.values()):
            fate = "in the nearest one" if self.policy == "nearest" else "left out; --label-policy nearest uses them"
            lines.append(f"  ages outside of the classes: {list_counts(self.gaps)} ({fate})")
        if self.kept:
            lines.append(f"  columns for test_code.py --by: {printable(', '.join(self.kept))}")
        if self.dropped:
            dropped = printable(", ".join(self.dropped))
            lines.append(f"  columns not kept, as the code has others of these names: {dropped}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def list_counts(counts):
    """Counts as text; zeros are left out."""
    return "  ".join(f"{name}: {count:,}" for name, count in counts.items() if count)


def count_folds(folds):
    return folds.value_counts().sort_index().to_dict()


def read_table(path, text, check_header, **dialect):
    """Read delimited text.

    Args:
        path: its file, for messages.
        text: the content.
        check_header: a function of the path and the names of the columns that returns the names to use, and raises
            UserError for wrong ones.
        dialect: arguments of `csv.reader`.

    Returns:
        ({column: its texts}, the line that each row begins in, int (N,)); empty lines are left out.

    Raises:
        UserError: the text is malformed.
    """
    separator = {"\t": "tab", ";": "semicolon"}.get(dialect.get("delimiter"), "comma")
    records, rows, lines, end = csv.reader(io.StringIO(text), **dialect), [], [], 0
    try:
        for row in records:
            if row:
                rows.append(row)
                lines.append(end + 1)
            end = records.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {end + 1}: {error}; expected {separator}-separated values") from None
    names = check_header(path, [name.strip() for name in rows[0]] if rows else [])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            wrong = f"{len(row)} fields instead of the header's {len(names)}"
            raise UserError(f"{path}, line {line}: {wrong}: {printable(repr(','.join(row)), 80)}")
    columns = zip(*rows[1:], strict=True) if rows[1:] else [()] * len(names)
    return dict(zip(names, columns, strict=True)), np.array(lines[1:], int)


def select(rows, labels, classes, policy, left_out, **facts):
    """Choose the faces with a label, each once, in the order of the rows.

    Args:
        rows: the table of N rows, see the top of this file.
        labels: a Series of int64 (N,), -1 for a row without a label.
        classes: the Classes of the labels.
        policy, left_out, facts: attributes of the report; `labels_are_ages` is one of the Faces.

    Returns:
        A LabelReport, whose `faces` are the Faces.
    """
    repeated, labelled = rows.duplicated(FACE_KEY), labels >= 0
    table = rows.assign(label=labels)[labelled & ~repeated].reset_index(drop=True)
    table = table[COLUMNS + [name for name in table if name not in COLUMNS]]
    exact = facts.pop("labels_are_ages", False)
    faces = Faces(table, classes, folds_drawn=facts.get("seed") is not None, labels_are_ages=exact)
    rows_per_fold = count_folds(rows.fold[labelled])
    return LabelReport(faces, policy, len(rows), int(repeated.sum()), left_out, rows_per_fold, **facts)


def keep_present(report, image_dir, allow_missing, file=None):
    """Leave out the faces whose images do not exist.

    Args:
        report: the LabelReport of all faces.
        image_dir: the folder of the images.
        allow_missing: whether there may be such faces.
        file: the label file for messages; by default the face's own `file`.

    Returns:
        The LabelReport of the other faces.

    Raises:
        UserError: an image is missing, or a folder cannot be read.
    """
    table = report.faces.table
    absent = ~find_present(table.path, Path(image_dir))
    count = f"{absent.sum():,} of {len(table):,} images are missing (--allow-missing continues without)"

    def describe(row):
        folder, _, name = row.path.rpartition("/")
        forms = {unicodedata.normalize("NFC", other) for other in list_folder(Path(image_dir, folder))}
        here = "is there in another Unicode form" if unicodedata.normalize("NFC", name) in forms else "is not there"
        return f"{printable(repr(row.path))} {here} under '{image_dir}'; {count}"

    if not allow_missing:
        refuse(table, absent, describe, file)
    faces = replace(report.faces, table=table[~absent].reset_index(drop=True))
    return replace(report, faces=faces, missing=int(absent.sum()))


def find_present(paths, image_dir):
    """Bool (N,): which images of a Series of paths exist. Lists each folder once instead of looking up each image."""
    split = [path.rpartition("/") for path in paths.tolist()]
    names = {folder: set(list_folder(image_dir / folder)) for folder in {folder for folder, _, _ in split}}
    return np.array([name in names[folder] for folder, _, name in split], bool)


def list_folder(folder):
    """The names in a folder; none if it does not exist. Raises UserError."""
    try:
        return os.listdir(folder)
    except PermissionError as error:
        raise UserError(f"cannot look into '{folder}': {error.strerror}") from None
    except OSError:
        return []


def has_drive(path):
    """Whether a path begins with the letter of a drive of Windows, where it then leaves every folder."""
    return bool(os.path.splitdrive(path)[0])


def require_folder(folder, name, advice=""):
    """Check that a folder exists. Raises UserError, which begins with `name` and ends with `advice`."""
    if not os.path.isdir(folder):
        raise UserError(f"the {name} '{folder}' does not exist or is not a folder{advice and f'; {advice}'}")


def refuse(rows, wrong, describe, file=None):
    """Raise UserError for the first wrong row, if there is one.

    Args:
        rows: the table of N rows.
        wrong: bool (N,).
        describe: a function of the row that returns what is wrong with it.
        file: the path to name; by default the row's own `file`.
    """
    for position in np.flatnonzero(wrong)[:1]:
        row = rows.iloc[position]
        raise UserError(f"{file or row.file}, line {row.line}: {describe(row)}")


def refuse_value(rows, wrong, column, problem, file=None):
    """Raise UserError for the first wrong value of a column, see `refuse`, with the number of wrong ones behind it.

    `problem` says what is wrong with it.
    """
    others = np.count_nonzero(wrong) - 1
    more = f" (and {others:,} more {'rows' if others > 1 else 'row'})" if others else ""
    refuse(rows, wrong, lambda row: f"the {column} {printable(repr(row[column]), 120)} {problem}{more}", file)


def refuse_crossing(rows, column, article, file=None):
    """Raise UserError for the first row whose person or album is in another fold in a row before it."""
    crossing = rows.fold != rows.groupby(column).fold.transform("first")
    refuse_value(rows, crossing, column, f"is in two folds; all faces of {article} {column} belong into one", file)
