"""The predictions of a model for a set of faces: from them follow all metrics, tables and pictures."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.faces import Faces
from evaluation.decode import DECODERS
from evaluation.metrics import METRICS, compute_metrics, confusion_matrix
from utils.errors import UserError


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

    def metrics(self):
        """{name of METRICS: value}."""
        return compute_metrics(self.labels, self.predicted, self.probabilities)

    def per_face(self, name):
        """A metric's value for each face, float (N,)."""
        return METRICS[name].per_face(self.labels, self.predicted, self.probabilities).astype(float)

    def table(self):
        """One row per face, as in predictions.csv; the index of the faces is kept."""
        table = self.faces.table[["path", "album", "subject", "fold", "label"]].assign(prediction=self.predicted)
        columns = probability_columns(self.faces.class_names)
        probabilities = pd.DataFrame(self.probabilities, table.index, columns)
        return pd.concat([table, probabilities], axis=1)


def probability_columns(class_names):
    return [f"p_{name}" for name in class_names]


def read_predictions(path):
    """The Predictions in a predictions.csv, of all folds in the file. Raises UserError.

    Probabilities are float32, as they were written, so that writing the table again changes nothing.
    """
    try:
        table = pd.read_csv(path, dtype={"path": str, "album": str, "subject": str})
        columns = [name for name in table if name.startswith("p_")]
        if not {"path", "album", "subject", "fold", "label", "prediction"} <= set(table.columns) or not columns:
            raise ValueError("a column is missing")
        probabilities = table[columns].to_numpy(np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the predictions '{path}': {error}") from None
    faces = Faces(table[["path", "album", "subject", "fold", "label"]], tuple(name[2:] for name in columns))
    return StoredPredictions(faces, probabilities, stored=table.prediction.to_numpy())


@dataclass(frozen=True)
class StoredPredictions(Predictions):
    """Predictions of several models, each with a decoder of its own: the predicted classes are stored."""

    stored: np.ndarray | None = None

    @property
    def predicted(self):
        return self.stored
