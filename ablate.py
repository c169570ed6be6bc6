"""Train named variants of one experiment, each with every fold and seed asked for, and say what makes a difference.

    python ablate.py --label-dir DIR --image-dir DIR --folds 0 --seeds 0 1 --epochs 8 --image-size 64
    python ablate.py --demo --only baseline relu --seeds 0

Every variant is `main.py` with the baseline's settings and the few of its own in VARIANTS. Started again, it goes
on where it stopped. Writes ablation.csv, ablation.md and ablation.png into --run-dir.
"""

import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from data.adience import AGE_GROUPS
from data.demo import DEMO_DIR, make_demo_faces
from utils import UserError
from utils.bootstrap import paired_difference
from utils.cli import run_script
from utils.config import DEMO_SETTINGS, RECIPES, Parser, add_options, flag, make_config, to_record
from utils.decode import DECODERS
from utils.device import cpu_threads
from utils.files import replacing, write_csv
from utils.losses import LOSSES
from utils.plots import plot_ablation
from utils.run import read_predictions, read_record, require_same_settings

BASELINE = "baseline"
# What every variant shares unless the command line says otherwise, and what each changes.
BASE = {"recipe": "modern"}
VARIANTS = {
    BASELINE: {},
    "original recipe": {"recipe": "original", "lr_steps": None},
    "relu": {"negative_slope": 0.0},
    "1x1 shortcuts": {"shortcut": "1x1"},
    "no flip": {"flip": 0.0},
    "no rotation": {"rotation": 0.0},
    "no colour jitter": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "no scale and shift": {"scale": 0.0, "shift": 0.0},
    "no gridmask": {"gridmask_start": 0.0, "gridmask_end": 0.0},
    "gridmask not rotated": {"gridmask_rotated": False},
    "gridmask 0.3": {"gridmask_start": 0.3, "gridmask_end": 0.3},
    "gridmask 0 to 0.8": {"gridmask_start": 0.0, "gridmask_end": 0.8},
    "no augmentation": {
        **dict.fromkeys(("flip", "rotation", "scale", "shift", "gridmask_start", "gridmask_end"), 0.0),
        **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0),
    },
    "step decay": {"schedule": "step", "lr_steps": None},
    "linear decay": {"schedule": "linear"},
    "random crops": {"crop": 0.5, "scale": 0.0, "shift": 0.0},
    "random erasing": {"erasing": 0.5},
    "trivial augment": {"trivial_augment": True},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "averaged weights": {"averaging": 0.05},
    "no zero init": {"zero_init": False},
    "balanced sampling": {"balance": "sampling"},
    "balanced loss": {"balance": "loss"},
    "squeeze and excitation": {"attention": "se"},
    "cbam": {"attention": "cbam"},
    **{f"loss {name}": {"loss": name} for name in LOSSES if name != RECIPES["modern"]["loss"]},
}
# Where the published system's learning rate falls, as shares of its 100 epochs.
STEP_SHARES = (0.20, 0.50, 0.75)
RUNNING = set()  # processes of main.py
MEASURES = {"top1": lambda d: d == 0, "one_off": lambda d: d <= 1, "mae": lambda d: d}


