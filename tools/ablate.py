"""Train named variants of one experiment with several seeds, and test which change makes a difference.

    python -m tools.ablate --label-dir DIR --image-dir DIR --folds 0 --seeds 0 1 --epochs 8 --image-size 64
    python -m tools.ablate --demo --only baseline relu --seeds 0 --variant "lr 0.3: --lr 0.3"

Every variant is `main.py` with the baseline's settings and the few of its own in VARIANTS. The same command again
resumes where it stopped. It prints the table and writes it to ablation.csv in --run-dir.
"""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.demo import DEMO_DIR
from data.load import DATA_SOURCE, make_demo_faces
from evaluation.metrics import METRICS
from models.checkpoint import NO_FOLD
from tools.compare_runs import difference_cell, method_table, read_runs, value_cell
from training.config import DEMO_DEFAULTS, FIELDS, RECIPES, SECTIONS, Config, differences, read_config
from training.losses import LOSSES
from utils.cli import command_line, printable, run_script
from utils.errors import UserError
from utils.files import check_output, write_csv
from utils.options import Parser, add_options, as_flags, as_tuples, check_limits
from utils.reading import exists, read_text, starts_with

MAIN = Path(__file__).parents[1] / "main.py"
BASELINE = "baseline"
RECIPE = "modern"  # of every variant, unless its own settings or the command line say otherwise
GEOMETRY_OFF = dict.fromkeys(("rotation", "scale", "shift"), 0.0)
JITTER_OFF = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
GRIDMASK_OFF = dict.fromkeys(("gridmask_start", "gridmask_end"), 0.0)
VARIANTS = {
    BASELINE: {},
    "original recipe": {"recipe": "original"},
    "sgd": {"optimizer": "sgd", "lr": 0.1, "nesterov": True, "weight_decay": 5e-4},
    "batch 64": {"batch_size": 64, "lr": 0.14},
    "lr 0.1": {"lr": 0.1},
    "lr 0.4": {"lr": 0.4},
    "no weight decay": {"weight_decay": 0.0},
    "linear decay": {"schedule": "linear"},
    "relu": {"negative_slope": 0.0},
    "1x1 shortcuts": {"shortcut": "1x1"},
    "3x3 shortcuts": {"shortcut": "3x3"},
    "no zero init": {"zero_init": False},
    "pytorch init": {"init": "pytorch", "zero_init": False},
    "no flip": {"flip": 0.0},
    "no rotation, scale, shift": GEOMETRY_OFF,
    "rotation 10": {"rotation": 10.0, "scale": 0.1, "shift": 0.05},
    "bilinear": {"interpolation": "bilinear"},
    "black corners": {"padding": "zeros"},
    "no colour jitter": JITTER_OFF,
    "no gridmask": GRIDMASK_OFF,
    "gridmask not rotated": {"gridmask_rotated": False},
    "gridmask 0.3": {"gridmask_start": 0.3, "gridmask_end": 0.3},
    "gridmask 0.8 to 0": {"gridmask_start": 0.8, "gridmask_end": 0.0},
    "no augmentation": {"flip": 0.0, **GEOMETRY_OFF, **JITTER_OFF, **GRIDMASK_OFF},
    "balanced sampling": {"balance": "sampling"},
    **{f"loss {name}": {"loss": name} for name in LOSSES if name != RECIPES[RECIPE]["loss"]},
}
OWN_OPTIONS = ("run_dir", "seed", "plots")  # set by this script for every run
running = set()  # processes of main.py


def main():
    options, shared = read_command_line()
    folder = Path(options.run_dir)
    path = folder / "ablation.csv"
    check_output(path, lambda path: starts_with(path, "method,runs,"), "an ablation's table")
    if options.demo:
        make_demo_faces(DEMO_DIR)  # once, before several runs need them
    jobs = [(variant, seed) for seed in options.seeds for variant in options.only]
    train_all(folder, options.jobs, jobs, shared)
    runs = read_runs([run_folder(folder, *job) for job in jobs])  # all variants of a seed, then those of the next
    table = method_table((variant, runs[k :: len(options.only)]) for k, variant in enumerate(options.only))
    write_csv(path, table)
    print(f"\n{markdown(table)}\n\nwrote {printable(path)}")


