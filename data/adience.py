"""Adience's five fold files, read into one table of faces.

The benchmark (Eidinger, Enbar and Hassner, "Age and Gender Estimation of Unfiltered Faces", IEEE TIFS 2014) is
published as five tab-separated files, `fold_0_data.txt` to `fold_4_data.txt`, with one row per face. No person and no
Flickr album appears in two folds.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from data.labels import (
    FACE_KEY,
    FOLDS,
    has_drive,
    keep_present,
    list_folder,
    read_table,
    refuse,
    refuse_crossing,
    require_folder,
    select,
)
from utils.classes import Classes
from utils.errors import UserError
from utils.reading import exists, read_text

AGE_GROUPS = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
DEFAULT_GROUPS = AGE_GROUPS  # also the classes of a CSV file without --age-groups
HEADER = "user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score".split()
# The columns that are read, and their names in the table of faces.
NAMES = {"user_id": "album", "original_image": "image", "face_id": "person", "age": "age", "gender": "gender"}
NAMES |= {"fiducial_yaw_angle": "yaw", "fiducial_score": "score"}
HOW_TO_GET_ADIENCE = "Adience is at https://talhassner.github.io/home/projects/Adience/Adience-data.html"

# The two downloads name the same face differently.
FILE_PREFIXES = ("landmark_aligned_face", "coarse_tilt_aligned_face")

# The intervals of the fold files, such as "(8, 12)"; the paper calls this one 8-13.
INTERVALS = ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100))
CANONICAL = {str(interval): label for label, interval in enumerate(INTERVALS)}
ODD_INTERVALS = {"(25, 23)": 4, "(27, 32)": 4, "(38, 42)": 5, "(38, 48)": 5, "(8, 23)": 2}
OLDEST_SINGLE_AGE = 120
NEAREST = Classes(AGE_GROUPS, INTERVALS).labels_of(range(OLDEST_SINGLE_AGE + 1), nearest=True)
SINGLE_AGES = {str(age): int(label) for age, label in enumerate(NEAREST)}
NO_AGE = ("None", "")

# A policy maps the text of an age to its label; faces with any other known text are left out.
LABEL_POLICIES = {
    "strict": CANONICAL,
    "fixed": CANONICAL | ODD_INTERVALS,
    "nearest": CANONICAL | ODD_INTERVALS | SINGLE_AGES,
}
# Distinct faces of each fold, by label policy, counted in the published label files.
FACES_PER_FOLD = {
    "strict": (4305, 3092, 3285, 2963, 3676),
    "fixed": (4378, 3111, 3285, 3068, 3681),
    "nearest": (4432, 3693, 3343, 3400, 3754),
}
LABEL_FILE_LIMIT = 64  # MiB; Adience's have half a MiB each


def load_faces(label_dir, image_dir, policy="strict", allow_missing=False):
    """`load_data` of Adience: the distinct faces in the order of the files; policy: a key of LABEL_POLICIES."""
    listed = select_faces(read_rows(label_dir, image_dir), policy)
    report, table = keep_present(listed, image_dir, allow_missing), listed.faces.table
    for fold in folds_without(report.faces.table):
        first = table.path[table.fold == fold].iloc[0]
        raise UserError(f"fold {fold} has no face with an image under {image_dir}; the first one missing is {first}")
    return report.faces, report


def read_rows(label_dir, image_dir=None):
    """Read every row of the five files.

    Args:
        label_dir: folder of the files.
        image_dir: folder of the images, which tells how they are named; by default as in Adience's `aligned`.

    Returns:
        The table of all rows for `data.labels.select`, with the text of the age and the name of the image besides.

    Raises:
        UserError: a file is missing or malformed, or there is no image.
    """
    label_dir = Path(label_dir)
    require_folder(label_dir, "label directory", HOW_TO_GET_ADIENCE)
    rows = pd.concat([read_fold_file(label_dir / f"fold_{fold}_data.txt", fold) for fold in FOLDS], ignore_index=True)
    prefix = FILE_PREFIXES[0] if image_dir is None else find_prefix(rows.album.unique(), Path(image_dir))
    names = zip(*(rows[name].tolist() for name in ("album", "person", "image")), strict=True)
    return rows.assign(
        path=[f"{album}/{prefix}.{person}.{image}" for album, person, image in names],
        yaw=pd.to_numeric(rows.yaw, errors="coerce"),
        score=pd.to_numeric(rows.score, errors="coerce"),
    )


def read_fold_file(path, fold):
    if not exists(path):
        raise UserError(f"'{path}' is missing; the label directory holds fold_0_data.txt to fold_4_data.txt")
    text = read_text(path, LABEL_FILE_LIMIT)
    stray = re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    if stray:
        line = text.count("\n", 0, stray.start()) + 1
        raise UserError(f"{path}, line {line}: control character {stray.group()!r}; the file is plain text")
    columns, lines = read_table(path, text, check_header, delimiter="\t", quoting=csv.QUOTE_NONE)
    kept = {name: columns[original] for original, name in NAMES.items()}
    rows = pd.DataFrame({**kept, "fold": fold, "file": path.name, "line": lines})
    check_rows(path, rows)
    return rows


def check_header(path, names):
    if names != HEADER:
        shown = "\t".join(names)[:80]
        raise UserError(f"{path}: the header is {shown!r}, not Adience's 'user_id<tab>original_image<tab>...'")
    return names


def check_rows(path, rows):
    """Check that every age is a known text and every name a plain file name, which cannot leave the image directory."""
    known = LABEL_POLICIES["nearest"].keys() | set(NO_AGE)
    expected = f"the eight intervals such as '(25, 32)', the odd ones {', '.join(ODD_INTERVALS)}, whole ages and None"
    refuse(rows, ~rows.age.isin(known), lambda row: f"unknown age label {row.age!r}; known are {expected}", path)
    for column in ("user_id", "original_image", "face_id"):
        names = rows[NAMES[column]].tolist()
        wrong = [name in ("", ".", "..") or "/" in name or "\\" in name or has_drive(name) for name in names]
        refuse(rows, wrong, lambda row, k=column: f"{k} {row[NAMES[k]]!r} is not a plain file name", path)


def select_faces(rows, policy):
    """Choose the distinct faces that have a label under a policy.

    Args:
        rows: of `read_rows`.
        policy: a key of `LABEL_POLICIES`.

    Returns:
        A LabelReport, whose `faces` are the Faces.

    Raises:
        UserError: two rows contradict each other, folds share a person or an album, or a fold has no label.
    """
    repeats = rows[rows.duplicated(FACE_KEY, keep=False)][::-1]
    differing = repeats.groupby(FACE_KEY)[["age", "fold"]].transform("nunique").max(axis=1) > 1
    problem = "is listed with another age or in another fold too"
    refuse(repeats, differing, lambda row: f"face {row.person} of {row.album}/{row.image} {problem}")
    refuse_crossing(rows, "person", "a")
    refuse_crossing(rows, "album", "an")
    labels = rows.age.map(LABEL_POLICIES[policy]).fillna(-1).astype("int64")
    for fold in folds_without(rows[labels >= 0]):
        listed = f"fold_{fold}_data.txt lists {(rows.fold == fold).sum():,}"
        advice = f"--label-policy nearest uses single ages, too; {HOW_TO_GET_ADIENCE}"
        raise UserError(f"fold {fold} has no face with a label under the policy {policy}: {listed}; {advice}")
    distinct = rows[~rows.duplicated(FACE_KEY)]
    left_out = dict(Counter(map(reason_left_out, distinct.age[labels[distinct.index] < 0])))
    return select(rows.drop(columns=["age", "image"]), labels, Classes.of_ages(AGE_GROUPS), policy, left_out)


def reason_left_out(age):
    if age in NO_AGE:
        return "without an age"
    return "with an odd interval" if age in ODD_INTERVALS else "with a single age"


def folds_without(table):
    """The folds in which a table has no row."""
    return [fold for fold in FOLDS if not (table.fold == fold).any()]


def find_prefix(albums, image_dir):
    """The file prefix of this download, found in the listed albums. Raises UserError."""
    require_folder(image_dir, "image directory", HOW_TO_GET_ADIENCE)
    for album in albums:
        for name in list_folder(image_dir / album):
            if (prefix := name.partition(".")[0]) in FILE_PREFIXES:
                return prefix
    likely = [path for path in (image_dir / "aligned", image_dir / "faces") if path.is_dir()]
    hint = f"; did you mean '{likely[0]}'?" if likely else ""
    names = " or ".join(f"'{prefix}.*'" for prefix in FILE_PREFIXES)
    raise UserError(f"no {names} image of a listed album under '{image_dir}'{hint}")


def is_adience(faces):
    """Whether Faces are those of Adience's label files: its classes, and the published number of faces in each fold.

    Args:
        faces: Faces of one or more whole folds.
    """
    if tuple(faces.classes.names) != AGE_GROUPS or not len(faces):
        return False
    counts = faces.table.fold.value_counts()
    return any(
        all(fold in range(len(published)) and count == published[fold] for fold, count in counts.items())
        for published in FACES_PER_FOLD.values()
    )
