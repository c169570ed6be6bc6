"""Train one model per fold of Adience and print the cross-validation table.

    python main.py --label-dir DIR --image-dir DIR
    python main.py --demo

Or set the two paths below and run `python main.py`.
"""

import dataclasses
import functools
import math
import os
import shlex
import sys
from pathlib import Path

import torch
from torchvision.transforms.v2.functional import resize

from augment import Strengths, TrainAugment, gridmask_probability
from data.adience import load_faces
from data.cache import open_cache
from data.demo import DEMO_DIR, make_demo_faces
from data.loader import FaceDataset, derive_seed, epoch_generator, shuffled_batches
from data.split import split_faces
from utils import UserError
from utils.checkpoint import build_model, current_commit, describe_training, fingerprint, parameter_count, size_mib
from utils.cli import run_script
from utils.config import DEMO_SETTINGS, Parser, add_options, make_config
from utils.decode import best_decoder
from utils.device import Compute, keep_large_buffers
from utils.engine import Totals, evaluate, noise, seed_noise, train_one_epoch
from utils.interrupt import Interruption
from utils.learner import Learner
from utils.losses import LOSSES
from utils.pictures import PREVIEWED, draw_faces, draw_numbers
from utils.progress import FoldProgress
from utils.report import cross_validation_table
from utils.run import Run, merge_runs
from utils.schedule import training_size
from utils.world import World

LABEL_DIR = ""  # the folder of fold_0_data.txt to fold_4_data.txt
IMAGE_DIR = ""  # the folder of the albums, Adience's "aligned"

INITIAL, SHUFFLE, AUGMENT, NOISE = range(4)  # independent streams of random numbers


def main():
    config, resume, merge = read_command_line()
    if merge:
        report(merge_runs(merge, config))
        return
    keep_large_buffers()
    compute = Compute.choose(config.device, config.precision, config.threads, config.deterministic, config.compile)
    run = Run(config, resume, writes=compute.world.leads)
    compute.world.wait()  # all have looked at the run directory before the first one writes to it
    if not compute.world.leads:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    faces, counts = load_faces(config.label_dir, config.image_dir, config.label_policy, config.allow_missing)
    print(counts)
    images = open_cache(config.image_dir, faces.path, config.image_size, config.cache_dir)
    describe(config, compute)
    data_fingerprint = fingerprint(faces, images)
    held = compute.hold(images)
    with run.started(data_fingerprint), Interruption(shared=compute.world.size > 1) as interruption:
        for fold in config.folds:
            if not run.is_finished(fold):
                train_fold(config, fold, faces, held, data_fingerprint, run, compute, interruption)
    if compute.world.leads:
        report(run)
        if config.plots:
            draw_faces(run, faces, images, make_augment(config, config.folds[0], config.epochs - 1, PREVIEWED))


def report(run):
    """Write the results, print the table and draw the pictures that need no images."""
    print(f"\n{cross_validation_table(run.finish())}\n")
    if run.config.plots:
        draw_numbers(run)
    pictures = " and pictures" if run.config.plots else ""
    print(f"{run.folder}/ holds the models, log.csv, predictions.csv, results.json{pictures}")
    path = run.model_path(run.finished_folds()[0])
    print(f"evaluate one model: {python_command()} test_code.py {path} --show-errors")


