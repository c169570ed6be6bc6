"""The learning rate over a training run."""

import math


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
