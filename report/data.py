"""The data of a report: the evaluations of models, and the facts about how they were made."""

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

from data.faces import Faces
from data.images import open_image
from evaluation.calibration import cross_fitted_temperatures
from evaluation.evaluation import pool, with_faces
from evaluation.leaks import origin_note
from evaluation.subgroups import COLUMNS, image_statistics, subgroups
from models.network import parameter_count, size_mib
from utils.cli import printable
from utils.errors import UserError

NO_PAIRS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that a report shows.

    Attributes:
        title: of the page.
        evaluations: a list of Evaluations, one per model, of faces that it did not train on.
        facts: (term, text) pairs about the data, the networks and the machine.
        command: the command that made it; "" if it is not known.
        notes: sentences about what is missing.
        history: {fold: rows of log.csv}, at least one row each.
        epochs: the number of epochs that each fold is to have.
        faces: the Faces of the whole data set; None if they are not at hand.
        pairs: int64 (P, 2), the rows of `faces` that hold the same picture.
    """

    title: str
    evaluations: list
    facts: list = field(default_factory=list)
    command: str = ""
    notes: list = field(default_factory=list)
    history: dict = field(default_factory=dict)
    epochs: int = 0
    faces: Faces | None = None
    pairs: np.ndarray = field(default_factory=lambda: NO_PAIRS)


def run_data(settings, evaluations, history, faces=None, images=None, pairs=NO_PAIRS, labels=None, command=""):
    """The ReportData of a run, finished or still training.

    Args:
        settings: {name: value}, those of its Config.
        evaluations: {fold: Evaluation} of the finished folds, with their models and temperatures; the models are on
            the device that computes the saliency maps.
        history: {fold: rows of log.csv}.
        faces: all Faces, in the order of `images`; None if they are not at hand.
        images: uint8 (N, 3, S, S), the cache; None if it is not at hand.
        pairs: int64 (P, 2), the rows of `images` that show the same picture.
        labels: the LabelReport of the faces; None if it is not at hand.
        command: the command that made the run.

    Raises:
        UserError: the evaluations are not of these faces.
    """
    source = {"images": images, "image_dir": settings["image_dir"]}
    found = [dataclasses.replace(evaluation, **source) for evaluation in evaluations.values()]
    models = [evaluation.model for evaluation in found]
    facts, notes = [], []
    if not set(settings["folds"]) <= set(evaluations):
        notes.append(unfinished_note(settings, history, len(evaluations)))
    if faces is not None:
        found = [with_faces(evaluation, faces) for evaluation in found]
        facts = data_facts(faces, pairs, labels)
    else:
        notes.append("The label files or photographs are not at hand: there are no pictures and no pose.")
    return ReportData(
        title=f"Age groups: {Path(settings['run_dir']).name}",
        evaluations=found,
        facts=facts + network_facts(models) + training_facts(settings, history, models),
        command=command,
        notes=notes,
        history={fold: rows for fold, rows in history.items() if rows},
        epochs=settings["epochs"],
        faces=faces,
        pairs=pairs,
    )


def models_data(evaluations, command=""):
    """The ReportData of models that were evaluated by test_code.py.

    Args:
        evaluations: a list of Evaluations, one per model, with its name, model, images and image_dir.
        command: the command that was given.
    """
    total = sum(map(len, evaluations))
    facts = [("Models", ", ".join(evaluation.name for evaluation in evaluations)), ("Faces", f"{total:,} answers")]
    repeated = len(pool(evaluations, distinct=True)) < total
    return ReportData(
        title="Misclassified faces",
        evaluations=evaluations,
        facts=facts + network_facts([evaluation.model for evaluation in evaluations]),
        command=command,
        notes=["Some faces have the answers of several models: each answer counts."] if repeated else [],
    )


def data_facts(faces, pairs, labels):
    """Faces, labels and repeated pictures of a data set, as (term, text)."""
    folds = faces.table.fold.to_numpy()[pairs]
    across = int((folds[:, 0] != folds[:, 1]).sum())
    return [
        ("Data", f"{len(faces):,} faces of {faces.people.nunique():,} people"),
        *([("Labels", "; ".join(map(str.strip, str(labels).removeprefix("labels:").splitlines())))] if labels else []),
        ("Pictures seen twice", f"{len(pairs):,} pairs, {across:,} of them across folds" if len(pairs) else "none"),
    ]


def network_facts(models):
    """The networks, each kind once, as (term, text)."""
    descriptions = [
        f"{model.description['name']}, {parameter_count(model):,} parameters, {size_mib(model):.2f} MiB,"
        f" {model.image_size} px"
        for model in models
    ]
    return joined_facts({"Network": descriptions})


def training_facts(settings, history, models):
    """Recipe, seed, machine, code and time of a run, as (term, text)."""
    records = [model.record for model in models]
    recipe = f"{settings['recipe']}: {settings['epochs']} epochs, batches of {settings['batch_size']}, learning rate"
    recipe += f" {settings['lr']:g} ({settings['schedule']}), loss {settings['loss']}"
    facts = {
        "Recipe": [recipe],
        "Seed": [str(settings["seed"])],
        "Machine": [record["trained_on"] for record in records],
        "Code": [f"commit {record['commit'] or 'unknown'}" for record in records],
        "Origin": [note for record in records if (note := origin_note(record))],
        "Versions": [", ".join(f"{n} {v}" for n, v in record["versions"].items()) for record in records],
    }
    if rows := [row for fold_rows in history.values() for row in fold_rows]:
        speed = np.median([row["images_per_second"] for row in rows])
        time = timedelta(seconds=round(sum(row["seconds"] for row in rows)))
        facts["Training time"] = [f"{time} h, evaluation aside; {speed:,.0f} images per second (median)"]
    return joined_facts(facts)


def joined_facts(facts):
    """{term: texts} as (term, text): each text once, and only terms that have one."""
    return [(term, "; ".join(dict.fromkeys(texts))) for term, texts in facts.items() if texts]


def unfinished_note(settings, history, finished):
    """The progress of a run that still trains, as a sentence."""
    folds = set(settings["folds"]) | set(history)
    done, total = sum(map(len, history.values())), len(folds) * settings["epochs"]
    return (
        f"This run is not finished: {done:,} of {total:,} epochs are trained, {finished} of {len(folds)} folds are"
        " done. The report has what is known so far."
    )


def line_references(table):
    """The file and line that each face's label comes from, such as "fold_0_data.txt:17"; "" if it is not known."""
    if "line" not in table:
        return [""] * len(table)
    return [printable(f"{file}:{line}") for file, line in zip(table.file, table.line, strict=True)]


