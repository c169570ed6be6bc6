"""Merging runs of different folds, which may have been trained on different machines, into one run directory."""

import shutil
from pathlib import Path

import pandas as pd

from data.adience import FOLDS
from evaluation.predictions import read_predictions
from models.checkpoint import load_model
from training.config import FREE_TO_CHANGE, read_config, show
from training.run import Run, check_fold
from utils.errors import UserError
from utils.files import atomic_write, write_csv, write_json, write_text
from utils.foreign import exists, read_text
from utils.options import to_record

FOLDS_LIMIT = 256  # MiB


def merge_runs(sources, target, compute):
    """Copy the finished folds of runs with the same settings and data into a new run directory.

    Args:
        sources: the run directories.
        target: the new one.
        compute: a Compute, which the Run needs.

    Returns:
        The Run of the new directory, not yet entered.

    Raises:
        UserError: the runs do not belong together, a fold is there twice, or none is finished.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--merge: '{target}' is not an empty directory; choose another --run-dir")
    sources = [Path(source) for source in sources]
    configs = {source: read_config(source) for source in sources}
    check_same_settings(configs)
    models = finished_models(sources)
    records = {fold: load_model(path).record for fold, path in models.items()}
    first = next(iter(configs.values()))
    for fold, record in records.items():
        check_fold(models[fold], record, fold, first, whole=True)
    fingerprints = {record["data_fingerprint"] for record in records.values()}
    if len(fingerprints) > 1:
        raise UserError("--merge: these runs were trained on different faces, labels or pixels")
    tables = []
    for source in configs:
        own = [fold for fold, path in models.items() if path.parent == source]
        if own:
            digests = {fold: records[fold].get("predictions_sha256") for fold in own}
            tables.append(read_predictions(source / "predictions.csv", digests).table())
    for path in models.values():
        with atomic_write(target / path.name) as unfinished:
            shutil.copyfile(path, unfinished)
    drawn = sources[0] / "folds.csv"  # settings and data are the same, and so are the folds that were drawn
    if exists(drawn):
        write_text(target / drawn.name, read_text(drawn, FOLDS_LIMIT))
    write_csv(target / "predictions.csv", pd.concat(tables).sort_values("fold", kind="stable"))
    record = to_record(first) | {"run_dir": str(target), "folds": sorted(models)}
    write_json(target / "config.json", record)
    if missing := [str(fold) for fold in FOLDS if fold not in models]:
        print(f"note: no run holds fold {', '.join(missing)}; the table has the other {len(models)}")
    return Run(read_config(target), True, compute, fingerprints.pop())


def check_same_settings(configs):
    (first, expected), *others = configs.items()
    for source, config in others:
        differing = [
            f"{name}: {show(getattr(expected, name))} in '{first}', {show(getattr(config, name))} in '{source}'"
            for name in vars(config)
            if name not in FREE_TO_CHANGE and getattr(config, name) != getattr(expected, name)
        ]
        if differing:
            raise UserError(f"--merge: the settings differ: {'; '.join(differing)}")


def finished_models(sources):
    """{fold: path} of the model files in all run directories."""
    models = {}
    for source in sources:
        for fold in FOLDS:
            path = source / f"fold_{fold}.pt"
            if exists(path):
                if fold in models:
                    raise UserError(f"--merge: fold {fold} is in '{models[fold].parent}' and in '{source}'")
                models[fold] = path
    if not models:
        raise UserError(f"--merge: no finished fold in {', '.join(map(str, sources))}")
    return dict(sorted(models.items()))
