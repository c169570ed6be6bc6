"""The evaluation of a model on a set of faces; all metrics, tables, plots and reports follow from it."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.faces import Faces
from evaluation.calibration import apply_temperature, expected_calibration_error
from evaluation.metrics import CLASS_METRICS, METRICS, confusion_matrix
from models.ages import MASS, ages_of
from models.decode import decode
from models.network import Network
from utils.errors import UserError

FACE_COLUMNS = ["path", "album", "person", "fold", "label"]
AGE_COLUMNS = ["age", "age_low", "age_high"]  # the predicted age and its interval


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The class probabilities of N faces, and the model and images that they come from, where these are known.

    Attributes:
        faces: the N Faces; where there are `images`, their index is the row of each face in these.
        probabilities: float32 (N, K), as the model gives them, before any temperature; None before the evaluation.
        decoder: how `predicted` follows from the probabilities; it says nothing where `predicted` was given.
        predicted: int (N,), the predicted classes; by default those of the decoder.
        name: of the model, such as "fold 0" or the model file.
        split: name of the faces, such as "fold 0".
        temperature: of the probabilities, fitted on other faces; None if there is none.
        mass: of the interval of the age, a number or float (N,); see `models.ages.fit_mass`.
        model: the Network; None if it is not at hand.
        images: uint8 (rows of the cache, 3, S, S), the cache; None if it is not at hand.
        image_dir: the folder of the original photographs; "" if it is not known.
        seconds: of the whole pass: reading, preparing, predicting.
        whole_has_ages: whether all ages of the set from which `where` chose are known; parts have its metrics.
    """

    faces: Faces
    probabilities: np.ndarray | None = None
    decoder: str = "argmax"
    predicted: np.ndarray | None = None
    name: str = ""
    split: str = ""
    temperature: float | None = None
    mass: float | np.ndarray = MASS
    model: Network | None = None
    images: np.ndarray | None = None
    image_dir: str = ""
    seconds: float = 0.0
    whole_has_ages: bool = True

    def __post_init__(self):
        if self.predicted is None and self.probabilities is not None:
            object.__setattr__(self, "predicted", decode(self.probabilities, self.decoder))

    def __len__(self):
        return len(self.faces)

    @property
    def labels(self):
        return self.faces.labels

    @property
    def classes(self):
        return self.faces.classes

    @property
    def confusion(self):
        """int64 (K, K): true class by row, predicted class by column."""
        return confusion_matrix(self.labels, self.predicted, len(self.classes))

    @property
    def confidence(self):
        """The probability of each predicted class, float64 (N,)."""
        return self.probabilities[np.arange(len(self)), self.predicted].astype(np.float64)

    @property
    def calibrated(self):
        """The probabilities after the temperature, float32 (N, K); None without one."""
        return None if self.temperature is None else apply_temperature(self.probabilities, self.temperature)

    @property
    def duplicates(self):
        """Bool (N,): whether the training faces held the same picture under another name."""
        return self.faces.table.path.isin(self.model.record["duplicates"]).to_numpy()

    def where(self, mask):
        """The evaluation of the faces for which the boolean mask (N,) is true."""
        mask = np.asarray(mask)
        return dataclasses.replace(
            self,
            faces=self.faces.where(mask),
            probabilities=self.probabilities[mask],
            predicted=self.predicted[mask],
            mass=self.mass[mask] if isinstance(self.mass, np.ndarray) else self.mass,
            whole_has_ages="mae_years" in self.metric_names,
        )

    def in_classes(self, classes):
        """The evaluation in other, coarser Classes: the probabilities of the classes within each of them are summed.

        Faces and probabilities of a class that lies in none of them are left out.
        """
        position = self.classes.within(classes)
        summed, kept = sum_within(self.probabilities, position, len(classes)), position[self.labels] >= 0
        table = self.faces.table.assign(label=position[self.labels])
        faces = dataclasses.replace(self.faces, table=table, classes=classes)
        return dataclasses.replace(
            self, faces=faces, probabilities=summed, predicted=decode(summed, self.decoder)
        ).where(kept)

    def coarse(self):
        """The evaluation by decade where there are too many years for a table, otherwise this one."""
        classes = self.classes.coarse()
        return self if classes is self.classes else self.in_classes(classes)

    def with_decoder(self, decoder):
        """The same probabilities, their classes predicted by another decoder."""
        return dataclasses.replace(self, decoder=decoder, predicted=None)

    @functools.cached_property
    def ages(self):
        """(age, low, high), each float64 (N,) in years; None where the classes are not ages."""
        return ages_of(self.probabilities, self.classes, self.mass) if self.classes.years else None

    @property
    def metric_names(self):
        """The names in METRICS that can be had: those of ages where every age is known."""
        known = self.whole_has_ages and self.classes.years is not None and len(self)
        known = known and not np.isnan(self.faces.ages).any()
        return [name for name in METRICS if known or name in CLASS_METRICS]

    @property
    def judged_by(self):
        """The name in METRICS by which subgroups are compared: mae_years for single years that are known, else top1."""
        in_years = self.classes.coarse() is not self.classes and "mae_years" in self.metric_names
        return "mae_years" if in_years else "top1"

    @property
    def paired_metrics(self):
        """Those of them that are means over faces, so that two models can be compared face by face."""
        return [name for name in self.metric_names if METRICS[name].finish is np.asarray]

    def metrics(self):
        """{name of METRICS: value}."""
        return {name: float(METRICS[name].finish(self.per_face(name).mean())) for name in self.metric_names}

    def per_face(self, name):
        """A metric's value for each face, float (N,)."""
        if METRICS[name].of_ages:
            return METRICS[name].per_face(self.faces.ages, *self.ages).astype(float)
        return METRICS[name].per_face(self.labels, self.predicted, self.probabilities).astype(float)

    def calibration(self):
        """{"ece": ..., "temperature": ..., "ece_calibrated": ...}; the last two are None without a temperature."""

        def ece(probabilities):
            return expected_calibration_error(self.labels, self.predicted, probabilities)

        calibrated = None if self.temperature is None else ece(self.calibrated)
        return {"ece": ece(self.probabilities), "temperature": self.temperature, "ece_calibrated": calibrated}

    def table(self):
        """One row per face, as in predictions.csv; the index of the faces is kept."""
        table = self.faces.table[FACE_COLUMNS].assign(prediction=self.predicted)
        if "age" in self.faces.table:
            table["true_age"] = self.faces.ages
        if self.classes.years:
            table = table.assign(**dict(zip(AGE_COLUMNS, (years.round(2) for years in self.ages), strict=True)))
        columns = [f"p_{name}" for name in self.classes.names]
        return pd.concat([table, pd.DataFrame(self.probabilities, table.index, columns)], axis=1)


