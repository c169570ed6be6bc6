"""Attention within a convolutional network: maps (B, C, H, W) in, the same maps weighted out."""

import torch
from torch import nn


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole image holds (Hu, Shen and Sun, CVPR 2018, Figure 3)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.weigh = channel_weights(channels, reduction)

    def forward(self, x):
        return x * self.weigh(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


class CBAM(nn.Module):
    """Channels, then places weighted (Woo et al., "CBAM", ECCV 2018, equations 1 to 3)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.weigh = channel_weights(channels, reduction)
        self.look = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x):
        channels = self.weigh(x.mean(dim=(2, 3))) + self.weigh(x.amax(dim=(2, 3)))
        x = x * channels.sigmoid()[:, :, None, None]
        places = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # (B, 2, H, W)
        return x * self.look(places).sigmoid()


def channel_weights(channels, reduction):
    """(B, C) -> (B, C) through a narrow layer, which both forms share."""
    return nn.Sequential(
        nn.Linear(channels, channels // reduction),
        nn.ReLU(inplace=True),
        nn.Linear(channels // reduction, channels),
    )


# By name; none leaves the maps as they are.
ATTENTION = {"none": lambda channels: nn.Identity(), "se": SqueezeExcitation, "cbam": CBAM}
