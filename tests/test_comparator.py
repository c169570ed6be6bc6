"""Age by comparison: the posterior by hand, its training, and model files like any other."""

import math

import pytest
import torch
from conftest import call
from test_model_file import NAMES, RECORD
from torch import nn

import main
import test_code
from models import create_model
from models.checkpoint import load_model, save_model
from models.comparison import ComparisonHead
from tools import comparator
from tools.comparator import draw_faces, train_head
from training.losses import LOSSES
from utils.classes import Classes
from utils.errors import UserError
from utils.serialization import load_plain, save_plain

CLASSES = Classes(("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+"))


class Oracle(nn.Module):
    """Compares the first feature of two faces: 0.8 for what is true, 0.1 for each of the others."""

    def forward(self, pairs):
        relation = torch.sign(pairs[:, :1] - pairs[:, 1:]).long() + 1
        return torch.log(torch.full((len(pairs), 3), 0.1).scatter(1, relation, 0.8))


@pytest.fixture
def head():
    head = ComparisonHead(in_features=1, num_classes=3, references=2)
    head.comparator = Oracle()
    head.references.copy_(torch.arange(3.0)[:, None, None].expand(3, 2, 1))
    head.log_prior.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
    return head


def test_posterior_by_hand(head):
    # A face of class 1 is older than 0, of the class of 1, younger than 2. If it were of class 0, two of these three
    # (to 0 and to 1) would be wrong; so too for 2; the third comparison agrees.
    outputs = head(torch.tensor([[1.0]]))
    right, wrong = 3 * math.log(0.8), math.log(0.8) + 2 * math.log(0.1)
    priors = [math.log(0.5), math.log(0.25), math.log(0.25)]
    expected = [prior + likelihood for prior, likelihood in zip(priors, (wrong, right, wrong), strict=True)]
    assert outputs[0].tolist() == pytest.approx(expected, rel=1e-5)
    # 0.5 * 0.008 : 0.25 * 0.512 : 0.25 * 0.008, that is 2 : 64 : 1.
    assert head.probabilities(outputs)[0].tolist() == pytest.approx([2 / 67, 64 / 67, 1 / 67], rel=1e-5)


def test_the_prior_decides_where_comparisons_do_not(head):
    # A face that seems of the classes 0 and 1 alike, older than 0 and younger than 1: by hand, class 0 agrees with
    # "younger than 1" and "younger than 2", class 1 with "older than 0" and "younger than 2"; so the frequent one wins.
    outputs = head(torch.tensor([[0.5]]))[0]
    assert (outputs[0] - outputs[1]).item() == pytest.approx(math.log(2), rel=1e-5)
    assert outputs.argmax() == 0
    assert head(torch.arange(3.0)[:, None]).argmax(1).tolist() == [0, 1, 2]


def test_a_comparison_is_another_head_of_a_trained_network():
    trained = create_model("resnet18", "coral", 5, shortcut="1x1", width=0.125).eval()
    model = create_model(**{**trained.description, "head": "comparison"}).eval()
    assert model.head.references.shape == (5, 16, 64)
    names = [f"fc.comparator.layers.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]
    assert [name for name in model.state_dict() if "comparator" in name] == names  # as in earlier files
    assert model.probabilities(torch.randn(2, 3, 40, 40)).sum(1).tolist() == pytest.approx([1, 1])
    assert "comparison" not in {loss.head for loss in LOSSES.values()}  # so that no training of main.py has it


def test_a_file_of_an_earlier_version_loads(tmp_path):
    """There a comparison was a network of its own, around another one."""
    model = create_model("resnet18", "comparison", 3, width=0.125).eval()
    model.classes, model.image_size = Classes(NAMES), 48
    save_model(tmp_path / "today.pt", model, RECORD)
    content = load_plain(tmp_path / "today.pt")
    backbone = {**content["network"], "head": "softmax"}
    earlier = {"name": "comparison", "head": "softmax", "num_classes": 3, "backbone": backbone, "references": 16}
    state = {name if name.startswith("fc.") else f"backbone.{name}": v for name, v in content["state_dict"].items()}
    save_plain(tmp_path / "earlier.pt", {**content, "network": earlier, "state_dict": state})
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "earlier.pt")(images), model(images))


def test_drawn_faces_have_the_classes_asked_for():
    labels = torch.tensor([3, 0, 1, 2, 3, 4, 5, 6, 7, 0])
    asked = torch.randint(8, (50, 4), generator=torch.Generator().manual_seed(0))
    drawn = draw_faces(labels, asked, torch.Generator().manual_seed(1))
    assert torch.equal(labels[drawn], asked)
    assert set(drawn[asked == 3].tolist()) == {0, 4}


def test_the_head_learns_from_faces_of_all_classes():
    labels = torch.arange(8).repeat_interleave(torch.tensor([2, 1, 1, 1, 1, 1, 1, 2]))
    features = labels[:, None].float() * torch.tensor([1.0, -1.0])  # (10, 2)
    torch.manual_seed(0)
    head = ComparisonHead(in_features=2, num_classes=8, references=3)
    train_head(head, features, labels, CLASSES, 100, torch.Generator().manual_seed(0), batch_size=64)
    assert torch.equal(head.references[:, :, 0], torch.arange(8.0)[:, None].expand(8, 3))
    assert head.log_prior.exp().tolist() == pytest.approx([0.2, *[0.1] * 6, 0.2])
    posteriors = head.eval().probabilities(head(features)).argmax(1)
    assert (posteriors - labels).abs().max() <= 1
    with pytest.raises(UserError, match=r"^no training face has the class 60\+: all classes are compared$"):
        train_head(head, features, labels.clamp_max(6), CLASSES, 1, torch.Generator())


def test_the_script_makes_model_files_like_any_other(small_faces_once, tmp_path, capsys):
    labels, images = small_faces_once
    here = ["--cache-dir", tmp_path / "cache", "--threads", 1]
    tiny = "--image-size 40 --width 0.125 --epochs 1 --batch-size 16 --lr 0.01 --folds 3 --loss coral --no-plots"
    data = ["--label-dir", labels, "--image-dir", images, "--run-dir", tmp_path / "run"]
    assert call(main, *data, *here, *tiny.split()) == 0
    model, target = (tmp_path / folder / "fold_3.pt" for folder in ("run", "compared"))
    arguments = [model, "--run-dir", tmp_path / "compared", "--steps", 20, *here]
    capsys.readouterr()
    assert call(comparator, *arguments) == 0
    shown = capsys.readouterr().out.split("fold 3 by comparison: top-1 ")[1].split(",")[0]
    assert call(test_code, target, *here) == 0
    assert f"eval accuracy: {shown}" in capsys.readouterr().out.splitlines()
    before = target.read_bytes()
    assert call(comparator, *arguments) == 2
    assert capsys.readouterr().err == f"error: '{target}' exists; choose another --run-dir\n"
    assert target.read_bytes() == before
