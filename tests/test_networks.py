"""Networks by name: their options and descriptions, sizes worked out by hand."""

import resource

import pytest
import torch

from models import create_model, model_options
from models.heads import HEADS
from models.network import Network, parameter_count
from utils.errors import UserError


def test_options_of_a_network():
    assert set(model_options("resnet18")) == {
        *"negative_slope shortcut max_pool zero_init standardize init width mid_width".split()
    }
    assert set(model_options("mobilenet_v3_small")) == {"width"}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet19", "softmax", 8), {}, "unknown network 'resnet19'; choose from resnet18, resnet34"),
        (("resnet18", "soft", 8), {}, "unknown head 'soft'; choose from softmax, binomial, coral, corn"),
        (
            ("resnet18", "softmax", 8),
            {"image_size": 224},
            "resnet18 has no option 'image_size'; its options are negative_slope, shortcut, max_pool, zero_init,"
            " standardize, init, width, mid_width$",
        ),
        (
            ("mobilenet_v3_small", "softmax", 8),
            {"shortcut": "1x1"},
            "mobilenet_v3_small has no option 'shortcut'; its options are width",
        ),
        (("resnet18", "softmax", 8), {"negative_slope": "0.2"}, "negative_slope of resnet18 0.2: expected a number"),
    ],
)
def test_wrong_names_and_options(arguments, options, message):
    with pytest.raises(UserError, match=message):
        create_model(*arguments, **options)


def test_a_description_rebuilds_the_network():
    model = create_model("resnet18", "coral", 5, shortcut="1x1", negative_slope=0.1, width=0.125)
    assert model.description == {
        "name": "resnet18",
        "head": "coral",
        "num_classes": 5,
        "negative_slope": 0.1,
        "shortcut": "1x1",
        "max_pool": True,
        "zero_init": False,
        "standardize": 0.0,
        "init": "pytorch",
        "width": 0.125,
        "mid_width": 1.0,
    }
    again = create_model(**model.description)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model.eval()(images))


def test_a_narrow_network():
    """8, 16, 32 and 64 channels instead of 64 to 512; weights and biases of convolutions and normalisations by hand."""
    first = (8 * 147 + 8) + 2 * 8
    layer1 = 4 * (8 * 72 + 8 + 2 * 8)
    layer2 = (16 * 72 + 16) + 3 * (16 * 144 + 16) + (16 * 72 + 16) + 5 * 2 * 16
    layer3 = (32 * 144 + 32) + 3 * (32 * 288 + 32) + (32 * 144 + 32) + 5 * 2 * 32
    layer4 = (64 * 288 + 64) + 3 * (64 * 576 + 64) + (64 * 288 + 64) + 5 * 2 * 64
    total = first + layer1 + layer2 + layer3 + layer4 + 64 * 8 + 8
    assert total == 199_336
    assert parameter_count(create_model("resnet18", "softmax", 8, width=0.125)) == total


@pytest.mark.parametrize("width", [0.0, -1.0, 0.06, 4.1, float("nan"), float("inf"), 1e30])
def test_widths_out_of_range(width):
    with pytest.raises(ValueError, match=r"^width is .*; it is from 0\.0625 to 4$"):
        create_model("resnet18", "softmax", 8, width=width)


def test_a_network_that_is_too_large_is_refused_before_it_takes_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    with pytest.raises(UserError, match=r"^resnet152 with these options has [0-9,]+ numbers; at most 500,000,000"):
        create_model("resnet152", "softmax", 8, width=4.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
@pytest.mark.parametrize("size", [40, 64, 112])
def test_outputs_at_other_sizes(name, size):
    model = create_model(name, "softmax", 7, width=0.125)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_of_a_network(head):
    model = create_model("resnet18", head, 6, width=0.125).eval()
    with torch.no_grad():
        probabilities = model.probabilities(torch.randn(3, 3, 40, 40))
    assert (probabilities.shape, probabilities.dtype) == ((3, 6), torch.float32)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 3)


class Constant(Network):
    """Features in bf16, and a head that tells 1 from 1 + 2^-10, which bf16 cannot."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 2)
        self.fc.weight.data = torch.tensor([[1.0], [1.0 + 2**-10]])
        self.fc.bias.data.zero_()

    def features(self, images):
        return torch.ones(len(images), 1, dtype=torch.bfloat16)


def test_outputs_are_fp32_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = Constant()(torch.zeros(3, 3, 8, 8))
    assert outputs.tolist() == [[1.0, 1.0 + 2**-10]] * 3
    assert outputs.dtype == torch.float32


def test_a_network_without_values_draws_none(monkeypatch):
    """On the "meta" device PyTorch would import its compiler for it, which takes seconds at each start."""
    monkeypatch.setattr("models.resnet.he_init", lambda *_: pytest.fail("drawn"))
    with torch.device("meta"):
        create_model("resnet18", "softmax", 8, init="he", width=0.125)
