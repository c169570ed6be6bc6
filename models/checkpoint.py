"""The model file: a network with its weights, its classes, its input and where it comes from.

It holds plain types and tensors only and is loaded with `weights_only=True`, so that opening one never runs code.
"""

import math
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import torch

from models import create_model
from utils.errors import UserError
from utils.files import atomic_write

FORMAT, FORMAT_VERSION = "age-model", 2

# What describes the network: {field: its type, or the type of a list and of its items}.
NETWORK_FIELDS = {
    "network": dict,  # the arguments of create_model
    "class_names": (list, str),
    "image_size": int,
    "mean": (list, float),
    "std": (list, float),
    "state_dict": dict,
}
# What records its training.
RECORD_FIELDS = {
    "fold": int,
    "train_people": (list, str),
    "val_albums": (list, str),
    "metrics": dict,
    "decoder": str,
    "history": (list, dict),  # one entry per epoch
    "data_fingerprint": str,
    "train_fingerprint": str,
    "trained_on": str,
    "config": dict,
    "commit": str,
    "versions": dict,
}


def save_model(path, model, record):
    """Write a model file, whole or not at all.

    Args:
        path: the file to create or replace.
        model: a Network with class names and image size.
        record: {field: value} with all of RECORD_FIELDS; more fields are allowed. Plain values.

    Raises:
        UserError: the file cannot be written.
        ValueError: the network or the record is incomplete, or holds other than plain values.
    """
    content = {
        **record,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": model.description,
        "class_names": list(model.class_names),
        "image_size": model.image_size,
        "mean": list(model.mean),
        "std": list(model.std),
        "state_dict": model.state_dict(),
    }
    if problem := find_problem(content):
        raise ValueError(f"cannot save this model: {problem}")
    save_plain(path, content)


def load_model(path):
    """Load a model file.

    Returns:
        The Network in evaluation mode, on the CPU, with its class names, image size and normalisation. Its `record`
        is a dict of everything else that the file holds, RECORD_FIELDS among it.

    Raises:
        UserError: the file is missing, damaged or not a model file. The message names it and says what is wrong.
    """
    content = load_plain(path)
    check_format(path, content)
    if problem := find_problem(content):
        raise UserError(f"'{path}' is damaged: {problem}")
    try:
        model = create_model(**content["network"])
        model.load_state_dict(content["state_dict"])
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    except Exception as error:  # damaged descriptions fail anywhere within a constructor
        raise UserError(f"'{path}' does not fit its own description: {first_line(error)}") from None
    if model.image_size not in (None, content["image_size"]):
        raise UserError(f"'{path}' is damaged: its network is for {model.image_size} pixels, not its 'image_size'")
    model.image_size = content["image_size"]
    model.class_names = tuple(content["class_names"])
    model.mean, model.std = tuple(content["mean"]), tuple(content["std"])
    own = {"format", "format_version", *NETWORK_FIELDS}
    model.record = {name: value for name, value in content.items() if name not in own}
    return model.eval()


def check_format(path, content):
    if content.get("format") != FORMAT:
        raise UserError(f"'{path}' is not a model file: its format is not '{FORMAT}'")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "; a newer version of this code wrote it" if newer else ""
        raise UserError(f"'{path}' has format number {version}; this version reads {FORMAT_VERSION}{advice}")


def find_problem(content):
    """What is wrong with the fields of a model file, as text, or None."""
    for name, kind in (NETWORK_FIELDS | RECORD_FIELDS).items():
        value = content.get(name)
        kind, item_kind = kind if isinstance(kind, tuple) else (kind, None)
        if not is_a(value, kind):
            return f"its '{name}' is not {describe(kind)}"
        if item_kind and not all(is_a(item, item_kind) for item in value):
            return f"its '{name}' holds something that is not {describe(item_kind)}"
    names = content["class_names"]
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        return f"its 'class_names' are {names}; expected at least two different names"
    if content["network"].get("num_classes") != len(names):
        return f"its network has {content['network'].get('num_classes')} classes and its 'class_names' are {len(names)}"
    if content["image_size"] < 1 or content["fold"] < 0:
        return f"its 'image_size' is {content['image_size']} and its 'fold' {content['fold']}"
    mean, std = content["mean"], content["std"]
    if not len(mean) == len(std) == 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        return f"its 'mean' and 'std' are {mean} and {std}; expected three numbers each"
    return None


def is_a(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def describe(kind):
    return {dict: "a dict", list: "a list", str: "a text", int: "a whole number", float: "a number"}[kind]


def save_plain(path, content):
    """Write a dict of plain values and tensors, whole or not at all.

    Raises:
        UserError: the file cannot be written; an older file is then still there.
        ValueError: the content holds something that `load_plain` would not read.
    """
    values = list(leaves(content))
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    # By exact type: a NumPy float is a float too, but its pickle is not plain.
    types = {type(value) for value in values if not isinstance(value, torch.Tensor)}
    if odd := types - {str, int, float, bool, type(None)}:
        names = ", ".join(sorted(kind.__name__ for kind in odd))
        raise ValueError(f"cannot save values of type {names} to '{path}': only tensors and plain values")
    mebibytes = sum(tensor.nbytes for tensor in tensors) / 2**20
    with atomic_write(path, mebibytes) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:  # torch reports a failed write this way
            raise OSError(first_line(error)) from None


def leaves(value):
    """All values within nested dicts (their keys too), lists and tuples."""
    if type(value) in (dict, OrderedDict):
        yield from value
        value = list(value.values())
    if type(value) in (list, tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def load_plain(path):
    """The content of a file of `save_plain`, with its tensors on the CPU.

    Raises:
        UserError: the file is missing or damaged, or holds more than plain values and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no model file at '{path}'; main.py writes fold_0.pt to fold_4.pt into its run directory")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice on odd pickles is of no use here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' is not a model file: it is damaged or holds more than tensors and plain values"
        ) from None
    except Exception as error:  # a damaged file can fail in any way, deep within zip, pickle or torch
        raise UserError(f"'{path}' is truncated or not a model file: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is not a model file: it holds a {type(content).__name__}")
    return content


def first_line(error):
    """An error as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
