"""The settings of an experiment, in titled sections; each field is also an option of main.py.

The defaults are the published system's, and PyTorch's where its report says nothing. config.json and the model files
record every field, so that a number can be traced to the settings that made it.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from augment import AugmentConfig
from data.adience import DEFAULT_GROUPS, LABEL_POLICIES
from data.labels import FOLDS
from data.load import DATA_SOURCE
from models import MODELS, model_options
from models.checkpoint import NO_FOLD, upgraded
from models.decode import DECODERS
from models.resnet import LEAST_SHARE
from training.losses import LOSSES
from training.optimizers import OPTIMIZERS
from training.schedule import SCHEDULES
from utils.classes import Classes, check_names, expand
from utils.cli import printable
from utils.device import MachineConfig
from utils.errors import UserError
from utils.options import as_tuples, check_values, default_of, fill_defaults, flag, option
from utils.reading import exists, read_json


@dataclass(frozen=True)
class DataConfig:
    title: ClassVar[str] = "data"
    label_dir: str = option("", "folder of fold_0_data.txt to fold_4_data.txt")
    image_dir: str = option("", "folder of the face images, Adience's 'aligned' or 'faces'")
    label_file: str = option(
        "", "CSV file of other faces, in place of --label-dir: columns path, age or label, and optionally person, fold",
        metavar="FILE",
    )  # fmt: skip
    run_dir: str = option("runs/adience", "folder for the outputs of the run; for a FACES.csv, runs/FACES")
    folds: tuple = option(
        FOLDS, "folds to hold out, one model each; if not given, all in the data; none: one model of all faces",
        choices=(*FOLDS, NO_FOLD), words={"none": NO_FOLD}, metavar="FOLD",
    )  # fmt: skip
    age_groups: tuple = option(
        DEFAULT_GROUPS,
        "classes of --label-file: ages, such as 0-12 13-19 20+, single years, such as 0..100+, or its labels in order",
        metavar="GROUP",
    )
    seed: int = option(0, "random seed", low=0, high=2**32 - 1)
    fold_seed: int = option(0, "random seed of the folds, where --label-file has none", low=0, high=2**32 - 1)
    label_policy: str = option(
        "strict",
        "age labels to use: strict: the classes only; fixed: odd intervals too; nearest: any age, in its nearest class",
        choices=tuple(LABEL_POLICIES),
    )
    val_fraction: float = option(
        0.0, "fraction of the training faces held out for validation, as whole albums", low=0, high=0.9
    )
    allow_missing: bool = option(False, "skip missing images instead of stopping")
    skip_damaged: int = option(0, "number of images that may be unreadable and are then left out", low=0)
    cache_dir: str = option("cache", "folder of the decoded images")


@dataclass(frozen=True)
class NetworkConfig:
    title: ClassVar[str] = "network"
    model: str = option(
        "resnet18", f"network: {', '.join(MODELS)}, or any of timm, such as timm:convnext_nano", metavar="NAME"
    )
    image_size: int = option(224, "side of the input images, in pixels", low=40, high=2048)
    negative_slope: float = option(0.2, "negative slope of LeakyReLU; 0 gives ReLU", low=0, high=1)
    shortcut: str = option(
        "3x3",
        "down-sampling shortcuts: 3x3 as published, 1x1 as in the textbook, pooled as in ResNet-D, with its stem",
        choices=("3x3", "1x1", "pooled"),
    )
    max_pool: bool = option(
        True, "max-pooling after the first convolution; without it, accuracy on small images rises and the time"
        " doubles",
    )  # fmt: skip
    # The report names no initial weights, so PyTorch's own are the default.
    init: str = option("pytorch", "initial weights of the convolutions", choices=("pytorch", "he"))
    zero_init: bool = option(False, "initialise each ResNet block as the identity")
    standardize: float = option(
        0.0, "standardise each channel by its mean and deviation in the middle, this share of each side; for"
        " photographs of any origin; 0 disables it", low=0, high=1,
    )  # fmt: skip
    width: float = option(1.0, "number of channels of a ResNet, relative to the published one", low=0.0625, high=4)
    mid_width: float = option(1.0, "number of channels inside ResNet blocks, relative to --width", low=0.02, high=1)
    init_from: str = option(
        "", "start from these weights: a finished run, a model file, or a state dict of torchvision or timm",
        metavar="FILE",
    )  # fmt: skip
    pretrained: bool = option(False, "start from torchvision's ImageNet weights, or timm's, which are downloaded")
    freeze: tuple = option((), "layers that are not trained, such as stem layer1", kind=str, metavar="LAYER")


@dataclass(frozen=True)
class OptimizationConfig:
    title: ClassVar[str] = "optimisation"
    recipe: str = option("original", "named set of defaults", choices=("original", "modern", "robust"))
    epochs: int = option(100, "number of epochs", low=1, high=100_000)
    batch_size: int = option(128, "batch size, over all processes", low=2, high=65_536)
    lr: float = option(0.1, "base learning rate", low=0, high=1e6)
    loss: str = option("cross_entropy", "training loss", choices=tuple(LOSSES))
    label_width: float = option(
        0.0, "width of the soft targets of sord and dldl_v2, in classes; 0: 0.5 (sord) or 0.75 (dldl_v2), and 2 for"
        " single years", low=0, high=100,
    )  # fmt: skip
    schedule: str = option("step", "learning rate schedule", choices=SCHEDULES)
    lr_steps: tuple = option(
        (20, 50, 75),
        "epochs at which the step schedule decays; by default 20, 50 and 75 % of them",
        low=0,
        high=100_000,
    )
    lr_gamma: float = option(0.1, "factor of each learning rate decay", low=0, high=1)
    warmup: float = option(0.0, "epochs of linear learning rate warm-up", low=0, high=100_000)
    optimizer: str = option(
        "sgd", "optimizer; muon orthogonalises the updates of convolutions", choices=tuple(OPTIMIZERS)
    )
    # The report names neither, so PyTorch's defaults are used: with momentum 0.9 the effective rate is ten times the
    # published one, and the network stalls.
    momentum: float = option(0.0, "momentum of sgd and muon", low=0, high=1)
    weight_decay: float = option(0.0, "weight decay", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum of SGD; Muon's is always Nesterov's")
    head_lr_factor: float = option(1.0, "learning rate of the last layer, relative to the others'", low=0, high=1000)
    teacher: tuple = option(
        (), "finished runs, whose models of the same fold teach this one, or model files", kind=str, metavar="RUN"
    )
    teacher_weight: float = option(0.5, "share of the teacher's answers in the loss", low=0, high=1)
    teacher_temperature: float = option(1.0, "temperature of the teacher's answers", low=0.1, high=100)
    shuffle: str = option(
        "auto", "order of the training faces; shards: shuffle four cache shards, of 8,192 faces, at a time; auto:"
        " shards where the cache exceeds half of the memory", choices=("auto", "all", "shards"),
    )  # fmt: skip
    balance: str = option(
        "none", "sampling: draw every class equally often, for equal recalls at the price of top-1",
        choices=("none", "sampling"),
    )  # fmt: skip


@dataclass(frozen=True)
class EvaluationConfig:
    title: ClassVar[str] = "evaluation"
    decode: str = option(
        "argmax", "decoder from probabilities to a class; val chooses one on the validation faces",
        choices=(*DECODERS, "val"),
    )  # fmt: skip
    plots: bool = option(True, "save plots and report.html at the end")
    plot_format: tuple = option(("png",), "file formats of the plots", choices=("png", "pdf", "svg"))


SECTIONS = (DataConfig, NetworkConfig, OptimizationConfig, AugmentConfig, EvaluationConfig, MachineConfig)


class EpochFraction(float):
    """A length as a fraction of the epochs."""


# Named sets of defaults. Other settings keep their own; explicit values override the recipe.
RECIPES = {
    "original": {"lr_steps": (EpochFraction(0.20), EpochFraction(0.50), EpochFraction(0.75))},
    "modern": {
        "optimizer": "muon",
        "lr": 0.2,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": EpochFraction(0.1),
        "shortcut": "pooled",
        "init": "he",
        "zero_init": True,
        "loss": "sord",
        # Faces are aligned: stronger transforms cost accuracy, as do bilinear interpolation and black corners.
        "rotation": 5.0,
        "scale": 0.05,
        "shift": 0.02,
        "interpolation": "bicubic",
        "padding": "reflection",
    },
}
# For photographs of another origin than the training faces; at home it is no better (docs/ABLATION.md).
RECIPES["robust"] = {**RECIPES["modern"], "standardize": 0.6, "border": 0.2}
# Values of unknown settings, in records of earlier versions, that change nothing.
OFF = (0, "", "none", [], ())
# Defaults of --demo. The modern recipe is stable on 93 faces per fold: another precision moves its mean by 1.3 points.
DEMO_DEFAULTS = {
    "run_dir": "runs/demo",
    "recipe": "modern",
    "image_size": 48,
    "epochs": 4,
    "batch_size": 32,
    # In some 50 steps ResNet-D's deeper stem learns too little: 47 % top-1 instead of 71 %.
    "shortcut": "3x3",
    "lr": 0.05,
}
# Where a run's files are and how fast it runs do not change what it learns.
FREE_TO_CHANGE = (
    *("run_dir", "cache_dir", "label_dir", "label_file", "image_dir", "folds", "threads", "compile"),
    *("plots", "plot_format"),
)


@dataclass(frozen=True)
class Config(MachineConfig, EvaluationConfig, AugmentConfig, OptimizationConfig, NetworkConfig, DataConfig):
    """Every setting of an experiment. An unset field takes the recipe's value, or else its own default.

    Raises:
        UserError: a value is out of range, or two values contradict each other.
    """

    def __post_init__(self):
        recipe = self.recipe if self.recipe in list(RECIPES) else "original"  # check_values refuses any other
        epochs = self.epochs if isinstance(self.epochs, int) else default_of(FIELDS["epochs"])
        fill_defaults(self, {name: in_epochs(value, epochs) for name, value in RECIPES[recipe].items()})
        check_values(self)
        self.check_combinations()
        if not self.label_width and (widths := LOSSES[self.loss].widths):
            width = widths[Classes.guess(expand(self.age_groups)).are_single_years]
            object.__setattr__(self, "label_width", width)

    def check_combinations(self):
        if self.label_file and self.label_dir:
            raise UserError(f"--label-file {self.label_file} with --label-dir {self.label_dir}: give one of the two")
        if not self.label_file and self.age_groups != DEFAULT_GROUPS:
            given = " ".join(self.age_groups)
            raise UserError(f"--age-groups {given}: Adience's label files have classes of their own; add --label-file")
        check_names(self.age_groups)
        if self.decode == "val" and not self.val_fraction and not self.label_file:  # which may have a split
            raise UserError("--decode val: there are no validation faces to choose on; add --val-fraction 0.1")
        if self.pretrained and self.init_from:
            raise UserError(f"--pretrained and --init-from '{self.init_from}': a network starts from one of them")
        if 0 < self.standardize < LEAST_SHARE:
            raise UserError(f"--standardize {self.standardize}: expected 0, or a share from {LEAST_SHARE} to 1")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov with --momentum 0: Nesterov's form needs a momentum above 0")
        if self.shuffle == "shards" and self.balance == "sampling":
            raise UserError("--shuffle shards with --balance sampling: faces are sampled from the whole cache")
        if self.warmup and self.warmup >= self.epochs:
            raise UserError(f"--warmup {self.warmup}: expected less than the {self.epochs} --epochs")
        if not self.plot_format or len(set(self.plot_format)) < len(self.plot_format):
            given = " ".join(self.plot_format)
            raise UserError(f"--plot-format {given}: name each format once, out of png, pdf, svg")
        if not self.folds or len(set(self.folds)) < len(self.folds):
            raise UserError(f"--folds {' '.join(map(str, self.folds))}: name each fold once, out of 0 to 4")
        if NO_FOLD in self.folds and len(self.folds) > 1:
            raise UserError("--folds none with other folds: a model of all faces holds none out")
        self.network_options()

    @property
    def data_source(self):
        """The settings that lead to the faces, for `load_data`."""
        return {name: getattr(self, name) for name in DATA_SOURCE}

    def network_options(self):
        """The options of the network, for `create_model`.

        Raises:
            UserError: an option is chosen that the network does not have.
        """
        known = model_options(self.model)
        for name in NETWORK_OPTIONS:
            # A recipe's choice for ResNets does not concern other networks.
            unchosen = (default_of(FIELDS[name]), RECIPES[self.recipe].get(name))
            if name not in known and getattr(self, name) not in unchosen:
                chosen, options = f"{flag(name)} {getattr(self, name)}", ", ".join(map(flag, sorted(known)))
                raise UserError(f"{chosen}: {self.model} has no such option; its options are {options or 'none'}")
        return {name: getattr(self, name) for name in NETWORK_OPTIONS if name in known}


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Options of the network itself; these other fields of NetworkConfig concern its kind and its initial weights.
OTHER_FIELDS = ("model", "image_size", "init_from", "pretrained", "freeze")
NETWORK_OPTIONS = [field.name for field in dataclasses.fields(NetworkConfig) if field.name not in OTHER_FIELDS]


def in_epochs(value, epochs):
    """Shares of the epochs as epochs: a tuple of them as distinct whole epochs from 1 upwards."""
    if isinstance(value, EpochFraction):
        return float(value) * epochs
    if isinstance(value, tuple) and isinstance(value[0], EpochFraction):
        return tuple(sorted({max(1, round(share * epochs)) for share in value}))
    return value


def chosen_settings(config):
    """{name: value} of the settings that are not the defaults of the recipe: the options that give this Config."""
    usual = vars(Config(recipe=config.recipe, epochs=config.epochs))
    usual |= {name: default_of(FIELDS[name]) for name in ("recipe", "epochs")}
    return {name: value for name, value in vars(config).items() if value != usual[name]}


def from_record(path, record, strict=False):
    """The Config that a file, config.json or a model file, recorded.

    A note names settings that this version does not know. Unknown settings that are off change nothing.

    Args:
        path: the file, for the messages.
        record: {name: value}.
        strict: refuse unknown settings, because the Config has to compute the same again.

    Raises:
        UserError: a value is out of range, or a setting is unknown.
    """
    record = upgraded(record)
    record.setdefault("fold_seed", record.get("seed", 0))  # earlier versions had one seed, one width and one order
    if strict:
        record.setdefault("shuffle", "all")
    if record.get("balance") == "loss":  # a choice that is gone
        record |= {"balance": "none", "balanced_loss": True}
    if record.get("loss") in LOSSES:
        record.setdefault("label_width", [*LOSSES[record["loss"]].widths, 0.0][0])
    unknown = {name: value for name, value in record.items() if name not in FIELDS and value not in OFF}
    if unknown.get("crop") == 1:  # the whole image
        del unknown["crop"]
    if unknown:
        settings = ", ".join(f"{name} {show(value)}" for name, value in unknown.items())
        if strict:
            raise UserError(f"'{path}' was trained with settings that this version does not have: {settings}")
        print(f"note: {printable(path)} records settings that this version does not have: {printable(settings)}")
    try:
        return Config(**as_tuples({name: value for name, value in record.items() if name in FIELDS}))
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None


def recorded_config(path, record, given):
    """The Config in the record of a model file, where `given`, {name: value}, replaces settings. Raises UserError."""
    return from_record(path, {**record["config"], **moved_data(given)})


def moved_data(given):
    """The given settings; a label file replaces a recorded label directory, and the other way round."""
    if given.get("label_file"):
        return {"label_dir": "", **given}
    if given.get("label_dir"):
        return {"label_file": "", "age_groups": DEFAULT_GROUPS, **given}
    return given


def read_config(folder, strict=False):
    """The Config in a run directory's config.json; `strict` as in `from_record`. Raises UserError."""
    path = Path(folder) / "config.json"
    if not exists(path):
        raise UserError(f"'{folder}' is not a run directory: it has no config.json")
    return from_record(path, read_json(path), strict)


def differences(recorded, given):
    """Settings that were given differently from what was recorded, as 'lr was 0.1, now 0.2; ...'; '' if none.

    Args:
        recorded: a Config.
        given: {name: value} to compare; "auto" agrees with whatever was chosen then.
    """
    return "; ".join(
        f"{name} was {show(getattr(recorded, name))}, now {show(value)}"
        for name, value in given.items()
        if name not in FREE_TO_CHANGE and value != "auto" and getattr(recorded, name) != value
    )


def show(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
