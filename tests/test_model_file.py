"""Model files: plain, self-describing, never run as code, and clear about what is wrong with them."""

import collections
import copy
import math
import os
import pickle
import resource
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import create_model
from models.checkpoint import load_model, save_model
from utils import serialization
from utils.classes import Classes
from utils.errors import UserError
from utils.serialization import load_plain, save_plain

NAMES = ("young", "middle", "old")  # other classes than Adience's
RECORD = {
    "fold": 2,
    "train_people": ["album0/0", "album1/7"],
    "train_faces": 3,
    "train_pictures": torch.arange(3 * 96, dtype=torch.uint8).view(3, 96),
    "duplicates": ["album2/landmark_aligned_face.1.a.jpg"],
    "val_albums": [],
    "metrics": {"top1": 0.5, "mae": 1},
    "decoder": "argmax",
    "history": [{"epoch": 1, "loss": 2.0}],
    "data_fingerprint": "abc",
    "trained_on": "CPU, 1 thread, fp32",
    "config": {"epochs": 1, "folds": [0, 1]},
    "commit": "",
    "versions": {"torch": "2"},
}


def make_model(**options):
    model = create_model("resnet18", "softmax", 3, width=0.125, **options)
    model.classes, model.image_size = Classes(NAMES), 48
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
    assert (loaded.classes.names, loaded.image_size) == (NAMES, 48)
    assert (loaded.mean, loaded.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert loaded.record.keys() == RECORD.keys()
    assert torch.equal(loaded.record.pop("train_pictures"), RECORD["train_pictures"])
    assert loaded.record == {name: value for name, value in RECORD.items() if name != "train_pictures"}
    assert not loaded.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_loaded_model_saves_as_the_same_file(model, content, tmp_path):
    save_model(tmp_path / "a.pt", model, {**RECORD, "framing": [0.5, 0.47, 0.84, 0.95]})
    loaded = load_model(tmp_path / "a.pt")
    save_model(tmp_path / "b.pt", loaded, loaded.record)
    assert load_plain(tmp_path / "b.pt")["framing"] == [0.5, 0.47, 0.84, 0.95]
    assert load_plain(tmp_path / "b.pt").keys() == content.keys() | {"framing"}


def test_normalisation_travels_with_the_model(content, tmp_path):
    save_plain(tmp_path / "x.pt", {**content, "mean": [0.5, 0.5, 0.5], "std": [1.0, 0.5, 0.25]})
    loaded = load_model(tmp_path / "x.pt")
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (1.0, 0.5, 0.25))
    assert type(loaded).mean == (0.485, 0.456, 0.406)


def test_an_incomplete_record_is_not_saved(model, tmp_path):
    for wrong, message in (
        ({name: value for name, value in RECORD.items() if name != "commit"}, "its 'commit' is not a text"),
        ({**RECORD, "fold": None}, "its 'fold' is not a whole number"),
        ({**RECORD, "metrics": {"top1": np.float64(0.5)}}, "its 'metrics' holds something that is not a finite number"),
        ({**RECORD, "config": {"epochs": 1, "lr": np.float64(0.5)}}, "cannot save values of type float64"),
        ({**RECORD, "train_people": []}, "its 'train_people' are 0 and its 'train_faces' 3"),
    ):
        with pytest.raises(ValueError, match=message):
            save_model(tmp_path / "x.pt", model, wrong)
    assert list(tmp_path.iterdir()) == []


def test_only_plain_values_are_saved(tmp_path):
    """What `weights_only=True` would refuse is refused while there is still something to save."""
    plain = {"tensors": [{"step": torch.tensor(3.0), 0: None}, (True, "x")]}
    save_plain(tmp_path / "x.pt", plain)
    assert load_plain(tmp_path / "x.pt") == plain
    for value in (lambda: None, np.float64(1), np.zeros(2), {1, 2}):
        with pytest.raises(ValueError, match=f"cannot save values of type {type(value).__name__}"):
            save_plain(tmp_path / "x.pt", {"nested": [{"deep": value}]})
    assert load_plain(tmp_path / "x.pt") == plain


