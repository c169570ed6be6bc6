"""Which plots a finished run gets as files."""

import torch

from report.errors import find_errors
from report.plots import (
    plot_augmentation,
    plot_charts,
    plot_confusion,
    plot_errors,
    plot_mean_maps,
    plot_parameters,
    save,
)
from report.weights import compared_values

PREVIEW_DRAWS = 9


def draw_study(folder, study, sections, formats):
    """The plots of the HTML report: learning curves, confusion, calibration, parameters and mean maps.

    Args:
        folder: where to write them.
        study: the Study.
        sections: the content of its page, of `page.make_sections`.
        formats: names in plots.FORMATS.
    """
    if sections["training"]:
        curves = plot_charts(sections["training"]["charts"], dotted="training faces")
        save(curves, folder / "learning_curves", formats)
    for answers in study.answers:
        if groups := compared_values(answers.model):
            stem = "parameters_" + answers.name.replace(" ", "_")
            save(plot_parameters(groups, answers.name), folder / stem, formats)
    if (pooled := study.pooled()) is not None:
        names = pooled.faces.class_names
        save(plot_confusion(pooled.confusion, names, "all held-out faces"), folder / "confusion", formats)
        calibration = sections["calibration"]
        save(plot_charts([calibration["reliability"], calibration["coverage"]]), folder / "calibration", formats)
    if maps := sections["mean_maps"]:
        shown = ([one[key] for one in maps] for key in ("face", "map", "name"))
        save(plot_mean_maps(*shown), folder / "mean_maps", formats)


def draw_faces(folder, predictions, faces, images, augment, formats):
    """The plots that show faces: the effect of the augmentation and the worst errors.

    Args:
        predictions: Predictions for all held-out faces.
        faces: all Faces, in the order of `images`.
        images: uint8 (N, 3, S, S).
        augment: the training augmentation of PREVIEW_DRAWS faces of each class.
        formats: names in plots.FORMATS.
    """
    rows = faces.table.reset_index().set_index("path")["index"]
    errors = find_errors(predictions, images, rows.loc[predictions.faces.table.path].to_numpy())
    save(plot_errors(errors, faces.class_names), folder / "worst_errors", formats)
    save(plot_augmentation(*preview(faces, images, augment)), folder / "augmentation", formats)


def preview(faces, images, augment):
    """A face of each class as cached, uint8 (K, 3, S, S), and as the network sees it, float (draws, K, 3, S, S).

    Args:
        faces: Faces, whose index is their row of the cache.
        images: uint8 (N, 3, S, S), an array or a tensor.
        augment: an epoch's augmentation of at least draws * K faces.
    """
    labels, rows = faces.labels, faces.table.index
    shown = [int(rows[(labels == k).argmax()]) for k in range(len(faces.class_names)) if (labels == k).any()]
    shown = torch.as_tensor(images[shown])
    batch = shown.repeat(PREVIEW_DRAWS, 1, 1, 1)
    positions = torch.arange(len(batch), device=batch.device)
    augmented, _ = augment(batch, positions, positions)
    return shown.cpu().numpy(), augmented.unflatten(0, (PREVIEW_DRAWS, len(shown))).cpu().numpy()
