"""Where the pixels of a flipped, rotated, scaled, shifted and cropped batch come from: one warp for all of it."""

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


def source_of(degrees, flipped=None, scale=None, shift=None, crop=None):
    """(N, 2, 3): where the pixels of an image come from that is cropped, flipped, then turned, scaled and shifted.

    In coordinates from -1 to 1, x to the right, y down. degrees (N,), counter-clockwise; flipped (N,) bool; scale
    (N,) factors; shift (N, 2), x and y in these coordinates; crop (N, 4), the box's middle (x, y) in these
    coordinates and its width and height as shares of the image's. Rotation, scale and shift are those of
    torchvision's `affine`, whose angle runs clockwise.
    """
    angle = torch.deg2rad(degrees)
    scale = 1 if scale is None else scale
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    offset = torch.zeros_like(turn[:, :, 0]) if shift is None else -(turn @ shift[:, :, None])[:, :, 0]
    source = torch.cat([turn, offset[:, :, None]], dim=2)  # what comes last is undone first
    if flipped is not None:
        source[:, 0] *= (1 - 2 * flipped.to(angle.dtype))[:, None]
    if crop is not None:
        source *= crop[:, 2:, None]
        source[:, :, 2] += crop[:, :2]
    return source


def draw_crops(count, smallest, generator):
    """(count, 4), for `source_of`: boxes of a share in [smallest, 1] of the image's area, 3:4 to 4:3 in shape.

    As torchvision's `RandomResizedCrop` draws them, but that a side longer than the image's is cut to it.
    """
    area = smallest + (1 - smallest) * torch.rand(count, generator=generator)
    ratio = torch.exp(torch.log(torch.tensor(4 / 3)) * (2 * torch.rand(count, generator=generator) - 1))
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)
    middle = (1 - sides) * (2 * torch.rand(count, 2, generator=generator) - 1)
    return torch.cat([middle, sides], dim=1)


def warp(images, source, mode="bilinear"):
    """Read every output pixel at its source, bilinearly or "nearest". source: (B, 2, 3), as of `source_of`."""
    size = images.shape[-1]
    grid = (source @ pixel_coordinates(size, images.device)).view(-1, 2, size, size).permute(0, 2, 3, 1)  # (B, S, S, 2)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


@functools.lru_cache(maxsize=8)
def pixel_coordinates(size, device):
    """(3, S * S): x and y of each pixel's middle, from -1 to 1 across the image, and ones below them."""
    across = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
    x, y = across.expand(size, size), across[:, None].expand(size, size)
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)
