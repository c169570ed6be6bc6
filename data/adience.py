"""Adience's five fold files, read into one table of faces.

The benchmark (Eidinger, Enbar and Hassner, "Age and Gender Estimation of Unfiltered Faces", IEEE TIFS 2014) is
published as five tab-separated files, `fold_0_data.txt` to `fold_4_data.txt`, with one row per face. No person and no
Flickr album appears in two folds.
"""

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from data.faces import Faces
from utils.errors import UserError
from utils.foreign import exists, read_text

AGE_GROUPS = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
DEFAULT_GROUPS = AGE_GROUPS  # of other data, too, unless it is given some of its own
FOLDS = (0, 1, 2, 3, 4)
HEADER = ("user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score").split()
FACE_KEY = ["user_id", "face_id", "original_image"]  # identifies a face; a row with the same three is a repeat
HOW_TO_GET_ADIENCE = "Adience is at https://talhassner.github.io/home/projects/Adience/Adience-data.html"

# The two downloads name the same face differently.
FILE_PREFIXES = ("landmark_aligned_face", "coarse_tilt_aligned_face")

# What the fold files write for the eight classes; the paper calls the third one 8-13.
CANONICAL = {
    "(0, 2)": 0,
    "(4, 6)": 1,
    "(8, 12)": 2,
    "(15, 20)": 3,
    "(25, 32)": 4,
    "(38, 43)": 5,
    "(48, 53)": 6,
    "(60, 100)": 7,
}
ODD_INTERVALS = {
    "(25, 23)": 4,
    "(27, 32)": 4,
    "(38, 42)": 5,
    "(38, 48)": 5,
    "(8, 23)": 2,
}
# Distinct faces of each fold, by label policy, counted in the published label files.
FACES_PER_FOLD = {
    "strict": (4305, 3092, 3285, 2963, 3676),
    "fixed": (4378, 3111, 3285, 3068, 3681),
    "nearest": (4432, 3693, 3343, 3400, 3754),
}
NO_AGE = ("None", "")
OLDEST_SINGLE_AGE = 120
LABEL_FILE_LIMIT = 64  # MiB; Adience's have half a MiB each


def nearest_class(age):
    """The label of the interval nearest to a single age; the younger one on a tie."""
    intervals = [tuple(map(int, text.strip("()").split(","))) for text in CANONICAL]
    distances = [max(low - age, age - high, 0) for low, high in intervals]
    return distances.index(min(distances))


SINGLE_AGES = {str(age): nearest_class(age) for age in range(OLDEST_SINGLE_AGE + 1)}

# A policy maps the text of an age to its label; faces with any other known text are left out.
LABEL_POLICIES = {
    "strict": CANONICAL,
    "fixed": CANONICAL | ODD_INTERVALS,
    "nearest": CANONICAL | ODD_INTERVALS | SINGLE_AGES,
}


@dataclass(frozen=True)
class LabelReport:
    """The number of rows of the label files that were used and left out under one policy."""

    policy: str
    rows: int
    repeats: int
    left_out: dict  # reason -> distinct faces
    rows_per_fold: dict  # fold -> labelled rows, repeats included
    faces_per_fold: dict  # fold -> faces used
    faces_per_class: dict  # class name -> faces used
    missing: int = 0

    def __str__(self):
        used = sum(self.faces_per_fold.values())
        reasons = {"repeated rows": self.repeats, **self.left_out, "missing images": self.missing}
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        return (
            f"labels: {self.rows:,} rows read, {used:,} faces used (policy {self.policy})\n"
            f"  left out: {left_out or 'nothing'}\n"
            f"  per fold: {list_counts(self.faces_per_fold)}\n"
            f"  per class: {list_counts(self.faces_per_class)}"
        )


def list_counts(counts):
    return "  ".join(f"{name}: {count:,}" for name, count in counts.items())


def load_faces(label_dir, image_dir, policy="strict", allow_missing=False):
    """Read the labelled faces.

    Args:
        label_dir: folder of `fold_0_data.txt` to `fold_4_data.txt`.
        image_dir: folder of the albums, Adience's `aligned` or `faces`.
        policy: a key of `LABEL_POLICIES`.
        allow_missing: leave out listed faces whose images do not exist, instead of raising an error.

    Returns:
        (Faces, LabelReport): the distinct faces in the order of the files, and the numbers of those used and left out.

    Raises:
        UserError: a file is missing or malformed, a label contradicts another, or a fold is left without faces.
    """
    image_dir = Path(image_dir)
    rows = read_rows(label_dir)
    table, report = select_faces(rows, policy)
    require_folder(image_dir, "the image directory")
    table = table.assign(path=face_paths(table, find_prefix(rows, image_dir)))
    present = find_present(table, image_dir)
    absent = table[~present]
    if len(absent) and not allow_missing:
        raise UserError(
            f"{len(absent):,} of {len(table):,} listed images are missing under {image_dir},"
            f" first: {', '.join(absent.path.head(3))} (--allow-missing continues without them)"
        )
    table = table[present].reset_index(drop=True)
    for fold in folds_without(table):
        first = absent.path[absent.fold == fold].iloc[0]
        raise UserError(f"fold {fold} has no face with an image under {image_dir}; the first one missing is {first}")
    columns = ["path", "label", "fold", "subject", "album", "gender", "yaw", "score"]
    return Faces(table[columns], AGE_GROUPS), replace(report, **counts_of(table), missing=len(absent))


