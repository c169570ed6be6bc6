"""Compare finished runs on the same faces with the first of them, the reference.

    python -m tools.compare_runs A B [C ...] [--output compare.html] [--image-dir DIR]

Prints the differences of every metric, fold by fold and of all faces together, with intervals over people and
McNemar's test. The page shows the same, which faces changed, and those that differ most. Without the photographs,
which the first run says where to find, these have grey tiles.
"""

import shlex
import sys
from pathlib import Path

from utils.cli import printable, python_command, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

import numpy as np

from data.adience import require_folder
from data.faces import Faces
from evaluation.predictions import StoredPredictions
from training.config import FREE_TO_CHANGE
from training.results import read_results
from utils.errors import UserError
from utils.options import Parser

PAGE = "compare.html"
FACE = ["path", "album", "subject", "fold", "label"]


def main():
    options = read_command_line()
    runs = read_runs([options.reference, *options.runs], options.image_dir)
    # Brings torch, which takes seconds.
    from report.compare import Run, check_comparison, compare, comparison_table, write_comparison

    check_comparison(options.output)
    reference, *others = (Run(**run) for run in runs)
    comparisons = [compare(reference, run) for run in others]
    print(comparison_table(comparisons), flush=True)
    command = f"{python_command()} -m tools.compare_runs {shlex.join(sys.argv[1:])}"
    result = write_comparison(options.output, comparisons, printable(command))
    sizes = dict.fromkeys(str(run.settings.get("image_size")) for run in (reference, *others))
    if len(sizes) > 1:
        print(f"note: trained at {', '.join(sizes)} px; that the photographs are the same is known by their paths only")
    print(f"\nwrote {printable(options.output)}, {result['bytes'] / 1e6:.1f} MB")
    if result["missing"]:
        print(
            f"note: {result['missing']:,} of {result['shown']:,} photographs are missing or damaged and have a grey"
            " tile; --image-dir says where they are"
        )


def read_command_line():
    parser = Parser(prog="python -m tools.compare_runs", description=__doc__.splitlines()[0])
    parser.add_argument("reference", metavar="A", help="run directory of main.py, the reference")
    parser.add_argument("runs", metavar="B", nargs="+", help="run directories to compare with it")
    parser.add_argument(
        "--output", metavar="FILE", default=PAGE, help=f"page to write (default: {PAGE} in the current folder)"
    )
    parser.add_argument("--image-dir", metavar="DIR", help="folder of the photographs (default: from the first run)")
    options = parser.parse_args()
    if options.image_dir is not None:
        require_folder(Path(options.image_dir), "--image-dir")
    return options


def read_runs(folders, image_dir=None):
    """What is known of the runs in these folders; their predictions have the same order.

    Args:
        folders: run directories, the reference first.
        image_dir: the folder of the photographs; None takes the one that each run was trained with.

    Returns:
        A list of {name: value}, the fields of `report.compare.Run`.

    Raises:
        UserError: a run is damaged, has no finished fold, has other data or folds than the first one, or is there
            twice.
    """
    read = [read_results(folder) for folder in folders]
    for number, (folder, (results, predictions)) in enumerate(zip(folders, read, strict=True)):
        for earlier, (others, _) in zip(folders[:number], read, strict=False):
            check_distinct(earlier, others, folder, results)
        if not len(predictions.faces):
            raise UserError(f"'{folder}' has no finished fold")
        if number:
            check_alike(folders[0], *read[0], folder, results, predictions)
    return [
        run_fields(name, folder, results, predictions, image_dir)
        for name, folder, (results, predictions) in zip(short_names(folders), folders, read, strict=True)
    ]


def run_fields(name, folder, results, predictions, image_dir):
    settings = settings_of(results)
    trained_with = settings.get("image_dir")
    return {
        "name": name,
        "predictions": in_order(predictions),
        "settings": {setting: value for setting, value in settings.items() if setting not in FREE_TO_CHANGE},
        "folder": str(folder),
        "image_dir": image_dir or (trained_with if isinstance(trained_with, str) else ""),
    }


def check_distinct(folder, results, other_folder, other_results):
    """Raises UserError where two runs have a fold's predictions in common."""
    known = {fold["predictions_sha256"]: fold["fold"] for fold in results["folds"]}
    for fold in other_results["folds"]:
        if fold["predictions_sha256"] in known:
            raise UserError(
                f"'{other_folder}' and '{folder}' have the same predictions for fold {fold['fold']}: they are one run,"
                " given twice or copied"
            )


def check_alike(first, results, predictions, other, other_results, other_predictions):
    """Raises UserError where two runs do not have the same classes, folds, faces, labels and, at one size, pixels."""
    folds, other_folds = (sorted(int(fold["fold"]) for fold in one["folds"]) for one in (results, other_results))
    if folds != other_folds:
        raise UserError(
            f"'{other}' has other folds than '{first}': {' '.join(map(str, other_folds))} instead of"
            f" {' '.join(map(str, folds))}"
        )
    if other_predictions.faces.class_names != predictions.faces.class_names:
        raise UserError(f"'{other}' has other classes than '{first}'")
    faces, other_faces = (in_order(one).faces.table[FACE] for one in (predictions, other_predictions))
    same_size = image_size(results) == image_size(other_results)
    if not faces.equals(other_faces) or (
        same_size and other_results["data_fingerprint"] != results["data_fingerprint"]
    ):
        raise UserError(
            f"'{other}' saw other faces, labels or pixels than '{first}': both need the same files and label policy"
        )


def image_size(results):
    return settings_of(results).get("image_size")


def in_order(predictions):
    """The predictions sorted by path, whatever the order of the folds was."""
    faces = predictions.faces
    order = np.argsort(faces.table.path.to_numpy(), kind="stable")
    faces = Faces(faces.table.iloc[order].reset_index(drop=True), faces.class_names)
    return StoredPredictions(faces, predictions.probabilities[order], stored=predictions.predicted[order])


def settings_of(results):
    settings = results.get("settings")
    return settings if isinstance(settings, dict) else {}


def short_names(folders):
    """The names of the folders, or the whole paths where two names are the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


if __name__ == "__main__":
    run_script(main)
