"""The configuration of a run: one dataclass, whose fields are the command line's options.

A run's config.json and its checkpoints record every field, so that a number can be traced to
the settings that made it.
"""

import argparse
import dataclasses
from dataclasses import dataclass, field

from data.adience import FOLDS, LABEL_POLICIES
from models import MODELS
from models.attention import ATTENTION
from utils import UserError
from utils.decode import DECODERS
from utils.losses import LOSSES
from utils.schedule import SCHEDULES


def option(default, text, **limits):
    """A field with its help text; limits: choices, or low and high, both included; internal: no option of main.py."""
    return field(default=default, metadata={"help": text, **limits})


# Named settings: what a recipe does not name keeps its default, what the command line gives goes first.
RECIPES = {
    "original": {},
    "modern": {
        "schedule": "cosine",
        "warmup": 2.0,
        "nesterov": True,
        "weight_decay": 5e-4,
        "decay_weights_only": True,
        "zero_init": True,
        "loss": "sord",
        "scale": 0.1,
        "shift": 0.05,
    },
}


@dataclass(frozen=True)
class Config:
    """Every setting of an experiment; the defaults are the published system's.

    Raises UserError for a value that makes no sense.
    """

    label_dir: str = option("", "folder of fold_0_data.txt to fold_4_data.txt")
    image_dir: str = option("", "folder of the face images, Adience's 'aligned' or 'faces'")
    run_dir: str = option("runs/adience", "where everything the run makes goes")
    cache_dir: str = option("cache", "where decoded images are kept")
    folds: tuple = option(FOLDS, "the folds to hold out, one model each", choices=FOLDS)
    label_policy: str = option("strict", "which age texts count as labels", choices=tuple(LABEL_POLICIES))
    allow_missing: bool = option(False, "go on without listed images that are missing")
    val_fraction: float = option(
        0.0, "share of the training faces to hold out for tuning, as whole albums", low=0, high=0.9
    )
    recipe: str = option("original", "the defaults of the settings below", choices=tuple(RECIPES))
    seed: int = option(0, "everything random follows from it", low=0, high=2**32 - 1)

    model: str = option("resnet18", "the network", choices=tuple(MODELS))
    negative_slope: float = option(0.2, "of the leaky rectifiers; 0 makes them plain ReLU", low=0, high=1)
    shortcut: str = option(
        "3x3", "down-sampling shortcuts: the published 3x3 or the textbook's 1x1", choices=("3x3", "1x1")
    )
    attention: str = option("none", "within a ResNet's blocks", choices=tuple(ATTENTION))
    zero_init: bool = option(False, "start a ResNet's blocks as identities")
    compares: int = option(0, "reference faces of each group; compare.py sets it", low=0, high=10_000, internal=True)
    image_size: int = option(224, "side of the network's input, in pixels", low=40, high=2048)
    first_size: int = option(
        0, "side in the first quarter of the epochs, to grow in four stages to --image-size; 0 is off", low=0, high=2048
    )

    epochs: int = option(100, "passes over the training faces", low=1, high=100_000)
    batch_size: int = option(128, "faces per step", low=2, high=65_536)
    loss: str = option("cross_entropy", "what training minimises", choices=tuple(LOSSES))
    lr: float = option(0.1, "learning rate at the start", low=0, high=1e6)
    schedule: str = option("step", "how the learning rate falls", choices=tuple(SCHEDULES))
    warmup: float = option(0.0, "epochs over which the learning rate rises first", low=0, high=100_000)
    lr_steps: tuple = option((20, 50, 75), "epochs at which the learning rate decays", low=0, high=100_000)
    lr_gamma: float = option(0.1, "factor of each decay", low=0, high=1)
    momentum: float = option(0.9, "of SGD", low=0, high=1)
    nesterov: bool = option(False, "Nesterov's form of the momentum")
    weight_decay: float = option(1e-4, "of SGD", low=0, high=1)
    decay_weights_only: bool = option(False, "spare biases and normalisations the weight decay")
    averaging: float = option(
        0.0, "horizon of the weights' moving average, as a share of all steps; 0 is off", low=0, high=1
    )
    balance: str = option("none", "give rare groups as much to say", choices=("none", "sampling", "loss"))

    flip: float = option(0.5, "probability of mirroring a face", low=0, high=1)
    rotation: float = option(20.0, "largest rotation, in degrees either way", low=0, high=180)
    scale: float = option(0.0, "largest change of size, as a share", low=0, high=0.9)
    shift: float = option(0.0, "largest shift, as a share of the image's side", low=0, high=1)
    crop: float = option(1.0, "smallest area of a random resized crop, as a share", low=0.05, high=1)
    brightness: float = option(0.1, "strength of the brightness jitter", low=0, high=1)
    contrast: float = option(0.1, "strength of the contrast jitter", low=0, high=1)
    saturation: float = option(0.1, "strength of the saturation jitter", low=0, high=1)
    hue: float = option(0.02, "strength of the hue jitter, as a fraction of the circle", low=0, high=0.5)
    gridmask_ratio: float = option(0.6, "GridMask's r, the kept stripes' share of the period", low=0.01, high=0.99)
    gridmask_start: float = option(0.6, "GridMask's probability in the first epoch", low=0, high=1)
    gridmask_end: float = option(0.8, "GridMask's probability in the last epoch", low=0, high=1)
    gridmask_rotated: bool = option(True, "rotate GridMask's grid")

    trivial_augment: bool = option(False, "TrivialAugment before everything else")
    erasing: float = option(0.0, "probability of erasing a random box", low=0, high=1)
    mixup: float = option(0.0, "mixup's alpha; 0 is off", low=0, high=100)
    cutmix: float = option(0.0, "CutMix's alpha; 0 is off", low=0, high=100)

    decode: str = option(
        "argmax", "from probabilities to a group; val chooses on the validation faces", choices=(*DECODERS, "val")
    )
    plots: bool = option(True, "draw the pictures at the end")
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "bf16 where the processor multiplies it faster", choices=("auto", "fp32", "bf16"))
    deterministic: bool = option(False, "the same bits on every run on a GPU too; on a CPU they always are")
    compile: str = option(
        "auto", "compile the network and the augmentation; auto: on GPUs", choices=("auto", "on", "off")
    )
    threads: int = option(0, "CPU threads; 0 takes what the cores bear", low=0, high=1024)

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, several = getattr(self, f.name), isinstance(f.default, tuple)
            if several != isinstance(value, tuple):
                raise UserError(
                    f"{flag(f.name)} {value}: {'several numbers are' if several else 'one value is'} wanted"
                )
            for item in value if several else (value,):
                check_type(flag(f.name), item, type(f.default[0]) if several else type(f.default))
                check(flag(f.name), item, f.metadata)
        if self.decode == "val" and not self.val_fraction:
            raise UserError("--decode val: there are no validation faces to choose on; add --val-fraction 0.1")
        if self.first_size and not 40 <= self.first_size <= self.image_size:
            raise UserError(f"--first-size {self.first_size}: 40 to the --image-size {self.image_size} is wanted, or 0")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov with --momentum 0: Nesterov's form needs a momentum above 0")
        if self.warmup and self.warmup >= self.epochs:
            raise UserError(f"--warmup {self.warmup}: fewer than the {self.epochs} --epochs are wanted")
        if not self.folds or len(set(self.folds)) < len(self.folds):
            raise UserError(f"--folds {' '.join(map(str, self.folds))}: name each fold once, out of 0 to 4")


