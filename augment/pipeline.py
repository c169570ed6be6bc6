"""From the cache's bytes to what the network sees: with augmentation in training, plain in evaluation."""

import functools
from typing import NamedTuple

import torch

from augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, normalize
from augment.geometry import flip, source_of, warp
from augment.gridmask import GridMask, grid_masks

# ImageNet's statistics, which the field uses for faces too.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# In the order in which they are applied.
ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
# On a CPU so many pixels at a time: enough to outweigh a call's cost, few enough to stay in the processor's cache.
PIXELS_PER_CORE = 2 * 224 * 224


def to_network_input(images):
    """uint8 (B, 3, S, S) -> normalised float: all that evaluation does to a face."""
    return normalize(images.float().div_(255), MEAN, STD)


class Draws(NamedTuple):
    """What is drawn for each face; N of an epoch, B of a batch."""

    source: torch.Tensor  # (N, 2, 3), where its pixels come from: flip and rotation
    brightness: torch.Tensor  # (N,) factors
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor  # (N,) shifts
    lines: torch.Tensor  # (N, 2, 3) and (N,): GridMask's grid
    share: torch.Tensor


class TrainAugment:
    """An epoch's flip, rotation, colour jitter, normalisation and GridMask, drawn anew for each face.

    faces: how many the epoch has. Everything is drawn here, for all of them, by position in the
    epoch's order: so a batch's transform depends neither on the batches before it nor on who
    computes it. size: the images' side in pixels. generator: on the CPU.
    gridmask_probability: this epoch's. Strengths are those of torchvision: `brightness` 0.1
    draws factors from [0.9, 1.1], `hue` 0.02 shifts from [-0.02, 0.02]. The jitter's steps come
    in this fixed order. compiles: fuse the steps, worth its while on a GPU.
    """

    def __init__(
        self,
        faces,
        size,
        generator,
        gridmask_probability=0.6,
        flip_probability=0.5,
        rotation_degrees=20.0,
        brightness=0.1,
        contrast=0.1,
        saturation=0.1,
        hue=0.02,
        gridmask_ratio=0.6,
        gridmask_rotated=True,
        compiles=False,
    ):
        jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.transform = compiled_transform() if compiles else transform
        self.steps = (
            rotation_degrees > 0,
            tuple(name for name, strength in jitter.items() if strength),
            gridmask_probability > 0,
        )
        self.gridmask_probability = gridmask_probability

        def uniform(centre, spread):
            return centre + spread * (2 * torch.rand(faces, generator=generator) - 1)

        flipped = torch.rand(faces, generator=generator) < flip_probability
        degrees = uniform(0, rotation_degrees)
        factors = [uniform(0 if name == "hue" else 1, strength) for name, strength in jitter.items()]
        masked = torch.rand(faces, generator=generator) < gridmask_probability
        gridmask = GridMask(gridmask_ratio, gridmask_rotated)
        lines, share = gridmask.grids(size, *gridmask.draw(faces, size, generator))
        self.draws = Draws(source_of(degrees, flipped), *factors, lines, torch.where(masked, share, 1))

    def __call__(self, images, positions):
        """uint8 (B, 3, S, S) -> normalised float (B, 3, S, S). positions: of the B faces in the epoch's order."""
        self.draws = Draws(*(column.to(images.device) for column in self.draws))  # with the first batch
        draws = Draws(*(column[positions] for column in self.draws))
        if images.device.type != "cpu":
            return self.transform(images, draws, *self.steps)
        result = torch.empty(images.shape)
        count = torch.get_num_threads() * max(1, PIXELS_PER_CORE // images.shape[-1] ** 2)
        for parts in zip(*(batch.split(count) for batch in (images, result, *draws)), strict=True):
            self.transform(parts[0], Draws(*parts[2:]), *self.steps, out=parts[1])
        return result


def transform(images, draws, warps, jitter, masks, out=None):
    """What an epoch's draws do to a batch, step by step. jitter: names out of ADJUST."""
    images = images.float().div_(255)
    images = warp(images, draws.source) if warps else flip(images, draws.source[:, 0, 0] < 0)
    for name in jitter:
        images = ADJUST[name](images, getattr(draws, name))
    images = normalize(images, MEAN, STD)
    kept = grid_masks(images.shape[-1], draws.lines, draws.share).unsqueeze(1) if masks else images.new_ones(1)
    return torch.mul(images, kept, out=out)


@functools.cache
def compiled_transform():
    return torch.compile(transform, dynamic=False)
