"""Misclassified faces: which they are, and their images in a folder, worst first."""

import re
from pathlib import Path

import pandas as pd
from PIL import Image

from report.plots import plot_errors
from utils.errors import UserError
from utils.files import write_csv

CONTACT_SHEET = "worst.png"
WRITTEN_NAME = re.compile(r"\d{4,}_true_\S+_predicted_\S+\.png")


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
    """Write each misclassified face in true colours, errors.csv and a contact sheet.

    What an earlier call wrote into the folder is removed; nothing else is touched.

    Args:
        errors: the table of `find_errors`.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_earlier(folder)
        names = [error_name(number, error, class_names) for number, error in enumerate(errors.itertuples(), 1)]
        for name, image in zip(names, errors.image, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    except OSError as error:
        raise UserError(f"cannot write the misclassified images to '{folder}': {error.strerror or error}") from None
    classes = pd.Series(class_names)
    table = errors.drop(columns="image").assign(
        file=names, true_class=errors.label.map(classes), predicted_class=errors.prediction.map(classes)
    )
    first = ["file", "true_class", "predicted_class", "confidence"]
    write_csv(folder / "errors.csv", table[first + [name for name in table if name not in first]])
    if names:
        plot_errors(errors, class_names, folder / CONTACT_SHEET)


def remove_earlier(folder):
    for path in folder.iterdir():
        if WRITTEN_NAME.fullmatch(path.name) or path.name in (CONTACT_SHEET, "errors.csv"):
            path.unlink()


def error_name(number, error, class_names):
    """0001_true_25-32_predicted_60plus_97pct_<album>_<file>.png, of safe characters only."""
    true, predicted = (safe(class_names[label].replace("+", "plus")) for label in (error.label, error.prediction))
    source = safe(str(Path(error.path).with_suffix("")))[-120:]
    return f"{number:04d}_true_{true}_predicted_{predicted}_{100 * error.confidence:.0f}pct_{source}.png"


def safe(text):
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
