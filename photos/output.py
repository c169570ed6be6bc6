"""Predictions for photographs as printed lines, and as rows of a CSV or JSON file."""

import contextlib
import csv
import itertools
import json

import numpy as np

from utils.cli import counted, percent, printable
from utils.files import atomic_write

AGE = "age age_low age_high".split()
SPAN = "first_second last_second sightings".split()  # columns of a track in a video
BOX = "left top width height".split()
FACE, ANSWER = "photo face faces".split(), "detection_confidence angle group confidence".split()
FIRST_COLUMNS = [*FACE, *BOX, *ANSWER, *AGE, "doubts", *SPAN]
# Starts of the files written here, now and earlier; a JSON list may be empty.
STARTS = {"csv": ("photo,face,faces,left,",), "json": ('[\n{"photo": ', "[\n\n]")}


def rows_of(photograph, class_names):
    """The rows of a photograph: one per face, or a single one where there is none or it could not be read.

    The row of a person, whose `photo` is a folder, has no box.

    Returns:
        A list of {column: value}; None where a row has no value.
    """
    empty = dict.fromkeys(columns_of(class_names)) | {"photo": str(photograph.path), "error": photograph.error}
    count = len(photograph.faces)
    return [
        {
            **empty,
            "face": number,
            "faces": count,
            **({name: round(pixels, 1) for name, pixels in zip(BOX, face.box, strict=True)} if face.box else {}),
            "detection_confidence": face.detection_confidence,
            "angle": None if face.angle is None else round(face.angle, 1),
            "group": face.group,
            "confidence": round(face.confidence, 6),
            "doubts": ", ".join(face.doubts) or None,
            **(
                {name: round(years, 1) for name, years in zip(AGE, (face.age, *face.age_interval), strict=True)}
                if face.age is not None
                else {}
            ),
            **(dict(zip(SPAN, photograph.tracks[number - 1].span, strict=True)) if photograph.tracks else {}),
            **{f"p_{name}": round(value, 6) for name, value in face.probabilities.items()},
        }
        for number, face in enumerate(photograph.faces, 1)
    ] or [{**empty, "faces": 0 if photograph.error is None else None}]


def columns_of(class_names):
    return [*FIRST_COLUMNS, *(f"p_{name}" for name in class_names), "error"]


@contextlib.contextmanager
def row_writer(kind, path, class_names):
    """Yield a function that writes the rows of a Photograph; the file appears at the end, complete.

    Args:
        kind: "csv", or "json" for a list of objects with the same names and values, one per line.
        path: the file; characters of names that are no UTF-8 are escaped.
        class_names: the names of the classes, in order.

    Raises:
        UserError: the file cannot be written.
    """
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        if kind == "csv":
            table = csv.DictWriter(file, columns_of(class_names), lineterminator="\n")
            table.writeheader()
            yield lambda photograph: table.writerows(rows_of(photograph, class_names))
        else:
            file.write("[\n")
            separators = itertools.chain([""], itertools.repeat(",\n"))
            yield lambda photograph: file.writelines(
                next(separators) + json.dumps(row) for row in rows_of(photograph, class_names)
            )
            file.write("\n]\n")


def lines_of(photograph, top, classes):
    """The printed lines of a photograph: one per face with its `top` most probable groups."""
    name, count = printable(photograph.path), len(photograph.faces)
    spans = [f"{first:.1f}-{last:.1f} s  " for first, last, _ in (track.span for track in photograph.tracks or [])]
    lines = [
        f"{name}  face {k} of {count}  {span}{describe(face, top, classes)}"
        for k, (face, span) in enumerate(zip(photograph.faces, spans or [""] * count, strict=True), 1)
    ]
    if photograph.error is not None:
        lines.append(f"{name}  cannot be read{' further' if lines else ''}: {printable(photograph.error)}")
    return lines or [f"{name}  no face found"]


def describe(face, top, classes):
    """29 years (24-35)  25-32  81 %  (15-20 9 %, 38-43 7 %)"""
    group, probabilities = shown_groups(face.group, face.probabilities, classes)
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    others = [f"{printable(other)} {percent(value)}" for other, value in ranked if other != group][: top - 1]
    answer = f"{printable(group)}  {percent(probabilities[group])}" + (f"  ({', '.join(others)})" if others else "")
    answer += f"  (doubtful: {', '.join(face.doubts)})" if face.doubts else ""
    if face.age is None:
        return answer
    about = "" if classes.are_single_years else "about "
    low, high = face.age_interval
    return f"{about}{counted(face.age, 'year')} ({low:.0f}-{high:.0f})  {answer}"


def shown_groups(group, probabilities, classes):
    """The answer that is printed, (group, {group: probability}): many single years are summed by decade."""
    if (coarse := classes.coarse()) is classes:
        return group, probabilities
    sums = np.bincount(classes.within(coarse), list(probabilities.values()), len(coarse))
    return coarse.names[sums.argmax()], dict(zip(coarse.names, sums, strict=True))
