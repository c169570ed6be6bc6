"""Evaluate saved models on the fold that each of them held out.

    python test_code.py runs/NAME/fold_0.pt [more.pt ...] [--show-errors]

The checkpoint says which network, fold, label policy and image size it was made with, and where
the data was; --label-dir and --image-dir say where it is now.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from augment import to_network_input
from data.adience import AGE_GROUPS, FOLDS, load_faces
from data.cache import open_cache
from data.loader import FaceDataset
from utils import UserError
from utils.bootstrap import paired_difference
from utils.checkpoint import load_finished, parameter_count, people, restore_model, size_mib
from utils.cli import run_script
from utils.config import Parser, add_options, on_this_machine
from utils.device import Compute, keep_large_buffers
from utils.engine import Evaluation, evaluate, median_seconds
from utils.errors import find_errors, rank, write_errors
from utils.files import write_json
from utils.losses import LOSSES
from utils.metrics import per_class
from utils.report import confusion_table, per_class_table
from utils.views import VIEWS, enlarged_size, ten_crops

SETTINGS = "label_dir image_dir cache_dir batch_size device precision threads allow_missing decode".split()


@dataclass
class Judged:
    """A checkpoint that was evaluated: its report, and the probabilities (N, K) of each look at its N faces."""

    report: dict
    evaluation: Evaluation
    faces: pd.DataFrame
    images: np.ndarray
    looks: dict


def main():
    options = read_command_line()
    keep_large_buffers()
    judged = [evaluate_checkpoint(path, options) for path in options.checkpoints]
    reports = [one.report for one in judged]
    if len(judged) > 1:
        print(f"\nmean of {len(reports)} models: {mean_line(reports)}")
    fusions = [fusion for group in fusible(judged, options.fuse) if (fusion := fuse(group))]
    for fusion in fusions:
        print_fusion(fusion)
    if options.show_errors:
        errors = rank(pd.concat([find_errors(one.evaluation.table(one.faces), one.images) for one in judged]))
        write_errors(options.error_dir, errors)
        print(f"\nwrote {len(errors):,} misclassified images and errors.csv to {options.error_dir}/")
    if options.json:
        write_json(options.json, reports + [{"fusion": fusion} for fusion in fusions])


def evaluate_checkpoint(path, options):
    """Print one model's report; returns what was found as a Judged."""
    content = load_finished(path)
    model, trained = restore_model(path, content)
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    config = on_this_machine(trained, {"decode": content["metrics"].get("decode", "argmax"), **given})
    if config.decode == "val":
        raise UserError("--decode val: main.py chooses on the validation faces; name a decoder here")
    compute = Compute.choose(config.device, config.precision, config.threads)
    faces, _ = load_faces(config.label_dir, config.image_dir, config.label_policy, config.allow_missing)
    test_faces, what = choose_faces(path, content, faces, options)
    refuse_known_people(path, content, test_faces, what)
    images = open_cache(config.image_dir, faces.path, config.image_size, config.cache_dir)
    test_set = FaceDataset(images, test_faces.index, test_faces.label)
    model.to(compute.device, memory_format=torch.channels_last)

    def look(dataset=test_set, view=None):
        return evaluate(model, dataset, config.batch_size, compute, LOSSES[config.loss], config.decode, view)

    evaluation = look()
    latency = measure_latency(model, test_set, config.batch_size, compute)
    report = {
        "checkpoint": str(path),
        "held_out_fold": content["fold"],
        "evaluated": what,
        **as_record(model, evaluation, latency, compute),
    }
    print_report(report, evaluation)
    looks = {"plain": evaluation.probabilities}
    for name in options.views:
        looks[name] = look(view=VIEWS[name]).probabilities
    if options.crops == 10:
        size = config.image_size
        large = open_cache(config.image_dir, faces.path, enlarged_size(size), config.cache_dir)
        crops = FaceDataset(large, test_faces.index, test_faces.label)
        looks["10 crops"] = np.mean([look(crops, view).probabilities for view in ten_crops(size)], axis=0)
    if options.second_image_dir:
        looks[Path(options.second_image_dir).name] = look(
            second_images(options, config, faces, test_faces)
        ).probabilities
    return Judged(report, evaluation, test_faces, images, looks)


