"""Checkpoints: plain, self-describing, never run as code, and clear about what is wrong with them."""

import os
import pickle

import numpy as np
import pytest
import torch

from data.adience import load_faces
from models import resnet18
from utils import UserError
from utils.checkpoint import describe_training, fingerprint, load_checkpoint, restore_model, save_checkpoint
from utils.config import Config
from utils.device import Compute


@pytest.fixture(scope="module")
def content(small_faces_once):
    faces, _ = load_faces(*small_faces_once)
    config = Config(shortcut="1x1", negative_slope=0.1)
    torch.manual_seed(0)
    model = resnet18(shortcut="1x1", negative_slope=0.1)
    images = np.zeros((40, 3, 4, 4), np.uint8)
    compute = Compute(torch.device("cpu"), "fp32")
    description = describe_training(config, compute, 2, faces[faces.fold != 2], faces[:0], fingerprint(faces, images))
    return {**description, "model": model.state_dict(), "history": []}


def test_round_trip_rebuilds_the_network(content, tmp_path):
    save_checkpoint(tmp_path / "fold_2.pt", content)
    loaded = load_checkpoint(tmp_path / "fold_2.pt")
    model, config = restore_model("fold_2.pt", loaded)
    assert (config.shortcut, config.negative_slope) == ("1x1", 0.1)
    assert loaded["fold"] == 2
    assert loaded["age_groups"] == ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"]
    assert len(loaded["train_people"]) == 32
    assert "album0/0" in loaded["train_people"]
    assert not any(person.startswith("album2/") for person in loaded["train_people"])
    assert set(loaded["versions"]) == {"python", "torch", "torchvision"}
    assert not model.training
    assert all(torch.equal(value, content["model"][name]) for name, value in model.state_dict().items())


def test_the_fingerprint_sees_labels_and_pixels(small_faces_once):
    faces, _ = load_faces(*small_faces_once)
    images = np.zeros((40, 3, 4, 4), np.uint8)
    relabelled = faces.assign(label=faces.label.where(faces.index != 7, 0))
    retouched = images.copy()
    retouched[7, 0, 0, 0] = 1
    prints = [fingerprint(faces, images), fingerprint(relabelled, images), fingerprint(faces, retouched)]
    assert len(set(prints)) == 3
    assert fingerprint(faces[:7], images) == fingerprint(faces[:7], retouched)


def test_a_failed_write_keeps_the_old_file(content, tmp_path):
    path = tmp_path / "fold_0.pt"
    save_checkpoint(path, content)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"model": lambda: None})  # cannot be saved: the write breaks off
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fold_0.pt"]


class Trap:
    """A pickle that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_trap(path, content):
    torch.save(Trap(path.with_name("sprung")), path)


def write_plain_pickle(path, content):
    path.write_bytes(pickle.dumps(Trap(path.with_name("sprung"))))


def write_truncated(path, content):
    save_checkpoint(path, content)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def write_other(path, content):
    torch.save({"state_dict": {}}, path)


def write_without_history(path, content):
    torch.save({name: value for name, value in content.items() if name != "history"}, path)


def write_other_groups(path, content):
    torch.save({**content, "age_groups": ["young", "old"]}, path)


def write_newer(path, content):
    torch.save({**content, "format_version": 99}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_trap, "is not a checkpoint of main.py: it is damaged or holds more than tensors"),
        (write_plain_pickle, "is not a checkpoint of main.py: it is damaged or holds more than tensors"),
        (write_truncated, "is truncated or no checkpoint"),
        (lambda path, _: path.write_bytes(b""), "is truncated or no checkpoint"),
        (lambda path, _: path.write_text("hello there"), "is truncated or no checkpoint|is not a checkpoint"),
        (write_other, "is no checkpoint of main.py: its format"),
        (lambda path, _: torch.save([1, 2], path), "is no checkpoint of main.py: its format"),
        (write_without_history, "is damaged: its 'history' is no list"),
        (write_other_groups, "has other age groups or folds"),
        (write_newer, "has format number 99; this version reads 1; a newer version of this code wrote it"),
        (lambda path, _: None, "no checkpoint at"),
    ],
)
def test_bad_files_are_named_and_nothing_runs(content, tmp_path, write, message):
    path = tmp_path / "bad.pt"
    write(path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert "bad.pt" in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_network_are_refused(content):
    other = {**content, "config": {**content["config"], "shortcut": "3x3"}}
    with pytest.raises(UserError, match=r"'x\.pt' does not fit its own description"):
        restore_model("x.pt", other)
    for config, message in (
        ({"colour": "red"}, r"'x\.pt': the recorded configuration has unknown settings: colour"),
        ({"epochs": "many"}, r"'x\.pt': --epochs many: a whole number is wanted"),
        ({"model": 3}, r"'x\.pt': --model 3: a text is wanted"),
    ):
        with pytest.raises(UserError, match=message):
            restore_model("x.pt", {**content, "config": config})
