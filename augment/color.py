"""Brightness, contrast, saturation, hue and normalisation of a batch; one factor per image.

images: float (B, 3, H, W) in [0, 1]; factors: (B,). As in torchvision, a factor of 1
(a hue shift of 0) leaves an image as it is, and results are clamped to [0, 1].

Each function allocates its result once and then works in it: these steps move memory and
compute next to nothing.
"""

import functools

import torch

# The luma weights that torchvision uses (ITU-R BT.601, rounded).
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def adjust_brightness(images, factors):
    return (images * per_image(factors)).clamp_(0, 1)


def adjust_contrast(images, factors):
    # The mean of the grey image is the grey of the channels' means.
    mean = grey(images.mean(dim=(2, 3), keepdim=True))  # (B, 1, 1, 1)
    return blend(images, mean, per_image(factors))


def adjust_saturation(images, factors):
    return blend(images, grey(images), per_image(factors))


def adjust_hue(images, shifts):
    """Turn the hue by `shifts` of a full circle, in [-0.5, 0.5]; value and saturation stay.

    Hue is counted in sixths of the circle, red at 0, green at 2, blue at 4 (Smith, "Color Gamut
    Transform Pairs", SIGGRAPH 1978). Its distance from red is 1 + (g + b - r - min) / chroma in every
    sixth, which spares the usual distinction by the largest channel.
    """
    red, green, blue = images.unbind(1)  # (B, H, W) each
    low = torch.minimum(red, green).minimum(blue)
    chroma = torch.maximum(red, green).maximum(blue).sub_(low)
    from_red = (green + blue).sub_(red).sub_(low).div_(chroma.clamp_min(1e-12)).add_(1)  # in [0, 3]
    hue = from_red.copysign_(green - blue).add_(6 * shifts[:, None, None])
    hue.sub_(torch.floor(hue / 6), alpha=6)  # in [0, 6)

    def distance(colour):
        return (hue - colour).abs_().clamp_(1, 2)

    # A channel is at its maximum up to one sixth from its own colour and at its minimum from two sixths on.
    high = torch.add(low, chroma, alpha=2)
    channels = [
        torch.addcmul(low - chroma, chroma, distance(3)),  # by the distance from red's opposite: no wrap there
        torch.addcmul(high, chroma, distance(2), value=-1),
        torch.addcmul(high, chroma, distance(4), value=-1),
    ]
    return torch.stack(channels, dim=1)


def normalize(images, mean, std):
    """(images - mean) / std per channel. mean, std: three numbers each."""
    mean, std = (per_channel(tuple(values), images.dtype, images.device) for values in (mean, std))
    return (images - mean).div_(std)


@functools.lru_cache(maxsize=16)
def per_channel(values, dtype, device):
    """(1, C, 1, 1), made once: a copy to a GPU would make every step wait."""
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def grey(images):
    red, green, blue = images.unbind(1)
    weights = GREY_WEIGHTS
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).unsqueeze(1)  # (B, 1, H, W)


def blend(images, other, factors):
    """factors * images + (1 - factors) * other, in [0, 1]."""
    return (images * factors).add_(other * (1 - factors)).clamp_(0, 1)


def per_image(factors):
    return factors[:, None, None, None]
