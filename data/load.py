"""The faces, their cache and the demo faces, for the scripts."""

import inspect

from data.adience import load_faces
from data.cache import open_cache
from data.demo import make_demo_faces
from data.label_file import load_faces as load_own_faces

__all__ = ["DATA_SOURCE", "load_data", "make_demo_faces", "open_cache"]


def load_data(label_dir, image_dir, label_policy, allow_missing, label_file, age_groups, fold_seed):
    """Read the faces of a CSV file if there is one, and of label files otherwise.

    Args:
        label_dir: the folder of the label files.
        image_dir: the folder of the images.
        label_policy: which ages to use, see `data.adience.LABEL_POLICIES` and `data.label_file.load_faces`.
        allow_missing: leave out faces whose images do not exist, instead of raising an error.
        label_file: the CSV file; "" if there is none.
        age_groups: names of the CSV file's classes, in order.
        fold_seed: draws the folds of a CSV file that has none.

    Returns:
        (Faces, LabelReport): the faces, and the counts of labels used and left out, to print.

    Raises:
        UserError: a file is missing or malformed, or holds a wrong value.
    """
    if label_file:
        return load_own_faces(label_file, image_dir, label_policy, allow_missing, age_groups, fold_seed)
    return load_faces(label_dir, image_dir, label_policy, allow_missing)


DATA_SOURCE = tuple(inspect.signature(load_data).parameters)  # the settings that lead to the faces
