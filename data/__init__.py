"""From label files and images to a table of faces, a decoded cache, and batches (dataset.py, which needs torch)."""

from data import adience, csv
from data.adience import load_faces
from data.cache import open_cache
from data.demo import make_demo_faces
from data.duplicates import Pictures
from data.faces import Faces
from data.split import split_faces

__all__ = ["Faces", "Pictures", "load_data", "make_demo_faces", "open_cache", "place_labels", "split_faces"]

# The settings that lead to the faces: the arguments of load_data and of place_labels.
DATA_SOURCE = ("label_dir", "image_dir", "label_policy", "allow_missing", "label_file", "age_groups", "seed")


def load_data(label_dir, image_dir, label_policy, allow_missing, label_file, age_groups, seed):
    """The Faces that settings describe, and a report to print: of a CSV file where one is given, else of label files.

    Args:
        label_dir: the folder of the label files.
        image_dir: the folder of the images.
        label_policy: which ages to use, see `data.adience.LABEL_POLICIES` and `data.csv.load_faces`.
        allow_missing: leave out faces whose images do not exist, instead of raising an error.
        label_file: the CSV file; "" where there is none.
        age_groups: names of the CSV file's classes, in order.
        seed: of the CSV file's folds, where it has none.

    Raises:
        UserError: a file is missing or malformed, or holds a wrong value.
    """
    if label_file:
        return csv.load_faces(label_file, image_dir, label_policy, allow_missing, tuple(age_groups), seed)
    return load_faces(label_dir, image_dir, label_policy, allow_missing)


def place_labels(label_dir, image_dir, label_policy, allow_missing, label_file, age_groups, seed):
    """Where each label stands, {path: "faces.csv:17"}, and the report; the arguments are those of `load_data`."""
    if label_file:
        return csv.label_places(label_file, label_policy, tuple(age_groups), seed)
    return adience.label_places(label_dir, image_dir, label_policy)
