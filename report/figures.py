"""Which plots a finished run gets."""

import torch

from evaluation.metrics import confusion_matrix
from report.errors import find_errors
from report.plots import plot_augmentation, plot_confusion, plot_errors, plot_learning_curves, plot_parameters

PREVIEW_DRAWS = 9


def draw_run(folder, history, predictions, models, loss):
    """The plots that need no images: learning curves, parameters, confusion.

    Args:
        folder: where to write them.
        history: {fold: rows of the log}.
        predictions: Predictions for all held-out faces.
        models: {fold: trained network}.
        loss: the name of the training loss.
    """
    plot_learning_curves(history, folder / "learning_curves.png", loss)
    for fold, model in models.items():
        plot_parameters(model, folder / f"parameters_fold_{fold}.png", f"fold {fold}")
    names = predictions.faces.class_names
    confusion = confusion_matrix(predictions.labels, predictions.predicted, len(names))
    plot_confusion(confusion, names, folder / "confusion.png", "all held-out faces")


def draw_faces(folder, predictions, faces, images, augment):
    """The plots that show faces: the effect of the augmentation and the worst errors.

    Args:
        predictions: Predictions for all held-out faces.
        faces: all Faces, in the order of `images`.
        images: uint8 (N, 3, S, S).
        augment: the training augmentation of PREVIEW_DRAWS faces of each class.
    """
    rows = faces.table.reset_index().set_index("path")["index"]
    errors = find_errors(predictions, images, rows.loc[predictions.faces.table.path].to_numpy())
    plot_errors(errors, faces.class_names, folder / "worst_errors.png")
    labels = faces.labels
    shown = images[[int((labels == k).argmax()) for k in range(len(faces.class_names)) if (labels == k).any()]]
    batch = torch.from_numpy(shown).repeat(PREVIEW_DRAWS, 1, 1, 1)
    augmented, _ = augment(batch, torch.arange(len(batch)), torch.arange(len(batch)))
    augmented = augmented.unflatten(0, (PREVIEW_DRAWS, len(shown))).numpy()
    plot_augmentation(shown, augmented, folder / "augmentation.png")
