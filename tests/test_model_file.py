"""Model files: plain, self-describing, never run as code, and clear about what is wrong with them."""

import os
import pickle

import numpy as np
import pytest
import torch

from models import create_model
from models.checkpoint import load_model, load_plain, save_model, save_plain
from utils.errors import UserError

NAMES = ("young", "middle", "old")  # other classes than Adience's
RECORD = {
    "fold": 2,
    "train_people": ["album0/0", "album1/7"],
    "val_albums": [],
    "metrics": {"top1": 0.5, "confusion": [[1, 0], [1, 0]]},
    "decoder": "argmax",
    "history": [{"epoch": 1, "loss": 2.0}],
    "data_fingerprint": "abc",
    "train_fingerprint": "def",
    "trained_on": "CPU, 1 thread, fp32",
    "config": {"epochs": 1, "folds": [0, 1]},
    "commit": "",
    "versions": {"torch": "2"},
}


def make_model(**options):
    model = create_model("resnet18", "softmax", 3, **options)
    model.class_names, model.image_size = NAMES, 48
    return model


@pytest.fixture(scope="module")
def model():
    return make_model(shortcut="1x1", negative_slope=0.1)


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "fold_2.pt"
    save_model(path, model, RECORD)
    return load_plain(path)


def test_round_trip_rebuilds_the_network(model, tmp_path):
    save_model(tmp_path / "fold_2.pt", model, RECORD)
    loaded = load_model(tmp_path / "fold_2.pt")
    assert loaded.description == model.description
    assert (loaded.description["shortcut"], loaded.description["negative_slope"]) == ("1x1", 0.1)
    assert (loaded.class_names, loaded.image_size) == (NAMES, 48)
    assert (loaded.mean, loaded.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert loaded.record == RECORD
    assert not loaded.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_loaded_model_saves_as_the_same_file(model, content, tmp_path):
    save_model(tmp_path / "a.pt", model, {**RECORD, "framing": [0.2, 0.1]})
    loaded = load_model(tmp_path / "a.pt")
    save_model(tmp_path / "b.pt", loaded, loaded.record)
    assert load_plain(tmp_path / "b.pt")["framing"] == [0.2, 0.1]
    assert load_plain(tmp_path / "b.pt").keys() == content.keys() | {"framing"}


def test_normalisation_travels_with_the_model(content, tmp_path):
    torch.save({**content, "mean": [0.5, 0.5, 0.5], "std": [1.0, 0.5, 0.25]}, tmp_path / "x.pt")
    loaded = load_model(tmp_path / "x.pt")
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (1.0, 0.5, 0.25))
    assert type(loaded).mean == (0.485, 0.456, 0.406)


def test_a_comparison_is_a_model_file_too(model, tmp_path):
    net = create_model("comparison", "softmax", 3, backbone=model.description, references=2)
    net.class_names, net.image_size = NAMES, 48
    net.head.set_references(torch.randn(3, 2, 512), torch.tensor([0.5, 0.3, 0.2]))
    save_model(tmp_path / "x.pt", net, RECORD)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "x.pt")(images), net.eval()(images))


