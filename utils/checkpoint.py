"""Checkpoints that say what they are: everything that is needed to rebuild, check and judge a model.

They hold plain types and tensors only and are loaded with `weights_only=True`, so that opening
one never runs code.
"""

import functools
import hashlib
import importlib.metadata
import pickle
import platform
import subprocess
import warnings
from pathlib import Path

import torch

from data.adience import AGE_GROUPS, FOLDS
from models import MODELS
from models.comparison import ComparisonNet
from utils import UserError
from utils.config import from_record, to_record
from utils.files import replacing
from utils.losses import HEADS, LOSSES

FORMAT, FORMAT_VERSION = "adience-age-checkpoint", 1
# What every checkpoint holds, finished or in progress.
CONTENT = {
    "config": dict,
    "age_groups": list,
    "fold": int,
    "label_policy": str,
    "val_albums": list,
    "train_people": list,
    "data_fingerprint": str,
    "train_fingerprint": str,
    "trained_on": str,
    "model": dict,
    "history": list,
}


def build_model(config):
    """The network that the settings name, with the last layer that their loss wants."""
    model = MODELS[config.model](
        **HEADS[LOSSES[config.loss].head](len(AGE_GROUPS)),
        negative_slope=config.negative_slope,
        shortcut=config.shortcut,
        attention=config.attention,
        zero_init=config.zero_init,
        image_size=config.image_size,
    )
    if not config.compares:
        return model
    features = model.head.in_features
    model.head = torch.nn.Identity()  # a comparison takes the features before it
    return ComparisonNet(model, features, len(AGE_GROUPS), config.compares)


def describe_training(config, compute, fold, train_faces, val_faces, data_fingerprint):
    """The parts of a checkpoint that stay the same while a fold trains."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": to_record(config),
        "age_groups": list(AGE_GROUPS),
        "fold": fold,
        "label_policy": config.label_policy,
        "val_albums": sorted(set(val_faces.album)),
        "train_people": sorted(set(people(train_faces))),
        "train_faces": len(train_faces),
        "data_fingerprint": data_fingerprint,
        "train_fingerprint": hashlib.sha256("\n".join([data_fingerprint, *train_faces.path]).encode()).hexdigest(),
        "trained_on": str(compute),
        "commit": current_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": importlib.metadata.version("torchvision"),
        },
    }


def people(faces):
    """Each face's person, with the album: numbers of other data sets do not pass for the same people."""
    return faces.album + "/" + faces.subject


def fingerprint(faces, images):
    """A hash of a run's data: paths, folds, labels and pixels. images: uint8 (N, 3, S, S)."""
    rows = zip(faces.path, faces.fold, faces.label, strict=True)
    listing = "\n".join(f"{path}\t{fold}\t{label}" for path, fold, label in rows)
    digest = hashlib.sha256(listing.encode())
    for row in faces.index:
        digest.update(images[row])
    return digest.hexdigest()


@functools.cache
def current_commit():
    """The commit of this code, with '-dirty' behind it where files differ; '' outside a git checkout.

    Looked up once, at the start: the code that runs is the one that was there then.
    """
    try:
        call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def save_checkpoint(path, content):
    """Raises UserError when the file cannot be written; the old one is then still there."""
    tensors = [value for part in content.values() if isinstance(part, dict) for value in part.values()]
    mebibytes = sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor)) / 2**20
    with replacing(path, mebibytes) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:  # torch reports a failed write this way
            raise OSError(str(error).splitlines()[0]) from None


def load_checkpoint(path):
    """A checkpoint's content as a dict. Raises UserError that names the file and what is wrong with it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at '{path}'; main.py writes fold_0.pt to fold_4.pt into its run directory")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice on odd pickles is of no use here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' is not a checkpoint of main.py: it is damaged or holds more than tensors and plain values"
        ) from None
    except Exception as error:  # a damaged file can fail in any way, deep within zip, pickle or torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"'{path}' is truncated or no checkpoint: {reason}") from None
    check_content(path, content)
    return content


def load_finished(path):
    """The content of a trained fold's checkpoint. Raises UserError for the progress of one that still trains."""
    content = load_checkpoint(path)
    if "metrics" not in content:
        raise UserError(f"'{path}' is the progress of an unfinished fold; go on with main.py --resume")
    return content


def check_content(path, content):
    """Hold the format, its number and the types of what every reader relies on. Raises UserError."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"'{path}' is no checkpoint of main.py: its format is not '{FORMAT}'")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        advice = "; a newer version of this code wrote it" if isinstance(version, int) and version > 1 else ""
        raise UserError(f"'{path}' has format number {version}; this version reads {FORMAT_VERSION}{advice}")
    for name, kind in CONTENT.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"'{path}' is damaged: its '{name}' is no {kind.__name__}")
    if content["age_groups"] != list(AGE_GROUPS) or content["fold"] not in FOLDS:
        raise UserError(f"'{path}' has other age groups or folds than Adience: {content['age_groups']}")


def restore_model(path, content):
    """The network of a checkpoint, ready to evaluate, and its Config. Raises UserError."""
    try:
        config = from_record(content["config"])
        model = build_model(config)
        model.load_state_dict(content["model"])
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{path}' does not fit its own description: {reason}") from None
    return model.eval(), config


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model):
    """MiB of the parameters in fp32."""
    return parameter_count(model) * 4 / 2**20