class Call:
    """A pickle that calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def trap(path):
    return Call(os.mkdir, str(path.with_name("sprung")))


def write_truncated(path, content):
    save_plain(path, content)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def changed(**fields):
    """Writes the changed content with its right SHA-256, as this program would."""
    return lambda path, content: save_plain(path, {**content, **fields})


def described(**options):
    """The same for options of the network."""
    return lambda path, content: save_plain(path, {**content, "network": {**content["network"], **options}})


def weighted(change):
    """The same for the first convolution, (8, 3, 7, 7)."""
    return lambda path, content: save_plain(path, with_weights(content, change))


def holding(value):
    """Writes the content and one more value, whatever it is."""
    return lambda path, content: torch.save({**content, "more": value}, path)


def with_weights(content, change):
    weights = content["state_dict"]["conv1.weight"]
    assert weights.shape == (8, 3, 7, 7)
    return {**content, "state_dict": {**content["state_dict"], "conv1.weight": change(weights)}}


def noise(weights):
    """Random bits: one in 256 of such numbers is infinite or none at all."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, weights.shape, np.uint32).view(np.float32))


def one_nan(weights):
    weights = weights.clone()
    weights[7, 2, 6, 6] = float("nan")
    return weights


CALLS = "is not a model file: it is damaged or holds more than tensors"
NO_ZIP = "is truncated or not a model file: File is not a zip file"
NOT_FINITE = "its 'conv1.weight' holds something that is not a finite number$"
UNFIT = "does not fit its own description"
DAMAGED = [
    # Other files.
    (lambda path, _: torch.save(trap(path), path), CALLS),
    (lambda path, content: torch.save({**content, "commit": trap(path)}, path), CALLS),
    (lambda path, _: path.write_bytes(pickle.dumps(trap(path))), NO_ZIP),
    (lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False), NO_ZIP),
    (write_truncated, "is truncated or not a model file"),
    (lambda path, _: path.write_bytes(b""), "is truncated or not a model file"),
    (lambda path, _: path.write_text("hello there"), "is truncated or not a model file"),
    (lambda path, _: save_plain(path, {"state_dict": {}}), "is not a model file: its format is not 'age-model'"),
    (lambda path, _: torch.save({"state_dict": {}}, path), "is not a model file of this version: it has no SHA-256"),
    (lambda path, _: torch.save([1, 2], path), "is truncated or not a model file: it holds a list"),
    (lambda path, _: None, "no model file at '.*bad.pt'; main.py writes fold_0.pt to fold_4.pt into its run"),
    (lambda path, _: os.mkfifo(path), "' is a named pipe; expected a regular file$"),
    (lambda path, _: path.symlink_to("/dev/zero"), "' is a device; expected a regular file$"),
    (lambda path, _: path.mkdir(), "' is a folder; expected a regular file$"),
    (changed(format_version=99), "has format number 99; this version reads 3 and 4; a newer version of this code"),
    (changed(format_version=3, train_faces=4), r"its 'train_pictures' are \(3, 96\) of torch.uint8 for 4 faces$"),
    (changed(format_version=2), "has format number 2; this version reads 3 and 4$"),
    (changed(format_version="3"), "has format number 3; this version reads 3 and 4$"),
    # Values that torch loads, but no model file has.
    *((holding(value), CALLS) for value in ({1, 2}, collections.Counter("aab"), 1j, b"x", torch.eye(3).to_sparse())),
    # A tensor of one number that takes 4 TB in use, and one of 4 MiB that is read as 8 GiB.
    (
        holding(torch.zeros(1).expand(10**12)),
        r"is truncated or not a model file: it holds an odd tensor, torch.float32 \(1000000000000,\)$",
    ),
    (holding([torch.zeros(1 << 20)] * 2000), "its values are larger than the file$"),
    # Damaged fields.
    (
        lambda path, content: save_plain(path, {name: content[name] for name in content if name != "history"}),
        "is damaged: its 'history' is not a list",
    ),
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
    (changed(class_names=["only"]), r"its 'class_names' are \['only'\]; expected 2 to 1,000 different names"),
    (changed(class_names=["a", "b", "a"]), "its 'class_names' are .*; expected 2 to 1,000 different names"),
    (changed(class_names=["a", "b", ""]), "its 'class_names' are .*; expected 2 to 1,000 different names"),
    (changed(class_names=["a", "b"]), "its network has 3 classes and its 'class_names' are 2"),
    (changed(class_years=[[0, 12], [12, 20], [60, None]]), "is damaged: its 'class_years' are "),
    (changed(class_years=[[0, 12], [13, 20]]), "is damaged: its 'class_years' are "),
    (changed(class_years=[[0, None], [13, 20], [60, None]]), "is damaged: its 'class_years' are "),
    (changed(class_years=[[0, 12], [20, 13], [60, None]]), "is damaged: its 'class_years' are "),
    (changed(class_years=[5, 6, 7]), "is damaged: its 'class_years' are "),
    (changed(class_years="ages"), "is damaged: its 'class_years' are "),
    (changed(temperature=0.0), "is damaged: its 'temperature' is 0.0; expected a number over 0"),
    (changed(usual_answer=[0.5, 0.5]), r"its 'usual_answer' is \[0.5, 0.5\]; expected a probability of each class"),
    (changed(usual_answer=[0.5, 0.5, float("nan")]), "its 'usual_answer' is "),
    (changed(usual_answer=[1, 0, 0]), "is damaged: its 'usual_answer' holds something that is not a number"),
    (changed(initial_people=[1]), "is damaged: its 'initial_people' holds something that is not a text"),
    (changed(initial_pictures=torch.zeros(3, 95)), "its 'initial_pictures' are not like its 'train_pictures'"),
    (changed(train_people=[]), "is damaged: its 'train_people' are 0 and its 'train_faces' 3$"),
    (changed(hashed_people=torch.zeros(2, 6, dtype=torch.uint8)), "its 'train_people' are 4 and its 'train_faces' 3$"),
    (changed(hashed_people=torch.zeros(1, 6)), r"its 'hashed_people' are \(1, 6\) of torch.float32"),
    (changed(hashed_people=torch.zeros(1, 5, dtype=torch.uint8)), r"its 'hashed_people' are \(1, 5\) of torch.uint8"),
    (changed(train_people=[], hashed_people=torch.zeros(2, 6, dtype=torch.uint8)), "its 'train_people' are 2 and its"),
    (changed(train_people=["a/1", "a/1"]), "is damaged: its 'train_people' are 2 and its 'train_faces' 3$"),
    (changed(train_people=["a/1", "a/2", "a/3", "a/4"]), "its 'train_people' are 4 and its 'train_faces' 3$"),
    (changed(train_faces=4), r"its 'train_pictures' are \(3, 96\) of torch.uint8 for 4 faces$"),
    (changed(train_faces=2.0), "is damaged: its 'train_faces' is not a whole number"),
    (changed(train_pictures=torch.zeros(3, 96)), r"its 'train_pictures' are \(3, 96\) of torch.float32 for 3"),
    (changed(train_pictures=torch.zeros(3, dtype=torch.uint8)), r"its 'train_pictures' are \(3,\) of torch.uint8"),
    (changed(train_pictures=[[0] * 96] * 3), "is damaged: its 'train_pictures' is not a tensor"),
    (changed(duplicates="album2/a.jpg"), "is damaged: its 'duplicates' is not a list"),
    (changed(format=torch.zeros(2)), "is not a model file: its format is not 'age-model'"),
    (changed(format_version=torch.zeros(2)), r"has format number tensor\(\[0., 0.\]\); this version reads 3 and 4"),
    (changed(duplicates=[None]), "is damaged: its 'duplicates' holds something that is not a text"),
    (changed(metrics={}), "is damaged: its 'metrics' holds something that is not a finite number"),
    (changed(metrics={"top1": float("inf")}), "its 'metrics' holds something that is not a finite number"),
    (changed(metrics={"top1": True}), "its 'metrics' holds something that is not a finite number"),
    (changed(history=[{"epoch": 0, "loss": float("nan")}]), "its 'history' holds something that is not a finite"),
    (changed(history=[{}]), "its 'history' holds something that is not a finite number"),
    (changed(history=[{"loss": 1.0}] * 2), "is damaged: its 'history' has 2 epochs instead of 1$"),
    (changed(config={}), "is damaged: its 'history' has 1 epochs instead of None$"),
    # Networks and weights that do not fit.
    (changed(network={}), "its network has None classes"),
    (changed(network={"num_classes": 3}), UNFIT),
    (described(shortcut="3x3"), UNFIT),
    (described(shortcut="5x5"), f"{UNFIT}: shortcut is '5x5'"),
    (described(name="resnet9"), "': unknown network 'resnet9'"),
    (described(name=["resnet18"]), UNFIT),
    (described(head="soft"), "': unknown head 'soft'"),
    (described(colour="red"), "': resnet18 has no option 'colour'; its options are negative_slope"),
    (described(negative_slope="steep"), "': negative_slope of resnet18 steep: expected a number"),
    (changed(state_dict={"fc.weight": torch.zeros(1)}), f"{UNFIT}: Error.* in loading"),
    (weighted(noise), NOT_FINITE),
    (weighted(one_nan), NOT_FINITE),
    (weighted(lambda weights: weights / 0), NOT_FINITE),
    (weighted(lambda weights: weights.double()), "its 'conv1.weight' is torch.float64, not torch.float32$"),
    (weighted(lambda weights: weights.to(torch.int64)), "its 'conv1.weight' is torch.int64, not torch.float32$"),
    (weighted(lambda weights: weights.tolist()), "its 'conv1.weight' is list, not torch.float32$"),
    (weighted(lambda weights: weights[:4]), f"{UNFIT}: Error"),
]


