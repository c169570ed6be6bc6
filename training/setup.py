"""The setup of a fold: `set_up_folds` checks it before anything is written, `make_state` builds it when it begins."""

import dataclasses
import functools
from dataclasses import dataclass

import torch

from data.dataset import steps_per_epoch
from data.faces import Faces
from data.split import split_faces
from evaluation.leaks import refuse_seen
from models import MODELS, create_model
from models.network import Network, layer_groups
from training.config import FIELDS, NetworkConfig
from training.initial import InitialWeights, describe_initial, fitting_weights, initial_weights
from training.losses import LOSSES, Criterion
from training.optimizers import OPTIMIZERS, parameter_groups
from training.schedule import learning_rate
from training.state import TrainState
from training.teacher import Teacher, teacher_models
from utils.cli import command_line
from utils.device import memory_bytes
from utils.errors import UserError
from utils.options import as_flags
from utils.reading import MIB
from utils.seeds import Stream, derive_seed
from utils.serialization import digest, first_line


@dataclass(frozen=True)
class FoldSetup:
    """Split, weights and teachers of a fold.

    Attributes:
        fold: the held-out fold.
        train, val, test: the Faces to learn from, to tune on and to evaluate on.
        steps_per_epoch: the number of steps of an epoch.
        sampling: (N,), how often to draw each training face relative to the others; None without --balance.
        teachers: {file: Network to learn from}.
        initial: the InitialWeights, or None.
        fitting: {name: tensor} of the initial weights that fit the network.
    """

    fold: int
    train: Faces
    val: Faces
    test: Faces
    steps_per_epoch: int
    sampling: torch.Tensor | None
    teachers: dict[str, Network]
    initial: InitialWeights | None
    fitting: dict

    @property
    def origins(self):
        """{file: its record} of the models that this one learns from."""
        origins = {path: teacher.record for path, teacher in self.teachers.items()}
        return origins if self.initial is None else {**origins, self.initial.name: self.initial.record}


def set_up_folds(config, faces, world_size):
    """The setups of all folds to train.

    Returns:
        (untrained Network without values, for its description; {fold: FoldSetup}).

    Raises:
        UserError: a fold cannot be trained with these settings.
    """
    with torch.device("meta"):  # shapes only
        network = build_model(config, faces.classes)
        if config.model not in MODELS:  # ours take any size; the check imports PyTorch's compiler, for a second
            check_image_size(config, network)
    freeze(network, config.freeze)  # refuses a wrong --freeze now
    return network, {fold: set_up_fold(config, fold, faces, network, world_size) for fold in config.folds}


def set_up_fold(config, fold, faces, network, world_size):
    """The FoldSetup of one fold; prints the origin of the first fold's initial weights. Raises UserError."""
    train, val, test = split_faces(faces, fold, config.val_fraction, config.seed)
    if config.decode == "val" and not len(val):
        raise UserError(f"--decode val: --val-fraction {config.val_fraction} leaves no album to choose on")
    if "first_year" in train.table and not LOSSES[config.loss].of_ages:
        known = ", ".join(name for name, loss in LOSSES.items() if loss.of_ages)
        raise UserError(f"--loss {config.loss}: it does not learn the column 'years'; choose from {known}")
    steps = steps_per_epoch(train, config.batch_size, world_size)
    if fold == config.folds[0] and (left := len(train) - steps * config.batch_size) > len(train) / 5:
        share = f"{left:,} of {len(train):,} training faces, other ones each time,"
        print(f"note: each epoch leaves out {share} which fill no batch; a smaller --batch-size leaves out fewer")
    teachers = teacher_models(config.teacher, fold, train)
    initial, fitting = initial_weights(config.init_from, config.pretrained, config.model, fold), {}
    if initial is not None:
        try:
            fitting, counts = fitting_weights(network, initial)
        except UserError as error:
            raise UserError(f"{error}{own_settings(initial.record, config)}") from None
        if fold == config.folds[0]:
            print(describe_initial(initial, counts))
    return FoldSetup(
        fold=fold,
        train=train,
        val=val,
        test=test,
        steps_per_epoch=steps,
        sampling=sampling_weights(train) if config.balance == "sampling" else None,
        teachers=teachers,
        initial=initial,
        fitting=fitting,
    )


