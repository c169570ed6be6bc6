"""Random numbers that depend only on (seed, fold, epoch) and their purpose, so that a resumed run repeats itself."""

import enum

import numpy as np
import torch


class Stream(enum.IntEnum):
    """Purposes of random numbers; each draws from a stream of its own."""

    INITIAL_WEIGHTS = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def derive_seed(*key):
    """A 63-bit seed from integers below 2**32, mixed by numpy's SeedSequence."""
    # The length is part of the key: SeedSequence alone gives (1, 2) and (1, 2, 0) the same numbers.
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> 1)


def make_generator(*key):
    """A torch.Generator on the CPU, seeded by `derive_seed(*key)`."""
    return torch.Generator().manual_seed(derive_seed(*key))
