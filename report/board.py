"""TensorBoard's view of a run while it trains: scalars, augmented faces and confusion matrices, epoch by epoch."""

from contextlib import ExitStack

from evaluation.metrics import METRICS
from report.plots import plot_augmentation, plot_confusion

FOLDER = "tensorboard"  # in the run directory


class Board(ExitStack):
    """Writes one fold's events; a context manager. The extra of requirements-watch.txt must be installed.

    Args:
        run_dir: the run directory.
        fold: the fold that is held out.
        first_epoch: the events of an interrupted run from this epoch on no longer count.
        enabled: False writes nothing.
    """

    def __init__(self, run_dir, fold, first_epoch, enabled):
        super().__init__()
        self.writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            folder = str(run_dir / FOLDER / f"fold_{fold}")
            self.writer = self.enter_context(SummaryWriter(folder, purge_step=first_epoch))

    def epoch_done(self, row, tested, faces, images, augment):
        """Write an epoch.

        Args:
            row: its row of the log.
            tested: the Evaluation of the held-out fold.
            faces: the training Faces.
            images: the cache.
            augment: the epoch's augmentation.
        """
        if self.writer is None:
            return
        epoch = row["epoch"]
        for name, value in row.items():
            split, _, metric = name.partition("_")
            if metric in METRICS:
                self.writer.add_scalar(f"{metric}/{split}", value, epoch)
            elif name not in ("fold", "epoch"):
                self.writer.add_scalar(f"training/{name}", value, epoch)
        confusion = plot_confusion(tested.confusion, tested.classes.names, f"epoch {epoch + 1}")
        self.writer.add_figure("confusion", confusion, epoch)
        self.writer.add_figure("augmentation", plot_augmentation(faces, images, augment), epoch)
        self.writer.flush()