def second_images(options, config, faces, test_faces):
    """The same faces out of another folder, say `faces` beside `aligned`. Raises UserError."""
    others, _ = load_faces(config.label_dir, options.second_image_dir, config.label_policy, config.allow_missing)
    # A path is the album, how the face was cut out, the person and the original image.
    who, whose = (table.album + "/" + table.path.str.split(".", n=1).str[1] for table in (faces, others))
    if not who.equals(whose):
        raise UserError(f"--second-image-dir {options.second_image_dir}: it does not hold the same faces")
    images = open_cache(options.second_image_dir, others.path, config.image_size, config.cache_dir)
    return FaceDataset(images, test_faces.index, test_faces.label)


def fusible(judged, asked):
    """Groups of models to fuse: all, if they held out the same fold, else each by itself, with its own looks.

    asked: to fuse all. Raises UserError where they cannot.
    """
    folds = sorted({one.report["held_out_fold"] for one in judged})
    if len(folds) == 1 and all(one.faces.path.equals(judged[0].faces.path) for one in judged):
        return [judged]
    if asked and len(folds) > 1:
        raise UserError(f"--fuse: these models held out folds {', '.join(map(str, folds))}; models of one fold fuse")
    if asked:
        raise UserError("--fuse: these models were evaluated on different faces")
    return [[one] for one in judged]


def fuse(judged):
    """What averaging the probabilities of all models' looks gives, as plain values; None where there is one look.

    The fusion of Yaman et al., 2019, at the level of scores.
    """
    looks = [probabilities for one in judged for probabilities in one.looks.values()]
    if len(looks) == 1:
        return None
    first = judged[0].evaluation
    fused = dataclasses.replace(first, probabilities=np.mean(looks, axis=0))
    record = {
        "checkpoints": [one.report["checkpoint"] for one in judged],
        "looks": list(judged[0].looks),
        **fused.summary(),
        "decode": fused.decode,
    }
    single = np.mean([one.evaluation.predictions == one.evaluation.labels for one in judged], axis=0)
    near = np.mean([np.abs(one.evaluation.predictions - one.evaluation.labels) <= 1 for one in judged], axis=0)
    who = people(judged[0].faces)
    record["top1_gain"] = paired_difference(fused.predictions == fused.labels, single, who)
    record["one_off_gain"] = paired_difference(np.abs(fused.predictions - fused.labels) <= 1, near, who)
    return record


def print_fusion(fused):
    paths = fused["checkpoints"]
    models = f"{len(paths)} models" if len(paths) > 1 else paths[0]
    print(f"\nfusion of {models}, views: {', '.join(fused['looks'])}")
    print(f"fused accuracy: {fused['top1']:.2%}, one-off {fused['one_off']:.2%}, MAE {fused['mae']:.3f}")
    for name, text in (("top1_gain", "top-1"), ("one_off_gain", "one-off")):
        gain, low, high = (100 * value for value in fused[name])
        print(f"  {text} {gain:+.2f} points over the single plain models (95 % interval {low:+.2f} to {high:+.2f})")


def choose_faces(path, content, faces, options):
    """The faces to evaluate, and what they are, in words. Raises UserError."""
    if options.set == "val":
        chosen = faces[faces.album.isin(content["val_albums"]) & (faces.fold != content["fold"])]
        if not content["val_albums"]:
            raise UserError(f"--set val: '{path}' held no faces out for tuning; train it with --val-fraction")
        if chosen.empty:
            raise UserError(f"--set val: none of the albums that '{path}' held out is in these label files")
        return chosen, f"the validation set, {chosen.album.nunique()} albums of the training folds"
    fold = content["fold"] if options.fold is None else options.fold
    return faces[faces.fold == fold], f"fold {fold}"


def refuse_known_people(path, content, test_faces, what):
    known = set(content["train_people"])
    seen = people(test_faces).isin(known)
    if seen.any():
        raise UserError(
            f"'{path}' was trained on people of these faces: {int(seen.sum()):,} of {len(seen):,} in {what},"
            f" first {test_faces.path[seen].iloc[0]}; it held out fold {content['fold']}"
        )


