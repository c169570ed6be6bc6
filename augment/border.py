"""Black borders, as scanned prints and photographs that end beside a face have them."""

import torch

WIDEST = 0.12  # a border is at most this share of the image's side wide


class RandomBorder:
    """Blackens a border around an image, alike on all four sides.

    Args:
        probability: of a border. Its width is drawn evenly from 0 to WIDEST.
    """

    def __init__(self, probability):
        self.probability = probability

    def draw(self, count, generator):
        """(count,): widths as fractions of the image's side, 0 for no border."""
        bordered = torch.rand(count, generator=generator) < self.probability
        return WIDEST * torch.rand(count, generator=generator) * bordered

    def apply(self, images, widths):
        size = images.shape[-1]
        middles = (torch.arange(size, device=images.device) + 0.5) / size
        inside = torch.minimum(middles, 1 - middles) >= widths[:, None]  # (B, S)
        return images.mul_((inside[:, :, None] & inside[:, None, :])[:, None])
