"""Your own faces: a CSV file with one row per face.

    path,age,person,gender,camera
    anna/0001.jpg,12.9,anna,f,phone

Columns: `path`, below the image directory, and `age`, in years or as 50-59 within one class, or `label`, the name of a
class; with both, training uses the labels and metrics the ages. Optional: `years`, such as 25-32 or 60+, which a loss
of ages learns in place of the age, `person`, `fold` (0 to 4) or `split` (train, val or test), `gender`, `yaw` (degrees)
and `score`. Other columns are kept for `test_code.py --by`. Semicolons or tabs may separate the columns; numbers may
then have decimal commas.
"""

import math
import posixpath
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from data.labels import (
    FOLDS,
    has_drive,
    keep_present,
    read_table,
    refuse_crossing,
    refuse_value,
    require_folder,
    select,
)
from data.split import draw_folds
from utils.classes import YEARS, Classes, expand
from utils.cli import printable
from utils.errors import UserError
from utils.reading import read_text

FILE_LIMIT = 256  # MiB; a million faces with long names
OLDEST = 130  # years
# Columns of the table of faces, and of what is made from it, that a file cannot fill.
RESERVED = (
    *("album", "file", "line", "album_size", "image_size", "width", "height", "brightness", "sharpness"),
    *("index", "row", "model", "position", "prediction", "confidence", "first_year", "last_year"),
)
# Columns that subgroups are not made from.
NO_SUBGROUPS = ("path", "label", "years", "person", "fold", "split", "file", "line")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
FOLD = re.compile(r"[0-4](?:\.0*)?")  # spreadsheets write 1.0, too
RANGE = re.compile(r"\d{1,3}-\d{1,3}", re.ASCII)  # an age range
DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)", re.ASCII)
NUMBERS = ("age", "fold", "yaw", "score")
SPLITS = {"train": 1, "val": 1, "test": 0}  # and the fold of each
KNOWN = ("path", "label", "years", "person", "split", "gender", *NUMBERS)  # in any case of letters
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
GENDERS = {"female": "f", "male": "m"}  # as Adience has them


def is_number(text):
    """Whether a text is a finite number, or empty."""
    return not text or bool(NUMBER.fullmatch(text) and math.isfinite(float(text)))


def bounds_of(text):
    """The texts of the first and last year of an age such as 34 or 30-39."""
    return text.split("-") if RANGE.fullmatch(text) else [text, text]


def leaves_folder(path):
    return posixpath.normpath(path).split("/")[0] in (".", "..")


# In this order: a column, a test of its texts, and the end of the message if it holds.
PROBLEMS = (
    ("path", lambda path: not path, "is empty"),
    ("path", CONTROL.search, "holds a control character"),
    ("path", lambda path: "\\" in path, "has a backslash; folders are separated by /"),
    (
        "path",
        lambda path: path.startswith("/") or has_drive(path),
        "is absolute; expected a path below the image directory",
    ),
    ("path", leaves_folder, "leaves the image directory; expected a path below it"),
    (
        "age",
        lambda text: not (is_number(text) or RANGE.fullmatch(text)),
        "is not an age; expected years such as 34 or 0.5",
    ),
    (
        "age",
        lambda text: text and not all(0 <= float(year) <= OLDEST for year in bounds_of(text)),
        f"is no age of a person; expected 0 to {OLDEST} years",
    ),
    ("person", CONTROL.search, "holds a control character"),
    ("fold", lambda text: not FOLD.fullmatch(text), f"is unknown; expected {', '.join(map(str, FOLDS))}"),
    (
        "split",
        lambda text: text not in ("", *SPLITS),
        "is unknown; expected train, val or test, or nothing to leave it out",
    ),
    ("years", lambda text: not YEARS.fullmatch(text), "are not an interval; expected such as 25-32 or 60+"),
    ("yaw", lambda text: not is_number(text), "is not a number"),
    ("score", lambda text: not is_number(text), "is not a number"),
)
AS_WRITTEN = ("path", "label", "age", "person", "fold", "yaw", "score")  # in others, any space becomes a single one
UNKNOWN_PEOPLE = {"na", "n/a", "nan", "none", "null", "unknown", "-", "?"}
NO_FACE = "lists no face; expected a header and one row per face"


def load_faces(label_file, image_dir, policy="strict", allow_missing=False, age_groups=(), seed=0):
    """`load_data` of a CSV file: the faces in its order, with its further columns as text.

    The policy "nearest" puts an age outside of all groups into the nearest one; the others leave it out.
    """
    listed = select_faces(label_file, policy, tuple(age_groups), seed)
    require_folder(image_dir, "image directory")
    report = keep_present(listed, image_dir, allow_missing, label_file)
    if not len(report.faces):
        raise UserError(
            f"'{label_file}': {report.missing:,} images are missing under '{image_dir}', and no face is left"
        )
    return report.faces, report


