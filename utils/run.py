"""The run directory: its configuration, log, checkpoints, predictions and results.

The log and the results follow from the checkpoints, so whatever a killed run left behind, the
files agree with each other once it goes on.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from data.adience import AGE_GROUPS, FOLDS
from utils import UserError
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import from_record, to_record
from utils.files import replacing, write_csv, write_json

LOG_COLUMNS = (
    "fold epoch lr gridmask_prob train_loss train_top1 test_loss test_top1 test_one_off seconds images_per_second"
).split()
# Behind them, where --val-fraction holds faces out for tuning.
VAL_COLUMNS = ["val_loss", "val_top1", "val_one_off"]
# Where a run's files are and how fast it may go do not change what it learns.
FREE_TO_CHANGE = ("run_dir", "cache_dir", "label_dir", "image_dir", "folds", "threads", "compile", "plots")


class Run:
    """An open run directory.

    history: {fold: [log rows]} of all epochs so far, of the folds to train and of any that are there already.
    writes: whether this process writes the files; of several that train together one does.
    """

    def __init__(self, config, resume, writes=True):
        """Look whether a run may start in this directory or, with `resume`, go on. Writes nothing. Raises UserError."""
        self.folder = Path(config.run_dir)
        self.config = config
        self.writes = writes
        if (self.folder / "config.json").exists():
            self.require_permission(resume)
            require_same_settings(self.folder, read_record(self.folder), to_record(config))
        elif resume:
            raise UserError(f"--resume: '{self.folder}' holds no run to go on with")
        elif models := [path.name for path in self.folder.glob("fold_*.pt")]:
            raise UserError(f"'{self.folder}' holds {models[0]} but no config.json; choose another --run-dir")
        self.fingerprints = {}  # {file: of the data it was trained on}
        self.history = {fold: rows for fold in FOLDS if (rows := self.recorded_history(fold)) or fold in config.folds}
        if self.finished_folds() and not self.predictions_path.exists():
            raise UserError(f"'{self.predictions_path}' is missing: the predictions of the finished folds were there")

    def require_permission(self, resume):
        if resume:
            return
        finished = (self.folder / "results.json").exists()
        advice = "choose another --run-dir" if finished else "go on with --resume, or choose another --run-dir"
        state = "a finished run" if finished else "an unfinished run"
        raise UserError(f"'{self.folder}' already holds {state}; {advice}")

    @contextlib.contextmanager
    def started(self, data_fingerprint):
        """Within the context, the directory is this process's alone and holds a run. Raises UserError."""
        for path, recorded in self.fingerprints.items():
            if recorded != data_fingerprint:
                raise UserError(f"--resume: '{path}' was trained on other faces, labels or pixels than these")
        if not self.writes:
            yield
            return
        with locked(self.folder):
            write_json(self.folder / "config.json", {**to_record(self.config), "folds": list(self.history)})
            for fold in self.finished_folds():
                self.progress_path(fold).unlink(missing_ok=True)  # left by a kill just after the fold was finished
            yield

    @property
    def predictions_path(self):
        return self.folder / "predictions.csv"

    def model_path(self, fold):
        return self.folder / f"fold_{fold}.pt"

    def progress_path(self, fold):
        return self.folder / f"fold_{fold}.progress.pt"

    def recorded_history(self, fold):
        for path in (self.model_path(fold), self.progress_path(fold)):
            if path.exists():
                content = load_fold(path, fold, to_record(self.config))
                self.fingerprints[path] = content["data_fingerprint"]
                return content["history"]
        return []

    def is_finished(self, fold):
        return self.model_path(fold).exists()

    def epochs_done(self, fold):
        return len(self.history[fold])

    def restore_progress(self, fold, description, learner):
        """Put the learner back to where the fold was left, if it was begun. Raises UserError.

        Returns the record of an epoch that was interrupted, or None.
        """
        path = self.progress_path(fold)
        if not path.exists():
            return None
        content = load_checkpoint(path)
        if content["trained_on"] != description["trained_on"]:
            began, now = content["trained_on"], description["trained_on"]
            print(
                f"note: fold {fold} was begun on {began} and goes on on {now}; the last bits may differ",
                file=sys.stderr,
            )
        interrupted = content.get("interrupted")
        if interrupted and not interrupted.keys() >= {"faces", "sums", "seconds", "noise"}:
            raise UserError(f"--resume: '{path}' was stopped within an epoch by an older version of this code")
        try:
            learner.restore(content)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"'{path}' is damaged: {' '.join(str(error).split())[:200]}") from None
        return content["interrupted"]

    @staticmethod
    def log_row(fold, epoch, rate, gridmask_prob, totals, tested, validated=None):
        """One row of log.csv.

        totals: the epoch's training; tested, validated: the Evaluations of the held-out fold and of
        the faces held out for tuning.
        """
        train_loss, train_top1 = totals.read()
        metrics = tested.summary()
        values = (fold, epoch, rate, gridmask_prob, train_loss, train_top1, tested.loss, metrics["top1"])
        speed = (metrics["one_off"], totals.seconds, totals.faces / totals.seconds)
        row = dict(zip(LOG_COLUMNS, values + speed, strict=True))
        if validated:
            metrics = validated.summary()
            row |= zip(VAL_COLUMNS, (validated.loss, metrics["top1"], metrics["one_off"]), strict=True)
        return row

    def save_progress(self, fold, description, learner, interrupted=None):
        """Record everything that the fold goes on from. interrupted: the record of a half-done epoch."""
        if not self.writes:
            return
        content = {**learner.state(), "history": self.history[fold], "interrupted": interrupted}
        save_checkpoint(self.progress_path(fold), {**description, **content})

    def save_epoch(self, fold, description, learner, row):
        """Record a finished epoch: the progress first, since the log follows from it."""
        self.history[fold].append(row)
        self.save_progress(fold, description, learner)
        if self.writes:
            self.write_log()

    def write_log(self):
        rows = [row for fold_rows in self.history.values() for row in fold_rows]
        columns = LOG_COLUMNS + (VAL_COLUMNS if self.config.val_fraction else [])
        write_csv(self.folder / "log.csv", pd.DataFrame(rows, columns=columns))

    def finish_fold(self, fold, description, model, faces, tested):
        """Record a trained fold: the predictions first, since the checkpoint marks the fold as done."""
        if not self.writes:
            return
        self.write_predictions(fold, faces, tested)
        content = {
            "model": model.state_dict(),
            "history": self.history[fold],
            "metrics": tested.record(),
        }
        save_checkpoint(self.model_path(fold), {**description, **content})
        self.progress_path(fold).unlink(missing_ok=True)

    def write_predictions(self, fold, faces, tested):
        """Put this fold's faces into predictions.csv, in place of any that it already has."""
        table = tested.table(faces)
        if self.predictions_path.exists():
            others = self.predictions()
            table = pd.concat([others[others.fold != fold], table])
        write_csv(self.predictions_path, table.sort_values("fold", kind="stable"))

    def predictions(self):
        return read_predictions(self.predictions_path)

    def finished_folds(self):
        return [fold for fold in self.history if self.is_finished(fold)]

    def finish(self):
        """Write results.json, of every finished fold in the directory, and return its content."""
        self.write_log()  # a kill may have come between the last epoch's progress and its log
        folds = [self.fold_result(fold) for fold in self.finished_folds()]
        names = [name for name in folds[0] if name not in ("fold", "decode")]
        values = {name: np.array([result[name] for result in folds]) for name in names}
        results = {
            "folds": folds,
            "mean": {name: float(value.mean()) for name, value in values.items()},
            # The sample's standard deviation; one fold alone has none.
            "std": {name: float(value.std(ddof=1)) if len(folds) > 1 else None for name, value in values.items()},
        }
        write_json(self.folder / "results.json", results)
        return results

    def fold_result(self, fold):
        """The last epoch's metrics, and beside them the averages over all epochs."""
        metrics = load_checkpoint(self.model_path(fold))["metrics"]
        rows = self.history[fold]
        return {
            "fold": fold,
            **{name: metrics[name] for name in ("top1", "one_off", "mae")},
            "decode": metrics.get("decode", "argmax"),
            "top1_over_epochs": float(np.mean([row["test_top1"] for row in rows])),
            "one_off_over_epochs": float(np.mean([row["test_one_off"] for row in rows])),
            **{name: rows[-1][name] for name in VAL_COLUMNS if name in rows[-1]},
        }


