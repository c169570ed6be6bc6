"""Adience's five fold files, read into one table of faces.

The benchmark (Eidinger, Enbar and Hassner, "Age and Gender Estimation of
Unfiltered Faces", IEEE TIFS 2014) is published as five tab-separated files,
`fold_0_data.txt` to `fold_4_data.txt`, one row per face. No person and no Flickr
album appears in two folds.
"""

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data import DataError

AGE_GROUPS = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
FOLDS = (0, 1, 2, 3, 4)
HEADER = ("user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score").split()
FACE_KEY = ["user_id", "face_id", "original_image"]  # what one face is; a row with the same three is a repeat
HOW_TO_GET_ADIENCE = "Adience is at https://talhassner.github.io/home/projects/Adience/Adience-data.html"

# The two downloads name the same face differently.
FILE_PREFIXES = ("landmark_aligned_face", "coarse_tilt_aligned_face")

# What the fold files write for the eight groups; the paper calls the third one 8-13.
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
NO_AGE = ("None", "")
OLDEST_SINGLE_AGE = 120


def nearest_group(age):
    """The group whose interval lies nearest to a single age; the younger one on a tie."""
    intervals = [tuple(map(int, text.strip("()").split(","))) for text in CANONICAL]
    distances = [max(low - age, age - high, 0) for low, high in intervals]
    return distances.index(min(distances))


SINGLE_AGES = {str(age): nearest_group(age) for age in range(OLDEST_SINGLE_AGE + 1)}

# A policy is a table from the age text to the label; a known text that is absent is left out.
LABEL_POLICIES = {
    "strict": CANONICAL,
    "fixed": CANONICAL | ODD_INTERVALS,
    "nearest": CANONICAL | ODD_INTERVALS | SINGLE_AGES,
}


@dataclass(frozen=True)
class LabelReport:
    """What became of the rows of the label files under one policy."""

    policy: str
    rows: int
    repeats: int
    left_out: dict  # reason -> distinct faces
    rows_per_fold: dict  # fold -> labelled rows, repeats included
    faces_per_fold: dict  # fold -> faces used
    faces_per_class: dict  # label -> faces used
    missing: int = 0

    def __str__(self):
        used = sum(self.faces_per_fold.values())
        lines = [f"labels: {self.rows:,} rows read, {used:,} faces used (policy {self.policy})"]
        reasons = {"repeated rows": self.repeats, **self.left_out, "missing images": self.missing}
        told = [f"{count:,} {reason}" for reason, count in reasons.items() if count]
        lines.append("  left out: " + (", ".join(told) or "nothing"))
        lines.append("  per fold: " + "  ".join(f"{k}: {n:,}" for k, n in self.faces_per_fold.items()))
        lines.append("  per group: " + "  ".join(f"{AGE_GROUPS[k]}: {n:,}" for k, n in self.faces_per_class.items()))
        return "\n".join(lines)


def load_faces(label_dir, image_dir, policy="strict", allow_missing=False):
    """The labelled faces and a report of what was read, used and left out.

    label_dir: folder of `fold_0_data.txt` to `fold_4_data.txt`.
    image_dir: folder of the albums, Adience's `aligned` or `faces`.
    policy: a key of `LABEL_POLICIES`.
    allow_missing: go on without listed images that are not there.

    Returns (faces, report); `faces` has one row per distinct face, in the files'
    order: path (below image_dir), label (0-7), fold, subject, album, gender,
    yaw (degrees) and score. Raises DataError.
    """
    image_dir = Path(image_dir)
    rows = read_rows(label_dir)
    faces, report = select_faces(rows, policy)
    require_folder(image_dir, "the image directory")
    prefix = find_prefix(rows, image_dir)
    faces = faces.assign(path=face_paths(faces, prefix))
    present = find_present(faces, image_dir)
    missing = int((~present).sum())
    if missing and not allow_missing:
        first = ", ".join(faces.path[~present].head(3))
        raise DataError(
            f"{missing:,} of {len(faces):,} listed images are missing under {image_dir}, first: {first}"
            " (--allow-missing goes on without them)"
        )
    faces = faces[present].reset_index(drop=True)
    require_every_fold(faces, f"an image under {image_dir}")
    report = LabelReport(**{**vars(report), **counts_of(faces), "missing": missing})
    columns = ["path", "label", "fold", "subject", "album", "gender", "yaw", "score"]
    return faces[columns], report


def read_rows(label_dir):
    """Every row of the five files, as text, with its fold and line number. Raises DataError."""
    label_dir = Path(label_dir)
    require_folder(label_dir, "the label directory")
    return pd.concat([read_fold_file(label_dir, fold) for fold in FOLDS], ignore_index=True)


def require_folder(folder, what):
    try:
        there = folder.is_dir()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise DataError(f"{what} '{folder}' does not exist or is no folder; {HOW_TO_GET_ADIENCE}")


def read_fold_file(label_dir, fold):
    path = label_dir / f"fold_{fold}_data.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"'{path}' is missing; the label directory holds fold_0_data.txt to fold_4_data.txt") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as UTF-8 text: {error}") from None
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
    """Hold the shape of a fold file before pandas reads it: header, fields per row, no control characters."""
    stray = re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    if stray:
        line = text.count("\n", 0, stray.start()) + 1
        raise DataError(f"{path}, line {line}: control character {stray.group()!r}; the file is plain text")
    lines = text.split("\n")
    if lines[0].split("\t") != HEADER:
        raise DataError(f"{path}: the header is {lines[0][:80]!r}, not Adience's 'user_id<tab>original_image<tab>...'")
    for number, line in enumerate(lines[1:], 2):
        if line and line.count("\t") != len(HEADER) - 1:
            fields = line.count("\t") + 1
            raise DataError(f"{path}, line {number}: {fields} fields instead of {len(HEADER)}: {line[:80]!r}")


