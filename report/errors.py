"""Misclassified faces: which they are, and their images in a folder, worst first."""

import re
from pathlib import Path

import pandas as pd
from PIL import Image

from report.plots import plot_errors, save
from utils.errors import UserError
from utils.files import replaced_outputs, write_csv
from utils.foreign import exists, open_regular, reason

CONTACT_SHEET, MANIFEST = "worst.png", "errors.csv"
WRITTEN_NAME = re.compile(r"\d{4,}_true_[A-Za-z0-9.-]+_predicted_[A-Za-z0-9.-]+_\d+pct_[A-Za-z0-9._-]+\.png")
MANIFEST_LIMIT = 1024  # MiB
FIRST_COLUMNS = ["file", "true_class", "predicted_class", "confidence"]


def find_errors(predictions, images, rows=None):
    """The misclassified faces of Predictions, the most confident errors first.

    Args:
        predictions: Predictions for N faces.
        images: uint8 (M, 3, S, S), the cache.
        rows: (N,) position of each face in `images`; None means the index of the faces.

    Returns:
        The table of the predictions with two more columns: `confidence`, the probability of the wrong answer, and
        `image`, the face as the network saw it.
    """
    table = predictions.table()
    rows = table.index if rows is None else rows
    predicted = predictions.predicted
    wrong = predicted != predictions.labels
    confidence = predictions.probabilities[range(len(table)), predicted][wrong]
    # Rows of a memory-mapped cache are views: nothing is read before it is drawn.
    views = pd.Series([images[row] for row in rows[wrong]], index=table.index[wrong], dtype=object)
    return rank(table[wrong].assign(confidence=confidence, image=views))


def rank(errors):
    return errors.sort_values(["confidence", "path"], ascending=[False, True]).reset_index(drop=True)


def write_errors(folder, errors, class_names):
    """Write each misclassified face in true colours, a contact sheet, and errors.csv, which lists them.

    They replace what an earlier call wrote into the folder, once all of them are written; nothing else is touched.

    Args:
        errors: the table of `find_errors`.

    Raises:
        UserError: the folder cannot be written.
    """
    names = [error_name(number, error, class_names) for number, error in enumerate(errors.itertuples(), 1)]
    classes = pd.Series(class_names)
    table = errors.drop(columns="image").assign(
        file=names, true_class=errors.label.map(classes), predicted_class=errors.prediction.map(classes)
    )
    check_error_folder(folder)
    try:
        with replaced_outputs(folder, MANIFEST, is_output) as staging:
            for name, image in zip(names, errors.image, strict=True):
                Image.fromarray(image.transpose(1, 2, 0)).save(staging / name)
            write_csv(staging / MANIFEST, table[FIRST_COLUMNS + [name for name in table if name not in FIRST_COLUMNS]])
            if names:
                save(plot_errors(errors, class_names), (staging / CONTACT_SHEET).with_suffix(""))
    except OSError as error:
        raise UserError(f"cannot write the misclassified images to '{folder}': {reason(error)}") from None


def is_output(name):
    return WRITTEN_NAME.fullmatch(name) is not None or name in (CONTACT_SHEET, MANIFEST)


def check_error_folder(folder):
    """Refuse a folder whose errors.csv or contact sheet is somebody else's. Raises UserError."""
    folder = Path(folder)
    if exists(folder) and not folder.is_dir():
        raise UserError(f"--error-dir '{folder}': expected a folder, this is a file")
    if exists(folder / MANIFEST):
        if not (folder / MANIFEST).is_file() or not is_manifest(folder / MANIFEST):
            raise UserError(f"'{folder / MANIFEST}' exists and is not a list of errors of test_code.py: move it away")
    elif exists(folder / CONTACT_SHEET):
        raise UserError(f"'{folder / CONTACT_SHEET}' exists and is not ours: there is no {MANIFEST} beside it")


def is_manifest(path):
    with open_regular(path, MANIFEST_LIMIT) as file:
        return file.readline(200).startswith(",".join(FIRST_COLUMNS).encode())


def error_name(number, error, class_names):
    """0001_true_25-32_predicted_60plus_97pct_<album>_<file>.png, of safe characters only."""
    true, predicted = (safe(class_names[label].replace("+", "plus")) for label in (error.label, error.prediction))
    source = safe(str(Path(error.path).with_suffix("")))[-120:]
    return f"{number:04d}_true_{true}_predicted_{predicted}_{100 * error.confidence:.0f}pct_{source}.png"


def safe(text):
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
