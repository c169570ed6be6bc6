"""Random streams: a key decides, and its places count."""

import torch

from utils.seeds import Stream, derive_seed, make_generator


def test_seeds_differ_between_the_places_of_a_key():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 0, 0)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_key_draws_the_same_numbers():
    first, again, other = (torch.rand(5, generator=make_generator(0, 1, 2, s)) for s in (1, 1, Stream.AUGMENT))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
