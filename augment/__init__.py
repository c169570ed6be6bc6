"""Augmentation of whole batches with tensor operations, on the device that holds the images.

A transform is a class with two methods:

- `draw(count, generator)` draws the parameters of `count` faces, a tensor of first dimension `count`. `generator` is on
  the CPU.
- `apply(images, parameters)` transforms float images (B, 3, S, S) with the parameters of these B faces. It may
  overwrite its input.

`make_transforms` lists the transforms of an epoch in order; `pipeline.TrainAugment` runs them. The tests state how
closely they agree with torchvision's.
"""

from dataclasses import dataclass
from typing import ClassVar

from augment.border import RandomBorder
from augment.color import ColorJitter, Normalize
from augment.geometry import RandomAffine
from augment.gridmask import GridMask
from utils.options import option


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentation's settings; a field that is not given is None until `utils.options.fill_defaults`."""

    title: ClassVar[str] = "augmentation"

    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    rotation: float = option(20.0, "largest rotation in either direction, in degrees", low=0, high=180)
    scale: float = option(0.0, "largest relative change of size in either direction", low=0, high=0.9)
    shift: float = option(0.0, "largest shift in either direction, as a fraction of the image's side", low=0, high=1)
    # The report names neither, so torchvision's defaults are used.
    interpolation: str = option("nearest", "interpolation of warped images", choices=("nearest", "bilinear", "bicubic"))
    padding: str = option("zeros", "pixels outside of warped images", choices=("zeros", "border", "reflection"))
    brightness: float = option(0.1, "largest relative change of brightness", low=0, high=1)
    contrast: float = option(0.1, "largest relative change of contrast", low=0, high=1)
    saturation: float = option(0.1, "largest relative change of saturation", low=0, high=1)
    hue: float = option(0.02, "largest shift of the hue, as a fraction of the colour circle", low=0, high=0.5)
    border: float = option(0.0, "probability of a black border, of up to 12 % of the image's side", low=0, high=1)
    gridmask_ratio: float = option(0.6, "GridMask's r: stripe width as a fraction of the period", low=0.01, high=0.99)
    gridmask_start: float = option(0.6, "probability of GridMask in the first epoch", low=0, high=1)
    gridmask_end: float = option(0.8, "probability of GridMask in the last epoch", low=0, high=1)
    gridmask_rotated: bool = option(True, "random rotation of GridMask's grid")


def make_transforms(config, image_size, progress, mean, std):
    """The transforms of one epoch, in order, without transforms that would do nothing.

    Args:
        config: an AugmentConfig, or anything with its fields.
        image_size: side of the network's input, in pixels.
        progress: how far training is, from 0 in the first epoch to 1 in the last. GridMask's probability is linear
            in it.
        mean, std: the channels' statistics for normalisation, three numbers each.

    Returns:
        A list of transforms for `pipeline.TrainAugment`.
    """
    affine = (config.flip, config.rotation, config.scale, config.shift)
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    gridmask = gridmask_probability(config, progress)
    # GridMask comes after normalisation, so that what it sets to 0 takes the mean colour.
    transforms = [
        (RandomAffine(*affine, config.interpolation, config.padding), any(affine)),
        (ColorJitter(*jitter), any(jitter)),
        (RandomBorder(config.border), config.border > 0),
        (Normalize(mean, std), True),
        (GridMask(gridmask, config.gridmask_ratio, config.gridmask_rotated, image_size), gridmask > 0),
    ]
    return [transform for transform, active in transforms if active]


def gridmask_probability(config, progress):
    """Linear from `gridmask_start` in the first epoch to `gridmask_end` in the last."""
    return config.gridmask_start + (config.gridmask_end - config.gridmask_start) * progress
