"""The records of a fold: rows of the log, its progress, the record in its model file, and their checks."""

import numpy as np
import torch

from augment import gridmask_probability
from evaluation.calibration import fit_temperature
from evaluation.evaluation import pool
from evaluation.label_shift import usual_answer
from evaluation.leaks import people_seen, pictures_seen
from evaluation.metrics import METRICS
from evaluation.predictions import predictions_digest
from models.ages import fit_mass
from models.checkpoint import DETECTOR, is_number
from training.config import differences, from_record
from training.provenance import provenance
from training.schedule import training_progress
from utils.errors import UserError
from utils.options import as_tuples, to_record
from utils.serialization import load_plain

LOG_COLUMNS = [
    *("fold", "epoch", "lr", "gridmask_prob", "train_loss", "train_top1"),
    *(f"test_{name}" for name in METRICS),
    *("seconds", "images_per_second"),
    *(f"val_{name}" for name in METRICS),  # where --val-fraction holds faces out for tuning
]
NECESSARY = ("fold", "epoch", "train_loss", "train_top1", "seconds", "images_per_second")  # in every version's log
PROGRESS_FORMAT = "age-training-progress"


def log_row(config, setup, epoch, state, meter, tested, validated):
    """One row of log.csv: an epoch's training, and its Evaluations of the held-out fold and the validation faces."""
    train_loss, train_top1 = meter.read()
    row = {
        "fold": setup.fold,
        "epoch": epoch,
        "lr": state.learning_rate((state.step - 1) / state.steps_per_epoch),  # of the last step
        "gridmask_prob": gridmask_probability(config, training_progress(epoch, config.epochs)),
        "train_loss": train_loss,
        "train_top1": train_top1,
    }
    for split, evaluation in (("test", tested), ("val", validated)):
        if evaluation is not None:
            row |= {f"{split}_{name}": value for name, value in evaluation.metrics().items()}
    return row | {"seconds": meter.seconds, "images_per_second": meter.faces / meter.seconds}


def load_progress(path):
    """The content of a progress file. Raises UserError."""
    content = load_plain(path)
    kinds = {"fold": int, "config": dict, "data_fingerprint": str, "trained_on": str, "history": list, "state": dict}
    if content.get("format") != PROGRESS_FORMAT or not all(isinstance(content.get(n), k) for n, k in kinds.items()):
        raise UserError(f"'{path}' is not the progress of a training run, or is damaged")
    return content


def model_record(run, setup, tested, validated, framing):
    """The record in a fold's model file, as plain values and tensors; see `RunDirectory.save_fold`."""
    train, val, test, pictures = setup.train, setup.val, setup.test, run.cache.pictures
    evaluated = {*val.table.path, *test.table.path}
    duplicates = {path for faces in (val, test) for path in faces.table.path[pictures.duplicates(faces, train)]}
    record = {
        "fold": setup.fold,
        "config": to_record(run.config),
        "train_people": sorted(set(train.people)),
        "train_faces": len(train),
        "train_pictures": torch.from_numpy(pictures.signatures[0, train.table.index]),
        "val_albums": sorted(set(val.table.album)),
        "data_fingerprint": run.data_fingerprint,
        "decoder": next((part.decoder for part in (tested, validated) if part), run.config.decode),
        "predictions_sha256": predictions_digest(tested.table()) if tested is not None else "",
        "metrics": tested.metrics() if tested is not None else {},
        "history": run.history[setup.fold],
        **provenance(run.runtime),
    }
    origins = [origin for origin in setup.origins.values() if origin]
    if origins:
        seen = np.concatenate(list(map(pictures_seen, origins)))
        record["initial_people"] = sorted(set().union(*map(people_seen, origins)))
        record["initial_pictures"] = torch.from_numpy(np.unique(seen, axis=0))
        if terms := {origin["terms"] for origin in origins if "terms" in origin}:
            record["terms"] = " ".join(sorted(terms))
        duplicates |= {path for origin in origins for path in origin["duplicates"]} & evaluated
    unknown = {name for name, origin in setup.origins.items() if not origin}
    if unknown := unknown.union(*(origin.get("unknown_origin", []) for origin in origins)):
        record["unknown_origin"] = sorted(unknown)
    if validated is not None:
        record["temperature"] = fit_temperature(validated.labels, validated.probabilities)
        if "coverage" in validated.metric_names:
            record["mass"] = fit_mass(validated.probabilities, validated.classes, validated.faces.ages)
    if parts := [part for part in (tested, validated) if part is not None]:
        held_out, frequencies = pool(parts), np.bincount(train.labels, setup.sampling, len(train.classes))
        record["usual_answer"] = usual_answer(held_out.probabilities, held_out.labels, frequencies).tolist()
    if framing is not None:
        record |= {"framing": framing, "detector": DETECTOR}
    rows = {path: row for faces in (val, test) for row, path in faces.table.path.items()}
    own = np.array([rows[path] for path in sorted(duplicates)], int)
    return record | {
        "duplicates": sorted(duplicates),
        "duplicate_pictures": torch.from_numpy(pictures.signatures[0, own]),
    }


def check_record(path, content, fold, config, data_fingerprint, finished):
    """Check that a model file or progress is of this fold, these settings and faces, and that its epochs are complete.

    Raises:
        UserError: it does not fit, or the fold must be `finished` and is not.
    """
    if content["fold"] != fold:
        raise UserError(f"'{path}' is of fold {content['fold']}, not of fold {fold}")
    recorded = from_record(path, content["config"], strict=True)
    if differing := differences(recorded, as_tuples(to_record(config))):
        raise UserError(f"'{path}' was trained with other settings: {differing}")
    if problem := find_history_problem(content, config, finished):
        raise UserError(f"'{path}' is damaged: {problem}")
    if content["data_fingerprint"] != data_fingerprint:
        raise UserError(f"--resume: '{path}' was trained on other faces, labels or pixels than these")


def find_history_problem(content, config, finished):
    """The problem with the epochs of a fold's record, as text, or None."""
    rows = content["history"]
    if len(rows) > config.epochs or (finished and len(rows) < config.epochs):
        return f"it records {len(rows)} epochs of {config.epochs}"
    for epoch, row in enumerate(rows):
        if not isinstance(row, dict) or not row.keys() >= {*NECESSARY} or not all(map(is_number, row.values())):
            return f"its record of epoch {epoch + 1} is not complete"
        if (row["fold"], row["epoch"]) != (content["fold"], epoch):
            return f"its record of epoch {epoch + 1} is of fold {row['fold']}, epoch {row['epoch'] + 1}"
    return None
