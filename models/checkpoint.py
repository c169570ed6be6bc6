"""The model file: a network with its weights, its classes, its input and where it comes from.

It holds plain types and tensors only and is loaded with `weights_only=True`, so that opening one never runs code. A
SHA-256 of everything in it is checked at every load: a single changed bit is noticed.
"""

import math
import operator
from pathlib import Path

import torch

from models import create_model
from models.decode import DECODERS
from utils.classes import MOST_CLASSES, Classes
from utils.cli import printable
from utils.errors import UserError
from utils.reading import exists
from utils.serialization import first_line, load_plain, save_plain

FORMAT, FORMAT_VERSION, EARLIER_VERSION = "age-model", 4, 3  # 3 had no hashed_people
PUBLISHED = str(Path(__file__).resolve().parents[1] / "weights" / "ages.pt")  # serves where none is named
DETECTOR = "centerface"  # the detector that measures framings: its boxes and points are unlike another's
LARGEST_IMAGE = 2048  # pixels of a side
OLDEST = 1000  # years
PERSON_BYTES = 6  # the hash of a name has this length, see evaluation/leaks.py
NO_FOLD = 5  # the number of a model that is trained on all faces; its seeds follow from it
EARLIER_NAMES = {"twins": "duplicates", "inner_width": "mid_width"}  # in files of earlier versions
EARLIER_DEFAULTS = {"attention": "none"}  # options that are gone, and the value that changed nothing

# Fields that describe the network: {name: its type, or the type of a list and of its items}.
NETWORK_FIELDS = {
    "network": dict,  # the arguments of create_model
    "class_names": (list, str),
    "image_size": int,
    "mean": (list, float),
    "std": (list, float),
    "state_dict": dict,
}
# Fields that record its training.
RECORD_FIELDS = {
    "fold": int,  # NO_FOLD where none was held out
    "train_people": (list, str),
    "train_faces": int,
    "train_pictures": torch.Tensor,  # uint8 (train_faces, 96), see data/duplicates.py
    "duplicates": (list, str),  # held-out faces whose picture is among the training faces
    "val_albums": (list, str),
    "metrics": dict,
    "decoder": str,
    "history": (list, dict),  # one entry per epoch
    "data_fingerprint": str,
    "trained_on": str,
    "config": dict,
    "commit": str,
    "versions": dict,
}
OPTIONAL_FIELDS = {
    "hashed_people": torch.Tensor,  # uint8 (N, PERSON_BYTES), the others in a published model, which names nobody
    "initial_people": (list, str),  # like train_people, of the initial weights and the teachers
    "initial_pictures": torch.Tensor,
    "duplicate_pictures": torch.Tensor,  # like train_pictures, of the duplicates
    "unknown_origin": (list, str),  # initial weights whose training faces are not known
    "terms": str,  # the terms of use of a published model, or of the models that this one learned from
    "usual_answer": (list, float),  # see evaluation/label_shift.py
}
KINDS = {dict: "a dict", list: "a list", str: "a text", int: "a whole number", float: "a number"}
KINDS[torch.Tensor] = "a tensor"


def save_model(path, model, record, half=False):
    """Write a model file, whole or not at all.

    Args:
        path: the file to create or replace.
        model: a Network with classes and image size.
        record: {field: value} with all of RECORD_FIELDS and any others; plain values.
        half: store the weights in 16 bits, except vectors: running variances may overflow.

    Raises:
        UserError: the file cannot be written.
        ValueError: the network or the record is incomplete, or holds other than plain values.
    """
    state = model.state_dict()
    content = {
        **record,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": model.description,
        "class_names": list(model.classes.names),
        "image_size": model.image_size,
        "mean": list(model.mean),
        "std": list(model.std),
        "state_dict": {name: t.half() if half and t.dim() > 1 else t for name, t in state.items()},
    }
    if model.classes.years:  # JSON and plain values have no infinity
        content["class_years"] = [[first, last if math.isfinite(last) else None] for first, last in model.classes.years]
    if problem := find_problem(content):
        raise ValueError(f"cannot save this model: {problem}")
    save_plain(path, content)


def model_files(paths):
    """Model files as a list of texts; a run directory stands for the models of its folds.

    Raises:
        UserError: no fold of a run is finished.
    """
    found = []
    for path in paths:
        patterns = ("fold_?.pt", "all.pt") if exists(path) and Path(path).is_dir() else ()
        files = [file for pattern in patterns for file in sorted(Path(path).glob(pattern))]
        if patterns and not files and any(Path(path).glob("*.progress.pt")):
            raise UserError(f"'{path}' is a run without a finished fold; main.py --resume finishes it")
        found += map(str, files or [path])
    return found


