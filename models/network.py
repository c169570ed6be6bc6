"""The base class of all networks."""

from typing import ClassVar

import torch
from torch import nn


class Network(nn.Module):
    """A network that knows its classes and its input. A subclass defines `features` and its last layer, `fc`.

    Attributes:
        fc: the head, see models/heads.py, under torchvision's name.
        mean, std: per channel, of RGB in [0, 1], to normalise images with; ImageNet's, which face networks use too.
        pretrained_names: {start of a name in torchvision's weights: the start of ours}, where they differ.
        image_size: side of its input, in pixels; None until it is known.
        classes: its K Classes; None until they are known.
        description: plain values; `create_model(**description)` creates a network like this one.
        record: the training of a loaded network (models/checkpoint.py).
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    pretrained_names: ClassVar[dict] = {}

    def __init__(self):
        super().__init__()
        self.image_size = None
        self.classes = None
        self.description = {}
        self.record = {}

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
        return self.fc.probabilities(self(images))

    def flip_averaged_probabilities(self, images):
        """The mean of the class probabilities (B, K) of normalised images (B, 3, S, S) and of their mirror images.

        Nearer to the truth by 0.1 to 0.2 years on three data sets (docs/ABLATION.md), and the same for a mirrored face.
        """
        both = self.probabilities(torch.cat([images, images.flip(-1)]))  # (2B, K)
        return both.unflatten(0, (2, images.shape[0])).mean(0)


def layer_groups(model):
    """{name: module}: a ResNet's stem and stages, or the parts of another network that have parameters."""
    groups = {name: module for name, module in model.named_children() if any(True for _ in module.parameters())}
    if "conv1" in groups and "bn1" in groups:
        groups = {"stem": nn.ModuleList([groups.pop("conv1"), groups.pop("bn1")]), **groups}
    return groups


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_mib(model):
    """Size of the parameters in fp32, in MiB."""
    return parameter_count(model) * 4 / 2**20
