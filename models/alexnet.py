"""The field's earlier networks: Krizhevsky's, and the small one of Levi and Hassner, the first on Adience."""

import torch
from torch import nn

from models.head import make_head


class PlainNet(nn.Module):
    """Convolutions, then fully connected layers with dropout; where the images' size is part of the network.

    convolutions: layers that end in maps; hidden: width of the two fully connected layers; image_size: in pixels.
    """

    def __init__(self, convolutions, hidden, image_size, outputs, shared):
        super().__init__()
        self.convolutions = convolutions
        with torch.no_grad():
            features = convolutions(torch.zeros(1, 3, image_size, image_size)).numel()
        self.hidden = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )
        self.head = make_head(hidden, outputs, shared)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias) if module.bias is not None else None

    def features(self, images):
        """(B, hidden)."""
        return self.hidden(self.convolutions(images).flatten(1))

    def forward(self, images):
        return self.head(self.features(images))


def levi_hassner(outputs=8, shared=False, image_size=227, **_):
    """Levi and Hassner, "Age and Gender Classification using CNNs", CVPR workshops 2015, section 3.1."""
    layers = [
        *(nn.Conv2d(3, 96, 7, stride=4), nn.ReLU(inplace=True), pool(), normalisation()),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), pool(), normalisation()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True), pool()),
    ]
    return PlainNet(nn.Sequential(*layers), 512, image_size, outputs, shared)


def alexnet(outputs=8, shared=False, image_size=227, **_):
    """Krizhevsky, Sutskever and Hinton, NeurIPS 2012, section 3.5, in one tower: no groups."""
    layers = [
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), normalisation(), pool()),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), normalisation(), pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True), pool()),
    ]
    return PlainNet(nn.Sequential(*layers), 4096, image_size, outputs, shared)


def pool():
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)  # as Caffe rounds, in which both were published


class LocalResponse(nn.LocalResponseNorm):
    """Over flattened places: the same numbers, by operations that are deterministic on a GPU too."""

    def forward(self, x):
        return super().forward(x.flatten(2)).view(x.shape)


def normalisation():
    """Local response normalisation with Krizhevsky et al.'s constants (section 3.3), in Caffe's terms."""
    return LocalResponse(5, alpha=1e-4, beta=0.75, k=1.0)
