"""Find copies of one picture in a set of images, whatever their scale or compression."""

import numpy as np
from PIL import Image

from data.cache import decode_face

SIDE = 32  # pixels of a thumbnail
HASH_SIDE = 16  # a hash has HASH_SIDE**2 bits
# The bits in which two copies of one picture may differ after scaling and recompression. Aligned faces of different
# people can come near, too, so that the correlation of the thumbnails decides.
MOST_DIFFERING_BITS = 30
LEAST_CORRELATION = 0.97


def read_thumbnail(path):
    """An image file as a grey thumbnail, uint8 (32, 32). Raises UserError."""
    face = decode_face(path, 2 * SIDE).transpose(1, 2, 0)
    grey = Image.fromarray(np.ascontiguousarray(face)).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def same_pictures(thumbnails):
    """Compare all pairs of thumbnails; the difference hash finds candidates, their correlation decides.

    Args:
        thumbnails: uint8 (N, 32, 32).

    Returns:
        A list of (first, second, correlation) with the positions of each pair that is the same picture.
    """
    hashes = difference_hashes(thumbnails)
    bits = HASH_SIDE * HASH_SIDE
    found = []
    for start in range(0, len(hashes), 1024):
        block = hashes[start : start + 1024]
        # Signs multiply to +1 where bits agree, so a matrix product counts agreements minus differences.
        differing = (bits - block @ hashes[start:].T) / 2
        for pair in np.argwhere(np.triu(differing <= MOST_DIFFERING_BITS, k=1)):
            first, second = (start + pair).tolist()
            correlation = float(np.corrcoef(thumbnails[first].ravel(), thumbnails[second].ravel())[0, 1])
            if correlation >= LEAST_CORRELATION:
                found.append((first, second, correlation))
    return found


def difference_hashes(thumbnails):
    """Whether the right neighbour of each pixel of a small version is brighter: float32 (N, HASH_SIDE**2) of signs."""
    columns = np.linspace(0, SIDE - 1, HASH_SIDE + 1).round().astype(int)
    rows = thumbnails.reshape(len(thumbnails), HASH_SIDE, SIDE // HASH_SIDE, SIDE).mean(axis=2)  # (N, 16, 32)
    smooth = rows[:, :, columns]  # (N, 16, 17)
    signs = np.where(smooth[:, :, 1:] > smooth[:, :, :-1], 1, -1)
    return signs.reshape(len(thumbnails), HASH_SIDE * HASH_SIDE).astype(np.float32)