def sum_within(probabilities, position, count):
    """Class probabilities (N, K) summed in `count` coarser classes (N, G), each at a position, -1 for none of these."""
    groups = (position[:, None] == np.arange(count)).astype(np.float32)  # (K, G)
    summed = probabilities @ groups
    return summed / np.maximum(summed.sum(1, keepdims=True), np.finfo(np.float32).tiny)


def pool(evaluations, distinct=False):
    """All evaluations as one: their faces, probabilities and predictions only.

    Args:
        evaluations: a list of Evaluations with the same classes.
        distinct: keep each face once, from the first evaluation that has it.
    """
    table = pd.concat([evaluation.faces.table for evaluation in evaluations])
    pooled = Evaluation(
        dataclasses.replace(evaluations[0].faces, table=table),
        np.concatenate([evaluation.probabilities for evaluation in evaluations]),
        predicted=np.concatenate([evaluation.predicted for evaluation in evaluations]),
        mass=np.concatenate([np.broadcast_to(evaluation.mass, len(evaluation)) for evaluation in evaluations]),
    )
    return pooled.where(~table.path.duplicated().to_numpy()) if distinct else pooled


def with_faces(evaluation, faces):
    """The same evaluation with all columns of these Faces and their rows of the cache.

    Args:
        evaluation: an Evaluation, as read from predictions.csv.
        faces: Faces of the same data set.

    Raises:
        UserError: a face is not among them, or has another label or fold there.
    """
    own = evaluation.faces.table
    rows = pd.Index(faces.table.path).get_indexer(own.path)  # (N,), -1: not among them
    if (rows < 0).any():
        raise UserError(f"the run has a face that these label files do not list: {own.path.to_numpy()[rows < 0][0]}")
    table = faces.table.iloc[rows]
    differing = (table[["label", "fold"]].to_numpy() != own[["label", "fold"]].to_numpy()).any(axis=1)
    if differing.any():
        path = table.path.to_numpy()[differing][0]
        raise UserError(f"these label files give {path} another label or fold than the run had")
    return dataclasses.replace(evaluation, faces=dataclasses.replace(faces, table=table))
