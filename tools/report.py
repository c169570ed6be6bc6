"""Write report.html of a run, finished or still training: every mistake, and what the probabilities are worth.

    python -m tools.report RUN [--label-dir DIR | --label-file FILE] [--image-dir DIR]

The run says where the data was; the options say where it is now. Without it the report has no photographs.
"""

import dataclasses
import shlex
from pathlib import Path

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.config import FIELDS
from utils.options import Parser, add_options, default_of

PAGE = "report.html"
DATA = ("label_dir", "label_file", "image_dir")


def read_command_line():
    parser = Parser(prog="python -m tools.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run directory of main.py")
    parser.add_argument("--output", metavar="FILE", help=f"file to write (default: {PAGE} in the run directory)")
    add_options(parser, [FIELDS[name] for name in DATA], default_text="from the run")
    add_options(parser, [FIELDS[name] for name in ("cache_dir", "device", "threads")])
    parser.set_defaults(**{name: default_of(FIELDS[name]) for name in ("cache_dir", "device", "threads")})
    return parser.parse_args()


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds

from data import Pictures, load_data, open_cache
from data.adience import FOLDS
from evaluation.predictions import read_predictions
from models.checkpoint import load_model
from report.page import check_report, write_report
from report.study import NO_PAIRS, study_of_run
from training.config import chosen_settings, moved_data, read_config
from training.run import load_progress
from utils.device import Compute
from utils.errors import UserError
from utils.foreign import exists
from utils.options import as_flags, flag, to_record


def main():
    options = read_command_line()
    run_dir = Path(options.run)
    given = {name: getattr(options, name) for name in DATA if name in options}
    config = dataclasses.replace(read_config(run_dir), run_dir=options.run, **moved_data(given))
    output = Path(options.output or run_dir / PAGE)
    check_report(output)
    compute = Compute.choose(options.device, "fp32", options.threads)
    models, history = read_folds(run_dir)
    models = {fold: model.to(compute.device) for fold, model in models.items()}
    faces, images, pairs = read_faces(config, options.cache_dir, required=bool(given))
    study = study_of_run(
        to_record(config), read_answers(run_dir, models), history, models, faces, images, pairs, main_command(config)
    )
    if faces is None:
        study.notes.append("The label files or photographs are not at hand: there are no pictures and no pose.")
    result = write_report(output, study)
    print(
        f"wrote {printable(output)}, {result['bytes'] / 1e6:.1f} MB: {result['shown']:,} of {result['mistakes']:,}"
        f" mistakes, photographs at {result['side']} px"
    )
    if result["missing"]:
        print(f"note: {result['missing']:,} photographs are missing or damaged and have a grey tile")


def read_folds(run_dir):
    """({fold: Network} of the finished folds, {fold: rows of the log} of all that have begun). Raises UserError."""
    models, history = {}, {}
    for fold in FOLDS:
        finished, progress = run_dir / f"fold_{fold}.pt", run_dir / f"fold_{fold}.progress.pt"
        if exists(finished):
            models[fold] = load_model(finished)
            history[fold] = list(models[fold].record["history"])
        elif exists(progress):
            history[fold] = list(load_progress(progress)["history"])
    return models, history


def read_answers(run_dir, models):
    """The Predictions of the finished folds, None where there is none. Raises UserError."""
    if not models:
        return None
    digests = {fold: model.record.get("predictions_sha256") for fold, model in models.items()}
    return read_predictions(run_dir / "predictions.csv", digests)


def read_faces(config, cache_dir, required):
    """(Faces, cache, pairs of the same picture); without the files (None, None, no pairs), unless they are required.

    Raises:
        UserError: the files are not there, or are damaged.
    """
    here = exists(config.label_file or config.label_dir) and exists(config.image_dir)
    if not here and not required:
        return None, None, NO_PAIRS
    try:
        faces, _ = load_data(**{**config.data_source, "allow_missing": True})
    except UserError as error:
        raise UserError(f"{error}; {', '.join(map(flag, DATA))} say where the data is") from None
    images = open_cache(config.image_dir, faces.table.path, config.image_size, cache_dir)
    return faces, images, Pictures.of(images).pairs


def main_command(config):
    """The command that trains such a run."""
    chosen = {**chosen_settings(config), "run_dir": config.run_dir}
    return shlex.join(["python", "main.py", *as_flags(chosen)])


if __name__ == "__main__":
    run_script(main)
