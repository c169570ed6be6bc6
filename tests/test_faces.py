"""The table of faces: subsets, people and fingerprints."""

import hashlib

import numpy as np
import pandas as pd

from data.faces import Faces
from utils.classes import Classes

TABLE = pd.DataFrame(
    {
        "path": ["a/1.jpg", "a/2.jpg", "b/1.jpg"],
        "label": [2, 0, 1],
        "fold": [0, 0, 1],
        "album": ["a", "a", "b"],
        "person": ["7", "8", "7"],
    }
)


def faces():
    return Faces(TABLE, Classes(("young", "grown", "old")))


def test_a_subset_keeps_its_rows_of_the_cache_and_its_classes():
    subset = faces().where(TABLE.label != 0)
    assert len(subset) == 2
    assert subset.table.index.tolist() == [0, 2]
    assert subset.classes.names == ("young", "grown", "old")
    assert subset.labels.tolist() == [2, 1]
    assert subset.labels.dtype == np.int64


def test_people_of_two_albums_are_two():
    assert faces().people.tolist() == ["a/7", "a/8", "b/7"]


def test_the_fingerprint_is_of_pixels_paths_people_folds_and_labels():
    listing = "abc\na/1.jpg\ta/7\t0\t2\na/2.jpg\ta/8\t0\t0\nb/1.jpg\tb/7\t1\t1"
    assert faces().fingerprint("abc") == hashlib.sha256(listing.encode()).hexdigest()
    subset = faces().where(TABLE.fold == 1)
    assert subset.fingerprint("abc") == hashlib.sha256(b"abc\nb/1.jpg\tb/7\t1\t1").hexdigest()
