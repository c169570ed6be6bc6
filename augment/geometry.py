"""Flip and rotation of a batch."""

import torch
import torch.nn.functional as F


def flip(images, flipped):
    """Mirror the chosen images left to right. images: (B, C, H, W); flipped: (B,) bool."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def rotate(images, degrees):
    """Turn each square image about its centre; what comes from outside is black.

    images: float (B, C, S, S). degrees: (B,), counter-clockwise as in torchvision.
    Bilinear interpolation, as `torchvision.transforms.v2.functional.rotate` with
    `InterpolationMode.BILINEAR`.
    """
    angle = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # Output pixel -> where it is read from, in image coordinates (y points down).
    source = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(source, images.shape, align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
