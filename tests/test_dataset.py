"""Batches: whole ones, each face at most once, in an order that only the generator decides."""

import numpy as np
import pandas as pd
import pytest
import torch

from data.dataset import (
    FaceDataset,
    ordered_batches,
    prefetch,
    read_ahead,
    shard_order,
    share_of,
    shuffled_batches,
    steps_per_epoch,
)
from data.faces import Faces
from utils.classes import Classes
from utils.errors import UserError
from utils.seeds import Stream, make_generator


def make_faces(labels, rows=None):
    return Faces(pd.DataFrame({"label": labels}, index=rows), Classes(tuple("01234567")))


def dataset(count=10):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    return FaceDataset(images, make_faces(np.arange(count) % 8))


def order_of(seed=0, fold=0, epoch=0):
    return make_generator(seed, fold, epoch, Stream.SHUFFLE)


def faces_of(batches):
    return [images[:, 0, 0, 0].tolist() for images, *_ in batches]


def test_ordered_batches_are_whole_and_complete():
    assert faces_of(ordered_batches(dataset(), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_types_and_labels_belong_to_their_faces():
    for images, labels, *_ in shuffled_batches(dataset(), 4, order_of()):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 4, 4)
        assert labels.dtype == torch.int64
        assert labels.tolist() == [face % 8 for face in images[:, 0, 0, 0].tolist()]


def test_rows_choose_faces_of_the_cache():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    chosen = FaceDataset(images, make_faces([1, 2], rows=[7, 3]))
    assert faces_of(ordered_batches(chosen, 8)) == [[7, 3]]
    assert chosen.rows.tolist() == [7, 3]
    assert chosen.labels.tolist() == [1, 2]


def test_every_face_once_in_an_order_that_the_key_decides():
    def order(*key):
        batches = faces_of(shuffled_batches(dataset(), 2, order_of(*key)))
        return [face for batch in batches for face in batch]

    assert sorted(order(0, 0, 0)) == list(range(10))
    assert order(0, 0, 0) == order(0, 0, 0)
    assert len({tuple(order(seed, fold, epoch)) for seed in (0, 1) for fold in (0, 1) for epoch in (0, 1)}) == 8


def test_the_incomplete_last_batch_is_dropped():
    batches = faces_of(shuffled_batches(dataset(), 4, order_of()))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len({face for batch in batches for face in batch}) == 8
    drawn = [faces_of(shuffled_batches(dataset(), 4, order_of(epoch=epoch))) for epoch in range(8)]
    dropped = {frozenset(range(10)).difference(*batches) for batches in drawn}
    assert len(dropped) > 1  # not the same faces in every epoch


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "steps"),
    [(7176, 128, 1, 56), (10, 4, 1, 2), (8, 4, 1, 2), (4, 4, 2, 1), (11, 4, 4, 2)],
)
def test_steps_per_epoch(count, batch_size, world_size, steps):
    assert steps_per_epoch(range(count), batch_size, world_size) == steps


def test_fewer_faces_than_one_batch_is_an_error():
    message = "--batch-size 128: the training set has only 40 faces; a batch of at most 40 is needed"
    with pytest.raises(UserError, match=message):
        steps_per_epoch(make_faces([0] * 40), 128)
    with pytest.raises(UserError, match=message):
        next(shuffled_batches(dataset(40), 128, order_of()))


def test_processes_that_cannot_divide_a_batch_are_an_error():
    message = "--batch-size 30: 4 processes cannot divide it evenly"
    with pytest.raises(UserError, match=message):
        steps_per_epoch(range(100), 30, 4)
    with pytest.raises(UserError, match=message):
        next(shuffled_batches(dataset(100), 30, order_of(), world_size=4))


def test_a_first_step_continues_where_the_batches_before_ended():
    def batches(first_step):
        return faces_of(shuffled_batches(dataset(), 3, order_of(), first_step))

    whole = batches(0)
    assert len(whole) == 3
    assert batches(1) == whole[1:]
    assert batches(2) == whole[2:]
    assert batches(3) == []


