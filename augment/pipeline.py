"""From the cache's bytes to what the network sees: with augmentation in training, plain in evaluation."""

import torch

from augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, normalize
from augment.geometry import flip, rotate
from augment.gridmask import GridMask

# ImageNet's statistics, which the field uses for faces too.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_network_input(images):
    """uint8 (B, 3, S, S) -> normalised float, channels last: all that evaluation does to a face."""
    return channels_last(normalize(images.float() / 255, MEAN, STD))


class TrainAugment:
    """Flip, rotation, colour jitter, normalisation and GridMask, drawn anew for each face.

    generator: on the CPU, whatever the images' device, so that every device draws alike.
    gridmask_probability: this epoch's. Strengths are those of torchvision: `brightness` 0.1
    draws factors from [0.9, 1.1], `hue` 0.02 shifts from [-0.02, 0.02]. The jitter's steps come
    in this fixed order.
    """

    def __init__(
        self,
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
    ):
        self.generator = generator
        self.flip_probability = flip_probability
        self.rotation_degrees = rotation_degrees
        self.jitter = [
            (adjust_brightness, 1, brightness),
            (adjust_contrast, 1, contrast),
            (adjust_saturation, 1, saturation),
            (adjust_hue, 0, hue),
        ]
        self.gridmask = GridMask(gridmask_ratio, gridmask_rotated)
        self.gridmask_probability = gridmask_probability

    def __call__(self, images):
        """uint8 (B, 3, S, S) -> normalised float (B, 3, S, S), channels last."""
        batch, device, generator = len(images), images.device, self.generator

        def uniform(centre, spread):
            return (centre + spread * (2 * torch.rand(batch, generator=generator) - 1)).to(device)

        images = flip(images, (torch.rand(batch, generator=generator) < self.flip_probability).to(device))
        images = images.float() / 255
        if self.rotation_degrees:
            images = rotate(images, uniform(0, self.rotation_degrees))
        for adjust, neutral, strength in self.jitter:
            if strength:
                images = adjust(images, uniform(neutral, strength))
        images = normalize(images, MEAN, STD)
        if self.gridmask_probability:
            images = self.gridmask(images, self.gridmask_probability, generator)
        return channels_last(images)


def channels_last(images):
    return images.contiguous(memory_format=torch.channels_last)