def with_temperatures(evaluations):
    """The evaluations with temperatures that were fitted on other faces; [] if there are none.

    These are the models' own or, of a run that is not finished, cross-fitted among the finished folds.
    """
    if all(evaluation.temperature is not None for evaluation in evaluations):
        return evaluations
    pooled, folds = pool(evaluations), [evaluation.faces.table.fold.iloc[0] for evaluation in evaluations]
    fitted = cross_fitted_temperatures(pooled.labels, pooled.probabilities, pooled.faces.table.fold)
    if sorted(fitted) != sorted(folds):  # not one model per fold
        return []
    pairs = zip(evaluations, folds, strict=True)
    return [dataclasses.replace(evaluation, temperature=fitted[fold]) for evaluation, fold in pairs]


def subgroup_table(data, columns=None):
    """The table of `subgroups`, over the faces of all models, each face once.

    Args:
        columns: names in COLUMNS or other columns of the faces; None takes all of COLUMNS that can be had.
    """
    evaluations = [with_image_columns(evaluation, columns) for evaluation in data.evaluations]
    return subgroups(pool(evaluations, distinct=True), columns)


def with_image_columns(evaluation, columns=None):
    """The evaluation with brightness, sharpness and size of the image of each face as columns of the faces.

    The size is width and height, NaN for a photograph that cannot be read. What is not known or not among the columns
    is left out.
    """
    table, wanted = evaluation.faces.table, set(COLUMNS if columns is None else columns)
    if evaluation.images is not None and wanted & {"brightness", "sharpness"}:
        table = table.assign(**image_statistics(evaluation.images, table.index.to_numpy()).set_axis(table.index))
    if evaluation.image_dir and "image_size" in wanted:
        sizes = np.array([image_size(Path(evaluation.image_dir) / path) for path in table.path], float).reshape(-1, 2)
        table = table.assign(width=sizes[:, 0], height=sizes[:, 1])
    return dataclasses.replace(evaluation, faces=dataclasses.replace(evaluation.faces, table=table))


def image_size(path):
    """(width, height) from the head of an image file, (None, None) if it cannot be read."""
    try:
        with open_image(path) as image:
            return image.size
    except UserError:
        return None, None
