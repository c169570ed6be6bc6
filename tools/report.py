"""Write report.html of a run, finished or still training.

    python -m tools.report RUN [--label-dir DIR | --label-file FILE] [--image-dir DIR]

The run says where the data was; the options say where it is now. Without all of it the report has no photographs.
"""

import dataclasses
from pathlib import Path

from data.load import load_data, open_cache
from models.checkpoint import NO_FOLD
from report.data import run_data
from report.page import check_report, write_report
from training.config import FIELDS, chosen_settings, moved_data, read_config
from training.run_directory import RunDirectory
from utils.cli import command_line, printable, run_script
from utils.device import Runtime
from utils.errors import UserError
from utils.options import Parser, add_options, as_flags, default_of, flag
from utils.reading import exists

PAGE = "report.html"
DATA = ("label_dir", "label_file", "image_dir")
MACHINE = ("cache_dir", "device", "threads")


def main():
    options = read_command_line()
    given = {name: getattr(options, name) for name in DATA if name in options}
    config = dataclasses.replace(read_config(options.run), run_dir=options.run, **moved_data(given))
    if NO_FOLD in config.folds:
        raise UserError(f"'{options.run}' holds a model of all faces, which held none out: there is nothing to report")
    output = Path(options.output or Path(options.run) / PAGE)
    check_report(output)
    runtime = Runtime.setup(options.device, "fp32", options.threads)
    run = RunDirectory(options.run).read()
    for evaluation in run.evaluations.values():
        evaluation.model.to(runtime.device)
    found = read_data(config, options.cache_dir, run, required=bool(given))
    chosen = {**chosen_settings(config), "run_dir": config.run_dir}
    command = command_line("python", "main.py", *as_flags(chosen, FIELDS))  # that trains such a run
    data = run_data(vars(config), run.evaluations, run.history, **found, command=command)
    result = write_report(output, data)
    print(
        f"wrote {printable(output)}, {result['bytes'] / 1e6:.1f} MB: {result['shown']:,} of {result['mistakes']:,}"
        f" mistakes, photographs at {result['side']} px"
    )
    if result["missing"]:
        print(f"note: {result['missing']:,} photographs are missing or damaged and have a grey tile")


def read_command_line():
    parser = Parser(prog="python -m tools.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run directory of main.py")
    parser.add_argument("--output", metavar="FILE", help=f"file to write (default: {PAGE} in the run directory)")
    add_options(parser, [FIELDS[name] for name in DATA], default_text="from the run")
    add_options(parser, [FIELDS[name] for name in MACHINE])
    parser.set_defaults(**{name: default_of(FIELDS[name]) for name in MACHINE})
    return parser.parse_args()


def read_data(config, cache_dir, run, required):
    """The faces, images, pairs and labels of a run, for `run_data`; {} without the files, unless they are required.

    Raises:
        UserError: the files do not exist, are damaged, or hold other faces or pixels than the run was trained on.
    """
    if not required and not (exists(config.label_file or config.label_dir) and exists(config.image_dir)):
        return {}
    try:
        faces, labels = load_data(**{**config.data_source, "allow_missing": True})
    except UserError as error:
        raise UserError(f"{error}; {', '.join(map(flag, DATA))} say where the data is") from None
    if labels.missing:
        print(f"note: {labels.missing:,} photographs are missing, so the others cannot be checked and are not shown")
        return {}
    cache = open_cache(config.image_dir, faces.table.path, config.image_size, cache_dir, config.skip_damaged)
    faces = cache.readable(faces)
    if run.fingerprints - {faces.fingerprint(cache.sha256)}:
        raise UserError(f"'{config.run_dir}' was trained on other faces, labels or pixels than these")
    return {"faces": faces, "images": cache.images, "pairs": cache.pictures.pairs_among(faces), "labels": labels}


if __name__ == "__main__":
    run_script(main)
