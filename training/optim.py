"""What changes while a fold trains: the network, its optimizer, its moving average and how far they are."""

import functools

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data.dataset import steps_per_epoch
from data.split import split_faces
from models import create_model
from models.network import layer_groups
from training import LOSSES, losses
from training.initial import describe_initial, initial_weights, load_initial, refuse_seen_faces
from training.muon import Muon
from training.schedule import learning_rate
from training.teacher import Teacher, teacher_models
from utils.errors import UserError
from utils.seeds import Stream, derive_seed


class TrainState:
    """The state of one fold's training; `step` counts the steps of all epochs.

    Args:
        config: the settings of the run.
        fold: the held-out fold.
        faces: the Faces to train on.
        compute: the Compute to train with.
    """

    def __init__(self, config, fold, faces, compute):
        self.seed = (config.seed, fold)
        self.step = 0
        self.steps_per_epoch = steps_per_epoch(faces, config.batch_size, compute.distributed.world_size)
        torch.manual_seed(derive_seed(*self.seed, 0, Stream.INITIAL_WEIGHTS))
        self.model = build_model(config, faces.class_names).to(compute.device, memory_format=torch.channels_last)
        self.initial = initial_weights(config.init_from, config.pretrained, config.model, fold)
        if self.initial is not None:
            load_initial(self.model, self.initial)
        freeze(self.model, config.freeze)
        self.network = compute.prepare(self.model)
        self.frozen = [layer_groups(self.model)[name] for name in config.freeze]
        groups = parameter_groups(self.model, config.weight_decay, config.decay_weights_only, config.head_lr_factor)
        self.optimizer = make_optimizer(config.optimizer, groups, config.lr, config.momentum, config.nesterov)
        self.learning_rate = functools.partial(
            learning_rate,
            **{name: getattr(config, name) for name in ("lr", "epochs", "schedule", "warmup", "lr_steps", "lr_gamma")},
        )
        labels, names = torch.tensor(faces.labels), faces.class_names
        weights = class_weights(labels, names).to(compute.device) if config.balance == "loss" else None
        models = teacher_models(config.teacher, fold, faces)
        teacher = Teacher(models, compute) if models else None
        self.teachers = teacher.digests if teacher else []
        loss = getattr(losses, config.loss)
        self.criterion = losses.Criterion(
            loss, weights, teacher, config.teacher_weight, self.model.head, config.teacher_temperature
        )
        self.sampling = class_weights(labels, names)[labels] if config.balance == "sampling" else None
        self.average = None
        if config.averaging:
            decay = 1 - 1 / max(1.0, config.averaging * self.steps_per_epoch * config.epochs)
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @property
    def epoch(self):
        return self.step // self.steps_per_epoch

    @property
    def evaluated_model(self):
        """The network to evaluate and to save."""
        return self.model if self.average is None else self.average.module

    def set_learning_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]

    def train_mode(self):
        """Prepare for training; frozen layers keep their batch statistics as well."""
        self.network.train()
        for part in self.frozen:
            part.eval()

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer}
        return parts if self.average is None else {**parts, "average": self.average}

    def state_dict(self):
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        initial = self.initial.digest if self.initial else ""
        return {"step": self.step, "teachers": self.teachers, "initial": initial, **parts}

    def load_state_dict(self, state):
        """Raises KeyError, RuntimeError, TypeError or ValueError where the state does not fit."""
        if state["teachers"] != self.teachers:
            raise ValueError("its teachers had other weights")
        if self.initial and state.get("initial") != self.initial.digest:
            raise ValueError("its initial weights were others")
        if type(state["step"]) is not int or state["step"] < 0:
            raise ValueError(f"its step is {state['step']}")
        check_optimizer_state(self.optimizer, state["optimizer"])
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step = state["step"]


