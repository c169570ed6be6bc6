"""Attention within a convolutional network: feature maps (B, C, H, W) in, the same feature maps weighted out."""

from torch import nn


class SqueezeExcitation(nn.Module):
    """Channel attention from the average of each channel (Hu, Shen and Sun, CVPR 2018, Figure 3)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, x):
        return x * self.mlp(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


ATTENTION = {"none": lambda channels: nn.Identity(), "se": SqueezeExcitation}