# What --demo changes, unless the command line says otherwise.
DEMO_SETTINGS = {
    "run_dir": "runs/demo",
    "image_size": 48,
    "epochs": 4,
    "batch_size": 32,
    "lr": 0.02,  # 0.1 for batches of 128, scaled to the demo's small ones
    "lr_steps": (3,),
}


def flag(name):
    return "--" + name.replace("_", "-")


def check_type(name, value, kind):
    """A record may come from a damaged file. A whole number serves as a float, a bool is no number."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        wanted = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{name} {value}: {wanted} is wanted")


def check(name, value, limits):
    choices, low, high = (limits.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UserError(f"{name} {value}: choose from {', '.join(map(str, choices))}")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"from {low}" + (f" to {high}" if high is not None else " upwards")
        raise UserError(f"{name} {value}: a number {bounds} is wanted")


class Parser(argparse.ArgumentParser):
    """argparse, with its errors as one line on standard error and exit status 2."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the options)")


def add_options(parser, names=None, defaults_from=None):
    """One option per field of Config (or per named one); an option that is not given sets nothing."""
    for f in dataclasses.fields(Config):
        if (names and f.name not in names) or f.metadata.get("internal"):
            continue
        several = isinstance(f.default, tuple)
        shown = " ".join(map(str, f.default)) if several else f.default
        shown = f" (default: from {defaults_from})" if defaults_from else f" (default {shown})" if shown != "" else ""
        text = f.metadata["help"] + shown
        kind = {"dest": f.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if isinstance(f.default, bool):
            kind["action"] = argparse.BooleanOptionalAction
        else:
            kind["type"] = type(f.default[0]) if several else type(f.default)
            kind["metavar"] = metavar(f)
            if several:
                kind["nargs"] = "*"
        parser.add_argument(flag(f.name), **kind)


def metavar(f):
    choices = f.metadata.get("choices")
    if choices:
        return "{" + ",".join(map(str, choices)) + "}"
    return {int: "N", float: "X", str: "DIR", tuple: "N"}[type(f.default)]


def on_this_machine(config, given):
    """The Config of a trained model with what the command line gave; how to compute is for this machine to choose."""
    return dataclasses.replace(config, **{"device": "auto", "precision": "auto", "threads": 0, **given})


def as_tuples(settings):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def make_config(given, **defaults):
    """A Config from what the command line gave, over the script's own defaults."""
    given = as_tuples(given)
    recipe = RECIPES.get(given.get("recipe"), {})
    return Config(**{**defaults, **recipe, **given})


def from_record(record):
    """The Config that config.json or a checkpoint recorded. Raises UserError."""
    names = {f.name for f in dataclasses.fields(Config)}
    unknown = sorted(record.keys() - names)
    if unknown:
        raise UserError(f"the recorded configuration has unknown settings: {', '.join(unknown)}")
    return Config(**as_tuples(record))


def to_record(config):
    """Plain types that JSON and a checkpoint can hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}
