"""Networks of timm: trained, evaluated, initialised and refused as ours are; their numbers are timm's own."""

import pytest
import torch
from conftest import call

import main
import test_code
from models import create_model
from models.checkpoint import load_model
from utils.errors import UserError

timm = pytest.importorskip("timm", reason="the extra requirements-timm.txt is not installed")

NAME = "timm:test_resnet"
TRAIN = f"--model {NAME} --image-size 64 --epochs 1 --batch-size 16 --folds 0 --no-plots --threads 1".split()


@pytest.fixture
def train(small_faces, tmp_path):
    labels, images = small_faces
    where = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache"]
    return lambda *options: call(main, *where, *TRAIN, "--run-dir", tmp_path / "run", *options)


def test_features_are_those_of_timm():
    model = create_model(NAME, "softmax", 8).eval()
    original = timm.create_model("test_resnet", num_classes=0).eval()
    original.load_state_dict(model.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.features(images), original(images)) and model(images).shape == (2, 8)
    assert (model.mean, model.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # timm's of this network, not ImageNet's


def test_it_is_trained_and_evaluated_from_a_state_dict_of_timm(train, tmp_path, capsys):
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save(state, tmp_path / "timm.pth")
    assert train("--init-from", tmp_path / "timm.pth", "--freeze", "backbone", "--recipe", "modern") == 0
    assert f"initial weights: {tmp_path / 'timm.pth'}; new: fc" in capsys.readouterr().out
    model = load_model(tmp_path / "run" / "fold_0.pt")
    assert model.description == {"name": NAME, "head": "softmax", "num_classes": 8}
    assert torch.equal(model.backbone.conv1[0].weight, state["conv1.0.weight"])
    assert call(test_code, tmp_path / "run" / "fold_0.pt", "--threads", 1) == 0
    assert train("--resume", "--init-from", tmp_path / "run" / "fold_0.pt") == 2  # other settings than those of the run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model timm:nothing", "--model timm:nothing: timm "),
        ("--model timm:test_resnet.wrong", "--model timm:test_resnet.wrong: Invalid pretrained tag (wrong) for test"),
        ("--model timm:test_resnet.", "--model timm:test_resnet.: timm "),
        ("--model timm:test_resnet.a/b@c", "--model timm:test_resnet.a/b@c: timm "),
        ("--model timm:hf-hub:timm/resnet18", "--model timm:hf-hub:timm/resnet18: timm "),
        ("--model timm:vit_tiny_patch16_224", "--image-size 64: timm:vit_tiny_patch16_224 cannot take such images"),
        ("--model timm:inception_v3 --image-size 50", "--image-size 50: timm:inception_v3 cannot take such images"),
        ("--width 0.5", f"--width 0.5: {NAME} has no such option; its options are none"),
    ],
)
def test_what_is_refused(options, message, train, capsys):
    assert train(*options.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and len(error.splitlines()) == 1


def test_without_timm(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="timm:test_resnet needs the package timm: python -m pip install -r req"):
        create_model(NAME, "softmax", 8)