def test_an_incomplete_record_is_not_saved(model, tmp_path):
    for wrong, message in (
        ({name: value for name, value in RECORD.items() if name != "commit"}, "its 'commit' is not a text"),
        ({**RECORD, "fold": None}, "its 'fold' is not a whole number"),
        ({**RECORD, "metrics": {"top1": np.float64(0.5)}}, "cannot save values of type float64"),
    ):
        with pytest.raises(ValueError, match=message):
            save_model(tmp_path / "x.pt", model, wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(content, tmp_path, monkeypatch):
    path = tmp_path / "fold_0.pt"
    save_plain(path, content)
    before = path.read_bytes()

    def fill_the_disk(content, file):
        file.write_bytes(b"half of it")
        raise RuntimeError("unexpected pos 64 vs 0\nand a trace")  # torch's report of a full disk

    monkeypatch.setattr(torch, "save", fill_the_disk)
    # 11,178,051 parameters and 9,600 running statistics in fp32, 20 counters.
    with pytest.raises(UserError, match=r"cannot write '.*fold_0\.pt' \(43 MiB\): unexpected pos 64 vs 0"):
        save_plain(path, content)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fold_0.pt"]


def test_only_plain_values_are_saved(tmp_path):
    """What `weights_only=True` would refuse is refused while there is still something to save."""
    plain = {"tensors": [{"step": torch.tensor(3.0), 0: None}, (True, "x")]}
    save_plain(tmp_path / "x.pt", plain)
    assert load_plain(tmp_path / "x.pt") == plain
    for value in (lambda: None, np.float64(1), np.zeros(2), {1, 2}):
        with pytest.raises(ValueError, match=f"cannot save values of type {type(value).__name__}"):
            save_plain(tmp_path / "x.pt", {"nested": [{"deep": value}]})
    assert load_plain(tmp_path / "x.pt") == plain


class Trap:
    """A pickle that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_trap(path, content):
    torch.save(Trap(path.with_name("sprung")), path)


def write_hidden_trap(path, content):
    torch.save({**content, "commit": Trap(path.with_name("sprung"))}, path)


def write_plain_pickle(path, content):
    path.write_bytes(pickle.dumps(Trap(path.with_name("sprung"))))


def write_truncated(path, content):
    save_plain(path, content)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def write_without_history(path, content):
    torch.save({name: value for name, value in content.items() if name != "history"}, path)


def changed(**fields):
    return lambda path, content: torch.save({**content, **fields}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_trap, "is not a model file: it is damaged or holds more than tensors"),
        (write_hidden_trap, "is not a model file: it is damaged or holds more than tensors"),
        (write_plain_pickle, "is not a model file: it is damaged or holds more than tensors"),
        (write_truncated, "is truncated or not a model file"),
        (lambda path, _: path.write_bytes(b""), "is truncated or not a model file"),
        (lambda path, _: path.write_text("hello there"), "is truncated or not a model file|is not a model file"),
        (lambda path, _: torch.save({"state_dict": {}}, path), "is not a model file: its format is not 'age-model'"),
        (lambda path, _: torch.save([1, 2], path), "is not a model file: it holds a list"),
        (lambda path, _: None, "no model file at '.*bad.pt'; main.py writes fold_0.pt to fold_4.pt into its run"),
        (changed(format_version=99), "has format number 99; this version reads 2; a newer version of this code wrote"),
        (changed(format_version=1), "has format number 1; this version reads 2$"),
    ],
)
def test_other_files_are_named_and_nothing_runs(content, tmp_path, write, message):
    path = tmp_path / "bad.pt"
    write(path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert "bad.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_without_history, "is damaged: its 'history' is not a list"),
        (changed(history=[1]), "is damaged: its 'history' holds something that is not a dict"),
        (changed(fold=True), "is damaged: its 'fold' is not a whole number"),
        (changed(fold=-1), "is damaged: its 'image_size' is 48 and its 'fold' -1"),
        (changed(image_size="48"), "is damaged: its 'image_size' is not a whole number"),
        (changed(image_size=0), "is damaged: its 'image_size' is 0"),
        (changed(train_people="album0/0"), "is damaged: its 'train_people' is not a list"),
        (changed(val_albums=[3]), "is damaged: its 'val_albums' holds something that is not a text"),
        (changed(commit=None), "is damaged: its 'commit' is not a text"),
        (changed(mean=[0.5, "x", 0.5]), "is damaged: its 'mean' holds something that is not a number"),
        (changed(std=[0.5, 0.5]), "is damaged: its 'mean' and 'std' are .*; expected three numbers each"),
        (changed(std=[0.5, 0.0, 0.5]), "is damaged: its 'mean' and 'std' are"),
        (changed(mean=[0.5, float("nan"), 0.5]), "is damaged: its 'mean' and 'std' are"),
        (changed(class_names=["only"]), r"its 'class_names' are \['only'\]; expected at least two different names"),
        (changed(class_names=["a", "b", "a"]), "its 'class_names' are .*; expected at least two different names"),
        (changed(class_names=["a", "b", ""]), "its 'class_names' are .*; expected at least two different names"),
        (changed(class_names=["a", "b"]), "its network has 3 classes and its 'class_names' are 2"),
        (changed(network={}), "its network has None classes"),
        (changed(network={"num_classes": 3}), "does not fit its own description"),
        (changed(state_dict={"fc.weight": torch.zeros(1)}), "does not fit its own description: Error.* in loading"),
    ],
)
def test_damaged_fields_are_named(content, tmp_path, write, message):
    path = tmp_path / "bad.pt"
    write(path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"'{path}' ")
    assert "\n" not in str(caught.value)


def test_descriptions_that_do_not_fit(content, tmp_path):
    path = tmp_path / "x.pt"
    for change, message in (
        ({"shortcut": "3x3"}, r"x\.pt' does not fit its own description"),
        ({"shortcut": "5x5"}, r"x\.pt' does not fit its own description: shortcut is '5x5'"),
        ({"name": "resnet9"}, r"x\.pt': unknown network 'resnet9'"),
        ({"name": ["resnet18"]}, r"x\.pt' does not fit its own description"),
        ({"head": "soft"}, r"x\.pt': unknown head 'soft'"),
        ({"colour": "red"}, r"x\.pt': resnet18 has no option 'colour'; its options are negative_slope"),
        ({"negative_slope": "steep"}, r"x\.pt': negative_slope of resnet18 steep: expected a number"),
    ):
        torch.save({**content, "network": {**content["network"], **change}}, path)
        with pytest.raises(UserError, match=message):
            load_model(path)


def test_a_network_of_fixed_size_has_the_size_of_its_file(tmp_path):
    model = create_model("levi_hassner", "softmax", 3, image_size=64)
    model.class_names = NAMES
    save_model(tmp_path / "x.pt", model, RECORD)
    assert load_model(tmp_path / "x.pt").image_size == 64
    torch.save({**load_plain(tmp_path / "x.pt"), "image_size": 48}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="is damaged: its network is for 64 pixels"):
        load_model(tmp_path / "x.pt")