@pytest.mark.parametrize(("write", "message"), DAMAGED)
def test_a_damaged_file_is_named_and_nothing_runs(content, tmp_path, write, message):
    path = tmp_path / "bad.pt"
    write(path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert f"'{path}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_an_option_of_an_earlier_version_that_changed_nothing(content, tmp_path):
    """Until commit db738f6, ResNets had `attention`."""
    description = {**content["network"], "attention": "none"}
    save_plain(tmp_path / "x.pt", {**content, "network": description})
    assert load_model(tmp_path / "x.pt").description == content["network"]
    save_plain(tmp_path / "x.pt", {**content, "network": {**description, "attention": "se"}})
    with pytest.raises(UserError, match=r"x\.pt': resnet18 has no option 'attention'"):
        load_model(tmp_path / "x.pt")


def test_a_record_may_have_no_history(content, tmp_path):
    """Such as that of a network that was not trained in epochs."""
    save_plain(tmp_path / "x.pt", {**content, "history": []})
    assert load_model(tmp_path / "x.pt").record["history"] == []


@pytest.fixture(scope="module")
def sound(content, tmp_path_factory):
    """The bytes of a model file, where its parts are, and a path to write damaged ones to."""
    folder = tmp_path_factory.mktemp("sound")
    save_plain(folder / "sound.pt", content)
    return (folder / "sound.pt").read_bytes(), parts_of(folder / "sound.pt"), folder / "damaged.pt"


def parts_of(file):
    """{name: (first byte, size)} of the parts of a zip archive, where they lie in the file."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            archive.fp.seek(entry.header_offset + 26)  # the lengths of the name and of the extra field
            name, extra = (int.from_bytes(archive.fp.read(2), "little") for _ in range(2))
            found[entry.filename.split("/", 1)[1]] = (entry.header_offset + 30 + name + extra, entry.file_size)
    return found


def flip(whole, position, bit):
    return whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]


def test_a_flipped_bit_in_any_tensor_is_noticed(sound, content):
    whole, parts, path = sound
    tensors = {name: place for name, place in parts.items() if name.startswith("data/")}
    assert len(tensors) == len(content["state_dict"]) + 1  # and the pictures
    rng = np.random.default_rng(0)
    for start, size in tensors.values():
        path.write_bytes(flip(whole, start + int(rng.integers(size)), int(rng.integers(8))))
        with pytest.raises(UserError, match=r"is damaged: its content is not what its SHA-256 says$"):
            load_plain(path)


@settings(max_examples=125, deadline=None)
@given(st.data())
@pytest.mark.parametrize("part", [None, "data.pkl"], ids=["anywhere", "description"])
def test_a_flipped_bit_changes_nothing_or_is_noticed(sound, content, part, data):
    """Some bytes of the archive, such as its padding, mean nothing; what is loaded is always what was saved."""
    whole, parts, path = sound
    start, size = parts.get(part, (0, len(whole)))
    path.write_bytes(flip(whole, data.draw(st.integers(start, start + size - 1)), data.draw(st.integers(0, 7))))
    try:
        loaded = load_plain(path)
    except UserError as error:
        assert "damaged.pt'" in str(error)
        assert "\n" not in str(error)
    else:
        assert serialization.digest(loaded) == serialization.digest(content)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_tensors_of_odd_kinds_are_neither_saved_nor_loaded(content, tmp_path, kind):
    odd = with_weights(content, lambda weights: weights.to(kind))
    with pytest.raises(ValueError, match=f"cannot save values of type {kind}"):
        save_plain(tmp_path / "x.pt", odd)
    torch.save({**odd, "sha256": serialization.digest(odd)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="is not a model file: it is damaged or holds more than tensors"):
        load_model(tmp_path / "x.pt")


def test_a_compressed_archive_is_refused(tmp_path):
    """64 MiB of zeros in a file of less than 1 MiB; it could as well be terabytes."""
    save_plain(tmp_path / "whole.pt", {"weights": torch.zeros(16 << 20)})
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for entry in whole.infolist():
            bomb.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < 2**20
    with pytest.raises(UserError, match="is truncated or not a model file: it is compressed"):
        load_model(tmp_path / "bomb.pt")


def test_an_archive_that_lists_the_same_bytes_twice_is_refused(sound):
    whole, _, path = sound
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        again = copy.copy(max(archive.infolist(), key=lambda entry: entry.file_size))
        again.filename = again.orig_filename = "archive/data/9999"
        archive.filelist += [again] * 10  # all at the same place in the file
        archive._didModify = True
    with pytest.raises(UserError, match=r"is truncated or not a model file: its parts are larger than the file$"):
        load_model(path)


def test_a_list_that_multiplies_itself_is_refused(tmp_path, monkeypatch):
    """Ten levels of ten references each are 10^10 values, in a file of 2 kB."""
    monkeypatch.setattr(serialization, "VALUES_LIMIT", 100_000)
    laughs = "ha"
    for _ in range(10):
        laughs = [laughs] * 10
    torch.save({"commit": laughs}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 2000
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"is truncated or not a model file: it holds more than 100,000 values$"):
        load_model(tmp_path / "x.pt")
    assert time.monotonic() - begun < 10


def test_a_list_that_holds_itself_is_refused(tmp_path):
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="its values are nested more than 20 deep"):
        save_plain(tmp_path / "x.pt", {"commit": endless})
    torch.save({"commit": endless}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"is truncated or not a model file: its values are nested more than 20 deep$"):
        load_model(tmp_path / "x.pt")


def test_nothing_is_called_that_takes_memory(content, tmp_path):
    torch.save({**content, "more": Call(bytearray, 2 << 30)}, tmp_path / "x.pt")  # two gigabytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="is not a model file: it is damaged or holds more than tensors"):
        load_model(tmp_path / "x.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_network_that_is_too_large_takes_no_memory(content, tmp_path):
    description = {"name": "resnet152", "head": "softmax", "num_classes": 3, "width": 4.0}
    save_plain(tmp_path / "x.pt", {**content, "network": description})
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"x\.pt': resnet152 with these options has [0-9,]+ numbers; at most 500,"):
        load_model(tmp_path / "x.pt")
    assert time.monotonic() - begun < 10


def test_the_sha256_covers_order_types_and_shapes():
    """What differs in any way has another one: 1 and True and 1.0 and "1", a list and its items, two shapes."""
    contents = [
        {"a": 1}, {"a": True}, {"a": 1.0}, {"a": "1"}, {"a": None}, {"a": [1]}, {"a": [[1]]}, {"a": []}, {"a": {}},
        {"b": 1}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": "1\nint 1"}, {"a": 0.0}, {"a": -0.0},
        {"a": torch.zeros(6)}, {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(3).double()},
        {"a": torch.zeros(6, dtype=torch.int32)}, {"a": -torch.zeros(6)}, {"a": torch.zeros(0)},
    ]  # fmt: skip
    digests = [serialization.digest(content) for content in contents]
    assert len(set(digests)) == len(contents)
    # By hand, with hashlib: a mark for the dict, then its key and its value.
    assert digests[0] == "caae9e135e72c9076de29a804cdacfb4ce53c4f0f55bae5045c4541ce03da5f5"


def test_the_years_of_the_classes_come_back(tmp_path):
    model = create_model("resnet18", "softmax", 3, width=0.125)
    model.classes, model.image_size = Classes.of_ages(("0-12", "13", "60+")), 48
    save_model(tmp_path / "x.pt", model, RECORD)
    assert load_model(tmp_path / "x.pt").classes.years == ((0, 12), (13, 13), (60, math.inf))
    assert load_plain(tmp_path / "x.pt")["class_years"] == [[0, 12], [13, 13], [60, None]]


def test_a_file_of_an_earlier_version_loads(content, tmp_path):
    earlier = {**content, "twins": content["duplicates"]}
    del earlier["duplicates"]
    network = {**content["network"], "inner_width": content["network"]["mid_width"], "standardize": False}
    del network["mid_width"]
    save_plain(tmp_path / "x.pt", {**earlier, "network": network})
    model = load_model(tmp_path / "x.pt")
    assert model.record["duplicates"] == content["duplicates"]
    assert model.description == content["network"]
    assert model.classes.years is None
