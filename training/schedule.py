"""The learning rate over a training run, as a function of plain numbers."""

import math

# The learning rate, relative to the base rate, as a function of progress from 0 to 1.
DECAYS = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
}
SCHEDULES = ("step", *DECAYS)


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
    return lr * DECAYS[schedule](progress)


def training_progress(epoch, epochs):
    """0 in the first epoch, 1 in the last."""
    return epoch / max(epochs - 1, 1)