def test_positions_are_those_in_the_epochs_order():
    whole = list(shuffled_batches(dataset(), 4, order_of()))
    assert [batch.positions.tolist() for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    resumed = list(shuffled_batches(dataset(), 4, order_of(), first_step=1))
    assert [batch.positions.tolist() for batch in resumed] == [[4, 5, 6, 7]]
    second = list(shuffled_batches(dataset(), 4, order_of(), rank=1, world_size=2))
    assert [batch.positions.tolist() for batch in second] == [[2, 3], [6, 7]]


def test_processes_share_each_batch():
    whole = faces_of(shuffled_batches(dataset(9), 4, order_of()))
    first, second = (faces_of(shuffled_batches(dataset(9), 4, order_of(), rank=rank, world_size=2)) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert all(len(part) == 2 for part in first + second)
    shares = [faces_of(ordered_batches(dataset(9), 4, rank, 2)) for rank in (0, 1)]
    assert shares == [[[0, 1, 2, 3], [4]], [[5, 6, 7, 8]]]
    assert share_of(9, 1, 2).tolist() == [5, 6, 7, 8]


def test_shards_are_read_four_at_a_time(monkeypatch):
    monkeypatch.setattr("data.dataset.SHARD", 10)
    rows = torch.tensor([row for row in range(95) if row % 10 < 7])  # 7 faces in each of 10 shards, 5 in the last
    orders = [shard_order(rows, order_of(epoch=epoch)) for epoch in range(40)]
    assert all(sorted(order.tolist()) == list(range(len(rows))) for order in orders)
    for order in orders:
        shards = (rows[order] // 10).tolist()
        opened = list(dict.fromkeys(shards))
        groups = [set(opened[:4]), set(opened[4:8]), set(opened[8:])]
        ends = [next(k for k, group in enumerate(groups) if shard in group) for shard in shards]
        assert ends == sorted(ends)  # the four are finished before the next four begin
        assert shards[:28] != sorted(shards[:28], key=opened.index)  # and their faces are mixed
    assert torch.equal(orders[3], shard_order(rows, order_of(epoch=3)))
    assert len({tuple(order.tolist()) for order in orders}) == 40
    # Each shard comes first about as often as any other: 4 of 40 times.
    assert len({int(rows[order[0]] // 10) for order in orders}) >= 8


def test_a_first_step_continues_within_shards(monkeypatch):
    monkeypatch.setattr("data.dataset.SHARD", 2)
    whole = faces_of(shuffled_batches(dataset(30), 4, order_of(), by_shards=True))
    assert faces_of(shuffled_batches(dataset(30), 4, order_of(), 3, by_shards=True)) == whole[3:]
    assert max(max(batch) - min(batch) for batch in whole) > 8  # not in the order of the cache


def test_sampling_weights_decide_how_often_a_face_is_drawn():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    batches = [faces_of(shuffled_batches(dataset(4), 4, order_of(epoch=e), sampling=weights)) for e in range(200)]
    drawn = [face for epoch in batches for batch in epoch for face in batch]
    assert len(drawn) == 800
    assert set(drawn) == {1, 2}
    assert drawn.count(2) == pytest.approx(600, abs=60)  # five standard deviations of 12.2


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    assert list(read_ahead(range(50), lambda number: 2 * number)) == list(range(0, 100, 2))

    def broken():
        yield 1
        raise OSError("the disk is gone")

    ahead = read_ahead(broken(), int)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_batches_pass_unchanged_on_a_cpu():
    batches = list(prefetch(shuffled_batches(dataset(), 4, order_of()), torch.device("cpu")))
    assert faces_of(batches) == faces_of(shuffled_batches(dataset(), 4, order_of()))
    assert list(prefetch([], torch.device("cuda"))) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA GPU")
def test_reading_ahead_changes_nothing():
    batches = list(prefetch(shuffled_batches(dataset(), 4, order_of()), torch.device("cuda")))
    assert all(tensor.device.type == "cuda" for batch in batches for tensor in batch)
    assert faces_of(batches) == faces_of(shuffled_batches(dataset(), 4, order_of()))
