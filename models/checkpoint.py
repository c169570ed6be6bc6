"""The model file: a network with its weights, its classes, its input and where it comes from.

It holds plain types and tensors only and is loaded with `weights_only=True`, so that opening one never runs code. A
SHA-256 of everything in it is checked at every load: a single changed bit is noticed.
"""

import math

import torch

from models import create_model
from models.plain import first_line, load_plain, save_plain
from utils.errors import UserError

FORMAT, FORMAT_VERSION = "age-model", 3
LARGEST_IMAGE = 2048  # pixels of a side

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
    "train_faces": int,
    "train_pictures": torch.Tensor,  # uint8 (train_faces, 96), see data/duplicates.py
    "twins": (list, str),  # held-out faces whose picture is among the training faces
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
        check_weights(model.state_dict(), content["state_dict"])
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
    if not 1 <= content["image_size"] <= LARGEST_IMAGE or content["fold"] < 0:
        return f"its 'image_size' is {content['image_size']} and its 'fold' {content['fold']}"
    mean, std = content["mean"], content["std"]
    if not len(mean) == len(std) == 3 or not all(-100 <= x <= 100 for x in mean + std) or min(std) < 0.001:
        return f"its 'mean' and 'std' are {mean} and {std}; expected three numbers each"
    problem = find_problem_of_training(content) or find_problem_of_options(content)
    return problem or find_problem_of_framing(content)


def find_problem_of_options(content):
    """What is wrong with the fields that a model file may lack, as text, or None.

    temperature: what its probabilities are scaled by, where there were faces to fit it on. initial_people and
    initial_pictures: whom and what its initial weights were trained on, where they came from another model file.
    """
    temperature = content.get("temperature", 1.0)
    if not is_number(temperature) or not 0 < temperature < 1000:
        return f"its 'temperature' is {temperature}; expected a number over 0"
    people = content.get("initial_people", [])
    if not isinstance(people, list) or not all(isinstance(name, str) for name in people):
        return "its 'initial_people' is not a list of texts"
    pictures = content.get("initial_pictures")
    if pictures is not None:
        alike = isinstance(pictures, torch.Tensor) and pictures.dtype == torch.uint8
        if not alike or pictures.shape[1:] != content["train_pictures"].shape[1:]:
            return "its 'initial_pictures' are not like its 'train_pictures'"
    return None


def find_problem_of_framing(content):
    """Beside RECORD_FIELDS: where the face lies in the training images (evaluation/detection.py); optional too."""
    framing = content.get("framing")
    if framing is None and "framing" not in content:
        return None
    if not isinstance(framing, list) or len(framing) not in (4, 14) or not all(map(is_number, framing)):
        return f"its 'framing' is {framing}; expected 4 numbers: centre x, centre y, width, height; or 14, with points"
    shares, places = framing[2:4], framing[:2] + framing[4:]
    if not all(0 < value <= 2 for value in shares) or not all(-2 <= value <= 2 for value in places):
        return f"its 'framing' is {framing}; expected places from -2 to 2, and a width and height over 0 and up to 2"
    return None


def find_problem_of_training(content):
    """What is wrong with the record of the training, as text, or None.

    The people and pictures decide which faces the model may be evaluated on, so that none may be missing.
    """
    people, faces, pictures = (content[name] for name in ("train_people", "train_faces", "train_pictures"))
    if not 1 <= len(people) <= faces or len(set(people)) < len(people):
        return f"its 'train_people' are {len(people)} and its 'train_faces' {faces}"
    if pictures.dtype != torch.uint8 or pictures.dim() != 2 or len(pictures) != faces:
        return f"its 'train_pictures' are {tuple(pictures.shape)} of {pictures.dtype} for {faces} faces"
    epochs, rows = content["config"].get("epochs"), content["history"]
    if rows and len(rows) != epochs:
        return f"its 'history' has {len(rows)} epochs instead of {epochs}"
    for name, row in [("metrics", content["metrics"]), *(("history", row) for row in rows)]:
        if not row or not all(isinstance(key, str) and is_number(value) for key, value in row.items()):
            return f"its '{name}' holds something that is not a finite number"
    return None


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def check_weights(expected, found):
    """Whether the tensors of a state have the types of the network's and finite values. Raises UserError."""
    for name in expected.keys() & found.keys():  # load_state_dict compares names and shapes
        if not isinstance(found[name], torch.Tensor) or found[name].dtype != expected[name].dtype:
            kind = getattr(found[name], "dtype", type(found[name]).__name__)
            raise UserError(f"its '{name}' is {kind}, not {expected[name].dtype}")
        if not found[name].isfinite().all():
            raise UserError(f"its '{name}' holds something that is not a finite number")


def is_a(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def describe(kind):
    names = {dict: "a dict", list: "a list", str: "a text", int: "a whole number", float: "a number"}
    return names.get(kind, "a tensor")
