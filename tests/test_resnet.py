"""The networks: published sizes, the textbook's own function, the initialisation."""

import math

import pytest
import torch
import torchvision

from models import MODELS, resnet18


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_published_size():
    assert count(resnet18()) == 12_561_672
    assert f"{count(resnet18()) * 4 / 2**20:.2f}" == "47.92"


@pytest.mark.parametrize(
    ("name", "published", "textbook"),
    [
        # Textbook: torchvision's networks with 8 classes. Published: by hand, plus one bias per convolution's
        # channel, and 3x3 instead of 1x1 in the three shortcuts that down-sample, 8 weights per pair of channels.
        ("resnet18", 12_561_672, 11_180_616),
        ("resnet34", 22_673_544, 21_288_776),
        ("resnet50", 45_571_080, 23_524_424),
        ("resnet101", 64_589_320, 42_516_552),
        ("resnet152", 80_256_008, 58_160_200),
    ],
)
def test_parameter_counts(name, published, textbook):
    with torch.device("meta"):
        assert count(MODELS[name]()) == published
        assert count(MODELS[name](shortcut="1x1")) == textbook
        assert count(getattr(torchvision.models, name)(num_classes=8)) == textbook


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_textbook_network_computes_what_torchvisions_does(name):
    """With plain ReLU and the same weights, in the same order, the outputs are the same."""
    theirs = getattr(torchvision.models, name)(num_classes=8).eval()
    ours = MODELS[name](negative_slope=0.0, shortcut="1x1").eval()
    values = [v for v in theirs.state_dict().values() if v.ndim > 0]
    # torchvision lists a block's shortcut last, and so do we; the shapes prove the match.
    state = {key: value for key, value in ours.state_dict().items() if value.ndim > 0}
    assert [v.shape for v in state.values()] == [v.shape for v in values]
    ours.load_state_dict(dict(zip(state, values, strict=True)), strict=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_output_shape_and_smallest_size():
    model = resnet18(outputs=5)
    assert model(torch.randn(2, 3, 40, 40)).shape == (2, 5)
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 5)  # a last batch of one face


def test_negative_slope_is_used_everywhere():
    slopes = {m.negative_slope for m in resnet18(negative_slope=0.3).modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {0.3}


def test_initialisation_has_the_leaky_gain():
    torch.manual_seed(0)
    convolutions = [m for m in resnet18(negative_slope=0.2).modules() if isinstance(m, torch.nn.Conv2d)]
    for convolution in convolutions:
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        expected = math.sqrt(2 / (1 + 0.2**2) / fan_out)
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert convolution.bias.abs().max() == 0


def test_unknown_shortcut():
    with pytest.raises(ValueError, match="'5x5'; it is '3x3' or '1x1'"):
        resnet18(shortcut="5x5")
