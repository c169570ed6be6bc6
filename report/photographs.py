"""Predictions for photographs as files: rows of CSV or JSON, and copies of the photographs with boxes."""

import contextlib
import csv
import json
import re
from pathlib import Path

from PIL import ImageDraw, ImageFont

from data.photographs import load_photograph
from utils.errors import UserError
from utils.files import atomic_write, replaced_outputs
from utils.foreign import exists, open_regular, reason

FIRST_COLUMNS = "photo face faces left top width height detection_confidence group confidence".split()
JSON_START = '[\n{"photo": '
MANIFEST, MANIFEST_COLUMNS = "drawn.csv", ["file", "photo"]
DRAWN_NAME = re.compile(r"\d{6}_[A-Za-z0-9._-]+\.jpg")
FILE_LIMIT = 2**40  # MiB of an earlier output, of which the first lines are read
COLOUR, TEXT_COLOUR = "#ffd400", "#000000"
NOTICE = """A predicted age group says how old a face looks to a network, not how old a person is: for any one person it
is uncertain, and it is worse for groups that are rare in the training data and for pictures unlike them. Do not base
decisions about people on it. A model carries the licence terms of the data that it was trained on."""


def rows_of(photograph, class_names):
    """The rows of a photograph: one per face, or a single one where there is none or it could not be read.

    Returns:
        A list of {column: value}; None where a row has no value.
    """
    empty = dict.fromkeys([*FIRST_COLUMNS, *(f"p_{name}" for name in class_names), "error"])
    empty |= {"photo": str(photograph.path), "error": photograph.error}
    if photograph.error is not None:
        return [empty]
    count = len(photograph.faces)
    return [
        {
            **empty,
            "face": number,
            "faces": count,
            **dict(zip(("left", "top", "width", "height"), (round(pixels, 1) for pixels in face.box), strict=True)),
            "detection_confidence": face.detection_confidence,
            "group": face.group,
            "confidence": round(face.confidence, 6),
            **{f"p_{name}": round(value, 6) for name, value in face.probabilities.items()},
        }
        for number, face in enumerate(photograph.faces, 1)
    ] or [{**empty, "faces": 0}]


@contextlib.contextmanager
def csv_writer(path, class_names):
    """Yield a function that writes the rows of a Photograph; the file appears at the end, whole. None writes nothing.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        yield lambda photograph: None
        return
    # Names that are no UTF-8 are escaped.
    with atomic_write(path) as unfinished, open_text(unfinished) as file:
        columns = [*FIRST_COLUMNS, *(f"p_{name}" for name in class_names), "error"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        yield lambda photograph: writer.writerows(rows_of(photograph, class_names))


@contextlib.contextmanager
def json_writer(path, class_names):
    """Like `csv_writer`: a list of objects, one per line, with the same names and values."""
    if path is None:
        yield lambda photograph: None
        return
    with atomic_write(path) as unfinished, open_text(unfinished) as file:
        separator = "[\n"

        def write(photograph):
            nonlocal separator
            for row in rows_of(photograph, class_names):
                file.write(separator + json.dumps(row))
                separator = ",\n"

        yield write
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def open_text(path):
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def is_csv(path):
    """Whether a file begins as those of `csv_writer` do. Raises UserError."""
    with open_regular(path, FILE_LIMIT) as file:
        return file.readline(500).startswith(",".join(FIRST_COLUMNS).encode())


def is_json(path):
    """Whether a file begins as those of `json_writer` do. Raises UserError."""
    with open_regular(path, FILE_LIMIT) as file:
        start = file.read(len(JSON_START))
        return start in (JSON_START.encode(), b"[]\n")


@contextlib.contextmanager
def drawing_writer(folder, paths):
    """Yield a function that draws a Photograph with its boxes; all copies appear in the folder at the end.

    They replace those of an earlier call, which `drawn.csv` there lists; nothing else is touched.

    Args:
        folder: where to draw; None draws nothing.
        paths: all photographs that will be read; none of them may lie in the folder.

    Raises:
        UserError: the folder holds photographs to read, or files of others in the places of ours.
    """
    if folder is None:
        yield lambda photograph: None
        return
    earlier = check_drawings(folder, paths)
    drawn = []
    try:
        with replaced_outputs(folder, MANIFEST, lambda name: name in earlier) as staging:

            def draw(photograph):
                if photograph.faces:
                    name = f"{len(drawn) + 1:06d}_{safe(Path(photograph.path).stem)}.jpg"
                    draw_faces(photograph).save(staging / name, quality=90)
                    drawn.append((name, str(photograph.path)))

            yield draw
            with open_text(staging / MANIFEST) as file:
                csv.writer(file, lineterminator="\n").writerows([MANIFEST_COLUMNS, *drawn])
    except OSError as error:
        raise UserError(f"--draw: cannot write to '{folder}': {reason(error)}") from None


def check_drawings(folder, paths):
    """The files of an earlier call in a folder, as a set of names. Raises UserError."""
    folder = Path(folder)
    if exists(folder) and not folder.is_dir():
        raise UserError(f"--draw '{folder}': expected a folder, this is a file")
    here = folder.resolve()
    for path in paths:
        if Path(path).resolve().parent == here:
            raise UserError(f"--draw '{folder}': '{path}' there is to be read; choose another folder")
    earlier = set()
    if exists(folder / MANIFEST):
        try:
            with open_regular(folder / MANIFEST, FILE_LIMIT) as file:
                header, *rows = csv.reader(line.decode() for line in file)
        except (ValueError, csv.Error):
            header, rows = None, []
        if header != MANIFEST_COLUMNS:
            raise UserError(f"'{folder / MANIFEST}' exists and is not a list of predict.py --draw: move it away")
        earlier = {row[0] for row in rows if row and DRAWN_NAME.fullmatch(row[0])} | {MANIFEST}
    strangers = (path.name for path in folder.glob("*.jpg") if DRAWN_NAME.fullmatch(path.name))
    if stranger := next((name for name in strangers if name not in earlier), None):
        raise UserError(f"'{folder / stranger}' exists and is not listed in {MANIFEST} there; choose another folder")
    return earlier


def safe(text):
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-80:] or "_"


def draw_faces(photograph, numbered=False):
    """A copy of a photograph with the boxes of its faces and their groups, a PIL image.

    Args:
        photograph: a Photograph.
        numbered: whether the number of each face, from 1, stands before its group.

    Raises:
        UserError: it cannot be read.
    """
    image, scale = load_photograph(photograph.path)
    draw = ImageDraw.Draw(image)
    longest = max(image.size)
    font, line = ImageFont.load_default(max(12, longest // 45)), max(2, longest // 300)
    for number, face in enumerate(photograph.faces, 1):
        left, top, width, height = (pixels / scale for pixels in face.box)
        draw.rectangle((left, top, left + width, top + height), outline=COLOUR, width=line)
        text = (f"{number}:  " if numbered else "") + f"{face.group}  {face.confidence:.0%}"
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        wide, high = x1 - x0 + 4 * line, y1 - y0 + 4 * line
        x = min(max(left, 0), max(image.width - wide, 0))
        y = top - high if top >= high else min(max(top, 0), max(image.height - high, 0))  # inside at the upper edge
        draw.rectangle((x, y, x + wide, y + high), fill=COLOUR)
        draw.text((x + 2 * line - x0, y + 2 * line - y0), text, fill=TEXT_COLOUR, font=font)
    return image
