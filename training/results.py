"""results.json: what a run found, fold by fold and as mean and standard deviation."""

from pathlib import Path

import numpy as np

from evaluation.calibration import calibration_results
from evaluation.metrics import METRICS, mean_and_std, per_class
from evaluation.predictions import read_predictions
from utils.errors import UserError
from utils.foreign import read_json


def fold_result(record, rows, predictions, image_size):
    """One fold's result: metrics of the last epoch, their averages over the epochs at the final size, and counts.

    Args:
        record: of the fold's model file.
        rows: the fold's rows of the log.
        predictions: Predictions for the faces of all folds.
        image_size: the final size, in pixels.
    """
    own = predictions.where(predictions.faces.table.fold == record["fold"])
    final = [row for row in rows if row["image_size"] == image_size]
    twins = own.faces.table.path.isin(record["twins"])  # their picture is among the training faces, too
    others = own.where(~twins).metrics() if not twins.all() else dict.fromkeys(METRICS)
    return {
        "fold": record["fold"],
        **own.metrics(),
        **{f"{name}_over_epochs": float(np.mean([row[f"test_{name}"] for row in final])) for name in METRICS},
        **{f"{name}_without_twins": value for name, value in others.items()},
        **{name: float(value) for name, value in rows[-1].items() if name.startswith("val_")},
        **calibration_results(own.labels, own.predicted, own.probabilities, record.get("temperature")),
        "decoder": record["decoder"],
        "train_faces": record["train_faces"],
        "test_faces": len(own.faces),
        "twins": own.faces.table.path[twins].tolist(),
        "predictions_sha256": record["predictions_sha256"],
        "classes": class_results(own.faces.class_names, own.confusion),
        "confusion": own.confusion.tolist(),
    }


def class_results(class_names, confusion):
    """One dict per class: its faces and accuracies, None for a class without a face."""
    rows = zip(class_names, *per_class(confusion), strict=True)
    return [
        {"class": name, "faces": int(faces), "top1": float(exact) if faces else None,
         "one_off": float(near) if faces else None}
        for name, faces, exact, near in rows
    ]  # fmt: skip


def summary(folds):
    """Mean and standard deviation of every number that all folds have."""
    names = [name for name in folds[0] if all(isinstance(fold[name], float) for fold in folds)]
    return mean_and_std({name: [fold[name] for fold in folds] for name in names})


def read_results(folder):
    """Read a finished run's results.json and its predictions, which belong together.

    Returns:
        (dict, StoredPredictions).

    Raises:
        UserError: a file is missing or damaged, or the predictions are not those of these results.
    """
    path = Path(folder) / "results.json"
    results = read_json(path)
    try:
        digests = {int(fold["fold"]): str(fold["predictions_sha256"]) for fold in results["folds"]}
        if type(results["data_fingerprint"]) is not str:
            raise TypeError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"'{path}' is damaged, or is not the results of a run of this version") from None
    return results, read_predictions(Path(folder) / "predictions.csv", digests)
