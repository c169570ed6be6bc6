"""What an HTML report is made from: the answers of models for faces, and what is known of how they came to be."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data import DATA_SOURCE, place_labels
from evaluation.predictions import Predictions, StoredPredictions
from models.network import Network, parameter_count, size_mib
from utils.errors import UserError

NO_PAIRS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class Answers:
    """What one model says of the faces that it did not train on.

    Attributes:
        name: of the model, such as "fold 0".
        predictions: Predictions, whose faces have the row of the cache as index where `images` are given.
        model: the Network; None where it is not there.
        images: uint8 (N, 3, S, S), the cache; None where it is not there.
        image_dir: the folder of the original photographs; "" where it is not known.
        temperature: of the model's probabilities, fitted on other faces; None where there is none.
    """

    name: str
    predictions: Predictions
    model: Network | None = None
    images: np.ndarray | None = None
    image_dir: str = ""
    temperature: float | None = None


@dataclass(frozen=True)
class Study:
    """Everything that a report shows.

    Attributes:
        title: of the page.
        answers: a list of Answers, one per model.
        facts: (term, text) pairs of what the data, the network and the machine were.
        commands: the commands that made it.
        notes: sentences about what is missing.
        history: {fold: rows of log.csv}; empty where nothing is known of the training.
        epochs: the number of epochs that each fold is to have.
        loss: the name of the training loss.
        faces: the Faces of the whole data set; None where they are not there.
        pairs: int64 (P, 2), the rows of `faces` that hold the same picture.
        places: {path: "fold_0_data.txt:17"}, where each label stands.
    """

    title: str
    answers: list
    facts: list = field(default_factory=list)
    commands: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    history: dict = field(default_factory=dict)
    epochs: int = 0
    loss: str = "cross_entropy"
    faces: object = None
    pairs: np.ndarray = field(default_factory=lambda: NO_PAIRS)
    places: dict = field(default_factory=dict)

    def pooled(self, distinct=False):
        """The Predictions of all models; with `distinct`, those of the first model of each face. None without any."""
        if not self.answers:
            return None
        parts = [answers.predictions for answers in self.answers]
        names = parts[0].faces.class_names
        table = pd.concat([part.faces.table for part in parts])
        pooled = StoredPredictions(
            dataclasses.replace(parts[0].faces, table=table, class_names=names),
            np.concatenate([part.probabilities for part in parts]),
            stored=np.concatenate([part.predicted for part in parts]),
        )
        return pooled.where(~table.path.duplicated().to_numpy()) if distinct else pooled


def study_of_run(settings, predictions, history, models, faces=None, images=None, pairs=NO_PAIRS, command=""):
    """The Study of a run, finished or still training.

    Args:
        settings: {name: value}, the content of config.json.
        predictions: Predictions of the finished folds; None where there is none yet.
        history: {fold: rows of log.csv}.
        models: {fold: Network} of the finished folds, on the device to compute saliency with.
        faces: all Faces, in the order of `images`; None where the label files are not there.
        images: uint8 (N, 3, S, S), the cache; None where the photographs are not there.
        pairs: int64 (P, 2), the rows of `images` that show the same picture.
        command: the command that made the run.

    Raises:
        UserError: the predictions are not for these faces.
    """
    answers, places, facts = [], {}, []
    if predictions is not None:
        if faces is not None:
            predictions = with_faces(predictions, faces)
        for fold, model in models.items():
            own = predictions.where(predictions.faces.table.fold == fold)
            temperature = model.record.get("temperature")
            answers.append(Answers(f"fold {fold}", own, model, images, settings["image_dir"], temperature))
    if faces is not None:
        places, report = place_labels(**{name: settings[name] for name in DATA_SOURCE})
        facts += data_facts(report, faces, pairs)
    facts += network_facts(models) + training_facts(settings, history, models)
    finished = set(settings["folds"]) <= set(models)
    return Study(
        title=f"Age groups: {Path(settings['run_dir']).name}",
        answers=answers,
        facts=facts,
        commands=[command] if command else [],
        notes=[] if finished else [unfinished_note(settings, history, models)],
        history={fold: rows for fold, rows in history.items() if rows},
        epochs=settings["epochs"],
        loss=settings["loss"],
        faces=faces,
        pairs=pairs,
        places=places,
    )


def study_of_models(answers, command=""):
    """The Study of models that were evaluated by test_code.py.

    Args:
        answers: a list of Answers, one per model.
        command: the command that was given.
    """
    models = {one.name: one.model for one in answers if one.model is not None}
    total = sum(len(one.predictions.faces) for one in answers)
    facts = [("Models", ", ".join(one.name for one in answers)), ("Faces", f"{total:,} answers")]
    notes = []
    if len(pd.concat([one.predictions.faces.table.path for one in answers]).unique()) < total:
        notes.append("Some faces have the answers of several models: each answer counts.")
    return Study(
        title="Misclassified faces",
        answers=answers,
        facts=facts + network_facts(models),
        commands=[command] if command else [],
        notes=notes,
    )


def with_faces(predictions, faces):
    """The Predictions with the rows of `faces`, which have gender and pose and the cache's order. Raises UserError."""
    rows = faces.table.reset_index(names="row").set_index("path")
    own = predictions.faces.table
    unknown = ~own.path.isin(rows.index)
    if unknown.any():
        raise UserError(f"the run has a face that these label files do not list: {own.path[unknown].iloc[0]}")
    table = faces.table.loc[rows.loc[own.path, "row"]]
    differing = (table[["label", "fold"]].to_numpy() != own[["label", "fold"]].to_numpy()).any(axis=1)
    if differing.any():
        path = table.path.to_numpy()[differing][0]
        raise UserError(f"these label files give {path} another label or fold than the run had")
    return dataclasses.replace(predictions, faces=dataclasses.replace(predictions.faces, table=table))


