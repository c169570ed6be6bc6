"""Batches from the cache, in an order that follows from a random generator alone."""

import collections
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from data.cache import SHARD
from utils.errors import UserError

BATCHES_AHEAD = 2
OPEN_SHARDS = 4


class FaceDataset:
    """Decoded faces and their labels; indexed by a tensor, it returns a batch.

    Args:
        images: uint8 (rows of the cache, 3, S, S), the memory-mapped cache or a tensor on a GPU. Batches are on the
            same device.
        faces: the M Faces of this dataset.

    Attributes:
        rows: int64 (M,), the row of each face in `images`.
        labels: int64 (M,).
        intervals: float32 (M, 2), the first and last year of each face's age; NaN where the classes are not ages.
    """

    def __init__(self, images, faces):
        self.images, self.faces = images, faces
        self.device = images.device if isinstance(images, torch.Tensor) else torch.device("cpu")
        self.rows = torch.tensor(np.array(faces.table.index, dtype=np.int64), device=self.device)
        self.labels = torch.tensor(faces.labels, device=self.device)
        self.intervals = torch.tensor(faces.intervals, device=self.device)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, indices):
        """B indices give images uint8 (B, 3, S, S), labels int64 (B,) and intervals float32 (B, 2)."""
        rows = self.rows[indices]
        images = self.images[rows] if torch.is_tensor(self.images) else torch.from_numpy(self.images[rows.numpy()])
        return images, self.labels[indices], self.intervals[indices]


class Batch(NamedTuple):
    """The rows of a batch that one process computes."""

    images: torch.Tensor  # uint8 (B, 3, S, S)
    labels: torch.Tensor  # int64 (B,)
    intervals: torch.Tensor  # float32 (B, 2), first and last year
    positions: torch.Tensor  # int64 (B,), of these faces in the order of the epoch, or of the dataset


def shuffled_batches(
    dataset, batch_size, generator, first_step=0, rank=0, world_size=1, sampling=None, by_shards=False
):
    """Yield the batches of one training epoch, each face at most once.

    The faces that do not fill a last batch are dropped: 7,176 faces in batches of 128 would leave a batch of 8, and
    each of its faces would weigh 16 times as much in the mean of its step as any other. The next epoch's order drops
    other faces.

    Args:
        dataset: a FaceDataset of M faces.
        batch_size: faces of a batch, over all processes.
        generator: draws the order of the epoch.
        first_step: the number of batches to skip; a resumed run continues there.
        rank, world_size: yield this process's equal, contiguous slice of each batch.
        sampling: (M,) weights of the faces; M faces are then drawn by them with replacement.
        by_shards: shuffle as `shard_order` does.

    Raises:
        UserError: see `steps_per_epoch`.
    """
    steps, local_batch_size = steps_per_epoch(dataset, batch_size, world_size), batch_size // world_size
    if sampling is not None:
        order = torch.multinomial(sampling.double(), len(dataset), replacement=True, generator=generator)
    elif by_shards:
        order = shard_order(dataset.rows.cpu(), generator)
    else:
        order = torch.randperm(len(dataset), generator=generator)
    order = order.to(dataset.device)
    for step in range(first_step, steps):
        start = step * batch_size + rank * local_batch_size
        positions = torch.arange(start, start + local_batch_size, device=dataset.device)
        yield Batch(*dataset[order[positions]], positions)


def shard_order(rows, generator):
    """An order of faces that reads OPEN_SHARDS shards of the cache at a time, for data larger than memory.

    The shards are shuffled, then the faces of each OPEN_SHARDS of them, as WebDataset and others do.

    Args:
        rows: int64 (M,), of the faces in the cache.
        generator: draws the order.

    Returns:
        int64 (M,), a permutation.
    """
    shards, order = rows // SHARD, []
    present = shards.unique()
    for opened in present[torch.randperm(len(present), generator=generator)].split(OPEN_SHARDS):
        faces = torch.isin(shards, opened).nonzero()[:, 0]
        order.append(faces[torch.randperm(len(faces), generator=generator)])
    return torch.cat(order)


def steps_per_epoch(faces, batch_size, world_size=1):
    """The number of batches of one training epoch; the incomplete last one does not count.

    Args:
        faces: the training set, Faces or a FaceDataset.
        batch_size: faces of a batch, over all processes.
        world_size: the number of processes.

    Raises:
        UserError: the processes cannot divide a batch evenly, or there are fewer faces than one batch.
    """
    count = len(faces)
    if batch_size % world_size:
        raise UserError(f"--batch-size {batch_size}: {world_size} processes cannot divide it evenly")
    if count < batch_size:
        raise UserError(
            f"--batch-size {batch_size}: the training set has only {count} faces; a batch of at most {count} is needed"
        )
    return count // batch_size


def ordered_batches(dataset, batch_size, rank=0, world_size=1):
    """Yield the batches of this process's slice of the faces, in order; the last may be smaller."""
    mine = share_of(len(dataset), rank, world_size).to(dataset.device)
    for start in range(0, len(mine), batch_size):
        positions = mine[start : start + batch_size]
        yield Batch(*dataset[positions], positions)


def share_of(count, rank, world_size):
    """The contiguous slice of the positions 0 to count - 1 that belongs to one process, int64."""
    return torch.arange(count).tensor_split(world_size)[rank]


def prefetch(batches, device):
    """Yield the batches on a GPU while a thread reads the next ones, for CUDA into page-locked memory.

    Batches that are on the GPU already pass unchanged, and so do all where `device` is a CPU.

    Args:
        batches: Batches.
        device: a torch.device.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    batches = itertools.chain([first], batches)
    if device.type == "cpu" or first[0].device.type != "cpu":
        yield from batches
        return

    def pin(batch):
        if device.type != "cuda":
            return batch
        torch.cuda.set_device(device)  # a thread starts on the first GPU, whichever this process uses
        return Batch(*map(torch.Tensor.pin_memory, batch))

    for batch in read_ahead(batches, pin):
        # Only from page-locked memory: elsewhere the source could be gone before it is copied.
        yield Batch(*(tensor.to(device, non_blocking=device.type == "cuda") for tensor in batch))


def read_ahead(batches, prepare):
    """Yield prepare(batch) of each batch; a thread works up to BATCHES_AHEAD batches ahead."""
    batches = iter(batches)

    def read():
        batch = next(batches, None)
        return None if batch is None else prepare(batch)

    pool = ThreadPoolExecutor(1)
    waiting = collections.deque(pool.submit(read) for _ in range(BATCHES_AHEAD))
    try:
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(read))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
