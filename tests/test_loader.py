"""Batches: every face once, whole batches, an order that only (seed, fold, epoch) decides."""

import numpy as np
import pytest
import torch

from data.loader import (
    FaceDataset,
    derive_seed,
    epoch_generator,
    ordered_batches,
    prepared_ahead,
    share_of,
    shuffled_batches,
)


def dataset(count=10):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    return FaceDataset(images, range(count), np.arange(count) % 8)


def faces_of(batches):
    return [images[:, 0, 0, 0].tolist() for images, *_ in batches]


def test_ordered_batches_are_whole_and_complete():
    assert faces_of(ordered_batches(dataset(), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_types_and_labels_belong_to_their_faces():
    for images, labels, *_ in shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0)):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 4, 4)
        assert labels.dtype == torch.int64
        assert labels.tolist() == [face % 8 for face in images[:, 0, 0, 0].tolist()]


def test_rows_choose_faces_of_the_cache():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    chosen = FaceDataset(images, [7, 3], [1, 2])
    assert faces_of(ordered_batches(chosen, 8)) == [[7, 3]]


def test_every_face_once_in_an_order_that_the_key_decides():
    def order(*key):
        batches = faces_of(shuffled_batches(dataset(), 3, epoch_generator(*key)))
        return [face for batch in batches for face in batch]

    assert sorted(order(0, 0, 0)) == list(range(10))
    assert order(0, 0, 0) == order(0, 0, 0)
    assert len({tuple(order(seed, fold, epoch)) for seed in (0, 1) for fold in (0, 1) for epoch in (0, 1)}) == 8


def test_a_skip_goes_on_where_the_batches_before_ended():
    def batches(skip):
        return faces_of(shuffled_batches(dataset(), 3, epoch_generator(0, 0, 0), skip))

    whole = batches(0)
    assert batches(3) == whole[1:]
    assert batches(9) == whole[3:]
    assert batches(10) == []


def test_positions_are_those_in_the_epochs_order():
    whole = list(shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0)))
    assert [batch.positions.tolist() for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    resumed = list(shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0), skip=4))
    assert [batch.positions.tolist() for batch in resumed] == [[4, 5, 6, 7], [8, 9]]


def test_processes_share_each_batch():
    def parts(rank):
        return list(shuffled_batches(dataset(9), 4, epoch_generator(0, 0, 0), rank=rank, processes=2))

    whole = faces_of(shuffled_batches(dataset(9), 4, epoch_generator(0, 0, 0)))
    first, second = faces_of(parts(0)), faces_of(parts(1))
    assert [a + b for a, b in zip(first[:2], second[:2], strict=True)] == whole[:2]
    assert first[2] == second[2] == whole[2]  # one face is too few to share
    assert [(batch.faces, batch.copies) for batch in parts(1)] == [(4, 1), (4, 1), (1, 2)]
    shares = [faces_of(ordered_batches(dataset(9), 4, rank, 2)) for rank in (0, 1)]
    assert shares == [[[0, 1, 2, 3], [4]], [[5, 6, 7, 8]]]
    assert share_of(9, 1, 2).tolist() == [5, 6, 7, 8]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA GPU")
def test_reading_ahead_changes_nothing():
    batches = list(prepared_ahead(shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0))))
    assert faces_of(batches) == faces_of(shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0)))


def test_seeds_differ_between_the_places_of_a_key():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 0, 0)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
