"""Boxes of pixels that are erased or replaced by another face's: random erasing, CutMix and mixup.

A box is (left, right, top, bottom) in pixels; right and bottom are excluded.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

# Random erasing: ranges of the box's area, as a fraction of the image's, and of its aspect ratio, as in the paper.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


class Targets(NamedTuple):
    """The labels of a batch. Where faces were mixed, a target is lam * label + (1 - lam) * label_b."""

    labels: torch.Tensor  # (B,)
    labels_b: torch.Tensor | None = None  # (B,), of the other face
    lam: torch.Tensor | None = None  # (B,), in [0, 1]


class RandomErasing:
    """Erases a random box (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, algorithm 1).

    On normalised images, erased pixels take the mean colour. Sides longer than the image's are cut to it.

    Args:
        probability: of erasing a box from an image.
        image_size: side of the images, in pixels.
    """

    def __init__(self, probability, image_size):
        self.probability, self.image_size = probability, image_size

    def draw(self, count, generator):
        """(count, 4): boxes, empty where nothing is erased."""
        size = self.image_size

        def uniform(low, high):
            return low + (high - low) * torch.rand(count, generator=generator)

        area, ratio = uniform(*ERASED_AREA), torch.exp(uniform(*map(math.log, ERASED_RATIO)))
        width, height = ((size * (area * r).sqrt()).round().clamp(1, size) for r in (ratio, 1 / ratio))
        left, top = ((uniform(0, 1) * (size - side + 1)).floor() for side in (width, height))
        erased = torch.rand(count, generator=generator) < self.probability
        return torch.stack([left, left + width * erased, top, top + height * erased], dim=1)

    def apply(self, images, boxes):
        return images.mul_(1 - box_masks(images.shape[-1], boxes))


class Mix:
    """Mixes each face with its neighbour in the batch: faces 0 and 1, 2 and 3 and so on are neighbours.

    mixup (Zhang et al., ICLR 2018) blends all pixels with a weight from Beta(alpha, alpha); CutMix (Yun et al., ICCV
    2019, equation 2) replaces a box with such a fraction of the image's area. With both, each face draws one of them.

    Args:
        mixup, cutmix: alpha of each method; 0 disables it. At least one is positive.
        image_size: side of the images, in pixels.
    """

    def __init__(self, mixup, cutmix, image_size):
        self.mixup, self.cutmix, self.image_size = mixup, cutmix, image_size

    def draw(self, count, generator):
        """(count, 5): the box of pixels to take from the neighbour, and the neighbour's weight within it."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        whole = torch.tensor([0.0, self.image_size, 0.0, self.image_size]).expand(count, 4)
        mixup = torch.cat([whole, draw_beta(self.mixup, count, rng)[:, None]], dim=1)
        both = torch.stack([mixup, self.draw_cutmix(count, rng, generator)])  # (2, count, 5)
        cuts = torch.rand(count, generator=generator) < bool(self.cutmix) / (bool(self.mixup) + bool(self.cutmix))
        return both[cuts.long(), torch.arange(count)]

    def draw_cutmix(self, count, rng, generator):
        size = self.image_size
        side = size * draw_beta(self.cutmix, count, rng).sqrt()
        x, y = size * torch.rand(2, count, generator=generator)
        edges = [x - side / 2, x + side / 2, y - side / 2, y + side / 2]
        return torch.stack([*(edge.round().clamp(0, size) for edge in edges), torch.ones(count)], dim=1)

    def apply(self, images, labels, parameters):
        """Mix a batch.

        Args:
            images: float (B, 3, S, S).
            labels: (B,).
            parameters: (B, 5), of `draw`.

        Returns:
            The mixed images and their Targets. A last face without a neighbour stays unchanged.
        """
        neighbour = torch.arange(len(images), device=images.device).bitwise_xor_(1).clamp_(max=len(images) - 1)
        weights = box_masks(images.shape[-1], parameters) * parameters[:, 4, None, None, None]  # (B, 1, S, S)
        images = torch.lerp(images, images[neighbour], weights)
        return images, Targets(labels, labels[neighbour], 1 - weights.mean(dim=(1, 2, 3)))


def draw_beta(alpha, count, rng):
    """(count,) from Beta(alpha, alpha); zeros for an alpha of 0."""
    return torch.from_numpy(rng.beta(alpha, alpha, count)).float() if alpha else torch.zeros(count)


def box_masks(size, boxes):
    """Float (B, 1, size, size): 1 within each box, the first four columns of (B, 4 or more), else 0."""
    pixels = torch.arange(size, device=boxes.device)
    left, right, top, bottom = boxes[:, :4, None].unbind(1)
    columns, rows = (pixels >= left) & (pixels < right), (pixels >= top) & (pixels < bottom)  # (B, size)
    return (rows[:, :, None] & columns[:, None, :]).float().unsqueeze(1)