def read_record(folder):
    """The settings in a run directory's config.json, with defaults for those it does not know. Raises UserError."""
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"'{folder}' is no run directory: it has no config.json") from None
    except ValueError as error:
        raise UserError(f"'{path}' is damaged: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"'{path}' is damaged: it holds no settings")
    return to_record(from_record(record))


def require_same_settings(folder, recorded, wanted):
    differing = [
        f"{name} was {recorded.get(name)}, now {value}"
        for name, value in wanted.items()
        if name not in FREE_TO_CHANGE and recorded.get(name) != value
    ]
    if differing:
        raise UserError(f"'{folder}' was trained with other settings: {'; '.join(differing)}")


def load_fold(path, fold, record):
    """A checkpoint of this fold and these settings. Raises UserError."""
    content = load_checkpoint(path)
    if content["fold"] != fold:
        raise UserError(f"'{path}' is the model of fold {content['fold']}, not of fold {fold}")
    require_same_settings(path, to_record(from_record(content["config"])), record)
    return content


def read_predictions(path):
    """predictions.csv as it was written: float32 probabilities, so that writing it again changes nothing."""
    try:
        return pd.read_csv(path, dtype={"subject": str, **{f"p{group}": "float32" for group in range(len(AGE_GROUPS))}})
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the predictions '{path}': {error}") from None


@contextlib.contextmanager
def locked(folder):
    """Hold the folder, made if need be, for this process. Raises UserError when another one does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot make the run directory '{folder}': {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is training in '{folder}'; choose another --run-dir, or wait") from None
        yield
    finally:
        os.close(descriptor)


def merge_runs(sources, target):
    """Join the finished folds of runs with the same settings and data into a new run directory; returns its Run.

    Raises UserError when they do not belong together, a fold is there twice or nothing is finished.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--merge: '{target}' is no empty directory; choose another --run-dir")
    record = read_record(sources[0])
    models, fingerprints, predictions = {}, set(), []
    for source in map(Path, sources):
        require_same_settings(source, read_record(source), record)
        own = {fold: path for fold in FOLDS if (path := source / f"fold_{fold}.pt").exists()}
        if twice := own.keys() & models.keys():
            fold = min(twice)
            raise UserError(f"--merge: fold {fold} is in '{models[fold].parent}' and in '{source}'")
        models |= own
        fingerprints |= {load_fold(path, fold, record)["data_fingerprint"] for fold, path in own.items()}
        if own:
            table = read_predictions(source / "predictions.csv")
            predictions.append(table[table.fold.isin(own)])
    if not models:
        raise UserError(f"--merge: no finished fold in {', '.join(map(str, sources))}")
    if len(fingerprints) > 1:
        raise UserError("--merge: these runs were trained on different faces, labels or pixels")
    for path in models.values():
        with replacing(target / path.name) as unfinished:
            shutil.copyfile(path, unfinished)
    write_csv(target / "predictions.csv", pd.concat(predictions).sort_values("fold", kind="stable"))
    config = from_record({**record, "run_dir": str(target), "folds": sorted(models)})
    write_json(target / "config.json", to_record(config))
    return Run(config, resume=True)
