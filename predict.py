"""Predict the age group of every face in your own photographs.

    python predict.py MODEL [MODEL ...] PHOTO_OR_FOLDER ... [--csv FILE] [--json FILE] [--draw DIR]

Several models are fused. From Python: `from predict import AgePredictor; AgePredictor("fold_0.pt")("photo.jpg")`.
"""

import contextlib

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.config import FIELDS
from utils.errors import UserError
from utils.files import check_output
from utils.options import Parser, add_options

MODEL_SUFFIX = ".pt"
MACHINE = "device precision threads".split()


def read_command_line():
    parser = Parser(
        prog="predict.py",
        usage="predict.py MODEL [MODEL ...] PHOTO_OR_FOLDER [PHOTO_OR_FOLDER ...] [options]",
        description="Predict the age group of every face in photographs.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="MODEL, PHOTO_OR_FOLDER",
        help="model files, which end in .pt; photographs (JPEG, PNG, WebP); folders, which are searched for them",
    )  # fmt: skip
    parser.add_argument("--csv", metavar="FILE", help="write one row per face: box, group, probabilities")
    parser.add_argument("--json", metavar="FILE", help="write the same as a list of objects")
    parser.add_argument("--draw", metavar="DIR", help="write copies of the photographs with boxes into this folder")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="groups to print per face (default: 3)")
    detection = parser.add_argument_group("detection")
    detection.add_argument("--no-detect", action="store_true", help="each image is one face, cropped already")
    detection.add_argument(
        "--threshold", type=float, default=70, metavar="X", help="least confidence of the detector, 0-100 (default: 70)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--batch-size", type=int, default=64, metavar="N", help="faces per batch (default: 64)")
    add_options(machine, [FIELDS[name] for name in MACHINE])
    options = parser.parse_intermixed_args()  # photographs may also follow an option
    check_options(options)
    return options


def check_options(options):
    """Split the inputs into models and photographs and check what can be checked without torch. Raises UserError."""
    options.models = [path for path in options.inputs if path.lower().endswith(MODEL_SUFFIX)]
    places = [path for path in options.inputs if path not in options.models]
    if not options.models:
        raise UserError(f"no model file among {', '.join(options.inputs)}; expected one that ends in {MODEL_SUFFIX}")
    if not places:
        raise UserError(f"no photograph or folder among {', '.join(options.inputs)}")
    if repeated := {path for path in options.models if options.models.count(path) > 1}:
        raise UserError(f"'{min(repeated)}' is named twice: name each model once")
    if not 0 <= options.threshold <= 100:
        raise UserError(f"--threshold {options.threshold:g}: expected a number from 0 to 100")
    for name in ("top", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected a number from 1")
    for name, is_ours in (("csv", is_csv), ("json", is_json)):
        if (path := getattr(options, name)) is not None:
            check_output(path, is_ours, f"a list of predict.py --{name}")
    options.photographs = find_photographs(places)
    if options.draw is not None:
        check_drawings(options.draw, options.photographs)
    if not options.no_detect:
        require_detector()


def check_arguments():
    read_command_line()


# None of these imports torch.
from data.photographs import find_photographs
from evaluation.detection import require_detector
from report.photographs import NOTICE, check_drawings, csv_writer, drawing_writer, is_csv, is_json, json_writer

if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds: --help and typing errors do not wait

from tqdm import tqdm

from evaluation.predictor import AgePredictor, Face, Photograph

__all__ = ["AgePredictor", "Face", "Photograph"]


class OutputError(Exception):
    """The standard output is closed or full; it is the cause. As an OSError it would be blamed on another file."""


def main():
    options = read_command_line()
    predictor = AgePredictor(
        *options.models,
        detect=not options.no_detect,
        threshold=options.threshold / 100,
        batch_size=options.batch_size,
        **{name: getattr(options, name) for name in MACHINE if name in options},
    )
    try:
        for note in predictor.notes:
            write_line(f"note: {printable(note)}")
        failed = predict_all(predictor, options)
    except OutputError as error:
        raise error.__cause__ from None
    return 1 if failed else 0


def predict_all(predictor, options):
    """Predict, print and write every photograph; returns how many could not be read."""
    failed, names, paths = 0, predictor.class_names, options.photographs
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(csv_writer(options.csv, names)),
            stack.enter_context(json_writer(options.json, names)),
            stack.enter_context(drawing_writer(options.draw, paths)),
        ]
        bar = stack.enter_context(tqdm(total=len(paths), unit="photo", disable=None if len(paths) > 1 else True))
        for photograph in predictor.predict(paths):
            for line in lines_of(photograph, options.top):
                write_line(line)
            for write in writers:
                write(photograph)
            failed += photograph.error is not None
            bar.update()
    return failed


def lines_of(photograph, top):
    """What is printed for a photograph: a line per face with its `top` most probable groups."""
    name = printable(photograph.path)
    if photograph.error is not None:
        return [f"{name}  cannot be read: {printable(photograph.error)}"]
    if not photograph.faces:
        return [f"{name}  no face found"]
    count = len(photograph.faces)
    return [
        f"{name}  face {number} of {count}  {describe(face, top)}" for number, face in enumerate(photograph.faces, 1)
    ]


def describe(face, top):
    """25-32  81 %  (15-20 9 %, 38-43 7 %)"""
    ranked = sorted(face.probabilities.items(), key=lambda item: -item[1])
    others = [f"{printable(group)} {percent(value)}" for group, value in ranked if group != face.group][: top - 1]
    return f"{printable(face.group)}  {percent(face.confidence)}" + (f"  ({', '.join(others)})" if others else "")


def percent(share):
    return f"{100 * share:.0f} %"


def write_line(line):
    try:
        tqdm.write(line)  # above the progress bar, where there is one
    except OSError as error:
        raise OutputError from error


if __name__ == "__main__":
    run_script(main)
