"""Networks: normalised images (B, 3, S, S) in, outputs (B, D) of a head out, which turns them into class probabilities.

This file imports no torch: the command line needs its names quickly. `create_model` imports the network's module.
"""

import functools
import importlib
import inspect

from utils.errors import UserError
from utils.options import check_type

# {network: module of models/ that defines it}. To add one: a subclass of Network and a line here.
MODELS = {
    "resnet18": "resnet",
    "resnet34": "resnet",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "resnet152": "resnet",
    "mobilenet_v3_small": "mobilenet",
    "levi_hassner": "alexnet",
    "alexnet": "alexnet",
}
# Not in MODELS, and so not on the command line: it is made from a trained network (tools/comparator.py).
MODULES = {**MODELS, "comparison": "comparison"}

# The keys of the tables of models/attention.py and models/heads.py.
ATTENTION = ("none", "se", "cbam")
HEADS = ("softmax", "binomial", "coral", "corn")
LARGEST = 500_000_000  # numbers of a network, 2 GB; alexnet at 2048 px would have four billion


def create_model(name, head, num_classes, **options):
    """Create a network with new weights.

    Args:
        name: a key of MODELS, or "comparison".
        head: a name in HEADS.
        num_classes: K, the number of classes.
        options: the network's own options; `model_options(name)` lists them.

    Returns:
        A Network; `create_model(**network.description)` creates another one like it.

    Raises:
        UserError: an unknown network or head, an option that the network does not have, or one of the wrong type, or
            a network that is too large.
        ValueError: an option with an unknown value.
    """
    defaults = option_defaults(name)
    if head not in HEADS:
        raise UserError(f"unknown head '{head}'; choose from {', '.join(HEADS)}")
    for option, value in options.items():
        if option not in defaults:
            raise UserError(f"{name} has no option '{option}'; its options are {', '.join(defaults)}")
        if (default := defaults[option]) is not inspect.Parameter.empty:
            check_type(f"{option} of {name}", value, type(default))
    options = {**defaults, **options}  # all of them, so that a description outlives a change of the defaults
    make_head = functools.partial(importlib.import_module("models.heads").HEADS[head], num_classes=num_classes)
    make_network = functools.partial(network_function(name), make_head, **options)
    check_size(name, make_network)
    model = make_network()
    model.description = {"name": name, "head": head, "num_classes": num_classes, **options}
    return model


def check_size(name, make_network):
    """Refuse a network that is too large before it takes any memory. Raises UserError."""
    import torch

    with torch.device("meta"):  # shapes only
        count = sum(tensor.numel() for tensor in make_network().state_dict().values())
    if count > LARGEST:
        raise UserError(f"{name} with these options has {count:,} numbers; at most {LARGEST:,} are allowed")


def model_options(name):
    """The names of the options of a network, as a set. Raises UserError for an unknown network."""
    return set(option_defaults(name))


def option_defaults(name):
    """{option: default value} of a network, read from its signature; the first parameter makes the head."""
    _, *parameters = inspect.signature(network_function(name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def network_function(name):
    if name not in MODULES:
        raise UserError(f"unknown network '{name}'; choose from {', '.join(MODELS)}")
    return getattr(importlib.import_module(f"models.{MODULES[name]}"), name)
