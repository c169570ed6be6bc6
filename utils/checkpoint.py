"""Checkpoints that say what they are: everything that is needed to rebuild, check and judge a model.

They hold plain types and tensors only and are loaded with `weights_only=True`, so that opening
one never runs code.
"""

import hashlib
import importlib.metadata
import pickle
import platform
import subprocess
import zipfile
from pathlib import Path

import torch

from data.adience import AGE_GROUPS
from models import MODELS
from utils import UserError
from utils.config import from_record, to_record
from utils.files import replacing

FORMAT, FORMAT_VERSION = "adience-age-checkpoint", 1


def build_model(config):
    return MODELS[config.model](classes=len(AGE_GROUPS), negative_slope=config.negative_slope, shortcut=config.shortcut)


def describe_training(config, fold, train_faces, val_faces):
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
        "train_fingerprint": fingerprint(train_faces),
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


def fingerprint(faces):
    """A hash of which faces, under which labels, a model was trained on."""
    listing = "\n".join(f"{path}\t{label}" for path, label in zip(faces.path, faces.label, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def current_commit():
    """The commit of this code, with '-dirty' behind it where files differ; '' outside a git checkout."""
    try:
        call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def save_checkpoint(path, content):
    """Raises UserError when the file cannot be written; the old one is then still there."""
    with replacing(path) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:  # torch reports a failed write this way
            raise OSError(str(error).splitlines()[0]) from None


def load_checkpoint(path, device="cpu"):
    """A checkpoint's content as a dict. Raises UserError that names the file and what is wrong with it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at '{path}'; main.py writes fold_0.pt to fold_4.pt into its run directory")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' is not a checkpoint of main.py: it holds more than tensors and plain values"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"'{path}' is truncated or no checkpoint: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"'{path}' is no checkpoint of main.py: its format is not '{FORMAT}'")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"'{path}' has format {content.get('format_version')}; this version reads format {FORMAT_VERSION}"
        )
    return content


def restore_model(path, content):
    """The network of a checkpoint, ready to evaluate, and its Config. Raises UserError."""
    try:
        config = from_record(content["config"])
        model = build_model(config)
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{path}' does not fit its own description: {reason}") from None
    return model.eval(), config


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model):
    """MiB of the parameters in fp32."""
    return parameter_count(model) * 4 / 2**20
