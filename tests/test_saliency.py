"""Grad-CAM: worked by hand on one convolution, and against torchcam on the networks."""

import pytest
import torch
from torch import nn

from evaluation.saliency import grad_cam, last_feature_maps, min_max
from models import HEADS, create_model
from models.heads import SoftmaxHead
from models.network import Network


class TinyNet(Network):
    """Two maps, the red and the green channel, and two logits of their means."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, kernel_size=1, bias=False)
        self.fc = SoftmaxHead(2, 2)
        with torch.no_grad():
            self.conv1.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None])
            self.fc.weight.copy_(torch.tensor([[1.0, -2], [0, 4]]))

    def features(self, images):
        return self.conv1(images).mean(dim=(2, 3))


RED = [[1.0, 2], [3, 4]]
GREEN = [[1.0, 0], [0, 2]]


def random_model(name="resnet18", head="softmax", **options):
    torch.manual_seed(0)
    model = create_model(name, head, 8, **options)
    for module in model.modules():  # statistics as if it were trained
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_by_hand():
    """The gradient of logit k by each of the 4 pixels of map c is weight[k, c] / 4, and so is its mean."""
    image = torch.tensor([RED, GREEN, [[0.0, 0], [0, 0]]])
    found = grad_cam(TinyNet(), torch.stack([image, image]), torch.tensor([0, 1]))
    # Class 0: (RED - 2 GREEN) / 4, without the negative ones; class 1: GREEN.
    assert found.tolist() == [[[0, 0.5], [0.75, 0]], [[1, 0], [0, 2]]]


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("resnet18", {"width": 0.25}, "layer4"),
        ("resnet18", {"width": 0.25, "shortcut": "1x1", "negative_slope": 0.0}, "layer4"),
        ("resnet50", {"width": 0.125}, "layer4"),
    ],
)
def test_against_torchcam(name, options, layer):
    methods = pytest.importorskip("torchcam.methods")
    model = random_model(name, **options)
    assert model.get_submodule(layer) is last_feature_maps(model)
    images, classes = torch.randn(4, 3, 96, 96), [0, 3, 7, 3]
    with methods.GradCAM(model, layer) as extractor:
        (raw,) = extractor(classes, model(images), normalized=False)
        (scaled,) = extractor(classes, model(images), normalized=True)
    found = grad_cam(model, images, torch.tensor(classes))
    assert found.max() > 0
    torch.testing.assert_close(found, raw, rtol=1e-5, atol=1e-6)
    ours = min_max(found)
    largest = (raw - raw.amin(dim=(1, 2), keepdim=True)).amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(ours * largest / (largest + 1e-8), scaled, rtol=0, atol=1e-5)  # 1e-8 is torchcam's


@pytest.mark.parametrize("head", HEADS)
def test_every_head(head):
    model = random_model(head=head, width=0.25)
    images, classes = torch.randn(8, 3, 64, 64), torch.arange(8)
    found = grad_cam(model, images, classes)
    assert found.shape == (8, 2, 2)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert found.max() > 0


@pytest.mark.parametrize("head", ["coral", "corn"])
@pytest.mark.parametrize("label", [0, 4, 7])
def test_heads_without_class_logits_take_the_log_probability(head, label):
    """Equation 1 from differences: a map's mean moves by 1/(h w) of what one of its pixels does."""
    model = random_model(head=head, width=0.125).double()
    model.forward = lambda images: model.fc(model.features(images))  # its last layer stays in double precision, too
    images, maps = torch.randn(1, 3, 64, 64, dtype=torch.float64), []
    with torch.no_grad(), model.layer4.register_forward_hook(lambda module, inputs, out: maps.append(out)):
        features = model.features(images)
        steps = 1e-6 * torch.eye(features.shape[1], dtype=torch.float64)
        up, down = (model.fc.probabilities(model.fc(features + move))[:, label].log() for move in (steps, -steps))
        weights = (up - down) / 2e-6 / maps[0][0, 0].numel()
        assert weights.abs().max() > 0
        expected = (weights[None, :, None, None] * maps[0]).sum(1).relu()
    torch.testing.assert_close(grad_cam(model, images, [label]), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_stays_as_it_is(frozen):
    model = random_model(width=0.125).train()
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    first = grad_cam(model, images, torch.tensor([1, 2]))
    with torch.inference_mode():
        again = grad_cam(model, torch.zeros_like(images).add_(images), torch.tensor([1, 2]))
    with torch.no_grad():
        third = grad_cam(model, images, [1, 2])
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    assert not first.requires_grad
    assert not images.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad is not frozen for parameter in model.parameters())


def test_hooks_go_when_the_network_fails():
    model = random_model(width=0.125)
    with pytest.raises(RuntimeError):
        grad_cam(model, torch.randn(1, 4, 64, 64), torch.tensor([0]))
    assert not any(module._forward_hooks for module in model.modules())


def test_scaling_by_hand():
    maps = torch.tensor([[[2.0, 6.0], [3.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert min_max(maps).tolist() == [[[0, 1], [0.25, 0]], [[0, 0], [0, 0]]]
