"""From the cache's uint8 images to the network's input: augmented for training, only normalised for evaluation."""

import functools
import warnings

import torch

from augment.color import Normalize
from augment.geometry import resize

# Pixels per chunk and thread on a CPU: enough to outweigh the overhead of a call, few enough to stay in the cache.
PIXELS_PER_CORE = 2 * 224 * 224


def to_network_input(images, mean, std):
    """uint8 (B, 3, S, S) -> normalised float: all that evaluation does to a face."""
    return Normalize(mean, std).apply(images.float().div_(255), None)


class TrainAugment:
    """The augmentation of one epoch.

    Everything is drawn at the start, for all faces, by their position in the epoch's order: a face's parameters depend
    neither on the batches before it nor on the process that computes it.

    Args:
        transforms: of each face, in order; `augment.make_transforms` lists them.
        image_size: side of the network's input, in pixels. Larger images are resized first.
        count: faces in the epoch.
        generator: a torch.Generator on the CPU.
        compiled: compile the transforms, which pays off on a GPU.
    """

    def __init__(self, transforms, image_size, count, generator, compiled=False):
        self.transforms, self.image_size, self.compiled = transforms, image_size, compiled
        self.parameters = [transform.draw(count, generator) for transform in transforms]

    def __call__(self, images, positions):
        """Augment a batch.

        Args:
            images: uint8 (B, 3, S, S).
            positions: (B,), of these faces in the epoch's order.

        Returns:
            Float images (B, 3, image_size, image_size).
        """
        device, images = images.device, resize(images, self.image_size)
        # Only the first batch has anything to move.
        self.parameters = [p.to(device) for p in self.parameters]
        parameters = [p[positions] for p in self.parameters]
        transform = compiled_transforms() if self.compiled else apply_transforms
        if images.device.type != "cpu":
            return transform(self.transforms, images, parameters)
        result = torch.empty(images.shape)  # filled by chunks, which stay in the processor's cache
        count = torch.get_num_threads() * max(1, PIXELS_PER_CORE // self.image_size**2)
        for start in range(0, len(images), count):
            chunk = slice(start, start + count)
            result[chunk] = transform(self.transforms, images[chunk], [p[chunk] for p in parameters])
        return result


def apply_transforms(transforms, images, parameters):
    images = images.float().div_(255)
    for transform, p in zip(transforms, parameters, strict=True):
        images = transform.apply(images, p)
    return images


@functools.cache
def compiled_transforms():
    # The compiler traces through the cached constants, as it should.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(apply_transforms, dynamic=False)