def main():
    options, shared = read_command_line()
    root = Path(options.run_dir)
    if options.demo:
        make_demo_faces(DEMO_DIR)  # before several runs would
    jobs = [(variant, seed) for seed in options.seeds for variant in options.only]
    started = time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for number, _ in enumerate(pool.map(lambda job: train(root, *job, options, shared), jobs), 1):
                print(f"{number} of {len(jobs)} runs done, {(time.perf_counter() - started) / 60:.0f} min", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                process.terminate()  # it saves its step; this script goes on from there
            raise
    table = compare(root, options)
    write_csv(root / "ablation.csv", table)
    with replacing(root / "ablation.md") as unfinished:
        unfinished.write_text(markdown(table))
    plot_ablation(table, root / "ablation.png")
    print(f"\n{markdown(table)}\n{root}/ holds ablation.csv, ablation.md and ablation.png")


def train(root, variant, seed, options, shared):
    """Run main.py for one variant and seed, unless it has finished before.

    Raises UserError when it fails, or was trained with other settings before.
    """
    run_dir = run_folder(root, variant, seed)
    defaults = DEMO_SETTINGS if options.demo else {}
    settings = settings_of(variant, seed, shared, make_config(shared, **defaults).epochs)
    if (run_dir / "results.json").exists():
        recorded, wanted = read_record(run_dir), to_record(make_config(settings, **defaults))
        require_same_settings(run_dir, recorded, wanted)
        if recorded["folds"] == wanted["folds"]:
            return
    command = [sys.executable, str(Path(__file__).with_name("main.py")), *as_flags(settings), "--run-dir", str(run_dir)]
    command += ["--threads", str(max(1, cpu_threads() // options.jobs)), "--no-plots"]
    if options.demo:
        command.append("--demo")
    if (run_dir / "config.json").exists():
        command.append("--resume")
    root.mkdir(parents=True, exist_ok=True)
    log_path = root / f"{run_dir.name}.log"
    with open(log_path, "a") as log:
        # Out of the terminal's reach: a Ctrl-C here comes to it once, as the polite signal of main().
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        RUNNING.add(process)
        status = process.wait()
        RUNNING.discard(process)
    if status:
        raise UserError(
            f"'{variant}' with seed {seed} ended with status {status}: {log_path} says why;"
            f" its command was {shlex.join(command)}"
        )


def run_folder(root, variant, seed):
    return root / f"{variant.replace(' ', '_')}_seed{seed}"


def settings_of(variant, seed, shared, epochs):
    """The options of main.py: the baseline's, the command line's, then the variant's own."""
    own = VARIANTS[variant]
    if own.get("recipe") == "original":
        shared = {name: value for name, value in shared.items() if name not in RECIPES["modern"]}
    settings = {**BASE, **shared, **own, "seed": seed}
    if "lr_steps" in own:
        settings["lr_steps"] = tuple(round(share * epochs) for share in STEP_SHARES)
    return settings


def as_flags(settings):
    flags = []
    for name, value in settings.items():
        if isinstance(value, bool):
            flags.append(flag(name) if value else flag("no_" + name))
        elif isinstance(value, (tuple, list)):
            flags += [flag(name), *map(str, value)]
        else:
            flags += [flag(name), str(value)]
    return flags


def compare(root, options):
    """One row per variant: its measures, and its differences from the baseline with intervals over people."""
    faces = {variant: mean_over_seeds(root, variant, options.seeds) for variant in options.only}
    for name in list(DECODERS)[1:]:
        faces[f"decode {name}"] = mean_over_seeds(root, BASELINE, options.seeds, name)
    rows = []
    for variant, own in faces.items():
        base = faces[BASELINE]
        if not own.path.equals(base.path):
            raise UserError(f"'{variant}' held out other faces than the baseline: choose another --run-dir")
        compute = cost(root, BASELINE if variant.startswith("decode ") else variant, options.seeds)
        row = {"variant": variant, "runs": len(options.seeds), **compute}
        for measure in MEASURES:
            row[measure] = own[measure].mean()
            row[f"{measure}_spread"] = own.attrs[measure]
            gain, low, high = paired_difference(own[measure], base[measure], own.subject)
            row |= {f"{measure}_gain": gain, f"{measure}_low": low, f"{measure}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def mean_over_seeds(root, variant, seeds, decode=None):
    """One row per held-out face: subject and the measures, averaged over seeds; attrs: each one's spread over them."""
    tables = []
    for seed in seeds:
        table = read_predictions(run_folder(root, variant, seed) / "predictions.csv")
        probabilities = table[[f"p{group}" for group in range(len(AGE_GROUPS))]].to_numpy()
        predictions = DECODERS[decode](probabilities) if decode else table.prediction.to_numpy()
        distance = np.abs(predictions - table.label.to_numpy())
        subject = table.path.str.split("/").str[0] + "/" + table.subject
        measures = {name: measure(distance).astype(float) for name, measure in MEASURES.items()}
        tables.append(pd.DataFrame({"path": table.path, "subject": subject, **measures}))
    names = list(MEASURES)
    if any(not table.path.equals(tables[0].path) for table in tables):
        raise UserError(f"the runs of '{variant}' held out different faces: choose another --run-dir")
    mean = tables[0].assign(**{name: np.mean([table[name] for table in tables], axis=0) for name in names})
    spread = np.std([[table[name].mean() for name in names] for table in tables], axis=0, ddof=min(1, len(tables) - 1))
    mean.attrs = dict(zip(names, spread, strict=True))
    return mean


def cost(root, variant, seeds):
    """Images seen in training and the seconds that took, per run."""
    logs = [pd.read_csv(run_folder(root, variant, seed) / "log.csv") for seed in seeds]
    images = np.mean([(log.seconds * log.images_per_second).sum() for log in logs])
    return {"images": round(images), "seconds": float(np.mean([log.seconds.sum() for log in logs]))}


def markdown(table):
    """The table for a document: percent, points of difference with their 95 % intervals."""
    lines = [
        "| variant | top-1 | against baseline | one-off | against baseline | MAE | images | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        gains = [
            "" if row.variant == BASELINE else f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            for gain, low, high in (
                (row.top1_gain, row.top1_low, row.top1_high),
                (row.one_off_gain, row.one_off_low, row.one_off_high),
            )
        ]
        # One run alone says nothing of the spread over seeds.
        spreads = [f" ± {100 * s:.1f}" if row.runs > 1 else "" for s in (row.top1_spread, row.one_off_spread)]
        lines.append(
            f"| {row.variant} | {100 * row.top1:.1f}{spreads[0]} | {gains[0]}"
            f" | {100 * row.one_off:.1f}{spreads[1]} | {gains[1]} | {row.mae:.3f}"
            f" | {row.images / 1000:,.0f} k | {row.seconds:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def read_command_line():
    """(options of this script, settings for main.py that every variant shares)."""
    parser = Parser(prog="ablate.py", description="Train variants of an experiment and compare them.")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", default=list(VARIANTS), help="default: all variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once, which share the cores")
    parser.add_argument("--demo", action="store_true", help="on the drawn demo faces")
    parser.add_argument("--list", action="store_true", help="print the variants and end")
    own = ("run_dir", "seed", "threads", "plots")
    add_options(parser, [name for name in vars(make_config({})) if name not in own])
    parser.add_argument("--run-dir", default="runs/ablation", metavar="DIR")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:<24} {shlex.join(as_flags(VARIANTS[name]))}" for name in VARIANTS))
        sys.exit()
    if unknown := [name for name in options.only if name not in VARIANTS]:
        raise UserError(f"--only '{unknown[0]}': there is no such variant; --list names them")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: a number from 1 upwards is wanted")
    options.only = [BASELINE, *(name for name in options.only if name != BASELINE)]
    mine = ("only", "seeds", "jobs", "demo", "list", "run_dir")
    shared = {name: value for name, value in vars(options).items() if name not in mine}
    return options, shared


if __name__ == "__main__":
    run_script(main)
