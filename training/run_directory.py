"""The run directory: paths, reading, writing, and locks.

The log and the results follow from the model files and the progress, so the files agree with each other again once a
killed run is resumed. Each fold has a lock of its own, so that several jobs can train different folds of one run.
"""

import contextlib
import dataclasses
from pathlib import Path

import pandas as pd

from data.labels import FOLDS
from evaluation.predictions import read_predictions
from models.ages import MASS
from models.checkpoint import NO_FOLD, load_model, save_model
from training.config import differences, read_config
from training.engine import EpochMeter
from training.record import LOG_COLUMNS, PROGRESS_FORMAT, check_record, load_progress, log_row, model_record
from utils.cli import printable
from utils.errors import UserError
from utils.files import locked, write_csv, write_json
from utils.options import to_record
from utils.reading import exists, open_regular, reason
from utils.serialization import first_line, save_plain

# The outputs of a run. Without a config.json, such a file belongs to something else.
OUTPUTS = (
    "fold_*.pt all.pt log.csv predictions.csv results.json results.tex report.html suspects.csv folds.csv damaged.csv"
    " *curves.??? confusion.??? augmentation.???"
).split()
LOG_LIMIT = 256  # MiB


class RunDirectory:
    """The files of a run; `read` reads them, and within `open` a run trains and writes them.

    Processes that train together all call the same methods; the main process alone writes.

    Args:
        folder: the run directory.

    Attributes:
        config, runtime, faces, cache: as given to `open`.
        history: {fold: rows of the log}, of all folds that have begun.
        evaluations: {fold: Evaluation of the held-out faces, with its model}, of the finished folds.
        fingerprints: of the data that its folds were trained on, a set.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.history, self.evaluations, self.fingerprints = {}, {}, set()

    def model_path(self, fold):
        return self.folder / ("all.pt" if fold == NO_FOLD else f"fold_{fold}.pt")

    def progress_path(self, fold):
        return self.model_path(fold).with_suffix(".progress.pt")

    def is_finished(self, fold):
        return exists(self.model_path(fold))

    def has_begun(self, fold):
        return self.is_finished(fold) or exists(self.progress_path(fold))

    def read(self, check=False):
        """Read the history of all folds, and the evaluations of finished folds that are not known yet.

        Args:
            check: refuse files of another run; within `open` only.

        Returns:
            This RunDirectory.

        Raises:
            UserError: a file is damaged, or refused.
        """
        models = {}
        for fold in (*FOLDS, NO_FOLD):
            if fold in self.evaluations or not self.has_begun(fold):
                continue
            path, finished = self.progress_path(fold), self.is_finished(fold)
            if finished:
                path, models[fold] = self.model_path(fold), load_model(self.model_path(fold))
            record = models[fold].record if finished else load_progress(path)
            if check:
                check_record(path, record, fold, self.config, self.data_fingerprint, finished)
            self.fingerprints.add(record["data_fingerprint"])
            if record["history"]:
                self.history[fold] = list(record["history"])
        models.pop(NO_FOLD, None)  # it predicts no held-out face
        if models:
            digests = {fold: model.record.get("predictions_sha256") for fold, model in models.items()}
            predictions = read_predictions(self.folder / "predictions.csv", digests)
            for fold, model in models.items():
                self.add(fold, predictions.where(predictions.faces.table.fold == fold), model)
        return self

    def add(self, fold, evaluation, model):
        """Keep the Evaluation of a finished fold; the folds stay in order."""
        evaluation = dataclasses.replace(
            evaluation,
            name=f"fold {fold}",
            faces=dataclasses.replace(evaluation.faces, classes=model.classes),
            model=model,
            decoder=model.record["decoder"],
            temperature=model.record.get("temperature"),
            mass=model.record.get("mass", MASS),
            whole_has_ages=True,  # each fold for itself
        )
        self.evaluations = dict(sorted({**self.evaluations, fold: evaluation}.items()))

    @contextlib.contextmanager
    def open(self, config, runtime, faces, cache, resume):
        """Hold the locks of the folds to train within the block, and record the settings.

        Args:
            config: the settings, with the folds to train.
            runtime: the Runtime to train with.
            faces: the Faces of all folds.
            cache: the Cache of their images.
            resume: whether the folds may have begun.

        Raises:
            UserError: a fold is in use, or the content of the directory does not fit.
        """
        self.config, self.runtime, self.faces, self.cache = config, runtime, faces, cache
        self.data_fingerprint = faces.fingerprint(cache.sha256)
        self.writes = runtime.distributed.is_main_process
        with contextlib.ExitStack() as stack:
            if self.writes:
                self.take(resume, stack)
            runtime.distributed.barrier()
            if not self.writes:
                self.read(check=True)
            for fold in config.folds:
                self.history.setdefault(fold, [])
            yield self

    def take(self, resume, stack):
        """Lock the folds in the ExitStack, check the directory and write its settings."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run directory '{self.folder}': {reason(error)}") from None
        with self.lock():
            for fold in self.config.folds:
                stack.enter_context(locked(self.folder / f".fold_{fold}.lock", lambda k=fold: self.refuse(k)))
            check_folder(self.config, resume)
            self.read(check=True)
            folds = set(self.config.folds) | set(self.history)
            if exists(self.folder / "config.json"):  # the folds of other jobs too
                folds |= set(read_config(self.folder).folds)
            write_json(self.folder / "config.json", {**to_record(self.config), "folds": sorted(folds)})
            for fold in filter(self.is_finished, (*FOLDS, NO_FOLD)):  # left by a kill just after it was finished
                self.progress_path(fold).unlink(missing_ok=True)
            if self.cache.damaged:
                table = pd.DataFrame({"problem": list(self.cache.damaged.values())})
                write_csv(self.folder / "damaged.csv", table)
                print(f"damaged: {len(table):,} images are left out; {printable(self.folder)}/damaged.csv names them")
            if self.faces.folds_drawn:
                names = [self.faces.classes.names[label] for label in self.faces.labels]
                table = self.faces.table.assign(label=names)[["path", "label", "person", "fold"]]
                write_csv(self.folder / "folds.csv", table)

    def refuse(self, fold):
        raise UserError(
            f"another process is training fold {fold} in '{self.folder}'; choose other --folds or another --run-dir, or"
            " wait"
        )

    def lock(self):
        """A context that waits for the lock of the files that all folds share, and holds it."""
        return locked(self.folder / ".lock")

    def resume_fold(self, fold, state):
        """Load the fold's progress into the TrainState, if there is any.

        Returns:
            (first epoch to train, EpochMeter).

        Raises:
            UserError: the progress is damaged.
        """
        meter, path = EpochMeter(self.runtime), self.progress_path(fold)
        if not exists(path):
            return 0, meter
        content = load_progress(path)
        if content["trained_on"] != str(self.runtime):
            print(
                f"note: fold {fold} was begun on {printable(content['trained_on'])} and resumes on {self.runtime};"
                " the last bits may differ"
            )
        try:
            state.load_state_dict(content["state"])
            if content["meter"]:
                meter.load_state_dict(content["meter"])
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"'{path}' is damaged: {first_line(error)}") from None
        # Within an epoch there is a meter; at its end there is none.
        epoch = len(content["history"])
        first, last = epoch * state.steps_per_epoch, (epoch + bool(content["meter"])) * state.steps_per_epoch
        if not first <= state.step <= last:
            raise UserError(f"'{path}' is damaged: its step is {state.step}, not from {first} to {last}")
        return epoch, meter

    def save_progress(self, fold, state, meter=None):
        """Write the state that the fold resumes from, and the log, which follows from it.

        Args:
            meter: the EpochMeter within an epoch; None at its end.
        """
        sums = meter.state_dict() if meter else {}  # every process contributes
        if self.writes:
            content = {
                "format": PROGRESS_FORMAT,
                "fold": fold,
                "config": to_record(self.config),
                "data_fingerprint": self.data_fingerprint,
                "trained_on": str(self.runtime),
                "history": self.history[fold],
                "state": state.state_dict(),
                "meter": sums,
            }
            save_plain(self.progress_path(fold), content)
            with self.lock():
                self.save_log(self.config.folds)

    def save_epoch(self, setup, epoch, state, meter, tested, validated):
        """Save a complete epoch; arguments as for `record.log_row`. Returns its row of the log."""
        row = log_row(self.config, setup, epoch, state, meter, tested, validated)
        self.history[setup.fold].append(row)
        self.save_progress(setup.fold, state)
        return row

    def save_log(self, folds):
        """Write log.csv: the rows of these folds; the rows of other jobs' folds stay as they are."""
        rows = [row for row in self.read_log() if row["fold"] not in folds and self.has_begun(row["fold"])]
        rows += [row for fold in folds for row in self.history.get(fold, [])]
        if rows:
            columns = [name for name in LOG_COLUMNS if any(name in row for row in rows)]
            table = pd.DataFrame(rows, columns=columns).sort_values(["fold", "epoch"], kind="stable")
            write_csv(self.folder / "log.csv", table)

    def read_log(self):
        """The rows of log.csv; none if it is missing or damaged, since it can be made again from the other files."""
        try:
            with open_regular(self.folder / "log.csv", LOG_LIMIT) as file:
                return pd.read_csv(file).astype({"fold": int, "epoch": int}).to_dict("records")
        except (UserError, ValueError, KeyError):
            return []

    def save_fold(self, setup, state, tested, validated, framing):
        """Save a trained fold: the predictions first, since the model file marks the fold as finished.

        Args:
            setup: the FoldSetup.
            state: the TrainState.
            tested, validated: the Evaluations of the held-out fold and the validation faces, each None without these.
            framing: position of the face in the training images, a list of numbers, or None.
        """
        if not self.writes:
            return
        fold, model = setup.fold, state.model
        model.record = model_record(self, setup, tested, validated, framing)
        with self.lock():
            self.read()  # folds that other jobs finished meanwhile
            if tested is not None:
                self.add(fold, tested, model)
                self.save_predictions()
            save_model(self.model_path(fold), model, model.record)
        self.progress_path(fold).unlink(missing_ok=True)

    def save_predictions(self):
        """Write predictions.csv, with the faces of all finished folds."""
        tables = [evaluation.table() for evaluation in self.evaluations.values()]
        write_csv(self.folder / "predictions.csv", pd.concat(tables))

    def save_calibration(self, fold, **values):
        """Store the temperature of a fold's probabilities, and the mass of its intervals, in its model file."""
        model, evaluation = self.evaluations[fold].model, dataclasses.replace(self.evaluations[fold], **values)
        self.evaluations[fold] = evaluation
        model.record |= {**values, "metrics": evaluation.metrics()}  # the coverage follows from the mass
        save_model(self.model_path(fold), model, model.record)