def select_faces(label_file, policy, age_groups, seed):
    """Choose the faces that have a label, whether or not their images exist; see `load_faces`.

    Returns:
        A LabelReport, whose `faces` are the Faces.
    """
    rows, dropped, understood = read_rows(label_file)
    people = rows.person.where(rows.person != "", rows.path) if "person" in rows else rows.path
    genders = rows.gender.str.lower().replace(GENDERS) if "gender" in rows else ""
    numbers = {name: rows[name].map(number_of) for name in NUMBERS if name in rows}
    table = rows.assign(person=people, album=people, gender=genders, **{"yaw": np.nan, "score": np.nan, **numbers})
    classes, labels, left_out, gaps = assign_labels(label_file, rows, table, policy, age_groups)
    if "split" in rows:
        unused = (labels >= 0) & (rows.split == "")
        labels, left_out = labels.where(~unused, -1), {**left_out, "without a split": int(unused.sum())}
    labelled = labels >= 0
    if not labelled.any():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        raise UserError(f"'{label_file}' has no face with a label: of {len(rows):,} rows, {reasons}")
    if "fold" in rows:
        table["fold"] = table.fold.astype("int64")
        refuse_crossing(table, "person", "a", label_file)
    elif "split" in rows:
        table["fold"] = rows.split.map({**SPLITS, "": -1})
        refuse_crossing(table.assign(fold=rows.split)[labelled], "person", "a", label_file)
    else:
        named = table.person[labelled]
        table["fold"] = -1
        table.loc[labelled, "fold"] = draw_folds(named, labels[labelled], seed, min(len(FOLDS), named.nunique()))
        understood += tuple(odd_folds(table[labelled], labels[labelled]))
    notes = understood + (tuple(odd_people(table.person[labelled])) if "person" in rows else ())
    facts = {"notes": notes, "gaps": gaps, "people_named": "person" in rows, "labels_are_ages": "label" not in rows}
    if "years" in rows:
        bounds = [YEARS.fullmatch(text).groups() for text in rows.years]
        table["first_year"] = [float(first) for first, _, _ in bounds]
        table["last_year"] = [math.inf if plus else float(last or first) for first, last, plus in bounds]
    kept = tuple(name for name in rows if name not in NO_SUBGROUPS)
    seed = None if "fold" in rows or "split" in rows else seed
    return select(table, labels, classes, policy, left_out, seed=seed, kept=kept, dropped=dropped, **facts)


def number_of(text):
    """The number of a text; nan for an empty one and for a range."""
    return float(text) if text and not RANGE.fullmatch(text) else math.nan


def odd_folds(table, labels):
    """Yield a note for each fold on which no model can be judged."""
    for fold, rows in table.groupby("fold"):
        if rows.person.nunique() == 1:
            yield f"fold {fold} holds one person only, {printable(repr(rows.person.iloc[0]))}, with {len(rows):,} faces"
        elif 2 * labels[rows.index].nunique() < min(labels.nunique(), len(rows)):
            yield f"fold {fold} lacks most classes: it has {labels[rows.index].nunique()} of {labels.nunique()}"


def odd_people(people):
    """Yield a note for each name that probably means an unknown person."""
    for name, count in people.value_counts().items():
        if name.lower() in UNKNOWN_PEOPLE or (count > len(people) / 10 and people.nunique() > 20):
            shown = f"the person {printable(repr(name))} has {count:,} of {len(people):,} faces"
            yield f"{shown}; an empty cell means that the person is not known"
    names = pd.Series(people.unique())
    if (alike := names[names.str.casefold().duplicated(keep=False)]).any():
        yield f"{len(alike):,} names of people differ in capitals only, such as {printable(', '.join(alike[:2]), 80)}"


