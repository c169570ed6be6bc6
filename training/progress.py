"""Progress of a training run: a bar on a terminal, a line every few minutes elsewhere."""

import sys
import time

from tqdm import tqdm

from evaluation.metrics import METRICS
from models.checkpoint import NO_FOLD
from models.network import parameter_count, size_mib
from training.provenance import current_commit
from utils.cli import printable

SECONDS_BETWEEN_READINGS = 1.0
SECONDS_BETWEEN_LINES = 180.0


class FoldProgress:
    """One bar per fold, with loss, top-1, speed and the remaining time; one line per epoch.

    Args:
        fold: the fold that trains.
        state: the TrainState.
        config: the settings of the run.
        runtime: the Runtime; its main process prints.
    """

    def __init__(self, fold, state, config, runtime):
        self.fold, self.state, self.epochs, self.batch_size = fold, state, config.epochs, config.batch_size
        self.shown = runtime.distributed.is_main_process
        self.last_reading = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=self.epochs * state.steps_per_epoch * self.batch_size,
            initial=state.step * self.batch_size,
            unit="img",
            unit_scale=True,
            disable=None if self.shown else True,  # None: on a terminal only
            smoothing=0.05,
            desc=self.description(),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def description(self):
        epoch = self.state.step // self.state.steps_per_epoch
        return f"{fold_name(self.fold)} epoch {min(epoch + 1, self.epochs)}/{self.epochs}"

    def update(self, meter):
        """Show the meter after a step. Reading it waits for the device, so that happens once a second."""
        now = time.monotonic()
        if not self.shown or now - self.last_reading < SECONDS_BETWEEN_READINGS:
            return
        self.last_reading = now
        self.bar.update(self.state.step * self.batch_size - self.bar.n)
        if not self.bar.disable or now - self.last_line >= SECONDS_BETWEEN_LINES:
            loss, top1 = meter.read()
            shown = f"loss {loss:.3f}, top-1 {top1:.1%}"
            self.bar.set_postfix_str(shown)
            if self.bar.disable:
                self.print(f"{self.description()}, step {self.state.step % self.state.steps_per_epoch}: {shown}")

    def epoch_done(self, row):
        """Print an epoch's row of the log."""
        self.bar.update(self.state.step * self.batch_size - self.bar.n)
        self.bar.set_description(self.description(), refresh=False)
        parts = [f"{fold_name(self.fold)}  epoch {row['epoch'] + 1:3d}/{self.epochs}  lr {row['lr']:.2g}"]
        parts.append(f"train loss {row['train_loss']:.3f} top-1 {row['train_top1']:6.2%}")
        for split in ("test", "val"):
            if f"{split}_top1" in row:
                # Without coverage: the intervals are fitted at the end of the run.
                values = {name: row[f"{split}_{name}"] for name in METRICS if f"{split}_{name}" in row}
                values.pop("coverage", None)
                shown = " ".join(f"{METRICS[name].title} {METRICS[name].show(value)}" for name, value in values.items())
                parts.append(f"{split} {shown}")
        parts.append(f"{row['images_per_second']:,.0f} img/s")
        self.print("  ".join(parts))

    def print(self, line):
        if self.shown:
            self.last_line = time.monotonic()
            tqdm.write(line)
            sys.stdout.flush()


def fold_name(fold):
    return "all faces" if fold == NO_FOLD else f"fold {fold}"


def describe(config, network, runtime):
    """Print the network to train, the device and the run."""
    print(f"model: {config.model}, {parameter_count(network):,} parameters, {size_mib(network):.2f} MiB")
    print(f"device: {runtime}; code: {current_commit() or 'unknown commit'}")
    folds = f"folds {' '.join(map(str, config.folds))}" if NO_FOLD not in config.folds else "one model of all faces"
    print(f"run: {printable(config.run_dir)}, {config.epochs} epochs, {folds}")
    late = [step for step in config.lr_steps if step >= config.epochs]
    if late and config.schedule == "step":
        print(f"note: --lr-steps {' '.join(map(str, late))}: the --epochs {config.epochs} end before")


def describe_duplicates(pairs, faces):
    """Print how many faces show a picture that is in another fold too; pairs: of such faces, as positions (P, 2)."""
    if len(pairs):
        first, second = (printable(faces.table.path.iloc[position]) for position in pairs[0])
        count = len(set(pairs.ravel()))
        print(f"duplicates: {count:,} faces show a picture that is in another fold too, such as {first}")
        print(f"  and {second}; results.json names them and has every metric without them")
    else:
        print("duplicates: none; no face shows a picture that is in another fold too")
