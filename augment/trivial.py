"""TrivialAugment, wide (Mueller and Hutter, ICCV 2021): one random operation on each face, at a random strength.

Operations and strengths are those of `torchvision.transforms.TrivialAugmentWide`. Each function takes images float
(B, 3, S, S) in [0, 1] and strengths (B,), and equals torchvision's functional for each image.
"""

import torch
import torch.nn.functional as F

from augment.color import adjust_brightness, adjust_contrast, adjust_saturation, blend, per_image
from augment.geometry import source_of, warp

BINS = 31  # strengths are whole steps out of so many


def shear_x(images, tangents):
    return shear(images, tangents, torch.zeros_like(tangents))


def shear_y(images, tangents):
    return shear(images, torch.zeros_like(tangents), tangents)


def shear(images, x, y):
    """About the image's upper left corner, as torchvision's operation does it. x, y: (B,) tangents."""
    one = torch.ones_like(x)
    matrix = torch.stack([one, x, y, one], dim=1).view(-1, 2, 2)
    corner = -torch.ones(2, device=images.device)
    return nearest(images, torch.cat([matrix, (corner - matrix @ corner)[:, :, None]], dim=2))


def translate_x(images, pixels):
    return translate(images, torch.stack([pixels, torch.zeros_like(pixels)], dim=1))


def translate_y(images, pixels):
    return translate(images, torch.stack([torch.zeros_like(pixels), pixels], dim=1))


def translate(images, pixels):
    """pixels: (B, 2), to the right and down; whole ones, as torchvision cuts them off."""
    shift = pixels.trunc() * 2 / images.shape[-1]
    return nearest(images, source_of(torch.zeros_like(pixels[:, 0]), shift=shift))


def turn(images, degrees):
    return nearest(images, source_of(degrees))


def nearest(images, source):
    """The warp with torchvision's choice for these operations, the nearest pixel."""
    return warp(images, source, mode="nearest")


def sharpen(images, factors):
    """Away from, or towards, a blurred image whose border stays."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel.expand(3, 1, 3, 3), groups=3)
    return blend(images, blurred, per_image(factors))


def posterize(images, bits):
    """Keep so many of eight bits."""
    step = per_image(2.0 ** (8 - bits))
    return (images.mul(255).round() / step).floor() * step / 255


def solarize(images, thresholds):
    """Invert what is at least as bright as the threshold."""
    return torch.where(images >= per_image(thresholds), 1 - images, images)


def autocontrast(images, _):
    """Stretch each channel to the full range; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    return ((images - low.masked_fill(flat, 0)) / (high - low).masked_fill(flat, 1)).clamp_(0, 1)


def equalize(images, _):
    """Spread each channel's histogram of 256 values evenly; a channel of one value stays."""
    values = images.mul(255).round().long().flatten(2)  # (B, 3, S * S)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    sums = counts.cumsum(2)
    # The step leaves the brightest value that occurs out of the sum.
    brightest = values.amax(2, keepdim=True)
    step = (sums[:, :, -1:] - counts.gather(2, brightest)) // 255
    table = ((sums - counts + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    return table.gather(2, values).view(images.shape) / 255


def identity(images, _):
    return images


# {operation: (function, strongest value, whether its sign is random, value that does nothing)}
OPERATIONS = {
    "identity": (identity, 0.0, False, 0.0),
    "shear_x": (shear_x, 0.99, True, 0.0),
    "shear_y": (shear_y, 0.99, True, 0.0),
    "translate_x": (translate_x, 32.0, True, 0.0),
    "translate_y": (translate_y, 32.0, True, 0.0),
    "rotate": (turn, 135.0, True, 0.0),
    "brightness": (adjust_brightness, 0.99, True, 1.0),
    "saturation": (adjust_saturation, 0.99, True, 1.0),
    "contrast": (adjust_contrast, 0.99, True, 1.0),
    "sharpness": (sharpen, 0.99, True, 1.0),
    "posterize": (posterize, -6.0, False, 8.0),
    "solarize": (solarize, -1.0, False, 1.0),
    "autocontrast": (autocontrast, 0.0, False, 0.0),
    "equalize": (equalize, 0.0, False, 0.0),
}


def draw_operations(count, generator):
    """(count, 2): the operation's place in OPERATIONS and its strength."""
    which = torch.randint(len(OPERATIONS), (count,), generator=generator)
    level = torch.randint(BINS, (count,), generator=generator) / (BINS - 1)
    sign = 2 * torch.randint(2, (count,), generator=generator) - 1
    strongest, signed, neutral = (
        torch.tensor([float(operation[place]) for operation in OPERATIONS.values()])[which] for place in (1, 2, 3)
    )
    strength = neutral + strongest * level * torch.where(signed > 0, sign, 1)
    bits = torch.tensor([name == "posterize" for name in OPERATIONS])[which]
    return torch.stack([which.float(), torch.where(bits, strength.round(), strength)], dim=1)


def trivial_augment(images, drawn):
    """Apply each image's own operation. images: float (B, 3, S, S) in [0, 1]; drawn: (B, 2), of `draw_operations`.

    On a GPU it waits for the device to learn which images each operation is for.
    """
    result = images.clone()
    for place, (function, *_) in enumerate(OPERATIONS.values()):
        chosen = torch.nonzero(drawn[:, 0] == place).flatten()
        if len(chosen):
            result[chosen] = function(images[chosen], drawn[chosen, 1])
    return result
