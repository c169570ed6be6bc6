"""Starting from trained weights: what comes from a file, what is new, and whom the weights may have seen."""

import copy
import json
import sys
import urllib.error

import pytest
import torch
import torchvision
from conftest import call

import main
import test_code
from models import create_model
from models.checkpoint import load_model, save_model
from training.initial import InitialWeights, describe_initial, fitting_weights, initial_weights
from training.optimizers import OPTIMIZERS, check_optimizer_state, parameter_groups
from training.state import TrainState
from utils.classes import Classes
from utils.errors import UserError
from utils.serialization import load_plain

TINY = (
    "--image-size 40 --width 0.125 --epochs 1 --batch-size 16 --lr 0.01 --threads 1 --precision fp32 --no-plots".split()
)
NAMES = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")


def network(names=NAMES, **options):
    model = create_model("resnet18", "softmax", len(names), **options).eval()
    model.classes = Classes(names)
    return model


def load_initial(model, initial):
    fitting, counts = fitting_weights(model, initial)
    model.load_state_dict({**model.state_dict(), **fitting})
    return counts


@pytest.fixture(scope="module")
def torchvision_model():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    for name, value in model.named_buffers():  # as after training
        if "running" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    return model


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_torchvision_weights_compute_the_same(torchvision_model, tmp_path, nested):
    state = torchvision_model.state_dict()
    torch.save({nested: state, "epoch": 3} if nested else state, tmp_path / "resnet18.pth")
    initial = initial_weights(str(tmp_path / "resnet18.pth"), False, "resnet18", 0)
    model = network(shortcut="1x1", negative_slope=0.0)
    came = load_initial(model, initial)
    images = torch.randn(2, 3, 64, 64)
    torchvision_model.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(model.features(images), torchvision_model(images), atol=1e-5)
    # 64 * 3 * 49 + 2 * 64 of the stem; the last layer has other classes.
    assert came["stem"] == (9536, 9536) and came["fc"] == (0, 512 * 8 + 8)
    assert describe_initial(initial, came).splitlines() == [
        f"initial weights: {tmp_path / 'resnet18.pth'}; new: fc",
        "  their training data is not known; it may include the held-out faces",
    ]


def test_in_the_published_network_biases_become_zero_and_its_shortcuts_are_new(torchvision_model):
    model = network()
    before = model.layer2[0].downsample[0].weight.clone()
    came = load_initial(model, InitialWeights("file", torchvision_model.state_dict()))
    assert torch.equal(model.conv1.weight, torchvision_model.conv1.weight)
    assert model.conv1.bias.eq(0).all() and model.layer4[1].conv2.bias.eq(0).all()
    assert torch.equal(model.layer2[0].downsample[0].weight, before)  # 3x3, theirs is 1x1
    part, whole = came["layer2"]
    assert whole - part == 64 * 128 * 9 + 128  # that convolution and its bias
    # Convolutions of 64 * 128 * 9 + 128, thrice 128 * 128 * 9 + 128 and the shortcut's; five normalisations of 2 * 128.
    assert "layer2 (517,888 of 591,744 values)" in describe_initial(InitialWeights("file", {}), came)


def test_torchvision_names_a_mobilenet_otherwise():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(weights=None).eval()
    model = create_model("mobilenet_v3_small", "coral", 5).eval()
    model.classes = Classes(tuple("abcde"))
    came = load_initial(model, InitialWeights("file", theirs.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.features(images), theirs.avgpool(theirs.features(images)).flatten(1), atol=1e-6)
    assert came == {"backbone": (927_008, 927_008), "fc": (0, 576 + 4)}


def test_a_model_of_ours_comes_whole_and_its_classes_count():
    torch.manual_seed(0)
    ours = network(width=0.125)
    same = InitialWeights("file", ours.state_dict(), class_names=NAMES)
    copy = network(width=0.125)
    came = load_initial(copy, same)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), copy.state_dict().values(), strict=True))
    assert "new: nothing" in describe_initial(same, came)
    other = network(tuple("abcdefgh"), width=0.125)
    before = other.fc.weight.clone()
    assert load_initial(other, same)["fc"] == (0, 64 * 8 + 8)  # as many classes, but others
    assert torch.equal(other.fc.weight, before)


