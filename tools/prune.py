"""Prune the networks of a finished run to a share of their operations, and fine-tune them.

    python -m tools.prune RUN --share 0.5 --run-dir DIR [options of main.py]

Each fold's network keeps the channels within its blocks that contribute most (models/pruning.py). main.py then trains
it further with the run's settings; by default for a third of its epochs, at a fifth of its learning rate.
"""

import bisect
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from data.adience import FOLDS
from models.checkpoint import load_model
from models.pruning import multiply_adds
from training.config import FIELDS, chosen_settings, read_config
from training.run_directory import RunDirectory
from utils.cli import run_script
from utils.errors import UserError
from utils.options import Parser, add_options, as_flags, as_tuples

OWN = {"run_dir", "init_from", "mid_width", "pretrained", "teacher", "folds"}
RELATIVE = {"epochs": 1 / 3, "lr": 1 / 5}  # to the run's
LEAST_HUNDREDTHS = 2  # of --mid-width


def main():
    options = read_command_line()
    config, run = read_config(options.run), RunDirectory(options.run)
    folds = [fold for fold in FOLDS if run.is_finished(fold)]
    if not folds:
        raise UserError(f"'{options.run}' has no finished fold")
    model = load_model(run.model_path(folds[0]))
    width = find_width(model, options.share)
    print(f"inner width {width:.2f}: {kept_share(model, width):.1%} of the operations", flush=True)
    given = {name: getattr(options, name) for name in FIELDS if name not in OWN and name in options}
    own = {"folds": folds, "mid_width": width, "init_from": options.run, "run_dir": options.run_dir}
    settings = chosen_settings(pruned_config(config, {**given, **own}))
    command = [sys.executable, str(Path(__file__).parents[1] / "main.py"), *as_flags(settings)]
    print(f"python main.py {shlex.join(command[2:])}", flush=True)
    os.execv(sys.executable, command)


def read_command_line():
    parser = Parser(prog="python -m tools.prune", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run directory of main.py")
    parser.add_argument("--share", type=float, required=True, metavar="X", help="share of the operations to keep")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="folder for the pruned run")
    add_options(parser, [field for name, field in FIELDS.items() if name not in OWN], default_text="from the run")
    options = parser.parse_args()
    if not 0 < options.share < 1:
        raise UserError(f"--share {options.share}: expected a number between 0 and 1")
    return options


def pruned_config(config, given):
    """The run's Config with the given settings, and a shorter schedule of smaller steps unless one is given."""
    epochs = given.get("epochs", max(1, round(config.epochs * RELATIVE["epochs"])))
    ratio = epochs / config.epochs
    shorter = {
        "epochs": epochs,
        "lr": config.lr * RELATIVE["lr"],
        "warmup": config.warmup * ratio,
        "lr_steps": tuple(sorted({max(1, round(step * ratio)) for step in config.lr_steps})),
    }
    return dataclasses.replace(config, pretrained=False, teacher=(), **{**shorter, **as_tuples(given)})


def find_width(model, share):
    """The largest inner width, in hundredths, at which a network keeps at most this share of its operations.

    Raises:
        UserError: the network has no such option, or the share cannot be reached.
    """
    if "mid_width" not in model.description:
        raise UserError(f"{model.description['name']} cannot be pruned: it is no ResNet")
    hundredths = range(LEAST_HUNDREDTHS, round(100 * model.description["mid_width"]))
    fitting = bisect.bisect_right(hundredths, share, key=lambda width: kept_share(model, width / 100))
    if not fitting:
        kept = kept_share(model, LEAST_HUNDREDTHS / 100)
        raise UserError(f"--share {share}: {kept:.2f} of the operations are outside of the blocks' inner channels")
    return hundredths[fitting - 1] / 100


def kept_share(model, width):
    """The share of a network's operations that it keeps at this inner width."""
    full, narrow = model.description, {**model.description, "mid_width": width}
    return multiply_adds(narrow, model.image_size) / multiply_adds(full, model.image_size)


if __name__ == "__main__":
    run_script(main)
