"""Age by comparison: the posterior by hand, and the network that holds it."""

import math

import pytest
import torch
from torch import nn

from models import MODELS, create_model
from models.comparison import ComparisonHead, without_head
from utils.errors import UserError


class Oracle(nn.Module):
    """Compares the first feature of two faces: 0.8 for what is true, 0.1 for each of the others."""

    def forward(self, first, second):
        relation = torch.sign(first[:, 0] - second[:, 0]).long() + 1
        return torch.log(torch.full((len(first), 3), 0.1).scatter(1, relation[:, None], 0.8))


@pytest.fixture
def head():
    head = ComparisonHead(in_features=1, num_classes=3, references=2)
    head.comparator = Oracle()
    head.set_references(torch.arange(3.0)[:, None, None].expand(3, 2, 1), torch.tensor([0.5, 0.25, 0.25]))
    return head


def test_posterior_by_hand(head):
    # A face of class 1 is older than 0, of the class of 1, younger than 2. If it were of class 0, two of these three
    # (to 0 and to 1) would be other than said; so too for 2; the third comparison agrees.
    outputs = head(torch.tensor([[1.0]]))
    right, wrong = 3 * math.log(0.8), math.log(0.8) + 2 * math.log(0.1)
    priors = [math.log(0.5), math.log(0.25), math.log(0.25)]
    expected = [prior + said for prior, said in zip(priors, (wrong, right, wrong), strict=True)]
    assert outputs[0].tolist() == pytest.approx(expected, rel=1e-5)
    # 0.5 * 0.008 : 0.25 * 0.512 : 0.25 * 0.008, that is 2 : 64 : 1.
    assert head.probabilities(outputs)[0].tolist() == pytest.approx([2 / 67, 64 / 67, 1 / 67], rel=1e-5)


def test_the_prior_decides_where_comparisons_do_not(head):
    # A face that seems of the classes 0 and 1 alike, older than 0 and younger than 1: by hand, class 0 agrees with
    # "younger than 1" and "younger than 2", class 1 with "older than 0" and "younger than 2"; so the frequent one wins.
    outputs = head(torch.tensor([[0.5]]))[0]
    assert (outputs[0] - outputs[1]).item() == pytest.approx(math.log(2), rel=1e-5)
    assert outputs.argmax() == 0


def test_every_class_is_found(head):
    assert head(torch.arange(3.0)[:, None]).argmax(1).tolist() == [0, 1, 2]


def test_a_comparison_takes_a_trained_backbone():
    trained = create_model("resnet18", "coral", 5, shortcut="1x1", width=0.125).eval()
    model = create_model("comparison", "softmax", 5, backbone=trained.description, references=3).eval()
    model.backbone.load_state_dict(without_head(trained.state_dict()))  # strictly
    assert not any(name.startswith("backbone.fc") for name in model.state_dict())
    assert model.head.references.shape == (5, 3, 64)
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(model.features(images), trained.features(images))
        assert model.probabilities(images).sum(1).tolist() == pytest.approx([1, 1])
    again = create_model(**model.description)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_it_has_the_input_of_its_backbone():
    backbone = create_model("levi_hassner", "softmax", 5, image_size=64).description
    model = create_model("comparison", "softmax", 5, backbone=backbone)
    assert (model.fixed_size, model.image_size) == (True, 64)


def test_it_is_no_choice_of_the_command_line_and_needs_a_softmax_head():
    assert "comparison" not in MODELS
    backbone = create_model("resnet18", "softmax", 5, width=0.125).description
    with pytest.raises(UserError, match="need the head 'softmax'"):
        create_model("comparison", "corn", 5, backbone=backbone)


def test_a_comparison_of_a_comparison_is_refused_at_once():
    """A damaged model file may describe hundreds of them, one within the other."""
    description = create_model("resnet18", "softmax", 5, width=0.125).description
    for _ in range(200):
        description = {"name": "comparison", "head": "softmax", "num_classes": 5, "backbone": description}
    with pytest.raises(UserError, match=r"^a comparison needs the features of a network that is no comparison itself$"):
        create_model(**description)
