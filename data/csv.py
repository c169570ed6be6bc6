"""Faces of one's own: a CSV file with one row per face.

    path,age,person,gender,camera
    anna/0001.jpg,12.9,anna,f,phone

Columns: `path`, below the image directory, and either `age`, in years, or `label`, the name of a class. Optional:
`person`, `fold` (0 to 4), `gender`, `yaw` (degrees) and `score`. Other columns are kept for `test_code.py --by`.
"""

import csv
import io
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data.adience import FOLDS, list_counts, list_folder, require_folder
from data.faces import Faces
from data.groups import check_names, find_gaps, group_ages, parse_groups
from data.split import draw_folds
from utils.cli import printable
from utils.errors import UserError
from utils.foreign import read_text

FILE_LIMIT = 256  # MiB; a million faces with long names
OLDEST = 130  # years
OPTIONAL = ("person", "fold", "gender", "yaw", "score")
# Columns of the table of faces, and of what is made from it, that a file cannot fill.
RESERVED = (
    *("subject", "album", "album_size", "image_size", "width", "height", "brightness", "sharpness"),
    *("index", "row", "model", "position", "prediction", "confidence"),
)
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
GENDERS = {"female": "f", "male": "m"}  # as Adience has them


@dataclass(frozen=True)
class CsvReport:
    """What a CSV file held and what of it was used."""

    policy: str
    rows: int
    left_out: dict  # reason -> faces
    gaps: dict  # ages outside of all groups, such as "21-24" -> faces
    people: int | None  # that the faces used show; None where the file names none
    seed: int | None  # that the folds were drawn with; None where the file has them
    faces_per_fold: dict
    faces_per_class: dict
    kept: tuple  # names of the columns that subgroups can be made from
    dropped: tuple  # and of those that cannot be kept
    missing: int = 0
    repeats: int = 0  # a path that is there twice is an error

    def __str__(self):
        used = sum(self.faces_per_fold.values())
        reasons = {**self.left_out, "missing images": self.missing}
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        people = "no column 'person', so each file counts as one person"
        drawn = f" (drawn with --seed {self.seed}: whole people, classes balanced)" if self.seed is not None else ""
        lines = [
            f"labels: {self.rows:,} rows read, {used:,} faces used (policy {self.policy})",
            f"  left out: {left_out or 'nothing'}",
            f"  people: {people if self.people is None else f'{self.people:,}'}",
            f"  per fold: {list_counts(self.faces_per_fold)}{drawn}",
            f"  per class: {list_counts(self.faces_per_class)}",
        ]
        if self.gaps:
            fate = "in the nearest one" if self.policy == "nearest" else "left out; --label-policy nearest uses them"
            lines.append(f"  ages outside of the classes: {list_counts(self.gaps)} ({fate})")
        if self.kept:
            lines.append(f"  columns for test_code.py --by: {printable(', '.join(self.kept))}")
        if self.dropped:
            dropped = printable(", ".join(self.dropped))
            lines.append(f"  columns not kept, as the code has others of these names: {dropped}")
        return "\n".join(lines)


def load_faces(label_file, image_dir, policy="strict", allow_missing=False, age_groups=(), seed=0):
    """Read the faces.

    Args:
        label_file: the CSV file.
        image_dir: the folder below which the paths lie.
        policy: "nearest" puts an age outside of all groups into the nearest one; the others leave it out.
        allow_missing: leave out faces whose images do not exist, instead of raising an error.
        age_groups: the names of the classes, in order; where the file has ages, see `data.groups.parse_groups`.
        seed: of the folds, where the file has none.

    Returns:
        (Faces, CsvReport): the faces in the order of the file, with its further columns as text.

    Raises:
        UserError: the file is missing or malformed, or holds a wrong value. The message names its line.
    """
    table, report = select_faces(label_file, read_rows(label_file), policy, age_groups, seed)
    image_dir = Path(image_dir)
    require_folder(image_dir, "the image directory", "")
    present = find_present(table.path, image_dir)
    absent = table[~present]
    if len(absent) and not allow_missing:
        raise UserError(
            f"{place(label_file, absent.index[0])}: {printable(repr(absent.path.iloc[0]))} is not there under"
            f" '{image_dir}'; {len(absent):,} of {len(table):,} images are missing (--allow-missing continues without)"
        )
    table = table[present].reset_index(drop=True)
    check_folds(label_file, table, f"{len(absent):,} images are missing under '{image_dir}'")
    report = replace(report, **counts_of(table, age_groups), missing=len(absent))
    if report.people is not None:
        report = replace(report, people=table.subject.nunique())
    return Faces(table, tuple(age_groups), folds_drawn=report.seed is not None), report