def check_image_size(config, network):
    """Raises UserError where a network on the meta device does not take images of --image-size."""
    try:
        network.features(torch.empty(2, 3, config.image_size, config.image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        message = f"--image-size {config.image_size}: {config.model} cannot take such images: {first_line(error)}"
        raise UserError(message) from None


def check_origins(setups, signatures):
    """Check that no initial weights or teachers were trained on faces that the model is evaluated or tuned on.

    Args:
        setups: FoldSetups. Weights whose training is not known pass.
        signatures: uint8 (2, N, 96), of the pictures of all faces and their mirror images.

    Raises:
        UserError: they were.
    """
    for setup in setups:
        splits = {f"fold {setup.fold}": setup.test, f"the validation faces of fold {setup.fold}": setup.val}
        for split, faces in splits.items():
            for path, record in setup.origins.items():
                if record:
                    refuse_seen(path, record, faces, split, signatures[:, faces.table.index])


def choose_shuffle(config, images, distributed):
    """The Config with --shuffle auto decided, alike on all machines, for the cached images."""
    if config.shuffle != "auto":
        return config
    large = config.balance != "sampling" and images.nbytes > memory_bytes() / 2
    if large := distributed.max(int(large)):
        size = f"{images.nbytes / MIB:,.0f} MiB"
        print(f"note: the decoded images, {size}, exceed half of the memory: --shuffle shards reads a part at a time")
    return dataclasses.replace(config, shuffle="shards" if large else "all")


def build_model(config, classes):
    """The untrained network that the settings describe, for these Classes."""
    loss = LOSSES[config.loss]
    if loss.of_ages and classes.years is None:
        raise UserError(f"--loss {config.loss}: the classes {', '.join(classes.names)} are not ages")
    model = create_model(config.model, loss.head, len(classes), **config.network_options())
    model.classes, model.image_size = classes, config.image_size
    if loss.of_ages:
        model.fc.set_years(classes)
    return model


def freeze(model, names):
    """Exclude groups of layers from training.

    Returns:
        The modules of these groups, a list.

    Raises:
        UserError: a name is unknown, or nothing is left to train.
    """
    groups = layer_groups(model)
    for name in names:
        if name not in groups:
            raise UserError(f"--freeze {name}: choose from {', '.join(groups)}")
        groups[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(names)}: nothing is left to train")
    return [groups[name] for name in names]


def sampling_weights(faces):
    """(N,): inversely proportional to the frequency of each face's class, 1 on average. Raises UserError."""
    labels, names = torch.tensor(faces.labels), faces.classes.names
    counts = torch.bincount(labels, minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if not count:
            raise UserError(f"--balance: no training face is labelled '{name}', so the classes cannot be balanced")
    return (len(labels) / (counts * len(names)))[labels]


def make_state(config, setup, runtime):
    """The TrainState at the first step of a fold."""
    # The optimisers import it. It comes before the network: a lack of memory within an import looks like another error.
    import torch._dynamo

    seed = (config.seed, setup.fold)
    torch.manual_seed(derive_seed(*seed, 0, Stream.INITIAL_WEIGHTS))  # (seed, fold, epoch 0)
    model = runtime.place(build_model(config, setup.train.classes))
    model.load_state_dict({**model.state_dict(), **setup.fitting})  # what does not fit keeps its new values
    frozen = freeze(model, config.freeze)
    network = runtime.prepare(model)
    groups = parameter_groups(model, config.weight_decay, config.head_lr_factor)
    schedule = {name: getattr(config, name) for name in ("lr", "epochs", "schedule", "warmup", "lr_steps", "lr_gamma")}
    loss = LOSSES[config.loss]
    function = functools.partial(loss.function, width=config.label_width) if loss.widths else loss.function
    teacher = Teacher(setup.teachers.values(), runtime) if setup.teachers else None
    taught = (teacher, config.teacher_weight, model.fc, config.teacher_temperature)
    return TrainState(
        model=model,
        network=network,
        optimizer=OPTIMIZERS[config.optimizer](groups, config.lr, config.momentum, config.nesterov),
        criterion=Criterion(function, *taught, loss.of_ages),
        learning_rate=functools.partial(learning_rate, **schedule),
        steps_per_epoch=setup.steps_per_epoch,
        seed=seed,
        sampling=setup.sampling,
        frozen=frozen,
        digests={
            "teachers": [digest(teacher.state_dict()) for teacher in setup.teachers.values()],
            "initial": digest(setup.initial.state) if setup.initial else "",
        },
    )


def own_settings(record, config):
    """'; it was trained with --width 0.25' and the like: a model file's settings of its network that are not these."""
    names = {setting.name for setting in dataclasses.fields(NetworkConfig)} - {"init_from", "pretrained", "freeze"}
    recorded = {name: value for name, value in record.get("config", {}).items() if name in names}
    differing = {name: value for name, value in recorded.items() if value != getattr(config, name)}
    return f"; it was trained with {command_line(*as_flags(differing, FIELDS))}" if differing else ""
