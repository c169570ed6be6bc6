"""Flip and rotation of a batch, alone or as one warp."""

import functools

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
    return warp(images, source_of(degrees))


def source_of(degrees, flipped=None):
    """(B, 2, 3): where the pixels of a flipped (B,) bool, then rotated image come from.

    In coordinates from -1 to 1, x to the right, y down.
    """
    angle = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # The flip comes first, so it is undone last.
    mirror = 1 if flipped is None else 1 - 2 * flipped.to(angle.dtype)
    return torch.stack([mirror * cos, mirror * -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)


def warp(images, source):
    """Read every output pixel at its source, bilinearly. source: (B, 2, 3), as of `source_of`."""
    size = images.shape[-1]
    grid = (source @ pixel_coordinates(size, images.device)).view(-1, 2, size, size).permute(0, 2, 3, 1)  # (B, S, S, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@functools.lru_cache(maxsize=8)
def pixel_coordinates(size, device):
    """(3, S * S): x and y of each pixel's middle, from -1 to 1 across the image, and ones below them."""
    across = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
    x, y = across.expand(size, size), across[:, None].expand(size, size)
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)