def load_model(path):
    """Load a model file.

    Returns:
        The Network in evaluation mode, on the CPU, with its class names, image size and normalisation. Its `record`
        is a dict of everything else that the file holds, RECORD_FIELDS among it.

    Raises:
        UserError: the file is missing, damaged or not a model file. The message names it and says what is wrong.
    """
    content = upgraded(load_plain(path))
    check_format(path, content)
    if problem := find_problem(content):
        raise UserError(f"'{path}' is damaged: {problem}")
    try:
        description, state = content["network"], content["state_dict"]
        with torch.device("meta"):  # a network that the file does not hold takes no memory
            model = create_model(**upgraded(description))
        state = {name: to_float32(tensor) for name, tensor in state.items()}
        check_weights(model.state_dict(), state)
        model.load_state_dict(state, assign=True)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    except Exception as error:  # damaged descriptions fail anywhere within a constructor
        raise UserError(f"'{path}' does not fit its own description: {first_line(error)}") from None
    model.image_size = content["image_size"]
    years, names = content.get("class_years"), tuple(content["class_names"])
    years = years and tuple((first, math.inf if last is None else last) for first, last in years)
    # Earlier versions did not say whether classes are ages.
    model.classes = Classes(names, years) if years else Classes.guess(names)
    model.mean, model.std = tuple(content["mean"]), tuple(content["std"])
    own = {"format", "format_version", "class_years", *NETWORK_FIELDS}
    model.record = {name: value for name, value in content.items() if name not in own}
    return model.eval()


def to_float32(tensor):
    """The weights of a published model are kept in 16 bits."""
    return tensor.float() if getattr(tensor, "dtype", None) == torch.float16 else tensor


def upgraded(fields):
    """The fields of an earlier version's file, with today's names and values, without options that are gone."""
    kept = {name: value for name, value in fields.items() if (name, value) not in EARLIER_DEFAULTS.items()}
    kept = {EARLIER_NAMES.get(name, name): value for name, value in kept.items()}
    if isinstance(kept.get("standardize"), bool):  # by the whole image, or not
        kept["standardize"] = float(kept["standardize"])
    return kept


def check_format(path, content):
    if not is_a(content.get("format"), str) or content["format"] != FORMAT:
        raise UserError(f"'{path}' is not a model file: its format is not '{FORMAT}'")
    version = content.get("format_version")
    if not is_a(version, int) or version not in (EARLIER_VERSION, FORMAT_VERSION):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "; a newer version of this code wrote it" if newer else ""
        read = f"{EARLIER_VERSION} and {FORMAT_VERSION}"
        raise UserError(f"'{path}' has format number {version}; this version reads {read}{advice}")


def find_problem(content):
    """The problem with the fields of a model file, as text, or None."""
    optional = {name: kind for name, kind in OPTIONAL_FIELDS.items() if name in content}
    for name, kind in (NETWORK_FIELDS | RECORD_FIELDS | optional).items():
        value = content.get(name)
        kind, item_kind = kind if isinstance(kind, tuple) else (kind, None)
        if not is_a(value, kind):
            return f"its '{name}' is not {KINDS[kind]}"
        if item_kind and not all(is_a(item, item_kind) for item in value):
            return f"its '{name}' holds something that is not {KINDS[item_kind]}"
    return find_problem_of_network(content) or find_problem_of_training(content)


def find_problem_of_network(content):
    """The same for the values of the fields that describe the network, its classes and its input."""
    names, size, mean, std = (content[name] for name in ("class_names", "image_size", "mean", "std"))
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names) or "" in names:
        shown = printable(names, 120)
        return f"its 'class_names' are {shown}; expected 2 to {MOST_CLASSES:,} different names"
    if (count := content["network"].get("num_classes")) != len(names):
        return f"its network has {count} classes and its 'class_names' are {len(names)}"
    if "class_years" in content and not are_years(years := content["class_years"], len(names)):
        return f"its 'class_years' are {years}; expected the first and last year of each class, ascending"
    if not 1 <= size <= LARGEST_IMAGE or content["fold"] < 0:
        return f"its 'image_size' is {size} and its 'fold' {content['fold']}"
    if not len(mean) == len(std) == 3 or not all(-100 <= x <= 100 for x in mean + std) or min(std) < 0.001:
        return f"its 'mean' and 'std' are {mean} and {std}; expected three numbers each"
    temperature = content.get("temperature", 1.0)  # 1.0 where there were no faces to fit it on
    if not is_number(temperature) or not 0 < temperature < 1000:
        return f"its 'temperature' is {temperature}; expected a number over 0"
    usual = content.get("usual_answer", [1.0] * len(names))
    if len(usual) != len(names) or not all(0 <= share < 1.001 for share in usual):
        return f"its 'usual_answer' is {printable(usual, 120)}; expected a probability of each class"
    if "framing" in content and not is_framing(content["framing"]):
        places = "expected places from -2 to 2, and a width and height over 0 and up to 2"
        return f"its 'framing' is {content['framing']}; expected 4 numbers, or 14 with points; {places}"
    return None


