"""What a training run shows while it works."""

import time

from tqdm import tqdm

SECONDS_BETWEEN_READINGS = 1.0


class FoldProgress:
    """One bar per fold, with loss, top-1, images/s and the time left, and one line per epoch."""

    def __init__(self, fold, epochs, first_epoch, faces, shown=True):
        self.fold, self.epochs, self.epoch, self.faces = fold, epochs, first_epoch, faces
        self.next_reading = 0.0
        self.shown = shown
        # On anything but a terminal the bar stays silent and the lines per epoch tell.
        self.bar = tqdm(
            total=epochs * faces,
            initial=first_epoch * faces,
            unit="img",
            unit_scale=True,
            disable=None if shown else True,
            smoothing=0.05,
            desc=self.description(),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def description(self):
        return f"fold {self.fold} epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}"

    def step(self, totals):
        if not self.shown:
            return
        self.bar.update(self.epoch * self.faces + totals.faces - self.bar.n)
        # Reading the totals waits for the device, so it is done once a second and not once a step.
        if time.monotonic() >= self.next_reading:
            loss, top1 = totals.read()
            self.bar.set_postfix(loss=f"{loss:.3f}", top1=f"{top1:.1%}")
            self.next_reading = time.monotonic() + SECONDS_BETWEEN_READINGS

    def epoch_done(self, row):
        self.epoch += 1
        self.bar.set_description(self.description(), refresh=False)
        tqdm.write(
            f"fold {self.fold}  epoch {self.epoch:3d}/{self.epochs}  lr {row['lr']:.2g}"
            f"  train loss {row['train_loss']:.3f} top-1 {row['train_top1']:6.2%}"
            f"  test loss {row['test_loss']:.3f} top-1 {row['test_top1']:6.2%} one-off {row['test_one_off']:6.2%}"
            + (f"  val top-1 {row['val_top1']:6.2%} one-off {row['val_one_off']:6.2%}" if "val_top1" in row else "")
            + f"  {row['images_per_second']:,.0f} img/s"
        )