def read_rows(label_dir):
    """Every row of the five files, as text, with its fold, file and line number. Raises UserError."""
    label_dir = Path(label_dir)
    require_folder(label_dir, "the label directory")
    return pd.concat([read_fold_file(label_dir, fold) for fold in FOLDS], ignore_index=True)


def require_folder(folder, what, advice=HOW_TO_GET_ADIENCE):
    """Raises UserError, with the advice, where a folder is not there."""
    try:
        exists = folder.is_dir()
    except OSError:  # a name that no file can have
        exists = False
    if not exists:
        raise UserError("; ".join(filter(None, [f"{what} '{folder}' does not exist or is not a folder", advice])))


def read_fold_file(label_dir, fold):
    path = label_dir / f"fold_{fold}_data.txt"
    if not exists(path):
        raise UserError(f"'{path}' is missing; the label directory holds fold_0_data.txt to fold_4_data.txt")
    text = read_text(path, LABEL_FILE_LIMIT)
    check_text(path, text)
    rows = pd.read_csv(
        io.StringIO(text), sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, skip_blank_lines=True
    )
    rows["fold"] = fold
    rows["line"] = [number for number, line in enumerate(text.split("\n"), 1) if line and number > 1]
    rows["file"] = path.name
    check_rows(path, rows)
    return rows


def check_text(path, text):
    """Check the form of a fold file before pandas reads it: header, fields per row, no control characters."""
    stray = re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    if stray:
        line = text.count("\n", 0, stray.start()) + 1
        raise UserError(f"{path}, line {line}: control character {stray.group()!r}; the file is plain text")
    lines = text.split("\n")
    if lines[0].split("\t") != HEADER:
        raise UserError(f"{path}: the header is {lines[0][:80]!r}, not Adience's 'user_id<tab>original_image<tab>...'")
    for number, line in enumerate(lines[1:], 2):
        if line and line.count("\t") != len(HEADER) - 1:
            fields = line.count("\t") + 1
            raise UserError(f"{path}, line {number}: {fields} fields instead of {len(HEADER)}: {line[:80]!r}")


def check_rows(path, rows):
    """Check that every age is a known text and every name a plain file name, which cannot leave the image directory."""
    known = LABEL_POLICIES["nearest"].keys() | set(NO_AGE)
    unknown = ~rows.age.isin(known)
    if unknown.any():
        row = rows[unknown].iloc[0]
        raise UserError(
            f"{path}, line {row.line}: unknown age label {row.age!r}; known are the eight intervals such as '(25, 32)',"
            f" the odd ones {', '.join(ODD_INTERVALS)}, whole ages and None"
        )
    for column in ("user_id", "original_image", "face_id"):
        # A single path component: no separator, not empty, not '.' or '..'.
        plain = rows[column].str.fullmatch(r"(?!\.{1,2}$)[^/\\]+")
        if not plain.all():
            row = rows[~plain].iloc[0]
            raise UserError(f"{path}, line {row.line}: {column} {row[column]!r} is not a plain file name")


def select_faces(rows, policy):
    """The table of distinct faces with a label under the policy, and the LabelReport. Raises UserError."""
    if policy not in LABEL_POLICIES:
        raise UserError(f"--label-policy {policy}: choose from {', '.join(LABEL_POLICIES)}")
    rows = rows.assign(label=rows.age.map(LABEL_POLICIES[policy]))
    check_repeats(rows)
    check_people(rows)
    repeated = rows.duplicated(FACE_KEY)
    distinct = rows[~repeated]
    unlabelled = distinct.label.isna()
    table = distinct[~unlabelled].rename(
        columns={"user_id": "album", "face_id": "subject", "fiducial_yaw_angle": "yaw", "fiducial_score": "score"}
    )
    for fold in folds_without(table):
        raise UserError(explain_empty_fold(distinct.age[distinct.fold == fold], fold, policy))
    table = table.assign(
        label=table.label.astype("int64"),
        yaw=pd.to_numeric(table.yaw, errors="coerce"),
        score=pd.to_numeric(table.score, errors="coerce"),
    )
    labelled_rows = rows[rows.label.notna()]
    report = LabelReport(
        policy=policy,
        rows=len(rows),
        repeats=int(repeated.sum()),
        left_out=dict(Counter(map(reason_left_out, distinct.age[unlabelled]))),
        rows_per_fold={fold: int((labelled_rows.fold == fold).sum()) for fold in FOLDS},
        **counts_of(table),
    )
    return table.reset_index(drop=True), report


