"""Networks before ResNet: AlexNet, and the smaller network of Levi and Hassner, the first on Adience."""

import torch
from torch import nn

from models.network import Network


class PlainNet(Network):
    """Convolutions, then two fully connected layers with dropout. The image size is part of the network.

    Args:
        convolutions: a module from images to feature maps.
        hidden: width of the two fully connected layers.
        image_size: side of the input, in pixels.
        make_head: a function from the number of features to the last layer.
    """

    fixed_size = True

    def __init__(self, convolutions, hidden, image_size, make_head):
        super().__init__()
        self.image_size = image_size
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
        self.fc = make_head(hidden)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, images):
        x = self.convolutions(images)  # (B, C, H, W)
        return self.hidden(x.flatten(1))  # (B, hidden)


def levi_hassner(make_head, image_size=227):
    """Levi and Hassner, "Age and Gender Classification using CNNs", CVPR workshops 2015, section 3.1."""
    layers = [
        *(nn.Conv2d(3, 96, 7, stride=4), nn.ReLU(inplace=True), pool(), LocalResponse()),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), pool(), LocalResponse()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True), pool()),
    ]
    return PlainNet(nn.Sequential(*layers), 512, image_size, make_head)


def alexnet(make_head, image_size=227):
    """Krizhevsky, Sutskever and Hinton, NeurIPS 2012, section 3.5, on one GPU: no grouped convolutions."""
    layers = [
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), LocalResponse(), pool()),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), LocalResponse(), pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True), pool()),
    ]
    return PlainNet(nn.Sequential(*layers), 4096, image_size, make_head)


def pool():
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)  # Caffe, in which both were published, rounds up


class LocalResponse(nn.LocalResponseNorm):
    """Local response normalisation with the constants of Krizhevsky et al. (section 3.3), as Caffe defines them."""

    def __init__(self):
        super().__init__(5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x):
        return super().forward(x.flatten(2)).view(x.shape)  # flattened, it is deterministic on a GPU too
