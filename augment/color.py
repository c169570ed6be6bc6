"""Brightness, contrast, saturation, hue and normalisation of a batch; one factor per image.

images: float (B, 3, H, W) in [0, 1]; factors: (B,). As in torchvision, a factor of 1
(a hue shift of 0) leaves an image as it is, and results are clamped to [0, 1].
"""

import torch

# The luma weights that torchvision uses (ITU-R BT.601, rounded).
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def adjust_brightness(images, factors):
    return (images * per_image(factors)).clamp_(0, 1)


def adjust_contrast(images, factors):
    mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return torch.lerp(mean, images, per_image(factors)).clamp_(0, 1)


def adjust_saturation(images, factors):
    return torch.lerp(grey(images), images, per_image(factors)).clamp_(0, 1)


def adjust_hue(images, shifts):
    """Turn the hue by `shifts` of a full circle, in [-0.5, 0.5]; value and saturation stay."""
    red, green, blue = images.unbind(1)  # (B, H, W) each
    value = images.amax(1)
    chroma = value - images.amin(1)
    # Hue in sixths of the circle, from 0 at red (Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978).
    safe = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + 6 * shifts[:, None, None]
    # Each channel falls from `value` by up to `chroma` as the hue moves away from its own colour.
    channels = [value - chroma * falloff(hue, offset) for offset in (5.0, 3.0, 1.0)]
    return torch.stack(channels, dim=1).clamp_(0, 1)


def falloff(hue, offset):
    position = torch.remainder(hue + offset, 6)
    return torch.minimum(position, 4 - position).clamp_(0, 1)


def normalize(images, mean, std):
    """(images - mean) / std per channel. mean, std: three numbers each."""
    mean = torch.tensor(mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / std


def grey(images):
    red, green, blue = images.unbind(1)
    weights = GREY_WEIGHTS
    return (weights[0] * red + weights[1] * green + weights[2] * blue).unsqueeze(1)  # (B, 1, H, W)


def per_image(factors):
    return factors[:, None, None, None]