def find_problem_of_training(content):
    """The same for the record of the training.

    The people and pictures decide which faces the model may be evaluated on, so that none may be missing.
    """
    people, faces, pictures = (content[name] for name in ("train_people", "train_faces", "train_pictures"))
    hashed = content.get("hashed_people", torch.zeros(0, PERSON_BYTES, dtype=torch.uint8))
    if hashed.dtype != torch.uint8 or hashed.dim() != 2 or hashed.shape[1] != PERSON_BYTES:
        return f"its 'hashed_people' are {tuple(hashed.shape)} of {hashed.dtype}"
    count, different = len(people) + len(hashed), len(set(people)) + len(set(map(bytes, hashed.numpy())))
    if not 1 <= count <= faces or different < count:
        return f"its 'train_people' are {count} and its 'train_faces' {faces}"
    if pictures.dtype != torch.uint8 or pictures.dim() != 2 or len(pictures) != faces:
        return f"its 'train_pictures' are {tuple(pictures.shape)} of {pictures.dtype} for {faces} faces"
    for name in ("initial_pictures", "duplicate_pictures"):
        others = content.get(name, pictures)
        if others.dtype != torch.uint8 or others.shape[1:] != pictures.shape[1:]:
            return f"its '{name}' are not like its 'train_pictures'"
    if len(content.get("duplicate_pictures", content["duplicates"])) != len(content["duplicates"]):
        return "its 'duplicate_pictures' are not as many as its 'duplicates'"
    if content["decoder"] not in DECODERS:
        return f"its decoder is '{content['decoder']}', none of {', '.join(DECODERS)}"
    epochs, rows = content["config"].get("epochs"), content["history"]
    if rows and len(rows) != epochs:
        return f"its 'history' has {len(rows)} epochs instead of {epochs}"
    for name, row in [("metrics", content["metrics"]), *(("history", row) for row in rows)]:
        if not (row or (name == "metrics" and content["fold"] == NO_FOLD)) or not all(
            isinstance(key, str) and is_number(value) for key, value in row.items()
        ):
            return f"its '{name}' holds something that is not a finite number"
    return None


def is_a(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def are_years(years, count):
    """Whether these are `count` pairs of first and last year, ascending; the very last may be None: no limit."""
    if not isinstance(years, list) or len(years) != count:
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in years):
        return False
    bounds = [bound for pair in years for bound in pair]
    bounds[-1] = OLDEST if bounds[-1] is None else bounds[-1]
    if not all(type(bound) is int and 0 <= bound <= OLDEST for bound in bounds):
        return False
    return bounds == sorted(bounds) and all(map(operator.lt, bounds[1::2], bounds[2::2]))  # classes do not overlap


def is_framing(framing):
    """Whether this is where a face lies in the training images, as photos/framing.py measures it."""
    if not isinstance(framing, list) or len(framing) not in (4, 14) or not all(map(is_number, framing)):
        return False
    return all(0 < size <= 2 for size in framing[2:4]) and all(-2 <= x <= 2 for x in framing[:2] + framing[4:])


def check_weights(expected, found):
    """Whether the tensors of a state have the types of the network's and finite values. Raises UserError."""
    for name in expected.keys() & found.keys():  # load_state_dict compares names and shapes
        if not isinstance(found[name], torch.Tensor) or found[name].dtype != expected[name].dtype:
            kind = getattr(found[name], "dtype", type(found[name]).__name__)
            raise UserError(f"its '{name}' is {kind}, not {expected[name].dtype}")
        if not found[name].isfinite().all():
            raise UserError(f"its '{name}' holds something that is not a finite number")
