"""Which faces a fold trains on, tunes on and is tested on."""

import numpy as np


def split_faces(faces, fold, val_fraction, seed):
    """(train, val, test) tables: the other folds, whole albums held out of them, and the fold itself.

    val_fraction: share of the other folds' faces to hold out for tuning, in [0, 1). Albums are drawn
    by seed until they have that many; since they are whole, no person is on both sides.
    """
    test = faces[faces.fold == fold]
    others = faces[faces.fold != fold]
    held_out = others.album.isin(draw_albums(others, val_fraction, (seed, fold)))
    return others[~held_out], others[held_out], test


def draw_albums(faces, fraction, key):
    """Albums in random order until they hold `fraction` of the faces; at least one is always left over."""
    sizes = faces.album.value_counts().sort_index()
    order = np.random.default_rng(key).permutation(len(sizes))
    before = np.concatenate([[0], sizes.to_numpy()[order].cumsum()[:-1]])
    drawn = order[before < fraction * len(faces)][: len(sizes) - 1]
    return set(sizes.index[drawn])
