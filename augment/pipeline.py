"""From the cache's bytes to what the network sees: with augmentation in training, plain in evaluation."""

import functools
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torchvision.transforms.v2.functional import resize

from augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, normalize
from augment.geometry import draw_crops, flip, source_of, warp
from augment.gridmask import GridMask, grid_masks
from augment.mixing import Targets, box_masks, draw_erased, draw_mixed, mix
from augment.trivial import draw_operations, trivial_augment

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


@dataclass(frozen=True)
class Strengths:
    """How strongly each transform acts; nought switches it off.

    The jitter's are those of torchvision: `brightness` 0.1 draws factors from [0.9, 1.1], `hue` 0.02 shifts from
    [-0.02, 0.02].
    """

    flip: float = 0.5  # probability
    rotation: float = 20.0  # largest, in degrees
    scale: float = 0.0  # largest change of size, as a share
    shift: float = 0.0  # largest shift, as a share of the image's side
    crop: float = 1.0  # smallest area of a random resized crop; 1 is the whole image
    trivial_augment: bool = False
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.02
    gridmask: float = 0.6  # probability
    gridmask_ratio: float = 0.6
    gridmask_rotated: bool = True
    erasing: float = 0.0  # probability
    mixup: float = 0.0  # alpha
    cutmix: float = 0.0  # alpha


class Draws(NamedTuple):
    """What is drawn for each face; N of an epoch, B of a batch."""

    source: torch.Tensor  # (N, 2, 3), where its pixels come from
    brightness: torch.Tensor  # (N,) factors
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor  # (N,) shifts
    lines: torch.Tensor  # (N, 2, 3) and (N,): GridMask's grid
    share: torch.Tensor
    erased: torch.Tensor  # (N, 4), a box in pixels
    operation: torch.Tensor  # (N, 2), TrivialAugment's


class TrainAugment:
    """An epoch's transforms, drawn anew for each face.

    faces: how many the epoch has. Everything is drawn here, for all of them, by position in the
    epoch's order: so a batch's transform depends neither on the batches before it nor on who
    computes it. size: the side in pixels of what the network sees; larger images are shrunk to it first.
    generator: on the CPU. compiles: fuse the steps, worth its while on a GPU.

    TrivialAugment comes first. Crop, flip, rotation, scale and shift are one warp; then come the jitter's steps in a
    fixed order, normalisation, GridMask and random erasing, both of which leave the mean colour, and mixing.
    """

    def __init__(self, faces, size, generator, strengths=None, compiles=False):
        self.size, self.strengths = size, (strengths := strengths or Strengths())
        self.transform = compiled_transform() if compiles else transform

        def spread(largest, *shape):
            return largest * (2 * torch.rand(faces, *shape, generator=generator) - 1)

        flipped = torch.rand(faces, generator=generator) < strengths.flip
        degrees = spread(strengths.rotation)
        factors = [spread(getattr(strengths, name)) + (name != "hue") for name in ADJUST]
        masked = torch.rand(faces, generator=generator) < strengths.gridmask
        gridmask = GridMask(strengths.gridmask_ratio, strengths.gridmask_rotated)
        lines, share = gridmask.grids(size, *gridmask.draw(faces, size, generator))
        scale = 1 + spread(strengths.scale)
        shift = 2 * spread(strengths.shift, 2)  # the image is 2 wide in the warp's coordinates
        crop = draw_crops(faces, strengths.crop, generator) if strengths.crop < 1 else None
        erased = draw_erased(faces, size, strengths.erasing, generator)
        source = source_of(degrees, flipped, scale, shift, crop)
        operation = draw_operations(faces, generator)
        self.draws = Draws(source, *factors, lines, torch.where(masked, share, 1), erased, operation)
        mixes = strengths.mixup or strengths.cutmix
        self.mixed = draw_mixed(faces, size, strengths.mixup, strengths.cutmix, generator) if mixes else None
        self.steps = Steps.of(strengths)

    def __call__(self, images, labels, positions):
        """uint8 (B, 3, S, S) -> normalised float (B, 3, size, size), and Targets.

        labels: (B,). positions: (B,), of these faces in the epoch's order.
        """
        self.draws = Draws(*(column.to(images.device) for column in self.draws))  # with the first batch
        draws = Draws(*(column[positions] for column in self.draws))
        images = self.transform_in_parts(resize(images, [self.size, self.size]), draws)
        if self.mixed is None:
            return images, Targets(labels)
        self.mixed = self.mixed.to(images.device)
        return mix(images, labels, self.mixed[positions])

    def transform_in_parts(self, images, draws):
        if images.device.type != "cpu":
            return self.transform(images, draws, self.steps)
        result = torch.empty(images.shape)
        count = torch.get_num_threads() * max(1, PIXELS_PER_CORE // images.shape[-1] ** 2)
        for parts in zip(*(batch.split(count) for batch in (images, result, *draws)), strict=True):
            self.transform(parts[0], Draws(*parts[2:]), self.steps, out=parts[1])
        return result


class Steps(NamedTuple):
    """Which steps a transform takes."""

    trivial: bool
    warps: bool
    jitter: tuple  # names out of ADJUST
    masks: bool
    erases: bool

    @classmethod
    def of(cls, s):
        jitter = tuple(name for name in ADJUST if getattr(s, name))
        warps = bool(s.rotation or s.scale or s.shift or s.crop < 1)
        return cls(s.trivial_augment, warps, jitter, s.gridmask > 0, s.erasing > 0)


def transform(images, draws, steps, out=None):
    """What the draws do to a batch, step by step."""
    size = images.shape[-1]
    images = images.float().div_(255)
    if steps.trivial:
        images = trivial_augment(images, draws.operation)
    images = warp(images, draws.source) if steps.warps else flip(images, draws.source[:, 0, 0] < 0)
    for name in steps.jitter:
        images = ADJUST[name](images, getattr(draws, name))
    images = normalize(images, MEAN, STD)
    if steps.erases:
        images.mul_(1 - box_masks(size, draws.erased))
    kept = grid_masks(size, draws.lines, draws.share).unsqueeze(1) if steps.masks else images.new_ones(1)
    return torch.mul(images, kept, out=out)


@functools.cache
def compiled_transform():
    # That the compiler looks through the small caches of constants is just right.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(transform, dynamic=False)
