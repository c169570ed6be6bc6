"""Split the faces of an experiment into training, validation and test faces."""

import numpy as np


def split_faces(faces, fold, val_fraction, seed):
    """Split off the test fold, and whole albums of the other folds for validation.

    Albums are drawn at random until they hold enough faces. Since they are whole, no person is in two parts.

    Args:
        faces: the Faces of all folds.
        fold: the fold to test on.
        val_fraction: the fraction of the other folds' faces to validate on, in [0, 1).
        seed: decides, together with the fold, which albums are drawn.

    Returns:
        (train, val, test), each a Faces.
    """
    table = faces.table
    in_test = table.fold == fold
    in_val = ~in_test & table.album.isin(draw_albums(table[~in_test], val_fraction, (seed, fold)))
    return faces.where(~in_test & ~in_val), faces.where(in_val), faces.where(in_test)


def draw_albums(table, fraction, key):
    """Albums in random order until they hold `fraction` of the faces; at least one always remains."""
    sizes = table.album.value_counts().sort_index()
    order = np.random.default_rng(key).permutation(len(sizes))
    faces_before = np.concatenate([[0], sizes.to_numpy()[order].cumsum()[:-1]])
    drawn = order[faces_before < fraction * len(table)][: len(sizes) - 1]
    return set(sizes.index[drawn])
