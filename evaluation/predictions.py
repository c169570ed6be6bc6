"""predictions.csv: one row per face, from the model that held it out."""

import hashlib

import numpy as np
import pandas as pd

from data.faces import Faces
from evaluation.evaluation import AGE_COLUMNS, FACE_COLUMNS, Evaluation
from utils.classes import Classes
from utils.errors import UserError
from utils.reading import open_regular

FILE_LIMIT = 2048  # MiB
EARLIER_NAMES = {"subject": "person"}  # column names that earlier versions wrote


def predictions_digest(table):
    """A SHA-256 of a fold's rows of predictions.csv, as they are written there; the ages follow from the others."""
    table = table.drop(columns=[name for name in AGE_COLUMNS if name in table])
    return hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def read_predictions(path, digests=None):
    """The Evaluation in a predictions.csv.

    Probabilities are float32, as they were written, so that writing the table again changes nothing.

    Args:
        path: the file.
        digests: {fold: SHA-256 of its rows}; only these folds are returned. None: all folds, unchecked.

    Raises:
        UserError: the file is missing or damaged, or a fold's rows are not as they were written.
    """
    table = read_table(path)
    if digests is not None:
        table = table[table.fold.isin(list(digests))].reset_index(drop=True)
        for fold, expected in digests.items():
            rows = table[table.fold == fold]
            if predictions_digest(rows) != expected:
                raise UserError(
                    f"'{path}' is damaged: the {len(rows):,} rows of fold {fold} are not those of its model"
                )
    table = table.rename(columns=EARLIER_NAMES)
    probabilities = table[[name for name in table if name.startswith("p_")]]
    classes = Classes.guess([name.removeprefix("p_") for name in probabilities])
    ages = {"age": table.true_age} if "true_age" in table else {}
    faces = Faces(table[FACE_COLUMNS].assign(**ages), classes)
    return Evaluation(faces, probabilities.to_numpy(np.float32), predicted=table.prediction.to_numpy())


def read_table(path):
    """The table of a predictions.csv, of the right columns and types. Raises UserError."""
    expected = [*FACE_COLUMNS, "prediction"]
    with open_regular(path, FILE_LIMIT) as file:
        try:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            names = list(table.columns)
            years = [name for name in ("true_age", *AGE_COLUMNS) if name in names]
            probabilities = names[len(expected) + len(years) :]
            known = [EARLIER_NAMES.get(name, name) for name in names[: -len(probabilities) or None]]
            if known != [*expected, *years] or not all(name.startswith("p_") for name in probabilities):
                raise ValueError(f"its columns are {', '.join(map(str, names))}")
            kinds = dict.fromkeys(["fold", "label", "prediction"], np.int64) | dict.fromkeys(probabilities, np.float32)
            for name in years:
                table[name] = table[name].replace("", "nan").astype(np.float64)
            table = table.astype(kinds)
        except (ValueError, OverflowError, MemoryError, RecursionError) as error:
            raise UserError(f"'{path}' is damaged: {error}") from None
    numbers = table[probabilities]
    in_range = table[["label", "prediction"]].isin(range(len(probabilities))).all(axis=None)
    if not in_range or not ((numbers >= 0) & (numbers <= 1)).all(axis=None):
        raise UserError(
            f"'{path}' is damaged: a class is not from 0 to {len(probabilities) - 1}, or a probability not from 0 to 1"
        )
    return table
