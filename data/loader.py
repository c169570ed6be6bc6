"""Batches from the cache: whole batches at a time, in an order that (seed, fold, epoch) fixes."""

import queue
import threading
from typing import NamedTuple

import numpy as np
import torch

BATCHES_AHEAD = 2


class FaceDataset:
    """Decoded faces and their labels; indexed by a tensor, it returns a whole batch.

    images: uint8 (N, 3, S, S), the memory-mapped cache or a tensor on a GPU. Batches are where it is.
    rows: (M,) positions in `images` of the faces of this set.
    labels: (M,) integers, the age groups.
    """

    def __init__(self, images, rows, labels):
        self.images = images
        self.device = images.device if isinstance(images, torch.Tensor) else torch.device("cpu")
        self.rows = torch.as_tensor(np.array(rows), dtype=torch.int64, device=self.device)
        self.labels = torch.as_tensor(np.array(labels), dtype=torch.int64, device=self.device)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, indices):
        """B indices give images uint8 (B, 3, S, S) and labels int64 (B,)."""
        rows = self.rows[indices]
        images = self.images[rows] if torch.is_tensor(self.images) else torch.from_numpy(self.images[rows.numpy()])
        return images, self.labels[indices]


class Batch(NamedTuple):
    """One process's part of a training batch."""

    images: torch.Tensor  # uint8 (B, 3, S, S)
    labels: torch.Tensor  # int64 (B,)
    positions: torch.Tensor  # int64 (B,), of these faces in the epoch's order
    faces: int  # in the whole batch, over all processes
    copies: int  # how many processes have each face


def shuffled_batches(dataset, batch_size, generator, skip=0, rank=0, processes=1, sampling=None):
    """Every face once, in an order drawn from the generator; the last batch may be smaller.

    sampling: (M,) weights of the faces; as many faces are then drawn by them, some several times.
    skip: leave out so many faces from the start, those of the batches that were done before.
    rank, processes: yield that process's share of each batch. A last batch with fewer faces than
    processes is given to each of them whole, so that none is left without.
    """
    if sampling is None:
        order = torch.randperm(len(dataset), generator=generator)
    else:
        order = torch.multinomial(sampling.double(), len(dataset), replacement=True, generator=generator)
    order = order.to(dataset.device)
    for start in range(skip, len(order), batch_size):
        whole = torch.arange(start, min(start + batch_size, len(order)), device=dataset.device)
        shared = len(whole) >= processes
        mine = whole.tensor_split(processes)[rank] if shared else whole
        yield Batch(*dataset[order[mine]], mine, len(whole), 1 if shared else processes)


def ordered_batches(dataset, batch_size, rank=0, processes=1):
    """(images, labels) of this process's share of the faces, in the dataset's order."""
    mine = share_of(len(dataset), rank, processes).to(dataset.device)
    for start in range(0, len(mine), batch_size):
        yield dataset[mine[start : start + batch_size]]


def share_of(count, rank, processes):
    """The consecutive ones of `count` positions that are this process's."""
    return torch.arange(count).tensor_split(processes)[rank]


def each_tensor(function, batch):
    """A Batch or tuple of the same form, with the function applied to its tensors."""
    parts = (function(part) if torch.is_tensor(part) else part for part in batch)
    return Batch(*parts) if isinstance(batch, Batch) else tuple(parts)


def prepared_ahead(batches):
    """The same batches, read by a thread into page-locked memory while the GPU works on those before."""
    ready, ended = queue.Queue(BATCHES_AHEAD), threading.Event()

    def read():
        try:
            for batch in batches:
                ready.put(each_tensor(torch.Tensor.pin_memory, batch))
                if ended.is_set():
                    return
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (batch := ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        ended.set()
        while not ready.empty():  # let a thread that waits for room see it
            ready.get_nowait()


def epoch_generator(seed, fold, epoch, stream=0):
    """A CPU generator that depends on (seed, fold, epoch) alone, so that a resumed run repeats itself.

    stream: tells apart the independent uses within one epoch (the order of the faces,
    the augmentation).
    """
    return torch.Generator().manual_seed(derive_seed(seed, fold, epoch, stream))


def derive_seed(*key):
    """A 63-bit seed from a tuple of integers below 2**32, mixed by numpy's SeedSequence."""
    # The length belongs to it: SeedSequence alone takes (1, 2) and (1, 2, 0) for the same.
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> 1)