def check_rows(path, rows):
    """Every age is a known text and every name a plain file name, so that no path leaves the image directory."""
    known = LABEL_POLICIES["nearest"].keys() | set(NO_AGE)
    unknown = ~rows.age.isin(known)
    if unknown.any():
        row = rows[unknown].iloc[0]
        raise DataError(
            f"{path}, line {row.line}: unknown age label {row.age!r}; known are the eight intervals such as '(25, 32)',"
            f" the odd ones {', '.join(ODD_INTERVALS)}, whole ages and None"
        )
    for column in ("user_id", "original_image", "face_id"):
        # A single path component: no separator, not empty, not '.' or '..'.
        plain = rows[column].str.fullmatch(r"(?!\.{1,2}$)[^/\\]+")
        if not plain.all():
            row = rows[~plain].iloc[0]
            raise DataError(f"{path}, line {row.line}: {column} {row[column]!r} is not a plain file name")


def select_faces(rows, policy):
    """Distinct faces with a label under the policy, and the LabelReport. Raises DataError."""
    if policy not in LABEL_POLICIES:
        raise DataError(f"unknown label policy '{policy}'; one of {', '.join(LABEL_POLICIES)}")
    rows = rows.assign(label=rows.age.map(LABEL_POLICIES[policy]))
    repeated = rows.duplicated(FACE_KEY)
    check_repeats(rows)
    check_people(rows)
    distinct = rows[~repeated]
    unlabelled = distinct.label.isna()
    faces = distinct[~unlabelled].rename(
        columns={"user_id": "album", "face_id": "subject", "fiducial_yaw_angle": "yaw", "fiducial_score": "score"}
    )
    faces = faces.assign(
        label=faces.label.astype("int64"),
        yaw=pd.to_numeric(faces.yaw, errors="coerce"),
        score=pd.to_numeric(faces.score, errors="coerce"),
    )
    require_every_fold(faces, f"a label under the policy {policy}")
    labelled_rows = rows[rows.label.notna()]
    report = LabelReport(
        policy=policy,
        rows=len(rows),
        repeats=int(repeated.sum()),
        left_out=dict(Counter(map(reason_left_out, distinct.age[unlabelled]))),
        rows_per_fold={k: int((labelled_rows.fold == k).sum()) for k in FOLDS},
        **counts_of(faces),
    )
    return faces.reset_index(drop=True), report


def check_repeats(rows):
    """A face may be listed twice, but not with two ages or in two folds: that would leak it into training."""
    repeats = rows[rows.duplicated(FACE_KEY, keep=False)]
    differing = repeats.groupby(FACE_KEY)[["age", "fold"]].transform("nunique").max(axis=1) > 1
    if differing.any():
        row = repeats[differing].iloc[-1]
        raise DataError(
            f"{row.file}, line {row.line}: face {row.face_id} of {row.user_id}/{row.original_image}"
            " is listed with another age or in another fold too"
        )


def check_people(rows):
    """A person in two folds would be trained on and tested on."""
    folds = rows.groupby("face_id").fold
    crossing = folds.transform("min") != folds.transform("max")
    if crossing.any():
        row = rows[crossing].iloc[-1]
        raise DataError(f"{row.file}, line {row.line}: person {row.face_id} is in another fold too; folds share nobody")


def reason_left_out(age):
    if age in NO_AGE:
        return "without an age"
    return "with an odd interval" if age in ODD_INTERVALS else "with a single age"


def counts_of(faces):
    return {
        "faces_per_fold": {k: int((faces.fold == k).sum()) for k in FOLDS},
        "faces_per_class": {k: int((faces.label == k).sum()) for k in range(len(AGE_GROUPS))},
    }


def require_every_fold(faces, having):
    for fold in FOLDS:
        if not (faces.fold == fold).any():
            raise DataError(f"fold {fold} has no face with {having}; look at fold_{fold}_data.txt")


def find_prefix(rows, image_dir):
    """Which of the two downloads this is, seen from the file names in the listed albums."""
    for album in rows.user_id.unique():
        for name in list_folder(image_dir / album):
            for prefix in FILE_PREFIXES:
                if name.startswith(prefix + "."):
                    return prefix
    hint = next(
        (f"; did you mean '{image_dir / name}'?" for name in ("aligned", "faces") if (image_dir / name).is_dir()), ""
    )
    raise DataError(
        f"no '{FILE_PREFIXES[0]}.*' or '{FILE_PREFIXES[1]}.*' image of a listed album under '{image_dir}'{hint}"
    )


def face_paths(faces, prefix):
    return faces.album + f"/{prefix}." + faces.subject + "." + faces.original_image


def find_present(faces, image_dir):
    """(N,) bool Series: which images exist. One listing per album instead of one look-up per face."""
    existing = {f"{album}/{name}" for album in faces.album.unique() for name in list_folder(image_dir / album)}
    return faces.path.isin(existing)


def list_folder(folder):
    """The names in a folder; none where it is not there or could not be. Raises DataError."""
    try:
        return os.listdir(folder)
    except PermissionError as error:
        raise DataError(f"cannot look into '{folder}': {error.strerror}") from None
    except OSError:
        return []