def check_folder(config, resume):
    """Check that a run may start in its directory or, with `resume`, continue. Raises UserError."""
    folder = Path(config.run_dir)
    if links := [path for path in folder.glob("*") if path.is_symlink()]:
        raise UserError(f"'{links[0]}' is a link; a run writes into its own folder only: put a copy there")
    for name in ("config.json", "log.csv", "folds.csv", "predictions.csv", "results.json"):
        if exists(folder / name) and not (folder / name).is_file():
            raise UserError(f"'{folder / name}' is no regular file; a run writes a file of this name: move it away")
    if exists(folder / "config.json"):
        run, recorded = RunDirectory(folder), read_config(folder, strict=True)
        if not resume and (begun := [fold for fold in config.folds if run.has_begun(fold) or fold in recorded.folds]):
            finished = all(run.is_finished(fold) for fold in begun)
            advice = "choose another --run-dir" if finished else "add --resume, or choose another --run-dir"
            raise UserError(f"'{folder}' already holds {'a finished' if finished else 'an unfinished'} run; {advice}")
        if differing := differences(recorded, vars(config)):
            raise UserError(f"'{folder}' was trained with other settings: {differing}")
    elif exists(folder) and not folder.is_dir():
        raise UserError(f"--run-dir '{folder}': expected a folder, this is a file")
    elif found := sorted(path.name for pattern in OUTPUTS for path in folder.glob(pattern)):
        raise UserError(f"'{folder}' holds {found[0]} but no config.json; choose another --run-dir")