def label_places(label_file, policy, age_groups, seed):
    """({path: "faces.csv:17"} of every face with a label, the CsvReport). Raises UserError."""
    table, report = select_faces(label_file, read_rows(label_file), policy, age_groups, seed)
    name = Path(label_file).name
    return dict(zip(table.path, [f"{name}:{line}" for line in table.index], strict=True)), report


def place(label_file, line):
    return f"{label_file}, line {line}"


def read_rows(label_file):
    """Every row as text without space around it; the index is the number of its first line. Raises UserError."""
    text = read_text(label_file, FILE_LIMIT).removeprefix("\ufeff")  # the byte order mark of spreadsheets
    records = csv.reader(io.StringIO(text), strict=True)
    header, lines, rows, line = None, [], [], 1
    try:
        for fields in records:
            if header is None:
                header = check_header(label_file, [name.strip() for name in fields]) if fields else None
            elif fields:  # not an empty line
                if len(fields) != len(header):
                    found = f"{len(fields)} fields instead of the header's {len(header)}"
                    raise UserError(f"{place(label_file, line)}: {found}: {printable(repr(','.join(fields)), 80)}")
                lines.append(line)
                rows.append(fields)
            line = records.line_num + 1
    except csv.Error as error:
        raise UserError(f"{place(label_file, line)}: {error}; expected comma-separated values") from None
    if not rows:
        raise UserError(f"'{label_file}' lists no face; expected a header and one row per face")
    table = pd.DataFrame(rows, index=lines, columns=header, dtype=object).drop(columns="", errors="ignore")
    return table.apply(lambda values: values.str.strip())


def check_header(label_file, names):
    """The names of the columns. Raises UserError where one is missing or there twice."""
    shown = printable(repr(", ".join(names)), 200)
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"'{label_file}' has two columns '{printable(name)}'; name each column once")
    if "path" not in names:
        raise UserError(f"'{label_file}' has no column 'path', separated by commas; its header is {shown}")
    if ("age" in names) == ("label" in names):
        have = "both columns 'age' and 'label'; keep" if "age" in names else "neither a column 'age' nor 'label'; add"
        raise UserError(f"'{label_file}' has {have} one of them; its header is {shown}")
    return names


def select_faces(label_file, rows, policy, age_groups, seed):
    """The table of the faces with a label, by line of the file, and the CsvReport. Raises UserError."""
    paths = check_paths(label_file, rows.path)
    labels, left_out, gaps = read_labels(label_file, rows, policy, age_groups)
    people = read_people(label_file, rows, paths)
    folds = read_folds(label_file, rows.fold, people) if "fold" in rows else None
    further = [name for name in rows if name not in ("path", "label", *OPTIONAL)]
    kept = [name for name in further if name not in RESERVED and name != "age"]
    columns = {"path": paths, "label": labels, "fold": folds if folds is not None else -1}
    columns |= {"subject": people, "album": people, "gender": read_genders(rows)}
    columns |= {name: read_measures(label_file, rows, name) for name in ("yaw", "score")}
    if "age" in rows:
        columns["age"] = read_ages(label_file, rows.age)
    table = pd.DataFrame(columns, rows.index).join(rows[kept].replace(r"\s+", " ", regex=True))
    table = table[labels >= 0]
    if not len(table):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise UserError(f"'{label_file}' has no face with a label: of {len(rows):,} rows, {reasons}")
    if folds is None:
        table = table.assign(fold=draw(label_file, table, seed))
    check_folds(label_file, table, "no other has a face with a label")
    report = CsvReport(
        policy=policy,
        rows=len(rows),
        left_out=left_out,
        gaps=gaps,
        people=table.subject.nunique() if "person" in rows else None,
        seed=seed if folds is None else None,
        kept=tuple(name for name in rows if name in (*kept, "age", "gender", "yaw", "score")),
        dropped=tuple(name for name in further if name in RESERVED),
        **counts_of(table, age_groups),
    )
    return table, report


def check_paths(label_file, values):
    """The paths in their shortest form. Raises UserError where one is not below the image directory, or twice."""
    for problem, wrong in {
        "is empty": values == "",
        "holds a control character": values.str.contains(CONTROL),
        "has a backslash; folders are separated by /": values.str.contains("\\", regex=False),
        "is absolute; expected a path below the image directory": values.str.startswith("/"),
    }.items():
        refuse(label_file, values, wrong, "path", problem)
    paths = values.map(posixpath.normpath)
    outside = (paths == ".") | (paths == "..") | paths.str.startswith("../")
    refuse(label_file, values, outside, "path", "leaves the image directory; expected a path below it")
    repeated = paths.duplicated()
    if repeated.any():
        first = paths.index[paths == paths[repeated].iloc[0]][0]
        refuse(label_file, values, repeated, "path", f"is in line {first} too; list each image once")
    return paths


