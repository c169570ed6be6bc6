"""The residual networks: published sizes, torchvision's weights and outputs, the initial weights."""

import math

import pytest
import torch
import torchvision
from torch import nn

from models import create_model
from models.network import parameter_count, size_mib
from models.resnet import standardize


def resnet(name="resnet18", num_classes=8, **options):
    return create_model(name, "softmax", num_classes, **options)


def test_published_size():
    model = resnet()
    assert parameter_count(model) == 12_561_672
    assert f"{size_mib(model):.2f}" == "47.92"


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
        assert parameter_count(resnet(name)) == published
        assert parameter_count(resnet(name, shortcut="1x1")) == textbook
        assert parameter_count(getattr(torchvision.models, name)(num_classes=8)) == textbook


def test_without_max_pooling_the_layers_see_twice_the_resolution():
    images = torch.zeros(1, 3, 64, 64)
    for max_pool, sides in ((True, [16, 8, 4, 2]), (False, [32, 16, 8, 4])):
        model, found = resnet(max_pool=max_pool, width=0.125).eval(), []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            layer.register_forward_hook(lambda _, __, output, found=found: found.append(output.shape[-1]))
        model(images)
        assert found == sides
    assert parameter_count(resnet(max_pool=False)) == 12_561_672  # pooling has none


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_weights_load_by_name_and_give_the_same_outputs(name):
    theirs = getattr(torchvision.models, name)(num_classes=8).eval()
    for module in theirs.modules():  # as after training: statistics other than 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    ours = resnet(name, negative_slope=0.0, shortcut="1x1").eval()
    state = theirs.state_dict()
    without_classifier = {key: value for key, value in state.items() if not key.startswith("fc.")}
    result = ours.load_state_dict(without_classifier, strict=False)
    assert set(result.missing_keys) == {"fc.weight", "fc.bias"}
    assert result.unexpected_keys == []
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        assert torch.allclose(ours(images), expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.01


def test_output_shape_and_smallest_size():
    model = resnet(num_classes=5)
    assert model(torch.randn(2, 3, 40, 40)).shape == (2, 5)
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 5)  # a last batch of one face


def test_negative_slope_is_used_everywhere():
    slopes = {m.negative_slope for m in resnet(negative_slope=0.3).modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.3}


def convolutions_of(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_he_initialisation_has_the_leaky_gain():
    torch.manual_seed(0)
    for convolution in convolutions_of(resnet(negative_slope=0.2, init="he")):
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        expected = math.sqrt(2 / (1 + 0.2**2) / fan_out)
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert convolution.bias.abs().max() == 0


def test_the_default_initialisation_is_pytorchs():
    """Uniform within 1 / sqrt(fan_in), for weights and biases; the standard deviation is a sqrt(3)th of the bound."""
    torch.manual_seed(0)
    for convolution in convolutions_of(resnet()):
        bound = 1 / math.sqrt(convolution.in_channels * math.prod(convolution.kernel_size))
        assert convolution.weight.abs().max() <= bound
        assert convolution.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert 0.5 * bound < convolution.bias.abs().max() <= bound


def test_unknown_names():
    with pytest.raises(ValueError, match="shortcut is '5x5'; it is '3x3' or '1x1'"):
        resnet(shortcut="5x5")
    with pytest.raises(ValueError, match="init is 'zero'; it is 'pytorch' or 'he'"):
        resnet(init="zero")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_blocks_start_as_identities(name):
    torch.manual_seed(0)
    block = resnet(name, zero_init=True, shortcut="1x1").eval().layer1[1]
    x = torch.rand(2, 64 * block.expansion, 8, 8)  # positive: the activation after the sum leaves it
    assert torch.equal(block(x), x)
    assert not torch.equal(resnet(name, shortcut="1x1").eval().layer1[1](x), x)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_block_leaves_its_input_as_it_is(name):
    """Activations work in place; the shortcut still reads what came in."""
    block = resnet(name).layer1[1]
    x = torch.randn(2, 64 * block.expansion, 8, 8)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


def test_standardised_images():
    images = torch.tensor([1.0, 3.0, 1.0, 3.0, 5.0, 5.0, 5.0, 5.0, -2.0, 0.0, -2.0, 0.0]).view(1, 3, 2, 2)
    found = standardize(images, 1.0)
    value = 1 / (math.sqrt(4 / 3) + 0.2)  # deviations of 1 from the mean; the sample's variance is 4 / 3
    assert found[0, 0].flatten().tolist() == pytest.approx([-value, value, -value, value])
    assert found[0, 1].abs().max() == 0  # a blank channel stays blank
    assert torch.allclose(found[0, 2], found[0, 0])  # the same picture in another light


def test_a_border_does_not_count():
    images = torch.rand(2, 3, 8, 8)
    bordered = images.clone()
    bordered[..., 0], bordered[..., 7, :] = -2, 5
    assert torch.equal(standardize(bordered, 0.75)[..., 1:7, 1:7], standardize(images, 0.75)[..., 1:7, 1:7])
    assert torch.allclose(standardize(images, 0.75)[..., 1:7, 1:7], standardize(images[..., 1:7, 1:7], 1.0))


def test_a_network_that_standardises_does_not_see_the_light():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    darker = images * 0.95 - torch.tensor([0.5, 0.8, 1.1]).view(3, 1, 1)  # with a cast
    torch.manual_seed(1)
    model = resnet(standardize=0.75, width=0.125).eval()
    torch.manual_seed(1)
    plain = resnet(width=0.125).eval()
    with torch.no_grad():
        assert (model(darker) - model(images)).abs().max() < 0.02 * (plain(darker) - plain(images)).abs().max()
        assert torch.allclose(model(images), plain(standardize(images, 0.75)))
