"""Attention within a convolutional network: feature maps (B, C, H, W) in, the same feature maps weighted out."""

import torch
from torch import nn


class SqueezeExcitation(nn.Module):
    """Channel attention from the average of each channel (Hu, Shen and Sun, CVPR 2018, Figure 3)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.mlp = bottleneck_mlp(channels, reduction)

    def forward(self, x):
        return x * self.mlp(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al., "CBAM", ECCV 2018, equations 1 to 3)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.mlp = bottleneck_mlp(channels, reduction)
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x):
        channels = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))  # (B, C)
        x = x * channels.sigmoid()[:, :, None, None]
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # (B, 2, H, W)
        return x * self.spatial(pooled).sigmoid()


def bottleneck_mlp(channels, reduction):
    """(B, C) -> (B, C) through a narrow hidden layer."""
    hidden = max(1, channels // reduction)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))


# By name; models.ATTENTION lists the names.
ATTENTION = {"none": lambda channels: nn.Identity(), "se": SqueezeExcitation, "cbam": CBAM}
