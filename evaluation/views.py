"""Test-time views: other images of the same faces, whose probabilities are averaged with those of the plain images."""

import numpy as np

from evaluation.evaluate import evaluate

VIEWS = {"flip": lambda images: images.flip(-1)}


def enlarged_size(size):
    """Side of the images that crops of `size` pixels are cut from: 256 for 227 (Krizhevsky et al., 2012)."""
    return round(size * 256 / 227)


def ten_crop_probabilities(model, dataset, batch_size, runtime):
    """Probabilities (N, K), averaged over ten crops: the corners and the centre, as they are and mirrored.

    Krizhevsky et al., 2012. The dataset's images have `enlarged_size(model.image_size)`.
    """
    from torchvision.transforms.functional import ten_crop

    views = [lambda images, k=k: ten_crop(images, model.image_size)[k] for k in range(10)]
    return np.mean([evaluate(model, dataset, batch_size, runtime, view=view).probabilities for view in views], axis=0)
