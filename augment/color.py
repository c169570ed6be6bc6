"""Brightness, contrast, saturation, hue and normalisation of a batch.

The functions take images float (B, 3, H, W) in [0, 1] and one factor per image, (B,). As in torchvision, a factor of 1
(a hue shift of 0) leaves an image unchanged, and results are clamped to [0, 1].

They overwrite the images and return them: these steps are bound by memory, not by arithmetic.
"""

import functools

import torch

# The luma weights that torchvision uses (ITU-R BT.601, rounded).
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


class ColorJitter:
    """Random brightness, contrast, saturation and hue, in this order.

    As torchvision's `ColorJitter` with a fixed order: strengths of 0.1 draw factors from [0.9, 1.1], and a hue of 0.02
    draws shifts from [-0.02, 0.02].
    """

    def __init__(self, brightness, contrast, saturation, hue):
        self.strengths = (brightness, contrast, saturation, hue)

    def draw(self, count, generator):
        """(count, 4): three factors and the hue's shift."""
        unchanged = torch.tensor([1.0, 1.0, 1.0, 0.0])
        return unchanged + torch.tensor(self.strengths) * (2 * torch.rand(count, 4, generator=generator) - 1)

    def apply(self, images, factors):
        for adjust, strength, factor in zip(ADJUSTMENTS, self.strengths, factors.unbind(1), strict=True):
            if strength:
                images = adjust(images, factor)
        return images


class Normalize:
    """(images - mean) / std per channel. Nothing is random here."""

    def __init__(self, mean, std):
        self.mean, self.std = tuple(mean), tuple(std)

    def draw(self, count, generator):
        return torch.empty(count, 0)

    def apply(self, images, parameters):
        mean, std = (per_channel(values, images.dtype, images.device) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std)


def adjust_brightness(images, factors):
    return images.mul_(factors[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images, factors):
    # The mean of the grey image is the grey of the channels' means.
    mean = grey(images.mean(dim=(2, 3), keepdim=True))  # (B, 1, 1, 1)
    return blend(images, mean, factors)


def adjust_saturation(images, factors):
    return blend(images, grey(images), factors)


def adjust_hue(images, shifts):
    """Shift the hue by a fraction of the colour circle, in [-0.5, 0.5]; value and saturation stay unchanged.

    The hue is measured in sixths of the circle, red at 0, green at 2, blue at 4 (Smith, "Color Gamut Transform Pairs",
    SIGGRAPH 1978). Its distance from red is 1 + (g + b - r - min) / chroma in every sixth, so that no case distinction
    by the largest channel is needed.
    """
    red, green, blue = images.unbind(1)  # (B, H, W) each
    low = torch.minimum(red, green).minimum(blue)
    chroma = torch.maximum(red, green).maximum(blue).sub_(low)
    from_red = (green + blue).sub_(red).sub_(low).div_(chroma.clamp_min(1e-12)).add_(1)  # in [0, 3]
    hue = from_red.copysign_(green - blue).add_(6 * shifts[:, None, None])
    hue.sub_(torch.floor(hue / 6), alpha=6)  # in [0, 6)

    def distance(colour):
        return (hue - colour).abs_().clamp_(1, 2)

    # A channel has its maximum up to one sixth from its own colour, and its minimum from two sixths on.
    high = torch.add(low, chroma, alpha=2)
    green.copy_(high).addcmul_(chroma, distance(2), value=-1)
    blue.copy_(high).addcmul_(chroma, distance(4), value=-1)
    red.copy_(low.sub_(chroma)).addcmul_(chroma, distance(3))  # from cyan, opposite to red: the circle wraps at red
    return images


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


@functools.lru_cache(maxsize=16)
def per_channel(values, dtype, device):
    """(1, C, 1, 1), cached: a copy to a GPU in every step would stall it."""
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def grey(images):
    red, green, blue = images.unbind(1)
    weights = GREY_WEIGHTS
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).unsqueeze(1)  # (B, 1, H, W)


def blend(images, other, factors):
    """factors * images + (1 - factors) * other, in [0, 1]."""
    factors = factors[:, None, None, None]
    return images.mul_(factors).add_(other * (1 - factors)).clamp_(0, 1)