def train_fold(config, fold, faces, images, data_fingerprint, run, compute, interruption):
    """Train on four folds; record the last epoch's model and what it predicts for the fifth."""
    train_faces, val_faces, test_faces = split_faces(faces, fold, config.val_fraction, config.seed)
    if config.decode == "val" and val_faces.empty:
        raise UserError(f"--decode val: --val-fraction {config.val_fraction} leaves no album to choose on")
    world = compute.world
    train_set, val_set, test_set = (FaceDataset(images, f.index, f.label) for f in (train_faces, val_faces, test_faces))
    description = describe_training(config, compute, fold, train_faces, val_faces, data_fingerprint)

    steps = math.ceil(len(train_set) / config.batch_size)
    torch.manual_seed(derive_seed(config.seed, fold, 0, INITIAL))
    learner = Learner(config, compute, steps, train_set.labels.cpu())
    interrupted = run.restore_progress(fold, description, learner)

    with FoldProgress(fold, config.epochs, run.epochs_done(fold), len(train_set), shown=world.leads) as bar:
        for epoch in range(run.epochs_done(fold), config.epochs):
            seed_noise(derive_seed(config.seed, fold, epoch, NOISE), interrupted)
            totals, interrupted = Totals(compute, interrupted), None
            learner.go_on(epoch * steps + totals.faces // config.batch_size)
            order = epoch_generator(config.seed, fold, epoch, SHUFFLE)
            batches = shuffled_batches(
                train_set, config.batch_size, order, totals.faces, world.rank, world.size, learner.sampling
            )
            augment = make_augment(config, fold, epoch, len(train_set), compute.compiles)
            network, objective, optimizer = learner.network, learner.objective, learner.optimizer
            for _ in train_one_epoch(network, batches, augment, objective, optimizer, compute, totals):
                learner.after_step()
                bar.step(totals)
                if interruption.agreed(world):
                    run.save_progress(fold, description, learner, {**totals.record(), **noise()})
                    world.wait()  # torchrun stops the others as soon as one has ended
                    interruption.leave(resume_command() if world.leads else None)
            size = training_size(epoch, config)
            tested, validated = (examine(config, learner, faces, compute, size) for faces in (test_set, val_set))
            row = run.log_row(fold, epoch, learner.rate, augment.strengths.gridmask, totals, tested, validated)
            run.save_epoch(fold, description, learner, row)
            bar.epoch_done(row)
    tested = examine(config, learner, test_set, compute)
    if config.decode == "val":
        validated = examine(config, learner, val_set, compute)
        tested = dataclasses.replace(tested, decode=best_decoder(validated.probabilities, validated.labels))
    run.finish_fold(fold, description, learner.reported, test_faces, tested)


def examine(config, learner, dataset, compute, size=None):
    """The Evaluation of a set of faces, if there are any; size: to shrink them to, as the network was trained on."""
    if not len(dataset):
        return None
    decode = "argmax" if config.decode == "val" else config.decode
    view = functools.partial(resize, size=[size, size]) if size and size < config.image_size else None
    return evaluate(learner.reported, dataset, config.batch_size, compute, LOSSES[config.loss], decode, view)


def resume_command():
    """The command line that goes on with this run."""
    arguments = [argument for argument in sys.argv if argument != "--resume"]
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = f" -m torch.distributed.run --standalone --nproc-per-node {processes}" if processes else ""
    return f"{python_command()}{launcher} {shlex.join([*arguments, '--resume'])}"


def python_command():
    """This interpreter, as one would type it: below the current folder by its relative path."""
    python = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def make_augment(config, fold, epoch, faces, compiles=False):
    """The training transform of an epoch of so many faces."""
    names = {field.name for field in dataclasses.fields(Strengths)} & vars(config).keys()
    probability = gridmask_probability(epoch, config.epochs, config.gridmask_start, config.gridmask_end)
    strengths = Strengths(gridmask=probability, **{name: getattr(config, name) for name in names})
    generator = epoch_generator(config.seed, fold, epoch, AUGMENT)
    return TrainAugment(faces, training_size(epoch, config), generator, strengths, compiles)


def read_command_line():
    """(Config, whether to resume, runs to merge), from the command line over the constants above.

    With runs to merge, the first is the name of the run directory alone.
    """
    parser = Parser(prog="main.py", description="Train one age-group model per fold of Adience.")
    parser.add_argument("--demo", action="store_true", help="small drawn faces and settings that take two minutes")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
    parser.add_argument("--merge", nargs="+", metavar="RUN", help="join the folds of finished runs into --run-dir")
    add_options(parser)
    given = vars(parser.parse_args())
    demo, resume, merge = (given.pop(name) for name in ("demo", "resume", "merge"))
    if merge:
        if given.keys() != {"run_dir"} or demo or resume:
            raise UserError("--merge takes the runs to join and a --run-dir for the result, nothing else")
        return given["run_dir"], False, merge
    if demo:
        if "label_dir" in given or "image_dir" in given:
            raise UserError("--demo draws its own faces; leave --label-dir and --image-dir out")
        world = World.join()
        if world.leads:
            make_demo_faces(DEMO_DIR)
        world.wait()
        return make_config(given, label_dir=DEMO_DIR, image_dir=f"{DEMO_DIR}/aligned", **DEMO_SETTINGS), resume, None
    config = make_config(given, label_dir=LABEL_DIR, image_dir=IMAGE_DIR)
    for name in ("label_dir", "image_dir"):
        if not getattr(config, name):
            option = name.replace("_", "-")
            raise UserError(f"no --{option}: give it, or set {name.upper()} at the top of main.py, or try --demo")
    return config, resume, None


def describe(config, compute):
    model = build_model(config)
    print(f"model: {config.model}, {parameter_count(model):,} parameters, {size_mib(model):.2f} MiB")
    print(f"device: {compute}; code: {current_commit() or 'not under git'}")
    print(f"run: {config.run_dir}, {config.epochs} epochs, folds {' '.join(map(str, config.folds))}")
    late = [step for step in config.lr_steps if step >= config.epochs]
    if late and config.schedule == "step":
        print(
            f"note: the learning rate's decay at epoch {', '.join(map(str, late))} lies beyond --epochs {config.epochs}"
        )


if __name__ == "__main__":
    run_script(main)
