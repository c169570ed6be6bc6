"""Evaluate saved models on the fold that each of them held out.

    python test_code.py runs/NAME/fold_0.pt [more.pt ...] [--show-errors]

The model file says which network, fold, label policy and image size it was trained with, and where the data was;
--label-dir or --label-file, and --image-dir, say where it is now.
"""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.cli import printable, python_command, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from evaluation.decode import DECODERS
from evaluation.metrics import METRICS
from training.config import FIELDS
from utils.errors import UserError
from utils.files import check_output
from utils.foreign import read_json
from utils.options import Parser, add_options, default_of

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic"}
SETTINGS = "label_dir label_file image_dir allow_missing batch_size".split()
MACHINE = "device precision threads".split()
PAGE = "index.html"  # in --error-dir
PIXELS_PER_BATCH = 512 * 224**2  # the most that a model file may ask for; --batch-size may ask for more


def read_command_line():
    parser = Parser(prog="test_code.py", description="Evaluate models of main.py on the fold that each held out.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--fold", type=int, metavar="N", help="another fold than the one held out (of other data)")
    split.add_argument("--set", choices=("test", "val"), default="test", help="held-out fold or validation faces")
    parser.add_argument("--decode", choices=tuple(DECODERS), help="decoder (default: from the model file)")
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN",
        help="metrics by subgroup: label, gender, yaw, score, album_size, image_size, brightness, sharpness, or age and"
        " other columns of a CSV file",
    )  # fmt: skip
    parser.add_argument("--show-errors", action="store_true", help="write the misclassified images")
    parser.add_argument("--error-dir", default="error", metavar="DIR", help="folder for them (default: error)")
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    fusion = parser.add_argument_group("fusion (models of the same fold are always fused)")
    fusion.add_argument("--views", nargs="*", choices=("flip",), default=[], help="views of each face to fuse")
    fusion.add_argument("--crops", type=int, choices=(1, 10), default=1, help="crops of each face to fuse")
    fusion.add_argument("--second-image-dir", metavar="DIR", help="folder of other images of the same faces to fuse")
    fusion.add_argument("--fuse", action="store_true", help="fail unless all models can be fused")
    data = parser.add_argument_group("data and machine")
    add_options(data, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    add_options(data, [FIELDS[name] for name in ("cache_dir", *MACHINE)])
    parser.set_defaults(cache_dir=default_of(FIELDS["cache_dir"]))
    options = parser.parse_args()
    if options.json is not None:
        check_output(options.json, is_report, "a report of test_code.py --json")
    return options


def is_report(path):
    reports = read_json(path, kind=list)
    return all(isinstance(report, dict) and report.keys() & {"model", "fusion"} for report in reports)


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds: --help and typing errors do not wait

import numpy as np
import pandas as pd
import torch

from data import Faces, load_data, open_cache
from data.dataset import FaceDataset
from data.duplicates import signatures_of
from evaluation.calibration import calibration_results
from evaluation.evaluate import evaluate, measure_latency
from evaluation.fusion import fuse
from evaluation.leaks import refuse_training_people, refuse_training_pictures
from evaluation.predictions import Predictions
from evaluation.subgroups import check_columns
from evaluation.views import VIEWS, enlarged_size, second_paths, ten_crop_probabilities
from models.checkpoint import load_model
from models.network import Network, parameter_count, size_mib
from models.plain import digest
from report.content import subgroup_table
from report.errors import check_error_folder, find_errors, rank, write_errors
from report.page import check_report, write_report
from report.study import Answers, study_of_models
from report.tables import (
    calibration_line,
    confusion_table,
    constant_line,
    models_table,
    per_class_table,
    subgroups_table,
    warnings_of,
)
from training.config import Config, recorded_config
from training.results import class_results
from utils.device import Compute, keep_large_buffers
from utils.files import write_json


@dataclass
class Task:
    """A model and the faces to evaluate it on."""

    path: str
    model: Network
    config: Config
    split: str  # in words
    faces: Faces
    twins: np.ndarray  # (N,) which of the faces show a picture that the model was trained on
    all_paths: pd.Series  # of the whole data set, which the cache holds
    images: np.ndarray  # the cache
    second_paths: pd.Series | None  # of the same faces in --second-image-dir

    @property
    def temperature(self):
        """That of the model file, which was fitted on faces of other folds; so that it says nothing of these."""
        return None if self.split.startswith("the validation set") else self.model.record.get("temperature")


@dataclass
class EvaluatedModel:
    """A model's report and Predictions, and the probabilities (N, K) of each view."""

    report: dict
    predictions: Predictions
    views: dict


def main():
    options = read_command_line()
    if options.show_errors:
        check_error_folder(options.error_dir)
        check_report(Path(options.error_dir) / PAGE)
    keep_large_buffers()
    # Every model file, folder and fold is checked before the first model is evaluated.
    tasks = [prepare(path, options) for path in options.models]
    refuse_repeats(tasks)
    groups = fusion_groups(tasks, options.fuse)
    machine = {name: getattr(options, name) for name in MACHINE if name in options}
    compute = Compute.choose(**machine)
    evaluated = [evaluate_model(task, options, compute) for task in tasks]
    reports = [one.report for one in evaluated]
    if len(evaluated) > 1:
        print(f"\n{models_table(reports)}")
    fusions = [fuse_group([evaluated[k] for k in group]) for group in groups]
    fusions = [fusion for fusion in fusions if fusion]
    for fusion in fusions:
        print_fusion(fusion)
    if options.by or options.show_errors:
        command = f"{python_command()} {shlex.join(sys.argv)}"
        study = study_of_models(list(map(make_answers, tasks, evaluated)), command)
    if options.by:
        print(f"\n{subgroups_table(subgroup_table(study, options.by))}")
    if options.show_errors:
        show_errors(options.error_dir, tasks, evaluated, study)
    if options.json:
        write_json(options.json, reports + [{"fusion": fusion} for fusion in fusions])


def make_answers(task, one):
    """What a page and a table of subgroups are made from."""
    return Answers(task.path, one.predictions, task.model, task.images, task.config.image_dir, task.temperature)


def show_errors(folder, tasks, evaluated, study):
    """Write the misclassified images, their list and a page that shows them. Raises UserError."""
    found = [find_errors(one.predictions, task.images) for one, task in zip(evaluated, tasks, strict=True)]
    errors = rank(pd.concat(found))
    write_errors(folder, errors, tasks[0].model.class_names)
    write_report(Path(folder) / PAGE, study)
    print(f"\nwrote {len(errors):,} misclassified images and errors.csv to {printable(folder)}/; see {PAGE} there")


def prepare(path, options):
    """Load a model and choose its faces. Raises UserError."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"'{path}' is an image; test_code.py evaluates model files such as runs/adience/fold_0.pt")
    if str(path).endswith(".progress.pt"):
        raise UserError(f"'{path}' is the progress of an unfinished fold; main.py --resume finishes it")
    model = load_model(path)
    # Where to write and how much memory to take is the command line's to say, not the file's.
    given = {name: getattr(options, name) for name in (*SETTINGS, *MACHINE) if name in options}
    config = recorded_config(path, model.record, {"cache_dir": options.cache_dir, "threads": 0, **given})
    if "batch_size" not in given:
        fitting = max(2, PIXELS_PER_BATCH // model.image_size**2)
        config = dataclasses.replace(config, batch_size=min(config.batch_size, fitting))
    faces, _ = load_data(**config.data_source)
    if faces.class_names != model.class_names:
        theirs, ours = ", ".join(model.class_names), ", ".join(faces.class_names)
        raise UserError(f"'{path}' knows the classes {theirs}; these labels have {ours}")
    check_columns(options.by, faces.table)
    chosen, split = choose_faces(path, model.record, faces, options)
    refuse_training_people(path, model.record, chosen, split)
    images = open_cache(config.image_dir, faces.table.path, model.image_size, config.cache_dir)
    signatures = signatures_of(images[chosen.table.index])
    twins = refuse_training_pictures(path, model.record, chosen, split, signatures)
    second = options.second_image_dir and second_paths(options.second_image_dir, faces.table.path, config)
    return Task(str(path), model, config, split, chosen, twins, faces.table.path, images, second)


def choose_faces(path, record, faces, options):
    """The Faces to evaluate, and what they are, in words. Raises UserError."""
    if options.set == "val":
        chosen = faces.where(faces.table.album.isin(record["val_albums"]) & (faces.table.fold != record["fold"]))
        if not record["val_albums"]:
            raise UserError(f"--set val: '{path}' held no faces out for tuning; train it with --val-fraction")
        if not len(chosen):
            raise UserError(f"--set val: none of the albums that '{path}' held out is in these label files")
        return chosen, f"the validation set, {chosen.table.album.nunique()} albums of the training folds"
    fold = record["fold"] if options.fold is None else options.fold
    chosen = faces.where(faces.table.fold == fold)
    if not len(chosen):
        asked = f"--fold {fold}" if options.fold is not None else f"'{path}' held out fold {fold}"
        present = " ".join(map(str, sorted(set(faces.table.fold))))
        raise UserError(f"{asked}: these label files have the folds {present}")
    return chosen, f"fold {fold}"


def evaluate_model(task, options, compute):
    """Evaluate one model and print its report."""
    config, model = task.config, task.model.to(compute.device, memory_format=torch.channels_last)
    dataset = FaceDataset(task.images, task.faces)
    decoder = options.decode or model.record["decoder"]
    predictions = evaluate(model, dataset, config.batch_size, compute, decoder)
    report = make_report(task, predictions, measure_latency(model, dataset, config.batch_size, compute), compute)
    print_report(report, predictions)
    views = {"plain": predictions.probabilities}
    for name in options.views:
        views[name] = evaluate(model, dataset, config.batch_size, compute, view=VIEWS[name]).probabilities
    if options.crops == 10:
        crops = FaceDataset(
            open_cache(config.image_dir, task.all_paths, enlarged_size(model.image_size), config.cache_dir), task.faces
        )
        views["10 crops"] = ten_crop_probabilities(model, crops, config.batch_size, compute)
    if options.second_image_dir:
        second = open_cache(options.second_image_dir, task.second_paths, model.image_size, config.cache_dir)
        dataset = FaceDataset(second, task.faces)
        views[options.second_image_dir] = evaluate(model, dataset, config.batch_size, compute).probabilities
    return EvaluatedModel(report, predictions, views)


def make_report(task, predictions, latency, compute):
    """What --json writes for a model: plain values, fractions, seconds and counts."""
    return {
        "model": task.path,
        "held_out_fold": task.model.record["fold"],
        "evaluated": task.split,
        "parameters": parameter_count(task.model),
        "size_mib": size_mib(task.model),
        "faces": len(predictions.faces),
        **predictions.metrics(),
        **calibration_results(predictions.labels, predictions.predicted, predictions.probabilities, task.temperature),
        "twins": int(task.twins.sum()),
        "without_twins": predictions.where(~task.twins).metrics() if not task.twins.all() else None,
        "decoder": predictions.decoder,
        "classes": class_results(task.model.class_names, predictions.confusion),
        "confusion": predictions.confusion.tolist(),
        "seconds": predictions.seconds,
        "latency": latency,
        "device": str(compute),
    }


def print_report(report, predictions):
    one, batch = report["latency"]["one"], report["latency"]["batch"]
    class_names = predictions.faces.class_names
    print(f"\n{printable(report['model'])}: {report['faces']:,} faces, {report['evaluated']}, on {report['device']}")
    print(f"our model has size={report['size_mib']:.2f} MiB")
    milliseconds = 1000 * report["seconds"] / report["faces"]
    print(f"inference time: {report['seconds']:.2f} s ({milliseconds:.2f} ms per image)")
    print(f"eval accuracy: {report['top1']:.2%}")
    print(f"one-off accuracy: {report['one_off']:.2%}")
    print(f"mean absolute error: {report['mae']:.3f} classes")
    print(calibration_line(*(report[name] for name in ("ece", "ece_calibrated", "temperature"))))
    if report["twins"] and report["without_twins"]:
        values = (f"{METRICS[name].title} {METRICS[name].show(v)}" for name, v in report["without_twins"].items())
        print(f"without the {report['twins']:,} faces whose picture is in a training fold: {', '.join(values)}")
    print(
        f"latency: {1000 * one['seconds']:.2f} ms for one image, {1000 * batch['seconds']:.2f} ms for a batch of"
        f" {batch['images']} ({batch['images'] / batch['seconds']:,.0f} images/s), medians"
    )
    print("\n".join([constant_line(predictions.labels, class_names), *warnings_of(predictions)]))
    print(f"\n{per_class_table(predictions.confusion, class_names)}")
    print(f"\n{confusion_table(predictions.confusion, class_names)}")


def fusion_groups(tasks, required):
    """Positions of the models to fuse: all where they have the same faces, otherwise each with its own views.

    Raises:
        UserError: all are `required` to fuse, but they cannot.
    """
    first = tasks[0]
    if all(same_faces(task, first) for task in tasks):
        return [range(len(tasks))]
    if required:
        folds = ", ".join(sorted({task.split for task in tasks}))
        raise UserError(f"--fuse: these models are evaluated on {folds}; only models of the same faces fuse")
    return [[position] for position in range(len(tasks))]


def same_faces(task, other):
    """Whether two tasks evaluate the same faces, labels and image files."""
    folders = {Path(each.config.image_dir).resolve() for each in (task, other)}
    table, others = (each.faces.table[["path", "label"]] for each in (task, other))
    return task.split == other.split and len(folders) == 1 and table.equals(others)


def refuse_repeats(tasks):
    """A model that counts twice would make means and fusions of one. Raises UserError."""
    paths = {}
    for task in tasks:
        weights = digest(task.model.state_dict())
        if weights in paths:
            raise UserError(f"'{task.path}' holds the weights of '{paths[weights]}': name each model once")
        paths[weights] = task.path


def fuse_group(group):
    """Fuse all views of a group of EvaluatedModels, as plain values; None where there is one view only."""
    views = [probabilities for one in group for probabilities in one.views.values()]
    if len(views) == 1:
        return None
    fused, gains = fuse([one.predictions for one in group], views)
    return {
        "models": [one.report["model"] for one in group],
        "views": list(group[0].views),
        **fused.metrics(),
        "decoder": fused.decoder,
        "gains": gains,
    }


def print_fusion(fusion):
    paths = fusion["models"]
    models = f"{len(paths)} models" if len(paths) > 1 else printable(paths[0])
    views = printable(", ".join(fusion["views"]))
    print(f"\nfusion of {models}, views: {views}; gains over the single plain models (95 %):")
    for name, metric in METRICS.items():
        gain, low, high = map(metric.show_difference, fusion["gains"][name])
        print(f"  {metric.title:8} {metric.show(fusion[name]):>8}  {gain} ({low} to {high})")


if __name__ == "__main__":
    run_script(main)
