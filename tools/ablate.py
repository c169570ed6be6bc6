"""Train named variants of one experiment with several seeds, and tell which change makes a difference.

    python -m tools.ablate --label-dir DIR --image-dir DIR --folds 0 --seeds 0 1 --epochs 8 --image-size 64
    python -m tools.ablate --demo --only baseline relu --seeds 0

Every variant is `main.py` with the baseline's settings and the few of its own in VARIANTS. The same command again
resumes where it stopped. It writes ablation.csv, ablation.md and ablation.png into --run-dir.

`--rounds 3` searches among many variants by successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization", AISTATS 2016): all of them train for a quarter of the epochs, the
better half for half of them, the best quarter for all. The validation faces decide; the baseline is in every round.
"""

import dataclasses
import math
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

import numpy as np
import pandas as pd

from data import make_demo_faces
from data.demo import DEMO_DIR
from evaluation.bootstrap import paired_difference
from evaluation.decode import DECODERS
from evaluation.metrics import METRICS
from training import LOSSES
from training.config import DEMO_DEFAULTS, FIELDS, RECIPES, SECTIONS, Config, differences, in_epochs, read_config
from training.results import read_results
from utils.errors import UserError
from utils.files import check_output, write_csv, write_text
from utils.foreign import exists, open_regular, read_text
from utils.options import Parser, add_options, as_flags, as_tuples, default_of, flag

MAIN = Path(__file__).parents[1] / "main.py"
BASELINE = "baseline"
RECIPE = "modern"  # of every variant, unless its own settings or the command line say otherwise
GEOMETRY_OFF = dict.fromkeys(("rotation", "scale", "shift"), 0.0)
JITTER_OFF = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
GRIDMASK_OFF = dict.fromkeys(("gridmask_start", "gridmask_end"), 0.0)
VARIANTS = {
    BASELINE: {},
    "original recipe": {"recipe": "original"},
    "sgd": {"optimizer": "sgd", "nesterov": True, "weight_decay": 5e-4, "decay_weights_only": True},
    "batch 32": {"batch_size": 32, "lr": 0.05},
    "batch 64": {"batch_size": 64, "lr": 0.07},
    "lr 0.05": {"lr": 0.05},
    "lr 0.2": {"lr": 0.2},
    "weight decay": {"weight_decay": 0.01},
    "step decay": {"schedule": "step", "lr_steps": RECIPES["original"]["lr_steps"]},
    "linear decay": {"schedule": "linear"},
    "averaged weights": {"averaging": 0.05},
    "relu": {"negative_slope": 0.0},
    "1x1 shortcuts": {"shortcut": "1x1"},
    "no zero init": {"zero_init": False},
    "pytorch init": {"init": "pytorch", "zero_init": False},
    "squeeze and excitation": {"attention": "se"},
    "cbam": {"attention": "cbam"},
    "no flip": {"flip": 0.0},
    "no rotation, scale, shift": GEOMETRY_OFF,
    "rotation 10": {"rotation": 10.0, "scale": 0.1, "shift": 0.05},
    "rotation 20": {"rotation": 20.0, "scale": 0.1, "shift": 0.05},
    "bilinear": {"interpolation": "bilinear"},
    "black corners": {"padding": "zeros"},
    "no colour jitter": JITTER_OFF,
    "no gridmask": GRIDMASK_OFF,
    "gridmask not rotated": {"gridmask_rotated": False},
    "gridmask 0.3": {"gridmask_start": 0.3, "gridmask_end": 0.3},
    "gridmask 0.8 to 0": {"gridmask_start": 0.8, "gridmask_end": 0.0},
    "no augmentation": {"flip": 0.0, **GEOMETRY_OFF, **JITTER_OFF, **GRIDMASK_OFF},
    "random crops": {"crop": 0.5, "scale": 0.0, "shift": 0.0},
    "random erasing": {"erasing": 0.5},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "balanced sampling": {"balance": "sampling"},
    "balanced loss": {"balance": "loss"},
    **{f"loss {name}": {"loss": name} for name in LOSSES if name != RECIPES[RECIPE]["loss"]},
}
OWN_OPTIONS = ("run_dir", "seed", "plots")  # set by this script for every run
LOG_LIMIT = 256  # MiB
running = set()  # processes of main.py


