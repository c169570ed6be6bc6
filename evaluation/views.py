"""Test-time views: other images of the same faces, whose probabilities are averaged with the plain ones."""

import numpy as np

from data import load_data
from evaluation.evaluate import evaluate
from utils.errors import UserError

# Krizhevsky et al. and Levi and Hassner cut crops of 227 pixels out of 256.
CROP_SHARE = 227 / 256


def flipped(images):
    return images.flip(-1)


VIEWS = {"flip": flipped}


def enlarged_size(size):
    """Side of the images that crops of `size` pixels are cut from."""
    return round(size / CROP_SHARE)


def ten_crops(size):
    """Ten functions that cut the corners and the centre, as they are and mirrored (Krizhevsky et al., 2012).

    Each takes images (B, 3, L, L) with L = `enlarged_size(size)` to (B, 3, size, size).
    """
    rest = enlarged_size(size) - size
    corners = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]

    def crop(top, left, mirrored):
        def view(images):
            images = images[:, :, top : top + size, left : left + size]
            return flipped(images) if mirrored else images

        return view

    return [crop(top, left, mirrored) for mirrored in (False, True) for top, left in corners]


def ten_crop_probabilities(model, dataset, batch_size, compute):
    """Probabilities (N, K), averaged over ten crops; the dataset's images have `enlarged_size(model.image_size)`."""
    views = ten_crops(model.image_size)
    return np.mean([evaluate(model, dataset, batch_size, compute, view=view).probabilities for view in views], axis=0)


def second_paths(image_dir, paths, config):
    """The paths of the same faces in another folder, such as `faces` beside `aligned`.

    Args:
        image_dir: the other folder.
        paths: of all faces in the first folder.
        config: its data_source is used, but for the folder.

    Raises:
        UserError: the folder does not hold the same faces.
    """
    others, _ = load_data(**{**config.data_source, "image_dir": image_dir})
    # A path is the album, how the face was cut out, the person and the original image.
    first, second = (p.str.split("/").str[0] + "/" + p.str.split(".", n=1).str[1] for p in (paths, others.table.path))
    if not first.equals(second):
        raise UserError(f"--second-image-dir {image_dir}: it does not hold the same faces")
    return others.table.path
