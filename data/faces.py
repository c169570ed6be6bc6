"""The table of faces, together with the names of their classes."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Faces:
    """Labelled faces.

    Attributes:
        table: one row per face with the columns path (below the image directory), label (0 to K-1), fold, subject,
            album, gender, yaw (degrees) and score. Its index is the row of each face in the cache.
            More columns may follow, which serve for subgroups.
        class_names: the K names of the classes, in order.
        folds_drawn: whether the folds were drawn at random, because the data set has none.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    folds_drawn: bool = False

    def __len__(self):
        return len(self.table)

    def where(self, mask):
        """The faces for which the boolean mask (N,) is true; they keep their index."""
        return replace(self, table=self.table[mask])

    @property
    def labels(self):
        """int64 array (N,)."""
        return self.table.label.to_numpy(np.int64)

    @property
    def people(self):
        """Series (N,) of "album/subject", which tells people apart across data sets that number them alike."""
        return self.table.album + "/" + self.table.subject

    def fingerprint(self, images):
        """A SHA-256 of paths, folds, labels and pixels.

        Args:
            images: uint8 (rows of the cache, 3, S, S).
        """
        rows = zip(self.table.path, self.table.fold, self.table.label, strict=True)
        digest = hashlib.sha256("\n".join(f"{path}\t{fold}\t{label}" for path, fold, label in rows).encode())
        for row in self.table.index:
            digest.update(images[row])
        return digest.hexdigest()

    def training_fingerprint(self, data_fingerprint):
        """A SHA-256 of the fingerprint of all faces and the paths of these, in order."""
        return hashlib.sha256("\n".join([data_fingerprint, *self.table.path]).encode()).hexdigest()
