"""The learning rate and the image size over a training run, as functions of plain numbers."""

import math

SCHEDULES = ("step", "cosine", "linear")
SIZE_STAGES = 4


def learning_rate(epoch, lr, epochs, schedule="step", warmup=0.0, lr_steps=(), lr_gamma=0.1):
    """The learning rate at a point of training.

    Args:
        epoch: epochs done, with a fraction within an epoch.
        lr: the base learning rate.
        schedule: "step" multiplies by `lr_gamma` at each epoch of `lr_steps`; "cosine" (Loshchilov and Hutter, ICLR
            2017, eq. 5, without restarts) and "linear" fall to 0 at the end.
        warmup: epochs of a linear rise from 0 at the start.
    """
    if warmup:
        lr = lr * min(1, (epoch + 1e-9) / warmup)
    if schedule == "step":
        return lr * lr_gamma ** sum(epoch >= step for step in lr_steps)
    progress = max(0.0, (epoch - warmup) / max(epochs - warmup, 1e-9))  # 0 after the warm-up, 1 at the end
    return lr * ((1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress)


def training_progress(epoch, epochs):
    """0 in the first epoch, 1 in the last."""
    return epoch / max(epochs - 1, 1)


def training_size(epoch, epochs, image_size, first_size=0):
    """Side of the training images in an epoch: from `first_size` to `image_size` in equal stages; 0 means no growth.

    Progressive learning (Tan and Le, "EfficientNetV2", ICML 2021, Algorithm 1).
    """
    stages = min(SIZE_STAGES, epochs)
    remaining = stages - 1 - epoch * stages // epochs
    growth = image_size - first_size if first_size else 0
    return image_size - round(growth * remaining / max(1, stages - 1))