@torch.inference_mode()
def measure_latency(model, dataset, batch_size, compute):
    """Median seconds from cached bytes to the network's outputs, for one face and for a batch."""
    latency = {}
    for name, count in (("one", 1), ("batch", min(batch_size, len(dataset)))):
        images = dataset[torch.arange(count)][0].to(compute.device)

        def forward(images=images):
            with compute.autocast():
                model(to_network_input(images))

        latency[name] = {"images": count, "seconds": median_seconds(forward, compute)}
    return latency


def as_record(model, evaluation, latency, compute):
    """What --json writes for a checkpoint; fractions, seconds and counts."""
    faces, class_top1, class_one_off = per_class(evaluation.confusion)
    return {
        "parameters": parameter_count(model),
        "size_mib": size_mib(model),
        "faces": len(evaluation.labels),
        **evaluation.summary(),
        "decode": evaluation.decode,
        "groups": [
            {"group": group, "faces": int(n), "top1": none_if_nan(exact), "one_off": none_if_nan(near)}
            for group, n, exact, near in zip(AGE_GROUPS, faces, class_top1, class_one_off, strict=True)
        ],
        "confusion": evaluation.confusion.tolist(),
        "seconds": evaluation.seconds,
        "latency": latency,
        "device": str(compute),
    }


def none_if_nan(value):
    return None if np.isnan(value) else float(value)


def print_report(report, evaluation):
    one, batch = report["latency"]["one"], report["latency"]["batch"]
    print(f"\n{report['checkpoint']}: {report['faces']:,} faces, {report['evaluated']}, on {report['device']}")
    print(f"our model has size={report['size_mib']:.2f} MiB")
    milliseconds = 1000 * report["seconds"] / report["faces"]
    print(f"inference time: {report['seconds']:.2f} s ({milliseconds:.2f} ms per image)")
    print(f"eval accuracy: {report['top1']:.2%}")
    print(f"one-off accuracy: {report['one_off']:.2%}")
    print(f"mean absolute error: {report['mae']:.3f} groups")
    print(
        f"latency: {1000 * one['seconds']:.2f} ms for one image, {1000 * batch['seconds']:.2f} ms for a batch of"
        f" {batch['images']} ({batch['images'] / batch['seconds']:,.0f} images/s), medians"
    )
    print(f"\n{per_class_table(evaluation.confusion)}\n\n{confusion_table(evaluation.confusion)}")


def mean_line(reports):
    parts = []
    for name, text, show in (("top1", "top-1", "{:.2%}"), ("one_off", "one-off", "{:.2%}"), ("mae", "MAE", "{:.3f}")):
        values = np.array([report[name] for report in reports])
        parts.append(f"{text} {show.format(values.mean())} ± {show.format(values.std(ddof=1))}")
    return ", ".join(parts)


def read_command_line():
    parser = Parser(prog="test_code.py", description="Evaluate checkpoints of main.py on the fold each held out.")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="fold_0.pt and the like")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--fold", type=int, choices=FOLDS, help="another fold than the one held out (of other data)")
    chosen.add_argument(
        "--set", choices=("test", "val"), default="test", help="the held-out fold or the faces held out for tuning"
    )
    parser.add_argument(
        "--views", nargs="*", choices=[name for name in VIEWS if name != "plain"], default=[], help="looks to fuse"
    )
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help="fuse ten crops too")
    parser.add_argument("--second-image-dir", metavar="DIR", help="the same faces' other images, to fuse")
    parser.add_argument("--fuse", action="store_true", help="insist on fusing the models: they must share a fold")
    parser.add_argument("--show-errors", action="store_true", help="write the misclassified images")
    parser.add_argument("--error-dir", default="error", metavar="DIR", help="where to (default error)")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    add_options(parser, SETTINGS, defaults_from="the checkpoint")
    options = parser.parse_args()
    if options.json is not None and (not options.json or Path(options.json).is_dir()):
        raise UserError(f"--json '{options.json}': the name of a file is wanted")
    return options


if __name__ == "__main__":
    run_script(main)
