"""Train, validation and test faces share no album and no person."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.faces import Faces
from data.split import split_faces
from utils.classes import Classes

CLASSES = Classes(("young", "old"))


def table(album_sizes):
    """One album per number, dealt to the five folds in turn."""
    rows = [(k % 5, f"album{k}", f"{k}-{n // 2}") for k, size in enumerate(album_sizes) for n in range(size)]
    return Faces(pd.DataFrame(rows, columns=["fold", "album", "person"]), CLASSES)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=10, max_size=40), st.integers(0, 4), st.floats(0, 0.9), st.integers(0, 99))
def test_every_face_is_on_one_side(sizes, fold, fraction, seed):
    faces = table(sizes)
    parts = split_faces(faces, fold, fraction, seed)
    assert all(part.classes == CLASSES for part in parts)
    train, val, test = (part.table for part in parts)
    assert sorted([*train.index, *val.index, *test.index]) == faces.table.index.tolist()
    assert set(test.fold) == {fold}
    assert fold not in set(train.fold) | set(val.fold)
    for column in ("album", "person"):
        assert not set(train[column]) & set(val[column])
    assert len(train) > 0
    others = len(train) + len(val)
    # Whole albums: enough of them, and not one more than needed unless one had to stay for training.
    if len(train.album.unique()) > 1:
        assert len(val) - 9 < fraction * others <= len(val) or fraction == 0


def test_without_a_fraction_nothing_is_held_out():
    train, val, _ = split_faces(table([3] * 20), 0, 0.0, 0)
    assert len(val) == 0
    assert len(train) == 48


def test_the_seed_and_the_fold_decide():
    faces = table([3] * 50)

    def val_albums(fold, seed):
        return frozenset(split_faces(faces, fold, 0.1, seed)[1].table.album)

    albums = {key: val_albums(*key) for key in [(0, 0), (0, 1), (1, 0)]}
    assert len(set(albums.values())) == 3
    assert albums[0, 0] == val_albums(0, 0)
    assert len(albums[0, 0]) == pytest.approx(4)
