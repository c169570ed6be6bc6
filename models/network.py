"""What all networks have in common."""

from typing import ClassVar

import torch
from torch import nn


class Network(nn.Module):
    """A network that knows its classes and its input. A subclass defines `features` and its last layer, `fc`.

    Attributes:
        mean, std: per channel, of RGB in [0, 1]; images are normalised with them. These are ImageNet's, which face
            networks use too.
        pretrained_names: {start of a name in torchvision's weights: the start of ours}, where they differ.
        fixed_size: whether the image size is part of the network.
        image_size: side of its input, in pixels; None until it is known.
        class_names: the K names in order; empty until they are known.
        description: plain values; `create_model(**description)` creates a network like this one.
        record: where a loaded network comes from (see models/checkpoint.py).
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    pretrained_names: ClassVar[dict] = {}
    fixed_size = False

    def __init__(self):
        super().__init__()
        self.image_size = None
        self.class_names = ()
        self.description = {}
        self.record = {}

    @property
    def head(self):
        """The last layer. It is registered as `fc`, the name that torchvision gives it."""
        return self.fc

    def features(self, images):
        """Normalised images (B, 3, S, S) -> features (B, F)."""
        raise NotImplementedError

    def forward(self, images):
        """Normalised images (B, 3, S, S) -> outputs (B, D) of the head, in fp32."""
        features = self.features(images)  # (B, F)
        # In bf16 the outputs of two classes are often equal, and argmax then takes the younger class.
        with torch.autocast(images.device.type, enabled=False):
            return self.fc(features.float())  # (B, D)

    def probabilities(self, images):
        """Normalised images (B, 3, S, S) -> class probabilities (B, K)."""
        return self.head.probabilities(self(images))


def layer_groups(model):
    """{name: part of the network}: a ResNet's stem and stages, or whatever another network consists of."""
    parts = {name: part for name, part in model.named_children() if any(True for _ in part.parameters())}
    if "conv1" in parts and "bn1" in parts:
        parts = {"stem": nn.ModuleList([parts.pop("conv1"), parts.pop("bn1")]), **parts}
    return parts


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model):
    """Size of the parameters in fp32, in MiB."""
    return parameter_count(model) * 4 / 2**20


def multiply_adds(model, image_size):
    """Multiplications with additions of convolutions and linear layers for one image, counted from shapes alone.

    Args:
        model: a Network; its values are neither read nor changed.
        image_size: side of the image, in pixels.
    """
    counts = []

    def count(layer, inputs, output):
        weights_per_output = layer.weight[0].numel()
        counts.append(weights_per_output * output.numel() // len(output))

    copy = create_like(model)
    for layer in copy.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        # Without `forward`, whose autocast does not know this device.
        copy.head(copy.eval().features(torch.zeros(1, 3, image_size, image_size, device="meta")))
    return sum(counts)


def create_like(model):
    """A network of the same description on the meta device, which has shapes and no values."""
    from models import create_model  # which imports the networks, which import this file

    with torch.device("meta"):
        return create_model(**model.description)
