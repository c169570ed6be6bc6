"""results.json: the results of a run, fold by fold and as mean and standard deviation."""

from pathlib import Path

import numpy as np

from evaluation.calibration import cross_fitted_temperatures
from evaluation.evaluation import pool
from evaluation.metrics import mean_and_std, per_class
from evaluation.predictions import read_predictions
from models.ages import fit_mass
from training.provenance import current_commit
from utils.errors import UserError
from utils.files import write_json
from utils.options import to_record
from utils.reading import read_json


def write_results(run):
    """Write results.json of all finished folds, and the log, predictions and temperatures it rests on; returns it."""
    with run.lock():
        run.read()
        run.save_log(set(run.history))
        save_calibrations(run)
        run.save_predictions()
        folds = [fold_result(evaluation, run.history[fold]) for fold, evaluation in run.evaluations.items()]
        settings = {
            name: value for name, value in to_record(run.config).items() if name not in ("run_dir", "cache_dir")
        }
        settings["folds"] = sorted(run.history)
        results = {
            "commit": current_commit(),
            "data_fingerprint": run.data_fingerprint,
            "damaged": len(run.cache.damaged),
            "settings": settings,
            "class_names": list(next(iter(run.evaluations.values())).classes.names),
            "folds": folds,
            **summary(folds),
        }
        write_json(run.folder / "results.json", results)
    return results


def save_calibrations(run):
    """Store in each model file the temperature and the mass of intervals that fit the held-out faces of other folds.

    A model with validation faces has one that was fitted on these.
    """
    pooled = pool(list(run.evaluations.values()))
    fitted = cross_fitted_temperatures(pooled.labels, pooled.probabilities, pooled.faces.table.fold)
    for fold, temperature in fitted.items():
        evaluation, values = run.evaluations[fold], {"temperature": temperature}
        if "coverage" in pooled.metric_names:
            others = pooled.where(pooled.faces.table.fold != fold)
            values["mass"] = fit_mass(others.probabilities, others.classes, others.faces.ages)
        known = {name: getattr(evaluation, name) for name in values}
        if not evaluation.model.record["val_albums"] and known != values:
            run.save_calibration(fold, **values)


def fold_result(evaluation, rows):
    """One fold's result, from its Evaluation and its rows of the log: metrics, averages over the epochs, and counts."""
    record, duplicates = evaluation.model.record, evaluation.duplicates
    others = evaluation.where(~duplicates).metrics() if not duplicates.all() else dict.fromkeys(evaluation.metric_names)
    over_epochs = {
        name: [row[f"test_{name}"] for row in rows if f"test_{name}" in row] for name in evaluation.metric_names
    }
    return {
        "fold": record["fold"],
        **evaluation.metrics(),
        **{f"{name}_over_epochs": float(np.mean(values)) if values else None for name, values in over_epochs.items()},
        **{f"{name}_without_duplicates": value for name, value in others.items()},
        **{name: float(value) for name, value in rows[-1].items() if name.startswith("val_")},
        **evaluation.calibration(),
        "decoder": record["decoder"],
        "unknown_origin": record.get("unknown_origin", []),
        "train_faces": record["train_faces"],
        "test_faces": len(evaluation),
        "duplicates": evaluation.faces.table.path[duplicates].tolist(),
        "predictions_sha256": record["predictions_sha256"],
        "classes": class_results(evaluation),
        "confusion": evaluation.confusion.tolist(),
    }


def class_results(evaluation):
    """One dict per class: its faces and accuracies, None for a class without a face."""
    rows = zip(evaluation.classes.names, *per_class(evaluation.confusion), strict=True)
    return [
        {"class": name, "faces": int(faces), "top1": float(exact) if faces else None,
         "one_off": float(near) if faces else None}
        for name, faces, exact, near in rows
    ]  # fmt: skip


def summary(folds):
    """Mean and standard deviation of every number that all folds have."""
    names = [name for name in folds[0] if all(isinstance(fold.get(name), float) for fold in folds)]
    return mean_and_std({name: [fold[name] for fold in folds] for name in names})


def read_results(folder):
    """Read a finished run's results.json and its predictions, which belong together.

    Returns:
        (dict, Evaluation).

    Raises:
        UserError: a file is missing or damaged, or the predictions are not those of these results.
    """
    path = Path(folder) / "results.json"
    results = read_json(path)
    try:
        digests = {int(fold["fold"]): str(fold["predictions_sha256"]) for fold in results["folds"]}
        if type(results["data_fingerprint"]) is not str or type(results["settings"]) is not dict:
            raise TypeError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"'{path}' is damaged, or is not the results of a run of this version") from None
    return results, read_predictions(Path(folder) / "predictions.csv", digests)