def data_facts(report, faces, pairs):
    people, albums = f"{faces.people.nunique():,} people", f" in {faces.table.album.nunique():,} albums"
    if faces.table.album.equals(faces.table.subject):  # the data set has none
        albums = ""
    left_out = {"repeated rows": report.repeats, **report.left_out}
    without = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    per_class = zip(faces.class_names, np.bincount(faces.labels, minlength=len(faces.class_names)), strict=True)
    facts = [
        ("Data", f"{len(faces):,} faces of {people}{albums}, out of {report.rows:,} rows"),
        ("Label policy", f"{report.policy}; left out: {without or 'nothing'}"),
        ("Faces per class", ", ".join(f"{name}: {count:,}" for name, count in per_class)),
    ]
    folds = faces.table.fold.to_numpy()[pairs]
    across = int((folds[:, 0] != folds[:, 1]).sum())
    return [*facts, ("Pictures seen twice", f"{len(pairs):,} pairs, {across:,} of them across folds")]


def network_facts(models):
    """What the networks are, as (term, text); of the first where all are alike."""
    descriptions = {}
    for model in models.values():
        name = model.record.get("config", {}).get("model", type(model).__name__)
        text = f"{name}, {parameter_count(model):,} parameters, {size_mib(model):.2f} MiB, {model.image_size} px"
        descriptions[text] = None
    return [("Network", "; ".join(descriptions))] if descriptions else []


def training_facts(settings, history, models):
    """Recipe, seed, machine, code and time of a run, as (term, text)."""
    records = [model.record for model in models.values()]
    rows = [row for fold_rows in history.values() for row in fold_rows]
    recipe = f"{settings['recipe']}: {settings['epochs']} epochs, batches of {settings['batch_size']}, learning rate"
    recipe += f" {settings['lr']:g} ({settings['schedule']}), loss {settings['loss']}"
    facts = [("Recipe", recipe), ("Seed", str(settings["seed"]))]
    for term, values in (
        ("Machine", [record["trained_on"] for record in records]),
        ("Code", [f"commit {record['commit'] or 'unknown'}" for record in records]),
        ("Versions", [", ".join(f"{n} {v}" for n, v in record["versions"].items()) for record in records]),
    ):
        if values:
            facts.append((term, "; ".join(dict.fromkeys(map(str, values)))))
    if rows:
        seconds = sum(row["seconds"] for row in rows)
        speed = np.median([row["images_per_second"] for row in rows])
        facts.append(
            ("Training time", f"{duration(seconds)}, evaluation aside; {speed:,.0f} images per second (median)")
        )
    return facts


def duration(seconds):
    """'3 h 25 min', '4 min 10 s' or '12 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def unfinished_note(settings, history, models):
    """How far a run is that still trains."""
    folds = set(settings["folds"]) | set(history)
    done, total = sum(len(rows) for rows in history.values()), len(folds) * settings["epochs"]
    return (
        f"This run is not finished: {done:,} of {total:,} epochs are trained, {len(models)} of {len(folds)} folds are"
        " done. The report has what is known so far."
    )