def check_repeats(rows):
    """A face may be listed twice, but not with two ages or in two folds."""
    repeats = rows[rows.duplicated(FACE_KEY, keep=False)]
    differing = repeats.groupby(FACE_KEY)[["age", "fold"]].transform("nunique").max(axis=1) > 1
    if differing.any():
        row = repeats[differing].iloc[-1]
        raise UserError(
            f"{row.file}, line {row.line}: face {row.face_id} of {row.user_id}/{row.original_image}"
            " is listed with another age or in another fold too"
        )


def check_people(rows):
    """No person and no album may be in two folds: the model would be tested on people that it was trained on."""
    for column, name in (("face_id", "person"), ("user_id", "album")):
        folds = rows.groupby(column).fold
        crossing = folds.transform("min") != folds.transform("max")
        if crossing.any():
            row = rows[crossing].iloc[-1]
            raise UserError(
                f"{row.file}, line {row.line}: {name} {row[column]} is in another fold too; folds share nobody"
            )


def reason_left_out(age):
    if age in NO_AGE:
        return "without an age"
    return "with an odd interval" if age in ODD_INTERVALS else "with a single age"


def folds_without(table):
    return [fold for fold in FOLDS if not (table.fold == fold).any()]


def explain_empty_fold(ages, fold, policy):
    """Why a fold has no label, and which other policy would label most of its faces.

    Args:
        ages: the texts of the ages of the fold's distinct faces, none of which has a label under the policy.
    """
    problem = f"fold {fold} has no face with a label under the policy {policy}: "
    if not len(ages):
        return problem + f"fold_{fold}_data.txt lists none; {HOW_TO_GET_ADIENCE}"
    reasons = Counter(map(reason_left_out, ages))
    if len(reasons) == 1:
        (reason,) = reasons
        plural = {"with a single age": "single ages", "with an odd interval": "odd intervals"}
        problem += f"all {len(ages):,} are {plural.get(reason, reason)}"
    else:
        problem += f"of {len(ages):,} faces, " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    labelled = {name: int(ages.isin(list(labels)).sum()) for name, labels in LABEL_POLICIES.items()}
    best = max(labelled, key=labelled.get)  # the first, which changes least, where several label as many
    if not labelled[best]:
        return problem + f"; no policy can label them: add ages to fold_{fold}_data.txt"
    return problem + f"; --label-policy {best} uses {'them' if labelled[best] == len(ages) else f'{labelled[best]:,}'}"


def counts_of(table):
    labels = enumerate(AGE_GROUPS)
    return {
        "faces_per_fold": {fold: int((table.fold == fold).sum()) for fold in FOLDS},
        "faces_per_class": {name: int((table.label == label).sum()) for label, name in labels},
    }


def find_prefix(rows, image_dir):
    """The file prefix of the download that this is, found in the listed albums. Raises UserError."""
    for album in rows.user_id.unique():
        for name in list_folder(image_dir / album):
            for prefix in FILE_PREFIXES:
                if name.startswith(prefix + "."):
                    return prefix
    hint = next(
        (f"; did you mean '{image_dir / name}'?" for name in ("aligned", "faces") if (image_dir / name).is_dir()), ""
    )
    raise UserError(
        f"no '{FILE_PREFIXES[0]}.*' or '{FILE_PREFIXES[1]}.*' image of a listed album under '{image_dir}'{hint}"
    )


def face_paths(table, prefix):
    return table.album + f"/{prefix}." + table.subject + "." + table.original_image


def label_places(label_dir, image_dir, policy):
    """({path: "fold_0_data.txt:17"} of every labelled face, the LabelReport). Raises UserError."""
    rows = read_rows(label_dir)
    table, report = select_faces(rows, policy)
    paths = face_paths(table, find_prefix(rows, Path(image_dir)))
    return dict(zip(paths, table.file + ":" + table.line.astype(str), strict=True)), report


def find_present(table, image_dir):
    """Boolean Series (N,): which images exist. Lists each album once instead of looking up each face."""
    existing = {f"{album}/{name}" for album in table.album.unique() for name in list_folder(image_dir / album)}
    return table.path.isin(existing)


def list_folder(folder):
    """The names in a folder; none where it does not exist. Raises UserError."""
    try:
        return os.listdir(folder)
    except PermissionError as error:
        raise UserError(f"cannot look into '{folder}': {error.strerror}") from None
    except OSError:
        return []


def is_adience(faces):
    """Whether Faces are those of Adience's label files: its classes, and the published number of faces in each fold.

    Args:
        faces: Faces of one or more whole folds.
    """
    if tuple(faces.class_names) != AGE_GROUPS or not len(faces):
        return False
    counts = faces.table.fold.value_counts()
    return any(
        all(fold in range(len(published)) and count == published[fold] for fold, count in counts.items())
        for published in FACES_PER_FOLD.values()
    )
