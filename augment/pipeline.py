"""From the cache's uint8 images to the network's input: augmented for training, only normalised for evaluation."""

import functools
import warnings

import torch

from augment.color import normalize
from augment.geometry import resize
from augment.mixing import Targets

# Pixels per part and thread on a CPU: enough to outweigh the overhead of a call, few enough to stay in the cache.
PIXELS_PER_CORE = 2 * 224 * 224


def to_network_input(images, mean, std):
    """uint8 (B, 3, S, S) -> normalised float: all that evaluation does to a face."""
    return normalize(to_float(images), mean, std)


class TrainAugment:
    """The augmentation of one epoch.

    Everything is drawn at the start, for all faces, by their position in the epoch's order: a face's parameters depend
    neither on the batches before it nor on the process that computes it.

    Args:
        transforms: of each face, in order; `augment.make_transforms` lists them.
        mix: the transform that mixes the faces of a batch, or None.
        image_size: side of the network's input, in pixels. Larger images are resized first.
        count: faces in the epoch.
        generator: a torch.Generator on the CPU.
        compiled: compile the transforms, which pays off on a GPU.
    """

    def __init__(self, transforms, mix, image_size, count, generator, compiled=False):
        self.transforms, self.mix, self.image_size, self.compiled = transforms, mix, image_size, compiled
        self.parameters = [transform.draw(count, generator) for transform in transforms]
        self.mix_parameters = mix.draw(count, generator) if mix else ()

    def __call__(self, images, labels, positions):
        """Augment a batch.

        Args:
            images: uint8 (B, 3, S, S).
            labels: (B,).
            positions: (B,), of these faces in the epoch's order.

        Returns:
            Float images (B, 3, image_size, image_size) and their Targets.
        """
        self.to_device(images.device)
        images = resize(images, self.image_size)
        parameters = [for_each_tensor(lambda tensor: tensor[positions], p) for p in self.parameters]
        if images.device.type == "cpu":
            images = self.in_parts(images, parameters)
        else:
            images = (compiled_transforms() if self.compiled else apply_transforms)(self.transforms, images, parameters)
        if not self.mix:
            return images, Targets(labels)
        return self.mix.apply(images, labels, self.mix_parameters[positions])

    def to_device(self, device):
        """Move the parameters; only the first batch has anything to move."""
        *self.parameters, self.mix_parameters = (
            for_each_tensor(lambda tensor: tensor.to(device), p) for p in (*self.parameters, self.mix_parameters)
        )

    def in_parts(self, images, parameters):
        """Apply the transforms to parts of the batch that stay in the processor's cache."""
        transform = compiled_transforms() if self.compiled else apply_transforms
        result = torch.empty(images.shape)
        count = torch.get_num_threads() * max(1, PIXELS_PER_CORE // self.image_size**2)
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            own = [for_each_tensor(lambda tensor, part=part: tensor[part], p) for p in parameters]
            result[part] = transform(self.transforms, images[part], own)
        return result


def apply_transforms(transforms, images, parameters):
    images = to_float(images)
    for transform, p in zip(transforms, parameters, strict=True):
        images = transform.apply(images, p)
    return images


@functools.cache
def compiled_transforms():
    # The compiler traces through the cached constants, as it should.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(apply_transforms, dynamic=False)


def for_each_tensor(function, parameters):
    """Apply a function to a tensor, or to each tensor of a tuple."""
    return tuple(map(function, parameters)) if isinstance(parameters, tuple) else function(parameters)


def to_float(images):
    """uint8 -> float in [0, 1]."""
    return images.float().div_(255)
