"""Evaluate saved models on the fold that each of them held out.

    python test_code.py runs/NAME/fold_0.pt [more.pt ...] [--show-errors]

The model file says which network, fold, label policy and image size it was trained with, and where the data was;
--label-dir or --label-file, and --image-dir, say where it is now.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

import utils.startup  # noqa: F401
from data.dataset import FaceDataset
from data.duplicates import both_signatures
from data.load import load_data, open_cache
from evaluation.evaluate import VIEWS, evaluate, measure_latency
from evaluation.evaluation import Evaluation, pool, sum_within
from evaluation.fusion import fuse
from evaluation.label_shift import class_weights, recorded_answer, weighted
from evaluation.leaks import are_among, origin_note, people_seen, refuse_seen, seen_faces
from evaluation.metrics import METRICS
from evaluation.subgroups import check_columns
from evaluation.threshold import check_ages, probability_of
from models.ages import MASS
from models.checkpoint import NO_FOLD, load_model, model_files
from models.decode import DECODERS
from models.network import parameter_count, size_mib
from photos.crop import cut_largest_faces
from photos.framing import find_framing
from report import data, errors, page, tables
from training.config import FIELDS, recorded_config
from training.results import class_results
from utils.cli import printable, python_command, run_script
from utils.device import Runtime, keep_large_buffers
from utils.errors import UserError
from utils.files import check_output, refuse_overlaps, write_json
from utils.options import Parser, add_options, default_of
from utils.reading import exists, read_json
from utils.serialization import digest

SETTINGS = "label_dir label_file image_dir age_groups allow_missing skip_damaged batch_size".split()
MACHINE = "device precision threads".split()
FRAMED = 30  # images in which the detector searches for the framing
PIXELS_PER_BATCH = 512 * 224**2  # the most that a model file may ask for; --batch-size may ask for more


def main():
    options = read_command_line()
    if options.show_errors:
        errors.check_error_folder(options.error_dir)
        page.check_report(Path(options.error_dir) / errors.PAGE)
    keep_large_buffers()
    # Every model file, folder and fold is checked before the first model is evaluated.
    prepared = [prepare(path, options) for path in options.models]
    refuse_repeats(prepared)
    refuse_mixed_classes([evaluation for evaluation, _ in prepared])
    for age in options.over:
        check_ages(np.concatenate([evaluation.faces.ages for evaluation, _ in prepared]), age)
    groups = fusion_groups(prepared, options.fuse)
    runtime = Runtime.setup(**{name: getattr(options, name) for name in MACHINE if name in options})
    evaluations, views, reports = zip(*(run_model(*pair, options, runtime) for pair in prepared), strict=True)
    if len(evaluations) > 1:
        print(f"\n{tables.models_table(reports)}")
    fusions = [fuse_group([evaluations[k] for k in group], [views[k] for k in group]) for group in groups]
    fusions = [fusion for fusion in fusions if fusion]
    for fusion in fusions:
        print_fusion(fusion)
    if fusions and (options.over or options.by or options.show_errors):
        print("\nnote: what follows is of each model alone, without fusion")
    shown = data.models_data(evaluations, python_command(*sys.argv))
    for age in options.over:
        print(f"\n{tables.threshold_table(pool(evaluations), age)}")
    if options.by:
        print(f"\n{tables.subgroups_table(data.subgroup_table(shown, options.by))}")
    if options.show_errors:
        show_errors(options.error_dir, evaluations, shown)
    if options.json:
        write_json(options.json, [*reports, *({"fusion": fusion} for fusion in fusions)])


def read_command_line():
    parser = Parser(prog="test_code.py", description="Evaluate models of main.py on the fold that each held out.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files such as fold_0.pt, or run directories")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--fold", type=int, metavar="N", help="fold to evaluate, if not the one held out")
    parser.add_argument("--leave-out-seen", action="store_true", help="leave out faces that the model was trained on")
    parser.add_argument(
        "--adapt", action="store_true", help="correct the answers for the distribution of the ages here"
    )
    parser.add_argument("--detect", action="store_true", help="find the face in whole photographs, as predict.py does")
    split.add_argument("--set", choices=("test", "val"), default="test", help="held-out fold or validation faces")
    parser.add_argument("--decode", choices=tuple(DECODERS), help="decoder (default: from the model file)")
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN",
        help="metrics by subgroup: label, gender, yaw, score, album_size, image_size, brightness, sharpness, or age and"
        " other columns of a CSV file",
    )  # fmt: skip
    parser.add_argument(
        "--over", nargs="+", type=int, default=[], metavar="AGE",
        help="how many younger faces pass for this age or older, and how many older ones do not",
    )  # fmt: skip
    parser.add_argument("--show-errors", action="store_true", help="write the misclassified images")
    parser.add_argument("--error-dir", default="error", metavar="DIR", help="folder for them (default: error)")
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    fusion = parser.add_argument_group("fusion (automatic where all models have the same faces)")
    fusion.add_argument("--views", nargs="*", choices=tuple(VIEWS), default=[], help="views of each face to fuse")
    fusion.add_argument("--fuse", action="store_true", help="fail unless all models can be fused")
    source = parser.add_argument_group("data and machine")
    add_options(source, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    add_options(source, [FIELDS[name] for name in ("cache_dir", *MACHINE)])
    parser.set_defaults(cache_dir=default_of(FIELDS["cache_dir"]))
    options = parser.parse_args()
    options.models = model_files(options.models)
    refuse_overlaps({"--json": options.json, "--error-dir": options.error_dir if options.show_errors else None})
    check_output(options.json, is_report, "a report of test_code.py --json")
    return options


def is_report(path):
    reports = read_json(path, kind=list)
    return all(isinstance(report, dict) and report.keys() & {"model", "fusion"} for report in reports)


def prepare(path, options):
    """Load a model and choose its faces.

    Returns:
        (Evaluation without probabilities, Config).

    Raises:
        UserError: the model was trained on some of these faces, or a file is missing or damaged.
    """
    if str(path).endswith(".progress.pt"):
        raise UserError(f"'{path}' is the progress of an unfinished fold; main.py --resume finishes it")
    model = load_model(path)
    # The command line decides where to write and how much memory to take, not the file.
    given = {name: getattr(options, name) for name in (*SETTINGS, *MACHINE) if name in options}
    config = recorded_config(path, model.record, {"cache_dir": options.cache_dir, "threads": 0, **given})
    if "batch_size" not in given:
        fitting = max(2, PIXELS_PER_BATCH // model.image_size**2)
        config = dataclasses.replace(config, batch_size=min(config.batch_size, fitting))
    source = config.label_file or config.label_dir
    if not given.keys() & {"label_file", "label_dir"} and not exists(source):
        advice = "--label-file, or --label-dir, and --image-dir name the faces"
        raise UserError(f"'{path}' was trained on the faces of '{source}', which is not here: {advice}")
    faces, _ = load_data(**config.data_source)
    positions = {*model.classes.within(faces.classes).tolist()}
    if faces.classes.names != model.classes.names and not positions >= {*range(len(faces.classes))}:
        theirs, ours = ", ".join(model.classes.names), ", ".join(faces.classes.names)
        raise UserError(f"'{path}' knows the classes {theirs}; these labels have {ours}")
    check_columns(options.by, faces.table)
    chosen, split = choose_faces(path, model.record, faces, options)
    if options.adapt:
        recorded_answer(path, model.record)  # refuses a file without one now
    for age in options.over:
        check_ages(chosen.ages, age, least=0)
        probability_of(np.zeros((1, len(faces.classes))), faces.classes, age)  # refuses what no class begins with
    check = leave_out_seen if options.leave_out_seen else refuse_seen
    if not options.leave_out_seen:
        refuse_seen(path, model.record, chosen, split)  # by people, before any image is decoded
    cache = open_cache(config.image_dir, faces.table.path, model.image_size, config.cache_dir, config.skip_damaged)
    chosen = cache.readable(chosen)
    chosen = check(path, model.record, chosen, split, cache.pictures.signatures[:, chosen.table.index])
    images = cache.images
    if options.detect:
        chosen, images = cut_faces(model, chosen, config.image_dir)
        chosen = check(path, model.record, chosen, split, both_signatures(images))
    else:
        print_framing_note(model, chosen, config.image_dir)
    evaluation = Evaluation(
        chosen,
        decoder=options.decode or model.record["decoder"],
        name=str(path),
        split=split,
        # It was fitted on the validation faces.
        temperature=None if options.set == "val" else model.record.get("temperature"),
        mass=MASS if options.set == "val" else model.record.get("mass", MASS),
        model=model,
        images=images,
        image_dir=config.image_dir,
    )
    return evaluation, config


def cut_faces(model, faces, image_dir):
    """Find the largest face in whole photographs and cut it out as the model's training images are framed.

    Returns:
        (Faces that are found, whose index is their row; uint8 (N, 3, S, S)).

    Raises:
        UserError: no face is found at all.
    """
    crops = cut_largest_faces(model, [Path(image_dir) / path for path in faces.table.path])
    found = [crop is not None for crop in crops]
    if not all(found):
        print(f"note: in {found.count(False):,} of {len(faces):,} photographs no face is found; they are left out")
    if not any(found):
        raise UserError(f"--detect: no photograph in '{image_dir}' shows a face")
    table = faces.table[found].reset_index(drop=True)
    return dataclasses.replace(faces, table=table), np.stack([crop for crop in crops if crop is not None])


def print_framing_note(model, faces, image_dir):
    """Print a note where these images frame the face differently from the training images."""
    framing, _ = find_framing([Path(image_dir) / path for path in faces.table.path], limit=FRAMED)
    usual = model.record.get("framing")
    if framing and usual and not (4 / 5 < framing[2] / usual[2] < 5 / 4 and abs(framing[1] - usual[1]) < 0.1):
        places = (f"{width:.0%} of the width at {y:.0%} of the height" for _, y, width, *_ in (framing, usual))
        print("note: faces take {} of these images, and {} of the training images: use --detect".format(*places))


def leave_out_seen(path, record, faces, split, signatures):
    """The Faces that the model was not trained on. Raises UserError without any."""
    seen = seen_faces(path, record, faces, signatures)
    known = seen["people"] | seen["pictures"]
    if known.all():
        raise UserError(f"--leave-out-seen: '{path}' was trained on all {len(faces):,} faces of {split}")
    if known.any():
        print(f"note: {known.sum():,} of {len(faces):,} faces of {split} are left out: '{path}' was trained on them")
    return faces.where(~known)


def choose_faces(path, record, faces, options):
    """The Faces to evaluate, and their name. Raises UserError."""
    if options.set == "val":
        chosen = faces.where(faces.table.album.isin(record["val_albums"]) & (faces.table.fold != record["fold"]))
        if not record["val_albums"]:
            raise UserError(f"--set val: '{path}' held no faces out for tuning; train it with --val-fraction")
        if not len(chosen):
            raise UserError(f"--set val: none of the albums that '{path}' held out is in these label files")
        return chosen, f"the validation set, {chosen.table.album.nunique()} albums of the training folds"
    source = next((getattr(options, name) for name in ("label_file", "label_dir") if name in options), None)
    # Another data set, perhaps without folds.
    other = source and not are_among(faces.people, people_seen(record)).any()
    if other and options.fold is None and (faces.folds_drawn or faces.table.fold.nunique() == 1):
        return faces, f"all faces of {source}"
    fold = record["fold"] if options.fold is None else options.fold
    if fold == NO_FOLD:
        raise UserError(f"'{path}' was trained on all faces; --label-file names other ones")
    chosen = faces.where(faces.table.fold == fold)
    if not len(chosen):
        asked = f"--fold {fold}" if options.fold is not None else f"'{path}' held out fold {fold}"
        present = " ".join(map(str, sorted(set(faces.table.fold))))
        raise UserError(f"{asked}: these label files have the folds {present}")
    return chosen, f"fold {fold}"


def refuse_repeats(prepared):
    """Refuse a model that is named twice: it would count twice in means and fusions. Raises UserError."""
    names = {}
    for evaluation, _ in prepared:
        weights = digest(evaluation.model.state_dict())
        if weights in names:
            raise UserError(f"'{evaluation.name}' holds the weights of '{names[weights]}': name each model once")
        names[weights] = evaluation.name


def refuse_mixed_classes(evaluations):
    """Refuse models that answer in other classes than the first: nothing of them compares. Raises UserError."""
    first = evaluations[0]
    for other in evaluations:
        if other.classes.names != first.classes.names:
            ours, theirs = (printable(", ".join(each.classes.names), 80) for each in (first, other))
            problem = f"'{first.name}' is evaluated in the classes {ours}, '{other.name}' in {theirs}"
            raise UserError(f"{problem}: give --label-file and --age-groups that suit both, or one model at a time")


def fusion_groups(prepared, required):
    """Positions of the models to fuse: all if they have the same faces, otherwise each with its own views.

    Raises:
        UserError: all are `required` to fuse, but they cannot.
    """
    evaluations = [evaluation for evaluation, _ in prepared]
    if all(same_faces(evaluation, evaluations[0]) for evaluation in evaluations):
        return [range(len(evaluations))]
    if required:
        splits = ", ".join(sorted({evaluation.split for evaluation in evaluations}))
        raise UserError(f"--fuse: these models are evaluated on {splits}; only models of the same faces fuse")
    return [[position] for position in range(len(evaluations))]


def same_faces(first, second):
    """Whether two Evaluations have the same faces, labels, classes and image files."""
    folders = {Path(evaluation.image_dir).resolve() for evaluation in (first, second)}
    tables = [evaluation.faces.table[["path", "label"]] for evaluation in (first, second)]
    same = first.split == second.split and first.classes.names == second.classes.names
    return same and len(folders) == 1 and tables[0].equals(tables[1])


def run_model(prepared, config, options, runtime):
    """Evaluate one model and print its report.

    Args:
        prepared: the Evaluation without probabilities.
        config: the Config of its data.

    Returns:
        (Evaluation, {view: probabilities (N, K)}, the report as plain values).
    """
    model = runtime.place(prepared.model)
    dataset = FaceDataset(prepared.images, prepared.faces)
    found = evaluate(model, dataset, config.batch_size, runtime)
    evaluation = dataclasses.replace(prepared, probabilities=found.probabilities, seconds=found.seconds)
    if options.adapt:
        evaluation = adapted(evaluation)
    report = make_report(evaluation, measure_latency(model, dataset, config.batch_size, runtime), runtime)
    report["labels"] = config.label_file or config.label_dir
    print_report(report, evaluation)
    views = {"plain": evaluation.probabilities}
    for name in options.views:
        seen = evaluate(model, dataset, config.batch_size, runtime, view=VIEWS[name])
        views[name] = (adapted(seen) if options.adapt else seen).probabilities
    return evaluation, views, report


def adapted(evaluation):
    """The Evaluation with answers corrected for how its ages are distributed, see evaluation/label_shift.py."""
    model, classes = evaluation.model, evaluation.classes
    usual = np.array([model.record["usual_answer"]])
    if model.classes.names != classes.names:
        usual = sum_within(usual, model.classes.within(classes), len(classes))
    weights = class_weights(evaluation.probabilities, usual[0])
    probabilities = weighted(evaluation.probabilities, weights).astype(np.float32)
    split = f"{evaluation.split}, adapted to the distribution of its ages"
    return dataclasses.replace(evaluation, probabilities=probabilities, predicted=None, split=split)


def make_report(evaluation, latency, runtime):
    """The report that --json writes of a model: plain values, fractions, seconds and counts."""
    model, duplicates = evaluation.model, evaluation.duplicates
    return {
        "model": evaluation.name,
        "held_out_fold": model.record["fold"],
        "evaluated": evaluation.split,
        "unknown_origin": model.record.get("unknown_origin", []),
        "parameters": parameter_count(model),
        "size_mib": size_mib(model),
        "faces": len(evaluation),
        **evaluation.metrics(),
        **evaluation.calibration(),
        "duplicates": int(duplicates.sum()),
        "without_duplicates": evaluation.where(~duplicates).metrics() if not duplicates.all() else None,
        "decoder": evaluation.decoder,
        "classes": class_results(evaluation),
        "confusion": evaluation.confusion.tolist(),
        "seconds": evaluation.seconds,
        "latency": latency,
        "device": str(runtime),
    }


def print_report(report, evaluation):
    single, batch = report["latency"]["one"], report["latency"]["batch"]
    print(f"\n{printable(report['model'])}: {report['faces']:,} faces, {report['evaluated']}, on {report['device']}")
    print(f"our model has size={report['size_mib']:.2f} MiB")
    milliseconds = 1000 * report["seconds"] / report["faces"]
    print(f"inference time: {report['seconds']:.2f} s ({milliseconds:.2f} ms per image)")
    print(f"eval accuracy: {report['top1']:.2%}")
    print(f"one-off accuracy: {report['one_off']:.2%}")
    print(f"mean absolute error: {report['mae']:.3f} classes")
    for name, metric in METRICS.items():
        if name not in ("top1", "one_off", "mae") and name in report:
            print(f"{metric.title}: {metric.show(report[name])}")
    print(tables.calibration_line(report))
    if report["duplicates"] and report["without_duplicates"]:
        print(tables.duplicates_line(report["duplicates"], report["without_duplicates"]))
    print(
        f"latency: {1000 * single['seconds']:.2f} ms for one image, {1000 * batch['seconds']:.2f} ms for a batch of"
        f" {batch['images']} ({batch['images'] / batch['seconds']:,.0f} images/s), medians"
    )
    if note := origin_note(evaluation.model.record):
        print(f"note: {printable(note)}")
    print("\n".join([tables.constant_line(evaluation), *tables.warnings_of(evaluation)]))
    print(f"\n{tables.per_class_table(evaluation)}")
    print(f"\n{tables.confusion_table(evaluation)}")


def fuse_group(evaluations, views):
    """Fuse all views of models of the same faces, as plain values; None for a single view."""
    probabilities = [values for of_model in views for values in of_model.values()]
    if len(probabilities) == 1:
        return None
    fused, gains = fuse(evaluations, probabilities)
    return {
        "models": [evaluation.name for evaluation in evaluations],
        "views": list(views[0]),
        **fused.metrics(),
        "decoder": fused.decoder,
        "gains": gains,
    }


def print_fusion(fusion):
    paths = fusion["models"]
    models = f"{len(paths)} models" if len(paths) > 1 else printable(paths[0])
    views = printable(", ".join(fusion["views"]))
    print(f"\nfusion of {models}, views: {views}; changes against the single plain models (95 %):")
    for name, metric in ((name, METRICS[name]) for name in fusion["gains"]):
        gain, low, high = map(metric.show_difference, fusion["gains"][name])
        print(f"  {metric.title:8} {metric.show(fusion[name]):>8}  {gain} ({low} to {high})")


def show_errors(folder, evaluations, shown):
    """Write the misclassified images, their list and a page that shows them. Raises UserError."""
    found, classes = errors.find_errors(evaluations), evaluations[0].classes
    errors.write_errors(folder, found, lambda path: page.write_report(path, shown))
    wrong = "misclassified images" if classes.coarse() is classes else "images of a wrong decade"
    print(f"\nwrote {len(found):,} {wrong} and errors.csv to {printable(folder)}/; see {errors.PAGE} there")


if __name__ == "__main__":
    run_script(main)
