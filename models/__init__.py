"""Networks: normalised images (B, 3, S, S) in, outputs (B, D) of a head out, which gives class probabilities."""

import functools
import inspect

import torch

from models.heads import HEADS
from models.mobilenet import MobileNet
from models.resnet import RESNETS
from models.timm_network import PREFIX, TimmNetwork
from utils.errors import UserError
from utils.options import check_type

MODELS = {
    **RESNETS,
    "mobilenet_v3_small": MobileNet,
}
LARGEST = 500_000_000  # numbers of a network, 2 GB


def create_model(name, head, num_classes, **options):
    """Create a network with new weights.

    Args:
        name: a key of MODELS, or "timm:" and timm's name of a network.
        head: a key of HEADS.
        num_classes: K, the number of classes.
        options: the network's own options; `model_options(name)` has them.

    Returns:
        A Network; `create_model(**network.description)` creates another one like it.

    Raises:
        UserError: an unknown network or head, an option that the network does not have, or one of the wrong type, or
            a network that is too large.
        ValueError: an option with an unknown value.
    """
    defaults = model_options(name)
    if head not in HEADS:
        raise UserError(f"unknown head '{head}'; choose from {', '.join(HEADS)}")
    for option, value in options.items():
        if option not in defaults:
            raise UserError(f"{name} has no option '{option}'; its options are {', '.join(defaults)}")
        check_type(f"{option} of {name}", value, type(defaults[option]))
    options = {**defaults, **options}  # all of them, so that a description outlives a change of the defaults
    make_network = network_maker(name)
    make_head = functools.partial(HEADS[head], num_classes=num_classes)
    with torch.device("meta"):  # shapes only, so that a network that is too large takes no memory
        count = sum(tensor.numel() for tensor in make_network(make_head, **options).state_dict().values())
    if count > LARGEST:
        raise UserError(f"{name} with these options has {count:,} numbers; at most {LARGEST:,} are allowed")
    model = make_network(make_head, **options)
    model.description = {"name": name, "head": head, "num_classes": num_classes, **options}
    return model


def network_maker(name):
    """A function from `make_head` and the network's options to a new network. Raises UserError for an unknown name."""
    if name.startswith(PREFIX):
        return functools.partial(TimmNetwork, name.removeprefix(PREFIX))
    if name not in MODELS:
        raise UserError(f"unknown network '{name}'; choose from {', '.join(MODELS)} or {PREFIX}NAME")
    return MODELS[name]


def model_options(name):
    """{option: default value} of a network, read from its signature. Raises UserError for an unknown network."""
    _, *parameters = inspect.signature(network_maker(name)).parameters.values()  # the first one makes the head
    return {parameter.name: parameter.default for parameter in parameters}
