"""Split the faces of an experiment into training, validation and test faces."""

import numpy as np
import pandas as pd


def split_faces(faces, fold, val_fraction, seed):
    """Split off the test fold, and whole albums of the other folds for validation.

    Albums are drawn at random until they hold enough faces. They stay together, so no person is in two of the sets.

    Args:
        faces: the Faces of all folds.
        fold: the fold to test on.
        val_fraction: the fraction of the other folds' faces to validate on, in [0, 1).
        seed: decides, together with the fold, which albums are drawn.

    Returns:
        (train, val, test), each a Faces. The validation faces of a fixed split stay as they are.
    """
    table = faces.table
    in_test = table.fold == fold
    if "split" in table and (table.split == "val").any():
        in_val = table.split == "val"
    else:
        in_val = ~in_test & table.album.isin(draw_albums(table[~in_test], val_fraction, (seed, fold)))
    return faces.where(~in_test & ~in_val), faces.where(in_val), faces.where(in_test)


def draw_albums(table, fraction, key):
    """Albums in random order until they hold `fraction` of the faces; at least one always remains."""
    sizes = table.album.value_counts().sort_index()
    order = np.random.default_rng(key).permutation(len(sizes))
    faces_before = np.concatenate([[0], sizes.to_numpy()[order].cumsum()[:-1]])
    drawn = order[faces_before < fraction * len(table)][: len(sizes) - 1]
    return set(sizes.index[drawn])


def draw_folds(people, labels, seed, folds=5):
    """Deal people to folds of about the same size, and about the same number of faces of each class.

    The people with most faces come first, in random order where they have as many; each goes to the fold that has the
    smallest share of their classes and of all faces so far (a greedy minimum of the sums of squares). Only folds
    are considered that are no larger than the smallest one plus this person, so that the sizes of two folds differ by
    at most twice the faces of one person.

    Args:
        people: (N,) names, of each face's person.
        labels: int (N,), 0 to K-1.
        seed: decides the order of people with equally many faces; the order of the faces decides nothing.
        folds: the number of folds.

    Returns:
        int64 (N,), the fold of each face.
    """
    person, names = pd.factorize(np.asarray(people, dtype=object), sort=True)
    labels = np.asarray(labels)
    counts = np.bincount(person, minlength=len(names))
    shares = 1 / np.bincount(labels).clip(1)  # the share of one face in its class
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    by_person = np.split(labels[np.lexsort((labels, person))], counts.cumsum()[:-1])
    filled, sizes = np.zeros((folds, len(shares))), np.zeros(folds)
    chosen = np.zeros(len(names), np.int64)
    for number in order:
        classes, size = by_person[number], counts[number]
        cost = filled[:, classes] @ shares[classes] + sizes * size / len(labels)
        cost[sizes > sizes.min() + size] = np.inf
        fold = chosen[number] = cost.argmin()
        np.add.at(filled[fold], classes, 1)
        sizes[fold] += size
    return chosen[person]