def test_what_does_not_fit_is_refused():
    small = InitialWeights("small.pt", network(width=0.125).state_dict(), class_names=NAMES)
    message = r"'small.pt' has a 'conv1.weight' of \(8, 3, 7, 7\); this network's is \(64, 3, 7, 7\)"
    with pytest.raises(UserError, match=message):
        load_initial(network(), small)
    with pytest.raises(UserError, match=r"'x\.pth' has no 'conv1.weight': it is of another network"):
        load_initial(network(), InitialWeights("x.pth", {"features.0.weight": torch.zeros(3)}))
    state = network(width=0.125).state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    with pytest.raises(UserError, match=r"'nan\.pth' holds numbers that are not finite"):
        load_initial(network(width=0.125), InitialWeights("nan.pth", state))


@pytest.fixture
def start(small_faces_once, tmp_path):
    """Start main.py on small faces, for a run directory that must not appear; returns its exit status."""
    labels, images = small_faces_once
    data = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache"]
    yield lambda *options: call(main, *data, "--run-dir", tmp_path / "r", *options)
    assert not (tmp_path / "r").exists()


def test_an_unknown_origin_stays_in_the_record(small_faces_once, tmp_path, capsys):
    """Of the model, and of a model that starts from it; test_code.py repeats it."""
    labels, images = small_faces_once
    data = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache", *TINY, "--folds", 3]
    torch.save(network(width=0.125).state_dict(), tmp_path / "weights.pth")
    for name, origin in (("a", tmp_path / "weights.pth"), ("b", tmp_path / "a" / "fold_3.pt")):
        assert call(main, *data, "--run-dir", tmp_path / name, "--init-from", origin) == 0
        path = tmp_path / name / "fold_3.pt"
        assert load_model(path).record["unknown_origin"] == [str(tmp_path / "weights.pth")]
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["folds"][0]["unknown_origin"] == [str(tmp_path / "weights.pth")]
    capsys.readouterr()
    assert call(test_code, path, "--cache-dir", tmp_path / "cache", "--threads", 1) == 0
    note = f"note: started from {tmp_path}/weights.pth, whose training faces are not known and may include these\n"
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read 'FILE': No such file or directory"),
        (b"text", "--init-from: 'FILE' is damaged or holds more than tensors and plain values; expected a model file"),
        ([1, 2], "--init-from: 'FILE' holds a list; expected a state dict"),
        ({"epoch": 3}, "--init-from: 'FILE' has no 'conv1.weight': it is of another network"),
    ],
)
def test_bad_files(content, message, start, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert start(*TINY, "--init-from", path) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message.replace("FILE", str(path)) in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--freeze layer5", "--freeze layer5: choose from stem, layer1, layer2, layer3, layer4, fc"),
        ("--freeze stem layer1 layer2 layer3 layer4 fc", "nothing is left to train"),
        ("--pretrained --init-from x.pt", "--pretrained and --init-from 'x.pt': a network starts from one of them"),
        (
            "--pretrained",
            "resnet18-f37072fd.pth: <urlopen error no network>; fetch it where there is a network, and give",
        ),
    ],
)
def test_bad_options(options, message, start, monkeypatch, capsys):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    tiny = [*TINY[:2], *TINY[4:]] if "--model" in options else TINY
    assert start(*tiny, *options.split()) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error


@pytest.fixture(scope="module")
def first(small_faces_once, tmp_path_factory):
    """A model that holds fold 3 out, and the options that lead to its data."""
    folder = tmp_path_factory.mktemp("initial")
    labels, images = small_faces_once
    where = ["--label-dir", labels, "--image-dir", images, "--cache-dir", folder / "cache"]
    assert call(main, *where, *TINY, "--folds", 3, "--run-dir", folder / "first") == 0
    return folder / "first" / "fold_3.pt", where


def test_frozen_layers_keep_weights_and_statistics(first, tmp_path, capsys):
    path, where = first
    options = ["--init-from", path, "--freeze", "stem", "layer1", "--optimizer", "adamw", "--folds", 3]
    assert call(main, *where, *TINY, *options, "--run-dir", tmp_path / "next") == 0
    assert f"initial weights: {path}; new: nothing" in capsys.readouterr().out
    old, new = (load_plain(file)["state_dict"] for file in (path, tmp_path / "next" / "fold_3.pt"))
    kept = {name for name in old if torch.equal(old[name], new[name])}
    assert {name for name in old if name.startswith(("conv1.", "bn1.", "layer1."))} <= kept
    assert not {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "layer4.1.bn2.weight", "fc.weight"} & kept


