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
            of each face in the cache. Further columns serve for subgroups; of these `age` is the age in years, NaN
            where it is not known, `first_year` and `last_year` are learned in its place, and `split` is "train", "val"
            or "test" where the data set has a fixed split.
        classes: the K Classes.
        folds_drawn: whether the folds were drawn at random, because the data set has none.
        labels_are_ages: whether the labels follow from the ages; otherwise a label says its class's years only.
    """

    table: pd.DataFrame
    classes: Classes
    folds_drawn: bool = False
    labels_are_ages: bool = False

    def __len__(self):
        return len(self.table)

    def where(self, mask):
        """The faces for which the boolean mask (N,) is true; they keep their index."""
        return replace(self, table=self.table[mask])

    def coarse(self):
        """These faces by decade where the classes are too many years for a table, otherwise unchanged."""
        classes = self.classes.coarse()
        if classes is self.classes:
            return self
        return replace(self, table=self.table.assign(label=self.classes.within(classes)[self.labels]), classes=classes)

    @property
    def labels(self):
        """int64 array (N,)."""
        return self.table.label.to_numpy(np.int64)

    @property
    def people(self):
        """Series (N,) of "album/person", which tells people apart across data sets that number them alike."""
        return self.table.album + "/" + self.table.person

    @property
    def ages(self):
        """Float64 array (N,) in completed years, NaN where an age is not known."""
        return self.table.age.to_numpy(float) if "age" in self.table else np.full(len(self), np.nan)

    @property
    def intervals(self):
        """Float32 (N, 2): the first and the last year that each face's age may have, both included.

        These are equal for a known age that is also the label, and otherwise the years of the label's class; infinity
        ends an open class. NaN where the classes are not ages. Columns of the data set replace them.
        """
        if "first_year" in self.table:
            return self.table[["first_year", "last_year"]].to_numpy(np.float32)
        if self.classes.years is None:
            return np.full((len(self), 2), np.nan, np.float32)
        found = np.array(self.classes.years, np.float32)[self.labels]
        if self.labels_are_ages:
            known = ~np.isnan(self.ages)
            found[known] = np.floor(self.ages[known, None])
        return found

    def fingerprint(self, pixels_sha256):
        """A SHA-256 of paths, people, folds, labels and pixels.

        Args:
            pixels_sha256: the checksum of the cached images.
        """
        columns = [self.table.path, self.people, self.table.fold, self.table.label]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [f"{path}\t{person}\t{fold}\t{label}" for path, person, fold, label in rows]
        if self.labels_are_ages:
            lines += map(str, [*self.ages.tolist(), *self.intervals.tolist()])
        return hashlib.sha256("\n".join([pixels_sha256, *lines]).encode()).hexdigest()
