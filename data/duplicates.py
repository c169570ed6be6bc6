"""Find copies of one picture in sets of images, whatever their scale or compression, mirrored or not.

A picture's signature is 96 bytes: a difference hash of 256 bits and the picture at 8 x 8 grey pixels. Two pictures are
the same if few bits differ and the correlation of their 8 x 8 pixels is at least 0.99; aligned faces of different
people may meet one of these.
"""

from dataclasses import dataclass

import numpy as np

from utils.errors import UserError

SIDE = 32  # pixels of the picture that is hashed
HASH_SIDE, SMALL_SIDE = 16, 8
HASH_BYTES, SIGNATURE_BYTES = HASH_SIDE**2 // 8, HASH_SIDE**2 // 8 + SMALL_SIDE**2
# The bits in which two copies of one picture may differ after scaling and recompression.
MOST_DIFFERING_BITS = 30
MOST_DIFFERING_BITS_ALONE = 24  # the same for records that hold hashes without small pictures
LEAST_CORRELATION = 0.99
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow
BLOCK = 1024
MOST_PAIRS = 2_000_000
# Two unit vectors with the least correlation have this distance, apart from a little for rounding.
LARGEST_DISTANCE = (2 * (1 - LEAST_CORRELATION)) ** 0.5 + 1e-3
AXES = 8  # faces differ mostly along a few axes, so that points of these axes are compared first
LEAF, COLUMNS = 128, 384  # points that are compared at once; larger products are divided among all cores
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)  # that are set in a byte


def both_signatures(images):
    """Images uint8 (N, 3, S, S) -> the signatures of these and of their mirror images, uint8 (2, N, 96)."""
    step = max(1, images.shape[-1] // (2 * SIDE))  # every step-th pixel of a large image is enough
    signatures = [np.zeros((2, 0, SIGNATURE_BYTES), np.uint8)]
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK, :, ::step, ::step]
        grey = sum(weight * block[:, channel] for channel, weight in enumerate(GREY))  # (B, S / step, S / step)
        shrink = area_means(grey.shape[-1], SIDE)
        pictures = shrink @ grey @ shrink.T  # (B, 32, 32)
        signatures.append(np.stack([signatures_of(pictures), signatures_of(pictures[:, :, ::-1])]))
    return np.concatenate(signatures, axis=1)


def signatures_of(pictures):
    """Grey pictures, float32 (B, 32, 32) -> signatures, uint8 (B, 96)."""
    small = area_means(SIDE, SMALL_SIDE) @ pictures @ area_means(SIDE, SMALL_SIDE).T  # (B, 8, 8)
    small = small.round().clip(0, 255).astype(np.uint8).reshape(len(pictures), -1)
    return np.hstack([np.packbits(difference_hashes(pictures), axis=1), small])


def area_means(size, smaller):
    """The matrix (smaller, size) that averages the pixels that each of `smaller` equal parts covers."""
    edges = np.linspace(0, size, smaller + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) * smaller / size).astype(np.float32)


def difference_hashes(pictures):
    """Whether the right neighbour of each pixel of a small version is brighter: bool (N, HASH_SIDE**2).

    Args:
        pictures: (N, 32, 32).
    """
    columns = np.linspace(0, SIDE - 1, HASH_SIDE + 1).round().astype(int)
    rows = pictures.reshape(len(pictures), HASH_SIDE, SIDE // HASH_SIDE, SIDE).mean(axis=2)  # (N, 16, 32)
    smooth = rows[:, :, columns]  # (N, 16, 17)
    return (smooth[:, :, 1:] > smooth[:, :, :-1]).reshape(len(pictures), -1)


def same_pictures(signatures, others=None):
    """Compare all pairs of pictures.

    Args:
        signatures: uint8 (N, 96).
        others: uint8 (M, 96), to compare with; None compares the N with each other.

    Returns:
        int64 array (P, 2): the positions of each pair that is the same picture, each pair once.

    Raises:
        UserError: so many pairs are the same that these cannot be photographs.
    """
    second, upper = signatures if others is None else others, others is None
    small, second_small = unit_pictures(signatures), unit_pictures(second)
    axes = np.linalg.eigh(second_small.T @ second_small)[1][:, -AXES:]  # the longest
    points, second_points = small @ axes, second_small @ axes
    found, count = [np.zeros((0, 2), np.int64)], 0
    for rows, columns in near_pairs(points, second_points, LARGEST_DISTANCE):
        kept = rows < columns if upper else np.ones(len(rows), bool)
        kept[kept] = (small[rows[kept]] * second_small[columns[kept]]).sum(1) >= LEAST_CORRELATION
        differing = BITS[signatures[rows[kept], :HASH_BYTES] ^ second[columns[kept], :HASH_BYTES]].sum(1)
        kept[kept] = differing <= MOST_DIFFERING_BITS
        found.append(np.stack([rows[kept], columns[kept]], axis=1))
        count += len(found[-1])
        if count > MOST_PAIRS:
            problem = f"more than {MOST_PAIRS:,} pairs of images show the same picture"
            raise UserError(f"{problem}; is this the right folder?")
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])]