def test_a_model_of_another_network_says_which(first, tmp_path, capsys):
    path, where = first
    other = [word if word != "0.125" else "0.25" for word in TINY]
    assert call(main, *where, *other, "--folds", 3, "--run-dir", tmp_path / "next", "--init-from", path) == 2
    shapes = "has a 'conv1.weight' of (8, 3, 7, 7); this network's is (16, 3, 7, 7)"
    assert capsys.readouterr().err == f"error: --init-from: '{path}' {shapes}; it was trained with --width 0.125\n"


def test_held_out_people_are_refused_however_many_steps_ago_they_were_seen(first, tmp_path, capsys):
    path, where = first
    options = [*where, *TINY, "--run-dir"]
    assert call(main, *options, tmp_path / "other", "--folds", 1, "--init-from", path) == 2
    assert f"'{path}' was trained on people of these faces: 8 of 8 in fold 1" in capsys.readouterr().err
    assert call(main, *options, tmp_path / "val", "--folds", 3, "--val-fraction", 0.3, "--init-from", path) == 2
    assert "in the validation faces of fold 3" in capsys.readouterr().err
    assert call(main, *options, tmp_path / "next", "--folds", 3, "--init-from", path) == 0
    model = load_model(tmp_path / "next" / "fold_3.pt")
    assert model.record["initial_people"] == load_model(path).record["train_people"]
    # Were it trained on one face alone, its first weights would have seen the others all the same.
    record = {**model.record, "train_people": ["x/1"], "train_faces": 1}
    record["train_pictures"] = record["train_pictures"][:1]
    save_model(tmp_path / "alone.pt", model, record)
    capsys.readouterr()
    assert call(test_code, tmp_path / "alone.pt", "--fold", 1, "--cache-dir", tmp_path / "cache") == 2
    assert "was trained on people of these faces: 8 of 8 in fold 1" in capsys.readouterr().err


def test_a_stopped_run_resumes_to_the_same_bits_from_the_same_weights_only(first, tmp_path, monkeypatch, capsys):
    path, where = first
    copy = tmp_path / "copy.pt"
    copy.write_bytes(path.read_bytes())
    options = [*where, *TINY[:4], "--epochs", 2, *TINY[6:], "--folds", 3, "--optimizer", "adamw", "--init-from", copy]
    assert call(main, *options, "--run-dir", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(main.FoldProgress, "epoch_done", lambda *_: sys.exit(77))
        assert call(main, *options, "--run-dir", tmp_path / "stopped") == 77
    model = load_model(copy)
    changed = {**model.state_dict(), "fc.bias": model.fc.bias.detach() + 1}
    model.load_state_dict(changed)
    save_model(copy, model, model.record)
    capsys.readouterr()
    assert call(main, "--run-dir", tmp_path / "stopped", "--resume") == 2
    assert "is damaged: its initial had other weights" in capsys.readouterr().err
    copy.write_bytes(path.read_bytes())
    assert call(main, "--run-dir", tmp_path / "stopped", "--resume") == 0
    ours, theirs = (load_plain(tmp_path / run / "fold_3.pt")["state_dict"] for run in ("whole", "stopped"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_last_layer_has_a_learning_rate_of_its_own():
    model = network(width=0.125)
    groups = parameter_groups(model, 0.01, head_lr_factor=10)
    found = {(group["lr_factor"], group["weight_decay"]): len(group["params"]) for group in groups}
    # fc has a weight and a bias; 20 convolutions, each with a bias and a normalisation of two parameters.
    assert found == {(1.0, 0.01): 80, (10, 0.01): 2}
    state = TrainState.__new__(TrainState)
    state.optimizer = OPTIMIZERS["sgd"](groups, 0.1, 0.0, False)
    state.set_learning_rate(0.02)
    assert {(group["lr_factor"], group["lr"]) for group in state.optimizer.param_groups} == {(1.0, 0.02), (10, 0.2)}


def test_the_first_step_of_adamw_by_hand():
    # Both moments are bias-corrected, so that the first step is lr * sign(gradient), after a decay of lr * 0.1.
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = OPTIMIZERS["adamw"]([{"params": [weight], "weight_decay": 0.1, "lr_factor": 1.0}], 0.01, 0.9, False)
    (weight * torch.tensor([3.0, 0.5])).sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.999 - 0.01, -1.998 - 0.01], abs=1e-5)
    state = copy.deepcopy(optimizer.state_dict())
    check_optimizer_state(optimizer, state)
    state["state"][0]["exp_avg_sq"] = torch.zeros(3)
    message = r"its optimizer's exp_avg_sq is torch.float32 \(3,\), not torch.float32 \(2,\)"
    with pytest.raises(ValueError, match=message):
        check_optimizer_state(optimizer, state)
