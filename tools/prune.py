"""Prune the networks of a finished run to a share of their operations, and fine-tune them.

    python -m tools.prune RUN --share 0.5 --run-dir DIR [options of main.py]

Each fold's network keeps the channels within its blocks that contribute most (models/pruning.py). main.py then trains
it further with the run's settings; by default for a third of its epochs, at a fifth of its learning rate.
"""

import dataclasses
import os
import shlex
import sys
from pathlib import Path

from utils.cli import run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.config import FIELDS, chosen_settings, read_config
from utils.errors import UserError
from utils.options import Parser, add_options, as_flags, as_tuples, default_of

OWN = {"run_dir", "init_from", "inner_width", "pretrained", "teacher", "folds", "first_size"}
RELATIVE = {"epochs": 1 / 3, "lr": 1 / 5}  # to the run's
LEAST_WIDTH = 0.02


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


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds

import torch

from data.adience import FOLDS
from models import create_model
from models.checkpoint import load_model
from models.network import multiply_adds, parameter_count


def main():
    options = read_command_line()
    config = read_config(options.run)
    folds = [fold for fold in FOLDS if (Path(options.run) / f"fold_{fold}.pt").exists()]
    if not folds:
        raise UserError(f"'{options.run}' has no finished fold")
    model = load_model(Path(options.run) / f"fold_{folds[0]}.pt")
    width = find_width(model, options.share)
    print(f"inner width {width:.2f}: {describe(model, width)}", flush=True)
    given = {name: getattr(options, name) for name in FIELDS if name not in OWN and name in options}
    own = {"folds": tuple(folds), "inner_width": width, "init_from": options.run, "run_dir": options.run_dir}
    settings = chosen_settings(pruned_config(config, {**given, **own}))
    command = [sys.executable, str(Path(__file__).parents[1] / "main.py"), *as_flags(settings)]
    print(f"python main.py {shlex.join(command[2:])}", flush=True)
    os.execv(sys.executable, command)


def pruned_config(config, given):
    """The run's Config with the given settings, and a shorter schedule of smaller steps where none is given."""
    epochs = given.get("epochs", max(1, round(config.epochs * RELATIVE["epochs"])))
    ratio = epochs / config.epochs
    shorter = {
        "epochs": epochs,
        "lr": config.lr * RELATIVE["lr"],
        "warmup": config.warmup * ratio,
        "lr_steps": tuple(sorted({max(1, round(step * ratio)) for step in config.lr_steps})),
    }
    unused = {name: default_of(FIELDS[name]) for name in ("pretrained", "teacher", "first_size")}
    return dataclasses.replace(config, **{**shorter, **unused, **as_tuples(given)})


def find_width(model, share):
    """The largest inner width, in hundredths, at which a network keeps at most this share of its operations.

    Raises:
        UserError: the network has no such option, or the share cannot be reached.
    """
    if "inner_width" not in model.description:
        raise UserError(f"{model.description['name']} cannot be pruned: it is no ResNet")
    whole = multiply_adds(model, model.image_size)

    def kept(hundredths):
        return multiply_adds(narrowed(model, hundredths / 100), model.image_size) / whole

    low, high = round(100 * LEAST_WIDTH), round(100 * model.description["inner_width"])
    if kept(low) > share:
        raise UserError(f"--share {share}: {kept(low):.2f} of the operations are outside of the blocks' inner channels")
    while high - low > 1:  # `low` keeps few enough operations, `high` too many
        middle = (low + high) // 2
        low, high = (middle, high) if kept(middle) <= share else (low, middle)
    return low / 100


def narrowed(model, width):
    """The same kind of network with another inner width, without values."""
    with torch.device("meta"):
        return create_model(**{**model.description, "inner_width": width})


def describe(model, width):
    """What is left of a network, in words."""
    pruned = narrowed(model, width)
    operations = [multiply_adds(one, model.image_size) / 1e9 for one in (pruned, model)]
    parameters = [parameter_count(one) / 1e6 for one in (pruned, model)]
    return "{:.3f} of {:.3f} GMAC, {:.2f} of {:.2f} million parameters".format(*operations, *parameters)


if __name__ == "__main__":
    run_script(main)
