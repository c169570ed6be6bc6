"""Batches from the cache: whole batches at a time, in an order that (seed, fold, epoch) fixes."""

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset


class FaceDataset(Dataset):
    """Decoded faces and their labels; indexed by a list, it returns a whole batch.

    images: (N, 3, S, S) uint8 array, usually the memory-mapped cache.
    rows: (M,) positions in `images` of the faces of this set.
    labels: (M,) integers, the age groups.
    """

    def __init__(self, images, rows, labels):
        self.images = images
        self.rows = np.asarray(rows)
        self.labels = torch.as_tensor(np.array(labels), dtype=torch.int64)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, indices):
        """A list of B indices gives images uint8 (B, 3, S, S) and labels int64 (B,)."""
        return torch.from_numpy(self.images[self.rows[indices]]), self.labels[indices]


def shuffled_batches(dataset, batch_size, generator, skip=0):
    """Every face once, in an order drawn from the generator; the last batch may be smaller.

    skip: leave out so many faces from the start, those of the batches that were done before.
    """
    order = torch.randperm(len(dataset), generator=generator).tolist()
    return batch_loader(dataset, order[skip:], batch_size)


def ordered_batches(dataset, batch_size):
    """Every face once, in the dataset's order."""
    return batch_loader(dataset, range(len(dataset)), batch_size)


def batch_loader(dataset, order, batch_size):
    # With batch_size=None the loader hands each list of indices to the dataset whole.
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=torch.cuda.is_available())


def epoch_generator(seed, fold, epoch, stream=0):
    """A CPU generator that depends on (seed, fold, epoch) alone, so that a resumed run repeats itself.

    stream: tells apart the independent uses within one epoch (the order of the faces,
    the augmentation).
    """
    return torch.Generator().manual_seed(derive_seed(seed, fold, epoch, stream))


def derive_seed(*key):
    """A 63-bit seed from a tuple of integers below 2**32, mixed by numpy's SeedSequence.

    Zeros at the end do not count: (seed, fold) and (seed, fold, 0, 0) are one seed.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