def main():
    options, shared = read_command_line()
    root = Path(options.run_dir)
    check_folder(root)
    if options.demo:
        make_demo_faces(DEMO_DIR)  # once, before several runs need them
    tables, variants = [], options.only
    for rounds_left in reversed(range(options.rounds)):
        epochs = options.epochs // 2**rounds_left
        folder = root / f"{epochs}_epochs" if rounds_left else root
        train_all(folder, variants, options, {**shared, "epochs": epochs})
        tables.append(compare(folder, variants, options.seeds, validated=shared.get("val_fraction", 0) > 0))
        tables[-1].insert(1, "epochs", epochs)
        variants = better_half(tables[-1], variants, options.judge) if rounds_left else variants
    table = pd.concat(tables[::-1], ignore_index=True)  # the longest runs first
    write_csv(root / "ablation.csv", table)
    text = "\n".join(markdown(rows) for rows in tables[::-1])
    write_text(root / "ablation.md", text)
    from report.plots import plot_ablation, save  # brings torch

    save(plot_ablation(tables[-1]), root / "ablation")
    print(f"\n{text}")
    print(f"{printable(root)}/ holds ablation.csv, ablation.md and ablation.png")


def train_all(folder, variants, options, shared):
    """Run what has not finished yet, `options.jobs` runs at a time. Raises UserError when one fails."""
    jobs = [(variant, seed) for seed in options.seeds for variant in variants]
    started = time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for number, _ in enumerate(pool.map(lambda job: train(folder, *job, options, shared), jobs), 1):
                minutes = (time.perf_counter() - started) / 60
                print(f"{number} of {len(jobs)} runs of {shared['epochs']} epochs done, {minutes:.0f} min", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()  # it saves its step, and this script resumes from there
            raise


def better_half(table, variants, judge):
    """The baseline and the better half of the other variants, by a metric of the validation faces."""
    values = table.set_index("variant")[f"val_{judge}"]
    others = sorted(variants[1:], key=values.get, reverse=not METRICS[judge].lower_is_better)
    kept = others[: math.ceil(len(others) / 2)]
    print(f"validation {METRICS[judge].title} keeps {', '.join(kept)}", flush=True)
    return [BASELINE, *kept]


def check_folder(root):
    """Refuse a folder whose tables are somebody else's. Raises UserError."""
    if exists(root) and not root.is_dir():
        raise UserError(f"--run-dir '{root}': expected a folder, this is a file")
    check_output(root / "ablation.csv", is_ablation, "the table of an ablation")
    for name in ("ablation.md", "ablation.png"):
        if exists(root / name) and not exists(root / "ablation.csv"):
            raise UserError(f"'{root / name}' exists and is not ours: there is no ablation.csv beside it")


def is_ablation(path):
    with open_regular(path, LOG_LIMIT) as file:
        return file.readline(200).startswith((b"variant,epochs,runs,images,seconds,", b"variant,runs,images,seconds,"))


def train(folder, variant, seed, options, shared):
    """Run main.py for one variant and seed, unless it has finished before. Raises UserError when it fails."""
    run_dir = run_folder(folder, variant, seed)
    config = variant_config(variant, seed, shared, options.demo)
    if exists(run_dir / "config.json"):
        recorded = read_config(run_dir)
        if differing := differences(recorded, vars(config)):
            raise UserError(f"'{run_dir}' was trained with other settings: {differing}")
        if exists(run_dir / "results.json") and set(recorded.folds) == set(config.folds):
            return
    settings = {name: value for name, value in vars(config).items() if name not in ("run_dir", "plots")}
    threads = config.threads or max(1, os.cpu_count() // options.jobs)
    command = [sys.executable, str(MAIN), *as_flags({**settings, "threads": threads}), "--no-plots"]
    command += ["--run-dir", str(run_dir), *(["--resume"] if exists(run_dir / "config.json") else [])]
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{run_dir.name}.log"
    if log_path.is_symlink() or (exists(log_path) and not log_path.is_file()):
        raise UserError(f"'{log_path}' is not a regular file; move it away")
    with open(log_path, "a") as log:
        # In a session of its own: Ctrl-C reaches it once, as the signal that main() sends.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        running.add(process)
        status = process.wait()
        running.discard(process)
    if status:
        lines = read_text(log_path, LOG_LIMIT).strip().splitlines() or ["it printed nothing"]
        reason = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        raise UserError(f"'{variant}' with seed {seed} ended with status {status}: {reason[-1]} ({log_path})")


def run_folder(folder, variant, seed):
    return folder / f"{variant.replace(' ', '_')}_seed{seed}"


def variant_config(variant, seed, shared, demo):
    """The Config of a run: the baseline's settings, the command line's, then the variant's own."""
    own = VARIANTS[variant]
    if own.get("recipe", RECIPE) != RECIPE:
        shared = {name: value for name, value in shared.items() if name not in RECIPES[RECIPE]}
    own = {name: in_epochs(value, chosen_epochs(shared, demo)) for name, value in own.items()}
    demo_paths = {"label_dir": DEMO_DIR, "image_dir": f"{DEMO_DIR}/aligned", **DEMO_DEFAULTS} if demo else {}
    return Config(**{**demo_paths, "recipe": RECIPE, **shared, **own, "seed": seed})


def chosen_epochs(shared, demo):
    """The number of epochs of the command line, or else the default."""
    return {"epochs": default_of(FIELDS["epochs"]), **(DEMO_DEFAULTS if demo else {}), **shared}["epochs"]


def compare(folder, variants, seeds, validated):
    """One row per variant: its metrics, and its differences from the baseline with intervals over people.

    Args:
        validated: whether the runs held validation faces out, so that there are metrics of these too.
    """
    faces = {variant: mean_over_seeds(folder, variant, seeds) for variant in variants}
    for name in list(DECODERS)[1:]:
        faces[f"decode {name}"] = mean_over_seeds(folder, BASELINE, seeds, name)
    base, rows = faces[BASELINE], []
    for variant, own in faces.items():
        if own.attrs["data"] != base.attrs["data"] or not own.path.equals(base.path):
            raise UserError(
                f"'{variant}' saw other faces, labels or pixels than the baseline: choose another --run-dir"
            )
        cost = training_cost(folder, BASELINE if variant.startswith("decode ") else variant, seeds)
        row = {"variant": variant, "runs": len(seeds), **cost}
        for name in METRICS:
            row[name], row[f"{name}_spread"] = own[name].mean(), own.attrs[name]
            gain, low, high = paired_difference(own[name], base[name], own.person)
            row |= {f"{name}_gain": gain, f"{name}_low": low, f"{name}_high": high}
        if validated and not variant.startswith("decode "):
            row |= validation_metrics(folder, variant, seeds)
        rows.append(row)
    return pd.DataFrame(rows)


def mean_over_seeds(folder, variant, seeds, decoder=None):
    """One row per held-out face: person and metrics, averaged over seeds.

    attrs: each metric's spread over the seeds, and the fingerprint of the data.
    """
    tables, data, folds = [], [], []
    for seed in seeds:
        results, predictions = read_results(run_folder(folder, variant, seed))
        data.append(results["data_fingerprint"])
        folds += [fold["predictions_sha256"] for fold in results["folds"]]
        if decoder:
            predictions = dataclasses.replace(predictions, stored=DECODERS[decoder](predictions.probabilities))
        metrics = {name: predictions.per_face(name) for name in METRICS}
        faces = predictions.faces
        tables.append(pd.DataFrame({"path": faces.table.path, "person": faces.people, **metrics}))
    names = list(METRICS)
    if len(set(data)) > 1 or any(not table.path.equals(tables[0].path) for table in tables):
        raise UserError(f"the runs of '{variant}' saw different faces, labels or pixels: choose another --run-dir")
    if len(set(folds)) < len(folds):
        raise UserError(f"two runs of '{variant}' have the same predictions: one run was copied and would count twice")
    mean = tables[0].assign(**{name: np.mean([table[name] for table in tables], axis=0) for name in names})
    spread = np.std([[table[name].mean() for name in names] for table in tables], axis=0, ddof=min(1, len(tables) - 1))
    mean.attrs = {**dict(zip(names, spread, strict=True)), "data": data[0]}
    return mean


def training_cost(folder, variant, seeds):
    """Images seen in training and the seconds that took, per run."""
    logs = [read_log(run_folder(folder, variant, seed), ["seconds", "images_per_second"]) for seed in seeds]
    images = np.mean([(log.seconds * log.images_per_second).sum() for log in logs])
    return {"images": round(images), "seconds": float(np.mean([log.seconds.sum() for log in logs]))}


def validation_metrics(folder, variant, seeds):
    """{val_METRIC: mean over seeds and folds after the last epoch}."""
    columns = [f"val_{name}" for name in METRICS]
    logs = pd.concat([read_log(run_folder(folder, variant, seed), ["epoch", *columns]) for seed in seeds])
    return logs.loc[logs.epoch == logs.epoch.max(), columns].mean().to_dict()


def read_log(run_dir, columns):
    """Columns of a run's log.csv, as floats. Raises UserError."""
    path = run_dir / "log.csv"
    with open_regular(path, LOG_LIMIT) as file:
        try:
            log = pd.read_csv(file)[columns].astype(float)
            if not np.isfinite(log).all(axis=None):
                raise ValueError("a value is not a finite number")
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(f"'{path}' is damaged: {error}") from None
    return log


def markdown(table):
    """The table for a document: values, and differences from the baseline with their 95 % intervals."""
    titles = [f"{metric.title} | against baseline" for metric in METRICS.values()]
    lines = [f"| variant | epochs | {' | '.join(titles)} | images | seconds |", "|---" * (2 * len(METRICS) + 4) + "|"]
    for row in table.to_dict("records"):
        cells = [row["variant"], f"{row['epochs']}"]
        for name, metric in METRICS.items():
            # One run alone has no spread over seeds.
            spread = f" ± {metric.show(row[f'{name}_spread'])}" if row["runs"] > 1 else ""
            cells.append(metric.show(row[name]) + spread)
            gain, low, high = (metric.show_difference(row[f"{name}_{part}"]) for part in ("gain", "low", "high"))
            cells.append("" if row["variant"] == BASELINE else f"{gain} ({low} to {high})")
        lines.append(f"| {' | '.join(cells)} | {row['images'] / 1000:,.0f} k | {row['seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def read_command_line():
    """(options of this script, settings of main.py that every variant shares)."""
    parser = Parser(prog="python -m tools.ablate", description="Train variants of an experiment and compare them.")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", default=list(VARIANTS), help="variants (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="rounds of successive halving; 1 disables it (default: 1)"
    )
    parser.add_argument(
        "--judge", choices=tuple(METRICS), default="top1", help="validation metric of the halving (default: top1)"
    )
    parser.add_argument("--demo", action="store_true", help="use the drawn demo faces")
    parser.add_argument("--list", action="store_true", help="print the variants and exit")
    parser.add_argument("--run-dir", default="runs/ablation", metavar="DIR", help="folder (default: runs/ablation)")
    defaults = vars(Config(recipe=RECIPE))
    for section in SECTIONS:
        names = [field.name for field in dataclasses.fields(section) if field.name not in OWN_OPTIONS]
        add_options(parser.add_argument_group(section.title), [FIELDS[name] for name in names], defaults)
    options = parser.parse_args()
    if options.list:
        for name, own in VARIANTS.items():
            print(f"{name:<24} {shlex.join(as_flags({k: in_epochs(v, 100) for k, v in own.items()}))}")
        sys.exit()
    if unknown := [name for name in options.only if name not in VARIANTS]:
        raise UserError(f"--only '{unknown[0]}': there is no such variant; --list names them")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected a number from 1")
    if len(set(options.seeds)) < len(options.seeds):
        raise UserError(f"--seeds {' '.join(map(str, options.seeds))}: name each seed once; a run counts once")
    mine = ("only", "seeds", "jobs", "rounds", "judge", "demo", "list", "run_dir")
    shared = as_tuples({name: value for name, value in vars(options).items() if name not in mine})
    options.epochs = chosen_epochs(shared, options.demo)
    check_rounds(options, shared)
    options.only = [BASELINE, *(name for name in dict.fromkeys(options.only) if name != BASELINE)]
    return options, shared


def check_rounds(options, shared):
    """Raises UserError where successive halving has nothing to judge by, or too few epochs."""
    if not 1 <= options.rounds <= 1 + int(math.log2(max(1, options.epochs))):
        raise UserError(
            f"--rounds {options.rounds}: expected 1 or more, and at least 1 of the {options.epochs} epochs in"
            " the first of them"
        )
    if options.rounds > 1 and not shared.get("val_fraction"):
        raise UserError(f"--rounds {options.rounds}: there are no validation faces to judge by; add --val-fraction 0.2")
    for name in ("lr_steps", "warmup"):
        if options.rounds > 1 and name in shared:
            raise UserError(
                f"--rounds {options.rounds} with {flag(name)}: the shorter rounds need shorter ones; omit it"
            )


if __name__ == "__main__":
    run_script(main)
