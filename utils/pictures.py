"""Which pictures a finished run gets."""

import torch

from data.adience import AGE_GROUPS
from utils.checkpoint import load_checkpoint, restore_model
from utils.errors import find_errors
from utils.metrics import confusion_matrix
from utils.plots import plot_augmentation, plot_confusion, plot_errors, plot_learning_curves, plot_parameters

PREVIEWED_DRAWS = 9
PREVIEWED = PREVIEWED_DRAWS * len(AGE_GROUPS)  # faces that a preview augments, at most


def draw_numbers(run):
    """The pictures of a run that need its files alone: curves, parameters, confusion."""
    plot_learning_curves(run.history, run.folder / "learning_curves.png", run.config.loss)
    for fold in run.finished_folds():
        path = run.model_path(fold)
        model, _ = restore_model(path, load_checkpoint(path))
        plot_parameters(model, run.folder / f"parameters_fold_{fold}.png", f"fold {fold}")
    predictions = run.predictions()
    confusion = confusion_matrix(predictions.label, predictions.prediction, len(AGE_GROUPS))
    plot_confusion(confusion, run.folder / "confusion.png", "all held-out faces")


def draw_faces(run, faces, images, augment):
    """The pictures of a run that show faces: the augmentation's effect and the worst errors.

    faces, images: the table of faces and the cached images in the same order. augment: the
    training transform for PREVIEWED faces.
    """
    predictions = run.predictions()
    # The index of the predictions becomes the position of the face among the images.
    predictions.index = faces.reset_index().set_index("path")["index"].loc[predictions.path].to_numpy()
    plot_errors(find_errors(predictions, images), run.folder / "worst_errors.png")
    preview(faces, images, augment, run.folder / "augmentation.png")


def preview(faces, images, augment, path):
    """One face of each age group, several times augmented."""
    rows = [faces.index[faces.label == group][0] for group in range(len(AGE_GROUPS)) if (faces.label == group).any()]
    shown = images[rows]
    batch = torch.from_numpy(shown).repeat(PREVIEWED_DRAWS, 1, 1, 1)
    images, _ = augment(batch, torch.arange(len(batch)), torch.arange(len(batch)))
    augmented = images.unflatten(0, (PREVIEWED_DRAWS, len(shown)))
    plot_augmentation(shown, augmented.numpy(), path)
