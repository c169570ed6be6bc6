"""Batches: every face once, whole batches, an order that only (seed, fold, epoch) decides."""

import numpy as np
import torch

from data.loader import FaceDataset, derive_seed, epoch_generator, ordered_batches, shuffled_batches


def dataset(count=10):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    return FaceDataset(images, range(count), np.arange(count) % 8)


def faces_of(batches):
    return [images[:, 0, 0, 0].tolist() for images, _ in batches]


def test_ordered_batches_are_whole_and_complete():
    assert faces_of(ordered_batches(dataset(), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_types_and_labels_belong_to_their_faces():
    for images, labels in shuffled_batches(dataset(), 4, epoch_generator(0, 0, 0)):
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


def test_seeds_differ_between_the_places_of_a_key():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (0, 0, 1), (0, 1, 1)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