def check_optimizer_state(optimizer, state):
    """Compare a recorded state with the optimizer's own: torch checks neither shapes nor settings.

    Raises:
        KeyError, TypeError, ValueError: it does not fit.
    """
    own = optimizer.state_dict()
    for group, recorded in zip(own["param_groups"], state["param_groups"], strict=True):
        recorded = {"lr_factor": 1.0, **recorded}  # which earlier versions did not have
        if any(recorded[name] != value for name, value in group.items() if name != "lr"):
            raise ValueError("its optimizer has other settings")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    adam = isinstance(optimizer, torch.optim.AdamW)
    stateful = adam or any(group["momentum"] for group in own["param_groups"])
    if stateful and len(state["state"]) not in (0, len(parameters)):  # none before the first step
        raise ValueError("its momentum is not complete")
    for position, values in state["state"].items():
        for name in ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",):
            buffer, parameter = values[name], parameters[position]
            if buffer is None and not stateful:
                continue
            if (buffer.shape, buffer.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"its momentum is {buffer.dtype} {tuple(buffer.shape)}")


def check_training_sets(config, faces, world_size):
    """Check that every fold can be trained, before anything is written. Raises UserError.

    Args:
        faces: the Faces of all folds.
        world_size: the number of processes.
    """
    with torch.device("meta"):  # no memory: only the names count
        freeze(build_model(config, faces.class_names), config.freeze)
    for fold in config.folds:
        train, val, _ = split_faces(faces, fold, config.val_fraction, config.seed)
        steps_per_epoch(train, config.batch_size, world_size)
        teacher_models(config.teacher, fold, train)
        if config.balance != "none":
            class_weights(torch.tensor(train.labels), faces.class_names)
        if config.decode == "val" and not len(val):
            raise UserError(f"--decode val: --val-fraction {config.val_fraction} leaves no album to choose on")


def check_initial_weights(config, faces, pictures):
    """Check and describe the weights to start from: they fit, and have not seen those whom a model is judged by.

    Args:
        config: the settings of the run.
        faces: the Faces of all folds.
        pictures: the Pictures of the faces.

    Raises:
        UserError: they do not fit, or have seen held-out people or pictures.
    """
    described = set()
    for fold in config.folds:
        initial = initial_weights(config.init_from, config.pretrained, config.model, fold)
        if initial is None:
            return
        came = load_initial(build_model(config, faces.class_names), initial)
        if initial.name not in described:
            print(describe_initial(initial, came))
        described.add(initial.name)
        _, val, test = split_faces(faces, fold, config.val_fraction, config.seed)
        for part, split in ((test, f"fold {fold}"), (val, f"the validation faces of fold {fold}")):
            refuse_seen_faces(initial, part, split, pictures.signatures[part.table.index])


def build_model(config, class_names):
    """The untrained network that the settings describe, for these classes."""
    model = create_model(config.model, LOSSES[config.loss], len(class_names), **config.network_options())
    model.class_names, model.image_size = tuple(class_names), config.image_size
    return model


def make_optimizer(name, groups, lr, momentum, nesterov):
    """The optimizer of these parameter groups. AdamW's moments are PyTorch's defaults, 0.9 and 0.999."""
    if name == "muon":
        return Muon(groups, lr, momentum)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr, fused=True)
    return torch.optim.SGD(groups, lr, momentum, nesterov=nesterov, fused=True)


def freeze(model, names):
    """Exclude groups of layers from training. Raises UserError for an unknown name, and where nothing is left."""
    groups = layer_groups(model)
    for name in names:
        if name not in groups:
            raise UserError(f"--freeze {name}: choose from {', '.join(groups)}")
        groups[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(names)}: nothing is left to train")


def parameter_groups(model, weight_decay, weights_only, head_lr_factor=1.0):
    """Parameter groups for the optimizer, without those that are frozen.

    With `weights_only`, weight decay applies to parameters of two or more dimensions, neither to biases nor to
    normalisation layers. The last layer learns `head_lr_factor` times as fast as the others.
    """
    last = set(model.head.parameters())
    groups = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = 0.0 if weights_only and parameter.ndim <= 1 else weight_decay
            factor = head_lr_factor if parameter in last else 1.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]


def class_weights(labels, class_names):
    """(K,): inversely proportional to each class's frequency, 1 on average over the faces."""
    counts = torch.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if not count:
            raise UserError(f"--balance: no training face is labelled '{name}', so the classes cannot be balanced")
    return len(labels) / (counts * len(class_names))
