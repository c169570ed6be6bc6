"""Train one model per fold of Adience, or of your own faces, and print the cross-validation table.

    python main.py --label-dir DIR --image-dir DIR
    python main.py --label-file FACES.csv --image-dir DIR --age-groups 0-12 13-19 20-39 40-59 60+
    python main.py --demo

Or set the two paths below and run `python main.py`.
"""

import dataclasses
import functools
import os
import sys

import utils.startup  # noqa: F401
from data.load import load_data, make_demo_faces, open_cache
from photos.framing import measure_framing
from report import data, page, plots, tables
from training.arguments import read_arguments, resume_command
from training.engine import (
    EpochMeter,
    epoch_pipeline,
    evaluate_fold,
    final_evaluations,
    preview_augment,
    train_one_epoch,
)
from training.progress import FoldProgress, describe, describe_duplicates
from training.results import write_results
from training.run_directory import RunDirectory, check_folder
from training.setup import check_origins, choose_shuffle, make_state, set_up_folds
from utils.cli import printable, python_command, run_script
from utils.device import Runtime, keep_large_buffers
from utils.signals import Interruption

LABEL_DIR = ""  # folder of fold_0_data.txt to fold_4_data.txt
IMAGE_DIR = ""  # folder of the face images, Adience's "aligned" or "faces"


def main():
    """Train the folds that are not finished yet and report on all of them."""
    arguments = read_arguments(LABEL_DIR, IMAGE_DIR)
    config = arguments.config
    check_folder(config, arguments.resume)
    keep_large_buffers()
    machine = (config.device, config.precision, config.threads, config.deterministic, config.compile)
    runtime = Runtime.setup(*machine, join=True)
    # "auto" is decided once: a resumed run keeps the precision that it began with.
    config = dataclasses.replace(config, precision=runtime.precision)
    if not runtime.distributed.is_main_process:  # only the main process prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if arguments.demo:
        make_demo_faces(config.label_dir)

    faces, label_report = load_data(**config.data_source)
    print(label_report)
    config = arguments.choose_folds(config, faces)
    network, setups = set_up_folds(config, faces, runtime.distributed.world_size)
    cache = open_cache(config.image_dir, faces.table.path, config.image_size, config.cache_dir, config.skip_damaged)
    if cache.damaged:
        faces = cache.readable(faces)
        network, setups = set_up_folds(config, faces, runtime.distributed.world_size)
    config = choose_shuffle(config, cache.images, runtime.distributed)
    describe(config, network, runtime)
    describe_duplicates(cache.pictures.across_folds(faces), faces)
    check_origins(setups.values(), cache.pictures.signatures)

    images = runtime.to_device(cache.images)

    @functools.cache
    def find_framing():
        framing, line = measure_framing(config.image_dir, faces.table.path)
        if framing is not None or not arguments.demo:  # nobody runs predict.py on the demo faces
            print(line)
        return framing

    run = RunDirectory(config.run_dir)
    with (
        run.open(config, runtime, faces, cache, arguments.resume),
        Interruption(distributed=runtime.distributed) as interruption,
    ):
        for fold in [fold for fold in config.folds if not run.is_finished(fold)]:
            train_fold(setups[fold], images, run, interruption, find_framing)
        if runtime.distributed.is_main_process:
            report_results(run, label_report, arguments.command)


def train_fold(setup, images, run, interruption, find_framing):
    """Train on the other folds; save the last epoch's model and its predictions for the held-out one."""
    config, runtime, fold = run.config, run.runtime, setup.fold
    state = make_state(config, setup, runtime)
    first_epoch, meter = run.resume_fold(fold, state)
    with FoldProgress(fold, state, config, runtime) as progress:

        def after_step():
            progress.update(meter)
            return interruption.agreed()

        for epoch in range(first_epoch, config.epochs):
            batches, augment = epoch_pipeline(config, epoch, images, setup.train, state, runtime)
            if not train_one_epoch(state, batches, augment, meter, runtime, after_step):
                run.save_progress(fold, state, meter)
                interruption.leave(resume_command(config))  # exits
            tested, validated = evaluate_fold(config, images, setup, state, runtime)
            row = run.save_epoch(setup, epoch, state, meter, tested, validated)
            progress.epoch_done(row)
            meter = EpochMeter(runtime)
    # Evaluated again: a run that is resumed after its last epoch has skipped the loop.
    tested, validated = final_evaluations(config, images, setup, state, runtime)
    run.save_fold(setup, state, tested, validated, find_framing())


def report_results(run, label_report, command):
    """Write the results, print the table, and write the plots and the HTML report, which shows the command."""
    if not run.evaluations:  # a model of all faces
        print(f"{printable(run.model_path(run.config.folds[0]))} is trained on all {len(run.faces):,} faces")
        return
    results = write_results(run)
    config, faces, images = run.config, run.faces, run.cache.images
    print(f"\n{tables.cross_validation_table(results, run.evaluations)}\n")
    tables.write_latex_table(run.folder / "results.tex", results)
    if config.plots:
        made = vars(config), run.evaluations, run.history
        pairs = run.cache.pictures.pairs_among(faces)
        report_data = data.run_data(*made, faces, images, pairs, label_report, command)
        page.write_report(run.folder / "report.html", report_data, config.plot_format)
        augment = preview_augment(config, plots.PREVIEW_DRAWS * len(faces.classes))
        plots.save(plots.plot_augmentation(faces, images, augment), run.folder / "augmentation", config.plot_format)
    written = ", plots and report.html" if config.plots else ""
    print(f"{printable(run.folder)}/ holds the models, log.csv, predictions.csv, results.json, results.tex{written}")
    path = str(run.model_path(min(run.evaluations)))
    print(f"evaluate one model: {printable(python_command('test_code.py', path, '--show-errors'))}")


if __name__ == "__main__":
    run_script(main, Runtime.leave)
