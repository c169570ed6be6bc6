"""Predict the age group of every face in your own photographs.

    python predict.py [MODEL ...] PHOTO_OR_FOLDER ... [--csv FILE] [--json FILE] [--draw DIR]
    python predict.py [MODEL ...] --camera 0 [--csv FILE] [--json FILE]

Without a model, that of weights/ serves; several are fused. From Python: `from predict import AgePredictor;
AgePredictor()("photo.jpg")`, see docs/PYTHON.md.
"""

import contextlib
import dataclasses
import sys
from collections import Counter

from tqdm import tqdm

import utils.startup  # noqa: F401
from models.checkpoint import model_files
from photos.detection import THRESHOLD
from photos.drawing import check_folder, drawing_writer
from photos.output import STARTS, describe, lines_of, row_writer
from photos.photographs import PREDICTED_SUFFIXES, find_photographs
from photos.predictor import NOTICE, AgePredictor, Face, Photograph
from photos.video import Camera
from utils.cli import counted, printable, run_script, signal_is_caught
from utils.device import MachineConfig, keep_large_buffers
from utils.errors import UserError
from utils.files import check_output, refuse_overlaps
from utils.options import Parser, add_options, check_limits
from utils.reading import exists, starts_with

__all__ = ["AgePredictor", "Face", "Photograph"]

MACHINE = "device precision threads".split()


def read_command_line():
    """The checked options, with the inputs split into models and photographs. Raises UserError."""
    parser = Parser(
        prog="predict.py",
        usage="predict.py [MODEL ...] PHOTO_OR_FOLDER [PHOTO_OR_FOLDER ...] [options]",
        description="Predict the age group of every face in photographs.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="MODEL, PHOTO_OR_FOLDER",
        help="model files, which end in .pt, or run directories (default: weights/ages.pt);"
        " photographs (JPEG, PNG, WebP, AVIF, HEIC) and videos, or folders of them",
    )  # fmt: skip
    parser.add_argument(
        "--camera", metavar="N", help="watch this camera, from 0 (on Windows: its name), until Ctrl-C; one row per face"
    )
    parser.add_argument("--csv", metavar="FILE", help="write one row per face: box, group, probabilities")
    parser.add_argument("--json", metavar="FILE", help="write the same as a list of objects")
    parser.add_argument(
        "--draw", metavar="DIR",
        help="write copies with boxes, 000001_NAME.drawn.jpg, into this folder, in place of earlier ones; it may hold"
        " nothing else",
    )  # fmt: skip
    add_answer_options(parser)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--batch-size", type=int, default=32, metavar="N", help="faces per batch (default: 32)")
    add_options(machine, [field for field in dataclasses.fields(MachineConfig) if field.name in MACHINE])
    options = parser.parse_intermixed_args()  # photographs may also follow an option
    models = [path for path in options.inputs if path.lower().endswith(".pt") or model_files([path]) != [path]]
    options.models, paths = model_files(models), [path for path in options.inputs if path not in models]
    if not paths and options.camera is None:
        given = f"only models are given, '{' '.join(options.inputs)}'" if options.inputs else "no photograph is given"
        raise UserError(f"{given}: name a photograph or a folder, or --camera 0")
    if repeated := {path for path in options.models if options.models.count(path) > 1}:
        raise UserError(f"'{min(repeated)}' is named twice: name each model once")
    check_limits("--top", options.top, {"low": 1})
    refuse_overlaps({f"--{kind}": getattr(options, kind) for kind in (*STARTS, "draw")})
    options.outputs = {kind: path for kind in STARTS if (path := getattr(options, kind)) is not None}
    for kind, path in options.outputs.items():
        check_output(path, lambda own, k=kind: starts_with(own, *STARTS[k]), f"a list of predict.py --{kind}")
    options.skipped = []
    if options.camera is None:
        options.photographs = find_photographs(paths, options.skipped, PREDICTED_SUFFIXES)
    else:
        check_camera(options, paths)
        options.photographs = [Camera(options.camera)]
    if options.draw is not None:
        check_folder(options.draw, options.photographs)
    return options


def add_answer_options(parser):
    """Add the options of the detector and of the answers to a Parser."""
    parser.add_argument("--top", type=int, default=3, metavar="N", help="groups to print per face (default: 3)")
    parser.add_argument(
        "--by-folder", action="store_true",
        help="each folder holds one person: also give the answer for the largest faces of its photographs together",
    )  # fmt: skip
    parser.add_argument(
        "--adapt", action="store_true",
        help="the faces are of one population, as in a school: estimate how its ages are distributed, and correct each"
        " answer by that; the answers come at the end",
    )  # fmt: skip
    detection = parser.add_argument_group("detection")
    detection.add_argument("--no-detect", action="store_true", help="each image is one face, cropped already")
    detection.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="X",
        help=f"least confidence of the detector, 0-1 (default: {THRESHOLD})",
    )  # fmt: skip
    parser.add_argument(
        "--least-confidence", type=float, default=0.0, metavar="X",
        help="mark an answer as doubtful whose group, or decade, is less probable, 0-1 (default: 0)",
    )  # fmt: skip


