"""The table of faces, together with their classes."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from utils.classes import Classes


@dataclass(frozen=True, eq=False)
class Faces:
    """Labelled faces.

    Attributes:
        table: one row per face with the columns path (below the image directory), label (0 to K-1), fold, person,
            album, gender, yaw (degrees), score, and the file and line that the label comes from. Its index is the row
            of each face in the cache. Further columns serve for subgroups.
        classes: the K Classes.
        folds_drawn: whether the folds were drawn at random, because the data set has none.
    """

    table: pd.DataFrame
    classes: Classes
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
        """Series (N,) of "album/person", which tells people apart across data sets that number them alike."""
        return self.table.album + "/" + self.table.person

    def fingerprint(self, pixels_sha256):
        """A SHA-256 of paths, people, folds, labels and pixels.

        Args:
            pixels_sha256: the checksum of the cached images.
        """
        columns = [self.table.path, self.people, self.table.fold, self.table.label]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [f"{path}\t{person}\t{fold}\t{label}" for path, person, fold, label in rows]
        return hashlib.sha256("\n".join([pixels_sha256, *lines]).encode()).hexdigest()
