"""Boxes of pixels that are erased, or taken from another face: random erasing, CutMix and mixup."""

from typing import NamedTuple

import numpy as np
import torch

# Zhong et al.'s: share of the area, and its sides' ratio.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


class Targets(NamedTuple):
    """What a batch's images show: (B,) labels, and where faces were mixed, the other face's label and the own share."""

    labels: torch.Tensor
    others: torch.Tensor | None = None
    share: torch.Tensor | None = None  # of the own face, in [0, 1]


def draw_erased(count, size, probability, generator):
    """(count, 4): boxes (left, right, top, bottom) in pixels, right and bottom excluded; empty where nothing is erased.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, algorithm 1; sides are cut to the image's.
    """
    area = between(*ERASED_AREA, torch.rand(count, generator=generator))
    low, high = np.log(ERASED_RATIO)
    ratio = torch.exp(between(low, high, torch.rand(count, generator=generator)))
    width, height = ((size * (area * r).sqrt()).round().clamp(1, size) for r in (ratio, 1 / ratio))
    places = torch.rand(2, count, generator=generator)
    left, top = ((places[0] * (size - width + 1)).floor(), (places[1] * (size - height + 1)).floor())
    erased = torch.rand(count, generator=generator) < probability
    return torch.stack([left, left + width * erased, top, top + height * erased], dim=1)


def draw_mixed(count, size, mixup, cutmix, generator):
    """(count, 5): the box of pixels to take from the other face, as in `draw_erased`, and how much of them.

    mixup, cutmix: the two methods' alpha, 0 for off; with both on, each face draws one of them.
    mixup (Zhang et al., ICLR 2018) takes a share of every pixel, drawn from Beta(alpha, alpha); CutMix (Yun et
    al., ICCV 2019, eq. 2) takes a box of that share of the area whole.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = {alpha: torch.from_numpy(rng.beta(alpha, alpha, count)).float() for alpha in {mixup, cutmix} if alpha}
    cuts = torch.rand(count, generator=generator) < bool(cutmix) / (bool(cutmix) + bool(mixup))
    whole = torch.tensor([0.0, size, 0.0, size]).expand(count, 4)
    blended = torch.cat([whole, share[mixup][:, None]], dim=1) if mixup else torch.zeros(count, 5)
    if not cutmix:
        return blended
    side = size * share[cutmix].sqrt()
    x, y = size * torch.rand(2, count, generator=generator)
    edges = [x - side / 2, x + side / 2, y - side / 2, y + side / 2]
    cut = torch.stack([*(edge.round().clamp(0, size) for edge in edges), torch.ones(count)], dim=1)
    return torch.where(cuts[:, None], cut, blended)


def between(low, high, uniform):
    return low + (high - low) * uniform


def box_masks(size, boxes):
    """Float (B, 1, size, size): 1 within each box (left, right, top, bottom), else 0."""
    place = torch.arange(size, device=boxes.device)
    left, right, top, bottom = boxes[:, :4, None].unbind(1)
    across, down = (place >= left) & (place < right), (place >= top) & (place < bottom)  # (B, size)
    return (down[:, :, None] & across[:, None, :]).float().unsqueeze(1)


def mix(images, labels, mixed):
    """Put each face's box into it from its neighbour: faces 0 and 1, 2 and 3 and so on are neighbours.

    images: float (B, 3, S, S). mixed: (B, 5), as of `draw_mixed`. Returns images and Targets.
    """
    size, partner = images.shape[-1], torch.arange(len(images), device=images.device).bitwise_xor_(1)
    partner.clamp_(max=len(images) - 1)  # a last face without a neighbour is its own
    weights = box_masks(size, mixed) * mixed[:, 4, None, None, None]
    images = torch.lerp(images, images[partner], weights)
    return images, Targets(labels, labels[partner], 1 - weights.mean(dim=(1, 2, 3)))
