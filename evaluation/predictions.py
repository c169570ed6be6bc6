"""The predictions of a model for a set of faces: from them follow all metrics, tables and pictures."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.faces import Faces
from evaluation.decode import DECODERS
from evaluation.metrics import METRICS, compute_metrics, confusion_matrix
from utils.errors import UserError
from utils.foreign import open_regular

FACE_COLUMNS = ["path", "album", "subject", "fold", "label"]
FILE_LIMIT = 2048  # MiB


@dataclass(frozen=True)
class Predictions:
    """Probabilities float (N, K) of N faces; `decoder` turns them into predicted classes."""

    faces: Faces
    probabilities: np.ndarray
    decoder: str = "argmax"
    seconds: float = 0.0  # of the whole pass: reading, preparing, predicting

    @property
    def labels(self):
        return self.faces.labels

    @property
    def predicted(self):
        return DECODERS[self.decoder](self.probabilities)

    @property
    def confusion(self):
        return confusion_matrix(self.labels, self.predicted, len(self.faces.class_names))

    def where(self, mask):
        """The predictions of the faces for which the boolean mask (N,) is true."""
        mask = np.asarray(mask)
        return dataclasses.replace(self, faces=self.faces.where(mask), probabilities=self.probabilities[mask])

    def metrics(self):
        """{name of METRICS: value}."""
        return compute_metrics(self.labels, self.predicted, self.probabilities)

    def per_face(self, name):
        """A metric's value for each face, float (N,)."""
        return METRICS[name].per_face(self.labels, self.predicted, self.probabilities).astype(float)

    def table(self):
        """One row per face, as in predictions.csv; the index of the faces is kept."""
        table = self.faces.table[FACE_COLUMNS].assign(prediction=self.predicted)
        columns = probability_columns(self.faces.class_names)
        probabilities = pd.DataFrame(self.probabilities, table.index, columns)
        return pd.concat([table, probabilities], axis=1)


def probability_columns(class_names):
    return [f"p_{name}" for name in class_names]


def predictions_digest(table):
    """A SHA-256 of a fold's rows of predictions.csv, as they are written there."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def read_predictions(path, digests=None):
    """The Predictions in a predictions.csv.

    Probabilities are float32, as they were written, so that writing the table again changes nothing.

    Args:
        path: the file.
        digests: {fold: SHA-256 of its rows}; only these folds are returned. None: all folds, unchecked.

    Raises:
        UserError: the file is missing or damaged, or a fold's rows are not those that were written.
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
    class_names = tuple(name.removeprefix("p_") for name in table.columns[len(FACE_COLUMNS) + 1 :])
    probabilities = table[probability_columns(class_names)].to_numpy(np.float32)
    return StoredPredictions(Faces(table[FACE_COLUMNS], class_names), probabilities, stored=table.prediction.to_numpy())


def read_table(path):
    """The table of a predictions.csv, of the right columns and types. Raises UserError."""
    with open_regular(path, FILE_LIMIT) as file:
        try:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            expected, names = [*FACE_COLUMNS, "prediction"], list(table.columns)
            if names[: len(expected)] != expected or not all(name.startswith("p_") for name in names[len(expected) :]):
                raise ValueError(f"its columns are {', '.join(map(str, names))}")
            numbers = table[names[len(expected) :]].astype(np.float32)
            labels = table[["fold", "label", "prediction"]].astype(np.int64)
        except (ValueError, OverflowError, MemoryError, RecursionError) as error:
            raise UserError(f"'{path}' is damaged: {error}") from None
    classes = len(numbers.columns)
    in_range = labels[["label", "prediction"]].isin(range(classes)).all(axis=None)
    if not in_range or not ((numbers >= 0) & (numbers <= 1)).all(axis=None):
        raise UserError(
            f"'{path}' is damaged: a class is not from 0 to {classes - 1}, or a probability not from 0 to 1"
        )
    return pd.concat([table[FACE_COLUMNS[:3]], labels, numbers], axis=1)


@dataclass(frozen=True)
class StoredPredictions(Predictions):
    """Predictions of several models, each with a decoder of its own: the predicted classes are stored."""

    stored: np.ndarray | None = None

    def where(self, mask):
        return dataclasses.replace(super().where(mask), stored=self.stored[np.asarray(mask)])

    @property
    def predicted(self):
        return self.stored