def check_camera(options, paths):
    """Refuse --camera with photographs, --draw, --by-folder, --no-detect or --adapt. Raises UserError."""
    given = {"--draw": options.draw is not None, "--by-folder": options.by_folder, "--no-detect": options.no_detect}
    given["--adapt"] = options.adapt
    for other in [*map(repr, paths), *(name for name, is_given in given.items() if is_given)]:
        raise UserError(f"--camera {options.camera} with {other}: only models, --csv and --json go with it")


class Stopped(Exception):
    """Leaves the block in which outputs of an earlier call would be replaced."""


def main():
    options = read_command_line()
    keep_large_buffers()
    predictor = AgePredictor(
        *options.models,
        detect=not options.no_detect,
        threshold=options.threshold,
        least_confidence=options.least_confidence,
        batch_size=options.batch_size,
        **{name: getattr(options, name) for name in MACHINE if name in options},
    )
    if options.adapt:
        predictor.adapt([])  # refuses a model that cannot be adapted before it reads any photograph
    for note in predictor.notes:
        print(f"note: {printable(note)}")
    done = Counter()
    stopped = predict_all(options, predictor, done)
    if stopped is not None:
        if options.outputs or options.draw is not None:
            count = f"{done['photographs']} of {len(options.photographs)} photographs"
            print(f"stopped: new outputs hold {count}; those that were there stay as they were", file=sys.stderr)
        raise stopped
    if options.adapt and done["faces"]:
        print(f"note: --adapt corrected the answers for the age distribution of these {counted(done['faces'], 'face')}")
    if options.skipped:
        kinds = ", ".join(sorted({path.suffix.lower() for path in options.skipped}))
        files = counted(len(options.skipped), "file")
        print(f"note: skipped {files} of other formats ({kinds}): save them as JPEG or PNG")
    if done["reduced"]:
        photographs = counted(done["reduced"], "photograph")
        print(f"note: searched {photographs} at under a quarter of the size: small faces may be missed")
    return 1 if done["failed"] else 0


def predict_all(options, predictor, done):
    """Predict, write and print all photographs, and then the people whose folders they are.

    Args:
        done: a Counter that counts photographs, those that are `failed` or `reduced`, and faces.

    Returns:
        The exception that interrupted this, or None. New outputs then hold what there is, and those of an earlier call
        stay as they were.
    """
    stopped, count, people = None, len(options.photographs), {}  # {folder: the largest face of each photograph}
    with contextlib.suppress(Stopped), contextlib.ExitStack() as replaced:
        with contextlib.ExitStack() as new:
            writers, drawings = open_writers(options, predictor.classes.names, new, replaced)
            found = new.enter_context(contextlib.closing(predictor.predict(options.photographs)))
            photographs = new.enter_context(tqdm(found, total=count, unit="photo", disable=None if count > 1 else True))
            try:
                for photograph in predictor.adapt(photographs) if options.adapt else photographs:
                    for write in writers + drawings:
                        write(photograph)
                    if options.by_folder and photograph.faces:
                        people.setdefault(photograph.path.parent, []).append(photograph.faces[0])
                    done["photographs"] += 1
                    done["faces"] += len(photograph.faces)
                    done["failed"] += photograph.error is not None
                    done["reduced"] += photograph.reduction > 4
                    for line in lines_of(photograph, options.top, predictor.classes):
                        tqdm.write(line)  # above the progress bar, where there is one
                for folder, faces in people.items():
                    person = dataclasses.replace(predictor.fuse(faces), box=None, detection_confidence=None, angle=None)
                    for write in writers:
                        write(Photograph(f"{folder}/", [person]))
                    answer = describe(person, options.top, predictor.classes)
                    shown = counted(len(faces), "photograph")
                    tqdm.write(f"{printable(folder)}/  {shown} with a face  {answer}")
            except (KeyboardInterrupt, SystemExit, OSError) as interruption:
                signal_is_caught()
                stopped = interruption
        if stopped is not None:
            raise Stopped
    return stopped


def open_writers(options, class_names, new, replaced):
    """The functions that write a Photograph's rows, and those that draw it; the files appear when an ExitStack ends.

    Args:
        new, replaced: the ExitStacks for outputs that are not there yet, and for the others.

    Raises:
        UserError: a file cannot be written.
    """

    def enter(path, writer):
        return (replaced if exists(path) else new).enter_context(writer)

    writers = [enter(path, row_writer(kind, path, class_names)) for kind, path in options.outputs.items()]
    return writers, [enter(path, drawing_writer(path)) for path in [options.draw] if path is not None]


if __name__ == "__main__":
    run_script(main)
