"""Train one model per fold of Adience, or of your own faces, and print the cross-validation table.

    python main.py --label-dir DIR --image-dir DIR
    python main.py --label-file FACES.csv --image-dir DIR --age-groups 0-12 13-19 20-39 40-59 60+
    python main.py --demo

Or set the two paths below and run `python main.py`.
"""

import dataclasses
import os
import shlex
import sys

from utils.cli import printable, python_command, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.arguments import read_arguments, resume_command

LABEL_DIR = ""  # folder of fold_0_data.txt to fold_4_data.txt
IMAGE_DIR = ""  # folder of the face images, Adience's "aligned" or "faces"


def check_arguments():
    """Parse the command line early; main() parses it again and uses the result."""
    read_arguments(LABEL_DIR, IMAGE_DIR)


if __name__ == "__main__":
    # Before the imports below, because torch takes seconds: --help and invalid options are answered at once.
    run_script(check_arguments)

from data import Pictures, load_data, make_demo_faces, open_cache, split_faces
from report import board, figures, page, study, tables
from training.engine import epoch_pipeline, evaluate_split, final_predictions, preview_augment, train_one_epoch
from training.merge import merge_runs
from training.optim import TrainState, check_initial_weights, check_training_sets
from training.progress import FoldProgress, describe, print_twins
from training.run import Run, check_folder, current_commit
from utils.device import Compute, keep_large_buffers
from utils.options import to_record
from utils.signals import Interruption


def main():
    arguments = read_arguments(LABEL_DIR, IMAGE_DIR)
    if arguments.merge:
        merge(arguments)
    else:
        train(arguments)


def train(arguments):
    """Train the folds that are not finished yet and report on all of them."""
    config = arguments.config
    config.network_options()  # raises UserError for an option that the network does not have
    check_folder(config.run_dir, arguments.resume)
    if config.tensorboard:
        board.summary_writer()  # raises UserError where the extra is not installed
    keep_large_buffers()
    compute = Compute.choose(config.device, config.precision, config.threads, config.deterministic, config.compile)
    # "auto" is decided once: a resumed run keeps the precision that it began with.
    config = dataclasses.replace(config, precision=compute.precision)
    if not compute.distributed.is_main_process:  # only the main process prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if arguments.demo:
        make_demo_faces(config.label_dir)

    faces, counts = load_data(**config.data_source)
    print(counts)
    config = arguments.with_folds(config, faces)
    check_training_sets(config, faces, compute.distributed.world_size)
    images = open_cache(config.image_dir, faces.table.path, config.image_size, config.cache_dir)
    describe(config, compute, faces.class_names, current_commit())
    pictures = Pictures.of(images)
    print_twins(pictures.across_folds(faces), faces)
    check_initial_weights(config, faces, pictures)
    run = Run(config, arguments.resume, compute, faces.fingerprint(images), pictures)
    device_images = compute.to_device(images)
    with run, Interruption(compute.distributed) as interruption:
        run.save_folds(faces)
        for fold in config.folds:
            if not run.is_finished(fold):
                train_fold(fold, faces, device_images, run, interruption)
        if compute.distributed.is_main_process:
            report(run, faces, images, pictures.pairs)
            if config.plots:
                augment = preview_augment(config, figures.PREVIEW_DRAWS * len(faces.class_names))
                figures.draw_faces(run.folder, run.predictions(), faces, images, augment, config.plot_format)


def train_fold(fold, faces, images, run, interruption):
    """Train on four folds; save the last epoch's model and its predictions for the fifth."""
    config, compute = run.config, run.compute
    train, val, test = split_faces(faces, fold, config.val_fraction, config.seed)
    state = TrainState(config, fold, train, compute)
    meter = run.restore(fold, state)
    first = run.epochs_done(fold)
    events = board.Board(run.folder, fold, first, config.tensorboard and run.writes)
    with events, FoldProgress(fold, run.unfinished_folds(), state, config, compute) as progress:
        for epoch in range(first, config.epochs):
            batches, augment = epoch_pipeline(config, epoch, images, train, state, compute)
            completed = train_one_epoch(state, batches, augment, meter, compute, progress, interruption)
            if not completed:
                run.save_progress(fold, state, meter)
                interruption.leave(resume_command(config))  # exits
            tested = evaluate_split(config, epoch, images, test, state, compute)
            validated = evaluate_split(config, epoch, images, val, state, compute)
            row = run.save_epoch(fold, epoch, state, meter, tested, validated)
            progress.epoch_done(row)
            events.epoch_done(row, tested, train, images, augment)
            meter.reset()
    # Again, because a run that is resumed after its last epoch skips the loop.
    tested, validated = final_predictions(config, images, test, val, state, compute)
    run.finish_fold(fold, state, train, val, tested, validated)


def merge(arguments):
    """Merge the folds of finished runs into one run directory and report on them."""
    with merge_runs(arguments.merge, arguments.config.run_dir, Compute.choose("cpu", "fp32")) as run:
        report(run)


def report(run, faces=None, images=None, pairs=study.NO_PAIRS):
    """Write the results, print the table, and write the plots that need no images and the HTML report."""
    results, predictions = run.finish(), run.predictions()
    print(f"\n{tables.cross_validation_table(results, predictions)}\n")
    tables.write_latex_table(run.folder / "results.tex", results)
    if run.config.plots:
        command = f"{python_command()} {shlex.join(sys.argv)}"
        made_from = (to_record(run.config), predictions, run.history, run.models(), faces, images, pairs, command)
        page.write_report(run.folder / "report.html", study.study_of_run(*made_from), run.config.plot_format)
    plots = ", plots and report.html, which shows every mistake" if run.config.plots else ""
    print(f"{printable(run.folder)}/ holds the models, log.csv, predictions.csv, results.json, results.tex{plots}")
    path = printable(shlex.quote(str(run.model_path(run.finished_folds()[0]))))
    print(f"evaluate one model: {python_command()} test_code.py {path} --show-errors")


if __name__ == "__main__":
    run_script(main)