def read_rows(label_file):
    """Read every row as text, without space around it.

    Returns:
        (the table of the file's columns, `file` and `line`; the names of the columns that cannot be kept; notes about
        how the file was understood).

    Raises:
        UserError: the file is missing or malformed, or holds a wrong value.
    """
    text = read_text(label_file, FILE_LIMIT).removeprefix("\ufeff")  # the byte order mark of spreadsheets
    # The separator with which the first line has a column 'path'; by default a comma.
    header = text.lstrip().partition("\n")[0].lower().replace('"', "")
    separator = next((s for s in SEPARATORS if "path" in map(str.strip, header.split(s))), ",")
    columns, lines = read_table(label_file, text, check_header, delimiter=separator, strict=True)
    if not len(lines):
        raise UserError(f"'{label_file}' {NO_FACE}")
    kept = {name: texts for name, texts in columns.items() if name and name not in RESERVED}
    for name, texts in kept.items():
        kept[name] = [text.strip() if name in AS_WRITTEN else " ".join(text.split()) for text in texts]
    notes = [f"the columns are separated by {SEPARATORS[separator]}"] if separator != "," else []
    if separator != ",":
        for name in kept.keys() & {*NUMBERS}:
            texts = [DECIMAL_COMMA.sub(r"\1.\2", text) for text in kept[name]]
            if texts != kept[name]:
                kept[name] = texts
                notes.append(f"the column '{name}' has decimal commas")
    if "person" in kept:
        kept["person"] = list(map(one_spelling, kept["person"]))
    rows = pd.DataFrame({**kept, "file": Path(label_file).name, "line": lines})
    for column, is_wrong, problem in PROBLEMS:
        if wrong := {text for text in set(kept.get(column, ())) if is_wrong(text)}:
            refuse_value(rows, rows[column].isin(wrong), column, problem, label_file)
    paths = pd.Series(map(posixpath.normpath, kept["path"]))
    repeated = paths.duplicated()
    if repeated.any():
        first = rows.line[paths == paths[repeated].iloc[0]].iloc[0]
        refuse_value(rows, repeated, "path", f"is in line {first} too; list each image once", label_file)
    return rows.assign(path=paths), tuple(name for name in columns if name in RESERVED), tuple(sorted(notes))


def one_spelling(name):
    """A name in one Unicode form, with single spaces and without invisible characters."""
    shown = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", shown).split())


def check_header(path, names):
    """The names of the columns, the known ones in small letters. Raises UserError if one is missing or there twice."""
    names = [name.lower() if name.lower() in KNOWN else name for name in names]
    shown = printable(repr(", ".join(names)), 200)
    if not names:
        raise UserError(f"'{path}' {NO_FACE}")
    if repeated := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise UserError(f"'{path}' has two columns '{printable(repeated[0])}'; name each column once")
    if "path" not in names:
        raise UserError(f"'{path}' has no column 'path', separated by commas; its header is {shown}")
    if "age" not in names and "label" not in names:
        raise UserError(f"'{path}' has neither a column 'age' nor 'label'; add one of them; its header is {shown}")
    if "fold" in names and "split" in names:
        raise UserError(f"'{path}' has both columns 'fold' and 'split'; keep one of them")
    return names


def assign_labels(label_file, rows, table, policy, names):
    """Label the rows.

    Args:
        label_file: for messages.
        rows: the texts of the columns.
        table: of the rows, with the column `label`, the name of a class, or `age`, in years, nan for a range.
        policy: the label policy.
        names: the names of the classes.

    Returns:
        (Classes; labels, a Series of int64, -1 for none; {reason: rows without a label};
        {ages outside of the classes: rows}).
    """
    if "label" in table:
        classes = Classes.guess(expand(names))
        shown = printable(", ".join(classes.names), 200)
        problem = f"is none of the classes {shown}; --age-groups names them, in order"
        refuse_value(table, ~table.label.isin(["", *classes.names]), "label", problem, label_file)
        labels = table.label.map({name: label for label, name in enumerate(classes.names)}).fillna(-1).astype("int64")
        return classes, labels, {"without a label": int((labels < 0).sum())}, {}
    classes, aged = Classes.of_ages(names), table.age.notna()
    labels = pd.Series(classes.labels_of(table.age, policy == "nearest"), table.index).where(aged, -1)
    ranges = {text: classes.labels_of(bounds_of(text)) for text in set(rows.age) if RANGE.fullmatch(text)}
    wide = {text for text, (first, last) in ranges.items() if first != last or first < 0}
    problem = f"lies in none of the classes {printable(', '.join(classes.names), 200)}"
    refuse_value(rows, rows.age.isin(wide), "age", problem, label_file)
    labels = rows.age.map({text: first for text, (first, _) in ranges.items()}).fillna(labels).astype("int64")
    aged |= rows.age.isin(ranges)
    years = np.floor(table.age)
    gaps = {text: int(years.between(*bounds).sum()) for text, bounds in classes.gaps().items()}
    outside = int((aged & (labels < 0)).sum())
    left_out = {"with an age outside of the classes": outside, "without an age": int((~aged).sum())}
    return classes, labels, left_out, gaps
