"""The command line of main.py."""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from data.demo import DEMO_DIR
from models.checkpoint import NO_FOLD
from training.config import (
    DEMO_DEFAULTS,
    FIELDS,
    FREE_TO_CHANGE,
    RECIPES,
    SECTIONS,
    Config,
    chosen_settings,
    differences,
    from_record,
    moved_data,
    read_config,
)
from utils.cli import python_command
from utils.errors import UserError
from utils.options import Parser, add_options, as_flags, as_tuples, default_of
from utils.reading import exists, read_json

OWN_SETTINGS = ("run_dir", "cache_dir", "folds")  # which --config does not take from another run


@dataclass(frozen=True)
class Arguments:
    config: Config
    resume: bool = False
    demo: bool = False
    folds_given: bool = True  # otherwise all folds of the data are meant

    @property
    def command(self):
        """The command that makes this run; for a resumed one it follows from the settings."""
        settings = as_flags(chosen_settings(self.config), FIELDS) if self.resume else sys.argv[1:]
        return python_command(sys.argv[0], *settings)

    def choose_folds(self, config, faces):
        """The Config with the folds to hold out. Raises UserError if the faces have no such fold."""
        if NO_FOLD in config.folds:
            return config
        fixed = "split" in faces.table  # one model is trained, and fold 0 is its test set
        present = (0,) if fixed else tuple(sorted({int(fold) for fold in faces.table.fold}))
        if fixed and 0 not in set(faces.table.fold):
            raise UserError("no face has the split 'test', which the model is evaluated on")
        if len(set(faces.table.fold)) < 2:
            raise UserError(f"only fold {present[0]} has faces; two or more are needed, or a column 'split'")
        if not self.folds_given:
            return dataclasses.replace(config, folds=present)
        if absent := [fold for fold in config.folds if fold not in present]:
            raise UserError(f"--folds {absent[0]}: these faces have the folds {' '.join(map(str, present))}")
        return config


def read_arguments(label_dir="", image_dir=""):
    """The command line over main.py's two constants. Raises UserError."""
    given = vars(make_parser().parse_args())
    demo, resume, source = (given.pop(name) for name in ("demo", "resume", "config"))
    given = as_tuples(given)
    if demo and (own := given.keys() & {"label_dir", "image_dir", "label_file"}):
        raise UserError(f"--demo draws its own faces; omit --{min(own).replace('_', '-')}")
    if resume:
        if source:
            raise UserError(f"--config {source}: --resume takes the settings of the run in --run-dir")
        config = resumed_config({"run_dir": default_run_dir(given, demo), **given})
        if demo and config.label_dir != DEMO_DIR:
            raise UserError(f"--demo: '{config.run_dir}' holds a run on other faces, in '{config.label_dir}'")
        return Arguments(config, resume=True, demo=demo)
    if source:
        recorded = chosen_settings(from_record(source, read_json(source)))
        borrowed = {name: value for name, value in recorded.items() if name not in OWN_SETTINGS}
        given = {**borrowed, **moved_data(given)}
    if demo:
        given = {"label_dir": DEMO_DIR, "image_dir": f"{DEMO_DIR}/aligned", **DEMO_DEFAULTS, **given}
    constants = {"label_dir": "" if given.get("label_file") else label_dir, "image_dir": image_dir}
    config = Config(**{**constants, "run_dir": default_run_dir(given, demo), **given})
    if not config.label_dir and not config.label_file:
        advice = "give it, or set LABEL_DIR at the top of main.py, or try --demo; --label-file reads a CSV file"
        raise UserError(f"no --label-dir: {advice}")
    if not config.image_dir:
        raise UserError("no --image-dir: give it, or set IMAGE_DIR at the top of main.py, or try --demo")
    return Arguments(config, demo=demo, folds_given="folds" in given)


def default_run_dir(given, demo):
    """Default run directory; for a CSV file it has the file's name."""
    if given.get("label_file"):
        return str(Path("runs") / Path(given["label_file"]).stem)
    return DEMO_DEFAULTS["run_dir"] if demo else default_of(FIELDS["run_dir"])


def resumed_config(given):
    """The recorded Config of --run-dir; of the given settings only those may differ that do not change the result."""
    folder = given["run_dir"]
    if not exists(Path(folder) / "config.json"):
        raise UserError(f"--resume: '{folder}' holds no run to resume")
    recorded = read_config(folder, strict=True)
    if differing := differences(recorded, given):
        raise UserError(f"'{folder}' was trained with other settings: {differing}")
    free = moved_data({name: value for name, value in given.items() if name in FREE_TO_CHANGE})
    # A record may say where to read, but not where to write.
    free.setdefault("cache_dir", default_of(FIELDS["cache_dir"]))
    return dataclasses.replace(recorded, **free)


def resume_command(config):
    """The command that resumes a run; its settings are read from config.json, apart from the folders to write to."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes else []
    options = ["--run-dir", config.run_dir, "--resume"]
    if config.cache_dir != default_of(FIELDS["cache_dir"]):
        options += ["--cache-dir", config.cache_dir]
    return python_command(*launcher, sys.argv[0], *options)


def make_parser():
    data = ("--label-dir DIR --image-dir DIR [options]", "--label-file FACES.csv --image-dir DIR [options]", "--demo")
    usage = "\n       ".join(f"main.py {options}" for options in data)
    description = "Train one age-group model per fold of Adience, or of your own faces."
    modern = Config(recipe="modern", epochs=default_of(FIELDS["epochs"]))
    changes = " ".join(as_flags({name: getattr(modern, name) for name in RECIPES["modern"]}, FIELDS))
    epilog = (
        f"The defaults are those of --recipe original; --recipe modern stands for {changes}; --recipe robust, for"
        " photographs of another origin than the training faces, adds --standardize 0.6 --border 0.2."
    )
    parser = Parser(prog="main.py", usage=usage, description=description, epilog=epilog)
    parser.add_argument("--demo", action="store_true", help="use small drawn faces and settings that take two minutes")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in --run-dir with its settings, except --cache-dir: give that again",
    )
    parser.add_argument("--config", metavar="FILE", help="use the settings of another run's config.json as defaults")
    for section in SECTIONS:
        group = parser.add_argument_group(section.title)
        add_options(group, [FIELDS[field.name] for field in dataclasses.fields(section)])
    return parser
