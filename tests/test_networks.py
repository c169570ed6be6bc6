"""The field's earlier networks, heads and attention: sizes by hand, behaviour by small cases."""

import pytest
import torch
from torch import nn

from models import MODELS, resnet18
from models.attention import CBAM, SqueezeExcitation
from models.head import SharedLinear, make_head


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # 96 * 147 + 96, 256 * 2,400 + 256, 384 * 2,304 + 384, (384 * 49) * 512 + 512, 512 * 512 + 512, 8 * 513.
        ("levi_hassner", 14_208 + 614_656 + 885_120 + 9_634_304 + 262_656 + 4_104),
        # 96 * 363 + 96, then 614,656, 885,120, 384 * 3,456 + 384, 256 * 3,456 + 256, 9,216 * 4,096 + 4,096 and so on.
        ("alexnet", 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992 + 37_752_832 + 16_781_312 + 32_776),
    ],
)
def test_sizes_at_227_pixels(name, parameters):
    with torch.device("meta"):
        assert count(MODELS[name]()) == parameters
    assert count(MODELS["levi_hassner"](image_size=227)) == 11_415_048


@pytest.mark.parametrize("name", ["levi_hassner", "alexnet", "resnet18"])
@pytest.mark.parametrize("size", [40, 64, 112])
def test_outputs_at_other_sizes(name, size):
    model = MODELS[name](outputs=7, image_size=size)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_a_shared_head_differs_by_its_biases_alone():
    head = make_head(5, 3, shared=True)
    assert isinstance(head, SharedLinear)
    assert isinstance(make_head(5, 3), nn.Linear)
    outputs = head(torch.randn(4, 5))
    # (3, 2, 1) / 3 are the biases at the start.
    assert torch.allclose(outputs[:, 0] - outputs[:, 1], torch.full((4,), 1 / 3), atol=1e-6)
    assert count(head) == 5 + 3


def test_attention_sizes():
    # Each of 8 blocks gets 2 * C * (C / 16) weights and C / 16 + C biases: C = 64, 128, 256, 512, twice each.
    extra = sum(2 * (2 * c * (c // 16) + c // 16 + c) for c in (64, 128, 256, 512))
    assert count(resnet18(attention="se")) == 12_561_672 + extra
    # CBAM's 7x7 convolution over two maps and its normalisation come on top.
    assert count(resnet18(attention="cbam")) == 12_561_672 + extra + 8 * (2 * 49 + 2)


def test_squeeze_excitation_weighs_channels():
    layer = SqueezeExcitation(16)
    x = torch.randn(2, 16, 3, 3)
    ratio = layer(x) / x
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-5)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_cbam_weighs_places_too():
    layer = CBAM(16).eval()
    x = torch.randn(2, 16, 8, 8)
    ratio = layer(x) / x
    # What is left after the channels' weights is one weight per place, the same for all channels.
    places = ratio / ratio[:, :, :1, :1]
    assert torch.allclose(places, places[:, :1].expand_as(places), atol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_blocks_start_as_identities():
    torch.manual_seed(0)
    model = resnet18(zero_init=True, shortcut="1x1").eval()
    block = model.stages[0][0]
    x = torch.rand(2, 64, 8, 8)  # positive, so that the rectifier behind the sum leaves it
    assert torch.equal(block(x), x)
    assert not torch.equal(resnet18(shortcut="1x1").eval().stages[0][0](x), x)
