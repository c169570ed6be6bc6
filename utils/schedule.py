"""The learning rate and the images' size over a training run."""

import math

SIZE_STAGES = 4


def learning_rate(progress, config):
    """The rate at `progress`, in epochs done, a fraction within an epoch.

    Rises linearly over the first `config.warmup` epochs, then follows `config.schedule`: step (by `lr_gamma`
    at each epoch of `lr_steps`), cosine (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts) or
    linear, the latter two to nought at the end.
    """
    return (
        config.lr
        * min(1, (progress + 1e-9) / config.warmup if config.warmup else 1)
        * SCHEDULES[config.schedule](progress, config)
    )


def training_size(epoch, config):
    """The side of the training images in an epoch: from `config.first_size` to `config.image_size` in equal stages.

    Progressive learning (Tan and Le, "EfficientNetV2", ICML 2021, Algorithm 1): early epochs, which learn what small
    images show as well, cost less.
    """
    stages = min(SIZE_STAGES, config.epochs)
    left = stages - 1 - epoch * stages // config.epochs  # stages to come
    smaller = config.image_size - config.first_size if config.first_size else 0
    return config.image_size - round(smaller * left / max(1, stages - 1))


def step(progress, config):
    return config.lr_gamma ** sum(progress >= epoch for epoch in config.lr_steps)


def cosine(progress, config):
    return (1 + math.cos(math.pi * after_warmup(progress, config))) / 2


def linear(progress, config):
    return 1 - after_warmup(progress, config)


def after_warmup(progress, config):
    """From 0 at the end of the warm-up to 1 at the end of training."""
    return max(0.0, (progress - config.warmup) / max(config.epochs - config.warmup, 1e-9))


SCHEDULES = {"step": step, "cosine": cosine, "linear": linear}
