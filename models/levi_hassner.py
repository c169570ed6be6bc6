"""The first network on Adience (Levi and Hassner, "Age and Gender Classification using CNNs", CVPR workshops 2015)."""

import torch
from torch import nn

from models.network import Network


class LeviHassner(Network):
    """Three convolutions and three fully connected layers (section 3.1). The image size is part of the network.

    Args:
        make_head: a function from the number of features to the last layer.
        image_size: side of the input, in pixels.
    """

    fixed_size = True

    def __init__(self, make_head, image_size=227):
        super().__init__()
        self.image_size = image_size
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(3, 96, 7, stride=4), nn.ReLU(inplace=True), pool(), LocalResponse()),
            *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), pool(), LocalResponse()),
            *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True), pool()),
        )
        with torch.no_grad():
            count = self.convolutions(torch.zeros(1, 3, image_size, image_size)).numel()
        self.hidden = nn.Sequential(
            *(nn.Linear(count, 512), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout()),
        )
        self.fc = make_head(512)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, images):
        x = self.convolutions(images)  # (B, 384, H, W)
        return self.hidden(x.flatten(1))  # (B, 512)


def pool():
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)  # Caffe, in which the network was published, rounds up


class LocalResponse(nn.LocalResponseNorm):
    """Local response normalisation as in Caffe, with the constants of Krizhevsky et al. (2012, section 3.3)."""

    def __init__(self):
        super().__init__(5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x):
        return super().forward(x.flatten(2)).view(x.shape)  # flattened, it is deterministic on a GPU too