def refuse(label_file, values, wrong, column, problem):
    """Raise UserError for the first of the values that are wrong, if any is."""
    if wrong.any():
        line = wrong.index[wrong][0]
        shown = printable(repr(values[line]), 120)
        raise UserError(f"{place(label_file, line)}: the {column} {shown} {problem}")


def read_labels(label_file, rows, policy, age_groups):
    """The label of each row, and what is known of those without one.

    Returns:
        (labels, a Series of int64, -1 for none; {reason: rows left out}; {ages outside of all groups: rows}).
    """
    if "label" in rows:
        check_names(age_groups)
        empty = rows.label == ""
        labels = rows.label.map({name: position for position, name in enumerate(age_groups)})
        known = printable(", ".join(age_groups), 200)
        problem = f"is none of the classes {known}; --age-groups names them, in order"
        refuse(label_file, rows.label, labels.isna() & ~empty, "label", problem)
        return labels.fillna(-1).astype("int64"), {"without a label": int(empty.sum())}, {}
    groups, ages = parse_groups(age_groups), read_ages(label_file, rows.age)
    known = ages.notna()
    labels = pd.Series(-1, rows.index, dtype="int64")
    labels[known] = group_ages(ages[known], groups, policy == "nearest")
    years = np.floor(ages)
    gaps = {text: int(years.between(*bounds).sum()) for text, bounds in find_gaps(groups).items()}
    between = int((known & (labels < 0)).sum())
    return labels, {"with an age outside of the classes": between, "without an age": int((~known).sum())}, gaps


def read_ages(label_file, values):
    """Ages in years, a Series of floats; NaN where there is none. Raises UserError."""
    ages = to_numbers(label_file, values, "age", "is not an age; expected years such as 34 or 0.5")
    wrong = (ages < 0) | (ages > OLDEST)
    refuse(label_file, values, wrong, "age", f"is no age of a person; expected 0 to {OLDEST} years")
    return ages


def read_measures(label_file, rows, name):
    if name not in rows:
        return np.nan
    return to_numbers(label_file, rows[name], name, "is not a number")


def to_numbers(label_file, values, column, problem):
    """Text as a Series of floats, NaN where it is empty. Raises UserError for anything but a finite number."""
    numbers = pd.to_numeric(values.where(values.str.fullmatch(NUMBER, flags=re.ASCII)), errors="coerce").astype(float)
    refuse(label_file, values, (values != "") & ~np.isfinite(numbers), column, problem)
    return numbers


def read_people(label_file, rows, paths):
    """Who is on each image: the file's person, or where it has none the image itself."""
    if "person" not in rows:
        return paths
    refuse(label_file, rows.person, rows.person.str.contains(CONTROL), "person", "holds a control character")
    return rows.person.where(rows.person != "", paths)


def read_folds(label_file, values, people):
    """The folds, a Series of int64. Raises UserError for any other value, and where a person is in two folds."""
    folds = values.str.extract(r"^([0-4])(?:\.0*)?$", expand=False)  # spreadsheets and pandas write 1.0, too
    refuse(label_file, values, folds.isna(), "fold", f"is none; expected {', '.join(map(str, FOLDS))}")
    folds = folds.astype("int64")
    first = folds.groupby(people).transform("first")
    crossing = folds != first
    problem = "is in two folds; all faces of a person belong into one"
    refuse(label_file, people, crossing, "person", problem)
    return folds


def read_genders(rows):
    if "gender" not in rows:
        return ""
    return rows.gender.str.lower().replace(GENDERS).replace(r"\s+", " ", regex=True)


def draw(label_file, table, seed):
    """Folds for faces that have none. Raises UserError where there are too few people."""
    people = table.subject.nunique()
    if people < len(FOLDS):
        raise UserError(
            f"'{label_file}' has the faces of {people} people; {len(FOLDS)} folds need {len(FOLDS)} people or more"
        )
    return draw_folds(table.subject, table.label, seed, len(FOLDS))


def check_folds(label_file, table, because):
    """One fold is held out, so that there must be others. Raises UserError."""
    folds = sorted(set(table.fold))
    if len(folds) < 2:
        found = f"only fold {folds[0]}" if folds else "no fold"
        raise UserError(f"'{label_file}': {found} has faces, and two or more are needed: {because}")


def counts_of(table, class_names):
    return {
        "faces_per_fold": {fold: int((table.fold == fold).sum()) for fold in sorted(set(table.fold))},
        "faces_per_class": {name: int((table.label == label).sum()) for label, name in enumerate(class_names)},
    }


def find_present(paths, image_dir):
    """Boolean Series (N,): which images exist. Lists each folder once instead of looking up each image."""
    folders = paths.map(posixpath.dirname)
    existing = {posixpath.join(folder, name) for folder in folders.unique() for name in list_folder(image_dir / folder)}
    return paths.isin(existing)