def same_hashes(signatures, hashes):
    """Compare pictures with others of which only the difference hashes are kept, as in a published model.

    Of 36 million pairs of different photographs (UTKFace with CLAP2016 and FG-NET), none has so few differing bits as a
    copy may have.

    Args:
        signatures: uint8 (N, 96).
        hashes: uint8 (M, 32).

    Returns:
        Bool (N,): which of the pictures are among the others.
    """
    signs, others = (2 * np.unpackbits(h, axis=1).astype(np.float32) - 1 for h in (signatures[:, :HASH_BYTES], hashes))
    least = 8 * HASH_BYTES - 2 * MOST_DIFFERING_BITS_ALONE  # bits that agree less bits that differ
    blocks = [(signs[start : start + BLOCK] @ others.T >= least).any(1) for start in range(0, len(signs), BLOCK)]
    return np.concatenate([np.zeros(0, bool), *blocks])


def near_pairs(first, second, distance):
    """Find all pairs of a first and a second point within a distance of each other.

    The first points are halved along their longest side until few are left. The second ones go with each half that
    they can be near to, so that each pair is found once.

    Args:
        first, second: float (N, D) and (M, D).

    Yields:
        (rows, columns), two int64 arrays, in parts; a few pairs beyond the distance may be among them.
    """
    stack = [(np.arange(len(first)), np.arange(len(second)))]
    while stack:
        rows, columns = stack.pop()
        if not len(rows) or not len(columns):
            continue
        sides = np.ptp(first[rows], axis=0)
        axis = sides.argmax()
        if len(rows) > LEAF and sides[axis] > 0:
            values, second_values = first[rows, axis], second[columns, axis]
            middle = np.median(values)
            below = values <= middle if (values > middle).any() else values < middle
            stack.append((rows[below], columns[second_values <= middle + distance]))
            stack.append((rows[~below], columns[second_values >= middle - distance]))
            continue
        for row in range(0, len(rows), LEAF):
            own = rows[row : row + LEAF]
            points, ones = first[own], np.ones((len(own), 1), first.dtype)
            weights = np.hstack([-2 * points, (points**2).sum(1, keepdims=True), ones])
            for column in range(0, len(columns), COLUMNS):
                others = columns[column : column + COLUMNS]
                points, ones = second[others], np.ones((len(others), 1), second.dtype)
                squares = weights @ np.hstack([points, ones, (points**2).sum(1, keepdims=True)]).T
                near = np.flatnonzero(squares <= distance**2)
                yield own[near // len(others)], others[near % len(others)]


def find_pairs(signatures):
    """The pairs of a set that show the same picture, as it is or mirrored, int64 (P, 2).

    Args:
        signatures: uint8 (2, N, 96), of `both_signatures`.

    Raises:
        UserError: see `same_pictures`.
    """
    # Both ways: the hash of a mirror image is not quite the mirrored hash, and evaluation meets a pair either way.
    turned = np.sort(same_pictures(*signatures), axis=1)
    turned = turned[turned[:, 0] < turned[:, 1]]  # without symmetrical pictures
    return np.unique(np.concatenate([same_pictures(signatures[0]), turned]), axis=0)


def unit_pictures(signatures):
    """The small pictures, float32 (N, 64), scaled so that products are Pearson's correlations; 0 for a single grey."""
    small = signatures[:, HASH_BYTES:].astype(np.float32)
    small -= small.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(small, axis=1, keepdims=True)
    return small / np.where(lengths, lengths, np.inf)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a whole data set.

    Attributes:
        signatures: uint8 (2, N, 96), of the pictures and of their mirror images, in the order of the cache.
        pairs: int64 (P, 2), the rows that hold the same picture, as it is or mirrored.
    """

    signatures: np.ndarray
    pairs: np.ndarray

    def duplicates(self, faces, others):
        """Bool (M,): which of M Faces show a picture that some of the other Faces show, too."""
        pairs = np.concatenate([self.pairs, self.pairs[:, ::-1]])
        shown = pairs[np.isin(pairs[:, 1], others.table.index), 0]
        return faces.table.index.isin(shown)

    def pairs_among(self, faces):
        """The pairs of these Faces, as their positions (P, 2)."""
        positions = faces.table.index.get_indexer(self.pairs.ravel()).reshape(-1, 2)
        return positions[(positions >= 0).all(axis=1)]

    def across_folds(self, faces):
        """The pairs whose pictures are in different folds, as positions (P, 2) of these Faces."""
        pairs = self.pairs_among(faces)
        folds = faces.table.fold.to_numpy()[pairs]
        return pairs[folds[:, 0] != folds[:, 1]]
