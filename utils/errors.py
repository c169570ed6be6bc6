"""Misclassified faces: which they are, and their images in a folder, worst first."""

import re
from pathlib import Path

import pandas as pd
from PIL import Image

from data.adience import AGE_GROUPS
from utils import UserError
from utils.files import write_csv
from utils.plots import plot_errors

CONTACT_SHEET = "worst.png"
WRITTEN_NAME = re.compile(r"\d{4,}_true_\S+_predicted_\S+\.png")


def find_errors(predictions, images):
    """The misclassified ones of a predictions table (`Evaluation.table`), most confidently wrong first.

    images: uint8 (N, 3, S, S), which the table's index points into. Adds the columns `confidence`,
    the probability of the wrong answer, and `image`, the face as the network saw it.
    """
    wrong = predictions[predictions.prediction != predictions.label]
    probabilities = wrong[[f"p{group}" for group in range(len(AGE_GROUPS))]].to_numpy()
    confidence = probabilities[range(len(wrong)), wrong.prediction]
    # Rows of a memory-mapped cache are views: nothing is read before it is drawn.
    views = pd.Series([images[row] for row in wrong.index], index=wrong.index, dtype=object)
    return rank(wrong.assign(confidence=confidence, image=views))


def rank(errors):
    return errors.sort_values(["confidence", "path"], ascending=[False, True]).reset_index(drop=True)


def write_errors(folder, errors):
    """Write each misclassified face before normalisation, so in true colours, errors.csv and a contact sheet.

    errors: of `find_errors`. What an earlier call wrote into the folder goes; nothing else is touched.
    Raises UserError.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_earlier(folder)
        names = [error_name(number, error) for number, error in enumerate(errors.itertuples(), 1)]
        for name, image in zip(names, errors.image, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    except OSError as error:
        raise UserError(f"cannot write the misclassified images to '{folder}': {error.strerror or error}") from None
    groups = pd.Series(AGE_GROUPS)
    table = errors.drop(columns="image").assign(
        file=names, true_group=errors.label.map(groups), predicted_group=errors.prediction.map(groups)
    )
    first = ["file", "true_group", "predicted_group", "confidence"]
    write_csv(folder / "errors.csv", table[first + [name for name in table if name not in first]])
    if names:
        plot_errors(errors, folder / CONTACT_SHEET)


def remove_earlier(folder):
    for path in folder.iterdir():
        if WRITTEN_NAME.fullmatch(path.name) or path.name in (CONTACT_SHEET, "errors.csv"):
            path.unlink()


def error_name(number, error):
    """0001_true_25-32_predicted_60plus_97pct_<album>_<file>.png, of safe characters only."""
    true, predicted = (AGE_GROUPS[group].replace("+", "plus") for group in (error.label, error.prediction))
    source = re.sub(r"[^A-Za-z0-9.-]+", "_", str(Path(error.path).with_suffix("")))[-120:]
    return f"{number:04d}_true_{true}_predicted_{predicted}_{100 * error.confidence:.0f}pct_{source}.png"
