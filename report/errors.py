"""Misclassified faces, the worst errors first, and their images in a folder."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data.images import write_image
from utils.errors import UserError
from utils.files import replaced_outputs, write_csv
from utils.reading import exists, reason, starts_with

MANIFEST, PAGE, SUSPECTS = "errors.csv", "index.html", "suspects.csv"
WRITTEN_NAME = re.compile(r"\d{4,}_true_[A-Za-z0-9._-]+_predicted_[A-Za-z0-9._-]+_\d+pct_[A-Za-z0-9._-]+\.png")
FIRST_COLUMNS = ["file", "true_class", "predicted_class", "confidence"]


def find_errors(evaluations):
    """The misclassified faces of Evaluations with images, the most confident errors first.

    Of single years the decades count, and the errors that are most years off come first.

    Returns:
        The evaluations' tables with more columns: `true_class` and `predicted_class`, by decade where there are many
        years, `confidence`, the probability of the wrong answer, `model`, the Evaluation's name, `image`, the face as
        the network saw it, and of single years `years_off`.
    """
    tables, order = [], "years_off" if evaluations[0].judged_by == "mae_years" else "confidence"
    for evaluation in evaluations:
        coarse = evaluation.coarse()
        names = np.array(coarse.classes.names)
        wrong = coarse.predicted != coarse.labels
        table = evaluation.where(wrong).table()
        # Rows of a memory-mapped cache are views: nothing is read before it is drawn.
        views = pd.Series([evaluation.images[row] for row in table.index], index=table.index, dtype=object)
        classes = {"true_class": names[coarse.labels[wrong]], "predicted_class": names[coarse.predicted[wrong]]}
        table = table.assign(**classes, confidence=coarse.confidence[wrong], model=evaluation.name, image=views)
        tables.append(table.assign(years_off=(table.age - table.true_age).abs()) if order == "years_off" else table)
    return pd.concat(tables).sort_values([order, "path"], ascending=[False, True]).reset_index(drop=True)


def write_errors(folder, errors, write_page):
    """Write each misclassified face in true colours, errors.csv, which lists them, and the page that shows them.

    They replace what an earlier call wrote into the folder, once all of them are written; nothing else is touched.

    Args:
        errors: the table of `find_errors`.
        write_page: a function that writes the page to a given path.

    Raises:
        UserError: the folder cannot be written.
    """
    names = [error_name(number, error) for number, error in enumerate(errors.itertuples(), 1)]
    table = errors.drop(columns="image").assign(file=names)
    check_error_folder(folder)
    try:
        with replaced_outputs(folder, MANIFEST, is_output) as staging:
            for name, image in zip(names, errors.image, strict=True):
                write_image(staging / name, Image.fromarray(image.transpose(1, 2, 0)))
            write_page(staging / PAGE)
            write_csv(staging / MANIFEST, table[FIRST_COLUMNS + [name for name in table if name not in FIRST_COLUMNS]])
    except OSError as error:
        raise UserError(f"cannot write the misclassified images to '{folder}': {reason(error)}") from None


def is_output(name):
    return WRITTEN_NAME.fullmatch(name) is not None or name in (MANIFEST, PAGE, SUSPECTS)


def check_error_folder(folder):
    """Refuse a folder whose errors.csv is somebody else's. Raises UserError."""
    folder = Path(folder)
    if exists(folder) and not folder.is_dir():
        raise UserError(f"--error-dir '{folder}': expected a folder, this is a file")
    if exists(folder / "config.json"):
        raise UserError(f"--error-dir '{folder}' is a run directory: choose another folder")
    if exists(folder) and not os.access(folder, os.W_OK):
        raise UserError(f"--error-dir '{folder}' cannot be written")
    manifest = folder / MANIFEST
    if exists(manifest) and not (manifest.is_file() and starts_with(manifest, ",".join(FIRST_COLUMNS))):
        raise UserError(f"'{manifest}' exists and is not a list of errors of test_code.py: move it away")


def error_name(number, error):
    """0001_true_25-32_predicted_60plus_97pct_<album>_<file>.png, of safe characters only."""
    true, predicted = (safe(name.replace("+", "plus")) for name in (error.true_class, error.predicted_class))
    source = safe(str(Path(error.path).with_suffix("")))[-120:]
    return f"{number:04d}_true_{true}_predicted_{predicted}_{100 * error.confidence:.0f}pct_{source}.png"


def safe(text):
    """Text as a file name, or a piece of one."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
