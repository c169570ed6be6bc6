"""TensorBoard's view of a run while it trains: scalars, augmented faces and confusion matrices, epoch by epoch."""

from evaluation.metrics import METRICS
from report.figures import preview
from report.plots import plot_augmentation, plot_confusion
from utils.errors import UserError

FOLDER = "tensorboard"  # in the run directory
ADVICE = "--tensorboard needs the package tensorboard: python -m pip install -r requirements-watch.txt"


def summary_writer():
    """The class SummaryWriter. Raises UserError where the extra is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(ADVICE) from None
    return SummaryWriter


class Board:
    """Writes one fold's events; a context manager.

    Args:
        run_dir: the run directory.
        fold: the fold that is held out.
        first_epoch: what an interrupted run wrote of this epoch and later ones no longer counts.
        enabled: False writes nothing.
    """

    def __init__(self, run_dir, fold, first_epoch, enabled):
        self.writer = None
        if enabled:
            folder = run_dir / FOLDER / f"fold_{fold}"
            self.writer = summary_writer()(str(folder), purge_step=first_epoch)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.writer is not None:
            self.writer.close()

    def epoch_done(self, row, tested, faces, images, augment):
        """Write an epoch.

        Args:
            row: its row of the log.
            tested: Predictions for the held-out fold.
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
        confusion = plot_confusion(tested.confusion, tested.faces.class_names, f"epoch {epoch + 1}")
        self.writer.add_figure("confusion", confusion, epoch)
        self.writer.add_figure("augmentation", plot_augmentation(*preview(faces, images, augment)), epoch)
        self.writer.flush()