def read_command_line():
    """The options of this script, and the settings of main.py that every run shares."""
    parser = Parser(prog="python -m tools.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=VARIANTS, metavar="VARIANT", help="variants (default: all)")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="TEXT", help="one of your own: 'NAME: --option VALUE ...'"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument("--demo", action="store_true", help="use the drawn demo faces")
    parser.add_argument("--list", action="store_true", help="print the variants and exit")
    parser.add_argument("--run-dir", default="runs/ablation", metavar="DIR", help="folder (default: runs/ablation)")
    for section in SECTIONS:
        fields = [FIELDS[field.name] for field in dataclasses.fields(section) if field.name not in OWN_OPTIONS]
        add_options(parser.add_argument_group(section.title), fields, default_text=f"as in --recipe {RECIPE}")
    options = parser.parse_args()
    own = [add_variant(text) for text in options.variant]
    if options.list:
        for name, settings in VARIANTS.items():
            print(f"{name:<24} {command_line(*as_flags(settings, FIELDS))}")
        sys.exit()
    if unknown := [name for name in options.only if name not in VARIANTS]:
        raise UserError(f"--only '{unknown[0]}': there is no such variant; --list names them")
    check_limits("--jobs", options.jobs, {"low": 1})
    if len(set(options.seeds)) < len(options.seeds):
        raise UserError(f"--seeds {' '.join(map(str, options.seeds))}: name each seed once; a run counts once")
    if NO_FOLD in getattr(options, "folds", ()):
        raise UserError("--folds none: a model of all faces has no metrics to compare")
    options.only = list(dict.fromkeys([BASELINE, *options.only, *own]))
    given = as_tuples({name: value for name, value in vars(options).items() if name in FIELDS and name != "run_dir"})
    demo = {"label_dir": DEMO_DIR, "image_dir": f"{DEMO_DIR}/aligned", **DEMO_DEFAULTS} if options.demo else {}
    threads = given.get("threads") or max(1, os.cpu_count() // options.jobs)
    return options, {**demo, **given, "threads": threads}


def add_variant(text):
    """Add 'NAME: --option VALUE ...' to VARIANTS; returns NAME. Raises UserError."""
    name, colon, given = text.partition(":")
    name = name.strip()
    if not colon or not re.fullmatch(r"[A-Za-z0-9.+-][A-Za-z0-9 .,+-]*", name) or name in VARIANTS:
        known = " is taken" if name in VARIANTS else " names none"
        raise UserError(f"--variant '{text}': '{name}'{known}; expected such as 'lr 0.3: --lr 0.3'")
    parser = Parser(prog=f"--variant '{name}'", add_help=False)
    add_options(parser, [FIELDS[name] for name in FIELDS if name not in (*OWN_OPTIONS, *DATA_SOURCE, "folds")])
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise UserError(f"--variant '{text}': {error}") from None
    VARIANTS[name] = as_tuples(vars(parser.parse_args(words)))
    return name


def variant_config(variant, seed, shared):
    """The Config of a run: the baseline's settings, the shared ones, then the variant's own."""
    own = VARIANTS[variant]
    if own.get("recipe", RECIPE) != RECIPE:
        shared = {name: value for name, value in shared.items() if name not in RECIPES[RECIPE]}
    return Config(**{"recipe": RECIPE, **shared, **own, "seed": seed})


def run_folder(folder, variant, seed):
    return folder / f"{variant.replace(' ', '_')}_seed{seed}"


def train_all(folder, at_once, jobs, shared):
    """Run what has not finished yet of the (variant, seed). Raises UserError if a run fails."""
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for number, _ in enumerate(pool.map(lambda job: train(folder, *job, shared), jobs), 1):
                minutes = (time.perf_counter() - started) / 60
                print(f"{number} of {len(jobs)} runs done, {minutes:.0f} min", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()  # it saves its step, and this script resumes from there
            raise


def train(folder, variant, seed, shared):
    """Run main.py for one variant and seed, unless that run has finished.

    Raises:
        UserError: the run fails, or its folder holds a run with other settings.
    """
    run_dir, config, resume = run_folder(folder, variant, seed), variant_config(variant, seed, shared), []
    if exists(run_dir / "config.json"):
        recorded, resume = read_config(run_dir, strict=True), ["--resume"]
        if differing := differences(recorded, vars(config)):
            raise UserError(f"'{run_dir}' was trained with other settings: {differing}")
        if exists(run_dir / "results.json") and set(recorded.folds) == set(config.folds):
            return
    settings = {**vars(config), "run_dir": str(run_dir), "plots": False}
    command = [sys.executable, str(MAIN), *as_flags(settings, FIELDS), *resume]
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{run_dir.name}.log"
    if log_path.is_symlink() or (exists(log_path) and not log_path.is_file()):
        raise UserError(f"'{log_path}' is not a regular file; move it away")
    with open(log_path, "a") as log:
        # In a session of its own: Ctrl-C reaches it once, as the signal that train_all() sends.
        settings = {"start_new_session": True, "env": {**os.environ, "PYTHONUTF8": "1"}}
        process = subprocess.Popen(command, stdout=log, stderr=log, **settings)
        running.add(process)
        status = process.wait()
        running.discard(process)
    if status:
        lines = read_text(log_path).strip().splitlines() or ["it printed nothing"]
        reason = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        raise UserError(f"'{variant}' with seed {seed} ended with status {status}: {reason[-1]} ({log_path})")


def markdown(table):
    """A `method_table` for a document: values, and differences from the baseline with their 95 % intervals."""
    names = [name for name in METRICS if f"{name}_gain" in table]
    titles = [f"{METRICS[name].title} | against baseline" for name in names]
    lines = [f"| variant | {' | '.join(titles)} |", "|---" * (2 * len(names) + 1) + "|"]
    for row in table.to_dict("records"):
        cells = [(value_cell(row, name), difference_cell(row, name)) for name in names]
        cells = [f"{value} | {'' if row['method'] == BASELINE else difference}" for value, difference in cells]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
